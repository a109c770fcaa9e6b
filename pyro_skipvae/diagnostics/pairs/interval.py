"""A value with its 95 % confidence interval."""

from dataclasses import dataclass

from torch import Tensor


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
    """Standard error of the mean over a cycle whose neighbours are dependent: SE^2 = (c_0 + 2 max(c_1, 0)) / N.

    c_k is the covariance of points that are k steps apart on the cycle, per_point (N,).
    """
    centred = per_point - per_point.mean()
    shared = (centred * centred.roll(1)).mean().clamp(min=0)
    return ((per_point.var() + 2 * shared) / len(per_point)).sqrt().item()


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
        half = 1.96 * (self.squares / (self.count - 1) / self.count) ** 0.5
        return Interval(self.mean, self.mean - half, self.mean + half)


def mean_interval(per_point: Tensor) -> Interval:
    """The mean over x with mean +- 1.96 standard errors, clustered by x: per_point (N,) is already averaged per x."""
    value, half = per_point.mean().item(), 1.96 * standard_error(per_point)
    return Interval(value, value - half, value + half)
