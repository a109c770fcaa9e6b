"""Posteriors beyond the plain one: families of q(z|x), and guides whose local parameters are refined at each datapoint.

A family is a module `features (B, F) -> Distribution` with batch (B,) and event (D,), given to an encoder as `posterior=`.
`SemiAmortized` makes a refined guide of any guide.
"""

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.transforms import conditional_affine_autoregressive
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import nn

from pyro_skipvae.objectives import weighted
from pyro_skipvae.refinement import GRADIENTS, Bound, Descent, guide_parameters, latent_site, without_gradient


class DiagonalNormal(nn.Module):
    """q(z|x) = N(loc, diag(scale^2)), with log scale^2 linear in the features."""

    def __init__(self, features, latent_dim):
        super().__init__()
        self.parameters_of = nn.Linear(features, 2 * latent_dim)

    def forward(self, features):
        loc, log_variance = self.parameters_of(features).chunk(2, dim=-1)
        return dist.Normal(loc, (log_variance / 2).exp()).to_event(1)


class FullCovarianceNormal(nn.Module):
    """q(z|x) = N(loc, L L'), L lower triangular with a positive diagonal: (D (D + 3)) / 2 numbers per datapoint."""

    def __init__(self, features, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim
        self.parameters_of = nn.Linear(features, latent_dim * (latent_dim + 3) // 2)

    def forward(self, features):
        D = self.latent_dim
        loc, log_variance, below = self.parameters_of(features).split([D, D, D * (D - 1) // 2], dim=-1)
        scale_tril = torch.diag_embed((log_variance / 2).exp())  # (B, D, D)
        rows, columns = torch.tril_indices(D, D, offset=-1)
        scale_tril[..., rows, columns] = below
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class InverseAutoregressiveFlow(nn.Module):
    """q(z|x): a diagonal normal pushed through Pyro's inverse autoregressive flows, each reading the features.

    The density of a draw of its own costs one pass (Pyro caches the inverse); that of any other z costs D passes.

    Reference: Kingma et al. 2016.
    """

    def __init__(self, features, latent_dim, *, flows=2, hidden=128):
        super().__init__()
        self.base = DiagonalNormal(features, latent_dim)
        self.flows = nn.ModuleList(
            conditional_affine_autoregressive(latent_dim, features, hidden_dims=[hidden], stable=True) for _ in range(flows)
        )

    def forward(self, features):
        flows = [flow.condition(features) for flow in self.flows]
        return dist.TransformedDistribution(self.base(features), flows)


class SemiAmortized:
    """A guide that starts from the local parameters of another one and refines them by gradient steps on the ELBO.

        lambda_0 = guide(x);  v_(k+1) = momentum v_k - grad f(lambda_k);  lambda_(k+1) = lambda_k + lr v_(k+1);  z ~ q_lambda_K

    f is -ELBO of the model, summed over the batch, at the `beta` of the call, with fresh noise in each of the `steps`; lr is
    per datapoint, on the unconstrained local parameters (`pyro_skipvae.local_parameters`): loc and log scale^2 of a normal.
    `gradient` says how the outer objective's gradient passes the loop: "exact" (the loop stays in the graph),
    "exact-rebuilt" (the same in memory that does not grow with the steps), "finite-difference" (Kim et al.'s, with a
    normalised step), "first-order" (d lambda_K / d lambda_0 = 1), "authors" (their clipping, see `refinement.authors`).
    `start="zeros"` starts from zeros instead of the guide: stochastic variational inference without an encoder.

    It is called like a guide, `(x, *context, beta=1.0)`, and trained by SVI with any objective. Where gradients are off it
    refines all the same and keeps nothing. Raises ValueError for a guide or a family that cannot be refined.

    Reference: Kim, Wiseman, Miller, Sontag, Rush 2018.
    """

    def __init__(self, model, guide, *, steps=10, lr=1 / 32, momentum=0.5, gradient="exact", start="amortized"):
        if isinstance(poutine.unwrap(guide), AutoGuide | Messenger):
            raise ValueError(f"expected an amortized guide of x to refine, got {type(guide).__name__}")
        if gradient not in GRADIENTS or start not in ("amortized", "zeros"):
            raise ValueError(
                f"expected gradient to be one of {sorted(GRADIENTS)} and start amortized or zeros, got {gradient!r}, {start!r}"
            )
        if steps < 0 or not lr > 0 or not 0 <= momentum < 1:
            raise ValueError(f"expected steps >= 0, lr > 0 and momentum in [0, 1), got {steps}, {lr} and {momentum}")
        self.model, self.amortized, self.steps, self.lr, self.momentum = model, guide, steps, lr, momentum
        self.gradient, self.start = gradient, start

    @property
    def __self__(self):
        """The module that owns the amortized guide, as for a bound method: who switches modes finds it there."""
        return getattr(self.amortized, "__self__", self.amortized)

    def __call__(self, x, *context, beta=1.0):
        _, guide = weighted(self.model, self.amortized, beta)
        if self.steps == 0 and self.start == "amortized":
            return guide(x, *context)
        name, q = self._refined(x, context, beta)
        draw = _Replaced(name, q, differentiable=torch.is_grad_enabled())
        with torch.no_grad(), draw:  # for plates, scales and parameters: the graph of the encoder's second pass is not needed
            return guide(x, *context)

    def refine(self, x, *context, beta=1.0, noise=None):
        """The refined q(z|x), batch (B,). `noise` is one tensor like z for each step, else drawn from the global generator."""
        return self._refined(x, context, beta, noise)[1]

    def _refined(self, x, context, beta, noise=None):
        """The name of the latent site, and the refined q: before any plate of the outer guide opens, and hidden from it."""
        model, guide = weighted(self.model, self.amortized, beta)
        learning, authors = torch.is_grad_enabled(), self.gradient == "authors"
        with torch.inference_mode(False), torch.set_grad_enabled(learning):
            arguments = tuple(map(_ordinary, (x, *context)))
            with poutine.block():
                trace = poutine.trace(guide).get_trace(*arguments)
            bound = Bound(model, arguments, latent_site(trace), guide_parameters(trace), mean=authors)
            start = bound.family.values if self.start == "amortized" else tuple(map(torch.zeros_like, bound.family.values))
            noise = [bound.family.noise() for _ in range(self.steps)] if noise is None else noise
            descent = Descent(self.lr, self.momentum, clip=5.0 if authors else None)
            method = GRADIENTS[self.gradient] if learning else without_gradient
            return bound.site["name"], bound.family.distribution(method(bound, start, noise, descent))


class _Replaced(Messenger):
    """Gives a latent site another distribution, and its draw a gradient though the guide around it runs without."""

    def __init__(self, name, q, *, differentiable):
        super().__init__()
        self.name, self.q, self.differentiable = name, q, differentiable

    def _pyro_sample(self, message):
        if message["name"] == self.name:
            message["fn"] = self.q
            torch.set_grad_enabled(self.differentiable)

    def _pyro_post_sample(self, message):
        if message["name"] == self.name:
            torch.set_grad_enabled(False)


def _ordinary(argument):
    """A tensor made in inference mode as one that autograd may use."""
    return argument.clone() if isinstance(argument, torch.Tensor) and argument.is_inference() else argument
