"""The run folder: where a run keeps its config, metrics, checkpoints and report, and how they are read back.

config.toml      every setting, resolved          metrics.jsonl   one line an epoch
report.json      the collapse report, last        samples.png     draws from the model (of text: samples.txt)
data.json        what the model knows of its data     vocabulary.txt  the words of a text model, one a line
nonfinite.json   the first step left out because something was not finite, if there was one
auxiliary.safetensors   the auxiliary prior of a model with an AR(1) prior
checkpoints/     last, prev and best.safetensors  .lock           the process that writes here
"""

import contextlib
import itertools
import json
import math
import os
import re
import shlex
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyro_skipvae.runs import checkpoint
from pyro_skipvae.schedules import Halving
from pyro_skipvae.stored import NUMBER, check, loads
from pyro_skipvae.text.vocabulary import Vocabulary, vocabulary_check

from .checkpoint import CheckpointError
from .config import Config, is_unicode
from .description import STORED, DataDescription, WordsError, stored
from .included import folder_of, hint
from .training_state import check_state, check_weights

if TYPE_CHECKING:
    from pyro_skipvae.data.dataset import Data
    from pyro_skipvae.diagnostics import CollapseReport
    from pyro_skipvae.model import VAE

    from .loaded import LoadedRun

try:
    import fcntl
except ImportError:  # Windows, where a second run in a folder is not noticed
    fcntl = None  # type: ignore[assignment]

CHECKPOINTS = ("best", "last", "prev")
BEFORE_THE_SETTINGS = ("vocabulary.txt", "data.json")  # what a new run writes before its config.toml
EPOCH = {"epoch": int} | dict.fromkeys(("train_loss", "beta", "valid_elbo", "valid_rate", "active_units", "seconds"), NUMBER)


HOLDER_BYTES = 1000  # a lock file is shorter
CUT_OFF = rb""", "host": "[^"]*"?"""  # what follows the pid where it was not all written


class RunError(Exception):
    """A run folder is missing, incomplete or in use, or cannot be written."""


