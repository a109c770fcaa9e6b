"""Sequences whose steps are correlated: a prior that a factorised posterior cannot reach, and how far it stays away."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.distributions.ar1 import AR1 as AR1Distribution
from pyro_skipvae.distributions.ar1 import check_length

CEILING = math.log(2) / 2  # nats, half a bit: what a step and channel of a long sequence commit at most
LARGEST = 0.999  # of the correlations that are looked for: nearer to 1 only the two ends of a sequence gain


class AR1(nn.Module):
    """The prior of the delta-VAE: () -> a stationary AR(1) sequence in each channel, batch (), event (length, channels).

        z_1 ~ N(0, 1),  z_t | z_(t-1) ~ N(a z_(t-1), 1 - a^2)

    No posterior that is independent over the steps has a KL from it below `committed_rate(length, correlation)` nats.
    correlation: a, one number for all channels or one for each, (channels,), strictly between 0 and 1. It is fixed, or with
    `learn=True` learned within `bounds`; what is committed is then the rate at the lower bound.
    Raises ValueError for a correlation outside (0, 1), or outside the bounds where it is learned, a length below 2, and fewer
    than 1 channel.

    Reference: Razavi, van den Oord, Poole, Vinyals 2019, section 2.
    """

    fixed: Tensor

    def __init__(
        self,
        length: int,
        channels: int,
        *,
        correlation: float | Sequence[float] | Tensor,
        learn: bool = False,
        bounds: tuple[float, float] = (0.01, LARGEST),
    ) -> None:
        super().__init__()
        check_length(length)
        self.length, self.bounds = length, bounds if learn else None
        values = torch.as_tensor(_per_channel(correlation, channels), dtype=torch.float64)
        if (kept := values.to(torch.get_default_dtype())).max() == 1:
            raise ValueError(f"expected a correlation that {kept.dtype} can tell from 1, got {values.max():.17g}")
        if learn:
            self.logits = nn.Parameter(_unbounded(values, *bounds).to(torch.get_default_dtype()))
        else:
            self.register_buffer("fixed", values.to(torch.get_default_dtype()))

    @property
    def correlation(self) -> Tensor:
        """a of each channel, (channels,)."""
        if self.bounds is None:
            return self.fixed
        low, high = self.bounds
        return low + (high - low) * self.logits.sigmoid()

    def forward(self) -> AR1Distribution:
        return AR1Distribution(self.correlation, self.length)

    def committed_rate(self) -> float:
        """The smallest KL(q || p) in nats of a q(z|x) that is independent over the steps, at the present correlation."""
        return committed_rate(self.length, self.correlation)


def committed_rate(length: int, correlation: float | Sequence[float] | Tensor) -> float:
    """The committed rate: the smallest KL(q || AR(1)) in nats of any q that is independent over the steps, over all channels.

        1/2 sum_k [(n - 2) ln(1 + a_k^2) - ln(1 - a_k^2)],   n = length

    It is attained at mean 0 and variance 1 - a^2 at both ends, (1 - a^2) / (1 + a^2) between. It bounds the rate and not the
    mutual information, which is 0 for this q. correlation: of one channel, or (channels,), at least 0 and below 1.
    Raises ValueError for another correlation, or a length below 2.

    Reference: Razavi, van den Oord, Poole, Vinyals 2019, section 2.
    """
    check_length(length)
    total = 0.0
    for a in _numbers(correlation):
        if not 0 <= a < 1:
            raise ValueError(f"expected a correlation of at least 0 and below 1, got {a:g}")
        total += ((length - 2) * math.log1p(a * a) - math.log1p(-a) - math.log1p(a)) / 2
    return total


def correlation_for(rate: float, length: int, channels: int) -> float:
    """The correlation at which `channels` channels that share it commit `rate` nats: the inverse of `committed_rate`.

    Raises ValueError for a rate of 0 or less or that no correlation up to 0.999 reaches (a long sequence commits at most
    (ln 2)/2 nats per step and channel), a length below 2, and fewer than 1 channel.
    """
    check_length(length)
    check_sizes(channels=channels)
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"expected a rate above 0 nats, got {rate:g}")
    most = largest_rate(length, channels)
    if rate > most:
        raise ValueError(
            f"expected a rate of at most {most:.4g} nats, what {length} steps of {channels} "
            f"{'channel' if channels == 1 else 'channels'} commit at a correlation of {LARGEST}, got {rate:g}; in a long "
            f"sequence a step and channel commits (ln 2)/2 = {CEILING:.3f} nats at most: use more channels or steps"
        )
    low, high = 0.0, LARGEST
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if channels * committed_rate(length, middle) < rate else (low, middle)
    return high


def largest_rate(length: int, channels: int) -> float:
    """What sequences commit in nats at a correlation of 0.999 in all channels: more is not offered."""
    return channels * committed_rate(length, LARGEST)


def evenly_spaced(low: float, high: float, channels: int) -> list[float]:
    """Correlations of the channels, evenly from `low` to `high`, as the paper has them."""
    check_sizes(channels=channels)
    if channels == 1 and low != high:
        raise ValueError(f"expected one correlation for 1 channel, got {low:g} to {high:g}")
    return torch.linspace(low, high, channels, dtype=torch.float64).tolist()


def _per_channel(correlation: float | Tensor, channels: int) -> list[float]:
    check_sizes(channels=channels)
    values = _numbers(correlation)
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise ValueError(f"expected one correlation, or one for each of {channels} channels, got {len(values)}")
    for a in values:
        if not 0 < a < 1:
            raise ValueError(f"expected correlations strictly between 0 and 1, got {a:g}")
    return values


def _numbers(correlation: float | Tensor) -> list[float]:
    try:
        return torch.as_tensor(correlation, dtype=torch.float64).detach().flatten().tolist()
    except (TypeError, ValueError):
        raise ValueError(f"expected a correlation as a number, or one for each channel, got {correlation!r}") from None


def _unbounded(values: Tensor, low: float, high: float) -> Tensor:
    if not (0 < low < high < 1 and bool(((values > low) & (values < high)).all())):
        raise ValueError(
            f"expected 0 < {low} < correlation < {high} < 1 to learn it within these bounds, got {values.tolist()}"
        )
    return torch.logit((values - low) / (high - low))
