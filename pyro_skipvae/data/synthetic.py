"""Sentences of an LSTM with two latent numbers each, whose weights are known: and with them log p(x), to any precision.

    z ~ N(0, 1)^2,  h_0 = A z + a,  c_0 = 0,  (h_t, c_t) = LSTM with gates U (E x_(t-1), z) + V h_(t-1) + g,
    x_t ~ softmax(W h_t + b)  until the end of the sentence

The weights and the draws come from a stream that NumPy freezes, and nothing here uses the package's decoders: the data do
not change when those do. `synthetic_oracle()` is the same model as an `LSTMDecoder`.

Reference: Kim et al. 2018, section 5.1 and appendix A (there other sizes, and sentences of one length).
"""

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_skipvae.text.vocabulary import BOS, EOS, MARKS, PAD, UNK, Vocabulary

from .contents import SPLITS, Array
from .text import LONGEST, Texts

if TYPE_CHECKING:
    import torch

    from pyro_skipvae.decoders.lstm import LSTMDecoder

WORDS = tuple(f"w{number}" for number in range(1, 1001))
SIZES = {"train": 5_000, "valid": 1_000, "test": 1_000}
EMBEDDING, WIDTH, SEED = 16, 32, 2018
EDGE = 6.5  # radius of the quadrature: beyond it lies a prior mass of 7e-10


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[str, list[Path]]:
    """Return ("made when asked for", []): there is no file."""
    return "made when asked for", []


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Texts:
    """Return the `Texts`: 5,000 / 1,000 / 1,000 sentences, with the oracle's vocabulary."""
    vocabulary = Vocabulary(WORDS)
    texts = iter(vocabulary.decode(row).split() for row in draws(sum(SIZES.values())))
    parts: dict[str, Any] = {part: [next(texts) for _ in range(SIZES[part])] for part in SPLITS}
    return Texts(name, **parts, split="5,000 / 1,000 / 1,000 draws of one model, seeded", vocabulary=vocabulary)


@cache
def weights() -> dict[str, Array]:
    """Return the oracle's weights by their names in the docstring above, and `g`, the bias of the gates.

    They are uniform, and marks are never said. Unit 0 counts the words, h = tanh(t / 4) or nearly, and it alone makes the
    end likely: so sentences are short, and none goes on for ever.
    """
    random = np.random.RandomState(SEED)
    size = 4 + len(WORDS)
    scales: dict[str, Any] = {"E": (1, size, EMBEDDING), "U": (1, 4 * WIDTH, EMBEDDING + 2), "V": (0.3, 4 * WIDTH, WIDTH)}
    scales |= {"A": (1, WIDTH, 2), "a": (1, WIDTH), "W": (2, size, WIDTH)}
    known = {name: random.uniform(-scale, scale, shape) for name, (scale, *shape) in scales.items()}
    known |= {"g": np.zeros(4 * WIDTH), "b": np.zeros(size)}
    counter = np.arange(4) * WIDTH  # unit 0 in the gates: input, forget, cell, output
    known["U"][counter] = known["V"][counter] = 0.0
    known["g"][counter] = 5.0, 5.0, np.arctanh(0.25), 5.0
    known["W"][: len(MARKS)] = 0.0
    known["W"][EOS, 0], known["b"][EOS], known["b"][UNK] = 21.0, -9.0, -50.0
    known["A"][0] = known["a"][0] = 0.0
    return {name: array.astype(np.float32).astype(np.float64) for name, array in known.items()}  # exact in both


