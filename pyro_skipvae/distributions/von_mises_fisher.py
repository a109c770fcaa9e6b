"""The von Mises-Fisher distribution on the unit sphere of any dimension, the uniform one, and their exact divergences."""

import functools
import math
from typing import Any

import numpy as np
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions.kl import register_kl
from torch.nn.functional import normalize

from pyro_skipvae.blocks import check_sizes

SERIES_BELOW, TERMS = 100.0, 260  # of sqrt(order^2 + k^2): a series below, an expansion in its inverse above


class SphereUniform(TorchDistribution):
    """The uniform distribution on the unit sphere in D = `dimensions`: batch `batch_shape`, event (D,).

        log p(z) = -log area,   area = 2 pi^(D/2) / Gamma(D/2)

    Draws have the dtype and device of `like`. Raises ValueError for fewer than 2 dimensions.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.sphere
    has_rsample = True

    def __init__(
        self, dimensions: int, *, like: Tensor | None = None, batch_shape: Any = (), validate_args: bool | None = None
    ) -> None:
        self.like = torch.zeros(()) if like is None else like.new_zeros(())  # names the type and the device of draws
        super().__init__(torch.Size(batch_shape), torch.Size((check_dimensions(dimensions),)), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "SphereUniform":
        return SphereUniform(self.event_shape[0], like=self.like, batch_shape=batch_shape, validate_args=self._validate_args)

    @property
    def mean(self) -> Tensor:
        return self.like.new_zeros(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.mean, 1 / self.event_shape[0])

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return normalize(self.like.new_empty(self._extended_shape(sample_shape)).normal_(), dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return (0 * value).sum(-1) - self.entropy()  # as many as there are values, of their type

    def entropy(self) -> Tensor:
        return self.like.new_full(self.batch_shape, log_area(self.event_shape[0]))


class VonMisesFisher(TorchDistribution):
    """The von Mises-Fisher distribution on the unit sphere, concentrated around the direction loc.

        log q(z) = k <loc, z> + v ln k - (D/2) ln 2 pi - ln I_v(k),  v = D/2 - 1

    loc: (*batch, D) of length 1; concentration: k (*batch,) above 0; values (*batch, D). Draws are exact (Wood's rejection
    sampler) and carry the gradients of both parameters, that of k through the distribution function of <loc, z>, so that no
    term for the rejections is missing. torch's `kl_divergence` to `SphereUniform` and between two of these is exact. Raises
    ValueError for fewer than 2 dimensions.

    Reference: Wood 1994; Davidson et al. 2018, "Hyperspherical Variational Auto-Encoders"; for the gradient of k, Figurnov,
    Mohamed, Mnih 2018, "Implicit Reparameterization Gradients".
    """

    arg_constraints = {"loc": constraints.sphere, "concentration": constraints.positive}
    support = constraints.sphere
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor | float, validate_args: bool | None = None) -> None:
        check_dimensions(loc.shape[-1] if loc.dim() else 0)
        given = torch.as_tensor(concentration, dtype=loc.dtype, device=loc.device)
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], given.shape)
        self.loc, self.concentration = loc.expand(*batch_shape, loc.shape[-1]), given.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "VonMisesFisher":
        batch_shape = torch.Size(batch_shape)
        new = VonMisesFisher(
            self.loc.expand(batch_shape + self.event_shape), self.concentration.expand(batch_shape), validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        return self._cosine[..., None] * self.loc

    @property
    def variance(self) -> Tensor:
        k, less = self.concentration.double(), self._cosine_less_one
        across = mean_cosine(k, self.event_shape[0]) / k  # E[1 - w^2] / (D - 1), w = <loc, z>
        along = -less * (2 + less) - (self.event_shape[0] - 1) * across
        across, along = (part.to(self.loc.dtype)[..., None] for part in (across, along))
        return along * self.loc.square() + across * (1 - self.loc.square())

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        loc = self.loc.expand(shape)
        angle = _Angle.apply(self.concentration.expand(shape[:-1]), self.event_shape[0])[..., None]
        noise = torch.randn_like(loc)
        across = normalize(noise - (noise * loc).sum(-1, keepdim=True) * loc, dim=-1)
        # Noise that happens to lie along loc leaves little across it, which rounding turns a little: hence the second unit.
        return normalize(angle.cos() * loc + angle.sin() * across, dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # k (<loc, z> - 1): <loc, z> itself has too few digits where k is large.
        return self._log_peak.to(self.loc.dtype) - self.concentration * (self.loc - value).square().sum(-1) / 2

    def entropy(self) -> Tensor:
        return (-self._log_peak - self.concentration.double() * self._cosine_less_one).to(self.loc.dtype)

    @property
    def _cosine(self) -> Tensor:
        return mean_cosine(self.concentration, self.event_shape[0])

    @property
    def _cosine_less_one(self) -> Tensor:
        return log_bessel_ratio(self.event_shape[0] / 2 - 1, self.concentration.double()).expm1()

    @property
    def _log_peak(self) -> Tensor:
        """log q at loc itself, in float64."""
        D, k = self.event_shape[0], self.concentration.double()
        return k + (D / 2 - 1) * k.log() - D / 2 * math.log(2 * math.pi) - log_bessel(D / 2 - 1, k)


@register_kl(VonMisesFisher, SphereUniform)
def _from_uniform(q: VonMisesFisher, p: SphereUniform) -> Tensor:
    """k A(k) + v ln k - (D/2) ln 2 pi - ln I_v(k) + log area, A(k) the mean of <loc, z>."""
    return p.entropy() - q.entropy()


@register_kl(VonMisesFisher, VonMisesFisher)
def _between(q: VonMisesFisher, p: VonMisesFisher) -> Tensor:
    less = q._cosine_less_one
    apart = (1 + less) * (p.loc - q.loc).double().square().sum(-1) / 2 - less  # 1 - <loc of p, mean of q>
    kl = q._log_peak + q.concentration.double() * less - p._log_peak + p.concentration.double() * apart
    return kl.to(q.loc.dtype)


@register_kl(SphereUniform, SphereUniform)
def _none(q: SphereUniform, p: SphereUniform) -> Tensor:
    return q.like.new_zeros(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


def concentration_for(rate: float, dimensions: int) -> float:
    """The concentration at which KL(von Mises-Fisher || uniform) is `rate` nats in a number of dimensions, by bisection.

    Raises ValueError for a rate that is not above 0 and finite, or one whose concentration is above 1e8.
    """
    if not 0 < rate < math.inf:
        raise ValueError(f"expected a rate above 0 nats, got {rate}")
    low, high = 1e-8, 1e8
    highest = committed_by(high, dimensions)
    if rate > highest:
        raise ValueError(f"expected a rate up to {highest:.0f} nats on a sphere of {dimensions} dimensions, got {rate:g}")
    while high / low > 1 + 1e-12:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if committed_by(middle, dimensions) < rate else (low, middle)
    return high


def committed_by(concentration: float, dimensions: int) -> float:
    """KL(von Mises-Fisher || uniform) in nats at a concentration, whatever the direction."""
    loc = torch.eye(check_dimensions(dimensions), dtype=torch.float64)[0]
    q = VonMisesFisher(loc, concentration)
    return float(_from_uniform(q, SphereUniform(dimensions, like=loc)))


def log_bessel(order: float, k: Tensor) -> Tensor:
    """ln I_v(k), the modified Bessel function of the first kind, of an order v >= 0 and k > 0; differentiable in k.

    Computed in float64, to about 1e-10: by its power series where sqrt(v^2 + k^2) < 100, else by Debye's expansion, which
    neither overflows nor vanishes (the values themselves do, from v = 150 or k = 700 on).

    Reference: Abramowitz and Stegun 1964, 9.6.10 and 9.7.7.
    """
    wide = k.double()
    root, correction = _debye(order, wide)
    expansion = root - order * (order / wide).asinh() - (2 * math.pi * root).log() / 2 + correction.log()
    return torch.where(root < SERIES_BELOW, _series(order, wide), expansion).to(k.dtype)


def log_bessel_ratio(order: float, k: Tensor) -> Tensor:
    """ln I_(v+1)(k) - ln I_v(k) of an order v >= 0 and k > 0: as `log_bessel`, but not as a difference of large numbers."""
    wide = k.double()
    (root, below), (above, over) = (_debye(v, wide) for v in (order, order + 1))
    apart = (2 * order + 1) / (root + above) - torch.log1p((2 * order + 1) / root.square()) / 4 + (over / below).log()
    apart = apart - (order + 1) * ((order + 1) / wide).asinh() + order * (order / wide).asinh()
    return torch.where(above < SERIES_BELOW, _series(order + 1, wide) - _series(order, wide), apart).to(k.dtype)


def _series(order: float, k: Tensor) -> Tensor:
    """ln I_v(k) by the power series."""
    small = k.clamp(max=SERIES_BELOW)  # of what is not used, no infinite gradient
    m = torch.arange(TERMS, dtype=torch.float64, device=k.device)
    terms = (2 * m + order) * (small / 2).log()[..., None] - torch.lgamma(m + 1) - torch.lgamma(m + order + 1)
    return terms.logsumexp(-1)


def _debye(order: float, k: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(v^2 + k^2), and the sum of Debye's expansion in its inverse."""
    root = (order**2 + k.square()).sqrt()
    p = 1 / root
    t2 = (order * p).square()
    correction = 1 + p * (3 - 5 * t2) / 24 + p**2 * (81 - 462 * t2 + 385 * t2**2) / 1152
    correction = correction + p**3 * (30375 - 369603 * t2 + 765765 * t2**2 - 425425 * t2**3) / 414720
    return root, correction + p**4 * _u4(t2)


