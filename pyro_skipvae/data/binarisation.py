"""Grey levels read as the probabilities of Bernoulli pixels: one fixed draw, or a fresh one at every reading."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .contents import SPLITS


def probabilities(grey: Tensor, levels: int | None) -> Tensor:
    """Return grey / (levels - 1) as float32, or the values themselves where levels is None and they lie in [0, 1]."""
    return grey.float() if levels is None else grey.float() / (levels - 1)


def fixed_draw(grey: Tensor, levels: int | None, *, seed: int, split: str) -> Tensor:
    """Return one Bernoulli draw of a split, float32 zeros and ones (N, *event_shape).

    It depends on the values, the seed and the split only: NumPy freezes this old stream, and the draw of an item is the
    same however many items follow.
    """
    random = np.random.RandomState([seed, SPLITS.index(split)])
    drawn = torch.empty(grey.shape, dtype=torch.float32)
    for start in range(0, len(grey), 4096):  # in parts, since the stream is float64
        chance = probabilities(grey[start : start + 4096], levels)
        drawn[start : start + 4096] = torch.from_numpy(random.random_sample(chance.shape)) < chance
    return drawn


class DynamicallyBinarised:
    """Grey images (N, *event_shape) that are drawn afresh, as Bernoulli pixels, whenever they are read.

    Indexing draws from torch's global generator; `draw` takes a generator.
    """

    def __init__(self, grey: Tensor, levels: int | None) -> None:
        self.grey = grey
        self.levels = levels

    def __len__(self) -> int:
        return len(self.grey)

    @property
    def shape(self) -> torch.Size:
        return self.grey.shape

    @property
    def probabilities(self) -> Tensor:
        """The probability of each pixel, float32 (N, *event_shape)."""
        return probabilities(self.grey, self.levels)

    def __getitem__(self, index: Any) -> Tensor:
        return self.draw(index)

    def draw(self, index: Any, generator: torch.Generator | None = None) -> Tensor:
        """Return a fresh draw of the indexed images, float32 zeros and ones."""
        chance = probabilities(self.grey[index], self.levels)
        return (torch.rand(chance.shape, generator=generator) < chance).float()


Items = Tensor | DynamicallyBinarised
