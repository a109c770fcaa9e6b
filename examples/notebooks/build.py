"""Turn the percent scripts of this folder into notebooks, and run them.

    python examples/notebooks/build.py            # in full; writes exercises/NAME.ipynb and solutions/NAME.ipynb
    python examples/notebooks/build.py --smoke    # quick; writes nothing; every check has to fail before it passes
    python examples/notebooks/build.py 01 02      # these alone

A cell of a script is tagged `exercise` (what a student fills in), `solution`, `check` (of the answer), `claim` (of a
sentence on the page) or `teaching` (notes); all others are in both versions. Needs `pip install 'pyro_skipvae[notebooks]'`.
"""

import argparse
import copy
import os
import time
from pathlib import Path

import jupytext
import nbclient
from nbformat import NotebookNode, v4, write

HERE = Path(__file__).parent
LEFT_OUT = {"exercises": {"solution", "teaching", "claim"}, "solutions": {"exercise"}}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def scripts(names: list[str]) -> list[Path]:
    """The scripts whose names begin with one of `names`; all without any."""
    found = [path for path in sorted(HERE.glob("[0-9]*.py")) if not names or path.name.startswith(tuple(names))]
    if not found:
        raise SystemExit(f"expected the beginning of a script's name in {HERE}, such as 01, got {' '.join(names)}")
    return found


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def notebook(path: Path, version: str) -> NotebookNode:
    """One version of a script, without outputs."""
    source = jupytext.read(path, fmt="py:percent")
    made = v4.new_notebook(metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})
    made.cells = [_stable(cell, number) for number, cell in enumerate(source.cells) if not tags(cell) & LEFT_OUT[version]]
    return made


def checked_twice(path: Path) -> NotebookNode:
    """All cells, each check once before the solution, where it has to raise, and once after it."""
    made, source = notebook(path, "solutions"), jupytext.read(path, fmt="py:percent").cells
    made.cells, waiting = [], []
    for number, cell in enumerate(source):
        if "solution" in tags(cell):
            check = copy.deepcopy(next(later for later in source[number:] if "check" in tags(later)))
            check.metadata["tags"] = ["check", "raises-exception"]
            waiting = [_stable(check, 1000 + number)]
        made.cells += [*waiting, _stable(cell, number)]
        waiting = []
    return made


def run(made: NotebookNode, *, smoke: bool) -> str:
    """Execute in place; returns what time it took. Raises where a cell does, and where a check that has to fail does not."""
    os.environ.pop("NOTEBOOK_SMOKE", None)
    if smoke:
        os.environ["NOTEBOOK_SMOKE"] = "1"
    start, before = time.perf_counter(), os.times()
    nbclient.NotebookClient(made, timeout=3600, record_timing=False, resources={"metadata": {"path": str(HERE)}}).execute()
    for cell in made.cells:
        failed = any(output.output_type == "error" for output in cell.get("outputs", []))
        if "raises-exception" in tags(cell) and not failed:
            raise SystemExit(f"expected this check to fail without an answer, but it passes:\n{cell.source}")
    spent = sum(os.times()[2:4]) - sum(before[2:4])
    return f"{time.perf_counter() - start:.0f} s, {spent:.0f} s of CPU time"


def _stable(cell: NotebookNode, number: int) -> NotebookNode:
    """A cell whose id is its number in the script, so that a notebook that is built again is the same file."""
    new = copy.deepcopy(cell)
    new.id, new.metadata = f"cell-{number}", NotebookNode({"tags": sorted(tags(cell))} if tags(cell) else {})
    return new


def _without_noise(made: NotebookNode) -> NotebookNode:
    """Without what differs from machine to machine: the kernel's version, warnings on stderr, the names of figures."""
    made.metadata["language_info"] = {"name": "python"}
    for cell in made.cells:
        kept = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        for output in kept:
            output.get("data", {}).pop("text/plain", None) if "image/png" in output.get("data", {}) else None
        if cell.cell_type == "code":
            cell.outputs = kept
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 01; all without any")
    parser.add_argument("--smoke", action="store_true", help="a quick run that writes nothing")
    arguments = parser.parse_args()
    for path in scripts(arguments.names):
        if arguments.smoke:
            print(f"{path.stem}: {run(checked_twice(path), smoke=True)}", flush=True)
            continue
        solutions = notebook(path, "solutions")
        print(f"{path.stem}: {run(solutions, smoke=False)}", flush=True)
        for version, made in (("exercises", notebook(path, "exercises")), ("solutions", _without_noise(solutions))):
            (HERE / version).mkdir(exist_ok=True)
            write(made, HERE / version / f"{path.stem}.ipynb")


if __name__ == "__main__":
    main()
