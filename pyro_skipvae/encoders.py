"""Encoders: x -> q(z|x). The family of q is the argument `posterior` (`pyro_skipvae.guides`)."""

import math

import pyro.distributions as dist
import torch
from torch import nn

from pyro_skipvae.blocks import ResidualBlock, perceptron
from pyro_skipvae.distributions.text import row_lengths
from pyro_skipvae.guides import DiagonalNormal


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


class ResNetEncoder(nn.Module):
    """A residual network: x (B, H, W) or (B, C, H, W) -> q(z|x) with batch (B,), event (D,).

    `layers` residual blocks of `maps` feature maps, each halving height and width. The authors' code has batch
    normalisation in each block; here there is none, so that a posterior depends on its own datapoint alone.

    Reference: Dieng et al. 2019, section 4.1 (3 layers, 3x3, 64 maps).
    """

    def __init__(self, event_shape, latent_dim, *, layers=3, maps=64, posterior=DiagonalNormal):
        super().__init__()
        *channels, height, width = event_shape
        if min(height, width) < 2**layers:
            raise ValueError(f"expected an image of at least {2**layers} pixels a side, got {height}x{width}")
        self.image_shape = (math.prod(channels), height, width)
        self.blocks = nn.Sequential(*(ResidualBlock(maps if l else self.image_shape[0], maps) for l in range(layers)))
        self.posterior = posterior(maps * (height // 2**layers) * (width // 2**layers), latent_dim)

    def forward(self, x):
        return self.posterior(self.blocks(x.reshape(-1, *self.image_shape)).flatten(1))


class LSTMEncoder(nn.Module):
    """One LSTM over the words: x (B, T) -> q(z|x), read from its state at EOS; batch (B,), event (D,).

    Of a row without EOS the state at its last word is read, so padding changes nothing. All parameters begin uniform in
    [-0.1, 0.1], as in the authors' code.

    Reference: Dieng et al. 2019, section 4.2; Kim et al. 2018, section 5.2.
    """

    def __init__(self, vocabulary_size, latent_dim, *, embedding=512, width=1024, posterior=DiagonalNormal):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.network = nn.LSTM(embedding, width, batch_first=True)
        self.posterior = posterior(width, latent_dim)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(self, x):
        last = (row_lengths(x) - 1).clamp(min=0)
        states, _ = self.network(self.embedding(x[:, : int(last.max()) + 1]))  # (B, T, width)
        return self.posterior(states[torch.arange(len(x), device=x.device), last])


class NoEncoder(nn.Module):
    """The posterior of a model without latent variables: batch (B,), event (0,)."""

    def forward(self, x):
        nothing = torch.zeros(len(x), 0, device=x.device, dtype=x.dtype if x.is_floating_point() else None)
        return dist.Normal(nothing, nothing + 1).to_event(1)
