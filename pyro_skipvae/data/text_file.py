"""A user's own text: a UTF-8 file ending in `.txt` or `.txt.gz`, one text a line, words between blanks.

Beside `news.txt`, `news.valid.txt` and `news.test.txt` (or `news.txt.valid`, `news.txt.test`; each also with `.gz`) hold
the other splits; where one is absent, a tenth of the lines is cut off for it. Empty lines are skipped and counted.
"""

from itertools import chain
from pathlib import Path

import numpy as np

from pyro_skipvae.text.vocabulary import MARKS, UNK, UNKNOWN

from . import file_content
from .contents import SPLITS, shuffled
from .text import Texts

FEWEST = 2  # lines of a split


def read(path: Path) -> Texts:
    """Return the `Texts` of a user's file, named as the file.

    Raises ValueError with one line for a file that is not as described above.
    """
    paths = {"train": path} | {part: beside for part in SPLITS[1:] if (beside := _beside(path, part))}
    sentences, places, skipped = {}, {}, 0
    for part, file in paths.items():
        words = [tuple(line.split()) for line in file_content.text(file).split("\n")]
        lines = [number for number, line in enumerate(words, start=1) if line]
        _refuse_marks(words, file)
        if len(lines) < FEWEST:
            raise ValueError(f"expected at least {FEWEST} lines with words, got {len(lines)} in {file}")
        sentences[part], places[part] = [words[number - 1] for number in lines], (file, lines)
        skipped += len(words) - len(lines) - (not words[-1])  # what follows the last newline is no line
    sentences, places, split = _with_all_splits(path, sentences, places)
    return Texts(path.name, **sentences, split=split + (f"; {skipped} empty lines skipped" if skipped else ""), places=places)


def _refuse_marks(words, file):
    """Raise for a mark that would count as an unknown word: a sentence gets its begin, end and padding here."""
    for line, row in enumerate(words, start=1):
        if mark := next((word for word in row if word in MARKS[:UNK]), None):
            raise ValueError(f"expected sentences without marks of begin, end or padding, got {mark} in line {line} of {file}")


def _stem(path):
    return path.name.removesuffix(".gz").removesuffix(".txt")


def _beside(path, part):
    names = (f"{_stem(path)}.{part}.txt", f"{_stem(path)}.txt.{part}")
    files = (path.with_name(name + ending) for name in names for ending in ("", ".gz"))
    return next((file for file in files if file.exists()), None)


def _with_all_splits(path, sentences, places):
    absent = [part for part in SPLITS if part not in sentences]
    if not absent:
        return sentences, places, "as in the files"
    count = len(sentences["train"])
    tenth = max(FEWEST, count // 10)
    if count < FEWEST + len(absent) * tenth:
        files = " and ".join(f"{_stem(path)}.{part}.txt" for part in absent)
        raise ValueError(
            f"expected at least {FEWEST * (1 + len(absent))} lines, of which {' and '.join(absent)} are cut, got {count} in "
            f"{path}; or put {files} beside it"
        )
    order = shuffled(np.arange(count))
    index = {part: np.sort(order[start * tenth : (start + 1) * tenth]) for start, part in enumerate(absent)}
    index["train"] = np.sort(order[len(absent) * tenth :])
    lines, (file, numbers) = sentences["train"], places["train"]
    moved = _move_strangers(index, absent, lines)
    cuts = {part: [lines[i] for i in chosen] for part, chosen in index.items()}
    where = {part: (file, [numbers[i] for i in chosen]) for part, chosen in index.items()}
    split = f"{' and '.join(absent)}: a tenth each of the file's lines, drawn once and for all"
    return sentences | cuts, places | where, split + (f", but for {moved} without a word of the rest" if moved else "")


def _move_strangers(index, absent, lines):
    """Put lines that were cut, but share no word with the training text, back into it; returns how many. Some lines stay."""
    known, moved = set(chain.from_iterable(lines[i] for i in index["train"])) - UNKNOWN, 0
    for part in absent:
        strange = [i for i in index[part] if known.isdisjoint(lines[i])]
        if len(index[part]) - len(strange) >= FEWEST:
            index["train"] = np.sort(np.concatenate([index["train"], np.array(strange, dtype=int)]))
            index[part], moved = np.setdiff1d(index[part], strange), moved + len(strange)
    return moved
