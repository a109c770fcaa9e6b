"""An MLP z -> p(x|z) that is injective by construction: no two z give the same p(x|z)."""

import math
from collections.abc import Sequence

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_skipvae.blocks import LatentDim, check_event, check_sizes, latent_shape
from pyro_skipvae.likelihoods import Likelihood, bernoulli
from pyro_skipvae.skip import Skip, skip_entries


class ConvexGradient(nn.Module):
    """The gradient of a strictly convex network: a Brenier map R^N -> R^N, which is injective.

        phi(h) = sum_j a_j (softplus(u_j) - u_j / 2) + sum_i e_i h_i^2 / 2,   u = W h + b,   a, e > 0
        grad phi(h) = W' (a (sigmoid(u) - 1/2)) + e h

    h (..., N) -> (..., N). Its Jacobian W' diag(a s (1 - s)) W + diag(e) is symmetric and positive definite everywhere.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, width)
        self.raw_slopes, self.raw_diagonal = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(size))

    def forward(self, h: Tensor) -> Tensor:
        gates = F.softplus(self.raw_slopes) * (self.hidden(h).sigmoid() - 0.5)
        return gates @ self.hidden.weight + F.softplus(self.raw_diagonal) * h


class IdentifiableMLPDecoder(nn.Module):
    """An MLP z (..., D) -> p(x|z), batch (...), that is injective: no two z have the same p(x|z).

        eta = g(Q f_L(... f_1(z))) + c,   f_l: R^D -> R^D and g: R^E -> R^E (`ConvexGradient`, `width` units),   Q'Q = I

    L = `layers`, and E is the number of natural parameters. p(x|z) depends on all of z; how strongly is learned. This alone
    does not prevent collapse, since the rate costs as much as before. A sequence z (..., T, C) is read as one vector. Raises
    ValueError for skips, with which it would not stay injective, and for D > E.

    Reference: Wang, Blei, Cunningham 2021, "Posterior Collapse and Latent Variable Non-identifiability", section 3.
    """

    def __init__(
        self,
        latent_dim: LatentDim,
        event_shape: Sequence[int],
        *,
        layers: int = 2,
        width: int = 512,
        skip: Skip = "none",
        likelihood: Likelihood = bernoulli,
    ) -> None:
        super().__init__()
        check_sizes(0, layers=layers)
        check_sizes(width=width)
        check_event(event_shape)
        if skip_entries(skip, layers):
            raise ValueError(f"expected skip='none' for a decoder that is to stay injective, got {skip!r}")
        self.event_shape, self.likelihood = tuple(event_shape), likelihood
        self.latent_shape = latent_shape(latent_dim)
        dimensions, outputs = math.prod(self.latent_shape), math.prod(event_shape) * likelihood.parameters
        if dimensions > outputs:
            raise ValueError(f"expected at most {outputs} dimensions of z, as many as p(x|z) has parameters, got {dimensions}")
        self.observation = likelihood.module
        self.maps = nn.Sequential(*(ConvexGradient(dimensions, width) for _ in range(layers)))
        self.basis = nn.Parameter(torch.randn(outputs, dimensions))
        self.last, self.bias = ConvexGradient(outputs, width), nn.Parameter(torch.zeros(outputs))

    def forward(self, z: Tensor) -> Distribution:
        Q, triangle = torch.linalg.qr(self.basis)
        Q = Q * triangle.diagonal().sign()  # else a column turns round where an entry passes through 0 in training
        eta = self.last(self.maps(z.flatten(-len(self.latent_shape))) @ Q.T) + self.bias
        eta = eta.reshape(*eta.shape[:-1], *self.event_shape, self.likelihood.parameters)
        return self.likelihood(eta, len(self.event_shape))
