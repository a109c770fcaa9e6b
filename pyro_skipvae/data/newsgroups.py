"""20 Newsgroups as counts of 2,000 words, in the preprocessing of the neural variational document model (Miao et al. 2016)."""

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np

from . import folder
from .contents import Contents, shuffled
from .values import Array

FILE = "20ng.zip"
SHA256 = "09b37cd9a4e02a42ad84f7141c2b7431ffd07abb2b50585af81efbf35de66c48"
WORDS, TRAIN, VALID = 2_000, 11_268, 1_000


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[Path | None, list[Path]]:
    """Return (the archive, or None; the places looked at)."""
    return folder.find_file(root, "newsgroups20", FILE)


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Contents:
    """Return the `Contents`, (2,000,) counts of words with the newsgroup, 0 to 19, as label.

    Valid is 1,000 of the 11,268 training documents. Raises DataError where the archive is missing or damaged.
    """
    path, places = find(name, root)
    if path is None:
        raise folder.missing(name, places, f"put {FILE} there, with 20ng/train.feat and 20ng/test.feat")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise folder.damaged(name, [path])
    with zipfile.ZipFile(path) as archive:
        (train, classes), (test, test_classes) = (
            documents(archive.read(f"20ng/{split}.feat").decode()) for split in ("train", "test")
        )
    order = shuffled(np.arange(TRAIN))
    kept, valid = np.sort(order[VALID:]), np.sort(order[:VALID])
    labels = {"train": classes[kept], "valid": classes[valid], "test": test_classes}
    split = "10,268 and 1,000 of the training file in a fixed random order / the test file"
    return Contents(name, train[kept], train[valid], test, split, labels, kind="count", levels=None, by_class=("valid", "test"))


def documents(text: str) -> tuple[Array, Array]:
    """Return the counts (N, 2,000) and the labels (N,) of lines `label word:count word:count ...`, both numbered from 1."""
    lines = text.splitlines()
    counts, labels = np.zeros((len(lines), WORDS), np.int32), np.empty(len(lines), np.int64)
    for row, line in enumerate(lines):
        label, *pairs = line.split()
        labels[row] = int(label) - 1
        for pair in pairs:
            word, count = pair.split(":")
            counts[row, int(word) - 1] += int(count)
    return counts, labels
