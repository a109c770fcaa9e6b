"""What a model must know of its data to be built and used, kept in its run folder as `data.json`: the data may be gone."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_skipvae.data.dataset import Data
from pyro_skipvae.stored import check
from pyro_skipvae.text.vocabulary import Vocabulary

from .config import BINARISATIONS

KINDS = ("binary", "grey", "real", "count", "text")
STORED = {
    "name": str,
    "event_shape": [int],
    "kind": str,
    "levels": (int, type(None)),
    "binarisation": str,
    "checksum": str,
    "vocabulary?": {"checksum": str},
    "class_names?": [str],
    "columns?": [str],
}
LARGEST = 2**31


class WordsError(ValueError):
    """The words of a text model are missing, or those of another one."""


@dataclass(frozen=True)
class DataDescription:
    """The shape and the kind of some data, and what else a model needs of them; fields as in `Data`."""

    name: str
    event_shape: tuple[int, ...]
    kind: str
    levels: int | None
    binarisation: str
    checksum: str
    class_names: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None
    columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: Mapping[str, Any], words: Path) -> "DataDescription":
        """That in plain values, as `stored` or the card of a report holds them; `words`: the vocabulary file of a text model.

        Raises ValueError for values that describe no data, and WordsError for words that are absent or of another model.
        """
        check(found, STORED, "it")
        _check(found)
        about = {name: found[name] for name in ("name", "kind", "levels", "binarisation", "checksum")}
        about |= {name: tuple(found.get(name, ())) for name in ("class_names", "columns")}
        return cls(**about, event_shape=tuple(found["event_shape"]), vocabulary=_vocabulary(found, words))


def stored(data: Data) -> str:
    """The content of `data.json`: what `Data.describe` says, and the names of the classes and of the columns."""
    names = {name: list(getattr(data, name, ())) for name in ("class_names", "columns")}
    return json.dumps({**data.describe(), **names}, indent=1) + "\n"


def _check(found: Mapping[str, Any]) -> None:
    shape = found["event_shape"]
    if found["kind"] not in KINDS or found["binarisation"] not in (*BINARISATIONS, "given"):
        raise ValueError(f"its kind is {found['kind']!r}, its binarisation {found['binarisation']!r}")
    if not shape or min(shape) < 1 or math.prod(shape) >= LARGEST:
        raise ValueError(f"its event_shape is {str(shape)[:40]}")
    if found["levels"] is not None and not 2 <= found["levels"] <= 2**16:
        raise ValueError(f"its levels are {found['levels']}")
    if (found["kind"] == "text") != ("vocabulary" in found):
        raise ValueError("its kind is text if, and only if, it has a vocabulary")


def _vocabulary(found: Mapping[str, Any], file: Path) -> Vocabulary | None:
    if "vocabulary" not in found:
        return None
    try:
        vocabulary = Vocabulary.read(file)
    except ValueError as error:
        raise WordsError(str(error)) from None
    if vocabulary.checksum != found["vocabulary"]["checksum"]:
        raise WordsError(f"expected the words of the model in {file}, got those of another one")
    return vocabulary
