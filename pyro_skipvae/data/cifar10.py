"""CIFAR-10, colour pictures of 32 by 32: the full set where torchvision has it, else the 4,000 images of four PNG files."""

import os
from pathlib import Path

import numpy as np

from . import folder
from .contents import Array, Contents, cut, shuffled

FILES = tuple(f"cifar10_batch_{number}.png" for number in range(4))
SMALL = "be130570677f1ab68e4d7772acfe67de53bcff80de22b18a563de5b0dd92d4b5"  # of the 4,000 images
FULL = "cifar-10-batches-py"


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[Path | None, list[Path]]:
    """Return (the folder that holds the full set or the four files, or None; the places looked at)."""
    places = [path for above in folder.search_folders(root) for path in (above / "cifar10", above)]
    full = next((path for path in places if (path / FULL).is_dir()), None)
    small = next((path for path in places if all((path / file).is_file() for file in FILES)), None)
    return full or small, places


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Contents:
    """Return the `Contents`, images (3, 32, 32): 45,000 / 5,000 / 10,000 of the full set, 3,000 / 500 / 500 of the 4,000.

    Raises DataError where neither is found, or files are damaged.
    """
    path, places = find(name, root)
    if path is None:
        raise folder.missing(name, places, f"put {FILES[0]} to {FILES[-1]} there, or torchvision's {FULL}")
    return _full(name, path) if (path / FULL).is_dir() else _small(name, path)


def _small(name: str, path: Path) -> Contents:
    images = folder.first_good(name, [path], _read, SMALL)[0]
    order = shuffled(np.arange(len(images)))
    parts = {"train": np.sort(order[:3000]), "valid": np.sort(order[3000:3500]), "test": np.sort(order[3500:])}
    split = "4,000 of the training images, a small part of CIFAR-10, in a fixed random order: 3,000 / 500 / 500"
    return cut(name, images, None, parts, split)


def _read(path: Path) -> list[Array]:
    from PIL import Image

    rows = [np.asarray(Image.open(path / file).convert("RGB")) for file in FILES]  # one image a row
    return [np.concatenate(rows).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2).copy()]


def _full(name: str, path: Path) -> Contents:
    from .torchvision_shim import load_torchvision

    try:
        sets = [load_torchvision().datasets.CIFAR10(str(path), train=train) for train in (True, False)]
    except Exception as error:  # whatever torchvision says of damaged files
        raise folder.DataError(f"expected torchvision's CIFAR-10 in {path}: {error}") from None
    (images, classes), (test, test_classes) = ((s.data.transpose(0, 3, 1, 2).copy(), np.array(s.targets)) for s in sets)
    return Contents(
        name, images[:45_000], images[45_000:], test, "first 45,000 / last 5,000 training images; the test images",
        {"train": classes[:45_000], "valid": classes[45_000:], "test": test_classes},
    )  # fmt: skip
