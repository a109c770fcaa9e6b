"""Every example runs, from anywhere, and is short enough to read."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
LONG = ("02", "03", "04")  # which train six models or so


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path.name[:2] in LONG else ()) for path in EXAMPLES],
    ids=lambda path: path.name,
)
def test_example_runs(path, tmp_path):
    done = subprocess.run([sys.executable, str(path), "--smoke"], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "nats" in done.stdout or "ELBO" in done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_one_idea_in_sixty_lines_of_public_names(path):
    text = path.read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 60
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_skipvae"):
            assert not any(alias.name.startswith("_") for alias in node.names)
            assert node.module not in ("pyro_skipvae.runs.build", "pyro_skipvae.runs.config")


def test_there_are_examples():
    assert len(EXAMPLES) >= 5
