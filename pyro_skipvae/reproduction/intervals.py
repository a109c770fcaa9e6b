"""Differences between two places of a table, with their 95 % intervals: over seeds, and over test points."""

import math
from dataclasses import dataclass

import torch

from pyro_skipvae.diagnostics.estimates.perplexity import perplexity_difference
from pyro_skipvae.diagnostics.pairs.interval import mean_interval, welch_half_width

from .tables import cell_at, entries_at, interval_of

PER_POINT = {  # what entries hold of each test point
    "elbo": "elbo_per_point",
    "ppl": "log_likelihood_per_point",
    "log_likelihood_per_point": "log_likelihood_per_point",
}


@dataclass(frozen=True)
class Difference:
    """A mean difference, the ends of its 95 % interval, and what that is over."""

    value: float
    low: float
    high: float
    over: str

    @property
    def sign(self):
        """1 or -1 where the interval leaves out 0, else 0."""
        return (self.low > 0) - (self.high < 0)

    def __str__(self):
        value = f" {self.value:+.2f}," if self.over.startswith("paired") else ""
        return f"{self.over}:{value} {self.low:+.2f} to {self.high:+.2f}"


def intervals(table, entries, column, first, second):
    """The differences of a column between two places (row, arm), over seeds and over test points, as far as they are known."""
    seeds = over_seeds(*(cell_at(table, entries, place, column) for place in (first, second)))
    points = paired_difference(table, entries, column, first, second)
    if seeds is None and points is None:
        points = unpaired_difference(table, entries, column, first, second)
    return [difference for difference in (seeds, points) if difference]


def over_seeds(first, second):
    """First - second of two cells by Welch's t over seeds: a `Difference`, or None where an arm has one seed.

    None too where all seeds of an arm agree in both arms, and there are fewer than three.
    """
    if first.deviation is None or second.deviation is None:
        return None
    delta, half = first.ours - second.ours, welch_half_width(*((cell.deviation, cell.seeds) for cell in (first, second)))
    if not half and min(first.seeds, second.seeds) < 3:  # counts, the same for every seed: two are little to go by
        return None
    return Difference(delta, delta - half, delta + half, "over seeds")


def paired_difference(table, entries, column, first, second):
    """The ELBO or PPL in one place (row, arm) minus that in another, on the same test points: a `Difference`, or None.

    Of the seeds that both places have: a mean over others would be another model's. Means over seeds come first; the interval
    (95 %) is over points.
    """
    arms = [entries_at(table, entries, *place) for place in (first, second)]
    name = PER_POINT.get(column)
    arms = [[entry for entry in own if name in entry] for own in arms]
    seeds = [{entry["seed"] for entry in own} for own in arms]
    common = sorted(set.intersection(*seeds))
    lists = [[entry[name] for entry in own if entry["seed"] in common] for own in arms]
    splits = {entry["report"]["card"].get("data", {}).get("split") for own in arms for entry in own if entry["seed"] in common}
    if not all(lists) or len(splits) > 1 or len({len(values) for own in lists for values in own}) > 1 or len(lists[0][0]) < 2:
        return None  # not known, or not of the same points
    means = [torch.tensor(own, dtype=torch.float64).mean(0) for own in lists]
    if column == "ppl":
        tokens = [entry["tokens_per_point"] for own in arms for entry in own if entry["seed"] in common]
        if any(other != tokens[0] for other in tokens):
            return None
        found = perplexity_difference(*(-nats for nats in means), torch.tensor(tokens[0]))
    else:
        found = mean_interval(means[0] - means[1])
    some = "" if seeds[0] == seeds[1] else f" of seed{'s' if len(common) > 1 else ''} {', '.join(map(str, common))}"
    return Difference(found.value, found.low, found.high, f"paired on {len(means[0]):,} test points{some}")


def unpaired_difference(table, entries, column, first, second):
    """A number in one place (row, arm) minus that in another, as of independent test points: a `Difference`, or None.

    From the intervals of reports and the standard errors of analyses, of one run in each place; what the two models have in
    common on the same points, which usually makes the interval shorter, is not known here.
    """
    runs = [entries_at(table, entries, *place) for place in (first, second)]
    if [len(own) for own in runs] != [1, 1]:
        return None
    found = [interval_of(own[0], column) for own in runs]
    if None in found:
        return None
    (one, left), (other, right) = found
    half = math.hypot(left, right)
    return Difference(one - other, one - other - half, one - other + half, "unpaired over test points")
