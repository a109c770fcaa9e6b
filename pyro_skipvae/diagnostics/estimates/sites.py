"""All latent sites of a model together, site by site: hierarchies, sequences, conditional priors and discrete codes.

log p(x) >= E_q[log p(x|z)] - sum_s rate_s,      rate_s = E_q[log q(z_s | x, z before it) - log p(z_s | z before it)]
"""

import math
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..pairs.finite import check_densities, finite
from ..pairs.interval import Interval, cycle_interval, mean_interval
from ..pairs.pair import Pair, Progress
from ..pairs.rows import even_parts
from ..pairs.sites import counted, is_masked, log_prob_by_row, posterior_at, posterior_node, prior_at
from ..pairs.unavailable import Unavailable
from .active_units import mean_variances
from .codes import ACTIVE, Codes, Usage, probabilities
from .pairwise import flat
from .rate import closed_form, per_dimension

NOTHING = 0.1  # nats per datapoint: less than this said by z of x, or lost by shuffling z, counts as nothing
NUMBERED = re.compile(r"^(.*?)\d+$")


@dataclass(frozen=True)
class SiteReport:
    """How much one latent site, or a group of numbered sites, is used; nats per datapoint, with 95 % intervals over the points.

    rate: E_q[log q - log p] of the site given the sites before it; the rates of all sites add up to the joint rate. It is a
    divergence, never negative, where the guide draws all sites that the model draws before this one before it too; else it may
    be below 0. rate_estimator: "closed form" or "Monte Carlo".
    active_units: of `dimensions`, those whose posterior mean has a variance over x of 0.01 or more; of a discrete site, the
    positions with 0.01 nats of information or more.
    shuffled_latent_loss: what log p(x|z) loses when this site alone comes from another datapoint.
    shuffled_loss_with_latents: the same loss of log p(x|z) plus log p of the other latent sites, through which a site at the
    top of a hierarchy acts.
    kind: decided by the interval of shuffled_loss_with_latents: "collapsed" inside -0.1 to 0.1, "used" above 0.1, else
    "undecided". codes: the usage of a discrete site (see `Codes`).
    """

    name: str
    sites: list[str]
    dimensions: int
    rate: Interval | None
    rate_estimator: str
    active_units: int | None
    shuffled_latent_loss: Interval | None
    shuffled_loss_with_latents: Interval | None
    kind: str
    codes: Codes | None = None


@dataclass
class SiteTerms:
    """What is known of one site at n points: rate (n,), its sum per dimension, two halves of its posterior means, its codes.

    entries (n, E): those that no mask leaves out; kept (n,): whether there are any.
    """

    rate: Tensor
    exact: bool
    entries: Tensor
    per_dimension: Tensor | None = None
    halves: Tensor | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def kept(self) -> Tensor:
        return self.entries.any(1)


@dataclass(frozen=True)
class JointTerms:
    """Per point (n,) in float64, over S draws of all sites: the ELBO, log p(x|z), the terms of each site, log-weights (S, n).

    `values` and `log_p` (of each site), `log_x` are those of the first draw.
    """

    elbo: Tensor
    log_likelihood: Tensor
    sites: dict[str, SiteTerms]
    log_weights: Tensor
    values: dict[str, Tensor]
    log_x: Tensor
    log_p: dict[str, Tensor]

    @property
    def rate(self) -> Tensor:
        """The rate of all sites together, (n,)."""
        return torch.stack([site.rate for site in self.sites.values()]).sum(0)


def joint_terms(pair: Pair, *, points: int, samples: int, progress: Progress | None = None) -> JointTerms:
    """One pass over the first `points` rows for each of `samples` draws: the guide, and the model at what it drew.

    The KL of a site is in closed form, given the draws before it, where the guide draws before it all that the model does; else
    log q - log p of the draw. Both are unbiased. Raises Unavailable, with the rows, where a draw or its density is not finite.
    """
    exact = {name: _is_conditioned_before(pair, name) for name in pair.latents}
    zeros: Any = partial(torch.zeros, dtype=torch.float64, device="cpu")
    nothing = torch.zeros(points, 0, dtype=torch.bool, device="cpu")
    sites = {name: SiteTerms(zeros(points), exact[name], nothing) for name in pair.latents}
    elbo, likelihood = zeros(2, points)
    weights, first = zeros(samples, points), _First()
    for sample in range(samples):
        for rows in even_parts(points, pair.rows_at_a_time):
            run = _Run(pair, rows)
            likelihood[rows] += run.log_x / samples
            total = run.log_x - run.terms
            for name, site in sites.items():
                total = total - run.add(name, site, rows, sample, samples, points)
            elbo[rows] += total / samples
            weights[sample, rows] = run.log_weight
            if sample == 0:
                first.take(run)
        if progress:
            progress("all sites", (sample + 1) * points, samples * points)
    values, log_x, log_p = first.joined()
    if not pair.prior_masked:
        pair.note_prior({name: value[:1] for name, value in values.items()}, points)
    return JointTerms(elbo, likelihood, sites, weights, values, log_x, log_p)


