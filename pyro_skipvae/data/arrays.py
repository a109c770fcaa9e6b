"""NumPy's files: `.npy` with one array (N, *event_shape), `.npz` with arrays by name.

In a .npz the names say what an array is: a split (`train`, `valid` or `val`, `test`), alone or with `x`, `images`, `data`
and the like; with `y`, `labels`, `targets` and the like they are the labels of that split. One array of any name is train.
"""

import math
import re
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from . import conversions, file_content, rows
from .rows import RowFile, Rows
from .values import Array, Values

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "te"), "test"),
}
_VALUES = {"x", "data", "image", "images", "img", "imgs", "input", "inputs", "features", "values", "samples"}
_LABELS = {"y", "t", "label", "labels", "target", "targets", "class", "classes"}
_SPARSE = {"format", "shape", "data"}  # what scipy.sparse.save_npz always writes
CHANNELS = (1, 3, 4)


def read_npy(path: Path) -> Values:
    """Return what a `.npy` file holds; it stays on disk until its items are taken, for good where there are many."""
    file_content.check_regular(path)
    try:
        with open(path, "rb") as stream:
            header = _check_header(stream, path.stat().st_size)
        large = _is_large([header])
        array = _rows(path, header) if large else np.load(path, mmap_mode="r", allow_pickle=False)
    except _ByColumns:
        raise
    except Exception as error:  # damaged headers raise nearly anything
        raise ValueError(
            f"expected a .npy file of one numeric array, got {path}, which cannot be read: {_said(error)}"
        ) from error
    return channels_first(Values({"train": array}))


def read_npz(path: Path) -> Values:
    """Return what a `.npz` file holds: arrays by name, or a sparse matrix as scipy.sparse.save_npz writes it."""
    try:
        file_content.check_archive(path)
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except OSError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error
    if set(names) >= _SPARSE and {"indices", "offsets", "row"} & set(names):
        from . import sparse

        return sparse.read_npz(path)
    roles = _roles(path, names)
    stored, note = _stored(path, set(roles["values"].values()))
    arrays = stored | members(path, {name for part in roles.values() for name in part.values()} - set(stored))
    values = {split: arrays[name] for split, name in roles["values"].items()}
    labels = {split: arrays[name] for split, name in roles["labels"].items()}
    return channels_first(Values(values, labels, sources=roles["values"], label_sources=roles["labels"], note=note))


def channels_first(values: Values) -> Values:
    """Return the `Values` with images (N, H, W, C) moved to (N, C, H, W), which is said."""
    arrays = values.arrays
    train = arrays["train"]
    if train.ndim == 4 and train.shape[-1] in CHANNELS and train.shape[1] not in CHANNELS and min(train.shape[1:3]) > 4:
        arrays = {split: _moved(array) if array.ndim == 4 else array for split, array in arrays.items()}
        return replace(values, arrays=arrays, how_read=f"the last axis, {train.shape[-1]}, was read as the channels")
    if train.ndim == 4 and train.shape[-1] < 10 <= min(train.shape[1:3]):
        told = f"the first axis of an item, {train.shape[1]}, was read as the channels; if the last one holds them, move it"
        return replace(values, how_read=told)
    return values


def _moved(array: Any) -> Any:
    return array.channels_first() if isinstance(array, Rows) else np.moveaxis(array, -1, 1)


