"""The Brown corpus, a million words of American English of 1961 in 500 files of 15 genres; redistribution is permitted."""

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

from . import folder
from .contents import SPLITS
from .text import Texts

FILE = "brown.zip"
SHA256 = "9b275f9b3b95d7bd66ccfb7cd259f445a13bbe5d1f4107aba09fd3e8364bafa6"


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[Path | None, list[Path]]:
    """Return (the archive, or None; the places looked at)."""
    return folder.find_file(root, "brown", FILE)


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Texts:
    """Return the `Texts`: of every ten files in the order of their names the ninth is valid and the tenth test.

    So every genre is in every split, and no file in two. Raises DataError where the archive is missing or damaged.
    """
    path, places = find(name, root)
    if path is None:
        raise folder.missing(name, places, f"put {FILE} of nltk_data there")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise folder.damaged(name, [path])
    parts: dict[str, Any] = {part: [] for part in SPLITS}
    with zipfile.ZipFile(path) as archive:
        files = sorted(member for member in archive.namelist() if member[-2:].isdigit())  # beside README, CONTENTS, cats.txt
        for number, member in enumerate(files):
            part = {8: "valid", 9: "test"}.get(number % 10, "train")
            parts[part] += sentences(archive.read(member).decode())
    split = "of every ten files the ninth / the tenth for valid / for test: 400 / 50 / 50 files"
    return Texts(name, **parts, split=split, by_class=SPLITS)  # by genre: the first sentences are of the press alone


def sentences(text: str) -> list[tuple[str, ...]]:
    """Return the sentences of a file, one a line of tokens `word/tag`, each as its words."""
    lines = (line.split() for line in text.splitlines())
    return [tuple(token.rpartition("/")[0] for token in tokens) for tokens in lines if tokens]
