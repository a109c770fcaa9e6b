"""The published texts: Penn Treebank, Yahoo answers, one billion words, short Yelp sentences.

Files are read as they are or compressed (`.gz`), and must hold the published bytes. There is no address to fetch them
from: none of them has a licence that would allow one.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import file_content, folder
from .contents import SPLITS
from .text import LARGEST, Texts

YAHOO_TRAIN = {"yahoo.train.txt": "3fb31bad56bae7c65fa084f702398c3b"}
YAHOO = {
    "yahoo.valid.txt": "2680dd89b4fe882359846b5accfb7647",
    "yahoo.test.txt": "3e6dcb643282e3543303980f1e21bb9d",
}


@dataclass(frozen=True)
class Corpus:
    """Where a text lies: its folder, and the MD5 of each file's text as others check it too (torchtext, PaddleNLP).

    cuts: split -> (file, sentences of it). vocabulary_size: the usual one. by_class: the splits that lie by topic.
    """

    folder: str
    files: dict[str, str]
    split: str
    cuts: dict[str, tuple[int, slice]]
    vocabulary_size: int | None = LARGEST
    advice: str = ""
    by_class: tuple[str, ...] = ()


_WHOLE = {part: (number, slice(None)) for number, part in enumerate(SPLITS)}
CORPORA = {
    "ptb": Corpus(
        "ptb",
        {
            "ptb.train.txt": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
            "ptb.valid.txt": "aa0affc06ff7c36e977d7cd49e3839bf",
            "ptb.test.txt": "8b80168b89c18661a38ef683c0dc3721",
        },
        "Mikolov's: 42,068 / 3,370 / 3,761 sentences",
        _WHOLE,
        vocabulary_size=None,
    ),
    "yahoo": Corpus(
        "yahoo",
        YAHOO_TRAIN | YAHOO,
        "Yang et al.'s: 100,000 / 10,000 / 10,000 documents, which lie by topic; parts of them are drawn",
        _WHOLE,
        advice="; yahoo-small does without yahoo.train.txt",
        by_class=SPLITS,  # ten blocks of a thousand documents, one of each topic; of train the same is taken for granted
    ),
    "yahoo-small": Corpus(
        "yahoo",
        YAHOO,
        "first 9,000 / last 1,000 documents (a topic of its own) of the published validation file / test file, which lie by "
        "topic; parts of train and test are drawn",
        {"train": (0, slice(9000)), "valid": (0, slice(9000, None)), "test": (1, slice(None))},
        by_class=("train", "test"),  # valid is the tenth topic
    ),
    "lm1b": Corpus(
        "lm1b",
        {
            "1b_benchmark.dev.tokens": "843631d60ceb8186b92da337c000ed41",
            "1b_benchmark.test.tokens": "16731835985aac4ab45d2b99d95711fc",
        },
        "first 11,216 / last 1,000 sentences of the dev file / test file",
        {"train": (0, slice(11216)), "valid": (0, slice(11216, None)), "test": (1, slice(None))},
    ),
    "short-yelp": Corpus(
        "short_yelp",
        {
            "short_yelp.train.10000.txt": "895c3c0596ad83037a24afa42b826b3d",
            "short_yelp.valid.txt": "0cb80092e54c71f0df6c61376f576af8",
            "short_yelp.test.txt": "54daec751ad35cbf1fda0ae69d757e74",
        },
        "as in its files: 10,000 (a part of the published ones) / 10,000 / 10,000 sentences",
        _WHOLE,
    ),
}


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[Path | None, list[Path]]:
    """Return (the folder that holds every file of the text, or None; the folders looked at)."""
    corpus = CORPORA[name]
    places = [place for above in folder.search_folders(root) for place in (above / corpus.folder, above)]
    return next((place for place in places if all(_file(place, file) for file in corpus.files)), None), places


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Texts:
    """Return the `Texts`. Raises DataError where files are missing, damaged or not to be read."""
    corpus = CORPORA[name]
    place, places = find(name, root)
    if place is None:
        raise folder.missing(
            name, places, f"put {', '.join(corpus.files)} (or .gz of them) into one of these folders{corpus.advice}"
        )
    paths = [(path, md5) for file, md5 in corpus.files.items() if (path := _file(place, file))]
    files = [_lines(name, path, md5) for path, md5 in paths]
    parts: dict[str, Any] = {part: files[number][cut] for part, (number, cut) in corpus.cuts.items()}
    labels = {}
    if name == "short-yelp":
        labels = {part: np.array([int(words[0]) for words in lines]) for part, lines in parts.items()}
        parts = {part: [words[1:] for words in lines] for part, lines in parts.items()}
    about: dict[str, Any] = {"split": corpus.split, "vocabulary_size": corpus.vocabulary_size, "by_class": corpus.by_class}
    return Texts(name, **parts, labels=labels, **about)


def _file(place: Path, file: str) -> Path | None:
    return next((path for path in (place / file, place / f"{file}.gz") if path.is_file()), None)


def _lines(name: str, path: Path, md5: str) -> list[tuple[str, ...]]:
    """Return the lines of a file, each as its words; tuples, which the garbage collector need not follow."""
    try:
        content = file_content.content(path)
    except ValueError as error:  # no gzip, or far larger than a text of that size can be
        raise folder.damaged(name, [path]) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise folder.damaged(name, [path])
    return [tuple(line.split()) for line in content.decode().split("\n")[:-1]]
