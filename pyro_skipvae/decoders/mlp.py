"""A multilayer perceptron z -> p(x|z), with additive skips."""

import math
from collections.abc import Sequence

from pyro.distributions import Distribution
from torch import Tensor, nn

from pyro_skipvae.blocks import LatentDim, check_event, check_sizes, latent_shape, perceptron
from pyro_skipvae.likelihoods import Likelihood, bernoulli
from pyro_skipvae.skip import Skip, SkipSequential


class MLPDecoder(nn.Module):
    """A multilayer perceptron with skips, z (..., D) -> p(x|z), batch (...), event `event_shape`.

        h_1 = z,  h_(l+1) = relu(W_l h_l + U_l z + b_l),  l = 1..L,  eta = W_(L+1) h_(L+1) + U_(L+1) z + b_(L+1)

    L = `layers` hidden layers of `width` units. `skip` says which U_l there are (`pyro_skipvae.skip.skip_entries`; U_(L+1) is
    "output"). z enters layer 1 already: U_1 changes the parametrisation and not the set of functions. A sequence z
    (..., T, C), with `latent_dim` (T, C), is read as one vector of T C dimensions. Raises ValueError for an unknown skip or
    latent_dim, fewer than 0 layers, or a width below 1.

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
        check_sizes(0, layers=layers)
        check_sizes(width=width)
        check_event(event_shape)
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
