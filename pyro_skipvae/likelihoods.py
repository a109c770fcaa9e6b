"""Likelihoods: how the natural parameters eta that a decoder gives become p(x|z).

A likelihood reads `parameters` numbers per element of x from the last dimension of a decoder's output. Four have nothing to
set, and are passed as they are:

    bernoulli       x in {0, 1}, logits eta
    poisson         counts, rate exp(eta)
    multinomial     counts over the last dimension of x given their total, logits eta (`MultinomialGivenTotal`)
    normal          real x, mean eta_0 and scale softplus(eta_1) + 0.01

Reference: Dieng et al. 2019, section 2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_skipvae.blocks import check_sizes, in_full
from pyro_skipvae.distributions.colours import ColourLogistics
from pyro_skipvae.distributions.grey_levels import DiscretisedLogistic, GreyLevels
from pyro_skipvae.distributions.multinomial import MultinomialGivenTotal

# Without a floor the density of a constant pixel is unbounded, and one such pixel takes over the whole objective.
SMALLEST_SCALE = 0.01
SMALLEST_SHARED_SCALE = 0.001  # in standard deviations of the data


@dataclass(frozen=True)
class Likelihood:
    """A family p(x|z): `distribution` maps eta (..., *event_shape, parameters) to distributions of the elements of x.

    Their batch shape is (..., *event_shape). Where elements depend on each other, as in a multinomial, the last dimensions of
    event_shape are the distribution's event shape instead.
    """

    parameters: int
    distribution: Callable[[Tensor], TorchDistributionMixin]

    @property
    def module(self) -> nn.Module | None:
        """`distribution` where it is a module, with parameters or buffers that a decoder has to register; else None."""
        return self.distribution if isinstance(self.distribution, nn.Module) else None

    def __call__(self, eta: Tensor, event_dims: int) -> TorchDistributionMixin:
        """eta (..., *event_shape, parameters) -> p(x|z), batch (...), with `event_dims` event dimensions."""
        elements = self.distribution(in_full(eta))
        return elements.to_event(event_dims - len(elements.event_shape))


bernoulli = Likelihood(1, lambda eta: dist.Bernoulli(logits=eta[..., 0]))
multinomial = Likelihood(1, lambda eta: MultinomialGivenTotal(eta[..., 0]))  # over the last dimension of x
poisson = Likelihood(1, lambda eta: dist.Poisson(eta[..., 0].exp()))
normal = Likelihood(2, lambda eta: dist.Normal(eta[..., 0], softplus(eta[..., 1]) + SMALLEST_SCALE))


def normal_in_units(loc: Tensor, scale: Tensor) -> Likelihood:
    """Normal in the units of the data: mean loc + scale eta_0, standard deviation scale (softplus(eta_1) + 0.01).

    `loc` and `scale` broadcast to x: mean and standard deviation of the data (`blocks.mean_and_scale`). Training on a x + b
    with a > 0 then gives the same model, whose log density is lower by ln a per element of x. Raises ValueError for a scale
    that is not above 0.
    """
    _check_units(loc, scale)
    return Likelihood(2, NormalInUnits(loc, scale))


def normal_shared_scale(loc: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Likelihood:
    """Normal(loc + scale eta, scale sigma), with one learned sigma for all elements of all x.

    Unlike the scale of `normal`, sigma cannot shrink for some elements alone, so an easy pixel does not outweigh the others.
    It starts at about 1, in units of `scale`. `loc` and `scale` broadcast to x: mean and standard deviation of the data
    (`blocks.mean_and_scale`). Each call makes a new sigma. Raises ValueError for a scale that is not above 0.

    Reference: Rybkin, Daniilidis, Levine 2021 (sigma-VAE), section 3.
    """
    _check_units(loc, scale)
    return Likelihood(1, NormalSharedScale(torch.as_tensor(loc), torch.as_tensor(scale)))


def poisson_about(mean: Tensor, deviation: Tensor) -> Likelihood:
    """Poisson with rate mean * exp(eta * min(1, deviation / mean)), so that a model starts near the mean counts of its data.

    `mean` and the standard deviation `deviation` broadcast to x (`blocks.mean_and_scale`). Large counts vary little in relation
    to their mean, and with a rate of exp(eta) the first steps would be wrong by hundreds of nats. Raises ValueError unless both
    are above 0 everywhere.
    """
    if not ((mean > 0) & (deviation > 0) & mean.isfinite() & deviation.isfinite()).all():
        raise ValueError("expected means and deviations above 0 for counts")
    return Likelihood(1, PoissonAbout(mean, (deviation / mean).clamp(max=1)))


def multinomial_about(share: Tensor, totals: Tensor) -> Likelihood:
    """`multinomial` with logits ln share + eta, so that a model starts at the shares (D,) of its data.

    Draws of x have one of the `totals` (N,), chosen uniformly. Raises ValueError unless all shares are above 0 and there are
    totals, none below 0.
    """
    if not share.numel() or not (share > 0).all():
        raise ValueError("expected shares above 0 for counts")
    if not len(totals) or not (totals >= 0).all():
        raise ValueError("expected totals of at least 0 for draws of counts")
    return Likelihood(1, MultinomialAbout(share, totals))


def _check_units(loc: Tensor | float, scale: Tensor | float) -> None:
    # Numbers become tensors on the CPU: the size of a model is told by building it on the meta device.
    means, scales = (part if isinstance(part, Tensor) else torch.tensor(part, device="cpu") for part in (loc, scale))
    if not (means.isfinite().all() and scales.isfinite().all() and (scales > 0).all()):
        raise ValueError("expected finite means and scales above 0 for a normal in units of data")


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
    """Grey levels 0, 1/(levels-1), ..., 1 as unordered classes, with logits eta of `levels` numbers (`GreyLevels`)."""
    check_sizes(2, levels=levels)
    return Likelihood(levels, GreyLevels)


def discretised_logistic(levels: int = 256) -> Likelihood:
    """Grey levels 0, 1/(levels-1), ..., 1 as bins of a logistic, location eta_0, scale softplus(eta_1) + 0.01.

    Reference: Kingma et al. 2016 (see `DiscretisedLogistic`).
    """
    check_sizes(2, levels=levels)
    return Likelihood(2, lambda eta: DiscretisedLogistic(eta[..., 0], softplus(eta[..., 1]) + SMALLEST_SCALE, levels))


def colour_logistics(levels: int = 256, components: int = 10) -> Likelihood:
    """Colour images (3, H, W) of levels 0, 1/(levels-1), ..., 1: a mixture of `components` logistics over the three channels.

    Reference: Salimans et al. 2017 (see `ColourLogistics`).
    """
    check_sizes(2, levels=levels)
    check_sizes(components=components)
    return Likelihood(4 * components, lambda eta: ColourLogistics(eta, levels))
