"""Differences between two places of a table, with their 95 % intervals: over seeds, and over test points."""

import math
import statistics
from dataclasses import dataclass

from scipy.stats import t as student

from pyro_skipvae.reproduction import cell_at, entries_at, interval_of


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
        return f"{self.over}{value} {self.low:+.2f} to {self.high:+.2f}"


def intervals(table, entries, column, first, second):
    """The differences of a column between two places (row, arm), over seeds and over test points, as far as they are known."""
    seeds = over_seeds(*(cell_at(table, entries, place, column) for place in (first, second)))
    points = paired_difference(table, entries, first, second) if column == "elbo" else None
    if seeds is None and points is None:
        points = unpaired_difference(table, entries, column, first, second)
    return [difference for difference in (seeds, points) if difference]


def over_seeds(first, second):
    """First - second of two cells by Welch's t over seeds: a `Difference`, or None where an arm has one seed."""
    if first.deviation is None or second.deviation is None:
        return None
    parts = [cell.deviation**2 / cell.seeds for cell in (first, second)]
    delta, total = first.ours - second.ours, sum(parts)
    if not total:
        return Difference(delta, delta, delta, "over seeds")
    freedom = total**2 / sum(part**2 / (cell.seeds - 1) for part, cell in zip(parts, (first, second), strict=True))
    half = float(student.ppf(0.975, freedom)) * math.sqrt(total)
    return Difference(delta, delta - half, delta + half, "over seeds")


def paired_difference(table, entries, first, second):
    """The ELBO in one place (row, arm) minus that in another, point by point on the same test points: a `Difference`, or None.

    Means over seeds come first; the interval (95 %) is over points.
    """
    arms = [entries_at(table, entries, *place) for place in (first, second)]
    lists = [[e["elbo_per_point"] for e in own if "elbo_per_point" in e] for own in arms]
    if not all(lists) or len({len(values) for own in lists for values in own}) > 1:
        return None  # not of the same points
    means = [[statistics.fmean(values) for values in zip(*own, strict=True)] for own in lists]
    delta = [one - other for one, other in zip(*means, strict=True)]
    if len(delta) < 2:
        return None
    mean, half = statistics.fmean(delta), 1.96 * statistics.stdev(delta) / len(delta) ** 0.5
    return Difference(mean, mean - half, mean + half, f"paired on {len(delta):,} test points")


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
