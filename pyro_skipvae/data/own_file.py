"""A user's own data, by path: which reader takes it, decided by its ending, or by its first bytes where that says nothing."""

import os
from pathlib import Path

from . import (
    annotated,
    arrays,
    conversions,
    file_content,
    folder,
    image_folder,
    large_text,
    own_folder,
    sparse,
    table,
    text_file,
    values,
)
from .contents import Contents
from .survey import Progress
from .text import Texts

READERS = {
    ".npz": arrays.read_npz,
    ".npy": arrays.read_npy,
    ".mtx": sparse.read_mtx,
    ".mtx.gz": sparse.read_mtx,
    ".h5ad": annotated.read_h5ad,
    ".parquet": table.read_parquet,
    ".pq": table.read_parquet,
    **{ending + packed: table.read for ending in (".csv", ".tsv", ".tab", ".data", ".dat") for packed in ("", ".gz")},
}
TEXTS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
SHOWN = ".npz, .npy, .csv, .tsv, .parquet, .mtx, .h5ad, .txt, .jsonl"
FIRST_BYTES = {
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".zip",
    b"\x1f\x8b": ".gz",
    b"PAR1": ".parquet",
    b"%%MatrixMarket": ".mtx",
    b"\x89HDF": ".h5",
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"\xd0\xcf\x11\xe0": ".xls",
}


def is_path(name: str | os.PathLike[str]) -> bool:
    """Whether a name that is not that of a data set is meant as a path: it has a separator or a dot, or is there."""
    text = os.fspath(name)
    return bool(text) and (any(mark in text for mark in "/.~\\") or os.path.lexists(text))


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[Path | None, list[Path]]:
    """Return (the file or folder, or None; [its path]): a user's own file is looked for nowhere else."""
    path = file_content.user_path(name)
    return (path if path.exists() else None), [path]


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    progress: Progress | None = None,
) -> Contents | Texts | large_text.LargeTexts:
    """Return the `Contents`, or the `Texts`, of a user's file or folder, named as the file.

    root: the folder of downloads, which also keeps what is made of large files. progress: told how far the look at one is.
    Raises DataError where there is nothing, ValueError with one line for what is not as its reader describes.
    """
    path, places = find(name)
    if path is None:
        raise folder.missing(name, places, "give the path of an existing file or folder")
    if path.is_file() and _ending(path) in TEXTS:
        if text_file.is_large(path):
            return large_text.read(path, root=root, progress=progress)
        return text_file.read(path)
    return values.contents(path, read_values(path, root, progress), root=root, progress=progress)


def read_values(
    path: Path, root: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> values.Values:
    """Return the numbers in a user's file or folder, before anything is made of them; `root` and `progress` as in `load`.

    Raises ValueError where it is a text.
    """
    if path.is_dir():
        own_folder.check(path)
        return image_folder.read(path, root=root, progress=progress)
    file_content.check_regular(path)
    ending = _ending(path)
    if ending in TEXTS:
        raise ValueError(f"expected numbers, got the text file {path}")
    return READERS[ending](path)


def _ending(path: Path) -> str:
    """The ending that decides. Raises ValueError where content and ending disagree, or nothing reads the file."""
    name = path.name.lower()
    ending = next((known for known in (*READERS, *TEXTS) if name.endswith(known)), None)
    with open(path, "rb") as file:
        start = file.read(16)
    content = next((known for first, known in FIRST_BYTES.items() if start.startswith(first)), None)
    if ending is None:
        if conversions.command(path) is None and content in READERS:
            return content
        raise _not_read(path, content)
    packed = ending.endswith(".gz")
    same = {".npz": ".zip", ".pq": ".parquet", ".h5ad": ".h5"}.get(ending, ending)
    if content and content != (".gz" if packed else same):
        raise ValueError(f"expected a {ending} file, got {path}, whose content is that of a {content} file; rename it")
    return ending


def _not_read(path: Path, content: str | None) -> ValueError:
    if path.suffix.lower() in conversions.PICTURES or content in (".png", ".jpg"):
        return ValueError(f"expected a folder of images, got the single image {path}; give the folder it is in")
    expected = f"expected a folder of images or a file that ends in {SHOWN}, got {path}"
    known = conversions.command(path)
    return ValueError(f"{expected}; convert it: {known}" if known else f"{expected}; rename it if it is one of these")


def find_readable(path: Path) -> list[Path]:
    """Return the files in a folder whose endings a reader takes."""
    return [file for file in sorted(path.iterdir()) if file.name.lower().endswith((*READERS, *TEXTS)) and file.is_file()]
