"""A user's own data: a .npz file with an array `train` (N, *event_shape), and optional `valid`, `test` and
`labels_<split>` (N,).

The type of the values says what they are: all 0 and 1, binary; uint8, 256 grey levels; other integers, counts; floats
in [0, 1], grey values that may be binarised; other floats, real values. Where valid or test is absent, a tenth of train
is cut off for it.
"""

import zipfile
from pathlib import Path

import numpy as np

from . import folder
from .contents import SPLITS, Contents, shuffled

NAMES = (*SPLITS, *(f"labels_{split}" for split in SPLITS))
FEWEST = 2  # items of a split


def find(name, root=None):
    """Return (the file, or None; [its path]): a user's own file is looked for nowhere else."""
    path = Path(name).expanduser()
    return (path if path.is_file() else None), [path]


def load(name, *, root=None, download=False):
    """Return the `Contents` of a user's file, named as the file.

    Raises DataError where there is no such file, ValueError with one line for a file that is not as described above.
    """
    path, places = find(name)
    if path is None:
        raise folder.missing(name, places, "give the path of an existing .npz file")
    arrays = _read(path)
    values = {split: arrays[split] for split in SPLITS if split in arrays}
    labels = {split: arrays[f"labels_{split}"] for split in SPLITS if f"labels_{split}" in arrays}
    _check_values(path, values)
    _check_labels(path, values, labels)
    values, kind, levels = _typed(path, values)
    values, labels, split = _with_all_splits(path, values, labels)
    return Contents(path.name, **values, split=split, labels=labels, kind=kind, levels=levels)


def _read(path):
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no whole .npz archive, as numpy.savez writes them")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
        if strange:  # numpy gives the bytes of a member that is no array
            raise ValueError(f"its member {strange[0]!r} is not an array")
    except Exception as error:  # a damaged zip raises nearly anything, MemoryError and RuntimeError included
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"expected a .npz file of plain numeric arrays, got {path}, which cannot be read: {reason}"
        ) from error
    unknown = sorted(set(arrays) - set(NAMES))
    if "train" not in arrays or unknown:
        raise ValueError(
            f"expected the array 'train' and, if you like, {', '.join(NAMES[1:])}, got {sorted(arrays)} in {path}"
        )
    return arrays


def _check_values(path, values):
    event_shape = values["train"].shape[1:]
    for split, array in values.items():
        where = f"in '{split}' of {path}"
        if array.dtype.kind not in "buif":
            raise ValueError(f"expected numbers, got type {array.dtype} {where}")
        if array.ndim < 2 or 0 in array.shape[1:]:
            raise ValueError(
                f"expected shape (N, ...) with at least two dimensions, none of them 0, got {array.shape} {where}"
            )
        if array.ndim == 4 and array.shape[-1] in (1, 3, 4) and min(array.shape[1:3]) > 4:
            raise ValueError(
                f"expected images of shape (N, C, H, W), got {array.shape} {where}, which looks like (N, H, W, C): "
                "store numpy.moveaxis(images, -1, 1)"
            )
        if len(array) < FEWEST:
            raise ValueError(f"expected at least {FEWEST} items, got {len(array)} {where}")
        if array.shape[1:] != event_shape:
            raise ValueError(
                f"expected items of the same shape as train's, {event_shape}, got {array.shape[1:]} {where}"
            )
        if array.dtype != values["train"].dtype:
            raise ValueError(f"expected the type of train, {values['train'].dtype}, got {array.dtype} {where}")
        if array.dtype.kind == "f" and not (np.abs(array) <= np.finfo(np.float32).max).all():
            raise ValueError(f"expected finite values that float32 can hold, got NaN, infinity or larger ones {where}")


def _check_labels(path, values, labels):
    for split, array in labels.items():
        where = f"in 'labels_{split}' of {path}"
        if split not in values:
            raise ValueError(f"expected labels of a split that is there, got labels without '{split}' {where}")
        if array.dtype.kind not in "bui" or array.shape != (len(values[split]),):
            expected = f"({len(values[split])},)"
            raise ValueError(
                f"expected integer classes of shape {expected}, got {array.dtype} of shape {array.shape} {where}"
            )


def _typed(path, values):
    """Return (values in the type that we keep, kind, levels), decided over all splits together."""
    dtype = values["train"].dtype
    low = min(array.min() for array in values.values())
    high = max(array.max() for array in values.values())
    if all(((array == 0) | (array == 1)).all() for array in values.values()):
        return _as(np.uint8, values), "binary", 2
    if dtype == np.uint8:
        return values, "grey", 256
    if dtype.kind == "f":
        return _as(np.float32, values), ("grey" if low >= 0 and high <= 1 else "real"), None
    if low < 0 or high > 2**24:  # float32 is exact up to there
        raise ValueError(f"expected counts in 0..{2**24}, or floats, got {dtype} from {low} to {high} in {path}")
    return _as(np.int64, values), "count", None


def _as(dtype, values):
    return {split: array.astype(dtype) for split, array in values.items()}


def _with_all_splits(path, values, labels):
    absent = [split for split in SPLITS if split not in values]
    if not absent:
        return values, labels, "as in the file"
    count = len(values["train"])
    tenth = max(FEWEST, count // 10)
    if count < FEWEST + len(absent) * tenth:
        raise ValueError(
            f"expected more items in 'train', of which {' and '.join(absent)} are cut, got {count} in {path}"
        )
    order = shuffled(np.arange(count))
    parts = {split: order[start * tenth : (start + 1) * tenth] for start, split in enumerate(absent)}
    parts["train"] = np.sort(order[len(absent) * tenth :])
    cuts = {split: values["train"][index] for split, index in parts.items()}
    classes = {split: labels["train"][index] for split, index in parts.items()} if "train" in labels else {}
    split = f"{' and '.join(absent)}: a tenth each of the file's train, in a fixed shuffled order"
    return values | cuts, labels | classes, split