def _u4(t2: Tensor) -> Tensor:
    """The fourth polynomial of Debye's expansion, divided by t^4."""
    polynomial = 4465125 - 94121676 * t2 + 349922430 * t2**2 - 446185740 * t2**3 + 185910725 * t2**4
    return polynomial / 39813120


def mean_cosine(k: Tensor, dimensions: int) -> Tensor:
    """A(k) = I_(D/2)(k) / I_(D/2 - 1)(k), the mean of <loc, z>, of concentrations k in D dimensions."""
    return log_bessel_ratio(dimensions / 2 - 1, k.double()).exp().to(k.dtype)


class _Angle(torch.autograd.Function):
    """Draws of the angle a of z from loc, with density in proportion to sin(a)^(D - 2) exp(k cos a); da/dk at equal F(a)."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor, dimensions: int) -> Tensor:
        angle = _wood(concentration.detach().double(), dimensions).clamp(-1, 1).acos()
        ctx.save_for_backward(concentration, angle)
        ctx.dimensions = dimensions
        return angle.to(concentration.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        concentration, angle = ctx.saved_tensors
        return gradient * _slope(concentration.detach().double(), angle, ctx.dimensions).to(gradient.dtype), None


def _wood(k: Tensor, dimensions: int) -> Tensor:
    """Exact draws of w = <loc, z>, one of each concentration, by rejection; three of four proposals at least are taken."""
    m = dimensions - 1
    b = m / ((4 * k.square() + m**2).sqrt() + 2 * k)
    x0 = (1 - b) / (1 + b)
    c = k * x0 + m * (4 * b / (1 + b).square()).log()  # ln(1 - x0^2), which cancels for b near 0
    drawn, left = torch.empty_like(k), torch.ones_like(k, dtype=torch.bool)
    half = k.new_full((), m / 2)
    proposals = torch.distributions.Beta(half, half, validate_args=False)
    while bool(left.any()):
        e = proposals.sample(k.shape)
        w = (1 - (1 + b) * e) / (1 - (1 - b) * e)
        refused = k * w + m * (1 - x0 * w).log() - c < torch.rand_like(k).log()
        taken = left & ~refused  # what is not a number is taken as it is, not asked for ever
        drawn, left = torch.where(taken, w, drawn), left & ~taken
    return drawn


def _slope(k: Tensor, angle: Tensor, dimensions: int) -> Tensor:
    """da/dk = -(dF(a; k)/dk) / p(a; k) = -integral from 0 to a of (cos b - A(k)) p(b) db / p(a).

    Gauss-Legendre over the side of a on which there is less of it, as far as there is anything: the integrand is smooth up
    to both ends, in all dimensions.
    """
    A = mean_cosine(k, dimensions)
    angle = angle.clamp(1e-12, math.pi - 1e-12)  # at the ends themselves p(a) is 0
    nodes, weights = (torch.as_tensor(values, dtype=k.dtype, device=k.device) for values in _legendre(64))
    near = angle.cos() > A
    width = 12 / (k + dimensions).sqrt()  # about 12 deviations of the angle
    start = torch.where(near, (angle - width).clamp(min=0), angle)
    end = torch.where(near, angle, (angle + width).clamp(max=math.pi))
    b = start[..., None] + (end - start)[..., None] * nodes
    log_ratio = (dimensions - 2) * (b.sin().log() - angle.sin().log()[..., None]) + k[..., None] * (
        b.cos() - angle.cos()[..., None]
    )
    integral = ((b.cos() - A[..., None]) * log_ratio.exp() * weights).sum(-1) * (end - start)
    return torch.where(near, -integral, integral)


@functools.cache
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def log_area(dimensions: int) -> float:
    """The logarithm of the area of the unit sphere in a number of dimensions."""
    return math.log(2) + dimensions / 2 * math.log(math.pi) - math.lgamma(dimensions / 2)


def check_dimensions(dimensions: int) -> int:
    """The number itself; ValueError for one below 2."""
    check_sizes(2, **{"dimensions of a sphere": dimensions})
    return dimensions
