"""Priors: () -> p(z), batch (), event (D,)."""

import pyro.distributions as dist
import torch
from torch import nn


class StandardNormal(nn.Module):
    """p(z) = N(0, I)."""

    def __init__(self, latent_dim):
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))

    def forward(self):
        return dist.Normal(self.loc, self.scale).to_event(1)


class MixtureOfNormals(nn.Module):
    """p(z) = sum_k w_k N(loc_k, diag(scale_k^2)), all learned."""

    def __init__(self, latent_dim, *, components=10):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))  # equal components would stay equal
        self.log_variance = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self):
        normals = dist.Normal(self.loc, (self.log_variance / 2).exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), normals)


class VampPrior(nn.Module):
    """p(z) = 1/K sum_k q(z|u_k): the aggregated posterior of K learned pseudo-inputs.

    `pseudo_inputs` (K, *event_shape) are where the u_k start, for example K training points.

    Reference: Tomczak and Welling 2018.
    """

    def __init__(self, encoder, pseudo_inputs):
        super().__init__()
        # In a tuple, so that the encoder's parameters are not this module's too: clipping would count them twice.
        self.shared = (encoder,)
        self.pseudo_inputs = nn.Parameter(pseudo_inputs.clone())

    def forward(self):
        weights = dist.Categorical(logits=self.pseudo_inputs.new_zeros(len(self.pseudo_inputs)))
        return dist.MixtureSameFamily(weights, self.shared[0](self.pseudo_inputs))
