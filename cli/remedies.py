"""`compare --remedies`: runs that are missing are trained, then all are put side by side."""

import json
import os
from pathlib import Path

import click

from pyro_skipvae.runs.config import PRESETS

from .echo import echo
from .errors import RunsFailed, user_errors, written
from .notes import note
from .options import Duration, Whole
from .pool import Pool, kept_results
from .reproduction import check_places, cost
from .signals import Signals
from .terminal import table

OPTIONS = (
    click.option(
        "--remedies", metavar="NAMES", help="train what is missing of these first, such as skip,sa,skip+delta  [default: none]"
    ),
    click.option("--preset", type=click.Choice(PRESETS), help="for remedies: settings as of train  [default: none]"),
    click.option("--seeds", type=Whole(1), help="for remedies: runs of each  [default: 1]"),
    click.option("--jobs", type=Whole(1), help="for remedies: runs at a time  [default: the cores that are free]"),
    click.option(
        "--minutes", type=Duration(min_open=True), help="for remedies: stop then, with checkpoints  [default: no limit]"
    ),
    click.option(
        "--report-budget",
        type=Duration(),
        help="for remedies: seconds for the estimates that need the decoder  [default: fixed numbers of points]",
    ),
    click.option("--runs", "folder", help="for remedies: where run folders go  [default: runs/remedies]"),
    click.option("--results", help="for remedies: where results and the page go  [default: results]"),
    click.option("--html", type=click.Path(dir_okay=False), help="for remedies: the page  [default: in the results]"),
)


def remedy_options(command):
    """Give a command the options of a comparison of remedies."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def compare_remedies(names, flags, how, *, executor, device, as_json):
    """Train the runs of a comparison that are missing, write results and page, and print the table."""
    from pyro_skipvae.reproduction import remedies, remedy_words
    from pyro_skipvae.reproduction.remedy_page import write_remedies
    from pyro_skipvae.reproduction.tables import entry_for, read_results

    results, folder = Path(how["results"] or "results"), Path(how["folder"] or "runs/remedies")
    with user_errors():
        wanted = remedies.comparison_of(remedies.remedies_of(names), seeds=how["seeds"] or 1, **flags)
        file = results / f"{wanted.name}.json"
        checksum, is_now = _of_the_data_as_they_are(wanted)
        entries, others = is_now(read_results(file)), is_now(_committed())
    missing = [run for run in wanted.runs if not entry_for(run, entries + others)]
    failed = []
    if missing:
        check_places(missing, device, results, folder)
        _check_data(missing)
        note(f"{len(wanted.runs) - len(missing)} of {len(wanted.runs)} runs are done.{cost(missing, folder, False, device)}")
        jobs = how["jobs"] or (None if executor == "ray" else free_cores())
        limits = {"minutes": how["minutes"], "budget": how["report_budget"], "executor": executor, "checksum": checksum}
        pool = Pool(missing, folder, wanted.name, jobs=jobs, device=device, force=False, **limits)
        with Signals():
            for found in kept_results(pool, wanted, file, device):
                entries = is_now(found)
                _write(write_remedies, wanted, entries + others, how["html"] or file.with_suffix(".html"))
        failed = pool.failed
    entries = entries + others
    _write(write_remedies, wanted, entries, how["html"] or file.with_suffix(".html"))
    echo(json.dumps(remedy_words.as_json(wanted, entries), indent=2) if as_json else _text(wanted, entries), nl=as_json)
    if failed:
        raise RunsFailed(f"{len(failed)} runs failed: {'; '.join(failed)}")


def _committed():
    """The entries of all comparisons that come with the package: a run is known by its settings, and its data are one."""
    from pyro_skipvae.reproduction.tables import committed_results, read_results

    return [entry for file in sorted(committed_results().glob("remedies-*.json")) for entry in read_results(file)]


def _of_the_data_as_they_are(wanted):
    """The checksum of a file of one's own, None of data with a name, and a filter that leaves out entries of other contents.

    The filter tells how many these are. Entries of another vocabulary or length of texts are of another checksum anyway.
    """
    from pyro_skipvae.data.catalogue import DATASETS
    from pyro_skipvae.runs.build import build_data

    config = wanted.runs[0].config
    if config.dataset in DATASETS or not Path(config.dataset).exists():
        return None, list
    checksum, told = build_data(config).checksum, []
    same = {name: getattr(config, name) for name in ("dataset", "vocabulary_size", "max_words")}

    def of_now(entries):
        kept = [e for e in entries
                if any(e["settings"].get(name) != value for name, value in same.items()) or _checksum(e) in (None, checksum)
               ]  # fmt: skip
        if len(kept) < len(entries) and not told:
            told.append(len(entries) - len(kept))
            note(f"{config.dataset} has changed: {told[0]} runs on what it was are left out, and made anew where wanted.")
        return kept

    return checksum, of_now


def _checksum(entry):
    return entry["report"]["card"].get("data", {}).get("checksum")


def free_cores():
    """How many processor cores have nothing to do, by the load of the last minute; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, cores - round(load))


def _write(write_remedies, wanted, entries, target):
    with written(target):
        write_remedies(wanted, entries, target)


def _check_data(runs):
    """Tell which remedy does not suit the data, or would change nothing, before the first is trained."""
    from pyro_skipvae.reproduction.remedies import settings_of
    from pyro_skipvae.runs.build import build_data, resolve, without_effect
    from pyro_skipvae.runs.config import ConfigError

    data = None
    with user_errors():
        for run in {run.arm: run for run in runs}.values():
            data = data or build_data(run.config)
            try:
                own = settings_of(run.arm)
                idle = without_effect(resolve(run.config, data), own)
                for flag in (f"--{name.replace('_', '-')}" for name in own):
                    if flag in idle:
                        raise ConfigError(f"its {flag} does nothing here, since it needs {idle[flag]}: leave this remedy out")
            except ConfigError as error:
                raise ConfigError(f"{run.arm}: {error}") from None


def _text(wanted, entries):
    from pyro_skipvae.reproduction.remedy_words import lines, sentences

    grid = table(*lines(wanted, entries))
    return f"{wanted.title}\n\n{grid}\n" + "".join(f"{sentence}\n" for sentence in sentences(wanted, entries))
