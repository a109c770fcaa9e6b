"""MNIST as Larochelle and Murray (2011) binarised it once and for all: other likelihoods than on MNIST drawn dynamically."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from . import folder
from .contents import SPLITS, Contents, read_arrays

FILE = "mnist_static_larochelle.npz"
CHECKSUM = "573218a14eb73df6d8d4a8c9eb54b41511317b6df0acf65330e76f13ff3d0987"


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[Path | None, list[Path]]:
    """Return (the file, or None; the places looked at)."""
    return folder.find_file(root, "mnist_static", FILE)


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Contents:
    """Return the `Contents`, 50,000 / 10,000 / 10,000 images of 0 and 1, in an order of their own, without labels.

    The test images lie digit by digit, zeros first.

    Raises DataError where the file is missing or damaged; there is no address to fetch it from.
    """
    path, places = find(name, root)
    if path is None:
        raise folder.missing(name, places, f"put {FILE} there, with `train`, `valid` and `test` (N, 98) of packed bits")
    packed = folder.first_good(name, [path], lambda path: read_arrays(path, SPLITS), CHECKSUM)
    images: dict[str, Any] = {
        split: np.unpackbits(bits, axis=1).reshape(-1, 28, 28) for split, bits in zip(SPLITS, packed, strict=True)
    }
    return Contents(name, **images, split="as published: 50,000 / 10,000 / 10,000", kind="binary", levels=2, by_class=("test",))
