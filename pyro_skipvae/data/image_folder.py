"""A folder of images: flat, or one sub-folder for each class; each of these alone or under `train`, `valid` and `test`.

All images have one size. Grey files give (H, W), 8 bits; if one file is in colour all are (3, H, W). Pillow decodes them.
"""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import conversions, file_content
from .arrays import SPLIT_WORDS
from .conversions import PICTURES
from .values import Array, Values

LARGEST = 2**30  # bytes of all images together, 8 bits a value; training takes about four times as much
LARGEST_PICTURE = 2**26  # pixels of one image
RESIZE = (
    "from pathlib import Path; from PIL import Image; a, b = Path({folder!r}), Path({new!r}); "
    "[((b / p.relative_to(a)).parent.mkdir(parents=True, exist_ok=True), "
    "Image.open(p).convert({mode!r}).resize({size}).save((b / p.relative_to(a)).with_suffix('.png'))) "
    "for p in a.rglob('*') if p.suffix.lower() in {endings}]"
)


@dataclass(frozen=True)
class Picture:
    """A file with an image, and the class that its folder names, or None."""

    path: Path
    label: str | None


def read(path: Path) -> Values:
    """Return the images of a folder, with the names of their sub-folders as labels.

    Raises ValueError for a folder without images, for images of different sizes, and for files that are no images.
    """
    files, others = _files(path)
    images = _Images(path, files)
    arrays = {split: images.array(split) for split in files}
    labels = {
        split: np.array([picture.label for picture in pictures])
        for split, pictures in files.items()
        if all(picture.label is not None for picture in pictures)
    }
    if len({label for row in labels.values() for label in row.tolist()}) == 1:
        labels = {}  # one folder inside the folder, as archives have it
    classes = {label for row in labels.values() for label in row.tolist()}
    said = [f"{sum(map(len, files.values())):,} image files"]
    said += [f"{len(classes):,} classes from the sub-folders"] if classes else []
    said += images.notes + ([f"{others:,} other files were left out"] if others else [])
    return Values(arrays, labels, "; ".join(said))


def _files(path: Path) -> tuple[dict[str, list[Picture]], int]:
    """({split: its images in the order of their names}, how many other files there are)."""
    below = {entry.name: Path(entry.path) for entry in _entries(path) if entry.is_dir()}
    splits = {SPLIT_WORDS[name.lower()]: folder for name, folder in below.items() if name.lower() in SPLIT_WORDS}
    splits = splits if "train" in splits else {}
    files, others = {}, 0
    for split, folder in (splits or {"train": path}).items():
        files[split], strange = _pictures(folder)
        others += strange
    empty = [split for split, pictures in files.items() if not pictures]
    if empty:
        raise _no_images(splits.get(empty[0], path), others)
    return files, others


def _pictures(folder: Path) -> tuple[list[Picture], int]:
    entries = _entries(folder)
    flat = [Picture(Path(entry.path), None) for entry in entries if _is_picture(entry)]
    others = sum(not entry.is_dir() for entry in entries) - len(flat)
    nested = []
    for entry in (entry for entry in entries if entry.is_dir()):
        inside = _entries(Path(entry.path))
        found = [Picture(Path(file.path), entry.name) for file in inside if _is_picture(file)]
        others += len(inside) - len(found)
        nested += found
    if flat and nested:
        raise ValueError(
            f"expected images in {folder} or in its sub-folders, one for each class, got {len(flat):,} beside sub-folders with "
            f"{len(nested):,}; move them"
        )
    return flat or nested, others


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    return sorted(seen, key=lambda entry: entry.name)


def _is_picture(entry: os.DirEntry[str]) -> bool:
    if not entry.name.lower().endswith(PICTURES) or entry.is_dir():
        return False
    file_content.check_regular(Path(entry.path))
    return True


def _no_images(folder: Path, others: int) -> ValueError:
    from .own_file import SHOWN, find_readable

    readable = find_readable(folder)
    advice = f"; give the path of a file in it, such as {readable[0]}" if readable else ""
    return ValueError(
        f"expected images ({', '.join(PICTURES[:5])} ...) in the folder or one sub-folder for each class, or a file that ends "
        f"in {SHOWN}, got the folder {folder} with {others:,} other files{advice}"
    )


