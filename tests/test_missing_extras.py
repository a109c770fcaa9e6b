"""Without an optional package one sentence says what is missing, and its `pip install` is that of setup.py."""

import re
import sys
from types import ModuleType

import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import skipvae
from packaging.requirements import Requirement
from setup_ranges import ROOT, setup_arguments
from small_runs import tiny_run

from pyro_skipvae import collapse_report, load_data
from pyro_skipvae.diagnostics import to_arviz
from pyro_skipvae.hub import from_pretrained, push_to_hub

EXTRAS = [Requirement(text) for extra in setup_arguments()["extras_require"].values() for text in extra]
OTHERS = {"pandas", "pyarrow"}  # which change what is read or given, and are asked for by nothing else
X = torch.zeros(4, 2)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def to_frame():
    collapse_report(model, guide, X, importance_samples=2).to_frame()


def read(name):
    def reading():
        load_data(str(name), binarisation="none")

    return reading


CALLS = {
    "arviz": lambda: to_arviz(model, guide, X),
    "anndata": read("cells.h5ad"),
    "huggingface_hub": lambda: from_pretrained("me/digits"),
    "pandas": to_frame,
    "pyarrow": read("table.parquet"),
}


def told_to_install(message):
    """The requirement in the one `pip install` of a message."""
    found = re.findall(r"pip install '?([\w<>=.,]+?)'?(?=$|[\s),;])", message)
    assert len(found) == 1, message
    return Requirement(found[0])


@pytest.mark.parametrize("package", CALLS)
def test_one_sentence_names_the_package_and_how_to_install_it(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises((ImportError, ValueError)) as told:
        CALLS[package]()
    message = str(told.value)
    assert message.startswith(f"expected {package} ") and "\n" not in message and told.value.__cause__ is None
    wanted = told_to_install(message)
    assert wanted.name == package
    for extra in EXTRAS:
        if extra.name == package and "<" in str(extra.specifier):
            assert "<" in str(wanted.specifier), "what it installs is too new"


def test_an_arviz_that_is_too_new_is_told(monkeypatch):
    arviz = ModuleType("arviz")
    arviz.__version__ = "1.0.0"
    monkeypatch.setitem(sys.modules, "arviz", arviz)
    with pytest.raises(ImportError, match="expected arviz below 1 for to_arviz, got 1.0.0; install it: pip install 'arviz<1'"):
        to_arviz(model, guide, X)


def test_the_hub_is_asked_for_before_anything_is_written(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        push_to_hub(tiny_run(), "me/digits")


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("ray", "reproduce theorem1 --train --seeds 1 --epochs 1 --executor ray"),
        ("anndata", "train --dataset cells.h5ad"),
        ("pyarrow", "train --dataset table.parquet"),
    ],
)
def test_the_command_line_says_it_in_one_line(package, command, tmp_path, monkeypatch):
    (tmp_path / "cells.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, package, None)
    done = skipvae(*command.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert told_to_install(done.stderr.strip().splitlines()[-1]).name == package
    assert "Traceback" not in done.stderr


def test_every_install_that_the_code_tells_is_of_a_package_that_setup_knows():
    known = {extra.name for extra in EXTRAS} | OTHERS
    said = {}
    for folder in ("pyro_skipvae", "cli"):
        for file in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"pip install '?([\w-]+)", file.read_text()):
                said.setdefault(name, []).append(file.name)
    assert {"arviz", "anndata", "huggingface_hub", "ray"} <= said.keys() <= known, said


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*/with_*.py")) + sorted(ROOT.glob("examples/elsewhere/*.py")))
def test_an_example_says_how_to_install_what_it_imports(path):
    text = path.read_text()
    ours = {"pyro", "torch", "pyro_skipvae", "sklearn", "numpy", *sys.stdlib_module_names}
    imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.M)) - ours
    told = set(re.findall(r"pip install ([\w-]+)", text))
    names = {name.removesuffix("-tools").replace("-", "_") for name in told}
    assert names == imported - {"anndata"}  # which scvi-tools brings along
