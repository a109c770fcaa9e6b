"""From the numbers in a user's file to `Contents`: checked, typed by what they are, and split.

All 0 and 1 are binary; uint8, 256 grey levels; other integers, counts; floats in [0, 1], grey values that may be
binarised; other floats, real values. Where valid or test is absent, a tenth of train is cut off for it.
"""

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import file_content
from .contents import SPLITS, Array, Contents, lies_by_class, shuffled
from .kept import Kept
from .rows import BLOCK, Rows
from .survey import FACTS, NotFinite, Progress, kept_type, survey

FEWEST = 2  # items of a split
LOOKED_AT = 10_000  # items, evenly spread, on which it is seen whether float32 can tell them apart ...
LOOKED_AT_BYTES = 2**26  # ... of 64 MiB at most
LARGEST_COUNT = 2**24  # float32 is exact up to there
LARGEST_CLASS = 2**31


@dataclass(frozen=True, eq=False)
class Values:
    """What a file holds: split -> (N, *event_shape) numbers, split -> (N,) labels, numbers or strings.

    Arrays that are too large to be held are `Rows`. how_read: what the reader decided, as a phrase, or empty. sources,
    label_sources: split -> the name in the file. note: a sentence on how it is read, or empty. kept: where what is made of the
    file is kept, if its reader has made something. columns: the names of the values of an item, where they have names.
    """

    arrays: dict[str, Any]
    labels: dict[str, Array] = field(default_factory=dict)
    how_read: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    label_sources: dict[str, str] = field(default_factory=dict)
    note: str = ""
    kept: Kept | None = None
    columns: tuple[str, ...] = ()