class Run:
    """A run folder: reads and writes its settings, metrics, checkpoints and report. Write to it inside `locked` only."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._last_is_whole = False
        self._lock: int | None = None  # the descriptor of the lock file while the folder is held

    @contextlib.contextmanager
    def locked(self, *, new: bool = False) -> Iterator["Run"]:
        """Holds the folder for this process, and creates it where it is missing.

        Raises RunError, with pid and host, where another process holds it, and with `new` for a folder that is not empty,
        before it is touched. The kernel drops the lock of a process that dies, so a lock of this host is taken over at once.
        """
        with self._writing():
            if new:
                self._check_new()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _acquire(self.path / ".lock")
        try:
            with self._writing():
                (self.path / "checkpoints").mkdir(exist_ok=True)
                self._remove_leftovers()
                if new:
                    self._remove_what_began()
            yield self
        finally:
            _release(self._lock, self.path / ".lock")
            self._lock = None

    def begin(self, config: Config, data: "Data | None" = None) -> None:
        """Starts a new run: writes its settings and what it knows of its data. Raises RunError if the folder holds a run."""
        self._check_no_run()
        try:
            if data is not None:
                self.write("data.json", stored(data))
                if data.vocabulary is not None:
                    self.write("vocabulary.txt", data.vocabulary.text())
            self.write("config.toml", config.to_toml())
        except BaseException:  # also a signal: the folder shall be new again
            with contextlib.suppress(RunError):
                self._remove_what_began()
            raise

    def _remove_what_began(self) -> None:
        """Removes what a start wrote that did not come to its settings."""
        for name in () if (self.path / "config.toml").exists() else BEFORE_THE_SETTINGS:
            self.remove(name)

    def _began(self) -> bool:
        """Whether a start was killed here: by its lock, or by what it writes first."""
        if (self.path / ".lock").is_file():
            return True
        with contextlib.suppress(OSError, ValueError):
            check(loads((self.path / "data.json").read_text(encoding="utf-8")), STORED, "it")
            return True
        return False

    def _check_no_run(self) -> None:
        if (self.path / "config.toml").exists():
            raise RunError(
                f"expected a new folder for the run, but {self.path} holds one; choose another with --out, "
                f"or go on with --resume {shlex.quote(str(self.path))}"
            )

    def _check_new(self) -> None:
        """Raises RunError for a folder with anything but what a run that was killed at its start leaves.

        Also for a name that is not UTF-8: safetensors, which reads the checkpoints back, opens no such file.
        """
        if not is_unicode(os.fspath(self.path)):
            raise RunError(f"expected a run folder whose name is UTF-8, got {self.path}; choose another with --out")
        if not self.path.exists():
            return
        _check_free(self.path / ".lock")  # first: that a run is going on there says more than that there is one
        self._check_no_run()
        ours = {".lock", "checkpoints", *(path.name for path in checkpoint.abandoned(self.path))}
        if self._began():
            ours |= set(BEFORE_THE_SETTINGS)
        others = sorted({path.name for path in self.path.iterdir()} - ours)
        if not others and (self.path / "checkpoints").exists():
            left = {path.name for path in checkpoint.abandoned(self.path / "checkpoints")}
            others = sorted({path.name for path in (self.path / "checkpoints").iterdir()} - left)
        if others:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise RunError(
                f"expected a new or empty folder for the run, but {self.path} holds {others[0]}{more}; "
                "choose another with --out"
            )

    def check_vocabulary(self, data: "Data") -> None:
        """Raises ValueError, with file and line, unless the vocabulary of the data is that of the run.

        Raises RunError if that of the run cannot be read.
        """
        if data.vocabulary is not None:
            file = self.path / "vocabulary.txt"
            try:
                words = Vocabulary.read(file).words
            except ValueError as error:
                raise RunError(str(error)) from None
            vocabulary_check(words, data.vocabulary, file, of=data.name)

    def check_data(self, saved: str, data: "Data") -> None:
        """Raises RunError unless the checksum `saved` is that of the data."""
        if saved != data.checksum:
            older = ", which is also the way where only the version of this package is another" if data.vocabulary else ""
            raise RunError(
                f"expected the data that {self.path} was trained on (checksum {saved[:12]}), got other contents of "
                f"{data.name} (checksum {data.checksum[:12]}): put back those of that run, or train anew{older}"
            )

    def check_part(self, data: "Data") -> None:
        """Raises RunError where a limit takes other items of the same data than it did for the run, by an earlier version."""
        said = data.split
        with contextlib.suppress(OSError, ValueError, AttributeError):  # what is wrong with the file is told elsewhere
            said = loads((self.path / "data.json").read_text(encoding="utf-8")).get("split", said)
        if data.limits and said != data.split:
            raise RunError(
                f"expected the part of {data.name} that {self.path} was trained on, but this version takes other items of the "
                "same data: train anew"
            )

    def description(self) -> DataDescription | None:
        """What the run knows of its data, from `data.json` or, in an older run, the report's card; None where both are missing.

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
        except WordsError as error:
            raise RunError(f"{error}; put back the file of this run, or train it anew") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(f"expected the description of a run's data in {file}, which cannot be read: {error}") from None

    def config(self) -> Config:
        """The settings of the run. Raises RunError if its config.toml is missing or cannot be read."""
        file = self.path / "config.toml"
        if not os.path.isfile(file):  # Path.is_file raises for a name that is too long
            raise RunError(f"expected a run folder with a config.toml, got {self.path}{hint(self.path)}")
        if is_exported(self.path):
            raise RunError(
                f"expected a run folder, got {self.path}, an exported model; use pyro_skipvae.reports.load_exported in Python, "
                "or name the run that it was made from"
            )
        try:
            found = Config.from_toml(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"expected the settings of a run in {file}, which cannot be read: {error}") from None
        if found.decoder is None:  # all that a run leaves open is settled before they are written
            raise RunError(f"expected the settings of a run in {file}, got some without a decoder: parts of it are lost")
        return replace(found, scaling=found.scaling or "none")  # a run of before there was a scaling

    def check_space(self, size: int) -> None:
        """Raises RunError unless the disk has room for three checkpoints of `size` bytes less those there are, or for one."""
        free, wanting = shutil.disk_usage(self.path).free, sum(not self._checkpoint(name).exists() for name in CHECKPOINTS) or 1
        if free < wanting * size:
            wanted = f"{_bytes(wanting * size)} for {wanting} of the three checkpoints"
            raise RunError(f"expected {wanted} free at {self.path}, got {_bytes(free)}")

    def log(self, **metrics: float) -> None:
        """Appends a line to metrics.jsonl and flushes it to the disk; numbers that are not finite become null."""
        plain = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with self._writing(), open(self._place("metrics.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps(plain, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl as dicts, one an epoch; a last line that a crash cut off is left out.

        Raises RunError, with its number, for a line that does not hold the numbers of an epoch, or those of one that is not
        later than that of the line before.
        """
        file = self.path / "metrics.jsonl"
        try:
            text = file.read_text(encoding="utf-8") if file.exists() else ""
        except (OSError, ValueError) as error:
            raise RunError(f"expected the numbers of epochs in {file}, which cannot be read: {error}") from None
        lines = [_epoch(line, file, i) for i, line in enumerate(text.split("\n")[:-1], 1)]
        for i, (line, following) in enumerate(itertools.pairwise(lines), 2):
            if following["epoch"] <= line["epoch"]:
                reason = f"line {i}, epoch {following['epoch']}, comes after epoch {line['epoch']}; remove what is there twice"
                raise RunError(f"expected one line an epoch in {file}, in their order, but {reason}")
        return lines

    def cut_metrics(self, epochs: int) -> None:
        """Removes the lines of metrics.jsonl after an epoch, since a run that goes on from there writes them again."""
        kept = [line for line in self.metrics() if line["epoch"] <= epochs]
        self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Writes the checkpoint `name`; an earlier `last` becomes `prev`, if it is known to be whole."""
        keep = self._checkpoint("prev") if name == "last" and self._last_is_whole else None
        with self._writing():
            checkpoint.save(self._place(f"checkpoints/{name}.safetensors"), state, keep=keep)
        self._last_is_whole = self._last_is_whole or name == "last"

    def load(self, which: str = "best") -> tuple[dict[str, Any], str]:
        """(state, name) of the checkpoint `which`, "best" or "last", or where it is missing of the next of best, last, prev.

        Raises CheckpointError for one that is damaged, and where there is none.
        """
        state, name, _ = self._read(which)
        return state, name

    def load_weights(self, vae: "VAE", which: str = "best") -> tuple[dict[str, Any], str]:
        """Loads the weights of a checkpoint into a model. Raises CheckpointError if they do not fit.

        Returns what `load` does, with the checkpoint's checksum in the state as "checksum", by which a report names it.
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

    def latest(self) -> tuple[dict[str, Any] | None, str | None]:
        """(state, None) of `last`; (state of `prev`, why) where last cannot be read; (None, None) where both are missing."""
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
            return state, None if trouble is None else str(trouble)
        if trouble:
            raise trouble
        return None, None

    def unfinished(self) -> str | None:
        """How far the training is, such as "2 of 60 epochs"; None where it has all its epochs or has ended before by itself.

        None, too, where only the weights are left, which do not tell.
        """
        config = self.config()
        with contextlib.suppress(CheckpointError, RunError):  # what is wrong is told where it is needed
            lines = self.metrics()
            done = lines[-1]["epoch"] if lines else 0
            state = None if done >= config.epochs else self.latest()[0]
            if state is not None and "stalled" in state:
                halving = Halving(first=config.halving_epoch)
                vars(halving).update(state.get("halving", {}))
                return None if stopped(config, state["stalled"], halving) else f"{done} of {config.epochs} epochs"
        return None

    def check_begun(self) -> None:
        """Raises RunError where training has gone beyond its first epoch, and the state from which it would go on is gone."""
        best = self._checkpoint("best")
        if len(self.metrics()) > 1 or (best.exists() and checkpoint.load(best).get("epoch", 0) > 1):
            raise RunError(
                f"expected last.safetensors or prev.safetensors in {best.parent}, from which a training goes on, got neither: "
                f"put one back, or train anew with --config {shlex.quote(str(self.path / 'config.toml'))} --out FOLDER"
            )

    def is_held(self) -> bool:
        """Whether another process writes to the folder."""
        try:
            _check_free(self.path / ".lock")
        except (OSError, RunError):
            return True
        return False

    def write_report(self, report: "CollapseReport") -> None:
        """Writes report.json."""
        self.write("report.json", report.to_json() + "\n")

    def write(self, name: str, text: str | bytes) -> None:
        """Writes a file of the folder, whole or not at all."""
        with self._writing():
            checkpoint.write_whole(self._place(name), text)

    def remove(self, name: str) -> None:
        """Removes a file of the folder, if it is there."""
        with self._writing():
            self._place(name).unlink(missing_ok=True)

    def checksum(self, which: str = "best") -> str | None:
        """The checksum of the checkpoint that `load` would read; None where there is none."""
        names = CHECKPOINTS[CHECKPOINTS.index(which) :]
        return next((found for name in names if (found := checkpoint.checksum(self._checkpoint(name)))), None)

    def is_current(self, report: dict[str, Any]) -> bool:
        """Whether a report, as plain values, is of a checkpoint that still exists; True for an old report that names none."""
        named = report.get("card", {}).get("checkpoint_sha256")
        return named is None or named in (self.checksum("best"), self.checksum("last"))

    def _check_held(self) -> None:
        """Raises RunError if another folder is now where the one is that this process holds."""
        if self._lock is not None and not _is_at(self._lock, self.path / ".lock"):
            raise RunError(
                f"expected {self.path} as this process began to write there, but the folder was moved, or its lock removed; "
                "nothing more is written"
            )

    def _place(self, name: str) -> Path:
        """Where a file of the folder is written. Raises RunError where it is not ours: a link, or a folder that was moved."""
        self._check_held()
        path = self.path / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise RunError(f"expected a file of the run at {path}, got a link, a folder or a device, which is left as it is")
        return path

    def _read(self, which: str) -> tuple[dict[str, Any], str, str]:
        """(state, name, checksum) of the checkpoint that `load` reads."""
        if which not in CHECKPOINTS[:2]:
            raise ValueError(f"expected the checkpoint best or last, got {which!r}")
        self._check_held()
        try:
            return self._first_of(which)
        except CheckpointError as error:
            if which == "best" and self.readable() == "last":
                raise CheckpointError(f"{error}; remove it, and that of the last epoch is read") from None
            raise

    def _first_of(self, which: str) -> tuple[dict[str, Any], str, str]:
        for name in CHECKPOINTS[CHECKPOINTS.index(which) :]:
            path = self._checkpoint(name)
            if path.exists():
                state, checksum = checkpoint.load_with_checksum(path)
                check_state(state, path)
                return state, name, checksum
        raise CheckpointError(f"expected a checkpoint in {path.parent}, got none")

    def readable(self) -> str | None:
        """The first of "best" and "last" as which `load` reads a checkpoint; None where it reads neither."""
        for which in CHECKPOINTS[:2]:
            with contextlib.suppress(CheckpointError):
                self._first_of(which)
                return which
        return None

    def _checkpoint(self, name: str) -> Path:
        return self.path / "checkpoints" / f"{name}.safetensors"

    def _remove_leftovers(self) -> None:
        """Remove what a killed process of this host had not finished to write, and no other file."""
        for folder in (self.path, self.path / "checkpoints"):
            for path in checkpoint.abandoned(folder):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"expected a run folder that can be written, got {self.path}: {reason}") from error


def stopped(config: Config, stalled: int, halving: Halving) -> str | None:
    """Why a training ended before its last epoch, or None; `stalled` are the epochs since the last better validation."""
    if config.patience is not None and stalled >= config.patience:
        return f"no better validation for {stalled} epochs"
    if config.lr_schedule == "halving" and halving.ended and config.lr is not None:
        return f"learning rate halved to {config.lr * halving.factor:.2g}"
    return None


def _bytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"


def is_exported(path: Path) -> bool:
    """Whether a folder is that of an exported model, which has weights and settings but nothing of its training."""
    return (path / "model.safetensors").is_file() and not (path / "checkpoints").exists()


def _epoch(line: str, file: Path, number: int) -> dict[str, Any]:
    try:
        found = loads(line)
        check(found, EPOCH, "it")
    except ValueError as error:
        raise RunError(f"expected the numbers of an epoch in {file}, line {number}: {error}; mend or remove the line") from None
    return found


def _acquire(path: Path) -> int:
    """Lock a file and write pid and host into it; returns its descriptor, which holds the lock while it is open.

    Raises RunError for what is no lock of ours: a link, or a file that holds something else.
    """
    while True:
        lock = _open(path)
        try:
            _lock(lock, path)
            if _is_at(lock, path):
                _written_holder(lock, path)
                break
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # its holder finished, and removed the file, after it was opened here
    os.ftruncate(lock, 0)
    os.lseek(lock, 0, os.SEEK_SET)  # pread and pwrite are not on Windows
    os.write(lock, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    return lock


def _open(path: Path) -> int:
    """Open or make a lock file; a link is not followed, and a pipe is not waited for."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        lock = os.open(path, flags, 0o666)
    except OSError as error:
        if not os.path.lexists(path) or stat.S_ISREG(os.lstat(path).st_mode):
            raise
        raise _not_ours(path) from error
    if not stat.S_ISREG(os.fstat(lock).st_mode):
        os.close(lock)
        raise _not_ours(path)
    return lock


def _check_free(path: Path) -> None:
    """Raises RunError for a lock file that another process holds, or that is none of ours; it is only looked at."""
    if path.is_file() and not path.is_symlink():
        lock = os.open(path, os.O_RDONLY)
        try:
            _lock(lock, path)
        finally:
            os.close(lock)


def _not_ours(path: Path) -> RunError:
    return RunError(f"expected the lock of a run at {path}, got something else; remove it, or use another folder")


def _is_at(lock: int, path: Path) -> bool:
    """Whether an open lock file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(lock), os.lstat(path))
    except OSError:
        return False


def _release(lock: int, path: Path) -> None:
    """Remove a lock file while it is locked, so that nobody else does, unless another one is in its place.

    Windows removes none that is open.
    """
    held = _is_at(lock, path)
    if fcntl is None:
        os.close(lock)
    if held:
        with contextlib.suppress(OSError):  # of a second run, not noticed on Windows; or of a disk that turned read-only
            path.unlink(missing_ok=True)
    if fcntl is not None:
        os.close(lock)


def _lock(lock: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid, host = _holder(lock)
        who = f"process {pid} on {host}" if pid else "another process"
        raise RunError(f"expected a run folder that no other process uses, but {who} writes to {path.parent}") from None
    except OSError:
        return  # a disk without locks, where refusing would forbid all training
    pid, host = _written_holder(lock, path)
    if host not in (None, socket.gethostname()):  # many network disks show a lock to its own host only
        raise RunError(
            f"expected a run folder that no other process uses, but process {pid} on {host} has not released {path.parent}; "
            f"if that process has ended, remove {path}"
        )


def _holder(lock: int) -> tuple[int | None, str | None]:
    """(pid, host) out of a lock file; its holder may be about to write them, over those of one that was killed."""
    end = time.monotonic() + 1.0
    while True:
        pid, host = _read_holder(lock) or (None, None)
        if time.monotonic() >= end or (pid and not (host == socket.gethostname() and checkpoint.has_ended(pid))):
            return pid, host
        time.sleep(0.01)


def _written_holder(lock: int, path: Path) -> tuple[int | None, str | None]:
    """(pid, host) out of a lock file that is free, both None for an empty one. Raises RunError for a file of others."""
    found = _read_holder(lock)
    if found is None:
        raise _not_ours(path)
    return found


def _read_holder(lock: int) -> tuple[int | None, str | None] | None:
    """(pid, host) out of a lock file, both None where it is empty or cut off; None if it holds something else."""
    os.lseek(lock, 0, os.SEEK_SET)
    content = os.read(lock, HOLDER_BYTES + 1).rstrip(b"\0")  # what a power cut leaves
    if len(content) > HOLDER_BYTES:
        return None
    begun = re.fullmatch(rb"""\{"pid": \d{1,20}(.*)""", content)
    if b'{"pid": '.startswith(content) or begun and (b', "host": "'.startswith(begun[1]) or re.fullmatch(CUT_OFF, begun[1])):
        return None, None
    try:
        holder = loads(content)
        check(holder, {"pid": int, "host": str}, "it")
    except ValueError:
        return None
    return holder["pid"], holder["host"]


def load_run(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu", which: str = "best", dataset: str | None = None
) -> "LoadedRun":
    """Loads a finished run: `.vae` (in evaluation mode), `.config`, and `.data`, which is read when it is first used.

    It can also be unpacked: `vae, data, config = load_run(path)`. path: a run folder, or the name of a run that comes with the
    package, "mnist-pair/plain" or "mnist-pair/skip". which: "best" (the epoch with the lowest validation loss at the final
    beta) or "last"; without a best it is the last. dataset: where the data are now, if they were moved.

    Raises RunError or CheckpointError for a folder that is not a run, or is incomplete or damaged. `.data` raises DataError if
    the data are not found, and RunError if they are not those of the run.
    """
    from .loaded import LoadedRun

    return LoadedRun.read(Run(folder_of(path)), device=device, which=which, dataset=dataset)


def new_folder(config: Config) -> Path:
    """A folder under runs/ named after the settings that people change, not yet in use."""
    data = Path(config.dataset).stem
    name = f"{data}-{config.model}-{config.decoder}-{config.layers}-seed{config.seed}"
    names = [name, *(f"{name}-{number}" for number in range(2, 10_000))]
    return next(Path("runs") / name for name in names if not (Path("runs") / name).exists())