def draws(count: int) -> list[list[int]]:
    """Return `count` rows of numbers, each up to and with EOS; a row that goes on for ever would be an error."""
    random = np.random.RandomState(SEED + 1)
    z = random.normal(size=(count, 2))
    rows: list[list[int]] = [[] for _ in range(count)]
    going = np.arange(count)
    word, state = np.full(count, BOS), _start(z)
    for _ in range(LONGEST + 1):
        scores, state = _step(word, z[going], state)
        chance = np.exp(scores - scores.max(1, keepdims=True)).cumsum(1)
        word = (chance < random.uniform(size=(len(going), 1)) * chance[:, -1:]).sum(1)
        for row, number in zip(going, word, strict=True):
            rows[row].append(number)
        more = word != EOS
        going, word, state = going[more], word[more], tuple(part[more] for part in state)
        if not len(going):
            return rows
    raise RuntimeError("expected every sentence to end")


def true_log_likelihood(x: Any, *, step: float = 1 / 6) -> Array:
    """Return log p(x) (N,) in nats of rows x (N, T) of words, EOS and PAD, float64.

    log p(x) = log int N(z; 0, I) p(x|z) dz by the trapezoid rule on a grid of z, whose error falls like exp(-c / step^2):
    a sixth is converged to 1e-6. Cost: 4,800 rows a sentence, about a quarter of a second.
    """
    side = np.arange(-EDGE, EDGE + step / 2, step)
    z = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    z = z[(z**2).sum(1) <= EDGE**2]
    prior = -0.5 * (z**2).sum(1) - np.log(2 * np.pi) + 2 * np.log(step)
    return np.array([np.logaddexp.reduce(prior + _log_prob(row[row != PAD], z)) for row in np.asarray(x)])


def _log_prob(row: Array, z: Array) -> Array:
    """log p(x|z) of one sentence, at each z (N, 2)."""
    total, state = np.zeros(len(z)), _start(z)
    for before, word in zip([BOS, *row[:-1]], row, strict=True):
        scores, state = _step(np.full(len(z), before), z, state)
        highest = scores.max(1)
        total = total + scores[:, word] - highest - np.log(np.exp(scores - highest[:, None]).sum(1))
    return total


def _start(z: Array) -> tuple[Array, Array]:
    known = weights()
    return z @ known["A"].T + known["a"], np.zeros((len(z), WIDTH))


def _step(word: Array, z: Array, state: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
    """The scores (N, words) of what follows `word` (N,), and the state after it."""
    known, (h, c) = weights(), state
    gates = np.concatenate([known["E"][word], z], 1) @ known["U"].T + h @ known["V"].T + known["g"]
    into, forget, cell, out = np.split(gates, 4, axis=1)
    c = _sigmoid(forget) * c + _sigmoid(into) * np.tanh(cell)
    h = _sigmoid(out) * np.tanh(c)
    scores = h @ known["W"].T + known["b"]
    scores[:, [PAD, BOS]] = -np.inf
    return scores, (h, c)


def _sigmoid(x: Any) -> Array:
    return 1 / (1 + np.exp(-x))


def oracle_state() -> "dict[str, torch.Tensor]":
    """Return the weights under the names of a one-layer `LSTMDecoder` without skips."""
    import torch

    known = {name: torch.from_numpy(array).float() for name, array in weights().items()}
    return {
        "network.embedding.weight": known["E"],
        "network.stack.layers.0.weight_ih_l0": known["U"],
        "network.stack.layers.0.weight_hh_l0": known["V"],
        "network.stack.layers.0.bias_ih_l0": known["g"],
        "network.stack.layers.0.bias_hh_l0": torch.zeros(4 * WIDTH),
        "network.stack.initial.weight": known["A"],
        "network.stack.initial.bias": known["a"],
        "network.output.weight": known["W"],
        "network.output.bias": known["b"],
    }


def synthetic_oracle() -> "LSTMDecoder":
    """Return the model of the data as an `LSTMDecoder` z (..., 2) -> p(x|z), its prior the standard normal one."""
    from pyro_skipvae.decoders.lstm import LSTMDecoder

    decoder = LSTMDecoder(4 + len(WORDS), 2, max_length=LONGEST + 1, embedding=EMBEDDING, width=WIDTH, dropout=0.0, skip="none")
    decoder.load_state_dict(oracle_state())
    return decoder
