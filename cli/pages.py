"""Commands that write pages of finished runs, and compare them."""


import math
from functools import partial

import click

from pyro_skipvae.runs.included import is_included

from .commands import DATASET, DEVICE, JSON, examples
from .echo import echo
from .errors import user_errors, written
from .executors import EXECUTOR, on_ray
from .models import data_of, loaded, moved
from .notes import note
from .options import Duration, RunFolder, Whole, config_options, settings
from .remedies import compare_remedies, remedy_options

RUNS = click.argument("runs", nargs=-1, required=True, type=RunFolder())
BUDGET = click.option(
    "--budget",
    type=Duration(),
    help="seconds for differences on the same test points; 0: no differences  [default: as many points as in the reports]",
)
DRAWS = click.option(
    "--posterior-samples", default=1, show_default=True, type=Whole(1), help="draws of z for each point"
)
IMPORTANCE = click.option(
    "--importance-samples",
    type=Whole(1),
    help="compare log p(x) on the same points too, with this many draws of z  [default: the ELBO and its parts]",
)
ALLOW = click.option(
    "--allow", multiple=True, metavar="FIELD", help="a field of the evaluation card that may differ  [default: none]"
)


@click.command(epilog=examples("report runs/digits", "report runs/vae runs/skip-vae --out both.html"))
@RUNS
@click.option(
    "--out", type=click.Path(dir_okay=False), help="HTML file  [default: report.html in the run; comparison.html here]"
)
@DATASET
@BUDGET
@DRAWS
@IMPORTANCE
@ALLOW
@DEVICE
def report(runs, out, dataset, budget, posterior_samples, importance_samples, allow, device):
    """Write a page on RUN, or one that compares several: a single HTML file, with its pictures inside."""
    from pyro_skipvae.reports import write_comparison

    if dataset and len(runs) > 1:
        raise click.UsageError("expected --dataset with one run, got several runs")
    if len(runs) == 1 and (given := _given("budget", "posterior_samples", "importance_samples", "allow")):
        raise click.UsageError(f"expected no {given[0]} with one run, whose page shows its report: use evaluate --save")
    if len(runs) == 1:
        return echo(_page(runs[0], out, dataset, device))
    records, comparison = _comparison(runs, budget, posterior_samples, importance_samples, allow, device)
    target = out or "comparison.html"
    with written(target):
        echo(write_comparison(records, comparison, target))


@click.command(
    epilog=examples(
        "compare runs/vae runs/skip-vae",
        "compare runs/vae-seed* runs/skip-seed* --budget 300 --json",
        "compare runs/vae runs/skip-vae --importance-samples 200 --budget 600",
        "compare runs/diagonal runs/flow --allow estimators.rate --allow estimators.elbo",
        "compare --remedies 'skip,sa,skip+sa,free-bits(4)' --dataset mnist --decoder mlp --epochs 20 --seeds 3",
    )
)
@click.argument("runs", nargs=-1, type=RunFolder())
@BUDGET
@DRAWS
@IMPORTANCE
@ALLOW
@remedy_options
@EXECUTOR
@DEVICE
@JSON
@config_options(without=("seed",), hidden=True)
def compare(
    runs, budget, posterior_samples, importance_samples, allow, executor, device, as_json,
    remedies, preset, seeds, jobs, minutes, report_budget, folder, results, html, **options,
):  # fmt: skip
    """Compare RUNs: their settings, their estimates, and the ELBO on the same test points.

    The others are compared with the first run. Runs that differ in the seed alone count as one model, and with two seeds of
    each there is a 95 % interval over seeds, too. Runs whose evaluation cards disagree are refused.

    With --remedies, the missing runs are trained first: the plain VAE and each remedy named, where + joins several. All
    settings of `train` can be given, such as --dataset, --epochs or --layers, and hold for all runs. Finished runs are
    recognised by their settings; interrupted ones go on. The result is a table, a page with pictures and a file of results.
    """
    how = {"preset": preset, "seeds": seeds, "jobs": jobs, "minutes": minutes, "report_budget": report_budget}
    how |= {"folder": folder, "results": results, "html": html}
    if remedies is None:
        _check_runs(runs, how, options)
        records, comparison = _comparison(runs, budget, posterior_samples, importance_samples, allow, device, executor)
        return echo(comparison.to_json() if as_json else _text(records, comparison), nl=as_json)
    if given := _given("runs", "budget", "posterior_samples", "importance_samples", "allow"):
        raise click.UsageError(f"expected no {given[0]} beside --remedies, which compares the runs that it makes")
    return compare_remedies(remedies, settings(preset, None, options), how, executor=executor, device=device, as_json=as_json)


def _check_runs(runs, how, options):
    """Raises UsageError for no runs, and for flags that need --remedies."""
    if given := _given(*how, *options):
        raise click.UsageError(f"expected --remedies with {given[0]}, which says how runs are made")
    if not runs:
        raise click.UsageError("expected the folders of runs to compare, or --remedies with the names of some")


def _given(*names):
    """Those of some parameters that the command line gives, as they are written there."""
    context = click.get_current_context()
    written = {param.name: param.opts[0] if param.param_type_name == "option" else "RUN" for param in context.command.params}
    return [written[name] for name in names if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE]


