"""Grey levels read as the probabilities of Bernoulli pixels: one fixed draw, or a fresh one at every reading."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .contents import SPLITS
from .kept import Kept
from .on_disk import OnDisk

PART = 4096  # items that are drawn together


def probabilities(grey: Tensor, levels: int | None) -> Tensor:
    """Return grey / (levels - 1) as float32, or the values themselves where levels is None and they lie in [0, 1]."""
    return grey.float() if levels is None else grey.float() / (levels - 1)


def above_half(grey: Tensor, levels: int | None) -> Tensor:
    """Return 1.0 where the probability is above one half, else 0.0."""
    return (probabilities(grey, levels) > 0.5).float()


def fixed_draw(grey: Tensor, levels: int | None, *, seed: int, split: str) -> Tensor:
    """Return one Bernoulli draw of a split, float32 zeros and ones (N, *event_shape).

    It depends on the values, the seed and the split only: NumPy freezes this old stream, and the draw of an item is the
    same however many items follow.
    """
    drawn = torch.empty(grey.shape, dtype=torch.float32)
    for start, part in enumerate(_draws(grey, levels, seed, split)):
        drawn[start * PART : (start + 1) * PART] = part
    return drawn


def kept_draw(grey: OnDisk, levels: int | None, *, seed: int, split: str, kept: Kept) -> OnDisk:
    """Return the same draw of items on disk: made once, and kept in a file with a bit for each pixel."""
    event = tuple(grey.shape[1:])
    shape = (len(grey), -(-math.prod(event) // 8))
    packed = (np.packbits(part.flatten(1).numpy(), axis=1) for part in _draws(grey, levels, seed, split))
    rows = kept.array(f"drawn-{split}-{seed}", shape, np.uint8, packed, "drawn pixels")
    return OnDisk(rows, (partial(_unpacked, event=event),))


def _draws(grey: Any, levels: int | None, seed: int, split: str) -> Iterator[Tensor]:
    """The draw of a split in parts, since the stream is float64."""
    random = np.random.RandomState([seed, SPLITS.index(split)])
    for start in range(0, len(grey), PART):
        chance = probabilities(grey[start : start + PART], levels)
        yield torch.from_numpy(random.random_sample(chance.shape)) < chance


def _unpacked(bits: Tensor, event: tuple[int, ...]) -> Tensor:
    pixels = np.unpackbits(bits.numpy(), axis=1, count=math.prod(event))
    return torch.from_numpy(pixels).float().reshape(len(bits), *event)


class DynamicallyBinarised:
    """Grey images (N, *event_shape) whose pixels are drawn as 0 or 1 whenever they are read, with their level as probability.

    Indexing draws from torch's global generator; `draw` takes a generator.
    """

    grey: Tensor | OnDisk

    def __init__(self, grey: Tensor | OnDisk, levels: int | None) -> None:
        self.grey = grey
        self.levels = levels

    def __len__(self) -> int:
        return len(self.grey)

    @property
    def shape(self) -> torch.Size:
        return self.grey.shape

    @property
    def probabilities(self) -> Tensor | OnDisk:
        """The probability of each pixel, float32 (N, *event_shape)."""
        scale = partial(probabilities, levels=self.levels)
        return self.grey.then(scale) if isinstance(self.grey, OnDisk) else scale(self.grey)

    def __getitem__(self, index: Any) -> Tensor:
        return self.draw(index)

    def draw(self, index: Any, generator: torch.Generator | None = None) -> Tensor:
        """A new draw of the indexed images, float32 zeros and ones."""
        chance = probabilities(self.grey[index], self.levels)
        return (torch.rand(chance.shape, generator=generator) < chance).float()


Items = Tensor | DynamicallyBinarised | OnDisk
