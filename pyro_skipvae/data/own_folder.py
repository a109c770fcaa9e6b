"""What a folder given as a data set is, where it is no folder of images: each is told what was meant instead."""

import shlex
from pathlib import Path

RUN_FILES = ("config.toml", "metrics.jsonl")


def check(path: Path) -> None:
    """Raise ValueError for the folder of a run, and for one that holds data sets that are known by name."""
    if all((path / name).is_file() for name in RUN_FILES):
        run = shlex.quote(str(path))
        raise ValueError(
            f"expected data, got {path}, the folder of a run; use train --resume {run} to go on with it, or evaluate {run}"
        )
    names, root = _known(path)
    if names:
        raise ValueError(
            f"expected the name of a data set, got {path}, a folder that holds {', '.join(names)}; "
            f"use --dataset {names[0]} --data-dir {shlex.quote(str(root))}"
        )


def _known(path: Path) -> tuple[list[str], Path]:
    """(names of the data sets whose files are in the folder, the folder that --data-dir must name)."""
    from .catalogue import DATASETS, locate

    here = path.resolve()
    for root in (path, *list(here.parents)[:3]):
        names = []
        for name, info in DATASETS.items():
            if info.source.startswith(("inside", "made")):
                continue
            found = locate(name, root)[0]
            if found is not None and found.resolve().is_relative_to(here):
                names.append(name)
        if names:
            return names, root
    return [], path