class _Run:
    """The guide at some rows, and the model at what it drew."""

    def __init__(self, pair: Pair, rows: Tensor) -> None:
        x, self.pair, self.count = pair.rows(rows), pair, len(rows)
        self.q = pair.guide_trace(x)
        self.values = {name: self.q.nodes[name]["value"] for name in pair.latents}
        self.p = pair.model_trace(x, self.values)
        pair.look_at(self.p, rows)
        self.log_q = {name: self._log_prob(posterior_node(self.q, name)) for name in pair.latents}
        self.log_p = {name: self._log_prob(self.p.nodes[name]) for name in pair.latents}
        self.log_x: Any = sum(self._log_prob(self.p.nodes[name]) for name in pair.observed)
        self.terms: Any = sum((self._log_prob(self.q.nodes[name]) for name in pair.guide_terms), torch.zeros((), device="cpu"))
        self.log_weight = self.log_x + sum(self.log_p[name] - self.log_q[name] for name in pair.latents) - self.terms
        for name, value in self.values.items():
            check_densities(value[None].double(), self.log_q[name][None])

    def _log_prob(self, node: Any) -> Tensor:
        return log_prob_by_row(node, self.count).double().cpu()

    def add(self, name: str, site: SiteTerms, rows: Tensor, sample: int, samples: int, points: int) -> Tensor:
        """Adds what this run says of a site; returns its KL (n,)."""
        q = posterior_at(self.q, name, self.count, masked=True)
        p = prior_at(self.p.nodes[name], self.count)
        if not is_masked(q):
            self.pair.note_mask(p, name)
        kl = closed_form(q, p) if site.exact else None
        site.exact = kl is not None
        kl = self.log_q[name] - self.log_p[name] if kl is None else kl.cpu()
        site.rate[rows] += kl / samples
        entries = counted(posterior_node(self.q, name), self.count).cpu()
        if not site.entries.shape[1]:
            site.entries = torch.zeros(points, entries.shape[1], dtype=torch.bool, device="cpu")
        site.entries[rows] = entries
        terms = per_dimension(q, p) if site.exact else None
        if terms is not None:
            found = terms.sum(0).cpu() / (samples * points)
            site.per_dimension = found if site.per_dimension is None else site.per_dimension + found
        codes = probabilities(q, self.count)
        if codes is not None:
            site.usage.add(codes, entries.any(1).to(codes.device), keep=sample == 0)
        else:
            self._add_means(name, site, q, rows, sample, samples, points)
        return kl

    def _add_means(self, name: str, site: SiteTerms, q: Any, rows: Tensor, sample: int, samples: int, points: int) -> None:
        """The mean of q given the draws before it: those of even and of odd draws are two independent estimates of E_q[z].

        Of a single draw there is none, unless the mean does not depend on it.
        """
        known = samples > 1 or self.pair.latents_of_guide[0] == name  # else a draw before it is part of its mean
        try:
            mean = flat(q.mean).double().cpu()
        except (NotImplementedError, AttributeError):
            mean, known = flat(self.values[name]).double().cpu(), samples > 1
        mean = mean if known else torch.full_like(mean, math.nan)
        if site.halves is None:
            site.halves = torch.zeros(2, points, mean.shape[1], dtype=torch.float64, device="cpu")
        for half in (0, 1) if samples == 1 else (sample % 2,):
            site.halves[half, rows] += mean / max((samples + 1 - half) // 2, 1)


class _First:
    """Values and log-densities of the first draw, part by part."""

    def __init__(self) -> None:
        self.parts: list[tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]] = []

    def take(self, run: _Run) -> None:
        self.parts.append((run.values, run.log_x, run.log_p))

    def joined(self) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        values, log_x, log_p = zip(*self.parts, strict=True)
        return _joined(values), torch.cat(log_x), _joined(log_p)


def _joined(parts: Any) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _is_conditioned_before(pair: Pair, name: str) -> bool:
    """Whether the guide draws all sites before this one that the model draws before it, on which its prior may depend."""
    before = pair.latents[: pair.latents.index(name)]
    order = pair.latents_of_guide
    return set(before) <= set(order[: order.index(name)])


