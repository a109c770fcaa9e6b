"""Semi-amortized inference: a guide that refines the local parameters of another one at each datapoint."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.utils._pytree import tree_map

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.objectives import as_arguments, elbo, weighted

from .local_parameters import Values
from .recurrence import differentiable_recurrence
from .refinement import GRADIENTS, Bound, Descent, Method, check_independent, latent_sites, without_gradient

EncoderLoss = Callable[[Bound, Values, Values], Tensor]


class SemiAmortized(nn.Module):
    """A guide that refines the local parameters of another guide at each datapoint, by gradient steps on the ELBO.

        lambda_0 = guide(x);  v_(k+1) = momentum v_k - grad f(lambda_k);  lambda_(k+1) = lambda_k + lr v_(k+1);  z ~ q_lambda_K

    K = `steps`. f is the negative ELBO of the model, summed over the batch, at the `beta` of the call, with new noise in each
    step. lr is thus per datapoint, also in a plate with a scale of N/B. lambda are unconstrained
    (`pyro_skipvae.guides.local_parameters`): loc and log scale^2 of a normal.

    gradient: how the gradient of the outer objective passes the loop. "exact": the loop stays in the graph. "exact-rebuilt":
    the same gradient; only the steps' starts are stored, and each step is run again. "finite-difference": as in Kim et al.,
    with a normalised step. "first-order": with d lambda_K / d lambda_0 = 1. "authors": as in their code, where gradients are
    clipped and f is the mean over the B rows: an lr of B times the size makes the same steps. batch_size: the B of that mean,
    so that q(z|x) is the same whatever rows are beside x (None: the rows at hand). start: "amortized", or "zeros" for
    stochastic variational inference without an encoder.

    It is called like the guide, with its arguments and `beta` where that has one, and trained by SVI with any objective. A
    guide that is a module becomes a submodule. Where gradients are off it refines all the same, and keeps no graph.

    The guide has to sample its latent sites in a plate of the rows of x, each from a q(z|x) that depends on x alone and has a
    density and draws that can be differentiated twice in its own arguments. Several sites are refined together. Raises
    ValueError for unknown or impossible arguments, and, with the reason, for discrete families, mixtures, a Delta, a family in
    which one argument limits another (Uniform), flows whose transforms are networks or computed from x, AutoGuides and
    EasyGuides, and a `pyro.factor`; also where the steps diverge, while Pyro validates distributions.

    Reference: Kim, Wiseman, Miller, Sontag, Rush 2018.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        steps: int = 10,
        lr: float = 1 / 32,
        momentum: float = 0.5,
        gradient: str = "exact",
        start: str = "amortized",
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size is not None:
            check_sizes(batch_size=batch_size)
        if not callable(guide) or isinstance(poutine.unwrap(guide), AutoGuide | Messenger):
            raise ValueError(
                f"expected an amortized guide of x to refine, got {type(guide).__name__}, which has no q(z|x) of its own for "
                "each x: write a guide that samples z from what an encoder makes of x"
            )
        if gradient not in GRADIENTS or start not in ("amortized", "zeros"):
            raise ValueError(
                f"expected gradient to be one of {sorted(GRADIENTS)} and start amortized or zeros, got {gradient!r}, {start!r}"
            )
        if not isinstance(steps, int) or steps < 0 or not 0 < lr < math.inf or not 0 <= momentum < 1:
            raise ValueError(
                f"expected a whole number of steps >= 0, lr > 0 and momentum in [0, 1), got {steps}, {lr} and {momentum}"
            )
        self.shared = (model,)  # in a tuple, so that a model which is a module is no part of this one
        self.amortized, self.steps, self.lr, self.momentum = guide, steps, lr, momentum
        self.gradient, self.start, self.batch_size = gradient, start, batch_size

    @property
    def __self__(self) -> Any:
        """The module that owns the amortized guide, as for a bound method: who switches modes finds it there."""
        return getattr(self.amortized, "__self__", self.amortized)

    @property
    def model(self) -> Callable[..., Any]:
        """The model whose ELBO the refinement climbs."""
        return self.shared[0]

    def forward(self, x: Any, *context: Any, beta: float | None = None, **options: Any) -> Any:
        _, guide = self._weighted(beta)
        if self.steps == 0 and self.start == "amortized":
            return guide(x, *context, **options)
        bound, _, values = self.refinement(x, *context, beta=beta, **options)
        return refined_guide(guide, bound, values, beta=beta)(x, *context, **options)

    def refine(self, x: Any, *context: Any, beta: float | None = None, noise: Any = None, **options: Any) -> Any:
        """The refined q(z|x), batch (B,), or {name: q} for several latent sites.

        noise: one item for each step, for a normal a tensor with the shape of z (`LocalParameters.noise`); None draws it from
        the global generator. Raises ValueError for noise of another number or shape.
        """
        bound, _, values = self.refinement(x, *context, beta=beta, noise=noise, **options)
        return bound.family.distribution(values)

    def refinement(
        self,
        x: Any,
        *context: Any,
        beta: float | None = None,
        noise: Any = None,
        method: Method | None = None,
        **options: Any,
    ) -> tuple[Bound, Values, Values]:
        """(bound, lambda_0, lambda_K) of the rows of x, computed outside of any plate and hidden from all Pyro handlers.

        method: a function of `pyro_skipvae.guides.refinement` in place of the one that `gradient` names.
        """
        # The gradient of the weight, by which a step reads the rate, is that of the bound at the refined q(z|x).
        model, guide = self._weighted(beta.detach() if isinstance(beta, Tensor) else beta)
        learning, authors = torch.is_grad_enabled(), self.gradient == "authors"
        with torch.inference_mode(False), torch.set_grad_enabled(learning):
            arguments, options = tree_map(_outside_inference_mode, ((x, *context), options))
            with poutine.block():
                trace = poutine.trace(guide).get_trace(*arguments, **options)
            sites = latent_sites(trace)
            if len(sites) > 1:
                check_independent(partial(guide, *arguments, **options))
            bound = Bound(model, arguments, options, sites, mean=authors, batch_size=self.batch_size)
            _check_rows(bound, x)
            start = bound.family.values if self.start == "amortized" else tuple(map(torch.zeros_like, bound.family.values))
            noise = [bound.family.noise() for _ in range(self.steps)] if noise is None else noise
            _check_noise(noise, self.steps, bound.family.noise_shape)
            descent = Descent(self.lr, self.momentum, clip=5.0 if authors else None)
            method = method or (GRADIENTS[self.gradient] if learning else without_gradient)
            values = method(bound, start, noise, descent)
            if self.steps:
                bound.check(values)
            return bound, start, values

    def _weighted(self, beta: float | None) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Model and guide at this beta; at None as they are."""
        return (self.model, self.amortized) if beta is None else weighted(self.model, self.amortized, beta)


def _check_rows(bound: Bound, x: Any) -> None:
    for name, site in bound.sites.items():
        if not any(frame.vectorized for frame in site["cond_indep_stack"]):
            raise ValueError(
                f"expected a plate of the {len(x)} rows of x around {name!r}, got none: it has no local parameters"
            )
    for value in bound.family.values:
        if (rows := len(value)) != len(x):
            raise ValueError(
                f"expected local parameters for each of the {len(x)} rows of x, got those of {rows}: a plate that "
                "subsamples inside the guide draws other rows at each step. Pass the rows as x and use "
                "`pyro.plate('data', len(x))`, or `pyro.plate('data', N, subsample_size=len(x))` for the scale N/B"
            )


def _check_noise(noise: Sequence[Any], steps: int, shape: Any) -> None:
    if len(noise) != steps:
        raise ValueError(f"expected the noise of {steps} steps, got that of {len(noise)}")
    for part in noise:
        found = {name: tuple(each.shape) for name, each in part.items()} if isinstance(part, dict) else tuple(part.shape)
        expected = {name: tuple(each) for name, each in shape.items()} if isinstance(shape, dict) else tuple(shape)
        if found != expected:
            raise ValueError(f"expected noise like z in each step, {expected}, got {found}")


def refined_guide(
    guide: Callable[..., Any], bound: Bound, values: Values, beta: float | Tensor | None = None
) -> Callable[..., Any]:
    """The guide with its latent sites drawn from the local parameters `values`; plates, scales and parameters are its own.

    A `beta` that wants a gradient, which the guide's own scale lacks, is the one that the guide was weighed by.
    """
    unit = beta / beta.detach() if isinstance(beta, Tensor) and beta.requires_grad else None
    latent = _RefinedSites(bound.distributions(values), differentiable=torch.is_grad_enabled(), unit=unit)

    def refined(*arguments: Any, **options: Any) -> Any:
        with torch.no_grad(), latent:  # the graph of this second pass of the encoder is not needed
            return guide(*arguments, **options)

    return refined


def beside(encoder_loss: EncoderLoss, objective: Callable[..., Tensor] = elbo) -> Callable[..., Tensor]:
    """An objective that trains the decoder on the refined posterior held fixed, and the encoder on a loss of its own.

    It is called with a `SemiAmortized` guide; the decoder's part is `objective`, and the value returned is that alone.
    `encoder_loss` is `own_elbo` or `kl_to_refined`. The encoder's part gives no gradient to the decoder, nor the decoder's
    to the encoder, unless the prior itself reads the encoder (a VampPrior). Raises ValueError for an objective with parameters,
    which a step would not find here.

    Reference: Kim et al. 2018, section 5 (VAE+SVI, VAE+SVI+KL).
    """

    if isinstance(objective, nn.Module) and next(objective.parameters(), None) is not None:
        raise ValueError(f"expected an objective without parameters beside an encoder's loss, got {type(objective).__name__}")

    def both(model: Callable[..., Any], guide: SemiAmortized, x: Any, beta: float = 1.0) -> Tensor:
        bound, start, values = guide.refinement(*as_arguments(x), beta=beta, method=without_gradient)
        _, amortized = weighted(model, guide.amortized, beta)
        loss = objective(model, _ignoring_beta(refined_guide(amortized, bound, values, beta=beta)), x, beta)
        own = encoder_loss(bound, start, values)
        return loss + own - own.detach()

    return both


def _ignoring_beta(guide: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, beta: guide(*arguments)


def own_elbo(bound: Bound, start: Values, values: Values) -> Tensor:
    """A surrogate whose gradient, to the encoder alone, is that of -ELBO at the amortized posterior."""
    leaves, noise = tuple(value.detach().requires_grad_() for value in start), bound.family.noise()
    with torch.enable_grad(), bound.preserved_rng(), differentiable_recurrence(bound.device):
        gradients = torch.autograd.grad(bound(leaves, noise), leaves)
    parts = [(value * gradient).sum() for value, gradient in zip(start, gradients, strict=True)]
    return bound.divisor * torch.stack(parts).sum()


def kl_to_refined(bound: Bound, start: Values, values: Values) -> Tensor:
    """KL(q_0 || q_K) in nats, summed over the batch, q_K held fixed."""
    before, after = bound.distributions(start), bound.distributions(values)
    divergences = [kl_divergence(before[name], after[name]).sum() for name in before]
    return bound.plate_scale * torch.stack(divergences).sum()


# The variants of Kim et al. 2018 by name: what SemiAmortized is told, and the loss of the encoder to go `beside` the objective.
VARIANTS: dict[str, tuple[dict[str, Any], EncoderLoss | None]] = {
    "sa": ({}, None),
    "svi": ({"start": "zeros", "gradient": "first-order"}, None),
    "vae+svi": ({}, own_elbo),
    "vae+svi+kl": ({}, kl_to_refined),
}


class _RefinedSites(Messenger):
    """Gives latent sites other distributions, and their draws a gradient though the guide around them runs without."""

    def __init__(self, distributions: dict[str, Any], *, differentiable: bool, unit: Tensor | None = None) -> None:
        super().__init__()
        self.distributions, self.differentiable, self.unit = distributions, differentiable, unit

    def _pyro_sample(self, message: Any) -> None:
        if message["name"] in self.distributions:
            message["fn"] = self.distributions[message["name"]]
            torch.set_grad_enabled(self.differentiable)
            if self.unit is not None:  # 1, with a gradient
                message["scale"] = message["scale"] * self.unit

    def _pyro_post_sample(self, message: Any) -> None:
        if message["name"] in self.distributions:
            torch.set_grad_enabled(False)


def _outside_inference_mode(argument: Any) -> Any:
    """A tensor made in inference mode as one that autograd may use."""
    return argument.clone() if isinstance(argument, torch.Tensor) and argument.is_inference() else argument
