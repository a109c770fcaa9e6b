"""What decoders of text share: words in, words out, and the two passes over a text, teacher-forced and word by word."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_skipvae.blocks import LatentDim, can_look, check_shares, latent_shape, places_per_step
from pyro_skipvae.skip import Entry
from pyro_skipvae.text.vocabulary import BOS, EOS, PAD, UNK
from pyro_skipvae.text.words import is_outcome, row_lengths

from .word_scores import word_scores

GROUP = 64  # rows
LARGEST_PADDING = 0.1


class TextNetwork(nn.Module):
    """log p(x|z) = sum_t log p(x_t | x_<t, z) over words, and draws from it; the network that `Autoregressive` reads.

        u_t = (dropout(E x_(t-1)), z),  h_1..h_T = stack(u_1..u_T),  logits_t = W dropout(h_t) [+ V z] + b

    x_0 is BOS. `stack(inputs (N, T, inputs), z, memory) -> states (N, T, width), memory` is causal, `stack.start(z)` is its
    memory before the first word: tensors (N, ...). Here z is what each word is told, (N, T, D): the same for all, or, of a
    sequence of `steps` vectors, that of the step to which the word belongs, of max_length / steps words. z joins the state
    before the output where `joined`. PAD and BOS have probability zero, and so has every row that `is_outcome` refuses: the
    probabilities of all rows of `max_length` words sum to 1. In training mode each input word becomes UNK with probability
    `word_dropout` (Bowman et al. 2016, section 3.1).
    """

    def __init__(
        self,
        stack: nn.Module,
        vocabulary_size: int,
        latent_dim: LatentDim,
        *,
        max_length: int,
        embedding: int,
        width: int,
        dropout: float,
        word_dropout: float,
        joined: int,
    ) -> None:
        super().__init__()
        check_shares(dropout=dropout, word_dropout=word_dropout)
        self.max_length, self.word_dropout, self.joined = max_length, word_dropout, joined
        *steps, latent_dim = latent_shape(latent_dim)
        self.latent_dims = 1 + len(steps)
        self.words_per_step = places_per_step(max_length, steps[0], "words", last_shorter=True) if steps else None
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.stack = stack
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width + latent_dim * joined, vocabulary_size)
        impossible = torch.zeros(vocabulary_size).index_fill(0, torch.tensor([PAD, BOS]), -torch.inf)
        self.register_buffer("impossible", impossible, persistent=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.integer_interval(0, len(self.impossible) - 1), 1)

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """x (N, T) with T <= max_length, z (N, D) or (N, steps, D) -> (N,) nats.

        Raises ValueError for longer rows and unknown indices. Rows that differ much in length run in groups of their own
        length; logits are made at words only. In a training step on a GPU, which would wait for the lengths, rows run as they
        are given, padding included, and torch refuses unknown indices.
        """
        self._check(x)
        length = row_lengths(x)
        if not can_look(x, training=self.training):
            return self._log_prob_with_padding(x, z, length).masked_fill(~is_outcome(x, self.max_length), -torch.inf)
        parts = [self._log_prob_of_group(x, z, length, rows) for rows in _groups(length)]
        order = torch.cat([rows for rows, _ in parts])
        log_prob = torch.cat([part for _, part in parts])[order.argsort()] if len(parts) > 1 else parts[0][1]
        return log_prob.masked_fill(~is_outcome(x, self.max_length), -torch.inf)

    def generate(self, z: Tensor, choose: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, None]:
        """A text for each z, word by word until all have ended: x (N, max_length), PAD after EOS; and None.

        z (N, D) or (N, steps, D). `choose(logits (N, V)) -> (N,)` is the next word, a draw by default.
        """
        choose = choose or (lambda logits: logits.softmax(-1).multinomial(1)[:, 0])
        x = torch.full((len(z), self.max_length), PAD, device=z.device)
        word, memory, ended = x.new_full((len(z),), BOS), self.start(z), x.new_zeros(len(z), dtype=torch.bool)
        for t in range(self.max_length):
            logits, memory = self.next_word(word, self.latent_at(z, t), memory)
            word = choose(logits).masked_fill(ended, PAD)
            x[:, t], ended = word, ended | (word == EOS)
            if ended.all():
                break
        return x, None

    def start(self, z: Tensor) -> list[Tensor]:
        """The memory before the first word."""
        return self.stack.start(self.latent_at(z, 0))

    def latent_at(self, z: Tensor, t: int) -> Tensor:
        """What word t is told of z, (N, D): the step of a sequence that it belongs to, else all of it."""
        return z[:, t // self.words_per_step] if self.words_per_step else z

    def next_word(self, word: Tensor, z: Tensor, memory: Any) -> tuple[Tensor, list[Tensor]]:
        """The logits (N, V) of the word after `word` (N,), told z (N, D), and the memory after it."""
        states, memory = self.stack(self._inputs(word[:, None], z[:, None]), z[:, None], memory)
        return self._logits(self._joined(self.dropout(states[:, 0]), z)), memory

    def by_word(self, z: Tensor, T: int) -> Tensor:
        """What each of the first T words is told of z, (N, T, D)."""
        if not self.words_per_step:
            return z[:, None].expand(-1, T, -1)
        return z[:, torch.arange(T, device=z.device) // self.words_per_step]

    def _log_prob_of_group(self, x: Tensor, z: Tensor, length: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        x, z, length = x[rows], z[rows], length[rows]
        x = x[:, : max(1, int(length.max()))]
        N, T = x.shape
        states, told = self._states(x, z)
        (words,) = (torch.arange(T, device=x.device) < length[:, None]).flatten().nonzero(as_tuple=True)  # (M,)
        row = words // T
        states = states.flatten(0, 1).index_select(0, words)
        scores = self._scores(states, told[row, words % T], x.flatten()[words])
        return rows, scores.new_zeros(N).index_add(0, row, scores)

    def _log_prob_with_padding(self, x: Tensor, z: Tensor, length: Tensor) -> Tensor:
        """The same of all rows, with logits in the place of padding too: their number is known without a look."""
        states, told = self._states(x, z)
        padding = torch.arange(x.shape[1], device=x.device) >= length[:, None]
        # PAD itself has no finite score, and a gradient of 0 times that would be nan.
        words = x.masked_fill(padding, EOS).flatten()
        scores = self._scores(states.flatten(0, 1), told.flatten(0, 1), words)
        return scores.unflatten(0, x.shape).masked_fill(padding, 0.0).sum(1)

    def _states(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The states before each word, and what it is told of z."""
        told = self.by_word(z, x.shape[1])
        states, _ = self.stack(self._inputs(self._previous(x), told), told, self.start(z))
        return states, told

    def _scores(self, states: Tensor, told: Tensor, words: Tensor) -> Tensor:
        """log p of M words from the states before them."""
        features = self._joined(self.dropout(states), told)
        return word_scores(features, self.output.weight, self.output.bias + self.impossible, words)

    def _previous(self, x: Tensor) -> Tensor:
        before = x[:, :-1]
        if self.training and self.word_dropout:
            before = before.masked_fill(torch.rand(before.shape, device=x.device) < self.word_dropout, UNK)
        return torch.cat([torch.full_like(x[:, :1], BOS), before], 1)

    def _inputs(self, words: Tensor, z: Tensor) -> Tensor:
        return torch.cat([self.dropout(self.embedding(words)), z], -1)

    def _joined(self, states: Tensor, z: Tensor) -> Tensor:
        return torch.cat([states, z], -1) if self.joined else states

    def _logits(self, features: Tensor) -> Tensor:
        return F.linear(features, self.output.weight, self.output.bias + self.impossible)

    def _check(self, x: Tensor) -> None:
        if x.shape[1] > self.max_length:
            raise ValueError(f"expected rows of at most max_length={self.max_length} words, got {x.shape[1]}")
        if not can_look(x, training=self.training) or not x.numel():
            return
        if not (0 <= int(x.min()) and int(x.max()) < len(self.impossible)):
            raise ValueError(
                f"expected word indices from 0 to {len(self.impossible) - 1}, got {int(x.min())} to {int(x.max())}; "
                "was the text read with another vocabulary?"
            )


def _groups(length: Tensor) -> Sequence[Tensor]:
    """Index tensors that part the rows: all as they are, or, where padding would cost, by length in groups of 64."""
    N = len(length)
    rows = torch.arange(N, device=length.device)
    if N <= GROUP or int(length.sum()) >= (1 - LARGEST_PADDING) * N * int(length.max()):
        return [rows]
    return length.argsort(stable=True).split(GROUP)


def joined_entries(entries: Collection[Entry], latent_dim: LatentDim) -> tuple[Entry, ...]:
    """The entries where z is joined further: not 1, where it enters already. Raises ValueError where nothing would be left."""
    if entries == (1,):
        raise ValueError(
            'expected skip to name an entry besides 1, where z is joined to every word already, got "first" or [1]'
        )
    return entries[entries[:1] == (1,) :] if latent_dim else ()
