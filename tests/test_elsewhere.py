"""The examples on models of other packages run where the package is installed, and are short enough to read."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "elsewhere"
NEEDS = {
    "plain_torch": None,
    "robot_policy": None,
    "lightning_module": "lightning",
    "pythae_vae": "pythae",
    "scvi_model": "scvi",
    "diffusers_autoencoder": "diffusers",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_example_runs_where_its_package_is(name, tmp_path):
    if NEEDS[name] and not find_spec(NEEDS[name]):
        pytest.skip(f"{NEEDS[name]} is not installed")
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--smoke"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Is it collapsed?" in done.stdout and "Not available: elbo" not in done.stdout


def test_all_are_tried_and_short():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(NEEDS)
    assert all(len([line for line in path.read_text().splitlines() if line.strip()]) <= 50 for path in FOLDER.glob("*.py"))
