"""The exponential families of the paper, one line each: how natural parameters become p(x|z).

A likelihood reads `parameters` numbers per element of x from the last dimension of a decoder's output.
Reference: Dieng et al. 2019, section 2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
from torch.nn.functional import softplus

from pyro_skipvae.distributions.grey_levels import DiscretisedLogistic, GreyLevels

# Without a floor the density of a constant pixel is unbounded, and one such pixel takes over the whole objective.
SMALLEST_SCALE = 0.01


@dataclass(frozen=True)
class Likelihood:
    """`distribution` maps eta (..., *event_shape, parameters) to elementwise distributions over (..., *event_shape)."""

    parameters: int
    distribution: Callable

    def __call__(self, eta, event_dims):
        """eta (..., *event_shape * parameters as the last dimension) -> Distribution with `event_dims` event dimensions."""
        return self.distribution(eta).to_event(event_dims)


bernoulli = Likelihood(1, lambda eta: dist.Bernoulli(logits=eta[..., 0]))
poisson = Likelihood(1, lambda eta: dist.Poisson(eta[..., 0].exp()))
normal = Likelihood(2, lambda eta: dist.Normal(eta[..., 0], softplus(eta[..., 1]) + SMALLEST_SCALE))


def categorical(levels=256):
    """Grey levels 0, 1/(levels-1), ..., 1 as unordered classes."""
    return Likelihood(levels, GreyLevels)


def discretised_logistic(levels=256):
    """Grey levels 0, 1/(levels-1), ..., 1 as the bins of a logistic distribution (Kingma et al. 2016)."""
    return Likelihood(2, lambda eta: DiscretisedLogistic(eta[..., 0], softplus(eta[..., 1]) + SMALLEST_SCALE, levels))
