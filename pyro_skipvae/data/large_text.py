"""A user's text that is too large to be held as words: the numbers of its words lie in a file, and rows are made of them.

The words of all lines are numbered once, in the order in which they occur, and these numbers kept. A vocabulary is a table from
them to its own numbers, so another size of vocabulary needs no other file. What comes out is what `text_file` and `text` give.
"""

import hashlib
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from pyro_skipvae.text.vocabulary import EOS, MARKS, PAD, UNK, UNKNOWN, Vocabulary

from . import text_file
from .contents import SPLITS, Array, Contents, array_head
from .folder import DataError
from .kept import Kept
from .rows import BLOCK, SPARSE, RowFile, row_numbers, state_of
from .survey import Progress
from .text import LARGEST, LONGEST

LONGEST_LINE = 2**26  # bytes
ABOUT = {
    "lines": {"train": int, "valid?": int, "test?": int},
    "tokens": int,
    "skipped": int,
    "words": [str],
    "labels": ([(str, int, bool)], NoneType),
}


def read(path: Path, *, root: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> "LargeTexts":
    """Return the texts of a user's file and of those beside it, their words as numbers in a file that is kept.

    Raises ValueError as `text_file.read`, DataError where nothing can be kept.
    """
    paths = text_file.paths_of(path)
    kept = Kept(path, [(part, state_of(file)) for part, file in paths.items()], root)
    about = kept.stored("text.json", ABOUT)
    found = None if about is None else _opened(kept, about)
    if found is None:
        before = [state_of(file) for file in paths.values()]
        about = _numbered(paths, kept, progress)
        if before != [state_of(file) for file in paths.values()]:
            raise DataError(f"expected {path} to stay as it was while it was read, and it was changed: try again")
        found = _opened(kept, about)
    if found is None:
        raise DataError(f"expected what was just written to {kept.folder} to stay there; it was removed: try again")
    return _with_splits(path, paths, about, *found)


class Tokens:
    """Lines of numbers in a file, one after the other: line i is the `lengths[i]` numbers (int32) from `starts[i]` on."""

    def __init__(self, file: RowFile, lengths: Array) -> None:
        self.file, self.lengths = file, lengths
        self.starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    def lines(self, index: Array) -> tuple[Array, Array]:
        """(the numbers of those lines one after the other, int32, how many each line has (B,))."""
        self.file.check()
        starts, lengths = self.starts[index], self.lengths[index].astype(np.int64)
        if not len(index):
            return np.empty(0, np.int32), lengths
        first, end = int(starts.min()), int((starts + lengths).max())
        if end - first > SPARSE * int(lengths.sum()):
            pairs = zip(starts.tolist(), lengths.tolist(), strict=True)
            return np.frombuffer(b"".join([self.file.read(4 * start, 4 * count) for start, count in pairs]), np.int32), lengths
        span = np.frombuffer(self.file.read(4 * first, 4 * (end - first)), np.int32)
        before = np.cumsum(lengths) - lengths
        return span[np.arange(lengths.sum()) + np.repeat(starts - first - before, lengths)], lengths

    def blocks(self, index: Array) -> Iterator[tuple[Array, Array, Array]]:
        """(line numbers, their numbers, their lengths) of all lines of an index, some MB at a time."""
        ends = np.cumsum(self.lengths[index], dtype=np.int64)
        start = 0
        while start < len(index):
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK // 4)))
            yield index[start:stop], *self.lines(index[start:stop])
            start = stop


class TextRows:
    """Rows (N, width) int64 of lines, words, EOS and PAD, made when they are asked for; `table` gives a word's number."""

    def __init__(self, tokens: Tokens, table: Array, index: Array, width: int) -> None:
        self.tokens, self.table, self.index, self.width = tokens, table, index, width

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), self.width

    @property
    def file(self) -> RowFile:
        return self.tokens.file

    @property
    def held(self) -> int:
        """Bytes that are held in memory: a third of what all splits share, and the own index."""
        shared = self.tokens.lengths.nbytes + self.tokens.starts.nbytes + self.table.nbytes
        return int(self.index.nbytes + shared // len(SPLITS))

    @property
    def lengths(self) -> Array:
        """The length of each row, its EOS included, (N,) int64."""
        return self.tokens.lengths[self.index].astype(np.int64) + 1

    def take(self, index: Array) -> "TextRows":
        """Those rows in that order; none is made."""
        return TextRows(self.tokens, self.table, self.index[index], self.width)

    def __getitem__(self, index: Any) -> Array:
        flat, lengths = self.tokens.lines(self.index[row_numbers(index, len(self))])
        rows = np.full((len(lengths), self.width), PAD, np.int64)
        rows[np.arange(self.width) < lengths[:, None]] = self.table[flat]
        rows[np.arange(len(lengths)), lengths] = EOS
        return rows

    def unknown(self) -> int:
        """How many words are unknown."""
        return sum(int((self.table[flat] == UNK).sum()) for _, flat, _ in self.tokens.blocks(self.index))

    def compact(self) -> Iterator[Array]:
        """The numbers of all rows without PAD, int32, some MB at a time."""
        for _, flat, lengths in self.tokens.blocks(self.index):
            numbers = np.full(len(flat) + len(lengths), EOS, np.int32)
            words = np.ones(len(numbers), bool)
            words[np.cumsum(lengths + 1) - 1] = False
            numbers[words] = self.table[flat]
            yield numbers


@dataclass(frozen=True, eq=False)
class LargeTexts:
    """A text whose words are numbers in a file: of each split the index of its lines, and where a line is in the user's file.

    words: those that the numbers stand for. lines: the line of the file that each is. Other fields as in `Texts`.
    """

    name: str
    tokens: Tokens
    words: list[str]
    lines: Array
    index: dict[str, Array]
    files: dict[str, Path]
    split: str
    labels: dict[str, Array]
    class_names: tuple[str, ...]
    by_class: tuple[str, ...]

    def encoded(self, vocabulary_size: int | None = None, max_words: int | None = None) -> Contents:
        """Return the `Contents` that `text.encoded` gives for the same text; raises as that does."""
        if max_words is not None and max_words < 1:
            raise ValueError(f"expected max_words of at least 1, got {max_words}")
        longest = max_words or LONGEST
        if max_words is None:
            self._refuse_long_lines()
        kept = {part: np.flatnonzero(self.tokens.lengths[self.index[part]] <= longest) for part in SPLITS}
        index = {part: self.index[part][kept[part]] for part in SPLITS}
        empty = [part for part in SPLITS if not len(index[part])]
        if empty:
            named = " and ".join(empty)
            raise ValueError(f"expected sentences of at most {longest} words in {self.name}, got none for {named}")
        counts = self._counts(index["train"])
        vocabulary, whole, once = self._vocabulary(index, counts, LARGEST if vocabulary_size is None else vocabulary_size)
        known = dict(zip(vocabulary.words, range(len(MARKS), len(vocabulary)), strict=True))
        table = np.array([known.get(word, UNK) for word in self.words], np.int32)
        self._refuse_unknown_lines(index, whole, counts)
        left_out = [len(self.index[part]) - len(kept[part]) for part in SPLITS]
        said = f"; longer than {longest} words and left out: {' / '.join(f'{n:,}' for n in left_out)}" if any(left_out) else ""
        rows: dict[str, Any] = {part: TextRows(self.tokens, table, index[part], longest + 1) for part in SPLITS}
        return Contents(
            self.name,
            **rows,
            split=self.split + said + once,
            labels={part: labels[kept[part]] for part, labels in self.labels.items()},
            kind="text",
            levels=None,
            vocabulary=vocabulary,
            class_names=self.class_names,
            by_class=self.by_class,
            checksum=_checksum(rows, vocabulary),
        )

    def _counts(self, index: Array) -> Array:
        """How often each word occurs in lines."""
        counts = np.zeros(len(self.words), np.int64)
        for _, flat, _ in self.tokens.blocks(index):
            counts += np.bincount(flat, minlength=len(self.words))
        return counts

    def _vocabulary(self, index: dict[str, Array], counts: Array, size: int) -> tuple[Vocabulary, Array, str]:
        """As `text._vocabulary` for a user's own text, from counts; the second as a mask of the words."""
        if size <= len(MARKS):
            Vocabulary.of([], size)  # which says what is wrong
        marks = np.array([word in UNKNOWN for word in self.words], bool)
        there = np.flatnonzero((counts > 0) & ~marks)
        ranked = sorted(there.tolist(), key=lambda number: (-counts[number], self.words[number]))[: size - len(MARKS)]
        whole = np.zeros(len(self.words), bool)
        whole[ranked] = True
        if bool((counts[~whole] > 0).any()):
            return Vocabulary(self.words[number] for number in ranked), whole, ""
        rare = counts == 1
        often = whole & ~rare
        for _, flat, lengths in self.tokens.blocks(index["train"]):
            strange = ~_any_of(often, flat, lengths)
            rare[flat[np.repeat(strange, lengths)]] = False
        said = "; words that occur once are unknown" if rare.any() else ""
        return Vocabulary(self.words[number] for number in ranked if not rare[number]), whole, said

    def _refuse_long_lines(self) -> None:
        for part, path in self.files.items():
            long = np.flatnonzero(self.tokens.lengths[self.index[part]] > LONGEST)
            if len(long):
                line = self.index[part][long[0]]
                raise ValueError(
                    f"expected at most {LONGEST} words a line, got {self.tokens.lengths[line]} in line {self.lines[line]} of "
                    f"{path}; --max-words N leaves out lines of more than N words"
                )

    def _refuse_unknown_lines(self, index: dict[str, Array], whole: Array, counts: Array) -> None:
        for part, path in self.files.items():
            blocks = self.tokens.blocks(index[part])
            unknown = np.concatenate([lines[~_any_of(whole, flat, lengths)] for lines, flat, lengths in blocks])
            if len(unknown):
                others = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
                words = [number for number in self.tokens.lines(unknown[:1])[0] if self.words[number] not in UNKNOWN]
                cut = bool((counts[words] > 0).any())  # by the size of the vocabulary
                raise ValueError(
                    "expected at least one word of the training text's vocabulary, got unknown words only in line "
                    f"{self.lines[unknown[0]]}{others} of {path}; take the line out"
                    + (", or allow a larger vocabulary with --vocabulary-size" if cut else "")
                )


def _any_of(wanted: Array, flat: Array, lengths: Array) -> Array:
    """Whether a line has a wanted number, (B,): `wanted` says of each number whether it is."""
    return np.logical_or.reduceat(wanted[flat], np.cumsum(lengths) - lengths)


def _checksum(rows: dict[str, TextRows], vocabulary: Vocabulary) -> str:
    """As `checksum` of the compact rows and the words in memory."""
    digest, int32 = hashlib.sha256(), np.dtype(np.int32)
    for part in SPLITS:
        lengths = rows[part].lengths
        digest.update(array_head(int32, (int(lengths.sum()),)))
        for numbers in rows[part].compact():
            digest.update(numbers.data)
        digest.update(array_head(int32, lengths.shape))
        digest.update(lengths.astype(np.int32).data)
    words = np.frombuffer(vocabulary.text().encode(), np.uint8)
    digest.update(array_head(words.dtype, words.shape))
    digest.update(words.data)
    return digest.hexdigest()


def _opened(kept: Kept, about: dict[str, Any]) -> tuple[Tokens, Array] | None:
    """(the tokens, the line of the file that each line is), or None where their files are not whole."""
    count = sum(about["lines"].values())
    tokens, lines = kept.open("tokens.int32", 4 * about["tokens"]), kept.open("lines.int32", 8 * count)
    if tokens is None or lines is None:
        return None
    lengths, numbers = np.frombuffer(lines.read(0, 8 * count), np.int32).reshape(2, count)
    return Tokens(tokens, lengths), numbers


class _Numbering:
    """The numbers of words in the order in which they occur, and of each line its length, its place and its label."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}
        self.lengths, self.lines = array("i"), array("i")
        self.labels: list[Any] = []
        self.counts: dict[str, int] = {}
        self.skipped = 0

    def blocks(self, paths: dict[str, Path], progress: Progress | None) -> Iterator[bytes]:
        """The numbers (int32) of all lines with words of all files."""
        total, done, block = sum(file.stat().st_size for file in paths.values()), 0, array("i")
        for part, file in paths.items():
            before = len(self.lengths)
            for number, words, label, size in _lines(file):
                done += size
                if words:
                    block.extend([self.words.setdefault(word, len(self.words)) for word in words])
                    self.lengths.append(len(words))
                    self.lines.append(number)
                    self.labels.append(label)
                else:
                    self.skipped += label is not None
                if len(block) > BLOCK:
                    yield block.tobytes()
                    block = array("i")
                    if progress:
                        progress("numbering the words of the text (bytes)", done, total)
            self.counts[part] = len(self.lengths) - before
            text_file.check_count(self.counts[part], file)
            text_file.check_labels(self.labels[before:], self.lines[before:], file)
        yield block.tobytes()


def _lines(file: Path) -> Iterator[tuple[int, list[str], Any, int]]:
    """(number, words, label or None, bytes) of each line of a file; of one without words the label is whether it counts."""
    is_json, first = text_file.is_json(file), []
    with open(file, "rb") as stream:
        number = 0
        while raw := stream.readline(LONGEST_LINE + 1):
            number += 1
            if len(raw) > LONGEST_LINE:
                raise ValueError(f"expected lines of at most 64 MiB, got a longer one in line {number} of {file}")
            text, label = _decoded(raw, number, file), None
            if is_json and text.strip():
                text, label = text_file.record(text, f"in line {number} of {file}")
            words = text.split()
            text_file.check_words(words, number, file)
            if number <= text_file.FIRST:
                first.append(words)
            yield number, words, label if words else (True if raw.endswith(b"\n") else None), len(raw)
            if number == text_file.FIRST:
                text_file.check_not_numbers(first, file)
    text_file.check_not_numbers(first, file)


def _decoded(raw: bytes, number: int, file: Path) -> str:
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected UTF-8, got other bytes ({error.reason}) in line {number} of {file}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(f"expected text, got a zero byte in line {number} of {file}")
    return text


def _numbered(paths: dict[str, Path], kept: Kept, progress: Progress | None) -> dict[str, Any]:
    """What `ABOUT` describes, with the numbers of all words in a file that is kept."""
    found, size = _Numbering(), 2 * sum(file.stat().st_size for file in paths.values())
    kept.write("tokens.int32", found.blocks(paths, progress), size, "numbers of the words")
    kept.write("lines.int32", (found.lengths.tobytes(), found.lines.tobytes()), 8 * len(found.lines), "numbers of the words")
    about = {
        "lines": found.counts,
        "tokens": sum(found.lengths),
        "skipped": found.skipped,
        "words": list(found.words),
        "labels": None if any(label is None for label in found.labels) else found.labels,
    }
    kept.store("text.json", about)
    return about


def _with_splits(path: Path, paths: dict[str, Path], about: dict[str, Any], tokens: Tokens, lines: Array) -> LargeTexts:
    bounds = np.cumsum([0, *about["lines"].values()])
    index = {part: np.arange(*bounds[i : i + 2]) for i, part in enumerate(about["lines"])}
    absent = [part for part in SPLITS if part not in index]
    split = "as in the files"
    if absent:
        cut = text_file.cut_parts(path, len(index["train"]), absent)
        moved = _move_strangers(cut, absent, tokens, about["words"])
        index, split = index | cut, text_file.cut_phrase(absent, moved)
    split += f"; {about['skipped']} empty lines skipped" if about["skipped"] else ""
    given = about["labels"]
    rows = {} if given is None else {part: [given[i] for i in chosen] for part, chosen in index.items()}
    labels, names = text_file.class_rows(rows) if rows else ({}, ())
    files = {part: paths.get(part, path) for part in index}
    by_class = text_file.by_class(absent, labels)
    split += text_file.spread_phrase(by_class)
    return LargeTexts(path.name, tokens, about["words"], lines, index, files, split, labels, names, by_class)


def _move_strangers(index: dict[str, Array], absent: list[str], tokens: Tokens, words: list[str]) -> int:
    """As `text_file._move_strangers`, on numbers."""
    known, moved = np.zeros(len(words), bool), 0
    for _, flat, _ in tokens.blocks(index["train"]):
        known[flat] = True
    known[[number for number, word in enumerate(words) if word in UNKNOWN]] = False
    for part in absent:
        blocks = tokens.blocks(index[part])
        strange = np.concatenate([lines[~_any_of(known, flat, lengths)] for lines, flat, lengths in blocks])
        moved += text_file.move(index, part, strange)
    return moved
