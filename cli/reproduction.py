"""`reproduce`: a table of the paper beside what is stored of it; with `--train`, the runs that are missing first."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import click

from .commands import DEVICE, JSON, examples
from .echo import echo
from .errors import RunsFailed, user_errors, written
from .executors import EXECUTOR
from .notes import note, warn
from .options import Duration, Whole
from .pool import Pool, kept_results
from .signals import Signals
from .terminal import duration, table

# Steps longer than LONG_SECONDS are measured on a PART-th of a batch: within 15 %, in a quarter of the time.
PART, LONG_SECONDS = 4, 0.1
SIZES = ("full", "full_data", "epochs", "limit_train", "limit_eval")  # options that say which runs are meant


@click.command(
    epilog=examples(
        "reproduce --list",
        "reproduce table3",
        "reproduce figure1 --html figure1.html",
        "reproduce table3 --train --epochs 2 --limit-train 2000 --seeds 1",
        "reproduce table4 --train --jobs 2 --minutes 60",
        "reproduce table1 --train --executor ray",
        "reproduce table1 --train --full --device cuda --minutes 30",
    )
)
@click.argument("name", required=False)
@click.option(
    "--list", "listing", is_flag=True, help="what there is, or NAME alone: data, what is done, and what the rest costs here"
)
@click.option("--train", is_flag=True, help="train the runs that are missing; says first what that will take")
@click.option("--show", is_flag=True, hidden=True)  # what it asked for is what happens without --train
@click.option("--seeds", type=Whole(1), help="seeds of every run  [default: as the table says]")
@click.option(
    "--protocol",
    default="default",
    show_default=True,
    type=click.Choice(["default", "paper"]),
    help="our own settings, or those of the paper and its authors' code",
)
@click.option("--full", is_flag=True, help="the paper's size where a table is scaled down for CPUs; takes days on a CPU")
@click.option("--full-data", is_flag=True, help="all data, fewer epochs, where a table is scaled down for CPUs; takes hours")
@click.option("--epochs", type=Whole(1), help="scale down: epochs of every run  [default: as the table says]")
@click.option("--limit-train", type=Whole(1), help="scale down: training items  [default: as the table says]")
@click.option("--limit-eval", type=Whole(2), help="scale down: test items  [default: as the table says]")
@click.option("--jobs", type=Whole(1), help="with --train: runs at a time  [default: 1; with ray all that have room]")
@EXECUTOR
@click.option(
    "--minutes", type=Duration(min_open=True), help="with --train: stop then, with checkpoints  [default: no limit]"
)
@click.option(
    "--report-budget",
    type=Duration(),
    help="seconds for the estimates that need the decoder  [default: fixed numbers of points]",
)
@click.option("--runs", "folder", default="runs/reproduce", show_default=True, help="where run folders go")
@click.option(
    "--results",
    default="results",
    show_default=True,
    help="where new results go, one JSON file a table; those that come with the package are read too",
)
@click.option("--force", is_flag=True, help="with --train: train all runs anew; once interrupted, go on with that")
@click.option("--markdown", is_flag=True, help="print the table as Markdown")
@click.option(
    "--html",
    type=click.Path(dir_okay=False),
    help="write the page with the pictures  [default: with --train NAME.html in the results]",
)
@DEVICE
@JSON
def reproduce(
    name,
    listing,
    train,
    show,
    jobs,
    executor,
    minutes,
    report_budget,
    folder,
    results,
    force,
    markdown,
    html,
    device,
    as_json,
    **which,
):
    """Print a table or figure of the paper, each published number beside ours. Trains nothing, unless --train is given.

    Runs that are done are known by their settings, whichever table they were made for, so nothing is trained twice. What was
    interrupted goes on where it was. A scaled-down run is labelled so wherever it appears. Without --train each row is
    printed in the largest size that is done.
    """
    from pyro_skipvae.reproduction import tables as reproduction
    from pyro_skipvae.reproduction import words as reproduction_words
    from pyro_skipvae.reproduction.page import write_page

    of_training = {"jobs": jobs, "executor": executor != "local", "minutes": minutes is not None, "force": force}
    of_training["report_budget"] = report_budget is not None
    if listing:
        with user_errors():
            _check_listing(train=train, markdown=markdown, html=html, **of_training)
        rows = _listing(reproduction, name, results, device, which)
        return echo(json.dumps({"schema": 1, "tables": rows}, indent=2) if as_json else _listed(rows), nl=as_json)
    if not name:
        raise click.UsageError(f"expected what to reproduce: {', '.join(reproduction.table_names())}; or --list")
    with user_errors():
        _check_flags(train, show=show, **of_training)
        wanted = reproduction.load_table(name, **which)
        _check_runs(wanted, train=train, **which)
        if results != "results" and not train and not Path(results).is_dir():
            raise ValueError(f"expected a folder of results, got {results}")
        file, (entries, others) = Path(results) / f"{name}.json", _stored(reproduction, wanted, results)
    if not train and wanted.runs and not any(which[size] for size in SIZES):
        wanted = reproduction.in_largest_sizes(wanted, entries + others, seeds=which["seeds"], protocol=which["protocol"])
    missing = [run for run in wanted.runs if force or not reproduction.entry_for(run, entries + others)]
    done = _done(wanted, missing)
    if train and not force:
        missing += _to_measure(reproduction, wanted, entries + others, folder)
    if missing and not train:
        note(f"{done} --train trains the others; `reproduce {name} --list` says what that takes here.")
    if missing and train:
        check_places(missing, device, results, folder)
        note(done + cost(missing, Path(folder), force, device))
        how = {"jobs": jobs, "executor": executor, "minutes": minutes, "device": device, "budget": report_budget}
        pool = Pool(missing, Path(folder), name, **how, force=force)
        with Signals():
            for found in kept_results(pool, wanted, file, device):
                entries = found
    entries = entries + others
    begun = list(_begun([run for run in missing if not reproduction.entry_for(run, entries)], folder))
    for run, epochs in [] if train else begun:
        note(_progress(run, epochs))
    if wanted.study == "theorem":
        note("The random networks that stand beside its table take about 15 s.")
    if as_json:
        told = [{"row": run.row, "arm": run.arm, "seed": run.seed, "epochs": run.config.epochs, "validation": epochs}
                for run, epochs in begun]  # fmt: skip
        echo(json.dumps(reproduction_words.as_json(wanted, entries) | {"begun": told}, indent=2))
    else:
        echo(_markdown(wanted, entries) if markdown else _text(wanted, entries), nl=False)
    html = html or (file.with_name(f"{'-'.join([name, *_otherwise(which)])}.html") if train else None)
    if html:
        with written(html):
            write_page(wanted, entries, html)
    if missing and train and pool.failed:
        raise RunsFailed(f"{len(pool.failed)} runs failed: {'; '.join(pool.failed)}")


def _check_listing(**given):
    """Raises ValueError for flags of what --list does not do."""
    idle = [_flag(name) for name, value in given.items() if value]
    if idle:
        raise ValueError(f"expected --list or {' and '.join(idle)}, got both: a list trains nothing and prints no table")


def _flag(name):
    return f"--{name.replace('_', '-')}"


def _check_flags(train, **given):
    """Raises ValueError for flags of a training that was not asked for, and for --show beside --train."""
    if train and given.pop("show"):
        raise ValueError("expected --train or --show, got both")
    idle = [_flag(name) for name, value in given.items() if value and name != "show" and not train]
    if idle:
        raise ValueError(f"expected --train with {' and '.join(idle)}: nothing is trained without it")


def _check_runs(wanted, **flags):
    """Raises ValueError for flags that say how to train, of a table that has no runs."""
    given = [flag for flag, value in flags.items() if value not in (None, False, "default")]
    if given and not wanted.runs:
        raise ValueError(f"expected no {_flag(given[0])} for {wanted.name}, which is computed and trains nothing")
    if flags.get("full_data") and not wanted.has_full_data:
        raise ValueError(f"expected no --full-data for {wanted.name}, which has no such size; use --epochs and --limit-train")


def _stored(reproduction, wanted, results):
    """(the entries in the file of the table, all others): of the folder of results first, then of the package's own."""
    folders = list(dict.fromkeys((Path(results).absolute(), reproduction.committed_results().absolute())))
    own, *packaged = [reproduction.read_results(folder / f"{wanted.name}.json") for folder in folders]
    return own, [entry for entries in packaged for entry in entries] + reproduction.results_of_others(wanted, *folders)