def _page(run, out, dataset, device):
    """Write the page of a run; without its data, with the pictures that its folder holds."""
    from pyro_skipvae.data.folder import DataError
    from pyro_skipvae.reports import write_page

    try:
        with user_errors():
            found = loaded(run, device, dataset=dataset)
            vae, data = found.vae, data_of(found)
    except DataError as error:
        note(f"No pictures were drawn anew, for want of the data: {error}")
        vae = data = None
    out = out or ("report.html" if is_included(run) else None)
    with written(out):
        return write_page(run, vae=vae, data=data, out=out)


def _comparison(runs, budget, samples, importance_samples, allowed, device, executor="local"):
    from pyro_skipvae.data.folder import DataError
    from pyro_skipvae.reports.comparison import check_comparable, compare, grouped, paired_points, paired_values, read_record
    from pyro_skipvae.runs.build import choose_device

    from .terminal import progress

    if budget == 0 and (given := _given("posterior_samples", "importance_samples")):
        raise click.UsageError(f"expected no {given[0]} with --budget 0, which draws nothing")
    with user_errors():
        records, values, device = [read_record(run) for run in runs], None, choose_device(device)
        check_comparable(records, allowed)  # before minutes are spent
        if budget != 0 and len(grouped(records)) > 1:
            with progress() as bar:
                task = bar.add_task("comparing", total=1, status="")

                def show(done, total):
                    bar.update(task, completed=done, total=total)

                about = {"samples": samples, "importance_samples": importance_samples, "device": device}
                points = None if budget else paired_points(records, importance_samples)
                about |= {"points": points, "seconds": budget or math.inf}
                local = executor == "local"
                try:
                    values = paired_values(records, **about, progress=show) if local else _values_on_ray(records, about)
                except DataError as error:
                    without = "--budget 0 compares without differences on the same points"
                    raise DataError(f"{error}; if they were moved, {moved(records[0])}, in each run; {without}") from None
        return records, compare(records, values=values, allowed=allowed)


def _values_on_ray(records, about):
    """What `paired_values` gives, each run on a machine of the cluster; with a budget, on the points that all reached."""
    from pyro_skipvae.reports.comparison import paired_values

    found = {}
    for values in on_ray(partial(paired_values, **about), [[record] for record in records]):
        found |= values
    count = min(len(values["elbo"]) for values in found.values())
    return {path: {name: each[:count] for name, each in values.items()} for path, values in found.items()}


def _text(records, comparison):
    """A comparison as text: the answer first, then settings, differences and estimates."""
    from pyro_skipvae.reports.comparison import LABELS

    from .terminal import table

    parts = [_answer(comparison, d) for d in comparison.differences if d.quantity == "elbo"]
    if comparison.settings:
        rows = [(name, *("-" if value is None else str(value) for value in row)) for name, row in comparison.settings.items()]
        parts.append(table(("setting", *comparison.runs), rows))
    if comparison.differences:
        rows = [
            (d.quantity, f"{d.of} - {d.minus}", f"{d.value:+z.3f}", f"{d.low:+z.3f} to {d.high:+z.3f}",
             "-" if d.over_seeds is None else "{:+z.3f} to {:+z.3f}".format(*d.over_seeds))
            for d in comparison.differences
        ]  # fmt: skip
        header = (f"on the same {comparison.points:,} points", "difference", "nats", "95 % interval", "95 % over seeds")
        parts.append(table(header, rows))
    rows = [(LABELS[name], *(_cell(e) for e in row)) for name, row in comparison.estimates.items()]
    parts.append(table(("estimate", *comparison.runs), rows))
    for group, found in comparison.over_seeds.items():
        rows = [(LABELS[name], f"{v['mean']:.3f}", f"{v['standard_error']:.3f}") for name, v in found.items()]
        parts.append(table((f"over {', '.join(comparison.groups[group])}", "mean", "standard error"), rows))
    return "\n".join(parts + [note + "\n" for note in comparison.notes])


def _answer(comparison, d):
    of, minus = (", ".join(comparison.groups[name]) for name in (d.of, d.minus))
    seeds = "over test points, not over seeds"
    if d.over_seeds is not None:
        seeds = "over test points; over seeds {:+z.2f} to {:+z.2f}".format(*d.over_seeds)
    found = f"{of} {'better' if d.shown > 0 else 'worse'} than {minus}"
    if not d.shown:
        found = f"No difference in ELBO shown between {of} and {minus}"
    return (
        f"{found}: ELBO {d.value:+z.2f} nats per datapoint "
        f"({d.low:+z.2f} to {d.high:+z.2f}, {seeds}), higher on {100 * d.better:.0f} % of {comparison.points:,} points.\n"
    )


def _cell(estimate):
    if estimate is None:
        return "-"
    if isinstance(estimate.value, int):
        return str(estimate.value)
    interval = "" if estimate.low is None else f"  ({estimate.low:z.2f} to {estimate.high:z.2f})"
    return f"{estimate.value:z.3f}{interval}"
