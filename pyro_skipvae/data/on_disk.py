"""Items that stay in a file until they are asked for, as tensors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .large_text import TextRows
from .rows import Rows


class OnDisk:
    """Items (N, *event_shape) of a file: indexing reads those asked for and gives a tensor, float32 in `Data`, int64 of a text.

    Takes a number, a slice, numbers (B,) or a mask (N,), as a tensor does; `take` gives the items of an index without reading.
    Raises DataError where the file was changed or cut short.
    """

    def __init__(self, rows: Rows | TextRows, then: tuple[Callable[[Tensor], Tensor], ...] = ()) -> None:
        self.rows = rows
        self._then = then

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.rows.shape)

    def __getitem__(self, index: Any) -> Tensor:
        if isinstance(index, int | np.integer) or isinstance(index, Tensor) and not index.dim():
            return self[[int(index)]][0]
        items: Any = torch.from_numpy(self.rows[index.numpy() if isinstance(index, Tensor) else index])
        for change in self._then:
            items = change(items)
        return items

    def then(self, change: Callable[[Tensor], Tensor]) -> "OnDisk":
        """The same items, of which `change` makes others whenever they are read."""
        return OnDisk(self.rows, (*self._then, change))

    def take(self, index: Tensor) -> "OnDisk":
        """Those items in that order; none is read."""
        return OnDisk(self.rows.take(index.numpy()), self._then)

    def __repr__(self) -> str:
        return f"OnDisk({str(self.rows.file.path)!r}, {tuple(self.shape)})"
