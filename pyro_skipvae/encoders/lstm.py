"""The recurrent network of the paper, for text."""

from collections.abc import Callable

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyro_skipvae.blocks import can_look, check_sizes
from pyro_skipvae.guides.families import DiagonalNormal
from pyro_skipvae.text.words import row_lengths


class LSTMEncoder(nn.Module):
    """One LSTM over words: x (B, T) -> q(z|x), batch (B,), event (D,), from its state at EOS.

    In a row without EOS the state at its last word is read; padding changes nothing. `posterior` is the family of q
    (`pyro_skipvae.guides`). All parameters start uniform in [-0.1, 0.1], as in the authors' code.

    Reference: Dieng et al. 2019, section 4.2; Kim et al. 2018, section 5.2.
    """

    def __init__(
        self,
        vocabulary_size: int,
        latent_dim: int,
        *,
        embedding: int = 512,
        width: int = 1024,
        posterior: Callable[[int, int], nn.Module] = DiagonalNormal,
    ) -> None:
        super().__init__()
        check_sizes(vocabulary_size=vocabulary_size, embedding=embedding, width=width)
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.network = nn.LSTM(embedding, width, batch_first=True)
        self.posterior = posterior(width, latent_dim)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(self, x: Tensor) -> Distribution:
        last = (row_lengths(x) - 1).clamp(min=0)
        if can_look(x, training=self.training):
            x = x[:, : int(last.max()) + 1]
        states, _ = self.network(self.embedding(x))  # (B, T, width)
        return self.posterior(states[torch.arange(len(x), device=x.device), last])