def role(name: str) -> tuple[str, str] | None:
    """Return (`values` or `labels`, split or '') of an array by its name, or None where the name does not tell."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    words = re.findall(r"[a-z]+|\d+", re.sub(r"^([xy])(train|valid|val|test)$", r"\1_\2", parted))
    splits = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    others = [word for word in words if word not in SPLIT_WORDS]
    if len(splits) > 1 or len(others) > 1 or not words:
        return None
    kind = "labels" if others and others[0] in _LABELS else "values" if not others or others[0] in _VALUES else None
    return (kind, splits[0] if splits else "") if kind else None


def _roles(path: Path, names: list[str]) -> dict[str, dict[str, str]]:
    """{"values": {split: name}, "labels": {split: name}}. Raises ValueError where the names do not tell."""
    if names == ["arr_0", "arr_1"]:  # numpy.savez(path, x, y)
        return {"values": {"train": "arr_0"}, "labels": {"train": "arr_1"}}
    if len(names) == 1:
        return {"values": {"train": names[0]}, "labels": {}}
    found: dict[str, dict[str, str]] = {"values": {}, "labels": {}}
    for name in names:
        kind, split = role(name) or ("", "")
        if not kind or (split or "train") in found[kind]:
            raise _unknown(path, names)
        found[kind][split or "train"] = name
    if "train" not in found["values"]:
        raise _unknown(path, names)
    return found


def _unknown(path: Path, names: list[str]) -> ValueError:
    line = f"import numpy; a = numpy.load({str(path)!r}); numpy.savez('own.npz', train=a['NAME'])"
    shown = ", ".join(map(repr, sorted(names)[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return ValueError(
        "expected one array, or arrays named train, valid, test (or x_train ...) and labels_train ... (or y_train ...), got "
        f"{shown or 'none'} in {path}; keep what you want: {conversions.python_command(line)}"
    )


def members(path: Path, wanted: set[str]) -> dict[str, Array]:
    """Return the arrays of those names in a `.npz` file, each no larger than its bytes. Raises ValueError for damage."""
    arrays = {}
    try:
        file_content.check_archive(path)
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in wanted:
                    with archive.open(member) as stream:
                        _check_header(stream, member.file_size, f"its member {name!r}")
                    with archive.open(member) as stream:
                        arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # a damaged zip raises nearly anything, MemoryError and RuntimeError included
        raise _unreadable(path, error) from error
    return arrays


def _stored(path: Path, wanted: set[str]) -> tuple[dict[str, Any], str]:
    """({name: rows} of members that are too large to be held; or nothing, and a sentence where that is for compression)."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if info.filename.removesuffix(".npy") in wanted]
            headers = []
            for info in infos:
                with archive.open(info) as stream:
                    headers.append(_check_header(stream, info.file_size, f"its member {info.filename.removesuffix('.npy')!r}"))
        if not _is_large(headers):
            return {}, ""
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            return {}, _packed(path)
        pairs = zip(infos, headers, strict=True)
        return {info.filename.removesuffix(".npy"): _rows(path, header, _start(path, info)) for info, header in pairs}, ""
    except _ByColumns:
        raise
    except Exception as error:  # a damaged zip raises nearly anything
        raise _unreadable(path, error) from error


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """The byte of a file at which the content of a member begins: the lengths in its own header may differ from the list's."""
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        head = file.read(30)
    if head[:4] != b"PK\x03\x04":
        raise ValueError(f"its member {info.filename!r} has no header of its own")
    name, extra = struct.unpack("<HH", head[26:30])
    return int(info.header_offset + 30 + name + extra)


def _packed(path: Path) -> str:
    new = path.with_name(f"{path.stem}-plain.npz")
    line = (
        f"import shutil, zipfile; a = zipfile.ZipFile({str(path)!r}); b = zipfile.ZipFile({str(new)!r}, 'w'); "
        "[shutil.copyfileobj(a.open(n), w) or w.close() for n in a.namelist() for w in [b.open(n, 'w', force_zip64=True)]]; "
        "b.close()"
    )
    return (
        f"{path.name} is compressed, and so is read into memory as a whole; this writes {new.name}, of which only the items of "
        f"a batch are read: {conversions.python_command(line)}"
    )


def _is_large(headers: list[Any]) -> bool:
    """Whether the items of arrays take more memory as float32 than is held."""
    return 4 * sum(math.prod(shape) for shape, *_ in headers if len(shape) > 1) > rows.LARGEST_IN_MEMORY


def _rows(path: Path, header: tuple[tuple[int, ...], bool, np.dtype[Any], int], start: int = 0) -> Rows:
    shape, by_columns, dtype, offset = header
    if by_columns:
        raise _by_columns(path)
    return Rows(RowFile(path), start + offset, shape[0], (dtype, shape[1:]))


class _ByColumns(ValueError):
    pass


def _by_columns(path: Path) -> _ByColumns:
    new = path.with_name(f"{path.stem}-rows.npy")
    if path.suffix.lower() == ".npz":
        return _ByColumns(
            f"expected items that lie together in {path}, got an array in Fortran order, too large to be held; write it anew "
            "with numpy.ascontiguousarray"
        )
    line = (
        f"import numpy; a = numpy.load({str(path)!r}, mmap_mode='r'); "
        f"b = numpy.lib.format.open_memmap({str(new)!r}, 'w+', a.dtype, a.shape); "
        "[b.__setitem__(slice(i, i + 8192), a[i:i + 8192]) for i in range(0, len(a), 8192)]"
    )
    return _ByColumns(
        f"expected items that lie together in {path}, got an array in Fortran order, too large to be held; this writes "
        f"{new.name}, which can be read: {conversions.python_command(line)}"
    )


def _check_header(stream: IO[bytes], size: int, what: str = "it") -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """(shape, whether in Fortran order, type, bytes before the values) of an array.

    Raises ValueError unless there are as many bytes as the header announces: else they would be allocated first.
    """
    if stream.read(6) != b"\x93NUMPY":
        raise ValueError(f"{what} is not an array")
    major, minor = stream.read(2)
    read_header: Any = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError(f"{what} holds objects; Object arrays are not read, since that would run code")
    expected = stream.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if min(shape, default=0) < 0 or expected != size:
        raise ValueError(f"{what} announces shape {shape} of {dtype}, {expected:,} bytes, and has {size:,}")
    return shape, by_columns, dtype, stream.tell()


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"expected a .npz file of plain numeric arrays, got {path}, which cannot be read: {_said(error)}")


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
