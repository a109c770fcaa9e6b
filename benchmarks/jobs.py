"""Whole commands as a user gives them: `make train`, and the report of an MLP on MNIST."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def make_train(small):
    """Seconds by the clock of what `make train` runs after installation: training, report, pictures."""
    with tempfile.TemporaryDirectory() as folder:
        less = ["--epochs", "1", "--limit-train", "200", "--limit-eval", "50"] if small else []
        clock, used = command("train", "--out", f"{folder}/run", *less, threads=None)
    return {"clock": [clock], "CPU": [used]}


def report(small):
    """CPU seconds of `skipvae-pyro evaluate` on a 4-layer MLP trained for an epoch of MNIST, one thread, starting included."""
    with tempfile.TemporaryDirectory() as folder:
        data = ["--limit-train", "500", "--limit-eval", "100"] if small else []
        settings = ["--dataset", "mnist", "--decoder", "mlp", "--epochs", "1", "--report-budget", "1"]
        command("train", *settings, "--out", f"{folder}/run", *data)
        return {"CPU": [command("evaluate", f"{folder}/run")[1]]}


def command(*arguments, threads=1):
    """(seconds by the clock, CPU seconds) of a command of ours."""
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    start, before = time.perf_counter(), _children()
    done = subprocess.run(
        [sys.executable, "-m", "pyro_skipvae_cli", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with code {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - start, _children() - before


def _children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
