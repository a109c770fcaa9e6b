"""Bounds on the mutual information of any number of points, against a random set of their posteriors."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..pairs.evaluation import precision_of
from ..pairs.interval import Interval, Moments
from ..pairs.pair import Pair, Progress
from ..pairs.rows import FEW, Inputs, Rows, join_rows, length, named_rows, parts_of, read_part, select_rows
from ..pairs.unavailable import Unavailable, attempt
from .components import Components, evaluable
from .encoder import agree
from .pairwise import leave_one_out
from .rate import chunk_rate
from .variational_marginal import Marginal, check_marginal, drawn_on, fitted_to, marginal_terms, random_order

PART = 4096  # rows of x in memory at a time


@dataclass(frozen=True)
class Streamed:
    """The bounds, None where one cannot be had, and the rate less each of them over the same points, as is KL(q(z) || p(z))."""

    lower: Interval | None
    upper: Interval | None
    marginal: Interval | None
    rate: Interval
    rate_less_upper: Interval | None
    rate_less_lower: Interval | None
    components: int
    points: int
    samples: int
    marginal_reference: str | None
    one_prior: bool
    unavailable: dict[str, str]

    @property
    def ceiling(self) -> float:
        """What the lower bound cannot exceed."""
        return math.log(min(self.components + 1, self.points))


def streamed(
    pair: Pair,
    x: Inputs,
    *,
    components: int,
    samples: int,
    fit_on: Inputs | None,
    seed: int,
    progress: Progress | None = None,
) -> Streamed:
    """The bounds of `mutual_information` over all N rows of x, against M = `components` of their posteriors, chosen at random.

        lower = log q_i(z_i) - log 1/(n + 1) [q_i(z_i) + sum_j q_j(z_i)]      E <= min(I, ln(M + 1))
        upper = log q_i(z_i) - log 1/n sum_j q_j(z_i)                         E >= I, far above it once I > ln M

    j runs over the n components that are not i itself: n is M, or M - 1 where i is one of them. Bias: both stay bounds, since
    the others of a point are independent of it whether all or some are taken; with fewer of them both are looser, and the
    ceiling is that of M + 1 points. All points share one set: the intervals are over the points, given that set. The marginal
    r(z) is fitted to draws at 10,000 of the components at most (or of `fit_on`), and evaluated at the rows that are no
    components.

    x is read in parts of 4,096 rows, so memory grows with M and not with N. Cost: the guide on every row, S N M log-densities.
    Raises ValueError for fewer than 2 components.
    """
    check_components(components)
    rows, like = length(x), precision_of(pair.model, pair.guide)
    chosen = torch.randperm(rows, generator=torch.Generator().manual_seed(seed), device="cpu")[:components].sort().values
    sums = Sums(pair.at(_taken(x, chosen, like)), chosen, samples, fit_on, seed)
    for start, stop in parts_of(rows, PART, FEW):
        sums.add(pair.at(read_part(x, slice(start, stop), like)), torch.arange(start, stop, device="cpu"))
        if progress:
            progress("mutual information", stop, rows)
    return sums.result()


def check_components(components: int) -> None:
    """Raises ValueError for fewer than 2 components."""
    if components < 2:
        raise ValueError(f"expected at least 2 components of the mixture q(z), got {components}")


class Sums:
    """A fixed set of components, and running means over the points that are held against it.

    pair: the components, at the rows `chosen` (M,) of x, increasing.
    """

    def __init__(self, pair: Pair, chosen: Tensor, samples: int, fit_on: Inputs | None, seed: int) -> None:
        self.chosen, self.samples, self.points = chosen, samples, 0
        self.reasons: dict[str, str] = {}
        self.moments: dict[str, Moments] = defaultdict(Moments)
        chunks = list(pair.chunks())
        self.one_prior, self.first = True, list[Any]()  # the first prior of the last part
        z = torch.cat([chunk.draws(1)[0] for chunk in chunks], 1)
        self.reference = z[0, :1]  # at which p(z) of all rows is compared
        self.components = attempt(self.reasons, ("lower", "upper"), evaluable, chunks, z)
        self.fitted_elsewhere = fit_on is not None
        self.marginal = attempt(self.reasons, "marginal", self._fitted, pair, z[0], fit_on, seed)

    def _fitted(self, pair: Pair, z: Tensor, fit_on: Inputs | None, seed: int) -> Marginal:
        if fit_on is not None:
            return fitted_to(pair, drawn_on(pair, fit_on, seed), "fit_on", seed)
        return fitted_to(pair, z[random_order(len(z), seed)], "the random components", seed)

    def add(self, pair: Pair, numbers: Tensor) -> None:
        """Holds further points, the rows `numbers` (n,) of x, against the components."""
        chunks, self.points = list(pair.chunks()), self.points + pair.points
        z, log_q = (torch.cat(part, 1) for part in zip(*(chunk.draws(self.samples) for chunk in chunks), strict=True))
        bad = ~(z.flatten(2) if z.dim() > 2 else z[..., None]).isfinite().all(2).all(0) | ~log_q.isfinite().all(0)
        if bad.any():
            where = named_rows(bad, start=int(numbers[0]), whole=False)
            raise Unavailable(f"draws from q(z|x) or their densities are not finite at {where}")
        priors = [pair.prior_of(chunk) for chunk in chunks]
        rate = torch.cat([chunk_rate(chunk, p, self.samples) for chunk, p in zip(chunks, priors, strict=True)])
        self._add("rate", rate)
        self.one_prior = self.one_prior and agree([*self.first, *priors], self.reference)
        self.first = priors[:1]
        if self.components:
            own = evaluable(chunks, z)
            if type(own.groups[0]) is not type(self.components.groups[0]):
                raise Unavailable("q(z|x) is not of one family at all rows of x")
            lower, upper = (term.mean(0) for term in terms(self.components, own, self._places(numbers).to(z.device)))
            found = {"lower": lower, "upper": upper, "less lower": rate - lower, "less upper": rate - upper}
            for name, values in found.items():
                self._add(name, values)
        held_out = torch.ones_like(numbers, dtype=torch.bool) if self.fitted_elsewhere else self._places(numbers) < 0
        if self.marginal and held_out.any():
            self._add("marginal", marginal_terms(self.marginal, z[:, held_out], log_q[:, held_out]))

    def _add(self, name: str, per_point: Tensor) -> None:
        self.moments[name].add(per_point.double().cpu())

    def _places(self, numbers: Tensor) -> Tensor:
        """The place of each row among the components, -1 for one that is none of them."""
        places = torch.searchsorted(self.chosen, numbers).clamp(max=len(self.chosen) - 1)
        return torch.where(self.chosen[places] == numbers, places, -1)

    def result(self) -> Streamed:
        """The bounds over all points so far."""
        upper = self._interval("upper")
        if upper and not math.isfinite(upper.value):
            upper, self.reasons["upper"] = None, "no component reaches the z of some rows of x: the bound is infinite"
        marginal = self._interval("marginal")
        if self.marginal and marginal is None:
            self.reasons["marginal"] = "all rows of x are components, and none is left to evaluate r(z) at"
        lower = self._interval("lower")
        return Streamed(
            lower=lower,
            upper=upper,
            marginal=attempt(self.reasons, "marginal", check_marginal, marginal, lower) if marginal else None,
            rate=self.moments["rate"].interval(),
            rate_less_upper=self._interval("less upper") if upper else None,
            rate_less_lower=self._interval("less lower"),
            components=len(self.chosen),
            points=self.points,
            samples=self.samples,
            marginal_reference=self.marginal.reference if self.marginal else None,
            one_prior=self.one_prior,
            unavailable=self.reasons,
        )

    def _interval(self, name: str) -> Interval | None:
        return self.moments[name].interval() if name in self.moments else None


def terms(components: Components, own: Components, places: Tensor) -> tuple[Tensor, Tensor]:
    """Both bounds at the draws `own.z` (S, n, *event) of points that stand at `places` (n,) among the components, else -1.

    (S, n) each in float64; see `streamed`.
    """
    samples, points = own.z.shape[:2]
    count = sum(q.batch_shape[0] for q in components.groups)
    others = leave_one_out(components.pairs, own.z.flatten(0, 1), places.repeat(samples))[1].view(samples, points)
    left, density = count - (places >= 0).long(), _own_densities(own)
    lower = density - (torch.logaddexp(density, others) - (left + 1).log())
    return lower, density - (others - left.log())


def _own_densities(own: Components) -> Tensor:
    """log q_i(z_i) of the draws of each point, (S, n) in float64."""
    found, start = [], 0
    for q, pairs in zip(own.groups, own.pairs, strict=True):
        z = own.z[:, start : start + q.batch_shape[0]]
        found.append(torch.stack([pairs(draw).diagonal() for draw in z]))
        start += z.shape[1]
    return torch.cat(found, 1)


def _taken(x: Inputs, chosen: Tensor, like: Tensor | None) -> Rows:
    """The chosen rows of x, whose numbers increase, read in parts."""
    parts = []
    for start, stop in parts_of(length(x), PART, FEW):
        inside = chosen[(chosen >= start) & (chosen < stop)]
        if len(inside):
            first = int(inside[0])
            parts.append(select_rows(read_part(x, slice(first, int(inside[-1]) + 1), like), inside - first))
    return join_rows(parts)
