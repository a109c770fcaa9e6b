"""`Data`: a data set ready for use, split, binarised, and able to say what it is."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_skipvae.text.vocabulary import PAD, UNK, Vocabulary

from .batches import Batches
from .binarisation import DynamicallyBinarised, Items, above_half, fixed_draw, kept_draw, probabilities
from .contents import SPLITS, Contents, checksum, shuffled
from .large_text import TextRows
from .length_bucketed import LengthBucketed
from .on_disk import OnDisk
from .rows import Rows
from .text import COUNTED, compact


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set in three splits: `train`, `valid` and `test`, each float32 (N, *event_shape), or int64 for texts.

    With dynamic binarisation `train` is a `DynamicallyBinarised` view. The splits of a large file stay on disk: an index gives
    a tensor. A text is (N, max_length), each row its words, EOS and PAD.

    kind: what the values are: "binary", "grey" (in [0, 1]), "real", "count" or "text".
    levels: grey levels of the source (256 for 8 bits), 2 for binary ones, None for real values, counts, continuous grey, text.
    binarisation: "dynamic", "static", "threshold", "none", or "given" where the source is binary or a text.
    labels: {split: classes (N,) int64}, empty where there are none; class_names: those of the classes 0, 1, ..., where labels
    are words.
    checksum: SHA-256 over the source's values of all splits in order, whatever the binarisation; of a text over its words.
    seed: of the one draw of the binarisation. split: which items are where, in words. limits: {split: items kept} after
    `limit`. vocabulary: of a text, else None.
    by_class: the splits whose items lie class by class, of which parts are taken in a fixed random order. columns: the names of
    the values of an item, where they have names.
    how_read: how the values were read, in words; note: further remarks on where they are, or "".
    """

    name: str
    train: Items
    valid: Any  # a tensor; `OnDisk` of a large file
    test: Any
    event_shape: tuple[int, ...]
    labels: dict[str, Tensor]
    kind: str
    levels: int | None
    binarisation: str
    seed: int
    checksum: str
    split: str
    limits: dict[str, int] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    class_names: tuple[str, ...] = ()
    how_read: str = ""
    note: str = ""
    by_class: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def memory(self) -> int:
        """The bytes of memory that items, their order and their labels take while they are used."""
        held = sum(_held(self._items(split)) for split in SPLITS) + sum(each.nbytes for each in self.labels.values())
        return held + 8 * len(self.train)  # the order of an epoch

    @property
    def where(self) -> str:
        """Where the items are, in memory or in their file, and how much memory they take, in words."""
        files = {path for split in SPLITS if (path := _file(self._items(split)))}
        file = next(iter(files)) if len(files) == 1 else next((path.parent for path in files), None)
        items = f"stay in {file}, and each batch is read from there" if file else "are in memory"
        said = f"The items {items}; items, order and labels take {self.memory / 1e6:,.0f} MB of memory."
        return f"{said} {self.note}".strip()

    def batches(self, split: str, size: int, *, seed: int, shuffle: bool | None = None) -> Batches:
        """The `Batches` of a split, "train", "valid" or "test", x (B, *event_shape); by default only train is shuffled.

        Texts have `LengthBucketed` batches: x (B, T) is cut to the longest row of the batch. Raises ValueError for another
        split, a size below 1 or a seed below 0.
        """
        make: Any = LengthBucketed if self.kind == "text" else Batches
        return make(self._items(split), size, seed=seed, shuffle=split == "train" if shuffle is None else shuffle)

    def limit(self, train: int | None = None, eval: int | None = None) -> "Data":
        """The data with at most `train` training items, and at most `eval` items of valid and of test each.

        Training items are chosen at random, always in the same order, so that fewer are among more; of a text the first ones
        are taken, as papers do, unless it lies by class or genre. Of valid and test the first items are taken (see `first`).
        Raises ValueError for a limit below 1.
        """
        kept, limits = {}, dict(self.limits)
        for split, most in zip(SPLITS, (train, eval, eval), strict=True):
            if most is not None and most < 1:
                raise ValueError(f"expected a limit of at least 1, got {most}")
            count = len(self._items(split))
            if most is not None and most < count:
                at_random = split in self.by_class or split == "train" and self.kind != "text"
                order = shuffled(np.arange(count)) if at_random else np.arange(count)
                kept[split], limits[split] = torch.from_numpy(order[:most]), most
        items: dict[str, Any] = {split: _take(self._items(split), index) for split, index in kept.items()}
        labels = {split: classes[kept[split]] if split in kept else classes for split, classes in self.labels.items()}
        return replace(self, **items, labels=labels, limits=limits)

    def first(self, split: str, count: int) -> Any:
        """At most `count` items for a whole split, as a tensor: the first; where they lie class by class, fixed random ones."""
        items: Any = self._items(split)
        return items[self.places(split, count)] if split in self.by_class else items[:count]

    def places(self, split: str, count: int) -> Tensor:
        """Where the items of `first` are, the same ones each time."""
        order = np.arange(len(self._items(split)))
        return torch.from_numpy((shuffled(order) if split in self.by_class else order)[:count])

    def in_order(self, split: str) -> Any:
        """A whole split in the order of `first`; no item is read."""
        items: Any = self._items(split)
        return _take(items, self.places(split, len(items))) if split in self.by_class else items

    def describe(self) -> dict[str, Any]:
        """What a result has to say about its data, as a dict of plain values."""
        about = {
            "name": self.name,
            "sizes": {split: len(self._items(split)) for split in SPLITS},
            "event_shape": list(self.event_shape),
            "kind": self.kind,
            "levels": self.levels,
            "binarisation": self.binarisation,
            "seed": self.seed,
            "checksum": self.checksum,
            "split": self.split,
            "limits": dict(self.limits),
            "how_read": self.how_read,
        }
        classes = {"class_names": list(self.class_names)} if self.class_names else {}
        return about | classes | ({} if self.vocabulary is None else self._describe_text())

    def to_dict(self) -> dict[str, Any]:
        """What `describe` returns."""
        return self.describe()

    def to_frame(self) -> Any:
        """The splits as a pandas DataFrame: columns items, classes (None without labels), of texts tokens and unknown_rate.

        Raises ImportError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("expected pandas for to_frame(); install pandas (pip install pandas), or use to_dict()") from None
        about = self.describe()
        columns = [name for name in ("tokens", "unknown_rate") if name in about]
        rows = [
            {
                "split": split,
                "items": about["sizes"][split],
                "classes": len(self.labels[split].unique()) if split in self.labels else None,
                **{name: about[name][split] for name in columns},
            }
            for split in SPLITS
        ]
        return pandas.DataFrame(rows).set_index("split")

    def __repr__(self) -> str:
        """One line: name, kind, sizes, event shape and binarisation."""
        return f"Data({', '.join(f'{name}={value!r}' for name, value in self._shown().items())})"

    def _repr_html_(self) -> str:
        """The same as an escaped HTML table, with the phrases on the split and on how the values were read, for notebooks."""
        shown = self._shown() | {"split": self.split, "how_read": self.how_read}
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in shown.items())
        return f"<table><tbody>{rows}</tbody></table>"

    def _shown(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "sizes": {split: len(self._items(split)) for split in SPLITS},
            "event_shape": self.event_shape,
            "binarisation": self.binarisation,
        }

    def _describe_text(self) -> dict[str, Any]:
        rows: dict[str, Any] = {split: self._items(split) for split in SPLITS}
        vocabulary: Any = self.vocabulary
        counts = {split: _token_counts(rows[split]) for split in SPLITS}
        tokens = {split: words for split, (words, _) in counts.items()}
        return {
            "vocabulary": {"size": len(vocabulary), "checksum": vocabulary.checksum},
            "tokens": tokens,
            "unknown_rate": {split: unknown / tokens[split] for split, (_, unknown) in counts.items()},
            "tokens_counted": COUNTED,
        }

    def _items(self, split: str) -> Items:
        if split not in SPLITS:
            raise ValueError(f"expected a split out of {', '.join(SPLITS)}, got {split!r}")
        return getattr(self, split)


def from_contents(contents: Contents, binarisation: str, seed: int) -> "Data":
    """Return the `Data` of some `Contents`, binarised.

    Raises ValueError where real values or counts are to be binarised.
    """
    if contents.kind in ("binary", "text"):
        binarisation = "given"
    elif contents.kind in ("real", "count") and binarisation != "none":
        raise ValueError(
            f"expected binarisation 'none' for the {contents.kind} values of {contents.name}, got {binarisation!r}"
        )
    values = {split: _as_items(getattr(contents, split)) for split in SPLITS}
    items: dict[str, Any] = {split: _binarised(values[split], contents, binarisation, seed, split) for split in SPLITS}
    return Data(
        name=contents.name,
        **items,
        event_shape=tuple(values["train"].shape[1:]),
        labels={split: torch.from_numpy(labels.astype(np.int64)) for split, labels in contents.labels.items()},
        kind="binary" if binarisation in ("dynamic", "static", "threshold") else contents.kind,
        levels=contents.levels,
        binarisation=binarisation,
        seed=seed,
        checksum=contents.checksum or _checksum(contents),
        split=contents.split,
        vocabulary=contents.vocabulary,
        class_names=contents.class_names,
        how_read=_how_read(contents, binarisation),
        note=contents.note,
        by_class=contents.by_class,
        columns=contents.columns,
    )


def _token_counts(rows: Any) -> tuple[int, int]:
    """(words and ends, unknown words) of the rows of a text."""
    if isinstance(rows, OnDisk):
        text: Any = rows.rows
        return int(text.lengths.sum()), text.unknown()
    return rows.numel() - int((rows == PAD).sum()), int((rows == UNK).sum())


def _how_read(contents: Contents, binarisation: str) -> str:
    """A sentence that says what the values were taken for, and what the reader of a file decided."""
    decided = f"; {contents.how_read}" if contents.how_read else ""
    if contents.vocabulary is not None:
        return f"Read as text: one text a row, {len(contents.vocabulary):,} words and marks{decided}."
    drawn = {
        "dynamic": "; every reading draws each pixel as 0 or 1, with its grey level as the probability of 1",
        "static": "; each pixel was drawn once as 0 or 1, with its grey level as the probability of 1",
        "threshold": "; above one half is 1",
        "none": " and scaled to [0, 1]" if contents.levels else "",
    }
    if contents.kind == "binary":
        return f"Read as binary: all values are 0 or 1{decided}."
    if contents.kind == "grey":
        values = f"whole numbers 0 to {contents.levels - 1}" if contents.levels else "numbers in [0, 1]"
        return f"Read as grey levels: {values}{drawn[binarisation]}{decided}."
    low, high = contents.value_range or _range([getattr(contents, split) for split in SPLITS])
    values = {"count": "counts: whole numbers", "real": "real values: numbers"}[contents.kind]
    return f"Read as {values} from {low:,.6g} to {high:,.6g}{decided}."


def _range(arrays: list[Any]) -> tuple[Any, Any]:
    return min(array.min() for array in arrays), max(array.max() for array in arrays)


def _checksum(contents: Contents) -> str:
    arrays = [getattr(contents, split) for split in SPLITS]
    if contents.vocabulary is None:
        return checksum(*arrays)
    words = np.frombuffer(contents.vocabulary.text().encode(), np.uint8)
    return checksum(*(part for rows in arrays for part in compact(rows)), words)


def _as_items(values: Any) -> Tensor | OnDisk:
    return OnDisk(values) if isinstance(values, Rows | TextRows) else torch.from_numpy(np.ascontiguousarray(values))


def _binarised(items: Tensor | OnDisk, contents: Contents, binarisation: str, seed: int, split: str) -> Items:
    if contents.kind == "text":
        return items
    if binarisation == "given" or contents.kind in ("real", "count"):
        return _changed(items, Tensor.float)
    if binarisation == "none":
        return _changed(items, partial(probabilities, levels=contents.levels))
    if binarisation == "threshold":
        return _changed(items, partial(above_half, levels=contents.levels))
    if binarisation == "dynamic" and split == "train":
        return DynamicallyBinarised(items, contents.levels)
    if isinstance(items, OnDisk):
        return kept_draw(items, contents.levels, seed=seed, split=split, kept=contents.kept)
    return fixed_draw(items, contents.levels, seed=seed, split=split)


def _changed(items: Tensor | OnDisk, change: Callable[[Tensor], Tensor]) -> Tensor | OnDisk:
    return items.then(change) if isinstance(items, OnDisk) else change(items)


def _take(items: Any, index: Tensor) -> Any:
    if isinstance(items, DynamicallyBinarised):
        return DynamicallyBinarised(_take(items.grey, index), items.levels)
    return items.take(index) if isinstance(items, OnDisk) else items[index]


def _held(items: Any) -> int:
    if isinstance(items, OnDisk):
        return items.rows.held
    return int(getattr(items, "grey", items).nbytes) if isinstance(getattr(items, "grey", items), Tensor) else _held(items.grey)


def _file(items: Any) -> Any:
    items = getattr(items, "grey", items)
    return items.rows.file.path if isinstance(items, OnDisk) else None
