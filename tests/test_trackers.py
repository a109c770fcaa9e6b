"""The examples of trackers run where their package is, and what each keeps has the losses of the epochs."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "trackers"


def in_mlflow(folder):
    with closing(sqlite3.connect(folder / "mlflow.db")) as kept:
        return {name for (name,) in kept.execute("select key from metrics")}


def in_trackio(folder):
    (file,) = (folder / "trackio").glob("digits*.db")
    with closing(sqlite3.connect(file)) as kept:
        rows = kept.execute("select metrics from metrics").fetchall()
    return {name for (line,) in rows for name in ("loss", "rate") if f'"{name}"' in str(line)}


def in_wandb(folder):
    (run,) = folder.glob("wandb/offline-run-*")
    content = next(run.glob("run-*.wandb")).read_bytes()
    return {name for name in ("loss", "rate") if name.encode() in content}


@pytest.mark.parametrize(("package", "kept"), [("mlflow", in_mlflow), ("trackio", in_trackio), ("wandb", in_wandb)])
def test_a_tracker_keeps_losses_and_report(package, kept, tmp_path):
    if find_spec(package) is None:
        pytest.skip(f"needs pip install {package}")
    command = [sys.executable, str(FOLDER / f"with_{package}.py"), "--smoke"]
    own = {"HOME": str(tmp_path), "TRACKIO_DIR": str(tmp_path / "trackio"), "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MLFLOW"))} | own
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Is it collapsed?" in done.stdout and {"loss", "rate"} <= kept(tmp_path)


def test_all_are_tried():
    assert {path.stem for path in FOLDER.glob("*.py")} == {"with_mlflow", "with_trackio", "with_wandb"}
