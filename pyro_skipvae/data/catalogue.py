"""The data sets by name: what each is, where it was found, and `load_data`, which turns a name into `Data`.

Nothing here imports torch before data are loaded, so that a table of the data sets costs no start-up time.
"""

import os
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .folder import DataError
from .text import LONGEST, Texts, encoded

if TYPE_CHECKING:
    from .dataset import Data
    from .survey import Progress

BINARISATIONS = ("dynamic", "static", "threshold", "none")
_DOWNLOADS = {"auto": True, "never": False, True: True, False: False}


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is read.

    sizes: items of train, valid and test. binarisation: the usual one. source: where its files come from. family: the module
    of `pyro_skipvae.data` that reads them.
    """

    title: str
    event_shape: tuple[int, ...]
    sizes: tuple[int, int, int]
    binarisation: str
    source: str
    licence: str
    family: str


def _text(title: str, sizes: tuple[int, int, int], source: str, licence: str, family: str = "corpora") -> DatasetInfo:
    return DatasetInfo(title, (LONGEST + 1,), sizes, "given", source, licence, family)


def _mnist_like(title: str, source: str, licence: str) -> DatasetInfo:
    return DatasetInfo(title, (28, 28), (50_000, 10_000, 10_000), "dynamic", source, licence, "mnist")


DATASETS = {
    "digits": DatasetInfo(
        "handwritten digits, 8x8",
        (8, 8),
        (1_257, 180, 360),
        "dynamic",
        "inside scikit-learn",
        "CC BY 4.0 (UCI)",
        "digits",
    ),
    "mnist": _mnist_like("handwritten digits, 28x28", "files, or torchvision's download", "CC BY-SA 3.0 (as Keras states)"),
    "fashion-mnist": _mnist_like("articles of clothing, 28x28", "files, or torchvision's download", "MIT"),
    "kmnist": _mnist_like("Kuzushiji characters, 28x28", "files, or torchvision's download", "CC BY-SA 4.0"),
    "omniglot": DatasetInfo(
        "characters of 50 alphabets, our 28x28 resize",
        (28, 28),
        (21_099, 3_246, 8_115),
        "dynamic",
        "files, or the two archives that torchvision downloads",
        "MIT",
        "omniglot",
    ),
    "omniglot-burda": DatasetInfo(
        "characters of 50 alphabets, Burda's 28x28 and split",
        (28, 28),
        (23_000, 1_345, 8_070),
        "dynamic",
        "chardata.mat of Burda et al., by hand",
        "MIT",
        "omniglot",
    ),
    "frey-faces": DatasetInfo(
        "one face filmed, 28x20 grey",
        (28, 20),
        (1_565, 200, 200),
        "none",
        "a file, by hand",
        "none stated",
        "frey_faces",
    ),
    "cifar10": DatasetInfo(
        "4,000 colour photographs, 32x32, or torchvision's full set",
        (3, 32, 32),
        (3_000, 500, 500),
        "none",
        "files, by hand",
        "none stated",
        "cifar10",
    ),
    "mnist-static": DatasetInfo(
        "handwritten digits, 28x28, Larochelle's fixed bits",
        (28, 28),
        (50_000, 10_000, 10_000),
        "given",
        "a file, by hand",
        "none stated; MNIST's is CC BY-SA 3.0",
        "mnist_static",
    ),
    "newsgroups20": DatasetInfo(
        "20 Newsgroups, counts of 2,000 words",
        (2_000,),
        (10_268, 1_000, 7_505),
        "none",
        "a file, by hand",
        "none stated",
        "newsgroups",
    ),
    "synthetic-ratings": DatasetInfo(
        "choices of users among 200 items, of known 4-D tastes",
        (200,),
        (4_000, 500, 500),
        "given",
        "made here",
        "MIT",
        "ratings",
    ),
    "pydoc": _text(
        "sentences of Python's language reference",
        (1_556, 367, 302),  # of Python 3.11; 3.10 has 34 sentences fewer, 3.13 has 146 more
        "inside Python",
        "PSF",
        "pydoc_topics",
    ),
    "synthetic-text": _text(
        "sentences of an LSTM with known 2-D latents", (5_000, 1_000, 1_000), "made here", "MIT", "synthetic"
    ),
    "ptb": _text("newspaper sentences, Penn Treebank", (42_068, 3_370, 3_761), "files, by hand", "LDC's; none stated"),
    "yahoo": _text(
        "questions and answers, Yang et al. 2017", (100_000, 10_000, 10_000), "files, by hand", "research use; none stated"
    ),
    "yahoo-small": _text(
        "the same without its training file", (9_000, 1_000, 10_000), "files, by hand", "research use; none stated"
    ),
    "lm1b": _text("news sentences, held-out shards", (11_215, 1_000, 12_102), "files, by hand", "none stated"),
    "short-yelp": _text("reviews of at most 15 words", (10_000, 10_000, 10_000), "files, by hand", "none stated"),
    "brown": _text(
        "sentences of 500 texts of 1961, the Brown corpus",
        (46_175, 5_523, 5_642),
        "a file, by hand",
        "redistribution permitted",
        "brown",
    ),
}


def load_data(
    name: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    binarisation: str = "dynamic",
    download: str | bool = "auto",
    seed: int = 0,
    vocabulary_size: int | None = None,
    max_words: int | None = None,
    progress: "Progress | None" = None,
) -> "Data":
    """Loads a data set as `Data`: finds it on disk or downloads it, verifies it, and splits and binarises it.

    name: one of `DATASETS`, or the path of your own file or folder: arrays, tables, sparse matrices, images or texts.
    `omniglot` becomes `omniglot-burda` where `chardata.mat` is found, and the result has that name.
    root: the folder to look in first; then `$SKIPVAE_DATA`, then `~/.cache/pyro-skipvae`.
    binarisation: "dynamic" (new draws at each reading of train, one draw for valid and test), "static" (one draw for all),
    "threshold" (above one half is 1) or "none" (grey levels in [0, 1]; real values and counts); no effect on binary data and
    texts.
    download: "auto" (or True) fetches missing files into `root`, or else into `~/.cache/pyro-skipvae`; "never" (or False)
    does not.
    seed: fixes the one draw of the binarisation and nothing else.
    vocabulary_size, max_words: for texts only: the size of the vocabulary with its four marks, and the most words of a text
    (None: the usual ones of the data set).
    progress: called as progress(what, items so far, all items) while a large file of your own is examined.

    Raises ValueError for a wrong argument or a file of your own that cannot be used, and DataError for data that are missing,
    damaged or cannot be downloaded.
    """
    if binarisation not in BINARISATIONS:
        raise ValueError(f"expected a binarisation out of {', '.join(BINARISATIONS)}, got {binarisation!r}")
    if download not in _DOWNLOADS:
        raise ValueError(f"expected download to be 'auto' or 'never', got {download!r}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"expected a seed in 0..{2**32 - 1}, got {seed!r}")
    family = _family(name)
    try:
        told = {} if str(name) in DATASETS else {"progress": progress}
        contents = family.load(str(name), root=root, download=_DOWNLOADS[download], **told)
    except OSError as error:
        raise DataError(f"{name} could not be read: {error}") from error
    if isinstance(contents, Texts):
        contents = encoded(contents, vocabulary_size, max_words)
    elif hasattr(contents, "encoded"):  # a large text
        contents = contents.encoded(vocabulary_size, max_words)
    elif vocabulary_size is not None or max_words is not None:
        raise ValueError(f"expected a text for a vocabulary size and max_words, got {contents.kind} values of {name}")
    return import_module(f"{__package__}.dataset").from_contents(contents, binarisation, seed)


def locate(name: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> tuple[Any, list[Path]]:
    """Where `load_data` finds a data set: (its file or folder, or None; all places that were looked at).

    Raises ValueError for an unknown name.
    """
    return _family(name).find(str(name), root)


def _family(name: str | os.PathLike[str]) -> Any:
    if str(name) in DATASETS:
        return import_module(f"{__package__}.{DATASETS[str(name)].family}")
    own = import_module(f"{__package__}.own_file")
    if own.is_path(name):
        return own
    nearest = get_close_matches(str(name), DATASETS, n=1, cutoff=0.4)
    guess = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    expected = f"expected a data set out of {', '.join(DATASETS)}, or the path of a file or folder"
    raise ValueError(f"{expected}, got {str(name)!r}{guess}")
