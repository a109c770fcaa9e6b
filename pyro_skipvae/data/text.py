"""Sentences of a text set, and the one way from them to rows of numbers: length rule, vocabulary, unknown words.

Tokens that count are the words, known or not, and the end of each sentence; the begin and the padding do not.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from pyro_skipvae.text.vocabulary import PAD, UNK, UNKNOWN, Vocabulary

from .contents import SPLITS, Array, Contents

LONGEST = 200  # words, unless `max_words` says otherwise
LARGEST = 20_001  # the usual size of a vocabulary, the marks included, as in Yang et al. 2017
COUNTED = "words, unknown ones too, and the end of each sentence; not the begin, not the padding"


@dataclass(frozen=True, eq=False)
class Texts:
    """A text set as its files give it: for each split a list of sentences, each a sequence of words.

    split: one phrase that says which sentences are where. labels: split -> (N,) classes, or empty.
    class_names: of the classes 0, 1, ..., where the labels are words.
    vocabulary_size: the usual one, marks included. vocabulary: of a set that has one of its own. places: split -> (file,
    line of each sentence) for a user's own text, where a line that breaks a rule is refused; in a published text it is
    left out or counted. by_class: the splits whose sentences lie by class or genre.
    """

    name: str
    train: list[Any]
    valid: list[Any]
    test: list[Any]
    split: str
    labels: dict[str, Array] = field(default_factory=dict)
    vocabulary_size: int | None = LARGEST
    vocabulary: Vocabulary | None = None
    places: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    by_class: tuple[str, ...] = ()


def encoded(texts: Texts, vocabulary_size: int | None = None, max_words: int | None = None) -> Contents:
    """Return the `Contents` of `Texts`: int64 rows (N, max_words + 1) of words, EOS and PAD, and their vocabulary.

    Without max_words the longest sentence has 200 words: a longer line of a user's own text is refused, a longer
    sentence of a published one left out. With max_words longer ones are left out everywhere, and the phrase says how
    many. The vocabulary comes from the training sentences that are left, unless the set has one of its own.
    Raises ValueError, with file and line, for a user's line that is too long or has unknown words only.
    """
    if max_words is not None and max_words < 1:
        raise ValueError(f"expected max_words of at least 1, got {max_words}")
    longest = max_words or LONGEST
    if max_words is None:
        _refuse_long_lines(texts)
    kept = {part: [i for i, words in enumerate(getattr(texts, part)) if len(words) <= longest] for part in SPLITS}
    sentences = {part: [getattr(texts, part)[i] for i in index] for part, index in kept.items()}
    empty = [part for part in SPLITS if not sentences[part]]
    if empty:
        raise ValueError(f"expected sentences of at most {longest} words in {texts.name}, got none for {' and '.join(empty)}")
    vocabulary, whole, once = _vocabulary(texts, sentences, vocabulary_size)
    rows: dict[str, Any] = {
        part: padded([vocabulary.encode(words) for words in sentences[part]], longest + 1) for part in SPLITS
    }
    _refuse_unknown_lines(texts, sentences, kept, whole)
    return Contents(
        texts.name,
        **rows,
        split=texts.split + _left_out(texts, kept, longest) + once,
        labels={part: labels[kept[part]] for part, labels in texts.labels.items()},
        kind="text",
        levels=None,
        vocabulary=vocabulary,
        class_names=texts.class_names,
        by_class=texts.by_class,
    )


def _vocabulary(texts: Texts, sentences: Any, size: int | None) -> tuple[Vocabulary, Vocabulary, str]:
    """(the vocabulary, the one with words that occur once, what the phrase says of it), of the training sentences alone.

    Where every word of a user's training text would be known, those that occur once become UNK, so that a model can learn the
    probability of UNK. Not those without which a line of it would be left without a known word.
    """
    if texts.vocabulary is not None:
        if size is not None and size < len(texts.vocabulary):
            raise ValueError(f"expected a vocabulary size of at least {len(texts.vocabulary)} for {texts.name}, got {size}")
        return texts.vocabulary, texts.vocabulary, ""
    whole = Vocabulary.of(sentences["train"], texts.vocabulary_size if size is None else size)
    if not texts.places or any(UNK in whole.encode(words) for words in sentences["train"]):
        return whole, whole, ""
    counts = Counter(chain.from_iterable(sentences["train"]))
    rare = {word for word, count in counts.items() if count == 1}
    often = set(whole.words) - rare
    rare -= {word for words in sentences["train"] if often.isdisjoint(words) for word in words}
    smaller = Vocabulary(word for word in whole.words if word not in rare)
    return (smaller, whole, "; words that occur once are unknown") if rare else (whole, whole, "")


def padded(rows: Any, length: int) -> Array:
    """Return lists of numbers as one int64 array (N, length), PAD behind them."""
    lengths = np.array([len(row) for row in rows])
    array = np.full((len(rows), length), PAD, np.int64)
    array[np.arange(length) < lengths[:, None]] = np.concatenate(rows)
    return array


def compact(rows: Any) -> tuple[Array, Array]:
    """Return (the numbers without PAD, the lengths), int32: what a checksum needs to see of rows (N, T)."""
    words = rows != PAD
    return rows[words].astype(np.int32), words.sum(1, dtype=np.int32)


def _refuse_long_lines(texts: Texts) -> None:
    for part, (path, lines) in texts.places.items():
        for words, line in zip(getattr(texts, part), lines, strict=True):
            if len(words) > LONGEST:
                raise ValueError(
                    f"expected at most {LONGEST} words a line, got {len(words)} in line {line} of {path}; "
                    "--max-words N leaves out lines of more than N words"
                )


def _refuse_unknown_lines(texts: Texts, sentences: Any, kept: dict[str, list[int]], whole: Vocabulary) -> None:
    known = set(whole.words)
    for part, (path, lines) in texts.places.items():
        unknown = [i for i, words in enumerate(sentences[part]) if known.isdisjoint(words)]
        if unknown:
            line, more = lines[kept[part][unknown[0]]], len(unknown) - 1
            others = f" (and {more} more)" if more else ""
            words = set(sentences[part][unknown[0]]) - UNKNOWN
            cut = any(not words.isdisjoint(texts.train[i]) for i in kept["train"])  # by the size of the vocabulary
            raise ValueError(
                f"expected at least one word of the training text's vocabulary, got unknown words only in line {line}{others} "
                f"of {path}; take the line out" + (", or allow a larger vocabulary with --vocabulary-size" if cut else "")
            )


def _left_out(texts: Texts, kept: dict[str, list[int]], longest: int) -> str:
    counts = [len(getattr(texts, part)) - len(kept[part]) for part in SPLITS]
    if not any(counts):
        return ""
    return f"; longer than {longest} words and left out: {' / '.join(f'{count:,}' for count in counts)}"
