"""Runs that are killed, stopped, poisoned or started twice, and what must be true of them afterwards.

The suite does a few of each; `python -m torture` (in `tests/`) does the full counts and writes them down.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import torch

from pyro_skipvae.runs import checkpoint

MLP = "--decoder mlp --width 16 --layers 2 --epochs 6 --batch-size 20".split()
PIXELCNN = "--layers 2 --maps 4 --epochs 3 --batch-size 40".split()
CONVOLUTIONAL = "--decoder convolutional --layers 2 --maps 4 --epochs 3 --batch-size 40".split()
VAMP = "--decoder mlp --width 16 --prior vamp --objective iwae(3) --epochs 3 --batch-size 40".split()
SMALL = "--latent-dim 2 --limit-train 200 --limit-eval 50 --report-budget 0".split()
MODELS = {"mlp": MLP, "pixelcnn": PIXELCNN, "convolutional": CONVOLUTIONAL, "vamp": VAMP}

# Each run is forked from a process that has imported everything and computed nothing: a start costs no import.
_FORKS = multiprocessing.get_context("forkserver")
# torch._dynamo is what torch's optimizers import when the first one is made, in 2 seconds.
_FORKS.set_forkserver_preload(["sklearn.datasets", "torch._dynamo", "pyro_skipvae.data.digits", "pyro_skipvae_cli.training"])


class Started:
    """A command line running in a process of its own; what it prints is in `log`."""

    def __init__(self, *arguments, log, hooks=()):
        self.log = Path(log)
        self.ready = _FORKS.Event()
        self.process = _FORKS.Process(target=_main, args=([str(word) for word in arguments], str(log), hooks, self.ready))
        self.process.start()

    def signal(self, number):
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def begun(self, seconds=30):
        """Wait until the command line is called: what comes before belongs to the harness."""
        self.ready.wait(seconds)

    def end(self, seconds=120):
        """Wait for the exit code; negative for a signal that killed it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"expected an end within {seconds} s; {self.log.read_text()[-2000:]}")
        return self.process.exitcode


def _main(arguments, log, hooks, ready):
    """In the child: the command line, its output in a file, after patches by name from `torture.hooks`."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    from pyro_skipvae_cli import main

    from . import hooks as known

    for name, *rest in hooks:
        getattr(known, name)(*rest)
    sys.argv = ["skipvae-pyro", *arguments]
    ready.set()
    main()


def train(folder, model, *more, hooks=()):
    """Start a run of a model in a folder, or go on with the one that is there."""
    new = not (folder / "config.toml").exists()
    words = ("--out", folder, *SMALL, *MODELS[model]) if new else ("--resume", folder, "--report-budget", "0")
    return Started("train", *words, *more, log=folder.with_suffix(".log"), hooks=hooks)


def outcome(folder):
    """All that a run leaves behind, times apart: both checkpoints and the metrics."""
    states = [checkpoint.load(folder / "checkpoints" / f"{name}.safetensors") for name in ("last", "best")]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return states, [{name: value for name, value in line.items() if name not in ("seconds", "cpu_seconds")} for line in lines]


def same(a, b):
    """Equal bit for bit; the order of dicts apart."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and a.equal(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def reference(folder, model, **options):
    """The outcome of an uninterrupted run, and the seconds it took."""
    run = train(folder, model, **options)
    run.begun()  # the first start takes as long as importing everything
    start = time.monotonic()
    code = run.end()
    assert code == 0, folder.with_suffix(".log").read_text()[-2000:]
    return outcome(folder), time.monotonic() - start


def killed_until_done(folder, model, seconds, random, *, kills, more=(), numbers=(signal.SIGKILL,), hooks=()):
    """Interrupt a run up to `kills` times at random moments, going on each time; the exit codes."""
    codes = []
    while True:
        run = train(folder, model, *more, hooks=hooks)
        if len(codes) == kills:
            return [*codes, run.end()]
        number = random.choice(numbers)
        run.begun()
        run.process.join(random.uniform(0, seconds))
        run.signal(number)
        codes.append(run.end())
        if codes[-1] == 0:
            return codes
