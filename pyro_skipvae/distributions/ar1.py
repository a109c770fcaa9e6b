"""Stationary autoregressive sequences of order one, and their divergences in closed form."""

import math
import numbers
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.distributions.kl import register_kl

CORRELATION = constraints.independent(constraints.interval(-1.0, 1.0), 1)


class AR1(TorchDistribution):
    """A stationary Gaussian AR(1) sequence with unit variance at every step, independent between channels.

        z_1 ~ N(0, 1),  z_t | z_(t-1) ~ N(a z_(t-1), 1 - a^2),  t = 2..T

    correlation: a (*batch, C), the correlation of neighbouring steps, strictly between -1 and 1; length: T; values z
    (*batch, T, C). torch's `kl_divergence` is exact from independent normals with event (T, C), and between two AR1. Raises
    ValueError for another correlation or a length below 2.

    Reference: Razavi, van den Oord, Poole, Vinyals 2019, section 2; their figure 1 calls a the squared correlation, but in
    their formula it is the correlation.
    """

    arg_constraints = {"correlation": CORRELATION}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, correlation: Tensor, length: int, validate_args: bool | None = None) -> None:
        check_length(length)
        checked = self._validate_args if validate_args is None else validate_args
        if correlation.dim() < 1 or checked and not bool((correlation.abs() < 1).all()):
            raise ValueError(f"expected correlations (..., channels) strictly between -1 and 1, got {_shown(correlation)}")
        self.correlation, self.length = correlation, length
        super().__init__(correlation.shape[:-1], torch.Size((length, correlation.shape[-1])), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "AR1":
        new = self._get_checked_instance(AR1, _instance)
        batch_shape = torch.Size(batch_shape)
        new.correlation, new.length = self.correlation.expand(*batch_shape, self.correlation.shape[-1]), self.length
        super(AR1, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def innovation_variance(self) -> Tensor:
        """1 - a^2, the variance of a step given the one before, (*batch, C)."""
        return (1 - self.correlation) * (1 + self.correlation)  # of a near 1 the square alone loses digits

    @property
    def mean(self) -> Tensor:
        return self.correlation.new_zeros(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        return torch.ones_like(self.mean)

    @property
    def stddev(self) -> Tensor:
        return self.variance

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.correlation.dtype, device=self.correlation.device)
        first, *rest = noise.unbind(-2)
        steps, scale = [first], self.innovation_variance.sqrt()
        for fresh in rest:
            steps.append(self.correlation * steps[-1] + scale * fresh)
        return torch.stack(steps, -2)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        change = value[..., 1:, :] - self.correlation[..., None, :] * value[..., :-1, :]
        variance = self.innovation_variance
        squares = value[..., 0, :].square() + change.square().sum(-2) / variance
        constant = self.length * math.log(2 * math.pi) + (self.length - 1) * variance.log()
        return -(squares + constant).sum(-1) / 2

    def entropy(self) -> Tensor:
        per_channel = self.length * (1 + math.log(2 * math.pi)) + (self.length - 1) * self.innovation_variance.log()
        return per_channel.sum(-1) / 2


def check_length(length: int) -> None:
    """Raises ValueError unless a sequence of that length has a step that follows another."""
    if isinstance(length, bool) or not isinstance(length, numbers.Integral) or length < 2:
        raise ValueError(f"expected a length of at least 2 steps, since a single one has no neighbour, got {length!r}")


def rate_per_step(loc: Tensor, scale: Tensor, p: AR1) -> Tensor:
    """What each step and channel of q = N(loc, scale^2), (..., T, C), adds to KL(q || p) in nats, none of it negative.

        r_1 = 1/2 [f(s_1^2) + m_1^2],   f(v) = v - ln v - 1
        r_t = 1/2 [f(s_t^2 / (1 - a^2)) + ((m_t - a m_(t-1))^2 + a^2 s_(t-1)^2) / (1 - a^2)],  t = 2..T

    r_t is E_q KL(q(z_t) || p(z_t | z_(t-1))). Raises ValueError for other shapes than those of p.
    """
    if loc.shape[-2:] != p.event_shape:
        raise ValueError(f"expected a posterior over (length, channels) = {tuple(p.event_shape)}, got {tuple(loc.shape[-2:])}")
    a, innovation = p.correlation[..., None, :], p.innovation_variance[..., None, :]
    variance = scale.square()
    first = _excess(variance[..., :1, :]) + loc[..., :1, :].square()
    moved = (loc[..., 1:, :] - a * loc[..., :-1, :]).square() + a.square() * variance[..., :-1, :]
    later = _excess(variance[..., 1:, :] / innovation) + moved / innovation
    return torch.cat([first.expand(*later.shape[:-2], 1, -1), later], -2) / 2


def normal_factors(q: Any) -> tuple[Tensor, Tensor] | None:
    """loc and scale (*batch, *event) of a distribution whose elements are independent normals, else None."""
    while isinstance(q, Independent):
        q = q.base_dist
    return (q.loc, q.scale) if isinstance(q, Normal) else None


@register_kl(Independent, AR1)
def _kl_independent_ar1(q: Any, p: AR1) -> Tensor:
    """KL of independent normals, event (T, C), from an AR(1): exact, with a cost that grows as T."""
    found = normal_factors(q)
    if found is None or len(q.event_shape) != 2:
        raise NotImplementedError
    return rate_per_step(*found, p).sum((-2, -1))


@register_kl(AR1, AR1)
def _kl_ar1_ar1(q: AR1, p: AR1) -> Tensor:
    if q.event_shape != p.event_shape:
        raise ValueError(f"expected sequences of one shape, got {tuple(q.event_shape)} and {tuple(p.event_shape)}")
    ratio = q.innovation_variance / p.innovation_variance
    moved = (q.correlation - p.correlation).square() / p.innovation_variance
    return (q.length - 1) * (_excess(ratio) + moved).sum(-1) / 2


def _excess(variance: Tensor) -> Tensor:
    return variance - variance.log() - 1


def _shown(correlation: Tensor) -> str:
    return str(correlation.tolist() if correlation.numel() < 9 else f"{correlation.min():g} to {correlation.max():g}")
