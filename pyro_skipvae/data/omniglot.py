"""Omniglot, 1,623 characters drawn by 20 people each: our own 28x28 resize and split, or those of Burda et al.

The two are different data sets (other pixels, another split, 45 drawings fewer in Burda's), so they never share a name.
"""

import hashlib
import os
import re
import tempfile
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from . import folder
from .contents import Array, Contents, cut, read_arrays, shuffled

CHARDATA = "chardata.mat"
BURDA_TRAIN, BURDA_VALID, BURDA_TEST = 24_345, 1_345, 8_070  # valid is taken out of train
ARCHIVES = ("images_background", "images_evaluation")
ARRAYS = ("images", "alphabet", "character", "drawer")
RESIZED, BITS = "omniglot_28x28.npz", "omniglot_105x105_bits.npz"
CHECKSUM = "7c8b9f3793bdb56ba05654430cdc457add4dc046c9d0e432460f05d2c490b85b"
_MEMBER = re.compile(r"images_(?:background|evaluation)/([^/]+)/character(\d\d)/\d{4}_(\d\d)\.png")


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[Path | None, list[Path]]:
    """Return (the file or folder to read, or None; the places looked at); chardata.mat goes before our resize."""
    above = folder.search_folders(root)
    places = [path for base in above for path in (base / "omniglot" / CHARDATA, base / CHARDATA)]
    if name == "omniglot":
        places += [path for base in above for path in _sources(base)]
    return next((path for path in places if _is_complete(path)), None), places


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Contents:
    """Return the `Contents` of `omniglot-burda` where chardata.mat is found, else of `omniglot`.

    Raises DataError where files are missing, damaged or not to be had.
    """
    place, places = find(name, root)
    if place is not None and place.name == CHARDATA:
        return burda(place)
    if name == "omniglot-burda":
        raise folder.missing(name, places, f"get {CHARDATA} of Burda et al. by hand and put it into one of these places")
    if place is None and not download:
        raise folder.missing(name, places, "put one of these files there, or allow the download")
    if place is None:
        return _ours(*_fetched(root, places))
    return _ours(*folder.first_good(name, [path for path in places if _is_complete(path)], _read, CHECKSUM))


def burda(path: Path) -> Contents:
    """Return the `Contents` of a chardata.mat: last 1,345 of a fixed order of the training images as valid.

    Raises DataError where the file does not hold Burda's arrays, `data` (784, 24345), `testdata` (784, 8070) and their
    one-hot targets.
    """
    from scipy.io import loadmat, whosmat

    try:
        shapes = {name: shape for name, shape, _ in whosmat(path)}  # before anything is unpacked
        if shapes["data"] != (784, BURDA_TRAIN) or shapes["testdata"] != (784, BURDA_TEST):
            raise ValueError(f"expected images of 784 pixels, {BURDA_TRAIN} and {BURDA_TEST} of them, got {shapes}")
        arrays = loadmat(path, variable_names=("data", "target", "testdata", "testtarget"))
        images = np.concatenate([_upright(arrays["data"], BURDA_TRAIN), _upright(arrays["testdata"], BURDA_TEST)])
        labels = np.concatenate([arrays["target"].argmax(0), arrays["testtarget"].argmax(0)])
    except Exception as error:  # a damaged .mat raises nearly anything
        raise folder.damaged("omniglot-burda", [path]) from error
    order = shuffled(np.arange(BURDA_TRAIN))
    indices = {
        "train": order[:-BURDA_VALID],
        "valid": order[-BURDA_VALID:],
        "test": BURDA_TRAIN + np.arange(BURDA_TEST),
    }
    split = "Burda's: 23,000 and 1,345 of a fixed order of the training images / test images"
    return cut("omniglot-burda", images, labels, indices, split, levels=None)


def _upright(columns: Array, count: int) -> Array:
    """Return (784, N) columns as images (N, 28, 28): the file holds each image in column order, as MATLAB does."""
    if columns.shape != (784, count) or not (0 <= columns.min() and columns.max() <= 1):
        raise ValueError(f"expected values in [0, 1] of shape (784, {count}), got {columns.shape}")
    return columns.T.reshape(count, 28, 28).transpose(0, 2, 1).astype(np.float32)


