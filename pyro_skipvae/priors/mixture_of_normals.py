"""A learned mixture of diagonal normals."""

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import nn

from pyro_skipvae.blocks import check_sizes


class MixtureOfNormals(nn.Module):
    """A learned mixture p(z) = sum_k w_k N(loc_k, diag(scale_k^2)), batch (), event (D,).

    It starts with equal weights, loc_k ~ N(0, I) and scale 1. Raises ValueError for fewer than 1 component.
    """

    def __init__(self, latent_dim: int, *, components: int = 10) -> None:
        super().__init__()
        check_sizes(0, latent_dim=latent_dim)
        check_sizes(components=components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))  # equal components would stay equal
        self.log_variance = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self) -> Distribution:
        normals = dist.Normal(self.loc, (self.log_variance / 2).exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), normals)
