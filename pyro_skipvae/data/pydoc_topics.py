"""English sentences of the Python language reference, which every interpreter carries: always there, no network.

The text is that of the running Python, and differs a little between versions: its checksum says which it is.
"""

import hashlib
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import folder
from .contents import SPLITS
from .text import Texts

VOCABULARY_SIZE = 1_501  # about the words that occur at least twice in training: the others teach what UNK costs
PROSE = 0.75  # of the words of an English sentence are letters only; below that it is code, a table or a grammar
_HEADING = re.compile(r"^.*\n([*=\-~^])\1{2,}$", re.MULTILINE)
_BLOCKS = re.compile(r"\n\s*\n|\n(?=\s*(?:\*|\d+\.|\[\d+\]) )")  # a paragraph, or an item of a list
_ITEM = re.compile(r"^\s*(?:(?:\*|\d+\.|\[\d+\]) )?\s*")
_SENTENCE = re.compile(r"(?<=[.!?])[\"”)]?\s+(?=[A-Z\"“(])")
_TOKEN = re.compile(r"[a-z_][\w.’'-]*\w(?:\(\))?|\w+(?:\.\w+)*|[^\w\s]")
_LETTERS = re.compile(r"[a-z]+(?:[’'-][a-z]+)*")


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[Path | None, list[Path]]:
    """Return (the file inside Python, [that file]), or (None, [Python]) where a distribution left it out."""
    spec = find_spec("pydoc_data")
    path = Path(spec.origin).with_name("topics.py") if spec and spec.origin else None
    return (path, [path]) if path and path.is_file() else (None, [Path(sys.prefix)])


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Texts:
    """Return the `Texts`: a tenth of the sentences for test and for valid, in whole topics, the rest for train.

    Raises DataError where this Python comes without its topics.
    """
    path, places = find(name)
    if path is None:
        raise folder.missing(name, places, "use a Python that has its module pydoc_data, or another text")
    from pydoc_data.topics import topics

    parts: dict[str, Any] = split(sentences_of_topics(topics))
    version = ".".join(map(str, sys.version_info[:3]))
    phrase = f"the topics of Python {version}, a tenth of the sentences, by whole topics, for valid and for test; none twice"
    return Texts(name, **parts, split=phrase, vocabulary_size=VOCABULARY_SIZE)


def sentences_of_topics(topics: Any) -> list[list[list[str]]]:
    """Return [sentences of a topic], topics in an order that depends on their names alone, each sentence only once."""
    seen: set[tuple[str, ...]] = set()
    found = []
    for topic in sorted(topics, key=lambda name: hashlib.sha256(name.encode()).digest()):
        fresh = dict.fromkeys(tuple(sentence) for sentence in sentences(topics[topic]) if tuple(sentence) not in seen)
        seen.update(fresh)
        found.append([list(sentence) for sentence in fresh])
    return found


def split(topics: Any) -> dict[str, list[list[str]]]:
    """Return {split: sentences}: the first topics for test, the next for valid, until each has a tenth."""
    tenth = sum(map(len, topics)) / 10
    parts: dict[str, list[list[str]]] = {part: [] for part in SPLITS}
    for sentences in topics:
        part = next((part for part in ("test", "valid") if len(parts[part]) < tenth), "train")
        parts[part] += sentences
    return parts


def sentences(text: str) -> list[list[str]]:
    """Return the English sentences of a topic in lower case, each a list of words and punctuation marks.

    Headings, code, tables and grammars are left out, and so are the marks of emphasis and quoted code.
    """
    found = []
    for block in _BLOCKS.split(_HEADING.sub("", text)):
        paragraph = " ".join(re.sub(r"(?<=\w-)\n\s*", "", _ITEM.sub("", block)).split())
        found += [_TOKEN.findall(_plain(sentence)) for sentence in _SENTENCE.split(paragraph)]
    return [sentence for sentence in found if _is_english(sentence)]


def _plain(sentence: str) -> str:
    return re.sub(r"[*\"“”]|\[\d+\]|(?<=\s)'|'(?=\s)", "", sentence).lower()


def _is_english(sentence: list[str]) -> bool:
    if len(sentence) < 5 or sentence[-1] not in (".", "?", "!", ":"):
        return False
    words = [token for token in sentence if token[0].isalnum() or token[0] == "_"]
    letters = sum(bool(_LETTERS.fullmatch(word)) for word in words)
    return letters >= PROSE * len(words) and len(words) >= 0.75 * len(sentence)
