"""A prior that is learned: a standard normal pushed through coupling layers."""

from copy import copy

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import Permute, affine_coupling
from torch import Tensor, nn

from pyro_skipvae.blocks import check_sizes


class NormalizingFlow(nn.Module):
    """A learned prior p(z): a standard normal transformed by Pyro's affine coupling layers, batch (), event (D,).

        z_b <- z_b exp(s(z_a)) + t(z_a),   a and b the halves of z, exchanged from one layer to the next

    flows: the number of layers; hidden: the width of the network of s and t. Density and draws cost one pass each. Raises
    ValueError for fewer than 2 dimensions.

    Reference: Dinh, Sohl-Dickstein, Bengio 2017, "Density estimation using Real NVP", equations 7 and 8; as a prior, Chen et
    al. 2017, "Variational Lossy Autoencoder", section 3.2.
    """

    loc: Tensor
    scale: Tensor
    order: Tensor

    def __init__(self, latent_dim: int, *, flows: int = 4, hidden: int = 128) -> None:
        super().__init__()
        check_sizes(2, **{"latent_dim of coupling layers": latent_dim})
        check_sizes(0, flows=flows)
        check_sizes(hidden=hidden)
        self.register_buffer("loc", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))
        self.flows = nn.ModuleList(affine_coupling(latent_dim, hidden_dims=[hidden]) for _ in range(flows))
        self.register_buffer("order", torch.arange(latent_dim).flip(0), persistent=False)

    def forward(self) -> dist.Distribution:
        # Pyro's transforms keep what they saw last: those of a distribution are its own, with the parameters of these.
        layers = [layer for flow in self.flows for layer in (copy(flow), Permute(self.order))]
        return dist.TransformedDistribution(dist.Normal(self.loc, self.scale).to_event(1), layers)
