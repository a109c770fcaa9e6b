"""A value with its 95 % confidence interval, by Student's t: it holds for few points too, where they are near normal."""

import math
from dataclasses import dataclass

from torch import Tensor

FEWEST = 10  # points: fewer discrete values may agree by chance


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % interval, in nats per datapoint where nothing else is said."""

    value: float
    low: float
    high: float


def standard_error(per_point: Tensor) -> float:
    """Standard error of the mean over x: sd(per_point) / sqrt(N), per_point (N,)."""
    return (per_point.std() / len(per_point) ** 0.5).item()


def cycle_standard_error(per_point: Tensor) -> float:
    """Standard error of the mean over a cycle whose neighbours are dependent: SE^2 = max(c_0 + 2 c_1, s^2) / N.

    c_k is the covariance of points that are k steps apart on the cycle, times N / (N - 3) for the deviations are from their own
    mean; s^2 the variance of independent points; per_point (N,). It is nan for fewer than 4 points, or 10 that all agree.
    """
    count, centred = len(per_point), per_point - per_point.mean()
    variance = per_point.var()
    if count < 4 or (count < FEWEST and not variance):
        return math.nan
    along = (centred.square() + 2 * centred * centred.roll(1)).sum() / (count - 3)
    return (along.maximum(variance) / count).sqrt().item()


def half_width(error: float, points: int) -> float:
    """Half of the 95 % interval of a mean over `points` points, from its standard error; nan for fewer than 2 points.

    t_{0.975}(points - 1) error: 12.7 standard errors for 2 points, 2.6 for 6 and 1.96 for many. Points that are far from
    normal need to be many: with the square of a normal variable 10 of them cover the mean 86 % of the time.
    """
    return _half(error, points - 1)


def cycle_half_width(error: float, points: int) -> float:
    """Half of the 95 % interval of a mean over a cycle, from its `cycle_standard_error`: t_{0.975}(points / 3) error.

    A variance that is summed from three covariances with equal weights knows as much as one of a third of the points. Where a
    few points lose much and the others nothing, the upper end is too low unless they are many.
    """
    return _half(error, points / 3)


def welch_half_width(*groups: tuple[float, int]) -> float:
    """Half of the 95 % interval of a difference of two independent means: (standard deviation, number) of each group.

    The degrees of freedom are those of Welch 1947. It is 0 where neither group varies, and too short for one group of 2 beside
    a large one: with 2 and 20 it covers the difference 88 % of the time.
    """
    parts = [deviation**2 / number for deviation, number in groups]
    if not (total := sum(parts)):
        return 0.0
    freedom = total**2 / sum(part**2 / (number - 1) for part, (_, number) in zip(parts, groups, strict=True))
    return _half(math.sqrt(total), freedom)


def _half(error: float, freedom: float) -> float:
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(freedom, 0.975)) * error if freedom > 0 else math.nan


class Moments:
    """Mean and 95 % interval of numbers that come part by part, in memory that does not grow with them."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0  # squares: the sum of squared deviations from the mean

    def add(self, per_point: Tensor) -> None:
        """Takes in further points, (n,). Reference: Chan, Golub and LeVeque 1983."""
        count, mean = len(per_point), per_point.mean().item()
        total, apart = self.count + count, mean - self.mean
        self.squares += (per_point - mean).square().sum().item() + apart**2 * self.count * count / total
        self.count, self.mean = total, self.mean + apart * count / total

    def interval(self) -> Interval:
        """What `mean_interval` gives for all of them at once."""
        error = (self.squares / (self.count - 1) / self.count) ** 0.5 if self.count > 1 else math.nan
        half = half_width(error, self.count)
        return Interval(self.mean, self.mean - half, self.mean + half)


def mean_interval(per_point: Tensor) -> Interval:
    """The mean over x with its interval, clustered by x: per_point (N,) is already averaged per x."""
    value, half = per_point.mean().item(), half_width(standard_error(per_point), len(per_point))
    return Interval(value, value - half, value + half)


def cycle_interval(per_point: Tensor) -> Interval:
    """The mean over a cycle with its interval, per_point (N,) in the order of the cycle; all infinite where the mean is."""
    value = per_point.mean().item()
    half = cycle_half_width(cycle_standard_error(per_point), len(per_point)) if math.isfinite(value) else 0.0
    return Interval(value, value - half, value + half)
