"""`reproduce`: the runs of a table that are not done yet; then the table and its page."""

import json
from dataclasses import replace
from pathlib import Path

import click

from .commands import DEVICE, JSON, examples
from .echo import echo
from .errors import RunsFailed, user_errors, written
from .notes import note
from .options import Duration
from .pool import Pool
from .signals import Signals
from .terminal import duration, table

# Steps longer than LONG_SECONDS are measured on a PART-th of a batch: within 15 %, in a quarter of the time.
PART, LONG_SECONDS = 4, 0.1


@click.command(
    epilog=examples(
        "reproduce --list",
        "reproduce table3",
        "reproduce table4 --jobs 2 --minutes 60",
        "reproduce table3 --epochs 2 --limit-train 2000 --seeds 1",
        "reproduce table1 --full --device cuda --minutes 30",
        "reproduce figure1 --show --html figure1.html",
    )
)
@click.argument("name", required=False)
@click.option(
    "--list", "listing", is_flag=True, help="what there is, or NAME alone: data, what is done, and what the rest costs here"
)
@click.option("--show", is_flag=True, help="print what is done, and train nothing")
@click.option("--seeds", type=click.IntRange(1), help="seeds of every run  [default: as the table says]")
@click.option(
    "--protocol",
    default="default",
    show_default=True,
    type=click.Choice(["default", "paper"]),
    help="what we hold right, or what the paper and its authors' code did",
)
@click.option("--full", is_flag=True, help="the paper's size where a table is scaled down for CPUs; takes days on a CPU")
@click.option("--epochs", type=click.IntRange(1), help="scale down: epochs of every run  [default: as the table says]")
@click.option("--limit-train", type=click.IntRange(1), help="scale down: training items  [default: as the table says]")
@click.option("--limit-eval", type=click.IntRange(2), help="scale down: test items  [default: as the table says]")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1), help="runs at a time")
@click.option("--minutes", type=Duration(min_open=True), help="stop then, with checkpoints  [default: no limit]")
@click.option(
    "--report-budget",
    default=600.0,
    show_default=True,
    type=Duration(),
    help="seconds for what in a report needs the decoder",
)
@click.option("--runs", "folder", default="runs/reproduce", show_default=True, help="where run folders go")
@click.option("--results", default="results", show_default=True, help="where results are kept, one JSON file a table")
@click.option("--force", is_flag=True, help="train all runs anew; once interrupted, go on with that")
@click.option("--markdown", is_flag=True, help="print the table as Markdown")
@click.option("--html", type=click.Path(dir_okay=False), help="the page with the pictures  [default: NAME.html in the results]")
@DEVICE
@JSON
def reproduce(
    name, listing, show, jobs, minutes, report_budget, folder, results, force, markdown, html, device, as_json, **which
):
    """Reproduce a table or figure of the paper: train the runs that are missing, print each number beside the published one.

    Runs that are done are known by their settings, whichever table they were made for, so that nothing is trained twice;
    what was interrupted goes on where it was. A scaled-down run is labelled so wherever it appears.
    """
    from pyro_skipvae.data import DataError
    from pyro_skipvae.reproduction import tables as reproduction
    from pyro_skipvae.reproduction import words as reproduction_words
    from pyro_skipvae.reproduction.page import write_page
    from pyro_skipvae.runs.checkpoint import CheckpointError
    from pyro_skipvae.runs.folder import RunError

    if listing:
        return echo(_listing(reproduction, name, results, device, which), nl=False)
    if not name:
        raise click.UsageError(f"expected what to reproduce: {', '.join(reproduction.table_names())}; or --list")
    with user_errors():
        wanted = reproduction.load_table(name, **which)
        file = Path(results) / f"{name}.json"
        if show and not Path(results).is_dir():
            raise ValueError(f"expected a folder of results, got {results}")
        entries, others = reproduction.read_results(file), reproduction.results_of_others(wanted, results)
    missing = [run for run in wanted.runs if force or not reproduction.entry_for(run, entries + others)]
    if missing and not show:
        _check(missing, device, results, folder)
        note(f"{len(wanted.runs) - len(missing)} of {len(wanted.runs)} runs are done.")
        pool = Pool(missing, Path(folder), name, jobs=jobs, minutes=minutes, device=device, budget=report_budget, force=force)
        with Signals():
            for planned, path in pool.finished():
                try:
                    entry = reproduction.entry_of(planned, path, device=device)
                except (ValueError, RunError, CheckpointError, DataError) as error:
                    pool.fail(planned, str(error))
                    continue
                entries = reproduction.added(reproduction.read_results(file), entry)  # another process may have written too
                reproduction.write_results(file, wanted, entries)
                pool.keep(planned)
    entries = entries + others
    if wanted.study == "theorem":
        note("The random networks that stand beside its table take about 15 s.")
    if as_json:
        echo(json.dumps(reproduction_words.as_json(wanted, entries), indent=2))
    else:
        echo(_markdown(wanted, entries) if markdown else _text(wanted, entries), nl=False)
    html = html or file.with_name(f"{'-'.join([name, *_otherwise(which)])}.html")
    with written(html):
        write_page(wanted, entries, html)
    if missing and not show and pool.failed:
        raise RunsFailed(f"{len(pool.failed)} runs failed: {'; '.join(pool.failed)}")


