"""MNIST and the two sets made in its form, Fashion-MNIST and Kuzushiji-MNIST, read from their original files.

The files lie as torchvision lays them, `MNIST/raw/train-images-idx3-ubyte.gz` and so on, and are read as they are.
"""

import gzip
import hashlib
import os
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from . import folder
from .contents import Array, Contents

TRAIN, TEST = 60_000, 10_000
LARGEST = 16 + TRAIN * 28 * 28  # bytes of the largest file, unpacked: a damaged archive is read no further
CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}  # torchvision's classes and folders
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[Path | None, list[Path]]:
    """Return (the folder that holds all four files, or None; the folders looked at)."""
    places = [base / CLASSES[name] / "raw" for above in folder.search_folders(root) for base in (above / name, above)]
    complete = [place for place in places if all(_copies(name, place, file) for file in FILES)]
    return (complete[0] if complete else None), places


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Contents:
    """Return the `Contents`: the first 50,000 training images, the last 10,000 of them as valid, and the test images.

    Raises DataError where files are missing, damaged or not to be had.
    """
    place, places = find(name, root)
    if place is None and not download:
        raise folder.missing(name, places, f"put its four files into one of these, as {FILES[0]}.gz, or allow the download")
    place = place or _fetched(name, root, places)
    images, labels, test_images, test_labels = (idx(_content(name, place, file)) for file in FILES)
    cut = TRAIN - TEST
    return Contents(
        name,
        train=images[:cut],
        valid=images[cut:],
        test=test_images,
        split="first 50,000 / last 10,000 of the training file / test file",
        labels={"train": labels[:cut], "valid": labels[cut:], "test": test_labels},
    )


def idx(content: bytes) -> Array:
    """Return the uint8 array that the bytes of an idx file hold: images (N, rows, columns) or labels (N,)."""
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()  # bytes are read-only


def _copies(name: str, place: Path, file: str) -> list[Path]:
    # Only .gz files have a published checksum; the unpacked ones are known for MNIST alone, and others prove nothing.
    paths = [place / f"{file}.gz", place / file] if name == "mnist" else [place / f"{file}.gz"]
    return [path for path in paths if path.is_file()]


def _content(name: str, place: Path, file: str) -> bytes:
    """Return the bytes of the first copy of the known checksum: a good one beside a damaged one heals it."""
    copies = _copies(name, place, file)
    for path in copies:
        content = _verified(name, path, file)
        if content is not None:
            return content
    raise folder.damaged(name, copies)


def _verified(name: str, path: Path, file: str) -> bytes | None:
    """Return the bytes of a copy, unpacked, or None where they are not those of the data set."""
    if path.stat().st_size > LARGEST:
        return None
    raw = path.read_bytes()
    if name == "mnist":
        content = _unpacked(raw) if path.suffix == ".gz" else raw
        return content if hashlib.sha256(content).hexdigest() == MNIST_SHA256[file] else None
    published = dict(_torchvision_class(name).resources)
    return _unpacked(raw) if hashlib.md5(raw, usedforsecurity=False).hexdigest() == published[path.name] else None


def _unpacked(raw: bytes) -> bytes:
    try:
        with gzip.open(BytesIO(raw)) as archive:
            return archive.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error):
        return b""  # has none of the known checksums, so the file is refused by name


def _torchvision_class(name: str) -> Any:
    from .torchvision_shim import load_torchvision

    load_torchvision()
    from torchvision import datasets

    return getattr(datasets, CLASSES[name])


def _fetched(name: str, root: str | os.PathLike[str] | None, places: Sequence[Path]) -> Path:
    place = folder.download_folder(root) / CLASSES[name] / "raw"
    source = _torchvision_class(name)
    for file, md5 in source.resources:
        folder.fetch(name, file, [mirror + file for mirror in source.mirrors], f"md5:{md5}", place, places)
    return place
