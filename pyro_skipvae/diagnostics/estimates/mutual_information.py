"""The mutual information of x and z under q(z|x), between a lower and an upper bound."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor

from ..pairs.evaluation import as_found
from ..pairs.finite import check_draws
from ..pairs.interval import Interval, mean_interval
from ..pairs.pair import Chunk, Pair, Progress
from ..pairs.rows import Inputs, named_rows
from ..pairs.unavailable import Unavailable, attempt
from .components import Components, evaluable
from .pairwise import Pairs, leave_one_out
from .random_components import PART, Streamed, streamed
from .variational_marginal import check_marginal, fit_marginal, marginal_bound

SATURATED = 2  # nats: a lower bound that is nearer to its ceiling ln N says little
HE_BATCH = 32
DIENG_POINTS = 10_000


@dataclass(frozen=True)
class MutualInformation:
    """Bounds on a mutual information in nats per datapoint; a bound that is not available is None, its reason in `unavailable`.

    lower, upper, marginal: see `mutual_information`; marginal_reference: what r(z) is and what it was fitted to.
    ceiling: what `lower` cannot exceed, ln N. saturated: `lower` is above ceiling - 2, where it is too small by half a nat or
    more. points: N; samples: draws per point; components: the posteriors in the mixture q(z) (None: those of all points).
    """

    lower: Interval | None
    upper: Interval | None
    marginal: Interval | None
    ceiling: float
    saturated: bool | None
    points: int
    samples: int
    marginal_reference: str | None = None
    unavailable: dict[str, str] = field(default_factory=dict)
    components: int | None = None  # None: all points


@dataclass(frozen=True)
class Sandwich:
    """The terms of both bounds per draw, (S, N) in float64; their means are the bounds."""

    lower: Tensor
    upper: Tensor


def mutual_information(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Inputs,
    *,
    posterior_samples: int = 1,
    components: int | None = None,
    fit_on: Inputs | None = None,
    site: str | None = None,
    seed: int = 0,
    rows: int | None = None,
    progress: Progress | None = None,
) -> MutualInformation:
    """Bounds on I_q(x; z), what the guide's z says of x, in nats per datapoint, from N rows of x.

        I_q(x; z) = E_x E_q(z|x)[log q(z|x) - log q(z)],  q(z) = E_x q(z|x)

        lower    = mean_i[log q(z_i|x_i) - log 1/N sum_j q(z_i|x_j)]                    at most ln N
        upper    = mean_i[log q(z_i|x_i) - log 1/(N-1) sum_(j != i) q(z_i|x_j)]         far above I_q once I_q > ln N
        marginal = mean_i[log q(z_i|x_i) - log r(z_i)]                                  no ceiling; bias KL(q(z) || r(z))

    Each is a bound on average. r(z) is a mixture of normals, fitted to draws at `fit_on` (None: at a random half of x; the
    other half is then evaluated). With `components` = M the sums over j run over M rows that the seed chooses, and x is read
    in parts: memory does not grow with N, the bounds are looser, and the lower one is at most ln(M + 1).
    rows: the most rows that guide and model run at a time (None: about 256, or fewer by the size of convolutions).

    Cost, with S = `posterior_samples`: the guide once on every row, S N^2 log-densities (about 7 ns each for diagonal normals
    of D = 50 on one CPU core: 0.7 s at N = 10,000, 25 s at 60,000 for S = 1), and some seconds for r(z).
    Raises ValueError for fewer than 2 rows, fewer than 2 components, and a pair that `collapse_report` refuses.
    Reference: Poole et al. 2019, section 2; Barber and Agakov 2003 for `marginal`.
    """
    if components is not None:
        settings: Any = {"components": components, "samples": posterior_samples, "fit_on": fit_on, "seed": seed}
        with as_found(model, guide, x=x, seed=seed, samples=(posterior_samples,), first=PART) as first:
            return of_many(streamed(Pair(model, guide, first, site=site, rows=rows), x, progress=progress, **settings))
    with as_found(model, guide, x=x, seed=seed, samples=(posterior_samples,)) as x:
        pair = Pair(model, guide, x, site=site, rows=rows)
        chunks = list(pair.chunks(progress))
        z, log_q = (torch.cat(part, 1) for part in zip(*(c.draws(posterior_samples) for c in chunks), strict=True))
        return all_bounds(pair, chunks, z, log_q, fit_on=fit_on, seed=seed, progress=progress)[0]


def of_many(found: Streamed) -> MutualInformation:
    """The bounds of points that were held against a random set of components."""
    ceiling, lower = found.ceiling, found.lower
    saturated = lower.value > ceiling - SATURATED if lower else None
    return MutualInformation(
        lower, found.upper, found.marginal, ceiling, saturated, found.points, found.samples, found.marginal_reference,
        found.unavailable, found.components,
    )  # fmt: skip


def all_bounds(
    pair: Pair,
    chunks: list[Chunk],
    z: Tensor,
    log_q: Tensor,
    *,
    fit_on: Inputs | None,
    seed: int,
    progress: Progress | None = None,
) -> tuple[MutualInformation, Components | None, Sandwich | None]:
    """The bounds from draws z (S, N, *event) and log q(z|x) (S, N), and what the sandwich was made of."""
    reasons: dict[str, str] = {}
    attempt(reasons, ("lower", "upper", "marginal"), check_draws, z, log_q)
    if reasons:
        return bounded(None, None, points=pair.points, samples=len(z), unavailable=reasons), None, None
    components = attempt(reasons, ("lower", "upper"), evaluable, chunks, z)
    bounds = attempt(reasons, ("lower", "upper"), sandwich, components.pairs, components.z, progress) if components else None
    fitted = attempt(reasons, "marginal", _by_marginal, pair, z, log_q, fit_on, seed)
    reference, marginal = fitted or (None, None)
    found = bounded(bounds, marginal, points=pair.points, samples=len(z), unavailable=reasons, reference=reference)
    return found, components, bounds


def _by_marginal(pair: Pair, z: Tensor, log_q: Tensor, fit_on: Inputs | None, seed: int) -> tuple[str, Interval]:
    """What r(z) is, and the bound by it."""
    r, held_out = fit_marginal(pair, z[0], fit_on, seed)
    return r.reference, marginal_bound(r, z[:, held_out], log_q[:, held_out])


def sandwich(pairs: list[Pairs], values: Tensor, progress: Progress | None = None) -> Sandwich:
    """Terms of a lower and an upper bound on the mutual information of a value v and its element i of a batch (N,).

    lower = log q(v|i) - log 1/N sum_j q(v|j)                 E <= min(I, ln N): no more than ln N can be seen
    upper = log q(v|i) - log 1/(N-1) sum_(j != i) q(v|j)      E >= I, far above it once I > ln N
    values: (S, N, *event), value i drawn from element i; nats.
    Reference: Poole et al. 2019, "On variational bounds of mutual information", section 2.
    """
    samples, points = values.shape[:2]
    if points < 2:
        raise Unavailable("a mutual information needs at least two points")
    element = torch.arange(points, device=values.device).repeat(samples)
    own, others = leave_one_out(pairs, values.flatten(0, 1), element, progress)
    lower = own - (torch.logaddexp(own, others) - math.log(points))
    return Sandwich(lower.view(samples, points), (own - (others - math.log(points - 1))).view(samples, points))


def bounded(
    bounds: Sandwich | None,
    marginal: Interval | None,
    *,
    points: int,
    samples: int,
    unavailable: dict[str, Any],
    reference: str | None = None,
) -> MutualInformation:
    """Both bounds as means over x with 95 % intervals (clustered by x), the ceiling ln N, and `saturated`.

    Saturated means lower > ln N - 2: there the lower bound is already short by about half a nat and says little.
    """
    lower, upper = None, None
    if bounds:
        lower = mean_interval(bounds.lower.mean(0))
        upper = attempt(unavailable, "upper", _upper, bounds.upper.mean(0))
    marginal = attempt(unavailable, "marginal", check_marginal, marginal, lower) if marginal else None
    ceiling = math.log(points)
    saturated = lower.value > ceiling - SATURATED if lower else None
    return MutualInformation(lower, upper, marginal, ceiling, saturated, points, samples, reference, unavailable)


def _upper(per_point: Tensor) -> Interval:
    alone = per_point.isposinf()
    if alone.any():
        raise Unavailable(f"no other row reaches the z of {named_rows(alone)}: the bound is infinite")
    return mean_interval(per_point)


def dieng_2019(components: Components, rate: Tensor, log_ratio: Tensor, bounds: Sandwich) -> dict[str, Any]:
    """The convention of the Skip-VAE paper: mean rate minus mean[log q_N(z_i) - log p(z_i)], N the first 10,000 points.

    rate (N,), log_ratio = log q(z_i|x_i) - log p(z_i) at one draw per x (N,); the own component is part of q_N, so
    the ceiling is ln N up to the noise of the one draw. Reference: Dieng et al. 2019, section 4.
    """
    points = min(len(rate), DIENG_POINTS)
    lower = bounds.lower[0]
    if points < len(rate):
        lower = sandwich(_first(components, points), components.z[:1, :points]).lower[0]
    value = rate[:points].mean() - log_ratio[:points].mean() + lower.mean()
    return {"value": value.item(), "N": points, "ceiling": math.log(points)}


def he_2019_batch_32(components: Components) -> dict[str, Any]:
    """The convention of He et al.: minus the entropy minus the log of the minibatch's mixture, batches of 32, ceiling ln 32.

    Mean over consecutive batches, a smaller last one by its weight. Reference: He et al. 2019, section 4 and code.
    """
    terms, start = [], 0
    for q, pairs in zip(components.groups, components.pairs, strict=True):
        z = components.z[0, start : start + q.batch_shape[0]]
        tile, start = pairs(z), start + len(z)
        for part in torch.arange(len(z), device="cpu").split(HE_BATCH):
            terms.append(_neg_entropy(q, tile)[part] - tile[part][:, part].logsumexp(1) + math.log(len(part)))
    largest = min(HE_BATCH, start)  # the ceiling of fewer points is theirs
    return {"value": torch.cat(terms).mean().item(), "batch": largest, "ceiling": math.log(largest)}


def _neg_entropy(q: Distribution, tile: Tensor) -> Tensor:
    try:
        return -q.entropy().double()
    except (NotImplementedError, AttributeError):
        return tile.diagonal()


def _first(components: Components, points: int) -> list[Pairs]:
    """The pairs with the first `points` batch elements only."""
    kept: list[Pairs] = []
    left = points
    for q, pairs in zip(components.groups, components.pairs, strict=True):
        kept.append(partial(_narrow, pairs, left))
        left -= q.batch_shape[0]
        if left <= 0:
            break
    return kept


def _narrow(pairs: Pairs, width: int, values: Tensor) -> Tensor:
    return pairs(values)[:, :width]
