"""A multilayer perceptron for items of any shape."""

import math

from torch import nn

from pyro_skipvae.blocks import perceptron
from pyro_skipvae.guides.families import DiagonalNormal


class MLPEncoder(nn.Module):
    """A multilayer perceptron: x (B, *event_shape) -> q(z|x) with batch (B,), event (D,).

    Reference: Dieng et al. 2019, Table 3 (two layers of 512).
    """

    def __init__(self, event_shape, latent_dim, *, hidden=(512, 512), posterior=DiagonalNormal):
        super().__init__()
        self.event_dims = len(event_shape)
        self.network = nn.Sequential(*perceptron([math.prod(event_shape), *hidden]), nn.ReLU())
        self.posterior = posterior(hidden[-1], latent_dim)

    def forward(self, x):
        return self.posterior(self.network(x.flatten(-self.event_dims)))
