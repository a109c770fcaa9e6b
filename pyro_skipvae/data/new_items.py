"""New items for a model that was trained on other data: read from a file as one array, in the values that the model takes.

What decides how they are read is the model's kind of values, not what the file would be taken for by itself.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pyro_skipvae.text.vocabulary import MARKS, PAD, UNK, UNKNOWN, Vocabulary

from . import folder, own_file, text_file
from .contents import SPLITS
from .values import LARGEST_COUNT, Array, Values


class Described(Protocol):
    """What must be known of the data of a model: fields as in `Data`."""

    @property
    def event_shape(self) -> tuple[int, ...]: ...
    @property
    def kind(self) -> str: ...
    @property
    def levels(self) -> int | None: ...
    @property
    def binarisation(self) -> str: ...
    @property
    def vocabulary(self) -> Vocabulary | None: ...
    @property
    def columns(self) -> tuple[str, ...]: ...


class NewItems(NamedTuple):
    """x (N, *event_shape); labels (N,), or None; of a text the line (N,) of its file that each is, counted from 1, and how many
    of its words the model does not know."""

    x: Tensor
    labels: Array | None
    lines: Array | None = None
    unknown: int = 0


def new_items(name: str | os.PathLike[str], about: Described, *, seed: int = 0) -> NewItems:
    """The `NewItems` of a file or folder, all in their order; of several splits one after the other.

    Of a text, lines without words are no items, and words that the model does not know are unknown. Columns with names are
    taken by them, in any order. Grey levels are drawn as 0 or 1 once, by the seed, where the model was trained on draws. Raises
    DataError where there is no such file, ValueError for items of another shape, and for other columns or values than the model
    takes.
    """
    path, places = own_file.find(os.fspath(name))
    if path is None:
        raise folder.missing(str(name), places, "give the path of an existing file or folder")
    if about.vocabulary is not None:
        return _texts(*text_file.lines(path), about.vocabulary, about.event_shape[0], path)
    values = _in_columns_of(own_file.read_values(path), about.columns, path)
    parts = [split for split in SPLITS if split in values.arrays]
    for split in parts:
        if values.arrays[split].shape[1:] not in (about.event_shape, _without_colours(about.event_shape)):
            got = values.arrays[split].shape[1:]
            raise ValueError(f"expected items of shape {about.event_shape}, as the model was trained on, got {got} in {path}")
    array = np.concatenate([values.arrays[split][:] for split in parts])
    if array.shape[1:] != about.event_shape:  # images that happen to be grey
        array = np.stack([array] * 3, 1)
    if array.dtype.kind not in "buif" or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"expected finite numbers in {path}, got others or none")
    labels = np.concatenate([values.labels[split] for split in parts]) if all(p in values.labels for p in parts) else None
    return NewItems(_in_values_of(array, about, str(path), seed), labels)


def _without_colours(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return shape[1:] if len(shape) == 3 and shape[0] == 3 else None


def _in_columns_of(values: Values, wanted: tuple[str, ...], path: Path) -> Values:
    """The values of the columns that the model was trained on, in their order, where both have names."""
    if not wanted or not values.columns or values.columns == wanted:
        return values
    values = _with_label_as_value(values, wanted)
    if missing := next((name for name in wanted if name not in values.columns), None):
        raise ValueError(f"expected the columns that the model was trained on, got none named {missing!r} in {path}")
    if twice := next((name for name in wanted if values.columns.count(name) > 1), None):  # as genes may be
        raise ValueError(f"expected columns that can be told apart by name, got several named {twice!r} in {path}")
    order = [values.columns.index(name) for name in wanted]
    return replace(values, arrays={split: array[:, order] for split, array in values.arrays.items()}, columns=wanted)


def _with_label_as_value(values: Values, wanted: tuple[str, ...]) -> Values:
    """The values, with the labels among them where the model was trained on that column: here all in it may be whole."""
    name = next(iter(values.label_sources.values()), None)
    if name not in wanted or name in values.columns or any(labels.dtype.kind not in "iuf" for labels in values.labels.values()):
        return values
    arrays = {split: np.column_stack([array, values.labels[split]]) for split, array in values.arrays.items()}
    return replace(values, arrays=arrays, labels={}, columns=(*values.columns, name))


def _in_values_of(array: Array, about: Described, path: str, seed: int) -> Tensor:
    low, high = array.min(), array.max()
    if about.kind == "real":
        return torch.from_numpy(array.astype(np.float32))
    if about.kind == "count":
        if low < 0 or high > LARGEST_COUNT or (array != np.round(array)).any():
            raise ValueError(f"expected counts, as the model was trained on, got values from {low:g} to {high:g} in {path}")
        return torch.from_numpy(array.astype(np.float32))
    grey = about.binarisation == "none" and about.levels is not None  # a level of 1 is nearly black there
    binary = not (grey and array.dtype.kind in "ui") and bool(((array == 0) | (array == 1)).all())
    if about.binarisation == "given" and not binary:
        raise ValueError(f"expected 0 and 1, as the model was trained on, got values from {low:g} to {high:g} in {path}")
    if not binary and (array.dtype == np.uint8 or (about.levels and array.dtype.kind in "ui")):
        array = array / ((about.levels or 256) - 1)
    if array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"expected grey levels in [0, 1] or uint8, as the model was trained on, got {array.dtype} from {low:g} to {high:g} "
            f"in {path}"
        )
    x = torch.from_numpy(array.astype(np.float32))
    if binary or about.binarisation == "none":
        return x
    if about.binarisation == "threshold":
        return (x > 0.5).float()
    return (torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < x).float()


def _texts(lines: list[str], labels: dict[int, str | int], vocabulary: Vocabulary, longest: int, path: Path) -> NewItems:
    """The rows (N, T) of the lines with words. Raises ValueError for a line that is too long or has a mark."""
    rows, numbers_of = [], []
    for number, words in enumerate(map(str.split, lines), start=1):
        if mark := next((word for word in words if word in MARKS[:UNK]), None):
            raise ValueError(f"expected texts without marks of begin, end or padding, got {mark} in line {number} of {path}")
        if len(words) >= longest:
            raise ValueError(f"expected texts of at most {longest - 1} words, got {len(words)} in line {number} of {path}")
        if words:
            rows.append(vocabulary.encode(words))
            numbers_of.append(number)
    if not rows:
        raise ValueError(f"expected lines with words, got none in {path}")
    found = torch.full((len(rows), max(map(len, rows))), PAD, dtype=torch.long)
    for row, numbers in zip(found, rows, strict=True):
        row[: len(numbers)] = torch.tensor(numbers)
    classes = [labels.get(number) for number in numbers_of]
    text_file.check_labels(classes, numbers_of, path)
    known = {*vocabulary.words, *UNKNOWN}
    unknown = sum(word not in known for line in lines for word in line.split())
    return NewItems(found, np.array(classes) if any(c is not None for c in classes) else None, np.array(numbers_of), unknown)
