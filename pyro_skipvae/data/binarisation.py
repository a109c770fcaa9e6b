"""Grey levels read as the probabilities of Bernoulli pixels: one fixed draw, or a fresh one at every reading."""

import numpy as np
import torch

from .contents import SPLITS


def probabilities(grey, levels):
    """Return grey / (levels - 1) as float32, or the values themselves where levels is None and they lie in [0, 1]."""
    return grey.float() if levels is None else grey.float() / (levels - 1)


def fixed_draw(grey, levels, *, seed, split):
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

    def __init__(self, grey, levels):
        self.grey = grey
        self.levels = levels

    def __len__(self):
        return len(self.grey)

    @property
    def shape(self):
        return self.grey.shape

    @property
    def probabilities(self):
        """The probability of each pixel, float32 (N, *event_shape)."""
        return probabilities(self.grey, self.levels)

    def __getitem__(self, index):
        return self.draw(index)

    def draw(self, index, generator=None):
        """Return a fresh draw of the indexed images, float32 zeros and ones."""
        chance = probabilities(self.grey[index], self.levels)
        return (torch.rand(chance.shape, generator=generator) < chance).float()
