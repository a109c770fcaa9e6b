"""A folder of images: flat, or one sub-folder for each class; each of these alone or under `train`, `valid` and `test`.

All images have one size. Grey files give (H, W), 8 bits; if one file is in colour all are (3, H, W). Pillow decodes them.
Where they take too much memory they are decoded once, and their pixels kept in a file.
"""

import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import conversions, file_content, rows
from .arrays import SPLIT_WORDS
from .conversions import PICTURES
from .kept import Kept
from .rows import Rows
from .survey import Progress
from .values import Array, Values

LARGEST = 2**30  # bytes of all images together, 8 bits a value, where one has more values than LARGEST_ITEM
LARGEST_ITEM = 2**20
GROUP = 256  # images that are decoded together
KEPT = {"shape": [int], "deep": bool, "notes": [str]}  # of the pixels in a file
LARGEST_PICTURE = 2**26  # pixels of one image
SIDEWAYS = (5, 6, 7, 8)  # of the orientations of EXIF
RESIZE = "from pyro_skipvae.data import image_folder; image_folder.resize({folder!r}, {new!r}, {size})"


@dataclass(frozen=True, slots=True)
class Picture:
    """A file with an image, and the class that its folder names, or None."""

    path: str
    label: str | None


def read(path: Path, *, root: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> Values:
    """Return the images of a folder, with the names of their sub-folders as labels.

    root: the folder of downloads, where the pixels of many images are kept. progress: told how many are decoded. Raises
    ValueError for a folder without images, for images of different sizes, and for files that are no images.
    """
    files, others = _files(path)
    arrays, notes, kept = _decoded(path, files, root, progress)
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
    said += notes + ([f"{others:,} other files were left out"] if others else [])
    return Values(arrays, labels, "; ".join(said), kept=kept)


def resize(folder: str | os.PathLike[str], new: str | os.PathLike[str], size: tuple[int, int]) -> None:
    """Write the images of a folder in one size (width, height) into another folder, with the names that they have and `.png`.

    They are taken as `read` takes them: what is transparent lies on white, and grey of 16 bits keeps them.
    """
    from PIL import Image

    files, _ = _files(Path(folder))
    for picture in (picture for pictures in files.values() for picture in pictures):
        mode = _head(picture.path)[1]
        deep, colour = mode.startswith("I"), not _is_grey(mode)
        pixels = _pixels(picture.path, colour=colour, deep=deep)
        image = Image.fromarray(np.moveaxis(pixels, 0, -1) if colour else pixels).resize(size)
        if deep:  # Pillow resizes 32 bits well, and 16 bits only in its later versions
            image = Image.fromarray((np.asarray(image).clip(0, 1) * 65535).round().astype(np.uint16))
        target = Path(new, os.path.relpath(picture.path, folder) + ".png")  # a.png and a.jpg may lie in one folder
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)


def _decoded(path: Path, files: dict[str, list[Picture]], root: Any, progress: Progress | None) -> tuple[Any, list[str], Any]:
    """({split: array, or rows where the images take too much memory}, notes, where the pixels are kept or None)."""
    kept = Kept(path, _state(path, files), root)
    about, images = kept.stored("images.json", KEPT), None
    if about is None:
        images = _Images(path, files)
        if not images.large:
            return {split: images.array(split) for split in files}, images.notes, None
        about = {"shape": list(images.shape), "deep": images.deep, "notes": images.notes}
    opened = images or _Images.known(path, files, about)
    arrays = {split: opened.on_disk(split, kept, progress) for split in files}
    if images:
        kept.store("images.json", about)
    return arrays, about["notes"], kept


