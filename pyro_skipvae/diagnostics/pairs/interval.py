"""A value with its 95 % confidence interval."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval, in nats per datapoint."""

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


def mean_interval(per_point: Tensor) -> Interval:
    """The mean over x with mean +- 1.96 standard errors, clustered by x: per_point (N,) is already averaged per x."""
    value, half = per_point.mean().item(), 1.96 * standard_error(per_point)
    return Interval(value, value - half, value + half)
