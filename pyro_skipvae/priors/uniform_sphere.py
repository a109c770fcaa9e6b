"""The uniform prior on the unit sphere, for von Mises-Fisher posteriors."""

import torch
from pyro.distributions import Distribution
from torch import nn

from pyro_skipvae.distributions.von_mises_fisher import SphereUniform, check_dimensions


class UniformSphere(nn.Module):
    """The uniform prior on the unit sphere in D = `latent_dim` dimensions (`SphereUniform`): batch (), event (D,).

    Raises ValueError for fewer than 2 dimensions.
    """

    like: torch.Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = check_dimensions(latent_dim)
        self.register_buffer("like", torch.zeros(()), persistent=False)  # draws have its type and device

    def forward(self) -> Distribution:
        return SphereUniform(self.latent_dim, like=self.like)
