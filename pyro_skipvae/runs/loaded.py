"""A run that was read back: its model and settings at once, its data when they are asked for."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pyro_skipvae.data.dataset import Data
from pyro_skipvae.model import VAE

from .build import build_blank, build_data
from .config import DATASETS, Config
from .description import DataDescription
from .folder import Run


@dataclass(eq=False)
class LoadedRun:
    """A run that `load_run` has read; `vae, data, config = load_run(path)` works too, and reads the data.

    vae: in evaluation mode. about: what the model knows of its data. checkpoint: the name of the one that was read, "best",
    "last" or "prev" (see `Run.load`). dataset: where the data are now, if they were moved.
    """

    path: Path
    vae: VAE
    config: Config
    about: DataDescription
    checkpoint: str
    dataset: str | None = None
    _checksum: str = field(default="", repr=False)

    @classmethod
    def read(cls, run: Run, *, device: str | torch.device, which: str, dataset: str | None) -> "LoadedRun":
        """The run of a folder; see `load_run`."""
        config = run.config()
        if dataset is not None and dataset not in DATASETS:
            dataset = str(Path(os.path.expanduser(dataset)).absolute())
        about = run.description()
        if about is None:  # neither data.json nor a report: a run of before there was a data.json, stopped early
            about = _of_data(_data(run, config, dataset))
        vae = build_blank(config, about)
        state, name = run.load_weights(vae, which)
        checksum = state.get("data", about.checksum)
        return cls(run.path, vae.to(torch.device(device)).eval(), config, about, name, dataset, checksum)

    @cached_property
    def data(self) -> Data:
        """The data of the run, with its limits, read at the first use.

        Raises DataError if they are not found, RunError if they are not those that the run was trained on.
        """
        run = Run(self.path)
        data = _data(run, self.config, self.dataset)
        run.check_data(self._checksum, data)
        return replace(data, name=self.about.name)  # a file that was renamed is the same data set

    def __iter__(self) -> Iterator[Any]:
        return iter((self.vae, self.data, self.config))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int | slice) -> Any:
        """The items of `vae, data, config`; the data are read only where they are among those asked for."""
        names = ("vae", "data", "config")[index]
        return getattr(self, names) if isinstance(names, str) else tuple(getattr(self, name) for name in names)


def _data(run: Run, config: Config, dataset: str | None) -> Data:
    data = build_data(config if dataset is None else replace(config, dataset=dataset))
    run.check_vocabulary(data)
    return data


def _of_data(data: Data) -> DataDescription:
    same = ("name", "event_shape", "kind", "levels", "binarisation", "checksum", "vocabulary")
    return DataDescription(**{name: getattr(data, name) for name in same})
