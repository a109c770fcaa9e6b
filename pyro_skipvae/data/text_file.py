"""A user's own text: a UTF-8 file ending in `.txt` or `.jsonl` (or these with `.gz`), one text a line, words between blanks.

A line of `.jsonl` is an object with the field `text`, and `label` where there are classes.

Beside `news.txt`, `news.valid.txt` and `news.test.txt` (or `news.txt.valid`, `news.txt.test`; each also with `.gz`) hold
the other splits; where one is absent, a tenth of the lines is cut off for it. Empty lines are skipped and counted.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pyro_skipvae.text.vocabulary import MARKS, UNK, UNKNOWN

from . import file_content
from .arrays import SPLIT_WORDS
from .contents import SPLITS, Array, lies_by_class, shuffled
from .text import Texts
from .values import LARGEST_CLASS

FEWEST = 2  # lines of a split
FIRST = 50  # lines by which a table of numbers is known
MOSTLY = 0.75  # of their cells are numbers in a table of numbers and classes
SHORT = 5  # lines of a text of which none is taken for the names of columns
LARGEST_IN_MEMORY = 2**24  # bytes of a text that is held as words; as rows of numbers it takes up to a hundred times as much
LONGEST_WORD = 1_000  # characters
_BETWEEN_CELLS = re.compile(r'[\s,;|"]+')


def read(path: Path) -> Texts:
    """Return the `Texts` of a user's file, named as the file.

    Raises ValueError with one line for a file that is not as described above.
    """
    paths = paths_of(path)
    sentences, places, labels, skipped = {}, {}, {}, 0
    for part, file in paths.items():
        texts, labels[file] = _texts(file)
        words = [tuple(text.split()) for text in texts]
        lines = [number for number, line in enumerate(words, start=1) if line]
        for number, line in enumerate(words, start=1):
            check_words(line, number, file)
        check_not_numbers(words[:FIRST], file)
        check_count(len(lines), file)
        check_labels([labels[file].get(number) for number in lines], lines, file)
        sentences[part], places[part] = [words[number - 1] for number in lines], (file, lines)
        skipped += len(words) - len(lines) - (not words[-1])  # what follows the last newline is no line
    sentences, places, split, cut = _with_all_splits(path, sentences, places)
    split += f"; {skipped} empty lines skipped" if skipped else ""
    classes, class_names = _classes(places, labels)
    spread = by_class(cut, classes)
    about: dict[str, Any] = {"class_names": class_names, "places": places, "by_class": spread}
    return Texts(path.name, **sentences, split=split + spread_phrase(spread), labels=classes, **about)


def paths_of(path: Path) -> dict[str, Path]:
    """{split: file} of a text and of the files beside it."""
    return {"train": path} | {part: beside for part in SPLITS[1:] if (beside := _beside(path, part))}


def is_large(path: Path) -> bool:
    """Whether a text is too large to be held as words; a packed one is held, whatever its size."""
    paths = paths_of(path).values()
    for file in paths:
        file_content.check_regular(file)
    packed = any(file.name.lower().endswith(".gz") for file in paths)
    return not packed and sum(file.stat().st_size for file in paths) > LARGEST_IN_MEMORY


def lines(path: Path) -> tuple[list[str], dict[int, str | int]]:
    """(the text of each line of a file, {number of a line: its label}). Raises ValueError for the name of another kind."""
    file_content.check_regular(path)
    if not path.name.lower().removesuffix(".gz").endswith((".txt", ".jsonl")):
        raise ValueError(f"expected a .txt or .jsonl file of texts, got {path}")
    return _texts(path)


def _texts(file: Path) -> tuple[list[str], dict[int, str | int]]:
    """(the text of each line, {number of a line: its label})."""
    lines = file_content.text(file).split("\n")
    if not is_json(file):
        return lines, {}
    texts, labels = [], {}
    for number, line in enumerate(lines, start=1):
        text, label = record(line, f"in line {number} of {file}") if line.strip() else ("", None)
        texts.append(text)
        if label is not None:
            labels[number] = label
    return texts, labels


def is_json(file: Path) -> bool:
    """Whether the lines of a file are objects of JSON."""
    return file.name.lower().removesuffix(".gz").endswith(".jsonl")


def record(line: str, where: str) -> tuple[str, str | int | None]:
    """(the text, the label or None) of a line of JSON. Raises ValueError, with the line, where there is no text."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected an object of JSON in every line, got something else {where}: {error}") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        got = f"the fields {', '.join(map(repr, list(record)[:8]))}" if isinstance(record, dict) else type(record).__name__
        got = f"{json.dumps(text)[:40]} there" if isinstance(record, dict) and "text" in record else got
        raise ValueError(f"expected an object with the text in its field 'text', got {got} {where}")
    if any("\ud800" <= mark <= "\udfff" for mark in text):  # JSON can write halves of a character, UTF-8 cannot
        raise ValueError(f"expected whole characters, got half of a surrogate pair {where}")
    label = record.get("label")
    if isinstance(label, float) and label.is_integer():  # as pandas writes whole numbers of a column that lacks some
        label = int(label)
    if isinstance(label, int) and abs(label) >= LARGEST_CLASS:
        raise ValueError(f"expected classes below {LARGEST_CLASS:,}, got {label} {where}")
    return text, label if isinstance(label, str | int) else None