def _ours(images: Array, alphabet: Array, character: Array, drawer: Array) -> Contents:
    # Shuffled once and for all: the files are sorted by alphabet, and the first N of a split should be a fair sample.
    parts = {"train": drawer <= 13, "valid": (drawer == 14) | (drawer == 15), "test": drawer >= 16}
    indices = {part: shuffled(np.flatnonzero(chosen)) for part, chosen in parts.items()}
    _, labels = np.unique(alphabet.astype(np.int64) * 100 + character, return_inverse=True)
    return cut("omniglot", images, labels, indices, "drawers 1-13 / 14-15 / 16-20, each in a fixed shuffled order")


def _sources(base: Path) -> list[Path]:
    return [base / "omniglot" / RESIZED, base / "omniglot" / BITS, base / "omniglot-py"]


def _is_complete(path: Path) -> bool:
    if path.name == "omniglot-py":  # torchvision's folder for the two archives
        return all((path / f"{archive}.zip").is_file() for archive in ARCHIVES)
    return path.is_file()


def _read(path: Path) -> Sequence[Array]:
    """Return the arrays named in `ARRAYS` from any of the sources: the three give the same, to the bit."""
    if path.name == RESIZED:
        return read_arrays(path, ARRAYS)
    if path.name == "omniglot-py":
        return _from_archives(path)
    bits, *numbers = read_arrays(path, ("bits", *ARRAYS[1:]))
    return resized(np.unpackbits(bits, axis=1)[:, : 105 * 105].reshape(-1, 105, 105)), *numbers


def resized(ink: Array) -> Array:
    """Return the uint8 images (N, 28, 28) of drawings (N, 105, 105) of ink 0 or 1.

    A pixel is the exact mean over a cell of 3.75 x 3.75 pixels times 255, rounded; in whole numbers, counting in
    quarters of a pixel: a cell has 15 x 15 quarters, and no half occurs.
    """
    edges = np.arange(29) * 15
    pixels = np.arange(105) * 4
    overlap = np.minimum(edges[1:, None], pixels + 4) - np.maximum(edges[:-1, None], pixels)
    weights = overlap.clip(0).astype(np.float32)  # (28, 105); float32 is exact for these sums of at most 225
    images = np.empty((len(ink), 28, 28), np.uint8)
    for start in range(0, len(ink), 1000):
        sums = weights @ ink[start : start + 1000].astype(np.float32) @ weights.T
        images[start : start + 1000] = (sums.astype(np.int64) * 34 + 15) // 30
    return images


def _from_archives(place: Path) -> tuple[Array, ...]:
    published = _torchvision_class().zips_md5
    paths = [place / f"{archive}.zip" for archive in ARCHIVES]
    for archive, path in zip(ARCHIVES, paths, strict=True):
        if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != published[archive]:
            raise ValueError(f"expected the published archive {archive}.zip, got other bytes in {path}")
    return drawings(paths)


def drawings(paths: Sequence[Path]) -> tuple[Array, ...]:
    """Return the arrays named in `ARRAYS` of the drawings in the archives, each archive in the order of its names."""
    from PIL import Image

    ink, numbers, alphabets = [], [], []
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            for member, match in sorted((name, match) for name in archive.namelist() if (match := _MEMBER.fullmatch(name))):
                alphabet, character, drawer = match.groups()
                if alphabet not in alphabets:
                    alphabets.append(alphabet)
                ink.append(~np.asarray(Image.open(BytesIO(archive.read(member))).convert("1")))
                numbers.append((alphabets.index(alphabet), int(character), int(drawer)))
    return resized(np.stack(ink)), *np.array(numbers, np.uint8).T


def _torchvision_class() -> Any:
    from .torchvision_shim import load_torchvision

    load_torchvision()
    from torchvision.datasets import Omniglot

    return Omniglot


def _fetched(root: str | os.PathLike[str] | None, places: Sequence[Path]) -> Sequence[Array]:
    """Fetch the two archives and keep the resized images, since decoding 32,460 files takes seconds."""
    source, base = _torchvision_class(), folder.download_folder(root)
    for archive, md5 in source.zips_md5.items():
        url = f"{source.download_url_prefix}/{archive}.zip"
        folder.fetch("omniglot", f"{archive}.zip", [url], f"md5:{md5}", base / "omniglot-py", places)
    arrays = folder.first_good("omniglot", [base / "omniglot-py"], _read, CHECKSUM)
    _save(base / "omniglot" / RESIZED, arrays)
    return arrays


def _save(path: Path, arrays: Sequence[Array]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        named: dict[str, Any] = dict(zip(ARRAYS, arrays, strict=True))
        np.savez_compressed(file, **named)
    os.replace(file.name, path)
