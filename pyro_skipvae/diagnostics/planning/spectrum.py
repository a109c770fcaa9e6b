"""The variances of data along their principal directions, in memory that does not grow with the number of rows."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..pairs.rows import Inputs, leading, length, read_part

ROWS = 4096  # read at a time
LARGEST = 16_384  # rows and columns of a matrix whose eigenvalues are asked for: 2 GiB
HELD = 2**29  # numbers that are in memory together, 4 GiB, where there are fewer rows than elements
ROUNDING = 1e-15  # of an eigenvalue, as a part of the largest one, per row of the matrix


def spectrum(x: Inputs, scale: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor, int]:
    """(eigenvalues of the covariance of x in falling order, (n,); the mean of x (n,); the number N of its rows), float64.

    x is flattened to (N, n) and divided by scale(mean), (n,), where there is one. The covariance has divisor N. Cost: one pass
    over x, N n^2 and n^3 operations, or N^2 n and N^3 where there are fewer rows than elements.
    Raises ValueError for values that are not finite, and where rows and elements are both too many for a matrix of theirs.
    """
    points = length(x)
    elements = leading(read_part(x, slice(0, 1))).numel()
    if points < 2:
        raise ValueError(f"expected at least 2 rows of x, got {points}")
    if min(points, elements) > LARGEST:
        raise ValueError(
            f"expected at most {LARGEST:,} elements in a row, or as many rows, got {points:,} rows of {elements:,}; "
            "take fewer rows, such as x[:10000]"
        )
    if points < elements and points * elements > HELD:
        raise ValueError(
            f"expected at most {HELD:,} numbers in rows of so many elements, got {points:,} rows of {elements:,}; take fewer "
            f"rows, such as x[:{max(2, HELD // elements)}]"
        )
    mean, squared = (_of_few if points < elements else _of_many)(x, points, scale)
    found = torch.linalg.eigvalsh(squared / points).flip(0)
    eigenvalues = torch.zeros(elements, dtype=torch.float64, device="cpu")
    # What is smaller than the rounding of the largest one is none, and may be negative.
    eigenvalues[: len(found)] = torch.where(found > ROUNDING * len(found) * found[0], found, 0)
    return eigenvalues, mean, points


def _of_many(x: Inputs, points: int, scale: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor]:
    """The mean and the n x n products of the elements, N times their covariance."""
    first = next(_parts(x, 1))[0]  # all is relative to the first row, so that a large mean costs no digits
    total, products = torch.zeros_like(first), torch.zeros(len(first), len(first), dtype=torch.float64, device="cpu")
    for part in _parts(x, points):
        total += (part - first).sum(0)
        products.addmm_((part - first).T, part - first)
    products -= total.outer(total) / points
    mean = first + total / points
    return mean, products if scale is None else products / scale(mean).outer(scale(mean))


def _of_few(x: Inputs, points: int, scale: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor]:
    """The mean and the N x N products of the rows, which have the same eigenvalues but for zeros."""
    rows = torch.cat(list(_parts(x, points)))
    mean = rows.mean(0)
    centred = rows - mean if scale is None else (rows - mean) / scale(mean)
    return mean, centred @ centred.T


def _parts(x: Inputs, points: int) -> Iterator[Tensor]:
    """The rows of x, (n, elements) at a time."""
    for start in range(0, points, ROWS):
        rows = leading(read_part(x, slice(start, min(start + ROWS, points)))).detach().flatten(1).double().cpu()
        bad = ~rows.isfinite().all(1)
        if bad.any():
            raise ValueError(f"expected finite numbers in x, got others at row {start + int(bad.nonzero()[0])}")
        yield rows
