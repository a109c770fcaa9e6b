"""The run folder: where a run keeps its config, metrics, checkpoints and report, and how they are read back.

config.toml      every setting, resolved          metrics.jsonl   one line an epoch
report.json      the collapse report, last        samples.png     draws from the model (of text: samples.txt)
data.json        what the model knows of its data     vocabulary.txt  the words of a text model, one a line
nonfinite.json   the first step left out because something was not finite, if there was one
checkpoints/     last, prev and best.safetensors  .lock           the process that writes here
"""

import contextlib
import json
import math
import os
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyro_skipvae.runs import checkpoint
from pyro_skipvae.stored import NUMBER, check, loads
from pyro_skipvae.text.vocabulary import Vocabulary, vocabulary_check

from .checkpoint import CheckpointError
from .config import Config
from .description import DataDescription, stored
from .training_state import check_state, check_weights

if TYPE_CHECKING:
    from pyro_skipvae.data.dataset import Data
    from pyro_skipvae.model import VAE

    from .loaded import LoadedRun

try:
    import fcntl
except ImportError:  # Windows, where a second run in a folder is not noticed
    fcntl = None

CHECKPOINTS = ("best", "last", "prev")
EPOCH = {"epoch": int} | dict.fromkeys(("train_loss", "beta", "valid_elbo", "valid_rate", "active_units", "seconds"), NUMBER)


class RunError(Exception):
    """A run folder that is missing, incomplete, in use, or cannot be written."""


