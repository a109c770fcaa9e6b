"""Objectives: (model, guide, x, beta=1.0) -> loss in nats, summed over the batch, differentiable; and schedules of beta."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature

import pyro
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO


def elbo(model, guide, x, beta=1.0):
    """The negative ELBO by Monte Carlo, one z per datapoint (Pyro's Trace_ELBO).

        -ELBO = -E_q[log p(x|z) + beta (log p(z) - log q(z|x))]

    x is a tensor (B, ...) or a tuple of them. Raises ValueError if beta is not 1 and neither callable takes it.

    Reference: Dieng et al. 2019, equation 2.
    """
    return Trace_ELBO().differentiable_loss(*weighted(model, guide, beta), *as_arguments(x))


def analytic_elbo(model, guide, x, beta=1.0):
    """The same with KL(q(z|x) || p(z)) in closed form where Pyro has one (Pyro's TraceMeanField_ELBO)."""
    return TraceMeanField_ELBO().differentiable_loss(*weighted(model, guide, beta), *as_arguments(x))


def iwae(particles):
    """The importance-weighted bound with K = `particles` draws per datapoint, as an objective.

        -L_K = -sum_x log 1/K sum_k p(x, z_k) / q(z_k|x),  z_k ~ q(z|x)

    L_1 is the ELBO; L_K rises to log p(x) with K. All sites must lie in the one data plate.

    Reference: Burda, Grosse, Salakhutdinov 2016, equation 8.
    """

    def objective(model, guide, x, beta=1.0):
        plate = pyro.plate("particles", particles, dim=-2)
        model, guide = (plate(callable_) for callable_ in weighted(model, guide, beta))
        guide_trace = poutine.trace(guide).get_trace(*as_arguments(x))
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*as_arguments(x))
        log_weights = _site_log_probs(model_trace) - _site_log_probs(guide_trace)  # (K, B)
        return -(log_weights.logsumexp(0) - math.log(particles)).sum()

    return objective


def _site_log_probs(trace):
    trace.compute_log_prob()
    return sum(
        site["log_prob"]
        for site in trace.nodes.values()
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site)
    )


def as_arguments(x):
    """x as the positional arguments of a model: a tuple as it is, a tensor alone."""
    return x if isinstance(x, tuple) else (x,)


def weighted(model, guide, beta):
    """Model and guide with their `beta` set, where they take one."""
    takers = [callable_ for callable_ in (model, guide) if _takes_beta(callable_)]
    if beta != 1.0 and not takers:
        raise ValueError(f"expected a model or a guide with an argument beta to use beta={beta}, got neither")
    return tuple(partial(callable_, beta=beta) if callable_ in takers else callable_ for callable_ in (model, guide))


def _takes_beta(callable_):
    parameter = signature(callable_).parameters.get("beta")
    return parameter is not None and parameter.kind is not Parameter.VAR_KEYWORD


@dataclass(frozen=True)
class Schedule:
    """A weight of the KL term as a function of the step; from step `reached` on it has its final value."""

    at: Callable[[int], float]
    reached: int = 0

    def __call__(self, step):
        return self.at(step)


def constant(beta=1.0):
    """beta at every step."""
    return Schedule(lambda step: _positive(beta))


def linear(start, final, steps):
    """From `start` to `final` in a straight line over `steps` steps, then `final` (Bowman et al. 2016).

    Pyro rejects a scale of zero, so both ends must be positive: start low, for example at 0.1.
    """
    _positive(min(start, final))
    return Schedule(lambda step: final + (start - final) * max(0.0, 1 - step / max(steps, 1)), steps)


def cyclical(start, final, steps, *, cycles=4, rising=0.5):
    """`cycles` equal cycles in `steps` steps: in each, a line up from `start` over the part `rising`, then `final`.

    After the last cycle it stays at `final`. Reference: Fu et al. 2019.
    """
    length = max(steps / cycles, 1)
    rise = linear(start, final, rising * length)
    return Schedule(lambda step: final if step >= steps else rise(step % length), steps)


def _positive(beta):
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"expected a positive weight beta (Pyro rejects a scale of zero), got {beta}")
    return beta

