"""The usual prior."""

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import nn

from pyro_skipvae.blocks import LatentDim, latent_shape


class StandardNormal(nn.Module):
    """The prior p(z) = N(0, I), batch (), event (D,), or (T, C) for `latent_dim` (T, C). Raises ValueError for another one."""

    def __init__(self, latent_dim: LatentDim) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_shape(latent_dim)))
        self.register_buffer("scale", torch.ones(latent_shape(latent_dim)))

    def forward(self) -> Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)
