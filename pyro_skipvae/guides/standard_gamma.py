"""Draws of the standard gamma distribution that can be differentiated any number of times.

torch's own are differentiated once, by an approximation. Here z is the quantile of a uniform number u, and its derivative
that of a point which stays at one value of the distribution function F:

    y = log z,   F(z; a) = u,   dy/da = -(dF/da) / p(y; a)

F is an integral of the density p, so the derivative is one too: it is computed by a sum that torch differentiates further.

Reference: Figurnov, Mohamed, Mnih 2018, equation 6.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode


class QuantileGammas(TorchFunctionMode):
    """Inside, what torch draws from a standard gamma is a quantile, differentiable any number of times."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch._standard_gamma:
            concentration = args[0]
            z = log_standard_gamma(concentration).exp()
            return z.clamp_min(torch.finfo(z.dtype).tiny)  # as torch: below it the density is infinite
        return function(*args, **(kwargs or {}))


def log_standard_gamma(concentration: Tensor) -> Tensor:
    """log z, z ~ Gamma(concentration, 1), of the same shape, by uniform numbers of the global generator."""
    u = torch.rand(concentration.shape, dtype=torch.float64, device=concentration.device)
    y: Tensor = _LogQuantile.apply(concentration.double(), u)
    return y.to(concentration.dtype)


class _LogQuantile(Function):
    """y(a, u) with F(exp y; a) = u, both float64."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, u: Tensor) -> Tensor:
        from scipy import special  # slow to import, and few models draw from a gamma

        u = u.clamp(1e-15, 1 - 1e-15)
        z = torch.as_tensor(special.gammaincinv(a.cpu().numpy(), u.cpu().numpy()), device=a.device)
        # Where z is tiny, F = z^a / Gamma(a + 1) to all digits, also where z itself is too small for a number.
        y = torch.where(z > 1e-100, z.clamp_min(1e-100).log(), (u.log() + torch.lgamma(a + 1)) / a)
        ctx.save_for_backward(a, y)
        return y

    @staticmethod
    def backward(ctx: Any, on_y: Tensor) -> tuple[Tensor, None]:
        return on_y * slope(*ctx.saved_tensors), None


def slope(a: Tensor, y: Tensor) -> Tensor:
    """dy/da at a fixed value of F: differentiable in both, float64.

        F / p = int_0^inf exp(-a s - z expm1(-s)) ds;   (1 - F) / p = int_0^inf exp(a s - z expm1(s)) ds,   z = exp y

    The first serves below the mode of y, z < a, the second above it: there each integrand falls from 1. The sum is the
    trapezoidal rule in t, s = w exp(pi/2 sinh t): a double exponential quadrature, with a relative error of about 1e-9.

    Reference: Takahasi, Mori 1974.
    """
    z = y.exp()
    t = torch.arange(-4.0, 2.6, 1 / 16, dtype=a.dtype, device=a.device)
    width = 1 / ((z - a).abs() + torch.maximum(z, a).sqrt()).detach().unsqueeze(-1)
    s = width * (math.pi / 2 * t.sinh()).exp()
    weights = s * math.pi / 2 * t.cosh() / 16
    sign = torch.where(z < a, -1.0, 1.0).detach()
    # Above the mode the integrand is 0 beyond 300, and its derivative would be 0 times infinity.
    upward = torch.where(sign.unsqueeze(-1) < 0, -s, s.clamp_max(300.0))
    falling = weights * (a.unsqueeze(-1) * upward - z.unsqueeze(-1) * upward.expm1()).exp()
    total, moved = falling.sum(-1), (upward * falling).sum(-1)
    return sign * ((y - torch.digamma(a)) * total + moved)