def _to_measure(reproduction, wanted, entries, folder):
    """The runs whose log p(x), which this table asks for, is not known, and whose folder is there; tells the others."""
    found = []
    for run in wanted.runs:
        if (entry := reproduction.entry_for(run, entries)) and reproduction.lacks_likelihood(run, entry):
            if (path := reproduction.run_folder(run, folder)) and reproduction.is_finished(path):
                found.append(run)
            else:
                note(f"log p(x) of {run.label} is not known, and its run is not in {folder}: --force would train it anew.")
    return found


def _done(wanted, missing):
    return f"{len(wanted.runs) - len(missing)} of {len(wanted.runs)} runs are done."


def _begun(missing, folder):
    """(run, what its epochs measured) of those of the missing runs that have finished one."""
    from pyro_skipvae.reproduction.tables import epochs_of, is_finished, run_folder
    from pyro_skipvae.runs.folder import RunError

    for run in missing:
        path = run_folder(run, folder)
        try:
            epochs = epochs_of(path) if path and not is_finished(path) else {"epoch": []}
        except RunError as error:  # the table needs none of it
            warn(f"{run.label}: {error}")
            continue
        if epochs["epoch"]:
            yield run, epochs


def _progress(run, epochs):
    names = {"valid_elbo": "ELBO", "valid_rate": "rate", "active_units": "active units"}
    told = ", ".join(f"{name} {_number(epochs[key][-1])}" for key, name in names.items() if epochs[key][-1] is not None)
    return f"{run.label}: {epochs['epoch'][-1]} of {run.config.epochs} epochs; on validation items {told}."


