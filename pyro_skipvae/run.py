"""The run folder: where a run keeps its config, metrics, checkpoints and report, and how they are read back.

    config.toml      every setting, resolved          metrics.jsonl   one line an epoch
    report.json      the collapse report              samples.png     draws from the model
    checkpoints/     last.safetensors, best.safetensors
"""

import json
import os
from pathlib import Path

import torch

from pyro_skipvae import checkpoint
from pyro_skipvae.config import Config


class RunError(Exception):
    """A run folder that is missing or incomplete."""


class Run:
    """A run folder by its path; `create` makes a new one, and refuses one that holds a run already."""

    def __init__(self, path):
        self.path = Path(path)

    @classmethod
    def create(cls, path, config):
        run = cls(path)
        if (run.path / "config.toml").exists():
            raise RunError(f"expected a new folder for the run, but {run.path} holds one; choose another with --out")
        try:
            (run.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            checkpoint.write_whole(run.path / "config.toml", config.to_toml())
        except OSError as error:
            raise RunError(f"expected a folder that can be written for the run, got {run.path}: {error.strerror}") from None
        return run

    def config(self):
        file = self.path / "config.toml"
        if not file.is_file():
            raise RunError(f"expected a run folder with a config.toml, got {self.path}")
        return Config.from_toml(file.read_text())

    def log(self, **metrics):
        """Append one line to metrics.jsonl, and see that it is on the disk."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self):
        """The lines of metrics.jsonl as dicts; a last line that a crash cut off is left out."""
        file = self.path / "metrics.jsonl"
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def save(self, name, state):
        checkpoint.save(self.path / "checkpoints" / f"{name}.safetensors", state)

    def load(self, name="best"):
        """The state of a checkpoint; of the last one if there is no best."""
        path = self.path / "checkpoints" / f"{name}.safetensors"
        return checkpoint.load(path if path.exists() else path.with_name("last.safetensors"))

    def write_report(self, report):
        checkpoint.write_whole(self.path / "report.json", report.to_json() + "\n")


def load_run(path, *, device="cpu", which="best"):
    """Read a run back: (vae in evaluation mode, data, config).

    `which` is "best" (the epoch with the lowest validation loss at the final beta) or "last". Raises RunError or
    CheckpointError if the folder is not a whole run, DataError if its data are not found.
    """
    from pyro_skipvae.build import build_data, build_vae

    run = Run(path)
    config = run.config()
    data = build_data(config)
    vae = build_vae(config, data)
    vae.load_state_dict(run.load(which)["vae"])
    return vae.to(torch.device(device)).eval(), data, config


def new_folder(config):
    """A folder under runs/ named after the settings that people change, not yet in use."""
    data = Path(config.dataset).stem
    name = f"{data}-{config.model}-{config.decoder}-{config.layers}-seed{config.seed}"
    names = [name, *(f"{name}-{number}" for number in range(2, 10_000))]
    return next(Path("runs") / name for name in names if not (Path("runs") / name).exists())