def _classes(places: Any, labels: Any) -> tuple[dict[str, Array], tuple[str, ...]]:
    """({split: (N,) classes}, their names where the labels are words); none where a file has no labels."""
    if not all(labels[file].keys() >= set(lines) for file, lines in places.values()):
        return {}, ()
    return class_rows({part: [labels[file][line] for line in lines] for part, (file, lines) in places.items()})


def check_labels(labels: Sequence[Any], lines: Sequence[int], file: Path) -> None:
    """Raise where some lines of a file have labels, and others none or what is none."""
    missing = [line for label, line in zip(labels, lines, strict=True) if label is None]
    if 0 < len(missing) < len(labels):
        raise ValueError(
            f"expected a label, a word or a whole number, in every line or in none, got no such label in line {missing[0]} of "
            f"{file} ({len(missing):,} of {len(labels):,} lines); give those lines one, or take the field 'label' out"
        )


def by_class(cut: Sequence[str], labels: dict[str, Array]) -> tuple[str, ...]:
    """The splits whose first lines do not stand for all: those that were cut, which lie as in the file, or lie by class."""
    return tuple(part for part in SPLITS if part in cut or part in labels and lies_by_class(labels[part]))


def spread_phrase(spread: Sequence[str]) -> str:
    """What is said of splits that are `by_class`: results on parts of them from before this was so are on other lines."""
    return f"; parts of {' and '.join(spread)} are drawn" if spread else ""


def class_rows(rows: dict[str, list[Any]]) -> tuple[dict[str, Array], tuple[str, ...]]:
    """({split: (N,) classes}, their names where the labels are words) of labels."""
    if all(isinstance(label, int) for row in rows.values() for label in row):
        return {part: np.array(row, np.int64) for part, row in rows.items()}, ()
    names = sorted({str(label) for row in rows.values() for label in row})
    return {part: np.searchsorted(names, list(map(str, row))) for part, row in rows.items()}, tuple(names)


def check_words(row: Sequence[str], line: int, file: Path) -> None:
    """Raise for a mark that would count as an unknown word, as a sentence gets its begin, end and padding here, and for what
    is too long to be a word."""
    if mark := next((word for word in row if word in MARKS[:UNK]), None):
        raise ValueError(f"expected sentences without marks of begin, end or padding, got {mark} in line {line} of {file}")
    if (longest := max(map(len, row), default=0)) > LONGEST_WORD:
        raise ValueError(
            f"expected words of at most {LONGEST_WORD:,} characters between blanks, got one of {longest:,} in line {line} "
            f"of {file}"
        )


def check_count(count: int, file: Path) -> None:
    """Raise for fewer lines with words than a split has."""
    if count < FEWEST:
        raise ValueError(f"expected at least {FEWEST} lines with words, got {count} in {file}")


