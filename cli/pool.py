"""Runs of a table, trained each in a process of its own, here or on a cluster, so many at a time; where their folders are."""

import collections
import contextlib
import json
import os
import signal
import time

from .errors import user_errors, written
from .executors import RayProcess, connected, started
from .notes import note, warn
from .terminal import duration, progress

LOOK_SECONDS = 1.0
LOSSES = 3  # so often a run is taken up again whose machine was lost


class Pool:
    """Trains runs, `jobs` at a time, in processes that write to a log beside their folder; stops them all if it is stopped.

    A run of the same settings and seed that was begun for another table goes on in its own folder; one that is finished
    there is only handed over. With a `checksum` these are runs on data of that checksum alone. With the `executor` ray the
    processes are where the cluster has room, and the folders on a disk that all its machines see; a run whose machine is lost
    goes on elsewhere.
    """

    def __init__(self, planned, root, name, *, jobs=None, minutes, device, budget, force, executor="local", checksum=None):
        self.ray = connected() if executor == "ray" else None
        self.jobs = jobs or (len(planned) if self.ray else 1)  # what has no room yet waits with Ray
        self.running, self.root, self.folder, self.lost = {}, root, root / name, collections.Counter()
        self.device, self.budget, self.failed = device, budget, []
        self.anew, self.checksum = Anew(self.folder, planned) if force else None, checksum
        self.waiting = [run for run in planned if not (self.anew and self.anew.is_kept(run))]
        self.end = time.monotonic() + 60 * minutes if minutes else float("inf")
        if minutes and budget is not None and budget >= 60 * minutes:
            warn(
                f"a report may take {budget:g} s, and one that is stopped begins anew: give more than {minutes:g} minutes, "
                "or a smaller --report-budget, or slices may never finish a run"
            )

    def finished(self):
        """Yields (planned run, its folder) as they are done; a run that failed is told and left out."""
        yield from self._ready()
        if self.waiting:
            yield from self._trained()
        if self.anew and not self.waiting and not self.running and not self.failed:
            self.anew.done()

    def keep(self, planned):
        """Say that what a run leaves is in the results: a --force that goes on need not look at it again."""
        if self.anew:
            self.anew.keep(planned)

    def fail(self, planned, reason):
        """Tell that a run is left out, and why."""
        warn(f"{planned.label}: {reason}")
        self.failed.append(planned.label)

    def _trained(self):
        note(f"Now training {len(self.waiting)} into {self.folder}.")
        self.folder.mkdir(parents=True, exist_ok=True)
        with progress() as bar:
            try:
                while (self.waiting or self.running) and time.monotonic() < self.end:
                    while self.waiting and len(self.running) < self.jobs:
                        self._start(self.waiting.pop(0), bar)
                    time.sleep(LOOK_SECONDS)
                    for process in list(self.running):
                        yield from self._look(process, bar)
            finally:
                self._stop()

    def _ready(self):
        from pyro_skipvae.reproduction.tables import is_finished

        for planned in list(self.waiting):
            if time.monotonic() >= self.end:
                return
            path = self._begun(planned)
            if path and is_finished(path):
                self.waiting.remove(planned)
                note(f"Found: {planned.label}, in {path}")
                yield planned, path

    def _start(self, planned, bar):
        path = self._begun(planned) or fresh(self.folder / planned.folder)
        settings = path.with_suffix(".toml")
        with written(settings):
            settings.write_text(planned.config.to_toml(), encoding="utf-8")
        where = ["--resume", path] if (path / "config.toml").exists() else ["--config", settings, "--out", path]
        command = ["train", *where, "--device", self.device, "--json"]
        points = {name.replace("_", "-"): number for name, number in planned.report.items()}
        limits = points if self.budget is None else {"report-budget": self.budget}
        command += [word for name, number in limits.items() for word in (f"--{name}", number)]
        process = self._process([*map(str, command)], path.with_suffix(".log"))
        label = planned.label
        task = bar.add_task(label, total=planned.config.epochs, status="")
        self.running[process] = (planned, path, task, label, time.monotonic())
        note(f"Started: {label}")

    def _process(self, command, log):
        variables = {"OMP_NUM_THREADS": "1"} if self.jobs > 1 and "OMP_NUM_THREADS" not in os.environ else {}
        if self.ray is None:
            return started(command, log=log, variables=variables)
        gpu = self.device.startswith("cuda") or (self.device == "auto" and self.ray.cluster_resources().get("GPU", 0) > 0)
        return RayProcess(self.ray, command, log=log, variables=variables, gpu=gpu)

    def _begun(self, planned):
        """The folder in which a run was begun, or None."""
        from pyro_skipvae.reproduction.tables import run_folder

        return self.anew.folder_of(planned) if self.anew else run_folder(planned, self.root, self.checksum)

    def _look(self, process, bar):
        from pyro_skipvae.reproduction.tables import is_finished
        from pyro_skipvae.runs.folder import Run

        planned, path, task, label, start = self.running[process]
        lines = Run(path).metrics()
        status = f"elbo {lines[-1]['valid_elbo']:.2f}" if lines and lines[-1]["valid_elbo"] is not None else ""
        bar.update(task, completed=lines[-1]["epoch"] if lines else 0, status=status)
        if process.poll() is None:
            return
        del self.running[process]
        bar.remove_task(task)
        if getattr(process, "lost", False) and self.lost[planned.folder] < LOSSES:
            return self._take_up(planned, path)
        if process.returncode and not is_finished(path):
            if Run(path).is_held():
                who = f"another process trains it, into {path}"
                return self.fail(planned, f"{who}; start the same command again when that has ended")
            log = path.with_suffix(".log")
            said = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(said) if line.strip()), "nothing")
            return self.fail(planned, f"ended with code {process.returncode}: {last} (more in {log})")
        code = f", but it ended with code {process.returncode} after its report" if process.returncode else ""
        note(f"Done: {label}, {duration(time.monotonic() - start)}, {status}{code}")
        yield planned, path

    def _take_up(self, planned, path):
        """Let a run whose machine was lost go on elsewhere."""
        from pyro_skipvae.runs.checkpoint import write_whole

        self.lost[planned.folder] += 1
        self.waiting.insert(0, planned)
        if (path / ".lock").exists():  # another file in its place: what may still run there writes no more
            write_whole(path / ".lock", "")
        note(f"Lost: {planned.label}; it goes on elsewhere.")

    def _stop(self):
        """Ask those that still run for a checkpoint, and wait for it."""
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait()
        if self.running or self.waiting:
            left = len(self.running) + len(self.waiting)
            note(f"{left} runs are not finished; the same command goes on with them.")


