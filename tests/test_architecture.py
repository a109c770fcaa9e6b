"""The house rules that a machine can check: imports point one way, and nothing is unpickled."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The floors of the house, from the ground up: a noun may import those of its own floor and of those below it.
FLOORS = [
    {"distributions", "skip", "blocks", "likelihoods", "modules", "schedules", "stored", "random_numbers", "timing"},
    {"objectives", "diagnostics", "model", "callables"},
    {"guides", "training", "text"},
    {"data", "encoders", "decoders", "priors"},
    {"runs"},
    {"reports", "estimator", "hub"},
    {"reproduction"},
]
COMPONENTS = {"data", "encoders", "decoders", "priors", "guides"}
WITHOUT_COMPONENTS = ("diagnostics", "model", "objectives", "training", "callables")  # so that any Pyro pair can be used


def modules():
    return sorted((ROOT / "pyro_skipvae").rglob("*.py"))


def part(path):
    """The noun of a module: its file, or the package it is in."""
    return path.relative_to(ROOT / "pyro_skipvae").parts[0].removesuffix(".py")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pyro_skipvae":
            names = node.module.split(".")[1:2]
            yield from names or [alias.name for alias in node.names]


def floor(noun):
    return next(number for number, nouns in enumerate(FLOORS) if noun in nouns)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    if path == ROOT / "pyro_skipvae/__init__.py":
        return
    for noun in imported(path):
        assert floor(noun) <= floor(part(path)), f"{path.name} imports {noun}, which is above it"
    if part(path) in WITHOUT_COMPONENTS:
        assert not COMPONENTS & set(imported(path))


def test_no_two_nouns_import_each_other():
    imports = {}
    for path in modules():
        imports.setdefault(part(path), set()).update(set(imported(path)) - {part(path)})
    TopologicalSorter(imports).prepare()  # raises CycleError, which names them


def test_nothing_in_the_package_knows_the_command_line():
    for path in modules():
        assert "cli" not in path.read_text().split() and "click" not in path.read_text(), path


@pytest.mark.parametrize("path", [*modules(), *sorted((ROOT / "cli").rglob("*.py"))], ids=lambda path: path.name)
def test_nothing_is_unpickled_or_evaluated(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
            assert not {"pickle", "cloudpickle", "dill", "joblib"} & set(names), path
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("eval", "exec", "torch.load", "pickle.load", "pickle.loads"), path
            assert not any(key.arg == "allow_pickle" and ast.unparse(key.value) != "False" for key in node.keywords), path


def test_random_numbers_are_forked_and_seeded_in_one_place():
    """torch's own way opens a context on every CUDA device there is, whatever the model is on."""
    for path in [*modules(), *(ROOT / "cli").rglob("*.py")]:
        text = path.read_text()
        assert path.name == "random_numbers.py" or "fork_rng(" not in text and "torch.manual_seed(" not in text, path


@pytest.mark.parametrize("module", ["pyro_skipvae", "pyro_skipvae.runs.config", "pyro_skipvae_cli"])
def test_start_up_does_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'pyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_public_names_are_there():
    import pyro_skipvae

    for name in pyro_skipvae.__all__:
        assert callable(getattr(pyro_skipvae, name))
    with pytest.raises(AttributeError):
        pyro_skipvae.nothing  # noqa: B018
