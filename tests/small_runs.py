"""Runs that are trained in a second, shared by all tests of what is made of one."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from command_line import skipvae

TINY = (
    "--epochs",
    "2",
    "--layers",
    "1",
    "--latent-dim",
    "4",
    "--limit-train",
    "100",
    "--limit-eval",
    "60",
    "--report-budget",
    "5",
)


def train(folder, *flags):
    done = skipvae("train", *TINY, *flags, "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@functools.cache
def tiny_run():
    """A trained run for all tests of what is made of one; they work on copies."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return train(folder, "--decoder", "mlp", "--width", "16")