def shuffled_losses(pair: Pair, terms: JointTerms, names: list[str], points: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """What is lost, per point, when these sites together come from another datapoint: of log p(x|z), and of the others' too.

    (n,) in the order of a random cycle, in which neighbours share a draw. The other datapoint is one of which the same entries
    are masked out: of a shorter one, what was drawn where it has no steps would be read. Points without such another one, and
    those where the sites are masked out, take no part.
    """
    order, other = _other_points(torch.cat([terms.sites[name].entries[:points] for name in names], 1), seed)
    if len(order) < 2:
        raise Unavailable("a shuffle needs at least two points that have values of the same entries of these sites")
    device = terms.values[names[0]].device
    taken = {name: value[order.to(device)] for name, value in terms.values.items()}
    log_x, log_p = pair.log_joint(order, taken | {name: terms.values[name][other.to(device)] for name in names})
    others = [name for name in pair.latents if name not in names]
    of_x = terms.log_x[order] - log_x.double().cpu()
    of_others = sum((terms.log_p[name][order] - log_p[name].double().cpu() for name in others), torch.zeros_like(of_x))
    finite(of_x.nan_to_num(nan=math.nan, posinf=0.0, neginf=-math.inf), "log p(x|z) - log p(x|z')")
    return of_x, of_x + of_others


def _other_points(entries: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Points in random cycles, one for each pattern of entries (n, E) that are not masked out; and, of each, the one before."""
    kinds, kind, sizes = entries.unique(dim=0, return_inverse=True, return_counts=True)
    cycle = torch.randperm(len(entries), generator=torch.Generator(device="cpu").manual_seed(seed), device="cpu")
    cycle = cycle[(kinds.any(1) & (sizes > 1))[kind[cycle]]]
    cycles = [cycle[kind[cycle] == number] for number in kind[cycle].unique()]
    if not cycles:
        return cycle, cycle
    return torch.cat(cycles), torch.cat([part.roll(1) for part in cycles])


def groups_of(names: list[str]) -> dict[str, list[str]]:
    """Sites that differ by a number at the end alone, as z_1, z_2, ... of a sequence: name with a star -> the sites."""
    found: dict[str, list[str]] = {}
    for name in names:
        if numbered := NUMBERED.match(name):
            found.setdefault(f"{numbered[1]}*", []).append(name)
    return {name: sites for name, sites in found.items() if len(sites) > 1}


def site_reports(pair: Pair, terms: JointTerms, points: int, *, seed: int) -> list[SiteReport]:
    """A row for each latent site, and for each group of numbered ones; the losses on the first `points` rows.

    Cost: one pass of the model over these rows for each row.
    """
    rows = {name: [name] for name in pair.latents} | groups_of(pair.latents)
    return [_report(pair, terms, name, sites, points, seed) for name, sites in rows.items()]


def _report(pair: Pair, terms: JointTerms, name: str, sites: list[str], points: int, seed: int) -> SiteReport:
    parts = [terms.sites[site] for site in sites]
    codes = [_codes(pair, terms, site) for site in sites]
    units = [active_of(part, found) for part, found in zip(parts, codes, strict=True)]
    try:
        losses = [cycle_interval(loss) for loss in shuffled_losses(pair, terms, sites, points, seed=seed)]
    except Unavailable:
        losses = []
    return SiteReport(
        name=name,
        sites=sites,
        dimensions=sum(dimensions_of(part, found) for part, found in zip(parts, codes, strict=True)),
        rate=mean_interval(torch.stack([part.rate for part in parts]).sum(0)),
        rate_estimator="closed form" if all(part.exact for part in parts) else "Monte Carlo",
        active_units=None if None in units else sum(count for count in units if count is not None),
        shuffled_latent_loss=losses[0] if losses else None,
        shuffled_loss_with_latents=losses[1] if losses else None,
        kind=kind_of(losses[1] if losses else None),
        codes=codes[0] if len(sites) == 1 else None,
    )


def kind_of(loss: Interval | None) -> str:
    """Whether a site is used, by the ends of the interval of what is lost without it."""
    if loss is None or math.isnan(loss.low) or math.isnan(loss.high):
        return "undecided"
    if loss.low > NOTHING:
        return "used"
    return "collapsed" if -NOTHING <= loss.low and loss.high <= NOTHING else "undecided"


def _codes(pair: Pair, terms: JointTerms, site: str) -> Codes | None:
    part = terms.sites[site]
    if not part.usage.weight:
        return None
    return part.usage.codes(int(part.kept.sum()), given_others=pair.latents_of_guide.index(site) > 0)


def dimensions_of(part: SiteTerms, codes: Codes | None) -> int:
    """The dimensions of a site; of codes its positions."""
    return codes.positions if codes else 0 if part.halves is None else part.halves.shape[2]


def active_of(part: SiteTerms, codes: Codes | None) -> int | None:
    """The active units of a site, over the points where it is not masked out; None where no mean is finite."""
    if codes:
        return codes.active
    variances = variances_of(part)
    return None if variances is None else int((variances >= ACTIVE).sum())


def variances_of(part: SiteTerms) -> Tensor | None:
    """Var_x(E_q[z_d]) (D,), over the points where the site is not masked out; None where it cannot be had."""
    if part.halves is None or int(part.kept.sum()) < 2:
        return None
    halves = part.halves[:, part.kept]
    return mean_variances(halves) if halves.isfinite().all() else None
