"""Trained runs that come with the package, opened by name from anywhere: settings, report, card, and weights alone.

They lack the state of their training, so that they cannot be gone on with; `benchmarks/included_runs.py` makes them.
"""

import os
from pathlib import Path

INCLUDED = ("mnist-pair/plain", "mnist-pair/skip")
FOLDER = Path(__file__).with_name("trained")


def folder_of(run: str | os.PathLike[str]) -> Path:
    """The folder of a run by its path, or, where nothing is there, by the name of one that comes with the package."""
    name = os.fspath(run).rstrip("/")
    return FOLDER / name if name in INCLUDED and not os.path.lexists(name) else Path(run)


def is_included(run: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a run that comes with the package, where nothing is written."""
    return FOLDER in Path(run).parents


def hint(run: str | os.PathLike[str]) -> str:
    """What to say of a path that is no run, if it looks like the name of one that comes with the package; else ""."""
    alike = os.fspath(run).split("/")[0] in {name.split("/")[0] for name in INCLUDED}
    return f"; with the package come {' and '.join(INCLUDED)}" if alike else ""
