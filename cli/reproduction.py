"""`reproduce`: the runs of a table that are not done yet, each in a process of its own; then the table."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from .commands import DEVICE, JSON, examples
from .errors import user_errors
from .notes import note, warn
from .signals import Signals
from .terminal import duration, progress, table

LOOK_SECONDS = 1.0


@click.command(
    epilog=examples(
        "reproduce --list",
        "reproduce table3",
        "reproduce table4 --jobs 2 --minutes 60",
        "reproduce table3 --epochs 2 --limit-train 2000 --seeds 1",
    )
)
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="what there is: data, what is done, and what the rest costs here")
@click.option("--seeds", type=click.IntRange(1), help="seeds of every run  [default: as the table says]")
@click.option(
    "--protocol",
    default="default",
    show_default=True,
    type=click.Choice(["default", "paper"]),
    help="what we hold right, or what the paper and its authors' code did",
)
@click.option("--epochs", type=click.IntRange(1), help="scale down: epochs of every run  [default: as the table says]")
@click.option("--limit-train", type=click.IntRange(1), help="scale down: training items  [default: as the table says]")
@click.option("--limit-eval", type=click.IntRange(2), help="scale down: test items  [default: as the table says]")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1), help="runs at a time")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="stop then, with checkpoints  [default: no limit]")
@click.option("--report-budget", default=600.0, show_default=True, help="seconds for what in a report needs the decoder")
@click.option("--runs", "folder", default="runs/reproduce", show_default=True, help="where run folders go")
@click.option("--results", default="results", show_default=True, help="where results are kept, one JSON file a table")
@click.option("--force", is_flag=True, help="train all runs anew")
@click.option("--markdown", is_flag=True, help="print the table as Markdown")
@DEVICE
@JSON
def reproduce(name, listing, jobs, minutes, report_budget, folder, results, force, markdown, device, as_json, **which):
    """Reproduce a table of the paper: train the runs that are missing, and print each number beside the published one.

    Runs that are done are known by their settings, so that nothing is trained twice; what was interrupted goes on where it
    was. A scaled-down run is labelled so wherever it appears.
    """
    from pyro_skipvae import reproduction

    if listing:
        return click.echo(_listing(reproduction, results), nl=False)
    if not name:
        raise click.UsageError(f"expected a table to reproduce: {', '.join(reproduction.table_names())}; or --list")
    with user_errors():
        wanted = reproduction.load_table(name, **which)
        file = Path(results) / f"{name}.json"
        entries = reproduction.read_results(file)
    missing = [run for run in wanted.runs if force or not reproduction.entry_for(run, entries)]
    if missing:
        note(f"{len(wanted.runs) - len(missing)} of {len(wanted.runs)} runs are done; training {len(missing)} into {folder}.")
        pool = Pool(missing, Path(folder) / name, jobs=jobs, minutes=minutes, device=device, budget=report_budget, force=force)
        with Signals():
            for planned, path in pool.finished():
                entries = reproduction.added(entries, reproduction.entry_of(planned, path))
                reproduction.write_results(file, wanted, entries)
    if as_json:
        return click.echo(json.dumps(reproduction.as_json(wanted, entries), indent=2))
    click.echo(_markdown(reproduction, wanted, entries) if markdown else _text(reproduction, wanted, entries), nl=False)


class Pool:
    """Trains runs, `jobs` at a time, in processes that write to a log beside their folder; stops them all if it is stopped."""

    def __init__(self, planned, folder, *, jobs, minutes, device, budget, force):
        self.waiting, self.running, self.folder, self.jobs = list(planned), {}, folder, jobs
        self.device, self.budget, self.force = device, budget, force
        self.end = time.monotonic() + 60 * minutes if minutes else float("inf")

    def finished(self):
        """Yields (planned run, its folder) as they are done; a run that failed is told and left out."""
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

    def _start(self, planned, bar):
        path = self.folder / planned.folder
        if self.force:
            path = next(p for n in range(1, 10_000) if not (p := path.with_name(f"{path.name}-again{n}")).exists())
        settings = path.with_suffix(".toml")
        settings.write_text(planned.config.to_toml(), encoding="utf-8")
        where = ["--resume", path] if (path / "config.toml").exists() else ["--config", settings, "--out", path]
        command = [sys.executable, "-m", "pyro_skipvae_cli", "train", *where, "--device", self.device, "--json"]
        log = open(path.with_suffix(".log"), "a", encoding="utf-8")
        environment = os.environ | ({"OMP_NUM_THREADS": "1"} if self.jobs > 1 else {})
        process = subprocess.Popen(
            [*map(str, command), "--report-budget", str(self.budget)], stdout=log, stderr=log, env=environment
        )
        log.close()
        label = f"{planned.row}, {planned.arm}, seed {planned.seed}"
        task = bar.add_task(label, total=planned.config.epochs, status="")
        self.running[process] = (planned, path, task, label, time.monotonic())
        note(f"Started: {label}")

    def _look(self, process, bar):
        from pyro_skipvae.run import Run

        planned, path, task, label, start = self.running[process]
        lines = Run(path).metrics()
        status = f"elbo {lines[-1]['valid_elbo']:.2f}" if lines and lines[-1]["valid_elbo"] is not None else ""
        bar.update(task, completed=lines[-1]["epoch"] if lines else 0, status=status)
        if process.poll() is None:
            return
        del self.running[process]
        bar.remove_task(task)
        if process.returncode:
            warn(f"{label} ended with code {process.returncode}; what it said is in {path.with_suffix('.log')}.")
            return
        note(f"Done: {label}, {duration(time.monotonic() - start)}, {status}")
        yield planned, path

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


def _listing(reproduction, results):
    """Each table with its data, what is done, and what the rest would cost here, measured on a step of each cell."""
    from pyro_skipvae.data import locate

    from .job import make_config, make_job, trial

    rows = []
    for name in reproduction.table_names():
        wanted = reproduction.load_table(name)
        entries = reproduction.read_results(Path(results) / f"{name}.json")
        missing = [run for run in wanted.runs if not reproduction.entry_for(run, entries)]
        sets = list(dict.fromkeys(run.config.dataset for run in wanted.runs))
        absent = [data for data in sets if not locate(data)[0] and data not in ("digits", "pydoc", "synthetic-text")]
        seconds, known = 0.0, {}
        for run in missing:
            if run.config.dataset in absent:
                continue
            place = (run.row, run.arm)
            if place not in known:
                config, data = make_config({**run.flags, **run.scaled, "seed": run.seed}, resume=None)
                known[place] = trial(make_job(config, data, device="auto"))["seconds"]
            seconds += known[place]
        data = ", ".join(f"{s} (not here)" if s in absent else s for s in sets)
        done = f"{len(wanted.runs) - len(missing)} of {len(wanted.runs)}"
        rows.append((name, wanted.title, data, done, duration(seconds) if missing else "-"))
    return table(("name", "what", "data", "runs done", "time for the rest, one at a time"), rows)


def _rows(reproduction, wanted, entries):
    """(header, rows) of the table: for each column what was published, ours with its deviation, and the difference."""
    shown = wanted.columns + [c for c in reproduction.BESIDE if "mi" in wanted.columns]
    heading = {**{c: v[0] for c, v in reproduction.COLUMNS.items()}, **reproduction.BESIDE}
    header = ["", "", "seeds", *(heading[column] for column in shown)]
    rows = []
    for (row, arm), found in reproduction.cells(wanted, entries).items():
        count = max((cell.seeds for cell in found.values()), default=0)
        rows.append([row, f"{arm}, published", "", *(_number(found[column].published) for column in shown)])
        label = f"{arm}, ours" + reproduction.label(wanted, row, arm)
        rows.append([row, label, str(count), *(_ours(found[column]) for column in shown)])
    return header, rows


def _text(reproduction, wanted, entries):
    header, rows = _rows(reproduction, wanted, entries)
    parts = [wanted.title + "\n", table(header, rows), *(f"{s}\n" for s in _sentences(reproduction, wanted, entries))]
    return "\n".join(parts[:2]) + "\n" + "".join(parts[2:])


def _markdown(reproduction, wanted, entries):
    header, rows = _rows(reproduction, wanted, entries)
    lines = [header, ["---"] * len(header), *rows]
    grid = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return f"**{wanted.title}**\n\n{grid}\n" + "".join(f"- {s}\n" for s in _sentences(reproduction, wanted, entries))


def _sentences(reproduction, wanted, entries):
    return [
        *reproduction.orderings(wanted, entries),
        *([wanted.note] if wanted.note else []),
        *reproduction.notes(wanted, entries),
    ]


def _ours(cell):
    if cell.ours is None:
        return "-"
    return _number(cell.ours) + ("" if cell.deviation is None else f" ± {cell.deviation:.2f}")


def _number(value):
    return "-" if value is None else f"{value:.2f}".removesuffix(".00") if abs(value) < 1e5 else f"{value:.3g}"


COMMANDS = (reproduce,)
