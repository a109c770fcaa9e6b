"""setup.py, constraints.txt, environment.yml and pyproject.toml say the same."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setup_ranges import ROOT, lowest, pins, setup_arguments

CONDA_NAMES = {"torch": "pytorch"}  # where it is not the one on PyPI in lower case


def test_every_requirement_is_pinned_within_its_range():
    arguments = setup_arguments()
    extras = arguments["extras_require"]
    for text in [*arguments["install_requires"], *extras["dev"], *extras["docs"], *extras["notebooks"], *extras["release"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins()[requirement.name]), text


def test_the_pins_are_what_the_tests_run_with():
    for name in ("torch", "pyro-ppl", "numpy", "click", "scikit-learn"):
        assert version(name).split("+")[0] == pins()[name]


def test_the_given_packages_are_required():
    names = {Requirement(text).name for text in setup_arguments()["install_requires"]}
    assert {"pyro-ppl", "torch", "torchvision", "numpy", "click", "tensorboardX"} <= names
    assert (pins()["torch"], pins()["torchvision"], pins()["pyro-ppl"]) == ("2.13.0", "0.28.0", "1.9.2")


def test_the_conda_environment_has_the_ranges_of_setup_and_jupyter():
    text = (ROOT / "environment.yml").read_text()
    assert re.search(r"^channels:\n  - conda-forge$", text, re.M) and "- --editable ." in text  # pip adds the project alone
    found = [Requirement(line) for line in re.findall(r"^  - ([a-z].*[^:])$", text, re.M)]
    there = {each.name: each.specifier for each in found}
    arguments = setup_arguments()
    wanted = [Requirement(each) for each in (*arguments["install_requires"], *arguments["extras_require"]["notebooks"])]
    ours = {CONDA_NAMES.get(each.name, each.name.lower()): each.specifier for each in wanted}
    assert {name: there.get(name) for name in ours} == ours
    assert str(there["python"]) == arguments["python_requires"] and {"jupyterlab", "pip", "pytest"} <= there.keys()


def test_the_lock_file_is_in_step_with_setup():
    text = (ROOT / "requirements.lock").read_text()
    entries = re.findall(r"^([\w.-]+)==(\S+)(?: ;.*)?\n((?:    #.*\n)*)", text, re.M)
    asked = {}
    for name, version_, via in entries:
        if "pyro-skipvae (setup.py)" in via:
            asked.setdefault(canonicalize_name(name), []).append(version_)
    arguments = setup_arguments()
    wanted = [*arguments["install_requires"], *(each for extra in arguments["extras_require"].values() for each in extra)]
    ranges = {canonicalize_name(Requirement(each).name): Requirement(each).specifier for each in wanted}
    assert asked.keys() == ranges.keys(), "make lock"
    locked = {(canonicalize_name(name), version_) for name, version_, _ in entries}
    assert all(ranges[name].contains(one) for name, versions in asked.items() for one in versions), "make lock"
    assert {(canonicalize_name(name), pin) for name, pin in pins().items()} <= locked, "make lock"


def test_the_lowest_versions_are_those_of_setup():
    assert lowest("numpy>=1.26,<3") == "numpy==1.26" and lowest("torch>=2.6") == "torch==2.13.0"


def test_the_version_is_the_same_everywhere():
    said = setup_arguments()["version"]
    assert re.search(rf"^version: {re.escape(said)}$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert re.search(rf"^## {re.escape(said)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_pyproject_holds_the_build_system_and_tools_alone():
    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text())) == {"build-system", "tool"}


@pytest.mark.parametrize("where", ["checkout", "elsewhere"])
def test_the_command_line_starts_as_a_module_and_as_a_script(where, tmp_path):
    script = Path(sys.executable).with_name("skipvae-pyro")
    folder = ROOT if where == "checkout" else tmp_path
    commands = [[str(script), "--help"]] + ([[sys.executable, "-m", "cli", "--help"]] if where == "checkout" else [])
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0 and "train" in done.stdout, done.stderr


def test_what_is_installed_prints_a_table_of_the_paper_from_anywhere(tmp_path):
    built, elsewhere = tmp_path / "built", tmp_path / "elsewhere"
    elsewhere.mkdir()
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(built)]  # what a wheel holds
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    command = [sys.executable, "-m", "pyro_skipvae_cli", "reproduce", "table3"]
    environment = {**os.environ, "PYTHONPATH": str(built)}
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert re.search(r"4 layers +skip, ours +3 +-92\.04", done.stdout) and not list(elsewhere.iterdir())
    where = [sys.executable, "-c", "import pyro_skipvae; print(pyro_skipvae.__file__)"]
    assert str(built) in subprocess.run(where, cwd=elsewhere, env=environment, capture_output=True, text=True).stdout


USE = """
import torch
from pyro.optim import ClippedAdam  # the others are made at run time, which mypy does not see

from pyro_skipvae import VAE, collapse_report, fit, load_data, load_run, svi_step
from pyro_skipvae.decoders import LSTMDecoder, MLPDecoder
from pyro_skipvae.diagnostics import CollapseReport, Interval, active_units, mutual_information
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import AR1, MixtureOfNormals, StandardNormal, VampPrior
from pyro_skipvae.schedules import linear

data = load_data("digits", root="data", download=False)
vae = VAE(StandardNormal(10), MLPDecoder(10, data.event_shape, layers=2), MLPEncoder(data.event_shape, 10))
priors = [MixtureOfNormals(10, components=5), VampPrior(vae.encoder, data.valid[:50]), AR1(7, 2, correlation=0.9)]
step = svi_step(vae.model, vae.guide, elbo, ClippedAdam({"lr": 1e-3}), max_norm=5.0)
losses: list[float] = [e.loss for e in fit(step, data.batches("train", 64, seed=0), epochs=2, beta=linear(0.1, 1.0, 9))]
report: CollapseReport = collapse_report(vae.model, vae.guide, data.test, fit_on=data.train, tokens=torch.ones(360))
print(report.rate + 1, report.mi_upper.high - report.mi_lower.low, report.verdict.upper(), report.to_dict()["elbo"])
units: int = active_units(vae.model, vae.guide, data.test)
bounds: Interval | None = mutual_information(vae.model, vae.guide, (data.test,)).upper
run = load_run("runs/digits", which="last")
print(run.config.seed + 1, run.data.describe()["name"], run.vae.posterior(data.test), repr(data.to_frame()))
"""
MISUSE = """
from pyro_skipvae import load_data, load_run
size: str = len(load_data("digits").valid)
load_run(3)
"""


def checked(script, text):
    script.write_text(text)
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(script)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


def test_a_users_script_passes_strict_types(tmp_path):
    assert "Success" in (found := checked(tmp_path / "use.py", USE)), found
    wrong = checked(tmp_path / "misuse.py", MISUSE)
    assert "Found 2 errors" in wrong and "misuse.py:3" in wrong and "misuse.py:4" in wrong, wrong
