"""log p(value_i | j) for all pairs of values and batch elements of a distribution, in tiles."""

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution, ExpandedDistribution
from torch import Tensor, nn
from torch.distributions import Bernoulli, ExpTransform, Independent, Normal, Transform, TransformedDistribution

from ..pairs.pair import Progress
from ..pairs.sites import log_density

TILE_BYTES = 4 * 2**20  # larger broadcast temporaries leave the cache and cost more than they save
LARGEST_SQUARE = 2e6  # times float64's 2.2e-16 the rounding of one product stays below 1e-9
TORCH_TRANSFORMS = "torch.distributions.transforms"
INVERSE = type(ExpTransform().inv)  # the wrapper of an inverse map, which torch does not export
Pairs = Callable[[Tensor], Tensor]  # values (M, *event) -> log-densities (M, N), float64


def pairwise_log_prob(distribution: Distribution) -> Pairs:
    """A function of values (M, *event) that returns log p(value_m | n), (M, N) in float64, for a batch (N,).

    Diagonal normals and Bernoullis are one matrix product in float64,
        log N(z; m, s) = [z^2, z] . [-1/(2 s^2), m/s^2] + c,   log Bern(x; l) = x . l - sum softplus(l),
    centred, and equal to the broadcast log_prob to 1e-8; where cancellation would cost more (z^2/s^2 is huge), and
    for every other family, `log_prob` broadcasts over tiles of 4 MB.
    """
    base: Any
    base, event = factors(distribution)
    if type(base) in (dist.Normal, Normal) and event == distribution.event_shape:
        return _normal_pairs(base.loc, base.scale)
    if type(base) in (dist.Bernoulli, Bernoulli) and event == distribution.event_shape:
        return _bernoulli_pairs(base.logits)
    return lambda values: _broadcast_pairs(distribution, values)


def factors(distribution: Distribution) -> tuple[Distribution, torch.Size]:
    """The distribution of the single elements of a factorised one, and the event shape that they make up."""
    base = unwrapped(distribution)
    event = torch.Size()
    while isinstance(base, Independent):
        shape = base.base_dist.batch_shape
        event = shape[len(shape) - base.reinterpreted_batch_ndims :] + event
        base = base.base_dist
    return base, event


def unwrapped(distribution: Distribution) -> Distribution:
    """The distribution without the wrapper by which a plate expands it, which hides closed forms."""
    while isinstance(distribution, ExpandedDistribution):
        distribution = distribution.base_dist
    return distribution


def flat(values: Tensor, batch_dims: int = 1) -> Tensor:
    """Values (*batch, *event) as (*batch, D); an event () gives D = 1."""
    return values[..., None].flatten(batch_dims)


def carries_network(distribution: torch.distributions.Distribution | Distribution) -> bool:
    """Whether a density runs a network in its `log_prob`: a learned flow, an autoregressive decoder."""
    if isinstance(distribution, TransformedDistribution):
        return any(map(_is_learned, distribution.transforms)) or carries_network(distribution.base_dist)
    parts = vars(distribution).values()
    return any(
        isinstance(part, nn.Module)
        or (isinstance(part, Transform) and _is_learned(part))
        or (isinstance(part, torch.distributions.Distribution) and carries_network(part))
        for part in parts
    )


def _is_learned(step: Transform) -> bool:
    """Whether a map is none of torch's own, which have no parameters to learn, or is made of such a one."""
    inner = [*getattr(step, "parts", ()), *([step.inv] if isinstance(step, INVERSE) else [])]
    inner += [step.base_transform] if hasattr(step, "base_transform") else []
    return type(step).__module__ != TORCH_TRANSFORMS or any(map(_is_learned, inner))


def leave_one_out(
    pairs: list[Pairs], values: Tensor, element: Tensor, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """log p(v_i | i) and log sum over j != i of p(v_i | j), both (R,) in float64, in memory that does not grow with N.

    pairs: consecutive groups of the N batch elements; `element` (R,) is the number i of the element that a value belongs to, or
    -1 for that of a value whose own element is not among them, and log p(v_i | i) is then 0.
    """
    own, others = torch.empty(2, len(values), dtype=torch.float64, device=values.device)
    for rows in torch.arange(len(values), device=values.device).split(400):
        own[rows], others[rows] = _leave_one_out_tile(pairs, values[rows], element[rows])
        if progress:
            progress("mutual information", int(rows[-1]) + 1, len(values))
    return own, others


def _leave_one_out_tile(pairs: list[Pairs], values: Tensor, element: Tensor) -> tuple[Tensor, Tensor]:
    lowest = torch.finfo(torch.float64).min  # -inf would make -inf - (-inf) of a row that is masked so far
    top = torch.full((len(values),), lowest, dtype=torch.float64, device=values.device)
    total, own, start = torch.zeros_like(top), torch.zeros_like(top), 0
    for group in pairs:
        tile = group(values)
        inside = ((element >= start) & (element < start + tile.shape[1])).nonzero().squeeze(1)
        column = element[inside] - start
        own[inside] = tile[inside, column]
        tile[inside, column] = -math.inf
        higher = torch.maximum(top, tile.amax(1))
        # exp slows down tenfold once it underflows; the clamp costs at most N e^-80 of the sum.
        kept = tile.sub_(higher[:, None]).clamp_(min=-80).exp_().sum(1)
        total, top, start = total * (top - higher).exp() + kept, higher, start + tile.shape[1]
    return own, torch.where(top > lowest, top + total.log(), -math.inf)


def _normal_pairs(loc: Tensor, scale: Tensor) -> Pairs:
    """Pairs of diagonal normals, loc and scale (N, *event)."""
    loc, scale = flat(loc).double(), flat(scale).double()
    centre = loc.mean(0)
    loc, precision = loc - centre, scale**-2
    weights = torch.cat([-precision / 2, loc * precision], 1).T  # (2 D, N)
    constant = -(loc.square() * precision / 2 + scale.log() + math.log(2 * math.pi) / 2).sum(1)
    farthest, sharpest = loc.abs().amax(0), precision.amax(0)

    def pairs(values: Tensor) -> Tensor:
        z = flat(values).double() - centre
        reach = z.abs().amax(0)
        # No posterior's square is above that of the farthest with the sharpest scale: mostly it is enough to look at that.
        safe = ((reach + farthest).square() * sharpest).sum() <= LARGEST_SQUARE
        if not safe and ((reach + loc.abs()).square() * precision).sum(1).max() > LARGEST_SQUARE:
            return _broadcast_pairs(dist.Normal(loc, scale).to_event(1), z)
        return torch.addmm(constant, torch.cat([z.square(), z], 1), weights)

    return pairs


def _bernoulli_pairs(logits: Tensor) -> Pairs:
    """Pairs of independent Bernoullis, logits (N, *event)."""
    logits = flat(logits).double()
    constant = -nn.functional.softplus(logits).sum(1)
    return lambda values: torch.addmm(constant, flat(values).double(), logits.T)


def _broadcast_pairs(distribution: Distribution, values: Tensor) -> Tensor:
    elements = distribution.batch_shape.numel() * max(1, distribution.event_shape.numel())
    tiles = values.split(max(1, TILE_BYTES // (8 * elements)))
    return torch.cat([log_density(distribution, tile[:, None]) for tile in tiles]).double()
