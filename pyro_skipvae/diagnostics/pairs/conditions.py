"""What a model and a guide must fulfil to have numbers per datapoint."""

from typing import Any

import torch
from pyro.distributions import (
    Delta,
    Distribution,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategoricalStraightThrough,
)
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_skipvae.distributions.wrapped import innermost
from pyro_skipvae.random_numbers import forked

from .evaluation import forked_random
from .rows import Rows
from .sites import counted, data_dim, imputed_sites, latent_sites, sample_sites
from .unavailable import FAILURES, Refused, told

STRAIGHT_THROUGH = (RelaxedBernoulliStraightThrough, RelaxedOneHotCategoricalStraightThrough)


class DropoutWatch(TorchFunctionMode):
    """Remembers whether a dropout ran with `training=True`."""

    active = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if "dropout" in getattr(function, "__name__", ""):
            # F.dropout arrives with `training` named, torch.dropout with it in place.
            flags = [kwargs.get("training", kwargs.get("train")), *args[2:3]]
            self.active = self.active or any(flag is True for flag in flags)
        return function(*args, **kwargs)


def drawn(distribution: Distribution) -> Tensor:
    """One draw per batch element, as Pyro makes it: by a call, which is all that some distributions have."""
    return distribution() if callable(distribution) else distribution.sample()


def shared_latents(model_trace: Any, guide_trace: Any) -> tuple[list[str], list[str]]:
    """The latent sites, which model and guide share, and the missing values of observations that only the model has."""
    in_model, in_guide = latent_sites(model_trace), latent_sites(guide_trace)
    imputed = [name for name in imputed_sites(model_trace) if name not in in_guide]
    in_model = [name for name in in_model if name not in imputed]
    if set(in_model) != set(in_guide):
        enumerated = [name for name in in_model if name not in in_guide and model_trace.nodes[name]["infer"].get("enumerate")]
        hint = f"; {enumerated} is summed over by TraceEnum_ELBO alone: the report does not enumerate" if enumerated else ""
        raise Refused(f"expected the same latent sites in model and guide, got {in_model} and {in_guide}{hint}")
    return in_model, imputed


def chosen_site(site: str | None, latents: list[str]) -> str:
    """The latent site of interest: the one that is named, or the only one."""
    if not latents:
        raise Refused("expected a model with a latent site, got none")
    if site is not None and site not in latents:
        raise Refused(f"expected site to be one of {latents}, got {site!r}")
    candidates = [site] if site else latents
    if len(candidates) > 1:
        raise Refused(f"expected one latent site, got {latents}: name the one of interest by site=")
    return candidates[0]


def largest_call(trace: Any, rows: int) -> int:
    """How many rows fit into one call: a plate that stands for N points takes at most N of them."""
    largest = []
    for node in sample_sites(trace).values():
        dim = data_dim(node, rows)
        largest += [frame.full_size or 0 for frame in node["cond_indep_stack"] if frame.dim == dim]
    return min([size for size in largest if size > rows], default=2**31)


def check_posterior(site: str, q: Distribution, auxiliary: list[str], *, discrete: bool = False) -> None:
    """Raises ValueError, with the reason, for a q(z|x) without a density, or probabilities where it may be `discrete`.

    `auxiliary` are the other sites of its guide.
    """
    try:
        q.log_prob(drawn(q))
    except NotImplementedError as error:
        raise Refused(f"expected a density q({site}|x), got {type(q).__name__} without one: {told(error)}") from error
    base = innermost(q)
    if isinstance(base, STRAIGHT_THROUGH):
        raise Refused(f"expected z whose density is that of its draws, got {type(base).__name__}, whose draws are discrete")
    if isinstance(base, Delta) and auxiliary:
        raise Refused(
            f"expected a guide that draws {site!r} itself, got values that it computes from the auxiliary sites {auxiliary}, "
            "as automatic guides and groups of an EasyGuide do: write pyro.sample("
            f"{site!r}, ...) in the guide"
        )
    if isinstance(base, Delta):
        raise Refused(f"expected a density q({site}|x), got a Delta: its rate is infinite")
    if not discrete and (base.has_enumerate_support or has_discrete_support(base)):
        advice = "collapse_report takes it, without site="
        raise Refused(f"expected a continuous q({site}|x), got the discrete {type(base).__name__}; {advice}")


def has_discrete_support(distribution: Distribution) -> bool:
    """Whether a distribution has probabilities of values, not a density."""
    try:
        return distribution.support.is_discrete
    except (NotImplementedError, AttributeError):  # a density that does not state its support
        return False


def is_outside(node: Any, rows: int) -> bool:
    """Whether an observed site has values without a probability, such as grey ones of a Bernoulli, where no mask hides them."""
    base = innermost(node["fn"], masks=True)
    try:
        outside = ~base.support.check(node["value"])
    except FAILURES:  # a distribution that does not tell its support
        return False
    if outside.shape[:1] != (rows,):  # a value that is broadcast
        return bool(outside.any())
    kept, outside = counted(node, rows), outside.reshape(rows, -1)
    return bool((outside & kept.repeat_interleave(max(outside.shape[1] // kept.shape[1], 1), 1)).any())


def equal(first: Tensor, second: Tensor) -> bool:
    """Whether two runs agree, up to rounding."""
    # Repeated runs may differ by rounding (threads, atomics), a random network differs by far more.
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True)


def same_density(densities: Tensor) -> bool:
    """Whether densities (N,) of one z at all rows agree, up to rounding."""
    return torch.allclose(densities, densities[:1].expand_as(densities), rtol=1e-4, atol=1e-4, equal_nan=True)


def same_distribution(first: Distribution, second: Distribution, rows: Rows) -> bool:
    """Whether both give the same draw from the same random numbers; needs no density at another's z."""
    return equal(draw_of(first, rows), draw_of(second, rows))


def draw_of(distribution: Distribution, rows: Rows) -> Tensor:
    """A draw that is the same whenever it is made, which leaves the random numbers as they are."""
    with forked_random(rows, seed=0):
        device = drawn(distribution).device
        with forked({device}, 0):
            return drawn(distribution)