class _Images:
    """The decoded images of a folder: the size and the colours are decided over all files before any array is made."""

    def __init__(self, folder: Path, files: dict[str, list[Picture]]) -> None:
        self.folder = folder
        self.files = files
        self.notes: list[str] = []
        heads = [(picture.path, *_head(picture.path)) for picture in self._all()]
        self.modes = {mode for _, _, mode, _ in heads}
        self.deep = any(mode.startswith("I") for mode in self.modes)
        self.colour = any(not _is_grey(mode) for mode in self.modes)
        self._check_sizes({path: size for path, size, _, _ in heads})
        self.size = heads[0][1]
        animated = sum(moves for *_, moves in heads)
        self.notes += [f"of {animated:,} animated ones the first picture"] if animated else []
        self._check_memory(len(heads))
        self.colour = self.colour and not self._is_grey_throughout()

    def _all(self) -> Iterator[Picture]:
        for pictures in self.files.values():
            yield from pictures

    def _check_sizes(self, sizes: dict[Path, tuple[int, int]]) -> None:
        counts: dict[tuple[int, int], list[Path]] = {}
        for path, size in sizes.items():
            counts.setdefault(size, []).append(path)
        if len(counts) == 1:
            return
        ranked = sorted(counts.items(), key=lambda pair: -len(pair[1]))
        shown = ", ".join(
            f"{width}x{height} ({len(paths):,}, such as {paths[0].name})" for (width, height), paths in ranked[:3]
        )
        more = f" and {len(ranked) - 3} more sizes" if len(ranked) > 3 else ""
        raise ValueError(f"expected images of one size, got {shown}{more} in {self.folder}; {self._resize(ranked[0][0])}")

    def _check_memory(self, count: int) -> None:
        width, height = self.size
        total = count * width * height * (3 if self.colour else 1) * (4 if self.deep else 1)
        if total > LARGEST:
            scale = (LARGEST / 2 / total) ** 0.5
            smaller = (max(1, int(width * scale)), max(1, int(height * scale)))
            raise ValueError(
                f"expected images that take at most 1 GiB, got {count:,} of {width}x{height}, {total / 2**30:.1f} GiB, in "
                f"{self.folder}; {self._resize(smaller)}"
            )

    def _resize(self, size: tuple[int, int]) -> str:
        new = str(self.folder.resolve().with_name(self.folder.resolve().name + f"-{size[0]}x{size[1]}"))
        mode = "RGB" if self.colour else "L"
        line = RESIZE.format(folder=str(self.folder), new=new, size=size, mode=mode, endings=PICTURES)
        return f"this makes them all {size[0]}x{size[1]}, in {new}: {conversions.python_command(line)}"

    def _is_grey_throughout(self) -> bool:
        """Whether files in colour hold grey pictures only: red, green and blue are the same everywhere."""
        for picture in self._all():
            pixels = _pixels(picture.path, colour=True, deep=False)
            if (pixels[0] != pixels[1]).any() or (pixels[0] != pixels[2]).any():
                return False
        self.notes.append("the files are in colour, their pictures are grey")
        return True

    def array(self, split: str) -> Array:
        pictures = self.files[split]
        width, height = self.size
        shape = (3, height, width) if self.colour else (height, width)
        images = np.empty((len(pictures), *shape), np.float32 if self.deep else np.uint8)
        for number, picture in enumerate(pictures):
            images[number] = _pixels(picture.path, colour=self.colour, deep=self.deep)
        return images


def _is_grey(mode: str) -> bool:
    return mode in ("1", "L") or mode.startswith("I")


def _opened(path: Path) -> Any:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path)


def _head(path: Path) -> tuple[tuple[int, int], str, bool]:
    """(width and height, Pillow's mode, whether it is animated), read without decoding."""
    try:
        with _opened(path) as image:
            size, mode, animated = image.size, image.mode, bool(getattr(image, "is_animated", False))
    except Exception as error:  # damaged files raise nearly anything
        raise _unreadable(path, error) from error
    if size[0] * size[1] > LARGEST_PICTURE:
        raise ValueError(f"expected images of at most {LARGEST_PICTURE:,} pixels, got {size[0]}x{size[1]} in {path}")
    if mode == "F":
        raise ValueError(f"expected images of 8 or 16 bits, got real numbers in {path}; save them in a .npy file")
    return size, mode, animated


def _pixels(path: Path, *, colour: bool, deep: bool) -> Array:
    """The pixels of a file, (3, H, W) or (H, W), uint8, or of 16 bits in [0, 1]; what is transparent lies on white."""
    from PIL import Image

    try:
        with _opened(path) as image:
            if image.mode.startswith("I"):
                grey = np.asarray(image, dtype=np.float32) / 65535
                if not 0 <= grey.min() <= grey.max() <= 1:
                    raise ValueError("it has more than 16 bits")
                return np.stack([grey] * 3) if colour else grey
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            if not colour and not _is_grey(image.mode):
                pixels = np.asarray(image.convert("RGB"))[:, :, 0]  # the three are the same
            else:
                pixels = np.asarray(image.convert("RGB" if colour else "L"))
    except Exception as error:
        raise _unreadable(path, error) from error
    pixels = np.moveaxis(pixels, -1, 0) if colour else pixels
    return pixels / np.float32(255) if deep else pixels


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"expected an image, got {path}, which cannot be read: {reason}")