def _otherwise(which):
    """What makes a table another than it stands in its preset, as words for the name of its page."""
    named = {name: value for name, value in which.items() if value not in (None, False, "default")}
    return [name if value is True else value if name == "protocol" else f"{name.replace('_', '-')}-{value}"
            for name, value in named.items()]  # fmt: skip


def _check(planned, device, results, folder):
    """What would make every run fail, found before the first: device, a folder that cannot be written, or data."""
    from pyro_skipvae.runs.build import build_data, choose_device

    with user_errors():
        choose_device(device)
    for place in (results, folder):
        with written(place, "a folder"):
            Path(place).mkdir(parents=True, exist_ok=True)
    with user_errors():
        for config in {run.config.dataset: run.config for run in planned}.values():
            build_data(config)


def _listing(reproduction, name, results, device, which):
    """Each table with its data, what is done, and what the rest would cost here, measured on a step of each cell."""
    note("Measuring a step of each cell that is not done.")
    costs, rows = Costs(device), []
    with user_errors():
        tables = [reproduction.load_table(each, **which) for each in ([name] if name else reproduction.table_names())]
    for wanted in tables:
        with user_errors():
            entries = reproduction.read_results(Path(results) / f"{wanted.name}.json")
            entries = entries + reproduction.results_of_others(wanted, results)
        missing = [run for run in wanted.runs if not reproduction.entry_for(run, entries)]
        absent = costs.absent(wanted.runs)
        seconds = sum(costs.of(run) for run in missing if run.config.dataset not in absent)
        sets = dict.fromkeys(run.config.dataset for run in wanted.runs)
        data = ", ".join(f"{s} (not here)" if s in absent else s for s in sets)
        done = f"{len(wanted.runs) - len(missing)} of {len(wanted.runs)}"
        known = [run for run in missing if run.config.dataset not in absent]
        rows.append((wanted.name, wanted.title, data, done, duration(seconds) if known else "?" if missing else "-"))
    return table(("name", "what", "data", "runs done", "training left, one run at a time"), rows)


