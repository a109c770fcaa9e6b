"""Frey faces, 1,965 grey pictures of one face in film order, 28 rows of 20 pixels."""

import os
from pathlib import Path

import numpy as np

from . import folder
from .contents import Contents, cut, read_arrays

FILE = "frey_faces_20x28.npz"
CHECKSUM = "b7fb6085f5ce7b09b14cd0136165a2993a9b98bd3adb24cbc2fa62267b0c3886"


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[Path | None, list[Path]]:
    """Return (the file, or None; the places looked at)."""
    return folder.find_file(root, "frey_faces", FILE)


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Contents:
    """Return the `Contents` in contiguous blocks, since neighbours in the film are near duplicates.

    Raises DataError where the file is missing or damaged; there is no address to fetch it from.
    """
    path, places = find(name, root)
    if path is None:
        raise folder.missing(name, places, "put that file there, with `images` (1965, 28, 20) uint8 in film order")
    (images,) = folder.first_good(name, [path], lambda path: read_arrays(path, ["images"]), CHECKSUM)
    blocks = {"train": np.arange(1565), "valid": np.arange(1565, 1765), "test": np.arange(1765, 1965)}
    return cut(name, images, None, blocks, "contiguous blocks of the film: 1,565 / 200 / 200")
