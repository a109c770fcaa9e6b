"""The encoder of a delta-VAE for text: a sequence z, one step for each word or each few of them."""

from collections.abc import Callable, Iterator

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyro_skipvae.blocks import can_look, check_sizes, places_per_step, sequence_shape
from pyro_skipvae.guides.families import DiagonalNormal
from pyro_skipvae.text.words import row_lengths

from .directions import readings


class LSTMSequenceEncoder(nn.Module):
    """An LSTM over words for sequences z: x (B, T) -> q(z|x), batch (B,), event `latent_dim` = (steps, channels).

    A step stands for k = max_length / steps words, rounded up, and the last one for the words that are left. `direction` says
    what z_t depends on: "anti-causal", the words from its own on (an LSTM reads the text in reverse); "causal", those up to its
    own; "full", all words, by an LSTM each way. Padding changes nothing: a step after the end of a text reads the state before
    the first word that was read, or, forward, the state after the last one. Parameters start uniform in [-0.1, 0.1], as those
    of `LSTMEncoder`. Raises ValueError where max_length words cannot be divided among the steps so, for another direction, and,
    when called, for rows longer than `max_length`.

    Reference: Razavi, van den Oord, Poole, Vinyals 2019, on the anti-causal encoder.
    """

    def __init__(
        self,
        vocabulary_size: int,
        latent_dim: tuple[int, int],
        *,
        max_length: int = 200,
        embedding: int = 512,
        width: int = 1024,
        direction: str = "anti-causal",
        posterior: Callable[[int, int], nn.Module] = DiagonalNormal,
    ) -> None:
        super().__init__()
        check_sizes(vocabulary_size=vocabulary_size, max_length=max_length, embedding=embedding, width=width)
        self.max_length, (self.steps, channels) = max_length, sequence_shape(latent_dim)
        self.words_per_step = places_per_step(max_length, self.steps, "words", last_shorter=True)
        self.reversed = readings(direction)
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.networks = nn.ModuleList(nn.LSTM(embedding, width, batch_first=True) for _ in self.reversed)
        self.posterior = posterior(width * len(self.networks), channels)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(self, x: Tensor) -> Distribution:
        if x.shape[1] > self.max_length:
            raise ValueError(f"expected rows of at most max_length={self.max_length} words, got {x.shape[1]}")
        length = row_lengths(x).clamp(min=1)[:, None]
        if can_look(x, training=self.training):
            x = x[:, : int(length.max())]
        words = self.embedding(x)
        first = torch.arange(self.steps, device=x.device) * self.words_per_step
        read = {False: _states_after, True: _states_from}
        parts = [read[reverse](network, words, length, first, self.words_per_step) for network, reverse in self._readings()]
        return self.posterior(torch.cat(parts, -1)).to_event(1)

    def _readings(self) -> Iterator[tuple[nn.Module, bool]]:
        return zip(self.networks, self.reversed, strict=True)


def _states_after(network: nn.Module, words: Tensor, length: Tensor, first: Tensor, each: int) -> Tensor:
    """The states (B, steps, width) after the last word of each step, or of the text: of words (B, T, E)."""
    last = torch.minimum(first + each, length) - 1
    return _at(network(words)[0], last)


def _states_from(network: nn.Module, words: Tensor, length: Tensor, first: Tensor, each: int) -> Tensor:
    """The states (B, steps, width) of a reversed reading after the first word of each step; zeros after the end of the text."""
    place = torch.arange(words.shape[1], device=words.device)
    backwards = torch.where(place < length, length - 1 - place, place)  # padding stays behind the words
    states, _ = network(_at(words, backwards))
    inside = first < length
    return torch.where(inside[..., None], _at(states, (length - 1 - first).clamp(min=0)), 0.0)


def _at(values: Tensor, places: Tensor) -> Tensor:
    """values (B, T, F) at places (B, P) -> (B, P, F)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))
