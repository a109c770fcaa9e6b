"""Variational Laplace: a normal at the mode of the posterior, with the curvature there, found by a few linearised steps."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.distributions.wrapped import innermost

STEPS = 4


class VariationalLaplace:
    """The guide q(z|x) = N(m, beta (J' W J + beta I)^-1) of a VAE with a N(0, I) prior: a normal at the mode of the posterior.

    At a beta other than 1 that is the posterior p(z) p(x|z)^(1 / beta), at which the ELBO with weight beta is largest.

        m <- m + (J' W J + beta I)^-1 (J' r - beta m) / t,   t = 1, ..., `steps`

    m (B, D) starts at the mean of the encoder's posterior, whose scale is not used. J (E, D) is the derivative of the decoder's
    output: of the logits of Bernoullis, with W = p (1 - p) and r = x - p, or of the means of normals, with W = 1 / sigma^2 and
    r = W (x - mean). For normals with a fixed scale and a decoder that is linear in z, one step gives the exact posterior.
    Gradients go through all steps. Cost: each step, and the curvature at the end, run the decoder for D tangents.

    Called as (x, beta=1.0), it samples the site "z" in the plate "data". The prior is not read: with another one than N(0, I)
    this is a guide all the same, but not at the mode. Raises ValueError for fewer than 1 step, and, when called, for a p(x|z)
    that is neither of Bernoullis nor of normals.

    Reference: Park, Kim, Kim 2019, "Variational Laplace Autoencoders", equations 7 to 12.
    """

    def __init__(self, vae: Any, *, steps: int = STEPS) -> None:
        check_sizes(steps=steps)
        self.vae, self.steps = vae, steps

    def __call__(self, x: Tensor, beta: float | Tensor = 1.0) -> Tensor:
        pyro.module("encoder", self.vae.encoder)
        with pyro.plate("data", len(x)):
            q = self.posterior(x, beta)
            with poutine.scale(scale=beta):
                z: Tensor = pyro.sample("z", q)
        return z

    def posterior(self, x: Tensor, beta: float | Tensor = 1.0) -> Any:
        """q(z|x) of the rows of x, batch (B,), event (D,). A gradient of beta, by which a step reads the rate, is not of q."""
        beta = beta.detach() if isinstance(beta, Tensor) else beta
        mode = self.vae.encoder(x).mean
        for step in range(1, self.steps + 1):
            precision, gradient = self._linearised(mode, x, beta)
            mode = mode + torch.cholesky_solve(gradient[..., None], torch.linalg.cholesky(precision))[..., 0] / step
        precision, _ = self._linearised(mode, x, beta)
        return dist.MultivariateNormal(mode, precision_matrix=precision / beta)

    def _linearised(self, z: Tensor, x: Tensor, beta: float | Tensor) -> tuple[Tensor, Tensor]:
        """J' W J + beta I, (B, D, D), and the gradient of the log-density, (B, D), at z (B, D)."""
        x = x.flatten(1)
        D = z.shape[1]

        def tangent(direction: Tensor) -> Any:
            return torch.func.jvp(lambda at: _natural(self.vae.decoder(at))[0], (z,), (direction.expand_as(z),))[1]

        J = torch.func.vmap(tangent)(torch.eye(D, dtype=z.dtype, device=z.device))  # (D, B, E)
        eta, scale = _natural(self.vae.decoder(z))
        if scale is None:
            mean = eta.sigmoid()
            weight, residual = mean * (1 - mean), x - mean
        else:
            weight = scale**-2
            residual = weight * (x - eta)
        precision = torch.einsum("dbe,be,cbe->bdc", J, weight, J)
        eye = torch.eye(D, dtype=z.dtype, device=z.device)
        return precision + beta * eye, torch.einsum("dbe,be->bd", J, residual) - beta * z


def _natural(p: Any) -> tuple[Tensor, Tensor | None]:
    """The logits of Bernoullis, and None; or means and scales of normals: each (B, E)."""
    p = innermost(p)
    if isinstance(p, dist.Bernoulli):
        return p.logits.flatten(1), None
    if isinstance(p, dist.Normal):
        return p.loc.flatten(1), p.scale.expand(p.loc.shape).flatten(1)
    raise ValueError(f"expected p(x|z) of Bernoullis or normals for variational Laplace, got {type(p).__name__}")
