"""A bidirectional Transformer over words."""

from collections.abc import Callable

import torch
from pyro.distributions import Distribution
from torch import nn

from pyro_skipvae.blocks import AttentionBlock, can_look, check_sizes, places
from pyro_skipvae.guides.families import DiagonalNormal
from pyro_skipvae.text.words import row_lengths


class TransformerEncoder(nn.Module):
    """A bidirectional Transformer over words: x (B, T) -> q(z|x), batch (B,), event (D,), from its state at EOS.

    In a row without EOS the state at its last word is read; padding is masked and changes nothing. `posterior` is the family of
    q (`pyro_skipvae.guides`). Raises ValueError for a width that the number of heads does not divide.

    Reference: Vaswani et al. 2017; Devlin et al. 2019 (bidirectional, one place read).
    """

    def __init__(
        self,
        vocabulary_size: int,
        latent_dim: int,
        *,
        embedding: int = 512,
        width: int = 512,
        layers: int = 4,
        heads: int = 8,
        dropout: float = 0.1,
        posterior: Callable[[int, int], nn.Module] = DiagonalNormal,
    ) -> None:
        super().__init__()
        check_sizes(vocabulary_size=vocabulary_size, embedding=embedding, width=width, layers=layers)
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.bottom = nn.Linear(embedding, width)
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, dropout=dropout) for _ in range(layers))
        self.top_norm = nn.LayerNorm(width)
        self.posterior = posterior(width, latent_dim)

    def forward(self, x: torch.Tensor) -> Distribution:
        length = row_lengths(x).clamp(min=1)
        if can_look(x, training=self.training):
            x = x[:, : int(length.max())]
        h = self.bottom(self.embedding(x))  # (B, T, width)
        h = h + places(0, x.shape[1], h)
        words = torch.arange(x.shape[1], device=x.device) < length[:, None]
        for block in self.blocks:
            h, _, _ = block(h, mask=words[:, None, None])
        return self.posterior(self.top_norm(h[torch.arange(len(x), device=x.device), length - 1]))
