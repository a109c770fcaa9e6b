"""What objectives are made of: the sites of a pair, the KL of one, and the weight beta of the latent terms."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from inspect import Parameter, signature
from types import FunctionType
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor, nn
from torch.distributions import kl_divergence

Objective = Callable[..., Tensor]
Batch = Tensor | tuple[Any, ...] | list[Any]


class Terms(NamedTuple):
    """A draw of a pair with one latent site: log p(x|z) summed over the batch, the site in the guide, and in the model."""

    fit: Tensor
    q: Any
    p: Any


def terms(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, what: str, beta: float | Tensor) -> Terms:
    """The `Terms` of one draw, unweighed; `what` asks for them, and weighs them by `beta`.

    Raises ValueError for other than one latent site, a guide with a factor, which would not count, draws without a derivative
    where a gradient is wanted, and a beta that is no number.
    """
    check_beta(beta)
    guide_trace = poutine.trace(guide).get_trace(*as_arguments(x))
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*as_arguments(x))
    latents = [name for name, site in sites(model_trace) if not site["is_observed"]]
    if len(latents) != 1:
        raise ValueError(f"expected one latent site for {what}, got {latents}")
    if factors := [name for name, site in sites(guide_trace) if site["is_observed"]]:
        raise ValueError(f"expected a guide without factors and observed sites for {what}, got {factors}: elbo counts them")
    if torch.is_grad_enabled():  # without a gradient any draw will do
        check_reparameterised(guide_trace.nodes[latents[0]])
    model_trace.compute_log_prob()
    fit = sum(site["log_prob_sum"] for _, site in sites(model_trace) if site["is_observed"])
    return Terms(fit, guide_trace.nodes[latents[0]], model_trace.nodes[latents[0]])


def check_beta(beta: float | Tensor) -> None:
    """Raises ValueError for a tensor with dimensions: a second argument of the model, given beside x and not with it."""
    if isinstance(beta, Tensor) and beta.dim():
        raise ValueError(
            f"expected a number as beta, the argument after x, got a tensor of shape {tuple(beta.shape)}: give all arguments "
            "of model and guide in x, as a tuple"
        )


def check_reparameterised(site: Any) -> None:
    """Raises ValueError for a draw without a derivative, whose gradient would lack its score-function term."""
    if not site["fn"].has_rsample:
        raise ValueError(f"expected a reparameterised q({site['name']}|x), got {type(site['fn']).__name__}; use elbo")


def kl_sum(guide_site: dict[str, Any], model_site: dict[str, Any]) -> Tensor:
    """The weighed KL of a site, in closed form or from its draw."""
    try:
        kl = kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        scored = guide_site["score_parts"].entropy_term if "score_parts" in guide_site else log_prob(guide_site)
        return scored.sum() - model_site["log_prob_sum"]
    if not isinstance(kl, Tensor):  # a number for each row
        return torch.as_tensor(kl * guide_site["fn"].batch_shape.numel())
    total: Tensor = scale_and_mask(kl, scale=guide_site["scale"], mask=guide_site["mask"]).sum()
    return total


def log_prob(site: dict[str, Any], value: Any = None) -> Tensor:
    """The log-density of what was drawn at a site, or of another value, of each row, weighed as in the site's own."""
    value = site["value"] if value is None else value
    found: Tensor = scale_and_mask(site["fn"].log_prob(value), scale=site["scale"], mask=site["mask"])
    return found


def sites(trace: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, site) of what is sampled, without subsamples and `pyro.deterministic`."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site) and not site["infer"].get("_deterministic"):
            yield name, site


def plate_scale(site: dict[str, Any]) -> float:
    """The number of points that each row of a Pyro site stands for: N/B where its plate of N points holds B of them, else 1."""
    frames = (frame for frame in site["cond_indep_stack"] if frame.full_size is not None)
    return math.prod(frame.full_size / frame.size for frame in frames)


def data_plate(site: dict[str, Any], rows: int) -> Any:
    """The outermost plate of a Pyro site that has `rows` elements, or chooses among as many; None without one."""
    frames = (frame for frame in site["cond_indep_stack"] if frame.full_size and rows in (frame.size, frame.full_size))
    return next(frames, None)


def by_row(values: Tensor, site: dict[str, Any], x: Batch) -> Tensor:
    """The elements of each datapoint, (B, D), of values with the batch shape of a site: a plate may lie before the data's."""
    plate = data_plate(site, len(as_arguments(x)[0]))
    axis = len(site["fn"].batch_shape) + plate.dim if plate else 0
    rows = values.movedim(axis, 0)
    return rows.reshape(len(rows), -1)


def as_arguments(x: Batch) -> tuple[Any, ...]:
    """x as the positional arguments of a model: the items of a tuple, or of a list as a DataLoader gives it, else x alone."""
    return tuple(x) if isinstance(x, tuple | list) else (x,)


def weighted(
    model: Callable[..., Any], guide: Callable[..., Any], beta: float
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Model and guide with `beta` filled in, where they take it. Raises ValueError where beta is not 1 and not both take it,
    and for a beta that is no number.

    If only one of them did, only log p(z) or only log q(z|x) would be weighted.
    """
    check_beta(beta)
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
    taken = callable_.forward if isinstance(callable_, nn.Module) else callable_
    function = getattr(taken, "__func__", taken)
    if type(function) is FunctionType and not hasattr(function, "__wrapped__") and not hasattr(function, "__signature__"):
        code = function.__code__  # a twentieth of a step's overhead is `signature`
        return "beta" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    parameter = signature(taken).parameters.get("beta")
    return parameter is not None and parameter.kind is not Parameter.VAR_KEYWORD