def contents(
    path: Path, values: Values, *, root: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> Contents:
    """Return the `Contents` of what was read from a file, named as the file.

    root: the folder of downloads, where what a look at a large file found is kept. Raises ValueError, in one line with the
    path, for what is not as described above.
    """
    large = any(isinstance(array, Rows) for array in values.arrays.values())
    _check_arrays(path, values)
    values = replace(values, note=f"{values.note} {_flattened(path, values)}".strip())
    labels, class_names = _classes(path, values)
    indices, split = _splits(path, values.arrays)
    if large:
        found = _on_disk(path, values, indices, root, progress)
    else:
        kind, levels, dtype = _kind(path, values.arrays)
        arrays = {part: _taken(values.arrays[source], index, dtype) for part, (source, index) in indices.items()}
        found = {**arrays, "kind": kind, "levels": levels, "note": values.note}
    classes = {
        part: labels[source] if index is None else labels[source][index]
        for part, (source, index) in indices.items()
        if source in labels
    }
    about: dict[str, Any] = {"class_names": class_names, "how_read": values.how_read, "columns": values.columns}
    as_they_lie = [part for part, (_, index) in indices.items() if index is None or part == "train"]  # what is cut off is not
    about["by_class"] = tuple(part for part in as_they_lie if part in classes and lies_by_class(classes[part]))
    return Contents(path.name, split=split, labels=classes, **found, **about)


def _on_disk(path: Path, values: Values, indices: Any, root: Any, progress: Progress | None) -> dict[str, Any]:
    """What `Contents` has of arrays that stay in their file: rows, kind, levels, checksum, range, and where things are kept."""
    parts = {part: _selected(values.arrays[source], index) for part, (source, index) in indices.items()}
    file = next(rows.file for rows in parts.values() if isinstance(rows, Rows))
    kept = values.kept or Kept(path, file.state, root)
    facts, note = kept.stored("facts.json", FACTS), values.note
    if facts is None:
        facts = _looked_at(path, values, parts, progress)
        if not kept.store("facts.json", facts):
            note = f"{note} {kept.folder} cannot be written: the values are looked at anew in every run.".strip()
    dtype = parts["train"].dtype
    kind, levels, _ = _kind_of(path, dtype, facts["binary"], facts["low"], facts["high"])
    rows = {part: each.astype(kept_type(dtype, binary=facts["binary"])) for part, each in parts.items()}
    known = {"checksum": facts["checksum"], "value_range": (facts["low"], facts["high"]), "kept": kept, "note": note}
    return {**rows, "kind": kind, "levels": levels, **known}


def _looked_at(path: Path, values: Values, parts: Any, progress: Progress | None) -> dict[str, Any]:
    if zipfile.is_zipfile(path):
        file_content.check_sums(path)
    try:
        return survey(parts, progress)
    except NotFinite:
        for split, array in values.arrays.items():
            _check_finite(array, _where(path, values, split))
        raise


def _selected(rows: Rows, index: Array | None) -> Rows:
    return rows if index is None else rows.take(index)


def _where(path: Path, values: Values, split: str) -> str:
    return f"in '{values.sources[split]}' of {path}" if split in values.sources else f"in {path}"


def _check_arrays(path: Path, values: Values) -> None:
    train = values.arrays["train"]
    for split, array in values.arrays.items():
        where = _where(path, values, split)
        if array.dtype.kind not in "buif":
            raise ValueError(f"expected numbers, got type {array.dtype} {where}")
        if array.ndim == 1:
            raise ValueError(
                f"expected shape (N, ...) with at least two dimensions, got {array.shape} {where}; "
                "array.reshape(-1, 1) makes items of one number"
            )
        if array.ndim < 2 or 0 in array.shape[1:]:
            raise ValueError(f"expected shape (N, ...) with at least two dimensions, none of them 0, got {array.shape} {where}")
        if len(array) < FEWEST:
            raise ValueError(f"expected at least {FEWEST} items, got {len(array)} {where}")
        if array.shape[1:] != train.shape[1:]:
            raise ValueError(f"expected items of the same shape as train's, {train.shape[1:]}, got {array.shape[1:]} {where}")
        if array.dtype != train.dtype:
            raise ValueError(f"expected the type of train, {train.dtype}, got {array.dtype} {where}")
        if array.dtype.kind == "f" and not isinstance(array, Rows):
            _check_finite(array, where)


def _flattened(path: Path, values: Values) -> str:
    """A sentence on dimensions whose values float32 cannot tell apart, or nothing. Raises ValueError where no other varies."""
    train = values.arrays["train"]
    if train.dtype.kind != "f" or train.dtype.itemsize <= 4:
        return ""
    elements = int(np.prod(train.shape[1:], dtype=object))
    count = min(len(train), LOOKED_AT, max(2, LOOKED_AT_BYTES // (8 * elements)))
    items = train[np.arange(count) * len(train) // count].reshape(count, -1)
    mean, deviation = items.mean(0), items.std(0)
    varies = deviation > 1e-12 * np.abs(mean)
    lost = varies & ((items - items.astype(np.float32)).std(0) > deviation / 10)
    if not lost.any():
        return ""
    first = int(lost.argmax())
    place = ", ".join(map(str, np.unravel_index(first, train.shape[1:])))
    about = f"mean {mean[first]:.6g} and deviation {deviation[first]:.3g} at [:, {place}]"
    if (lost == varies).all():
        where = _where(path, values, "train")
        raise ValueError(f"expected values that float32 can tell apart, got {about} {where}: subtract the mean first")
    many = f"{lost.sum()} of {lost.size} dimensions"
    return f"In {many} float32 cannot tell the values apart, the first has {about}: subtract the means."


def _blocks(array: Any) -> Iterator[tuple[int, Array]]:
    rows = max(1, BLOCK // max(1, int(np.prod(array.shape[1:], dtype=object))))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def _check_finite(array: Any, where: str) -> None:
    largest = np.finfo(np.float32).max
    for start, block in _blocks(array):
        wrong = np.argwhere(~(np.abs(block) <= largest))
        if len(wrong):
            index = [start + int(wrong[0][0]), *map(int, wrong[0][1:])]
            count = sum(int((~(np.abs(part) <= largest)).sum()) for _, part in _blocks(array))
            more = f" (and {count - 1:,} more)" if count > 1 else ""
            raise ValueError(
                f"expected finite values that float32 can hold, got {block[tuple(wrong[0])]} at {index}{more} {where}; "
                "rows are counted from 0"
            )


def _classes(path: Path, values: Values) -> tuple[dict[str, Array], tuple[str, ...]]:
    """(split -> (N,) integer classes, their names where the labels are strings)."""
    labels = {split: _label_row(path, values, split, array) for split, array in values.labels.items()}
    if not any(array.dtype.kind == "U" for array in labels.values()):
        return labels, ()
    names = np.unique(np.concatenate([array.astype(str) for array in labels.values()]))
    if all(name.isascii() and name.isdigit() and len(name) < 10 for name in names):  # '0' ... '9', as OpenML writes them
        return {split: array.astype(np.int64) for split, array in labels.items()}, ()
    return {split: np.searchsorted(names, array.astype(str)) for split, array in labels.items()}, tuple(map(str, names))


def _label_row(path: Path, values: Values, split: str, array: Array) -> Array:
    """Labels as one row (N,): a column is laid flat, rows of one 1 among zeros become its place, whole floats integers."""
    name = values.label_sources.get(split, "labels")
    where = f"in '{name}' of {path}"
    if split not in values.arrays:
        raise ValueError(f"expected labels of a split that is there, got labels without '{split}' {where}")
    count, shape, dtype = len(values.arrays[split]), array.shape, array.dtype
    if array.shape in ((count, 1), (1, count)):  # MATLAB has no arrays of one dimension
        array = array.reshape(count)
    elif array.ndim == 2 and len(array) == count and array.dtype.kind in "buif" and _is_one_hot(array):
        array = array.argmax(1)
    if array.dtype.kind == "S":
        array = np.array([label.decode("utf-8", "backslashreplace") for label in array.tolist()])
    if array.dtype.kind == "f" and bool((array == np.round(array)).all()) and bool((np.abs(array) < LARGEST_CLASS).all()):
        array = array.astype(np.int64)
    if array.dtype.kind not in "buiU" or array.shape != (count,):
        raise ValueError(f"expected integer or text classes of shape ({count},), got {dtype} of shape {shape} {where}")
    if array.dtype.kind in "ui" and not (-LARGEST_CLASS <= int(array.min()) and int(array.max()) < LARGEST_CLASS):
        raise ValueError(f"expected classes below {LARGEST_CLASS:,}, got {int(array.max()):,} {where}")
    return array


def _is_one_hot(array: Array) -> bool:
    return bool(((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all())


def _kind(path: Path, arrays: dict[str, Array]) -> tuple[str, int | None, Any]:
    """(kind, levels, the type that we keep), decided over all splits together."""
    dtype = arrays["train"].dtype
    if all(((block == 0) | (block == 1)).all() for array in arrays.values() for _, block in _blocks(array)):
        return _kind_of(path, dtype, True, 0, 1)
    low = min(array.min() for array in arrays.values())
    high = max(array.max() for array in arrays.values())
    return _kind_of(path, dtype, False, low, high)


def _kind_of(path: Path, dtype: np.dtype[Any], binary: bool, low: Any, high: Any) -> tuple[str, int | None, Any]:
    if binary:
        return "binary", 2, np.uint8
    if dtype == np.uint8:
        return "grey", 256, np.uint8
    if dtype.kind == "f":
        return ("grey" if low >= 0 and high <= 1 else "real"), None, np.float32
    if low < 0 or high > LARGEST_COUNT:
        raise ValueError(
            f"expected counts in 0..{LARGEST_COUNT}, or floats, got {dtype} from {low} to {high} in {path}; "
            "(array - array.mean(0)).astype('float32') makes them real numbers"
        )
    return "count", None, np.int64


def _splits(path: Path, arrays: dict[str, Array]) -> tuple[dict[str, tuple[str, Array | None]], str]:
    """({split: (the array that it comes from, its indices or None for all)}, the phrase that says it)."""
    absent = [split for split in SPLITS if split not in arrays]
    if not absent:
        return {split: (split, None) for split in SPLITS}, "as in the file"
    count = len(arrays["train"])
    tenth = max(FEWEST, count // 10)
    if count < FEWEST + len(absent) * tenth:
        names = " and ".join(absent)
        fewest = FEWEST * (1 + len(absent))
        raise ValueError(f"expected at least {fewest} items in 'train', from which {names} are cut, got {count} in {path}")
    order = shuffled(np.arange(count))
    parts: dict[str, tuple[str, Array | None]] = {split: (split, None) for split in arrays}
    for start, split in enumerate(absent):
        parts[split] = ("train", order[start * tenth : (start + 1) * tenth])
    parts["train"] = ("train", np.sort(order[len(absent) * tenth :]))
    each = " each" if len(absent) > 1 else ""
    phrase = f"{' and '.join(absent)}: a tenth{each} of the file's train, in a fixed shuffled order"
    return {split: parts[split] for split in SPLITS}, phrase


def _taken(array: Array, index: Array | None, dtype: Any) -> Array:
    """The items of an array in the type that we keep: copied once, block by block; as they are where nothing changes."""
    if index is None and array.dtype == dtype and not isinstance(array, np.memmap):
        return array
    index = np.arange(len(array)) if index is None else index
    taken = np.empty((len(index), *array.shape[1:]), dtype)
    for start, block in _blocks(taken):
        block[...] = array[index[start : start + len(block)]]
    return taken
