"""The values of a data set as its files give them: split, with labels, before any binarisation."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyro_skipvae.text.vocabulary import Vocabulary

Array = np.ndarray[Any, Any]
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Contents:
    """One array (N, *event_shape) for each split; `labels` maps a split to its (N,) classes, or is empty.

    kind: `binary` (values 0 and 1), `grey` (integers 0..levels-1, or floats in [0, 1] where levels is None), `real`,
    `count` or `text` (int64 rows of words, with their `vocabulary`).
    split: one phrase that says which items are in which split. class_names: of the classes 0, 1, ..., where the labels are
    words. how_read: what a reader of a user's file decided, as a phrase, or empty. by_class: the splits whose items lie class
    by class, so that their first do not stand for all. columns: the names of the values of an item, where they have names.

    Of a file that is too large to be held the splits are `Rows`, and known of them are their checksum, the range of all values,
    and where what is made of them can be `kept`. note: a sentence on how it is read, or empty.
    """

    name: str
    train: Array
    valid: Array
    test: Array
    split: str
    labels: dict[str, Array] = field(default_factory=dict)
    kind: str = "grey"
    levels: int | None = 256
    vocabulary: Vocabulary | None = None
    class_names: tuple[str, ...] = ()
    how_read: str = ""
    checksum: str = ""
    value_range: tuple[float, float] | None = None
    kept: Any = None
    note: str = ""
    by_class: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def cut(name: str, values: Array, labels: Array | None, indices: Mapping[str, Any], split: str, **about: Any) -> Contents:
    """Return the `Contents` of one array (N, *event_shape) and its labels (N,), or None, cut by {split: indices}."""
    parts = {part: values[index] for part, index in indices.items()}
    classes = {} if labels is None else {part: labels[index] for part, index in indices.items()}
    return Contents(name, **parts, split=split, labels=classes, **about)


def shuffled(indices: Any, seed: int = 0) -> Any:
    """Return the indices in an order that is the same in every release of NumPy, which freezes this old stream."""
    return np.random.RandomState(seed).permutation(indices)


def read_arrays(path: Path, names: Sequence[str]) -> list[Array]:
    """Return the arrays of those names in a .npz file of plain arrays."""
    from .arrays import members  # which checks sizes before anything is read

    found = members(path, set(names))
    return [found[name] for name in names]


def checksum(*arrays: Array) -> str:
    """Return the SHA-256 of the shapes, types and values of the arrays, in their order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array_head(array.dtype, array.shape))
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def array_head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return what a checksum sees of an array before its values."""
    return f"{dtype.str}{shape}".encode()


def lies_by_class(labels: Array) -> bool:
    """Whether the items of each class lie next to each other, so that the first of them do not stand for all."""
    classes = len(np.unique(labels))
    return bool(1 < classes > np.count_nonzero(labels[1:] != labels[:-1]))
