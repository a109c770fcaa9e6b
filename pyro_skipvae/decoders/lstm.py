"""An LSTM z -> p(x|z) over text, with z joined to any of its layers and to the state before the output."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from pyro_skipvae.blocks import LatentDim, check_sizes, latent_shape
from pyro_skipvae.distributions.autoregressive import Autoregressive
from pyro_skipvae.guides.recurrence import run_lstm
from pyro_skipvae.skip import OUTPUT, Entry, Skip, skip_entries

from .text import TextNetwork, joined_entries


class LSTMDecoder(nn.Module):
    """p(x|z) = prod_t p(x_t | x_<t, z) over words by `layers` LSTMs of `width` units: z (..., D) -> batch (...).

    z is joined to every word embedding, and a linear map of z is the initial h of the top LSTM (its initial c is 0). `skip`
    lists where else z is joined: entries 2..L, the input of that LSTM, and "output", the state before the output layer, with
    logits_t = W h_t + V z + b. Entry 1 exists already, so "all" adds no weights for it. With `latent_dim=0` this is the
    language model. With `latent_dim` (steps, D), z (..., steps, D), each word reads the step that it belongs to, of max_length
    / steps words, and the first step gives the initial h. x holds word indices (..., T), T <= `max_length`.

    Dropout acts on the embeddings and on the states of the top LSTM; `word_dropout` is the probability that an input word
    becomes UNK in training. All parameters start uniform in [-0.1, 0.1], as in the authors' code. Raises ValueError for an
    unknown skip, for one that names entry 1 alone, and where max_length words cannot be divided among the steps; `log_prob`
    raises it for longer rows and unknown indices.
    Reference: Dieng et al. 2019, section 4.2; Kim et al. 2018, section 5.2.
    """

    def __init__(
        self,
        vocabulary_size: int,
        latent_dim: LatentDim,
        *,
        max_length: int = 200,
        layers: int = 1,
        embedding: int = 512,
        width: int = 1024,
        dropout: float = 0.5,
        word_dropout: float = 0.0,
        skip: Skip = "all",
    ) -> None:
        super().__init__()
        check_sizes(vocabulary_size=vocabulary_size, max_length=max_length, layers=layers)
        check_sizes(embedding=embedding, width=width)
        channels = latent_shape(latent_dim)[-1]
        entries = joined_entries(skip_entries(skip, layers), latent_dim)
        self.event_shape = (max_length,)
        self.network = TextNetwork(
            LSTMStack(embedding + channels, width, layers, channels, entries),
            vocabulary_size,
            latent_dim,
            max_length=max_length,
            embedding=embedding,
            width=width,
            dropout=dropout,
            word_dropout=word_dropout,
            joined=OUTPUT in entries,
        )
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(self, z: Tensor) -> Autoregressive:
        return Autoregressive(self.network, z, self.event_shape, latent_dims=self.network.latent_dims)


class LSTMStack(nn.Module):
    """`layers` LSTMs, one above the other; z is joined to the input of those in `entries`, and starts the top one."""

    def __init__(self, inputs: int, width: int, layers: int, latent_dim: LatentDim, entries: Collection[Entry]) -> None:
        super().__init__()
        self.entries, self.width = entries, width
        sizes = [(inputs if l == 1 else width) + latent_dim * (l in entries) for l in range(1, layers + 1)]
        self.layers = nn.ModuleList(nn.LSTM(size, width, batch_first=True) for size in sizes)
        self.initial = nn.Linear(latent_dim, width) if latent_dim else None

    def start(self, z: Tensor) -> list[Tensor]:
        """h and c of each layer before the first word, (N, width) each."""
        zeros = self.layers[0].weight_hh_l0.new_zeros(len(z), self.width)
        top = zeros if self.initial is None else self.initial(z)
        return [*[zeros, zeros] * (len(self.layers) - 1), top, zeros]

    def forward(self, h: Tensor, z: Tensor, memory: Any) -> tuple[Tensor, list[Tensor]]:
        after = []
        for l, (layer, *state) in enumerate(zip(self.layers, memory[::2], memory[1::2], strict=True), 1):
            if l in self.entries:
                h = torch.cat([h, z], -1)
            h, state = run_lstm(layer, h, state)
            after += state
        return h, after