def cost(missing, folder, force, device):
    """What the missing runs take here, one at a time, from a step of each; one that cannot begin fails in its turn.

    Of a run that was begun only the epochs that are left. "" where all that is missing is what is done with finished runs.
    """
    from pyro_skipvae.reproduction.tables import epochs_of, is_finished, run_folder
    from pyro_skipvae.runs.folder import RunError

    costs, seconds, new = Costs(device), [], 0
    for run in missing:
        path = None if force else run_folder(run, folder)
        if path and is_finished(path):
            continue
        new += 1
        with contextlib.suppress(ValueError, RunError):
            done = max(epochs_of(path)["epoch"], default=0) if path else 0
            seconds.append(costs.of(run) * (1 - done / max(run.config.epochs, 1)))
    return f" The other {new} take about {duration(sum(seconds))} of training, one at a time." if new else ""


def _otherwise(which):
    """What makes a table another than it stands in its preset, as words for the name of its page."""
    named = {name: value for name, value in which.items() if value not in (None, False, "default")}
    return [name if value is True else value if name == "protocol" else f"{name.replace('_', '-')}-{value}"
            for name, value in named.items()]  # fmt: skip


def check_places(planned, device, results, folder):
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
    """Of each table its data, what is done, and what the rest would cost here, measured on a step of each cell."""
    note("Measuring a step of each cell that is not done.")
    costs, rows = Costs(device), []
    with user_errors():
        tables = [reproduction.load_table(each, **which) for each in ([name] if name else reproduction.table_names())]
    for wanted in tables:
        with user_errors():
            own, others = _stored(reproduction, wanted, results)
        missing = [run for run in wanted.runs if not reproduction.entry_for(run, own + others)]
        absent = costs.absent(wanted.runs)
        known = [run for run in missing if run.config.dataset not in absent]
        about = {"name": wanted.name, "title": wanted.title, "runs": len(wanted.runs), "done": len(wanted.runs) - len(missing)}
        data = {run.config.dataset: run.config.dataset not in absent for run in wanted.runs}  # whether it is here
        seconds = sum(map(costs.of, known)) if known or not missing else None
        rows.append({**about, "data": data, "seconds_left": seconds})
    return rows


def _listed(rows):
    header = ("name", "what", "data", "runs done", "training left, one run at a time")
    return table(header, [
        (row["name"], row["title"], ", ".join(name if here else f"{name} (not here)" for name, here in row["data"].items()),
         f"{row['done']} of {row['runs']}",
         "?" if row["seconds_left"] is None else duration(row["seconds_left"]) if row["done"] < row["runs"] else "-")
        for row in rows
    ])  # fmt: skip


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
            rows.append([row, f"{arm}, published", "", *(_published(found[column]) for column in shown)])
        rows.append([row, f"{arm}, ours" + label(wanted, row, arm), str(count), *(_ours(found[column]) for column in shown)])
        if published and count and is_comparable(wanted, row, arm):
            rows.append([row, "difference", "", *(_number(found[column].difference, "+") for column in shown)])
    return header, rows


def _text(wanted, entries):
    from pyro_skipvae.reproduction.words import premise

    before = "".join(f"{paragraph}\n\n" for paragraph in (wanted.title, *premise(wanted)))
    if not wanted.runs:
        return before.rstrip("\n") + "\n"
    return before + table(*_rows(wanted, entries)) + "\n" + "".join(f"{s}\n" for s in _sentences(wanted, entries))


def _markdown(wanted, entries):
    from pyro_skipvae.reproduction.words import premise

    before = "".join(f"{paragraph}\n\n" for paragraph in (f"**{wanted.title}**", *premise(wanted)))
    if not wanted.runs:
        return before.rstrip("\n") + "\n"
    header, rows = _rows(wanted, entries)
    lines = [header, ["---"] * len(header), *rows]
    grid = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return f"{before}{grid}\n" + "".join(f"- {s}\n" for s in _sentences(wanted, entries))


def _sentences(wanted, entries):
    from pyro_skipvae.reproduction.words import notes, orderings

    return [*orderings(wanted, entries), *([wanted.note] if wanted.note else []), *notes(wanted, entries)]


def _published(cell):
    inside = cell.bracketed and cell.bracketed.published
    return _number(cell.published) + (f" ({inside:g})" if inside is not None else "")


def _ours(cell):
    from pyro_skipvae.reports.rendering import decimals

    inside = f" ({_number(cell.bracketed.ours)})" if cell.bracketed and cell.ours is not None else ""
    if cell.deviation is None and cell.half_interval is not None and not inside:
        return f"{_number(cell.ours)} (±{cell.half_interval:.{decimals(cell.ours)}f})"
    if cell.deviation is None:
        return _number(cell.ours) + inside
    return f"{_number(cell.ours)} ± {cell.deviation:.{decimals(cell.ours)}f}{inside}"


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
