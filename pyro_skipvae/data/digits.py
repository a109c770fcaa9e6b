"""The 1,797 handwritten digits of 8x8 pixels and 17 grey levels that scikit-learn carries: always there, no network."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .contents import Array, Contents, cut, shuffled

VALID, TEST = 180, 360


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[Path | None, list[Path]]:
    """Return (the file inside scikit-learn, [that file])."""
    installed: Any = find_spec("sklearn")  # which is required
    path = Path(installed.origin).parent / "datasets" / "data" / "digits.csv.gz"
    return path, [path]


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Contents:
    """Return the `Contents`: train 1,257, valid 180, test 360, each with the ten classes in their proportions."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return cut(
        name,
        digits.images.astype(np.uint8),
        digits.target.astype(np.int64),
        stratified(digits.target),
        "1,257/180/360, stratified by class, fixed",
        levels=17,
    )


def stratified(labels: Array) -> dict[str, Array]:
    """Return {split: ascending indices} in which every class has its share, rounded up or down.

    Items evenly spaced along the list sorted by class hold the classes in their proportions.
    """
    order = shuffled(np.arange(len(labels)))
    order = order[np.argsort(labels[order], kind="stable")]
    test, rest = _every(order, TEST)
    valid, train = _every(rest, VALID)
    return {"train": np.sort(train), "valid": np.sort(valid), "test": np.sort(test)}


def _every(items: Array, count: int) -> tuple[Array, Array]:
    taken = np.arange(count) * len(items) // count
    return items[taken], np.delete(items, taken)