def _state(path: Path, files: dict[str, list[Picture]]) -> str:
    """What tells a folder from another one and from itself when an image was changed: names, sizes and times."""
    digest = hashlib.sha256()
    for split, pictures in files.items():
        for picture in pictures:
            status = os.stat(picture.path)
            name = os.path.relpath(picture.path, path)
            digest.update(f"{split}/{name}:{status.st_size}:{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files(path: Path) -> tuple[dict[str, list[Picture]], int]:
    """({split: its images in the order of their names}, how many other files there are)."""
    below = {entry.name: Path(entry.path) for entry in _entries(path) if entry.is_dir()}
    splits = _split_folders(path, below)
    files, others = {}, 0
    for split, folder in (splits or {"train": path}).items():
        files[split], strange = _pictures(folder)
        others += strange
    empty = [split for split, pictures in files.items() if not pictures]
    if empty:
        raise _no_images(splits.get(empty[0], path), others)
    return files, others


def _split_folders(path: Path, below: dict[str, Path]) -> dict[str, Path]:
    """{split: its folder}, or none where the folders are classes. Raises ValueError where it cannot be told which they are."""
    words = [name for name in below if name.lower() in SPLIT_WORDS]
    splits = {SPLIT_WORDS[name.lower()]: below[name] for name in words}
    if "train" not in splits:
        return {}
    classes = [name for name in below if name not in words and any(map(_is_picture, _entries(below[name])))]
    if classes:
        raise ValueError(
            f"expected folders for train, valid and test in {path}, or one for each class, got {words[0]} and {classes[0]}; "
            f"rename the folder {words[0]} if it is a class, else move {classes[0]} away"
        )
    if len(splits) < len(words):
        raise ValueError(f"expected one folder for each split in {path}, got {', '.join(sorted(words))}; move one of them away")
    return splits


def _pictures(folder: Path) -> tuple[list[Picture], int]:
    entries = _entries(folder)
    flat = [Picture(entry.path, None) for entry in entries if _is_picture(entry)]
    others = sum(not entry.is_dir() for entry in entries) - len(flat)
    nested, below = [], []
    for entry in (entry for entry in entries if entry.is_dir()):
        inside = _entries(Path(entry.path))
        found = [Picture(file.path, entry.name) for file in inside if _is_picture(file)]
        others += sum(not file.is_dir() for file in inside) - len(found)
        nested += found
        below += [file for file in inside if file.is_dir()]
    if flat and nested:
        raise ValueError(
            f"expected images in {folder} or in its sub-folders, one for each class, got {len(flat):,} beside sub-folders with "
            f"{len(nested):,}; move them"
        )
    if (flat or nested) and (deeper := next(filter(_holds_pictures, below), None)):
        raise ValueError(
            f"expected images in {folder} or in its sub-folders, one for each class, got some deeper down, in {deeper.path}; "
            "move them up, or away"
        )
    return flat or nested, others


def _holds_pictures(folder: os.DirEntry[str]) -> bool:
    """Whether there is an image in a folder, however far down; links are not followed there, since they may lead back."""
    entries = _entries(Path(folder.path))
    return any(
        _holds_pictures(entry) if entry.is_dir(follow_symlinks=False) else _is_picture(entry) for entry in entries
    )


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
        sizes: dict[tuple[int, int], tuple[int, str]] = {}  # size -> how many, the first
        modes, animated = set(), 0
        for picture in self._all():
            size, mode, moves = _head(picture.path)
            modes.add(mode)
            count, first = sizes.get(size, (0, picture.path))
            sizes[size] = (count + 1, first)
            animated += moves
        self.deep = any(mode.startswith("I") for mode in modes)
        self.colour = any(not _is_grey(mode) for mode in modes)
        self._check_sizes(sizes)
        self.size = next(iter(sizes))
        self.notes += [f"of {animated:,} animated ones the first picture"] if animated else []
        self._check_memory()
        self.colour = self.colour and not self._is_grey_throughout()

    @classmethod
    def known(cls, folder: Path, files: dict[str, list[Picture]], about: dict[str, Any]) -> "_Images":
        """Those of a folder that was looked at before."""
        images = cls.__new__(cls)
        images.folder, images.files, images.notes, images.deep = folder, files, about["notes"], about["deep"]
        *channels, height, width = about["shape"]
        images.size, images.colour = (width, height), bool(channels)
        return images

    @property
    def shape(self) -> tuple[int, ...]:
        width, height = self.size
        return (3, height, width) if self.colour else (height, width)

    @property
    def large(self) -> bool:
        """Whether they take more memory as float32 than is held."""
        return 4 * self._values() > rows.LARGEST_IN_MEMORY

    def _values(self) -> int:
        return sum(map(len, self.files.values())) * int(np.prod(self.shape))

    def _all(self) -> Iterator[Picture]:
        for pictures in self.files.values():
            yield from pictures

    def _check_sizes(self, sizes: dict[tuple[int, int], tuple[int, str]]) -> None:
        if len(sizes) == 1:
            return
        ranked = sorted(sizes.items(), key=lambda pair: -pair[1][0])
        shown = ", ".join(
            f"{width}x{height} ({count:,}, such as {os.path.basename(first)})" for (width, height), (count, first) in ranked[:3]
        )
        more = f" and {len(ranked) - 3} more sizes" if len(ranked) > 3 else ""
        raise ValueError(f"expected images of one size, got {shown}{more} in {self.folder}; {self._resize(ranked[0][0])}")

    def _check_memory(self) -> None:
        """Refuse photographs, of which hardly a model has ever been made at their size."""
        width, height = self.size
        count, total = sum(map(len, self.files.values())), self._values() * (4 if self.deep else 1)
        if total > LARGEST and np.prod(self.shape) > LARGEST_ITEM:
            scale = (LARGEST / 2 / total) ** 0.5
            smaller = (max(1, int(width * scale)), max(1, int(height * scale)))
            raise ValueError(
                f"expected images of at most {LARGEST_ITEM:,} values, or at most 1 GiB of them, got {count:,} of "
                f"{width}x{height}, {total / 2**30:.1f} GiB, in {self.folder}; {self._resize(smaller)}"
            )

    def _resize(self, size: tuple[int, int]) -> str:
        new = str(self.folder.resolve().with_name(self.folder.resolve().name + f"-{size[0]}x{size[1]}"))
        line = RESIZE.format(folder=str(self.folder), new=new, size=size)
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
        return self._group(self.files[split])

    def on_disk(self, split: str, kept: Kept, progress: Progress | None) -> Rows:
        """The images of a split in a file that is kept: written now, or before."""
        count, dtype = len(self.files[split]), np.float32 if self.deep else np.uint8
        return kept.array(f"pixels-{split}", (count, *self.shape), dtype, self._groups(split, progress), "decoded images")

    def _groups(self, split: str, progress: Progress | None) -> Iterator[Array]:
        pictures = self.files[split]
        for start in range(0, len(pictures), GROUP):
            yield self._group(pictures[start : start + GROUP])
            if progress:
                progress(f"decoding the images of {split}", min(start + GROUP, len(pictures)), len(pictures))

    def _group(self, pictures: list[Picture]) -> Array:
        images = np.empty((len(pictures), *self.shape), np.float32 if self.deep else np.uint8)
        for number, picture in enumerate(pictures):
            images[number] = _pixels(picture.path, colour=self.colour, deep=self.deep)
        return images


def _is_grey(mode: str) -> bool:
    return mode in ("1", "L") or mode.startswith("I")


def _opened(path: str) -> Any:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path)