class Run:
    """A run folder by its path; only what is done inside `locked` may write to it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._last_is_whole = False

    @contextlib.contextmanager
    def locked(self):
        """Hold the folder, made if need be, for this process. Raises RunError with pid and host if another one does.

        The kernel drops the lock of a process that dies, so one of this host is taken over at once.
        """
        with self._writing():
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            lock = _acquire(self.path / ".lock")
        try:
            self._remove_leftovers()
            yield self
        finally:
            _release(lock, self.path / ".lock")

    def begin(self, config: Config, data: "Data | None" = None) -> None:
        """Make the folder that of a new run. Raises RunError if it holds one already."""
        if (self.path / "config.toml").exists():
            raise RunError(
                f"expected a new folder for the run, but {self.path} holds one; choose another with --out, "
                f"or go on with --resume {self.path}"
            )
        if data is not None:
            if data.vocabulary is not None:
                self.write("vocabulary.txt", data.vocabulary.text())
            self.write("data.json", stored(data))
        self.write("config.toml", config.to_toml())

    def check_vocabulary(self, data: "Data") -> None:
        """Raises ValueError, with file and line, if the words of the data found here are not those of the run.

        RunError if those of the run cannot be read.
        """
        if data.vocabulary is not None:
            file = self.path / "vocabulary.txt"
            try:
                words = Vocabulary.read(file).words
            except ValueError as error:
                raise RunError(str(error)) from None
            vocabulary_check(words, data.vocabulary, file, of=data.name)

    def check_data(self, saved: str, data: "Data") -> None:
        """Raises RunError unless `saved`, a checksum, is that of the data found here."""
        if saved != data.checksum:
            raise RunError(
                f"expected the data that {self.path} was trained on (checksum {saved[:12]}), got other contents of "
                f"{data.name} (checksum {data.checksum[:12]}): put back those of that run, or train anew"
            )

    def description(self) -> DataDescription | None:
        """What the run knows of its data: of `data.json`, in an older run of the report's card; None where there is neither.

        Raises RunError if it cannot be read.
        """
        file = self.path / "data.json"
        if not file.exists():
            file = self.path / "report.json"
            if not file.exists():
                return None
        try:
            found = loads(file.read_text(encoding="utf-8"))
            found = found["card"]["data"] if file.name == "report.json" else found
            return DataDescription.of(found, self.path / "vocabulary.txt")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(f"expected what a model knows of its data in {file}, which cannot be read: {error}") from None

    def config(self) -> Config:
        """The settings of the run. Raises RunError if its config.toml is missing or cannot be read."""
        file = self.path / "config.toml"
        if not file.is_file():
            raise RunError(f"expected a run folder with a config.toml, got {self.path}")
        try:
            found = Config.from_toml(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"expected the settings of a run in {file}, which cannot be read: {error}") from None
        if found.decoder is None:  # all that a run leaves open is settled before they are written
            raise RunError(f"expected the settings of a run in {file}, got some without a decoder: parts of it are lost")
        return replace(found, scaling=found.scaling or "none")  # a run of before there was a scaling

    def check_space(self, size):
        """Raises RunError unless the disk has room for three checkpoints of `size` bytes: last, prev and best."""
        free = shutil.disk_usage(self.path).free
        if free < 3 * size:
            wanted = f"{3 * size / 1e6:,.0f} MB for three checkpoints"
            raise RunError(f"expected {wanted} free at {self.path}, got {free / 1e6:,.0f} MB")

    def log(self, **metrics):
        """Append one line to metrics.jsonl, and see that it is on the disk; what is not finite becomes null."""
        plain = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with self._writing(), open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(plain, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self):
        """The lines of metrics.jsonl as dicts; a last line that a crash cut off is left out.

        Raises RunError, with the line, for one that is not of an epoch.
        """
        file = self.path / "metrics.jsonl"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        return [_epoch(line, file, i) for i, line in enumerate(text.splitlines(keepends=True), 1) if line.endswith("\n")]

    def cut_metrics(self, epochs):
        """Drop the lines of metrics.jsonl after an epoch: a run that goes on from there writes them again."""
        kept = [line for line in self.metrics() if line["epoch"] <= epochs]
        self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def save(self, name, state):
        """Write a checkpoint; the `last` that was there becomes `prev`, if it is known to be whole."""
        keep = self._checkpoint("prev") if name == "last" and self._last_is_whole else None
        with self._writing():
            checkpoint.save(self._checkpoint(name), state, keep=keep)
        self._last_is_whole = self._last_is_whole or name == "last"

    def load(self, which="best"):
        """(state, name) of the checkpoint `which`, "best" or "last", or, where it is absent, of the next of best, last, prev.

        One that is damaged is refused by a CheckpointError, as is a run that has none.
        """
        state, name, _ = self._read(which)
        return state, name

    def load_weights(self, vae: "VAE", which: str = "best") -> tuple[dict[str, Any], str]:
        """Give a model the weights of a checkpoint. Raises CheckpointError if they do not fit.

        Returns what `load` does, with the checkpoint's checksum under "checksum", by which a report names what it is of.
        """
        state, name, checksum = self._read(which)
        try:
            check_weights(vae, state.get("vae", {}))
        except ValueError as error:
            file = self._checkpoint(name)
            reason = f"expected a checkpoint of this run, but {file} is not of the settings in config.toml: {error}"
            raise CheckpointError(reason) from None
        vae.load_state_dict(state["vae"])
        return {**state, "checksum": checksum}, name

    def latest(self):
        """(state, None) of `last`; (state of `prev`, why) where last cannot be read; (None, None) where there is neither."""
        trouble = None
        for name in ("last", "prev"):
            path = self._checkpoint(name)
            if not path.exists():
                continue
            try:
                state = checkpoint.load(path)
                check_state(state, path)
            except CheckpointError as error:
                trouble = trouble or error
                continue
            self._last_is_whole = name == "last"
            return state, trouble and str(trouble)
        if trouble:
            raise trouble
        return None, None

    def write_report(self, report):
        self.write("report.json", report.to_json() + "\n")

    def write(self, name, text):
        """Write a file of the folder, whole or not at all."""
        with self._writing():
            checkpoint.write_whole(self.path / name, text)

    def _read(self, which):
        """(state, name, checksum) of the checkpoint that `load` reads."""
        if which not in CHECKPOINTS[:2]:
            raise ValueError(f"expected the checkpoint best or last, got {which!r}")
        for name in CHECKPOINTS[CHECKPOINTS.index(which) :]:
            path = self._checkpoint(name)
            if path.exists():
                state, checksum = checkpoint.load_with_checksum(path)
                check_state(state, path)
                return state, name, checksum
        raise CheckpointError(f"expected a checkpoint in {path.parent}, got none")

    def _checkpoint(self, name):
        return self.path / "checkpoints" / f"{name}.safetensors"

    def _remove_leftovers(self):
        """Remove what a killed process had not finished to write."""
        for folder in (self.path, self.path / "checkpoints"):
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"expected a run folder that can be written, got {self.path}: {reason}") from error


def _epoch(line, file, number):
    try:
        found = loads(line)
        check(found, EPOCH, "it")
    except ValueError as error:
        raise RunError(f"expected the numbers of an epoch in {file}, line {number}: {error}") from None
    return found


def _acquire(path):
    """Lock a file and write pid and host into it; returns its descriptor, which holds the lock while it is open."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(lock, path)
        except BaseException:
            os.close(lock)
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                break
        os.close(lock)  # its holder finished, and removed the file, after it was opened here
    os.ftruncate(lock, 0)
    os.lseek(lock, 0, os.SEEK_SET)  # pread and pwrite are not on Windows
    os.write(lock, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    return lock


def _release(lock, path):
    """Remove a lock file while it is locked, so that nobody else does; Windows removes none that is open."""
    if fcntl is None:
        os.close(lock)
        with contextlib.suppress(PermissionError):  # a second run, not noticed here, has it open
            path.unlink(missing_ok=True)
    else:
        path.unlink(missing_ok=True)
        os.close(lock)


def _lock(lock, path):
    if fcntl is None:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid, host = _holder(lock)
        raise RunError(f"expected a run folder in use by nobody, but process {pid} on {host} writes to {path.parent}") from None
    except OSError:
        return  # a disk without locks, where refusing would forbid all training
    pid, host = _holder(lock, wait=0.0)
    if host not in (None, socket.gethostname()):  # many network disks show a lock to its own host only
        raise RunError(
            f"expected a run folder in use by nobody, but process {pid} on {host} did not give {path.parent} back; "
            f"if that process is gone, remove {path}"
        )


def _holder(lock, wait=1.0):
    """(pid, host) out of a lock file; its holder may be about to write them, over those of one that was killed."""
    end = time.monotonic() + wait
    while True:
        try:
            os.lseek(lock, 0, os.SEEK_SET)
            holder = json.loads(os.read(lock, 1000))
            pid, host = holder["pid"], holder["host"]
        except ValueError:
            pid, host = None, None
        if time.monotonic() >= end or (pid and not _gone(pid, host)):
            return pid, host
        time.sleep(0.01)


def _gone(pid, host):
    """Whether a process of this host has ended; of another host's nothing can be said."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's, and alive
    return False


def load_run(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu", which: str = "best", dataset: str | None = None
) -> "LoadedRun":
    """Read a run back: an object with `.vae` (in evaluation mode), `.config`, and `.data`, read when it is first asked for.

    It also unpacks: `vae, data, config = load_run(path)`. `which` is "best" (the epoch with the lowest validation loss at the
    final beta) or "last"; where there is no best yet, it is the last. `dataset` is where the data lie now, if they were moved.
    Raises RunError or CheckpointError if the folder is not a whole run. What reads the data raises DataError if they are not
    found, and RunError if they are not those of the run.
    """
    from .loaded import LoadedRun

    return LoadedRun.read(Run(path), device=device, which=which, dataset=dataset)


def new_folder(config):
    """A folder under runs/ named after the settings that people change, not yet in use."""
    data = Path(config.dataset).stem
    name = f"{data}-{config.model}-{config.decoder}-{config.layers}-seed{config.seed}"
    names = [name, *(f"{name}-{number}" for number in range(2, 10_000))]
    return next(Path("runs") / name for name in names if not (Path("runs") / name).exists())
