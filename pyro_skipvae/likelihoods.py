"""The exponential families of the paper, one line each: how natural parameters become p(x|z).

A likelihood reads `parameters` numbers per element of x from the last dimension of a decoder's output.
Reference: Dieng et al. 2019, section 2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_skipvae.blocks import in_full
from pyro_skipvae.distributions.colours import ColourLogistics
from pyro_skipvae.distributions.grey_levels import DiscretisedLogistic, GreyLevels
from pyro_skipvae.distributions.multinomial import MultinomialGivenTotal

# Without a floor the density of a constant pixel is unbounded, and one such pixel takes over the whole objective.
SMALLEST_SCALE = 0.01
SMALLEST_SHARED_SCALE = 0.001  # in standard deviations of the data


@dataclass(frozen=True)
class Likelihood:
    """`distribution` maps eta (..., *event_shape, parameters) to elementwise distributions over (..., *event_shape).

    One whose elements depend on each other has an event shape of its own, which ends that of the data.
    """

    parameters: int
    distribution: Callable[[Tensor], TorchDistributionMixin]

    @property
    def module(self) -> nn.Module | None:
        """What a decoder registers: `distribution`, where it holds parameters or buffers."""
        return self.distribution if isinstance(self.distribution, nn.Module) else None

    def __call__(self, eta: Tensor, event_dims: int) -> TorchDistributionMixin:
        """eta (..., *event_shape * parameters as the last dimension) -> Distribution with `event_dims` event dimensions."""
        elements = self.distribution(in_full(eta))
        return elements.to_event(event_dims - len(elements.event_shape))


bernoulli = Likelihood(1, lambda eta: dist.Bernoulli(logits=eta[..., 0]))
multinomial = Likelihood(1, lambda eta: MultinomialGivenTotal(eta[..., 0]))  # over the last dimension of x
poisson = Likelihood(1, lambda eta: dist.Poisson(eta[..., 0].exp()))
normal = Likelihood(2, lambda eta: dist.Normal(eta[..., 0], softplus(eta[..., 1]) + SMALLEST_SCALE))


def normal_in_units(loc: Tensor, scale: Tensor) -> Likelihood:
    """`normal` in the units of the data: mean loc + scale eta_0, and a scale that is `scale` times what it is there.

    `loc` and `scale` broadcast to x (see `blocks.mean_and_scale`). Training on a x + b gives the same model, with the log
    density of D elements lower by D ln a.
    """
    return Likelihood(2, NormalInUnits(loc, scale))


def normal_shared_scale(loc: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Likelihood:
    """Normal(loc + scale eta, scale sigma), with one sigma learned for all elements of all x.

    Unlike the scale of `normal`, sigma cannot shrink for some elements alone, so that an easy pixel does not outweigh the
    others. It starts at 1, the standard deviation of the data. `loc` and `scale` broadcast to x (see
    `blocks.mean_and_scale`). Each call makes a sigma of its own.

    Reference: Rybkin, Daniilidis, Levine 2021 (sigma-VAE), section 3.
    """
    return Likelihood(1, NormalSharedScale(torch.as_tensor(loc), torch.as_tensor(scale)))


def poisson_about(mean: Tensor, deviation: Tensor) -> Likelihood:
    """Poisson with rate mean * exp(eta * min(1, deviation / mean)): a model starts near the mean counts of its data.

    `mean` and standard deviation broadcast to x (see `blocks.mean_and_scale`). Large counts vary by a small part of their
    mean, and with a rate of exp(eta) alone the first steps would be wrong by hundreds of nats. Raises ValueError unless both
    are above 0.
    """
    if not ((mean > 0) & (deviation > 0)).all():
        raise ValueError("expected means and deviations above 0 for counts")
    return Likelihood(1, PoissonAbout(mean, (deviation / mean).clamp(max=1)))


def multinomial_about(share: Tensor, totals: Tensor) -> Likelihood:
    """`multinomial` with logits ln share + eta: a model starts at the shares of its data, (D,), and draws one of their totals.

    Raises ValueError unless the shares are above 0, or without totals of at least 0.
    """
    if not (share > 0).all():
        raise ValueError("expected shares above 0 for counts")
    if not len(totals) or (totals < 0).any():
        raise ValueError("expected totals of at least 0 for draws of counts")
    return Likelihood(1, MultinomialAbout(share, totals))


class NormalInUnits(nn.Module):
    """The family of `normal_in_units`."""

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)

    def forward(self, eta: Tensor) -> TorchDistributionMixin:
        scale = softplus(eta[..., 1]) + SMALLEST_SCALE
        return dist.Normal(self.loc + self.scale * eta[..., 0], self.scale * scale)


class NormalSharedScale(nn.Module):
    """The family of `normal_shared_scale`."""

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        self.tenth_log_sigma = nn.Parameter(torch.zeros((), dtype=scale.dtype))

    @property
    def sigma(self) -> Tensor:
        """The scale of p(x|z) in standard deviations of the data."""
        # Adam moves a number by about its learning rate a step: without the 10, sigma would be late by thousands of steps.
        # The floor: on data that a decoder can learn exactly the density has no bound.
        return (10 * self.tenth_log_sigma).exp() + SMALLEST_SHARED_SCALE

    def forward(self, eta: Tensor) -> TorchDistributionMixin:
        return dist.Normal(self.loc + self.scale * eta[..., 0], self.scale * self.sigma)


class PoissonAbout(nn.Module):
    """The family of `poisson_about`."""

    mean: Tensor
    relative: Tensor

    def __init__(self, mean: Tensor, relative: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("relative", relative)

    def forward(self, eta: Tensor) -> TorchDistributionMixin:
        return dist.Poisson(self.mean * (self.relative * eta[..., 0]).exp())


class MultinomialAbout(nn.Module):
    """The family of `multinomial_about`."""

    log_share: Tensor
    totals: Tensor

    def __init__(self, share: Tensor, totals: Tensor) -> None:
        super().__init__()
        self.register_buffer("log_share", share.log())
        self.register_buffer("totals", totals)

    def forward(self, eta: Tensor) -> TorchDistributionMixin:
        return MultinomialGivenTotal(self.log_share + eta[..., 0], self.totals)


def categorical(levels: int = 256) -> Likelihood:
    """Grey levels 0, 1/(levels-1), ..., 1 as unordered classes."""
    return Likelihood(levels, GreyLevels)


def discretised_logistic(levels: int = 256) -> Likelihood:
    """Grey levels 0, 1/(levels-1), ..., 1 as the bins of a logistic distribution (Kingma et al. 2016)."""
    return Likelihood(2, lambda eta: DiscretisedLogistic(eta[..., 0], softplus(eta[..., 1]) + SMALLEST_SCALE, levels))


def colour_logistics(levels: int = 256, components: int = 10) -> Likelihood:
    """Colour images (3, H, W) of grey levels in each channel: a mixture of logistics over the three (Salimans et al. 2017)."""
    return Likelihood(4 * components, lambda eta: ColourLogistics(eta, levels))