def _head(path: str) -> tuple[tuple[int, int], str, bool]:
    """(width and height, Pillow's mode, whether it is animated), read without decoding."""
    try:
        with _opened(path) as image:
            size, mode, animated = image.size, image.mode, bool(getattr(image, "is_animated", False))
            size = size[::-1] if _orientation(image) in SIDEWAYS else size
    except Exception as error:  # damaged files raise nearly anything
        raise _unreadable(path, error) from error
    if size[0] * size[1] > LARGEST_PICTURE:
        raise ValueError(f"expected images of at most {LARGEST_PICTURE:,} pixels, got {size[0]}x{size[1]} in {path}")
    if mode == "F":
        raise ValueError(f"expected images of 8 or 16 bits, got real numbers in {path}; save them in a .npy file")
    return size, mode, animated


def _orientation(image: Any) -> int:
    """How a camera has marked a picture as turned, 1 to 8; 1 is upright. A PNG would have to be decoded to tell."""
    return int(image.getexif().get(0x0112, 1)) if image.format in ("JPEG", "MPO", "TIFF", "WEBP") else 1


def _pixels(path: str, *, colour: bool, deep: bool) -> Array:
    """The pixels of a file, (3, H, W) or (H, W), uint8, or of 16 bits in [0, 1]; what is transparent lies on white.

    A picture that a camera has marked as turned is turned upright.
    """
    from PIL import Image, ImageOps

    try:
        with _opened(path) as image:
            image = image if _orientation(image) == 1 else ImageOps.exif_transpose(image)
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


def _unreadable(path: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"expected an image, got {path}, which cannot be read: {reason}")
