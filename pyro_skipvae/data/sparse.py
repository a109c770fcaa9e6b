"""Sparse matrices of (N, D) values, one row an item: Matrix Market's `.mtx`, and the `.npz` of scipy.sparse.save_npz."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from . import conversions, file_content
from .values import LARGEST_COUNT, Array, Values

LARGEST = 2**28  # numbers of the dense matrix, 1 GiB as float32
KEEP = (
    "import numpy, scipy.io, scipy.sparse; m = scipy.sparse.csc_matrix({read}); "
    "keep = numpy.sort(numpy.argsort(-abs(m).sum(0).A1)[:2000]); scipy.sparse.save_npz('own.npz', m[:, keep].tocsr())"
)


def read_mtx(path: Path) -> Values:
    """Return the rows of a Matrix Market file as dense values."""
    from scipy.io import mminfo, mmread

    read = f"scipy.io.mmread({str(path)!r})"
    raw = file_content.content(path)
    try:
        rows, columns, entries, form, kind, _ = mminfo(io.BytesIO(raw))
        _check_size(path, rows, columns, read)
        if entries > len(raw):
            raise ValueError(f"its header announces {entries:,} entries, more than it has bytes")
        if kind == "complex":
            raise ValueError("it holds complex numbers")
        matrix = mmread(io.BytesIO(raw))
        dense = matrix if form == "array" else _dense(matrix)
    except _TooLarge:
        raise
    except Exception as error:  # what scipy raises for a damaged file
        raise _unreadable(path, "Matrix Market file of real numbers", error) from error
    return Values({"train": _whole(np.asarray(dense))}, how_read=_phrase(rows, columns))


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
        dense = _dense(matrix)
    except _TooLarge:
        raise
    except Exception as error:
        raise _unreadable(path, "sparse matrix", error) from error
    return Values({"train": _whole(dense)}, how_read=_phrase(rows, columns))


class _TooLarge(ValueError):
    pass


def _check_size(path: Path, rows: int, columns: int, read: str) -> None:
    if rows * columns > LARGEST:
        raise _TooLarge(
            f"expected a matrix of at most {LARGEST:,} numbers when it is dense, got {rows:,} x {columns:,} in {path}; "
            f"keep the 2,000 largest columns: {conversions.python_command(KEEP.format(read=read))}"
        )


def _dense(matrix: Any) -> Array:
    return np.asarray(matrix.toarray())


def _whole(array: Array) -> Array:
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
