"""The words of a text and the numbers that stand for them: one vocabulary and one padding rule for every text.

A row of words is int64: words, then EOS, then PAD up to the row's length. BOS is never in it: a decoder prepends it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

PAD, BOS, EOS, UNK = 0, 1, 2, 3
MARKS = ("<pad>", "<s>", "</s>", "<unk>")  # as they are written, in the order of their numbers
UNKNOWN = frozenset({*MARKS, "_UNK"})  # in a text these are not words: `<unk>` and `_UNK` are how corpora write UNK


class Vocabulary:
    """Words and their numbers: `words[i]` has the number i + 4, after PAD 0, BOS 1, EOS 2 and UNK 3.

    Raises ValueError for a word that occurs twice, is empty, holds white space, or is a mark.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        self._number = {word: number for number, word in enumerate(self.words, start=len(MARKS))}
        strange = next((word for word in self.words if word in UNKNOWN or word.split() != [word]), None)
        if strange is not None:
            raise ValueError(f"expected words without white space and no marks, got {strange!r}")
        if len(self._number) < len(self.words):
            twice = Counter(self.words).most_common(1)[0][0]
            raise ValueError(f"expected every word once, got {twice!r} more than once")

    @classmethod
    def of(cls, sentences: Iterable[Iterable[str]], size: int | None = None) -> "Vocabulary":
        """The vocabulary of sentences (lists of words): the most frequent first, ties in alphabetical order.

        size: how many numbers at most, the four marks included; None keeps every word.
        Raises ValueError for a size that leaves no room for a word.
        """
        if size is not None and size <= len(MARKS):
            raise ValueError(
                f"expected a vocabulary size of at least {len(MARKS) + 1}, its {len(MARKS)} marks included, got {size}"
            )
        counts = Counter(chain.from_iterable(sentences))
        ranked = sorted((-count, word) for word, count in counts.items() if word not in UNKNOWN)
        return cls(word for _, word in ranked[: None if size is None else size - len(MARKS)])

    def __len__(self) -> int:
        return len(MARKS) + len(self.words)

    def encode(self, words: Iterable[str]) -> list[int]:
        """The numbers of the words, then EOS; a word that is not in the vocabulary becomes UNK."""
        number = self._number.get
        return [*[number(word, UNK) for word in words], EOS]

    def decode(self, row: Any) -> str:
        """The words of a row of numbers (a tensor (T,) or a list), up to EOS, joined by blanks, without PAD and BOS."""
        words = []
        for number in map(int, row):
            if number == EOS:
                break
            if number not in (PAD, BOS):
                words.append(MARKS[UNK] if number == UNK else self.words[number - len(MARKS)])
        return " ".join(words)

    @property
    def checksum(self) -> str:
        """SHA-256 of the words joined by newlines: equal for equal numbers of equal words."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()

    def text(self) -> str:
        """The words, one a line, as `read` takes them: line i + 1 is `words[i]`."""
        return "".join(f"{word}\n" for word in self.words)

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """The vocabulary of a file that holds `text()`.

        Raises ValueError, with the path, for a file that is missing or holds something else.
        """
        try:
            return cls(path.read_text(encoding="utf-8").split("\n")[:-1])
        except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
            raise ValueError(f"expected a vocabulary, one word a line, in {path}, but {error}") from error


def vocabulary_check(saved: Sequence[str], vocabulary: Vocabulary, where: Path, *, of: str = "this text") -> None:
    """Raises ValueError, with file and line, unless the words saved in the file `where` are those of the vocabulary."""
    ours = vocabulary.words
    if tuple(saved) == ours:
        return
    pairs = enumerate(zip(saved, ours, strict=False))
    line = next((index for index, (theirs, word) in pairs if theirs != word), min(len(saved), len(ours)))
    theirs, word = (repr(words[line]) if line < len(words) else "no word" for words in (saved, ours))
    raise ValueError(
        f"expected the vocabulary of {of}, which has {word} there, got {theirs} in line {line + 1} of {where}; "
        "it belongs to another text or another vocabulary size: use the data of that run"
    )
