"""The 1,797 handwritten digits of 8x8 pixels and 17 grey levels that scikit-learn carries: always there, no network."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .contents import cut, shuffled

VALID, TEST = 180, 360


def find(name, root=None):
    """Return (the file inside scikit-learn, [that file])."""
    path = Path(find_spec("sklearn").origin).parent / "datasets" / "data" / "digits.csv.gz"
    return path, [path]


def load(name, *, root=None, download=False):
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


def stratified(labels):
    """Return {split: ascending indices} in which every class has its share, rounded up or down.

    Items evenly spaced along the list sorted by class hold the classes in their proportions.
    """
    order = shuffled(np.arange(len(labels)))
    order = order[np.argsort(labels[order], kind="stable")]
    test, rest = _every(order, TEST)
    valid, train = _every(rest, VALID)
    return {"train": np.sort(train), "valid": np.sort(valid), "test": np.sort(test)}


def _every(items, count):
    taken = np.arange(count) * len(items) // count
    return items[taken], np.delete(items, taken)
