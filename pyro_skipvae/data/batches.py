"""Batches of a split: re-iterable, one epoch each time, and able to go on in the middle of an epoch."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pyro_skipvae.blocks import check_sizes

from .binarisation import DynamicallyBinarised, Items


class Batches:
    """Batches x (B, *event_shape) of a split; each iteration is one epoch, whose last batch may be smaller.

    The order is drawn from (seed, epoch) and the noise of dynamic binarisation from (seed, epoch, batch), never from a global
    generator, so that the position is the whole state. An iteration that was broken off starts its epoch again; after
    `load_state_dict` the next iteration yields the rest of the epoch, which is empty if the state was taken at its last batch.
    Raises ValueError for a size below 1 or a seed below 0.
    """

    def __init__(self, items: Items, size: int, *, seed: int, shuffle: bool) -> None:
        check_sizes(size=size)
        check_sizes(0, seed=seed)
        self.items = items
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self.position = 0
        self._start = 0

    def __len__(self) -> int:
        return -(-len(self.items) // self.size)

    def __iter__(self) -> Iterator[Tensor]:
        start, self._start = self._start, 0
        order = self.order(self.epoch)
        for number in range(start, len(self)):
            self.position = number + 1
            yield self._batch(order, number)
        self.epoch, self.position = self.epoch + 1, 0

    def order(self, epoch: int) -> Tensor:
        """The indices (N,) of the items in the order of that epoch; batch b starts at b * size."""
        if not self.shuffle:
            return torch.arange(len(self.items))
        return torch.randperm(len(self.items), generator=self._generator(epoch, 0))

    def _batch(self, order: Tensor, number: int) -> Tensor:
        index = order[number * self.size : (number + 1) * self.size]
        return self._chosen(index, self._generator(self.epoch, number + 1))

    def drawn(self, number: int) -> Tensor:
        """A random batch outside of the epochs, which depends on the seed and its number; it may hold an item twice."""
        generator = self._generator(number, 0, "drawn")
        return self._chosen(torch.randint(len(self.items), (self.size,), generator=generator), generator)

    def _chosen(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """These items, with noise of dynamic binarisation by the generator."""
        return self.items.draw(index, generator) if isinstance(self.items, DynamicallyBinarised) else self.items[index]

    def _generator(self, epoch: int, stream: int, purpose: str = "") -> torch.Generator:
        # Mixed by SeedSequence, since sums or products of small numbers would repeat; stream 0 is the order, 1 + b the
        # noise of batch b.
        state = np.random.SeedSequence([self.seed, epoch, stream, *purpose.encode()]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]) >> 1)

    def state_dict(self) -> dict[str, int]:
        """The position, {"epoch": epochs completed, "position": batches yielded in the current one}."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a state of batches with the same items, size and seed.

        Raises ValueError for a state that these batches cannot have.
        """
        if set(state) != {"epoch", "position"} or state["epoch"] < 0 or not 0 <= state["position"] <= len(self):
            raise ValueError(f"expected an epoch and a position in 0..{len(self)}, got {state}")
        self.epoch = state["epoch"]
        self.position = self._start = state["position"]
