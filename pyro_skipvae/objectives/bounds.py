"""Bounds on log p(x): the ELBO, by draws and in closed form, and the importance-weighted bound."""

import math
from collections.abc import Callable
from typing import Any

import pyro
from pyro import poutine
from pyro.distributions.util import is_identically_zero
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.util import check_fully_reparametrized, is_validation_enabled, torch_item
from torch import Tensor, is_grad_enabled

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.schedules import constant, cyclical, linear  # noqa: F401  scripts import them with the objectives

from .terms import Batch, Objective, as_arguments, check_reparameterised, kl_sum, plate_scale, sites, weighted


def elbo(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
    """The negative ELBO by Monte Carlo, one z per datapoint (Pyro's Trace_ELBO), in nats summed over the batch, a tensor ().

        -ELBO = -sum_x E_q[log p(x|z) + beta (log p(z) - log q(z|x))]

    x: a tensor (B, ...), or a tuple that is passed as `*x`. Raises ValueError where beta is not 1 and model or guide do not
    take it.

    Reference: Dieng et al. 2019, equation 2.
    """
    return _TraceELBO().differentiable_loss(*weighted(model, guide, beta), *as_arguments(x))


def analytic_elbo(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
    """The negative ELBO with the KL in closed form where Pyro has one (Pyro's TraceMeanField_ELBO), nats summed over the batch.

        -ELBO = -sum_x (E_q[log p(x|z)] - beta KL(q(z|x) || p(z)))

    It has less noise than `elbo`; x, what is raised and the reference are as there. Pyro also raises NotImplementedError for a
    z that is not reparameterised, while it validates inference.
    """
    return _MeanFieldELBO().differentiable_loss(*weighted(model, guide, beta), *as_arguments(x))


class _TraceELBO(Trace_ELBO):
    """Pyro's, with its sums left on the device: the same numbers and gradients bit for bit, and no wait in a step."""

    def differentiable_loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        model_trace, guide_trace = next(self._get_traces(model, guide, args, kwargs))
        drawn = [site for _, site in sites(guide_trace)]
        if not all(is_identically_zero(site["score_parts"].score_function) for site in drawn):
            loss, surrogate = self._differentiable_loss_particle(model_trace, guide_trace)
            return loss + (surrogate - torch_item(surrogate))
        terms = [site["log_prob_sum"] for _, site in sites(model_trace)]
        entropies = [site["score_parts"].entropy_term for site in drawn]
        surrogate = sum(terms) - sum(e.sum() for e in entropies if not is_identically_zero(e))
        # Pyro sums numbers of Python, which have double precision.
        value = sum(term.double() for term in terms) - sum(site["log_prob_sum"].double() for site in drawn)
        return -(value.detach().to(surrogate.dtype) + (surrogate - surrogate.detach()))


class _MeanFieldELBO(TraceMeanField_ELBO):
    """Pyro's in the same manner; its own makes a number of the sum beside the tensor."""

    def differentiable_loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        model_trace, guide_trace = next(self._get_traces(model, guide, args, kwargs))
        latents: dict[str, Any] = dict(sites(guide_trace))
        if is_validation_enabled() and is_grad_enabled():  # without a gradient any draw will do
            for site in latents.values():
                check_fully_reparametrized(site)
        elbo: Any = 0
        for name, site in sites(model_trace):
            elbo = elbo + site["log_prob_sum"] if site["is_observed"] else elbo - kl_sum(latents.pop(name), site)
        return sum(site["score_parts"].entropy_term.sum() for site in latents.values()) - elbo  # auxiliary sites are left


def iwae(particles: int) -> Objective:
    """The importance-weighted bound with K = `particles` draws per datapoint, as an objective in nats summed over the batch.

        -L_K = -sum_x log 1/K sum_k p(x|z_k) (p(z_k) / q(z_k|x))^beta,  z_k ~ q(z|x)

    At beta = 1, L_1 is the ELBO and L_K rises to log p(x) with K; at another beta it need not bound log p(x). Raises ValueError
    for a K below 1. The objective raises what `elbo` does, and ValueError for a site outside the one data plate (dim=-1), which
    would count for each row, for a z that is not reparameterised, whose gradient would be wrong, and for a plate that stands
    for more points than the batch.

    Reference: Burda, Grosse, Salakhutdinov 2016, equation 8.
    """

    check_sizes(particles=particles)

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


def _check_draws(trace: Any) -> None:
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"] or type(site["fn"]).__name__ == "_Subsample":
            continue
        check_reparameterised(site)
        if plate_scale(site) != 1:
            raise ValueError(f"expected a plate of the batch alone around {name}, got one of more points; use elbo")


def _check_rows(*traces: Any) -> None:
    for name, site in ((name, site) for trace in traces for name, site in sites(trace)):
        rows = [frame.size for frame in site["cond_indep_stack"] if frame.vectorized and frame.dim == -1]
        shape = site["fn"].batch_shape
        if not rows or len(shape) > 2 or (len(shape) and rows[0] not in (-1, shape[-1])):  # -1: a plate without a size
            raise ValueError(
                f"expected every site in one data plate (dim=-1), a row for each datapoint, got {name} outside of it; use elbo"
            )


def _site_log_probs(trace: Any) -> Tensor:
    trace.compute_log_prob()
    return sum(site["log_prob"] for _, site in sites(trace))
