"""A dilated convolutional decoder z -> p(x|z) of text: the context that a word sees is bounded, so z is needed more."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_skipvae.blocks import LatentDim, check_sizes, latent_shape
from pyro_skipvae.distributions.autoregressive import Autoregressive
from pyro_skipvae.skip import OUTPUT, Entry, Skip, skip_entries

from .text import TextNetwork, joined_entries

CYCLE = 5  # dilations 1, 2, 4, 8, 16, and again from 1


class DilatedCNNDecoder(nn.Module):
    """p(x|z) = prod_t p(x_t | x_<t, z) over words by `layers` causal dilated residual blocks: z (..., D) -> batch (...).

    Block l has dilation 2^((l - 1) mod 5), so that a word depends on the 1 + 31 (kernel - 1) words before it with 5 blocks, and
    on 1 + 62 (kernel - 1) with 10. z is joined to every word embedding; `skip` lists where else it is joined: entries 2..L, the
    input of that block, and "output", the state before the output layer (entry 1, `latent_dim`, sequences z, x and what is
    raised: see `LSTMDecoder`). Parameters start as torch's linear maps do: in many residual blocks activations would grow
    without bound from the uniform [-0.1, 0.1] of the LSTM.

    Reference: Yang et al. 2017, sections 3.2 and 3.3 (10 blocks of kernel 3 are their large CNN).
    """

    def __init__(
        self,
        vocabulary_size: int,
        latent_dim: LatentDim,
        *,
        max_length: int = 200,
        layers: int = 10,
        embedding: int = 512,
        width: int = 1024,
        kernel: int = 3,
        dropout: float = 0.5,
        word_dropout: float = 0.0,
        skip: Skip = "all",
    ) -> None:
        super().__init__()
        check_sizes(vocabulary_size=vocabulary_size, max_length=max_length, layers=layers, kernel=kernel)
        check_sizes(embedding=embedding, width=width)
        channels = latent_shape(latent_dim)[-1]
        entries = joined_entries(skip_entries(skip, layers), latent_dim)
        self.event_shape = (max_length,)
        self.network = TextNetwork(
            DilatedStack(embedding + channels, width, layers, kernel, channels, entries),
            vocabulary_size,
            latent_dim,
            max_length=max_length,
            embedding=embedding,
            width=width,
            dropout=dropout,
            word_dropout=word_dropout,
            joined=OUTPUT in entries,
        )

    def forward(self, z: Tensor) -> Autoregressive:
        return Autoregressive(self.network, z, self.event_shape, latent_dims=self.network.latent_dims)


class DilatedStack(nn.Module):
    """Residual blocks over time; z is joined to the input of those in `entries`. Its memory is what each block still reads."""

    def __init__(
        self, inputs: int, width: int, layers: int, kernel: int, latent_dim: LatentDim, entries: Collection[Entry]
    ) -> None:
        super().__init__()
        self.entries = entries
        self.bottom = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            DilatedBlock(width, latent_dim * (l in entries), kernel, 2 ** ((l - 1) % CYCLE)) for l in range(1, layers + 1)
        )

    def start(self, z: Tensor) -> list[Tensor]:
        """Nothing before the first word: zeros (N, span, channels) for each block."""
        return [self.bottom.weight.new_zeros(len(z), block.span, block.channels) for block in self.blocks]

    def forward(self, inputs: Tensor, z: Tensor, memory: Any) -> tuple[Tensor, list[Tensor]]:
        h, after = self.bottom(inputs), []  # (N, T, width)
        for l, (block, before) in enumerate(zip(self.blocks, memory, strict=True), 1):
            latent = (z,) if l in self.entries else ()
            h, before = block(h, latent, before)
            after.append(before)
        return h, after


class DilatedBlock(nn.Module):
    """h' = relu(h + W relu(C * relu(U (h, z)))), with the causal dilated convolution C on half as many channels.

    C is a matrix product on the `kernel` shifted copies: torch's dilated convolution is slow on CPU, in float64 a hundred-fold.
    """

    def __init__(self, width: int, joined: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.channels, self.dilation, self.span = max(1, width // 2), dilation, (kernel - 1) * dilation
        self.narrow = nn.Linear(width + joined, self.channels)
        self.dilated = nn.Linear(kernel * self.channels, self.channels)
        self.widen = nn.Linear(self.channels, width)

    def forward(self, h: Tensor, latent: Sequence[Tensor], before: Tensor) -> tuple[Tensor, Tensor]:
        """h (N, T, width), before (N, span, channels) what came before -> h' and what comes before the next."""
        u, T = torch.cat([before, F.relu(self.narrow(torch.cat([h, *latent], -1)))], 1), h.shape[1]
        copies = torch.cat([u[:, shift : shift + T] for shift in range(0, self.span + 1, self.dilation)], -1)
        return F.relu(h + self.widen(F.relu(self.dilated(copies)))), u[:, T:]