def kept_results(pool, table, file, device):
    """Yield the entries of a file of results each time that it holds one more, of a run that the pool has finished."""
    from pyro_skipvae.data import DataError
    from pyro_skipvae.reproduction import tables as reproduction
    from pyro_skipvae.runs.checkpoint import CheckpointError
    from pyro_skipvae.runs.folder import RunError

    for planned, path in pool.finished():
        if measured := _measured_afterwards(planned):
            note(f"Measuring {measured}, which may take minutes: {planned.label}")
        try:
            entry = reproduction.entry_of(planned, path, device=device)
            entries = reproduction.added(reproduction.read_results(file), entry)  # another process may have written too
            reproduction.write_results(file, table, entries)
        except (ValueError, RunError, CheckpointError, DataError) as error:
            pool.fail(planned, str(error))
            continue
        pool.keep(planned)
        yield entries


def _measured_afterwards(planned):
    """What a table asks of a finished run beyond its report, in words."""
    draws = planned.importance_samples
    return " and ".join(filter(None, [draws and f"log p(x) by {draws} draws", planned.analysis]))


class Anew:
    """Which runs are to be made anew, and where ("" once its results are kept): a file that stays until all of them are."""

    def __init__(self, folder, planned):
        self.file, self.folder = folder / "anew.json", folder
        self.begun = self._read() if self.file.exists() else {}
        for run in planned:
            if run.folder not in self.begun:
                self.begun[run.folder] = fresh(folder / run.folder, taken=self.begun.values()).name
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def _read(self):
        from pyro_skipvae.stored import check, loads

        with user_errors():
            try:
                found = loads(self.file.read_text(encoding="utf-8"))
                check(found, {...: str}, "it")
            except ValueError as error:
                raise ValueError(
                    f"expected in {self.file} what --force has begun, which cannot be read: {error}; remove it to begin anew"
                ) from None
        return found

    def folder_of(self, planned):
        return self.folder / self.begun[planned.folder]

    def keep(self, planned):
        self.begun[planned.folder] = ""
        self._write()

    def is_kept(self, planned):
        return not self.begun[planned.folder]

    def _write(self):
        from pyro_skipvae.runs.checkpoint import write_whole

        write_whole(self.file, json.dumps(self.begun, indent=1))

    def done(self):
        self.file.unlink()


def fresh(path, taken=()):
    """The path, or with a number behind it the first that is not in use."""
    names = (path if n == 0 else path.with_name(f"{path.name}-{n}") for n in range(10_000))
    return next(p for p in names if not p.exists() and not p.with_suffix(".toml").exists() and p.name not in taken)
