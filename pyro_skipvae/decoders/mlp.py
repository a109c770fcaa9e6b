"""A multilayer perceptron z -> p(x|z), with additive skips."""

import math
from collections.abc import Sequence

from pyro.distributions import Distribution
from torch import Tensor, nn

from pyro_skipvae.blocks import LatentDim, latent_shape, perceptron
from pyro_skipvae.likelihoods import Likelihood, bernoulli
from pyro_skipvae.skip import Skip, SkipSequential


class MLPDecoder(nn.Module):
    """p(x|z) with natural parameters from `layers` hidden layers of `width` units: z (..., D) -> batch (...).

        h_1 = z,  h_(l+1) = relu(W_l h_l + U_l z + b_l),  eta = W_(L+1) h_(L+1) + U_(L+1) z + b_(L+1)

    A sequence z (..., T, C), with `latent_dim` (T, C), is read as one vector of T C dimensions. `skip` says which
    U_l there are (`pyro_skipvae.skip.skip_entries`). U_1 joins z where z enters already: it changes the parametrisation, not
    the functions that can be had.

    Reference: Dieng et al. 2019, section 3 and Table 3.
    """

    def __init__(
        self,
        latent_dim: LatentDim,
        event_shape: Sequence[int],
        *,
        layers: int = 4,
        width: int = 512,
        skip: Skip = "all",
        likelihood: Likelihood = bernoulli,
    ) -> None:
        super().__init__()
        self.event_shape, self.likelihood = tuple(event_shape), likelihood
        self.latent_shape = latent_shape(latent_dim)
        latent_dim = math.prod(self.latent_shape)
        self.observation = likelihood.module
        outputs = math.prod(event_shape) * likelihood.parameters
        network = nn.Sequential(*perceptron([latent_dim, *[width] * layers, outputs]))
        self.network = SkipSequential(network, latent_dim, skip=skip)

    def forward(self, z: Tensor) -> Distribution:
        eta = self.network(z.flatten(-len(self.latent_shape)))
        eta = eta.reshape(*eta.shape[:-1], *self.event_shape, self.likelihood.parameters)
        return self.likelihood(eta, len(self.event_shape))