class Costs:
    """Seconds of training that runs take here, from a step of each cell, whichever tables it stands in; reports come on top."""

    def __init__(self, device):
        self.device, self.data, self.seconds = device, {}, {}

    def absent(self, runs):
        """The data sets of some runs that are not on this machine."""
        from pyro_skipvae.data import locate

        sets = {run.config.dataset for run in runs}
        return {name for name in sets if name not in ("digits", "pydoc", "synthetic-text") and not locate(name)[0]}

    def of(self, planned):
        from pyro_skipvae.reproduction.tables import identity

        key = json.dumps(identity(planned.config))
        if key not in self.seconds:
            self.seconds[key] = self._measured(planned.config)
        return self.seconds[key]

    def _measured(self, config):
        from pyro_skipvae.runs.build import resolve

        from .job import make_job, trial

        data = self._data(config)
        config = resolve(config, data)
        part = replace(config, batch_size=max(1, config.batch_size // PART))
        found = trial(make_job(part, data, device=self.device))
        if found["seconds_per_epoch"] < LONG_SECONDS * found["steps_per_epoch"]:  # what a step costs beside its items counts
            found = trial(make_job(config, data, device=self.device))
        return found["seconds"]

    def _data(self, config):
        from pyro_skipvae.runs.build import build_data

        fields = "dataset", "binarisation", "vocabulary_size", "max_words", "limit_train", "limit_eval"
        key = tuple(getattr(config, name) for name in fields)
        if key not in self.data:
            self.data[key] = build_data(config)
        return self.data[key]


def _rows(wanted, entries):
    """(header, rows) of the table: for each arm what was published, ours with its deviation, and the difference."""
    from pyro_skipvae.reproduction.tables import BESIDE, COLUMNS, cells, shown_columns
    from pyro_skipvae.reproduction.words import is_comparable, label

    shown = shown_columns(wanted)
    heading = {**{c: v[0] for c, v in COLUMNS.items()}, **BESIDE}
    header = ["", "", "seeds", *(heading[column] for column in shown)]
    rows = []
    for (row, arm), found in cells(wanted, entries).items():
        count = max((cell.seeds for cell in found.values()), default=0)
        published = any(found[column].published is not None for column in shown)
        if published:
            rows.append([row, f"{arm}, published", "", *(_number(found[column].published) for column in shown)])
        rows.append([row, f"{arm}, ours" + label(wanted, row, arm), str(count), *(_ours(found[column]) for column in shown)])
        if published and count and is_comparable(wanted, row, arm):
            rows.append([row, "difference", "", *(_number(found[column].difference, "+") for column in shown)])
    return header, rows


def _text(wanted, entries):
    from pyro_skipvae.reproduction.words import premise

    before = "".join(f"{paragraph}\n\n" for paragraph in (wanted.title, *premise(wanted)))
    return before + table(*_rows(wanted, entries)) + "\n" + "".join(f"{s}\n" for s in _sentences(wanted, entries))


def _markdown(wanted, entries):
    from pyro_skipvae.reproduction.words import premise

    header, rows = _rows(wanted, entries)
    lines = [header, ["---"] * len(header), *rows]
    grid = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    before = "".join(f"{paragraph}\n\n" for paragraph in (f"**{wanted.title}**", *premise(wanted)))
    return f"{before}{grid}\n" + "".join(f"- {s}\n" for s in _sentences(wanted, entries))


def _sentences(wanted, entries):
    from pyro_skipvae.reproduction.words import notes, orderings

    return [*orderings(wanted, entries), *([wanted.note] if wanted.note else []), *notes(wanted, entries)]


def _ours(cell):
    from pyro_skipvae.reports.rendering import decimals

    if cell.deviation is None:
        return _number(cell.ours)
    return f"{_number(cell.ours)} ± {cell.deviation:.{decimals(cell.ours)}f}"


def _number(value, sign=""):
    """Two decimals, three of what is below 0.1, none of what is whole: a count, or exactly 0."""
    from pyro_skipvae.reports.rendering import decimals

    if value is None:
        return "-"
    if abs(value) >= 1e5:
        return f"{value:{sign}.3g}"
    if value % 1 == 0:
        return f"{int(value):{sign}}"
    places = decimals(value)
    return f"{round(value, places) + 0.0:{sign}.{places}f}"  # not -0.00


COMMANDS = (reproduce,)
