"""A causal Transformer z -> p(x|z) over text, with z joined to the input of any of its blocks."""

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from pyro_skipvae.blocks import AttentionBlock, LatentDim, check_sizes, latent_shape, places
from pyro_skipvae.distributions.autoregressive import Autoregressive
from pyro_skipvae.skip import OUTPUT, Entry, Skip, skip_entries

from .text import TextNetwork, joined_entries


class TransformerDecoder(nn.Module):
    """p(x|z) = prod_t p(x_t | x_<t, z) over words by `layers` Transformer blocks of `width` units: z (..., D) -> batch (...).

    z is joined to every word embedding; `skip` lists where else it is joined: entries 2..L, the input of that block, and
    "output", the state before the output layer (entry 1, `latent_dim`, sequences z, x and what is raised: see `LSTMDecoder`).
    The output layer shares its weights with the embedding (Press and Wolf 2017). Sampling keeps keys and values, so that each
    word costs one pass over one position. Weights start normal with standard deviation 0.02, those that write into the residual
    stream with 0.02 / sqrt(2 L). Raises ValueError also for a width that the number of heads does not divide.

    Reference: Vaswani et al. 2017; Radford et al. 2019 (causal, normalisation first, this start).
    """

    def __init__(
        self,
        vocabulary_size: int,
        latent_dim: int | tuple[int, int],
        *,
        max_length: int = 200,
        layers: int = 4,
        embedding: int = 512,
        width: int = 512,
        heads: int = 8,
        dropout: float = 0.1,
        word_dropout: float = 0.0,
        skip: Skip = "all",
    ) -> None:
        super().__init__()
        check_sizes(vocabulary_size=vocabulary_size, max_length=max_length, layers=layers, heads=heads)
        check_sizes(embedding=embedding, width=width)
        channels = latent_shape(latent_dim)[-1]
        entries = joined_entries(skip_entries(skip, layers), latent_dim)
        self.event_shape = (max_length,)
        self.network = TextNetwork(
            TransformerStack(embedding, width, layers, heads, channels, entries, dropout),
            vocabulary_size,
            latent_dim,
            max_length=max_length,
            embedding=embedding,
            width=embedding,
            dropout=dropout,
            word_dropout=word_dropout,
            joined=False,
        )
        self._start(layers)
        self.network.output.weight = self.network.embedding.weight

    def forward(self, z: torch.Tensor) -> Autoregressive:
        return Autoregressive(self.network, z, self.event_shape, latent_dims=self.network.latent_dims)

    @torch.no_grad()
    def _start(self, layers: int) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                writes = name.endswith(("mix.weight", "narrow.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if writes else 0.02)
            elif "norm" not in name:
                nn.init.zeros_(parameter)


class TransformerStack(nn.Module):
    """Causal blocks; z joins the input of those in `entries`. The memory: keys and values (N, heads, S, d) of each block."""

    def __init__(
        self,
        embedding: int,
        width: int,
        layers: int,
        heads: int,
        latent_dim: LatentDim,
        entries: Collection[Entry],
        dropout: float,
    ) -> None:
        super().__init__()
        self.entries = entries
        self.bottom = nn.Linear(embedding + latent_dim, width)
        self.blocks = nn.ModuleList(
            AttentionBlock(width, heads, joined=latent_dim * (l in entries), dropout=dropout) for l in range(1, layers + 1)
        )
        self.top_norm = nn.LayerNorm(width)
        self.top = nn.Linear(width + latent_dim * (OUTPUT in entries), embedding)

    def start(self, z: torch.Tensor) -> list[torch.Tensor]:
        """No place before the first word: keys and values of length 0 for each block."""
        return [
            self.bottom.weight.new_zeros(len(z), block.heads, 0, self.bottom.out_features // block.heads)
            for block in self.blocks
            for _ in ("key", "value")
        ]

    def forward(self, inputs: Tensor, z: Tensor, memory: Any) -> tuple[Tensor, list[Tensor]]:
        T, start = inputs.shape[1], memory[0].shape[2]
        h, after = self.bottom(inputs), []  # (N, T, width)
        h = h + places(start, T, h)
        latent = (z,)
        mask = torch.ones(T, start + T, dtype=torch.bool, device=h.device).tril(start) if T > 1 else None
        for l, (block, *before) in enumerate(zip(self.blocks, memory[::2], memory[1::2], strict=True), 1):
            h, *kept = block(h, latent if l in self.entries else (), before=before, mask=mask)
            after += kept
        h = self.top_norm(h)
        return self.top(torch.cat([h, *latent], -1) if OUTPUT in self.entries else h), after
