"""Objectives: (model, guide, x, beta=1.0) -> loss in nats, summed over the batch, differentiable."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from inspect import Parameter, signature
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import ExpandedDistribution
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.util import check_fully_reparametrized, is_validation_enabled, torch_item
from torch import Tensor, nn
from torch.distributions import Independent, kl_divergence

from pyro_skipvae.distributions.ar1 import AR1, normal_factors, rate_per_step
from pyro_skipvae.schedules import constant, cyclical, linear  # noqa: F401  scripts import them from here too

Objective = Callable[..., Tensor]
Batch = Tensor | tuple[Any, ...]


def elbo(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
    """The negative ELBO by Monte Carlo, one z per datapoint (Pyro's Trace_ELBO): nats summed over the batch, a tensor ().

        -ELBO = -sum_x E_q[log p(x|z) + beta (log p(z) - log q(z|x))]

    x is a tensor (B, ...) or a tuple of them. Raises ValueError if beta is not 1 and not both callables take it.

    Reference: Dieng et al. 2019, equation 2.
    """
    return _TraceELBO().differentiable_loss(*weighted(model, guide, beta), *as_arguments(x))


def analytic_elbo(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
    """The same with KL(q(z|x) || p(z)) in closed form where Pyro has one (Pyro's TraceMeanField_ELBO).

        -ELBO = -sum_x (E_q[log p(x|z)] - beta KL(q(z|x) || p(z)))

    x, the nats, what is raised and the reference are those of `elbo`.
    """
    return _MeanFieldELBO().differentiable_loss(*weighted(model, guide, beta), *as_arguments(x))


class _TraceELBO(Trace_ELBO):
    """Pyro's, with its sums left on the device: the same numbers and gradients bit for bit, and no wait in a step."""

    def differentiable_loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        model_trace, guide_trace = next(self._get_traces(model, guide, args, kwargs))
        drawn = [site for _, site in _sites(guide_trace)]
        if not all(is_identically_zero(site["score_parts"].score_function) for site in drawn):
            loss, surrogate = self._differentiable_loss_particle(model_trace, guide_trace)
            return loss + (surrogate - torch_item(surrogate))
        terms = [site["log_prob_sum"] for _, site in _sites(model_trace)]
        entropies = [site["score_parts"].entropy_term for site in drawn]
        surrogate = sum(terms) - sum(e.sum() for e in entropies if not is_identically_zero(e))
        # Pyro sums numbers of Python, which have double precision.
        value = sum(term.double() for term in terms) - sum(site["log_prob_sum"].double() for site in drawn)
        return -(value.detach().to(surrogate.dtype) + (surrogate - surrogate.detach()))


class _MeanFieldELBO(TraceMeanField_ELBO):
    """Pyro's in the same manner; its own makes a number of the sum beside the tensor."""

    def differentiable_loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        model_trace, guide_trace = next(self._get_traces(model, guide, args, kwargs))
        latents: dict[str, Any] = dict(_sites(guide_trace))
        if is_validation_enabled():
            for site in latents.values():
                check_fully_reparametrized(site)
        elbo: Any = 0
        for name, site in _sites(model_trace):
            elbo = elbo + site["log_prob_sum"] if site["is_observed"] else elbo - _kl_sum(latents.pop(name), site)
        return sum(site["score_parts"].entropy_term.sum() for site in latents.values()) - elbo  # auxiliary sites are left


def _kl_sum(guide_site: dict[str, Any], model_site: dict[str, Any]) -> Tensor:
    """The weighed KL of a site, in closed form or from its draw."""
    try:
        kl = kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        return guide_site["score_parts"].entropy_term.sum() - model_site["log_prob_sum"]
    if not isinstance(kl, Tensor):  # a number for each row
        return torch.as_tensor(kl * guide_site["fn"].batch_shape.numel())
    total: Tensor = scale_and_mask(kl, scale=guide_site["scale"], mask=guide_site["mask"]).sum()
    return total


def iwae(particles: int) -> Objective:
    """The importance-weighted bound with K = `particles` draws per datapoint, as an objective.

        -L_K = -sum_x log 1/K sum_k p(x|z_k) (p(z_k) / q(z_k|x))^beta,  z_k ~ q(z|x)

    At beta = 1, L_1 is the ELBO and L_K rises to log p(x) with K; at another beta it need not bound log p(x). The
    objective's nats are summed over the batch, a tensor (); it raises what `elbo` does, and ValueError for a site outside the
    one data plate (dim=-1), which would be counted for each row, for a z whose gradient would be wrong, since it is not
    reparameterised, or a plate that stands for more points.

    Reference: Burda, Grosse, Salakhutdinov 2016, equation 8.
    """

    def objective(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
        plate = pyro.plate("particles", particles, dim=-2)
        model, guide = (plate(callable_) for callable_ in weighted(model, guide, beta))
        guide_trace = poutine.trace(guide).get_trace(*as_arguments(x))
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*as_arguments(x))
        _check_draws(guide_trace)
        _check_rows(model_trace, guide_trace)
        log_weights = _site_log_probs(model_trace) - _site_log_probs(guide_trace)  # (K, B)
        return -(log_weights.logsumexp(0) - math.log(particles)).sum()

    return objective


def free_bits_per_group(nats: float) -> Objective:
    """Free bits on the batch's mean: a dimension costs at least `nats`, however the points share them.

        -E_q log p(x|z) summed over the batch + B beta sum_d max(nats, 1/B sum_x KL_xd)

    KL_xd is that of dimension d of q(z|x), (step and channel of a sequence: what it adds to the rate). Under the floor its
    gradient is 0. The value is no bound: report the plain ELBO. The objective raises ValueError for a pair with other than one
    latent site, or whose KL is not one per dimension in closed form; a floor below 0, or not finite, is refused here.

    Reference: Kingma et al. 2016 (inverse autoregressive flow), on free bits; here each dimension is a group.
    """
    return _free_bits(nats, lambda kl: len(kl) * kl.mean(0).clamp(min=nats).sum())


def free_bits_per_dimension(nats: float) -> Objective:
    """Free bits of each datapoint and dimension: -E_q log p(x|z) + beta sum_xd max(nats, KL_xd), summed over the batch.

    The rest is as in `free_bits_per_group`. Reference: Li et al. 2019, whose code leaves out KL_xd where it is below the
    floor: the same gradient, a smaller value.
    """
    return _free_bits(nats, lambda kl: kl.clamp(min=nats).sum())


def free_bits_total(nats: float) -> Objective:
    """Free bits of each datapoint in total: -E_q log p(x|z) + beta sum_x max(nats, sum_d KL_xd), summed over the batch.

    The rest is as in `free_bits_per_group`.
    """
    return _free_bits(nats, lambda kl: kl.sum(1).clamp(min=nats).sum())


def _free_bits(nats: float, floored: Callable[[Tensor], Tensor]) -> Objective:
    if not 0 <= nats < math.inf:
        raise ValueError(f"expected free bits of at least 0 nats, got {nats}")

    def objective(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
        guide_trace = poutine.trace(guide).get_trace(*as_arguments(x))
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*as_arguments(x))
        latents = [name for name, site in _sites(model_trace) if not site["is_observed"]]
        if len(latents) != 1:
            raise ValueError(f"expected one latent site for free bits, got {latents}")
        model_trace.compute_log_prob()
        fit = sum(site["log_prob_sum"] for _, site in _sites(model_trace) if site["is_observed"])
        site: Any = guide_trace.nodes[latents[0]]
        kl = _rate_per_dimension(site["fn"], model_trace.nodes[latents[0]]["fn"])
        return beta * plate_scale(site) * floored(kl) - fit

    return objective


def _rate_per_dimension(q: Any, p: Any) -> Tensor:
    """KL of each row and dimension, (B, D). Raises ValueError where that has no closed form."""
    if isinstance(p, AR1) and (found := normal_factors(q)):
        return rate_per_step(*found, p).flatten(1)
    while isinstance(q, Independent | ExpandedDistribution):
        q = q.base_dist
    while isinstance(p, Independent | ExpandedDistribution):
        p = p.base_dist
    if not q.event_shape and not p.event_shape and q.batch_shape:
        try:
            return kl_divergence(q, p).expand(q.batch_shape)[..., None].flatten(1)
        except NotImplementedError:
            pass
    names = f"{type(q).__name__} and {type(p).__name__}"
    raise ValueError(f"expected q(z|x) and p(z) with a KL for each dimension in closed form for free bits, got {names}")


def _check_draws(trace: Any) -> None:
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"] or type(site["fn"]).__name__ == "_Subsample":
            continue
        if not site["fn"].has_rsample:
            raise ValueError(f"expected a reparameterised q({name}|x), got {type(site['fn']).__name__}; use elbo")
        if plate_scale(site) != 1:
            raise ValueError(f"expected a plate of the batch alone around {name}, got one of more points; use elbo")


def _check_rows(*traces: Any) -> None:
    for name, site in ((name, site) for trace in traces for name, site in _sites(trace)):
        rows = [frame.size for frame in site["cond_indep_stack"] if frame.vectorized and frame.dim == -1]
        shape = site["fn"].batch_shape
        if not rows or len(shape) > 2 or (len(shape) and shape[-1] != rows[0]):
            raise ValueError(
                f"expected every site in one data plate (dim=-1), a row for each datapoint, got {name} outside of it; use elbo"
            )


def _site_log_probs(trace: Any) -> Tensor:
    trace.compute_log_prob()
    return sum(site["log_prob"] for _, site in _sites(trace))


def _sites(trace: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, site) of what is sampled, without subsamples and `pyro.deterministic`."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site) and not site["infer"].get("_deterministic"):
            yield name, site


def plate_scale(site: dict[str, Any]) -> float:
    """How many points each row of a site stands for: N/B where a plate of N holds B of them, else 1."""
    frames = (frame for frame in site["cond_indep_stack"] if frame.full_size is not None)
    return math.prod(frame.full_size / frame.size for frame in frames)


def as_arguments(x: Batch) -> tuple[Any, ...]:
    """x as the positional arguments of a model: a tuple as it is, a tensor alone."""
    return x if isinstance(x, tuple) else (x,)


def weighted(
    model: Callable[..., Any], guide: Callable[..., Any], beta: float
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Model and guide with their `beta` set, where they take one. Raises ValueError unless both do, or beta is 1.

    With one alone only log p(z), or only log q(z|x), would be weighed.
    """
    takes = {"model": _takes_beta(model), "guide": _takes_beta(guide)}
    if not all(takes.values()) and (isinstance(beta, Tensor) or beta != 1.0):
        lacking = " and a ".join(name for name, taken in takes.items() if not taken)
        raise ValueError(
            f"expected a model and a guide with an argument beta each to use beta={beta}, got a {lacking} without one; "
            "let each weigh its latent site by it, as pyro_skipvae.VAE does"
        )
    weighed = (partial(each, beta=beta) if takes[name] else each for name, each in (("model", model), ("guide", guide)))
    return next(weighed), next(weighed)


def _takes_beta(callable_: Callable[..., Any]) -> bool:
    # What a module takes is what its forward takes; __call__ takes anything.
    parameter = signature(callable_.forward if isinstance(callable_, nn.Module) else callable_).parameters.get("beta")
    return parameter is not None and parameter.kind is not Parameter.VAR_KEYWORD
