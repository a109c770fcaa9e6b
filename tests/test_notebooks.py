"""The notebooks: what each has to have, that the committed files are those of the scripts, and (marked slow) that they run."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples/notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))
each = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)


def committed(path, version):
    return json.loads((FOLDER / version / f"{path.stem}.ipynb").read_text())["cells"]


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return cell["metadata"].get("tags", [])


def test_there_are_seven():
    assert len(SCRIPTS) >= 7


@each
def test_it_has_what_every_notebook_has(path):
    cells = committed(path, "solutions")
    text = "\n".join(source(cell) for cell in cells)
    assert "pip" in source(cells[1]) and "find_spec" in source(cells[1])  # installs where the package is missing
    assert text.count("**Predict before you run.**") >= 2
    assert 3 <= len(re.findall(r"^\*\*Exercise \d", text, re.M)) <= 5
    assert "## References" in text and "Teaching notes" in text
    assert sum("check" in tags(cell) for cell in cells) == sum("solution" in tags(cell) for cell in cells) >= 3


@each
def test_every_figure_has_a_result_in_a_sentence(path):
    cells = committed(path, "solutions")
    for place, cell in enumerate(cells):
        if "pyplot.show()" in source(cell):
            words = next(source(later) for later in cells[place:] if later["cell_type"] == "markdown")
            claims = [later for later in cells[place : place + 4] if "claim" in tags(later)]
            assert words.startswith("**Result:**") and claims, source(cell)[:80]


@each
def test_the_exercises_show_no_answers_and_the_solutions_all_of_them(path):
    exercises, solutions = committed(path, "exercises"), committed(path, "solutions")
    assert not any({"solution", "teaching", "claim"} & set(tags(cell)) for cell in exercises)
    assert not any(cell.get("outputs") for cell in exercises)
    assert not any("exercise" in tags(cell) for cell in solutions)
    assert not any(output["output_type"] == "error" for cell in solutions for output in cell.get("outputs", ()))
    shown = [output for cell in solutions for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]
    assert len(shown) == sum("pyplot.show()" in source(cell) for cell in solutions)
    assert (FOLDER / "solutions" / f"{path.stem}.ipynb").stat().st_size < 700_000


@each
def test_the_committed_notebooks_are_those_of_the_script(path):
    pytest.importorskip("jupytext", reason="needs pip install 'pyro_skipvae[notebooks]'")
    spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    for version in ("exercises", "solutions"):
        made = [(cell.id, cell.source) for cell in build.notebook(path, version).cells]
        kept = [(cell["id"], source(cell)) for cell in committed(path, version)]
        assert made == kept, f"python examples/notebooks/build.py {path.stem[:2]}"


@each
def test_the_first_cell_installs_from_the_checkout_or_by_name(path, monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command[-1]))
    for folder in (FOLDER / "solutions", tmp_path):
        monkeypatch.chdir(folder)
        exec(source(committed(path, "exercises")[1]), {})
    assert called == [str(FOLDER.parents[1]), "pyro_skipvae"]


@each
def test_links_lead_to_files(path):
    for cell in committed(path, "solutions"):
        for target in re.findall(r"\]\((\.[^)]*)\)", source(cell)):
            assert (FOLDER / "solutions" / target).exists(), target


@pytest.mark.slow
@each
def test_it_runs_and_every_check_fails_before_its_solution(path):
    pytest.importorskip("nbclient", reason="needs pip install 'pyro_skipvae[notebooks]'")
    command = [sys.executable, str(FOLDER / "build.py"), "--smoke", path.stem]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
