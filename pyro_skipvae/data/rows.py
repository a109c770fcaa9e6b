"""An array in a file that is larger than what is held in memory: its rows are read when they are asked for.

Read by `pread`, not through a memory map: a file that is cut short while it is mapped ends the process without a word.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .contents import Array
from .folder import DataError

LARGEST_IN_MEMORY = 2**28  # bytes, as float32, of the items of a file; larger ones stay in their file
BLOCK = 2**22  # numbers that are read together
SPARSE = 4  # from so many times fewer rows than their span on, the rows are read one by one


class RowFile:
    """An open file in which rows of so many bytes lie one after the other; it must stay as it is while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = state_of(path)
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        if hasattr(os, "posix_fadvise"):  # else the kernel reads 128 KiB for every row
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def __reduce__(self) -> Any:
        return _opened_again, (self.path, self.state)

    def read(self, start: int, count: int) -> bytes:
        """Return `count` bytes from `start` on. Raises DataError where there are fewer."""
        parts, end = [], start + count
        while start < end:
            part = self._pread(end - start, start)
            if not part:
                raise self._changed()
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _pread(self, count: int, start: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, count, start)
        os.lseek(self._descriptor, start, os.SEEK_SET)  # on Windows, where no process is forked
        return os.read(self._descriptor, count)

    def check(self) -> None:
        """Raise DataError if the file was written to since it was opened."""
        if _state(os.fstat(self._descriptor))[:2] != self.state[:2]:
            raise self._changed()

    def _changed(self) -> DataError:
        return DataError(
            f"expected {self.path} to stay as it was when it was opened, but it was changed since; put the old file back, "
            "and go on with the last checkpoint of the run, or train anew"
        )


def state_of(path: Path) -> tuple[int, ...]:
    """What tells that a file is another one, or was written to: size, times of change, and its number on the disk."""
    return _state(os.stat(path))


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


class Rows:
    """The rows (N, *event_shape) of an array in a file, all or those of an `index`, given as numbers of type `dtype`.

    offset: byte of the first row; stored: type and event shape in the file, in C order. channels_last: of images (H, W, C) in
    the file, which are given as (C, H, W).
    """

    def __init__(
        self,
        file: RowFile,
        offset: int,
        count: int,
        stored: tuple[np.dtype[Any], tuple[int, ...]],
        *,
        index: Array | None = None,
        dtype: Any = None,
        channels_last: bool = False,
    ) -> None:
        self.file, self.offset, self.count, self.stored = file, offset, count, stored
        self.index, self.channels_last = index, channels_last
        self.dtype = np.dtype(dtype or stored[0].newbyteorder("="))

    def _like(self, **other: Any) -> "Rows":
        kept = {"index": self.index, "dtype": self.dtype, "channels_last": self.channels_last}
        return Rows(self.file, self.offset, self.count, self.stored, **kept | other)

    def take(self, index: Array) -> "Rows":
        """Those rows in that order; none is read."""
        return self._like(index=_small(index if self.index is None else self.index[index]))

    def astype(self, dtype: Any) -> "Rows":
        """The same rows as numbers of another type."""
        return self._like(dtype=dtype)

    def channels_first(self) -> "Rows":
        """Images (N, H, W, C) as (N, C, H, W)."""
        return self._like(channels_last=True)

    def __len__(self) -> int:
        return self.count if self.index is None else len(self.index)

    @property
    def shape(self) -> tuple[int, ...]:
        event = self.stored[1]
        return (len(self), event[-1], *event[:-1]) if self.channels_last else (len(self), *event)

    @property
    def held(self) -> int:
        """Bytes that are held in memory."""
        return 0 if self.index is None else int(self.index.nbytes)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Any) -> Array:
        """The rows of a slice, of numbers (B,) or of a mask (N,). Raises DataError for a changed file."""
        chosen = row_numbers(index, len(self))
        chosen = chosen if self.index is None else self.index[chosen].astype(np.int64)
        self.file.check()
        found = self._read(chosen).astype(self.dtype)
        return np.moveaxis(found, -1, 1) if self.channels_last else found

    def _read(self, chosen: Array) -> Array:
        dtype, event = self.stored
        size = dtype.itemsize * int(np.prod(event, dtype=object))
        if not len(chosen):
            return np.empty((0, *event), dtype)
        first, span = int(chosen.min()), int(chosen.max()) - int(chosen.min()) + 1
        if span <= SPARSE * len(chosen):
            raw = self.file.read(self.offset + first * size, span * size)
            rows = np.frombuffer(raw, dtype).reshape(span, *event)
            return rows if span == len(chosen) and _is_range(chosen) else rows[chosen - first]
        raw = b"".join([self.file.read(self.offset + row * size, size) for row in chosen.tolist()])
        return np.frombuffer(raw, dtype).reshape(len(chosen), *event)

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """(number of the first, rows) of all rows in their order, some MB at a time."""
        rows = max(1, BLOCK // max(1, int(np.prod(self.shape[1:], dtype=object))))
        for start in range(0, len(self), rows):
            yield start, self[start : start + rows]


def _opened_again(path: Path, state: Any) -> RowFile:
    """The file in another process. Raises DataError for one that was changed since."""
    found = RowFile(path)
    found.state = state
    found.check()
    return found


def row_numbers(index: Any, count: int) -> Array:
    """The numbers of the rows, from 0 on, that an index asks for: a slice, numbers (B,) or a mask (count,)."""
    if isinstance(index, slice):
        return np.arange(*index.indices(count))
    index = np.asarray(index)
    if index.dtype == bool and index.shape != (count,):
        raise IndexError(f"expected a mask of the {count} rows, got one of shape {index.shape}")
    if index.dtype.kind not in "biu" and index.size:
        raise IndexError(f"expected whole numbers of rows, got {index.dtype}")
    chosen = index.nonzero()[0] if index.dtype == bool else index.astype(np.int64)
    if chosen.ndim != 1 or len(chosen) and not -count <= chosen.min() <= chosen.max() < count:
        raise IndexError(f"expected a row of numbers in {-count}..{count - 1}, got {index}")
    return np.where(chosen < 0, chosen + count, chosen)


def _is_range(chosen: Array) -> bool:
    return bool((np.diff(chosen) == 1).all())


def _small(index: Array) -> Array:
    """An index of 4 bytes a row where that is enough."""
    return index.astype(np.uint32) if len(index) and int(index.max()) < 2**32 else index
