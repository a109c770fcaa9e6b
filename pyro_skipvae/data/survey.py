"""One pass over items that are too many to be held: whether all are finite, their range, and their checksum."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .contents import Array, array_head
from .rows import Rows

FACTS = {"low": (int, float), "high": (int, float), "binary": bool, "checksum": str}  # what a survey finds
Progress = Callable[[str, int, int], None]  # (what is done, items so far, items in all)
LARGEST = float(np.finfo(np.float32).max)


class NotFinite(Exception):
    """A value is not finite, or larger than float32 can hold."""


def survey(parts: Mapping[str, Rows], progress: Progress | None = None) -> dict[str, Any]:
    """{low, high, binary, checksum} of the splits, each item read once; the checksum is that of the type that is kept.

    binary: all values are 0 or 1. Raises NotFinite.
    """
    stored = next(iter(parts.values())).dtype
    # Nearly always right. Where all turn out to be 0 or 1 the checksum is of uint8, and counted once more.
    guess = kept_type(stored, binary=stored.kind == "b")
    low, high, binary = np.inf, -np.inf, True
    digest, done, total = hashlib.sha256(), 0, sum(map(len, parts.values()))
    for rows in parts.values():
        digest.update(array_head(guess, rows.shape))
        for _, block in rows.blocks():
            plain = float if stored.kind == "f" else int
            least, most = plain(block.min()), plain(block.max())
            if not -LARGEST <= least <= most <= LARGEST:
                raise NotFinite
            low, high = min(low, least), max(high, most)
            binary = binary and 0 <= least and most <= 1 and _is_binary(block)
            digest.update(np.ascontiguousarray(block, guess).data)
            done += len(block)
            if progress:
                progress("looking at the values", done, total)
    if kept_type(stored, binary=binary) != guess:
        return {"low": low, "high": high, "binary": binary, "checksum": _checksum(parts, np.uint8, progress)}
    return {"low": low, "high": high, "binary": binary, "checksum": digest.hexdigest()}


def kept_type(dtype: np.dtype[Any], *, binary: bool) -> np.dtype[Any]:
    """The type in which values are kept: uint8 for 0 and 1 and for 8-bit grey levels, float32 for floats, else int64."""
    if binary or dtype == np.uint8:
        return np.dtype(np.uint8)
    return np.dtype(np.float32 if dtype.kind == "f" else np.int64)


def _is_binary(block: Array) -> bool:
    return bool(((block == 0) | (block == 1)).all())


def _checksum(parts: Mapping[str, Rows], dtype: Any, progress: Progress | None) -> str:
    digest, done, total = hashlib.sha256(), 0, sum(map(len, parts.values()))
    for rows in parts.values():
        digest.update(array_head(np.dtype(dtype), rows.shape))
        for _, block in rows.astype(dtype).blocks():
            digest.update(np.ascontiguousarray(block).data)
            done += len(block)
            if progress:
                progress("counting the checksum", done, total)
    return digest.hexdigest()