def check_not_numbers(first: Sequence[Sequence[str]], file: Path) -> None:
    """Raise where the first lines of a file are a table of numbers, with or without names above and a column of classes."""
    rows = [list(filter(None, _BETWEEN_CELLS.split(" ".join(row)))) for row in first if row and not row[0].startswith("#")]
    rows = rows[1:] if len(rows) > SHORT else rows  # the first may be the names
    numbers, cells = sum(_is_number(cell) for row in rows for cell in row), sum(map(len, rows))
    of_one_length = len(set(map(len, rows))) == 1  # lines of text are not, even if they are full of years
    if cells and (numbers == cells or of_one_length and numbers >= MOSTLY * cells):
        raise ValueError(f"expected words, got hardly anything but numbers in {file}; rename a table to end in .dat or .csv")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _stem(path: Path) -> str:
    """The name of a text without its endings, and without the word train before them."""
    return re.sub(r"(\.train)?(\.txt|\.jsonl)?(\.gz)?$", "", path.name, count=1, flags=re.IGNORECASE)


def _beside(path: Path, part: str) -> Path | None:
    ending = ".jsonl" if is_json(path) else ".txt"
    words = (part, *(word for word, split in SPLIT_WORDS.items() if split == part))
    names = (name for word in words for name in (f"{_stem(path)}.{word}{ending}", f"{_stem(path)}{ending}.{word}"))
    files = (path.with_name(name + ending) for name in names for ending in ("", ".gz"))
    return next((file for file in files if file.exists()), None)


def _with_all_splits(path: Path, sentences: Any, places: Any) -> tuple[Any, Any, str, list[str]]:
    absent = [part for part in SPLITS if part not in sentences]
    if not absent:
        return sentences, places, "as in the files", absent
    index = cut_parts(path, len(sentences["train"]), absent)
    lines, (file, numbers) = sentences["train"], places["train"]
    moved = _move_strangers(index, absent, lines)
    cuts = {part: [lines[i] for i in chosen] for part, chosen in index.items()}
    where = {part: (file, [numbers[i] for i in chosen]) for part, chosen in index.items()}
    return sentences | cuts, places | where, cut_phrase(absent, moved), absent


def cut_parts(path: Path, count: int, absent: list[str]) -> dict[str, Array]:
    """{split: which of `count` lines}: a tenth for each that is absent, the rest for train. Raises for too few lines."""
    tenth = max(FEWEST, count // 10)
    if count < FEWEST + len(absent) * tenth:
        ending = ".jsonl" if is_json(path) else ".txt"
        files = " and ".join(f"{_stem(path)}.{part}{ending}" for part in absent)
        raise ValueError(
            f"expected at least {FEWEST * (1 + len(absent))} lines, of which {' and '.join(absent)} are cut, got {count} in "
            f"{path}; or put {files} beside it"
        )
    order = shuffled(np.arange(count))
    index = {part: np.sort(order[start * tenth : (start + 1) * tenth]) for start, part in enumerate(absent)}
    index["train"] = np.sort(order[len(absent) * tenth :])
    return index


def cut_phrase(absent: list[str], moved: int) -> str:
    """The phrase that says which lines are where."""
    split = f"{' and '.join(absent)}: a tenth each of the file's lines, drawn once and for all"
    return split + (f", but for {moved} without a word of the rest" if moved else "")


def _move_strangers(index: Any, absent: list[str], lines: Any) -> int:
    """Put lines that were cut, but share no word with the training text, back into it; returns how many. Some lines stay."""
    known, moved = set(chain.from_iterable(lines[i] for i in index["train"])) - UNKNOWN, 0
    for part in absent:
        moved += move(index, part, [i for i in index[part] if known.isdisjoint(lines[i])])
    return moved


def move(index: Any, part: str, strange: Any) -> int:
    """Put lines of a split into train, unless too few would be left; returns how many were put there."""
    if len(index[part]) - len(strange) < FEWEST:
        return 0
    index["train"] = np.sort(np.concatenate([index["train"], np.array(strange, dtype=int)]))
    index[part] = np.setdiff1d(index[part], strange)
    return len(strange)
