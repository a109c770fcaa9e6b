"""Sparse matrices of (N, D) values, one row an item: Matrix Market's `.mtx`, and the `.npz` of scipy.sparse.save_npz."""

import io
from pathlib import Path
from typing import Literal

import numpy as np

from . import conversions, file_content
from .values import LARGEST_COUNT, Array, Values

LARGEST = 2**28  # numbers of the dense matrix, 1 GiB as float32
KEEP = (
    "import numpy, scipy.io, scipy.sparse; m = scipy.sparse.csc_matrix({read}); "
    "keep = numpy.sort(numpy.argsort(-abs(m).sum(0).A1)[:{columns}]); scipy.sparse.save_npz('own.npz', m[:, keep].tocsr())"
)


def read_mtx(path: Path) -> Values:
    """Return the rows of a Matrix Market file as dense values.

    Read here, since scipy's reader breaks down the whole process at some damaged files.
    """
    lines = io.BytesIO(file_content.content(path))
    try:
        form, kind, symmetry = _head(lines.readline())
        size = next((line for line in lines if line.strip() and not line.startswith(b"%")), b"")
        rows, columns, *entries = map(int, size.split())
        if rows < 1 or columns < 1 or len(entries) != (form == "coordinate"):
            raise ValueError(f"its line of sizes is {size.decode(errors='replace').strip()!r}")
        _check_size(path, rows, columns, f"scipy.io.mmread({str(path)!r})")
        make = _from_entries if form == "coordinate" else _from_columns
        dense = make(lines, (rows, columns), kind, symmetry, *entries)
    except _TooLarge:
        raise
    except (ValueError, UnicodeError) as error:
        raise _unreadable(path, "Matrix Market file of real numbers", error) from error
    return Values({"train": whole(dense)}, how_read=_phrase(rows, columns))


def _head(line: bytes) -> tuple[str, str, str]:
    """(coordinate or array, kind of numbers, symmetry) of the first line."""
    words = line.decode(errors="replace").lower().split()
    if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"] or words[2] not in ("coordinate", "array"):
        raise ValueError("it does not begin with %%MatrixMarket matrix coordinate, or array, and the kind of its numbers")
    if words[3] not in ("real", "double", "integer", "unsigned-integer", "pattern") or words[4] not in ("general", "symmetric"):
        raise ValueError(f"it holds {words[3]} {words[4]} numbers")
    return words[2], words[3], words[4]


def _from_entries(lines: io.BytesIO, shape: tuple[int, int], kind: str, symmetry: str, count: int) -> Array:
    """The dense matrix of lines `row column value`, counted from 1; entries at the same place are summed."""
    width = 2 if kind == "pattern" else 3
    entries = _numbers(lines, 2) if count else np.empty((0, width))
    if entries.shape != (count, width):
        raise ValueError(
            f"it announces {count:,} entries of {width} numbers, and has {entries.shape[0]:,} of {entries.shape[1]}"
        )
    index = entries[:, :2]
    if not ((index >= 1) & (index <= np.array(shape)) & (index == np.round(index))).all():
        raise ValueError(f"it has an entry outside of {shape[0]:,} rows and {shape[1]:,} columns")
    row, column = index.T.astype(np.int64) - 1
    values = np.ones(count) if kind == "pattern" else entries[:, 2]
    dense = np.zeros(shape)
    np.add.at(dense, (row, column), values)
    if symmetry == "symmetric":
        below = row != column
        np.add.at(dense, (column[below], row[below]), values[below])
    return dense


def _from_columns(lines: io.BytesIO, shape: tuple[int, int], kind: str, symmetry: str) -> Array:
    """The dense matrix of one value a line, column by column."""
    values = _numbers(lines, 1)
    if symmetry != "general" or kind == "pattern" or values.shape != (shape[0] * shape[1],):
        raise ValueError(
            f"it announces {shape[0]:,} x {shape[1]:,} general numbers, and has {values.size:,} {symmetry} {kind} ones"
        )
    return values.reshape(shape, order="F")


def _numbers(lines: io.BytesIO, dimensions: Literal[1, 2]) -> Array:
    """The numbers of all lines, as many in each."""
    try:
        return np.loadtxt(lines, comments="%", ndmin=dimensions, encoding="latin-1")
    except ValueError as error:  # whose words are on arguments of NumPy
        raise ValueError("it has a line that is no entry like the others; it may be cut off") from error


def read_npz(path: Path) -> Values:
    """Return the rows of a sparse matrix that scipy.sparse.save_npz wrote as dense values."""
    from scipy.sparse import load_npz

    try:
        with np.load(path, allow_pickle=False) as archive:
            rows, columns = map(int, archive["shape"])
        _check_size(path, rows, columns, f"scipy.sparse.load_npz({str(path)!r})")
        matrix = load_npz(path)
        if matrix.dtype.kind not in "buif":
            raise ValueError(f"it holds values of type {matrix.dtype}")
        if matrix.format in ("csr", "csc", "bsr"):
            matrix.check_format(full_check=True)  # else numbers outside of the matrix would be written to memory
        dense = np.asarray(matrix.toarray())
    except _TooLarge:
        raise
    except Exception as error:
        raise _unreadable(path, "sparse matrix", error) from error
    return Values({"train": whole(dense)}, how_read=_phrase(rows, columns))


class _TooLarge(ValueError):
    pass


def _check_size(path: Path, rows: int, columns: int, read: str) -> None:
    if rows * columns > LARGEST:
        kept = max(1, min(2000, LARGEST // rows))
        raise _TooLarge(
            f"expected a matrix of at most {LARGEST:,} numbers when it is dense, got {rows:,} x {columns:,} in {path}; "
            f"keep the {kept:,} largest columns: {conversions.python_command(KEEP.format(read=read, columns=kept))}"
        )


def whole(array: Array) -> Array:
    """Whole numbers stored as floats are counts all the same, as single-cell software writes them."""
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        return array
    is_count = array.min() >= 0 and array.max() <= LARGEST_COUNT and bool((array == np.round(array)).all())
    return array.astype(np.int32) if is_count else array


def _phrase(rows: int, columns: int) -> str:
    return f"a sparse matrix whose {rows:,} rows are the items, {columns:,} values each"


def _unreadable(path: Path, what: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"expected a {what}, got {path}, which cannot be read: {reason}")
