"""The commands: their options and help; what they do is in `training.py`, `evaluation.py` and `listing.py`."""

import json

import click

from pyro_skipvae.runs.config import PRESETS, Config

from . import text
from .echo import echo
from .errors import check_temporary_folder, user_errors
from .options import Duration, Grouped, OnNan, RunFolder, Seed, Whole, check_own, config_options, home_path, is_of_run, settings
from .signals import Signals

DEVICE = click.option("--device", default="auto", show_default=True, help="auto (CUDA, else CPU), or a torch device")
SEED = click.option("--seed", default=0, show_default=True, type=Seed(), help="seed of z and x")
JSON = click.option("--json", "as_json", is_flag=True, help="print the result as JSON on stdout")
DATASET = click.option("--dataset", metavar="FILE", help="the data of RUN, if they were moved  [default: where they were]")
RUN = click.argument("run", type=RunFolder())
REPORT = (
    click.option(
        "--report-budget",
        type=Duration(),
        help="seconds for the estimates that need the decoder  [default: fixed numbers of points]",
    ),
    click.option(
        "--elbo-points",
        type=Whole(2),
        metavar="N",
        help="test points of the ELBO and of the loss when z is shuffled  [default: by the kind of decoder]",
    ),
    click.option(
        "--log-likelihood-points",
        type=Whole(2),
        metavar="N",
        help="how many of these also for log p(x)  [default: by the kind of decoder]",
    ),
)


def report_options(command):
    """Give a command the options that say how much its report measures."""
    for option in reversed(REPORT):
        command = option(command)
    return command


def report_limits(report_budget, elbo_points, log_likelihood_points):
    """How much a report measures: the budget in seconds, and the numbers of points that were asked for."""
    asked = {"elbo_points": elbo_points, "log_likelihood_points": log_likelihood_points}
    points = {name: number for name, number in asked.items() if number is not None}
    if points and report_budget is not None:
        raise click.UsageError(f"expected --report-budget or --{next(iter(points)).replace('_', '-')}, got both")
    if len(points) == 2 and log_likelihood_points > elbo_points:
        raise click.UsageError(
            f"expected --log-likelihood-points of at most the --elbo-points, {elbo_points}, got {log_likelihood_points}"
        )
    return {"budget": report_budget, "points": points}


def examples(*lines):
    return "\b\nExamples:\n" + "\n".join(f"  skipvae-pyro {line}" for line in lines)


@click.command(
    cls=Grouped,
    epilog=examples(
        "train --out runs/digits",
        "train --dataset mnist --layers 9",
        "train --dataset mnist --decoder mlp --layers 4 --skip none --epochs 20",
        "train --dataset mnist --model autoregressive",
        "train --dataset my.npz --decoder mlp --prior vamp --components 500",
        "train --dataset ptb --model skip-sa-vae --preset text-small",
        "train --dataset my.txt --model lm --preset text-small",
        "train --resume runs/digits --epochs 100",
        "train --config runs/digits/config.toml --seed 1 --dry-run",
    )
)
@config_options
@click.option(
    "--preset", type=click.Choice(PRESETS), help="settings that belong together; flags override them  [default: none]"
)
@click.option("--config", "file", type=click.Path(exists=True, dir_okay=False), help="TOML file of settings")
@DEVICE
@click.option("--out", type=click.Path(file_okay=False), help="run folder  [default: runs/<name of the settings>]")
@click.option("--resume", type=click.Path(file_okay=False), help="go on with this run folder, exactly where it stopped")
@click.option("--checkpoint-minutes", default=10.0, show_default=True, type=Duration(), help="minutes between two checkpoints")
@click.option("--on-nan", default="stop", show_default=True, type=OnNan(), help="stop, or skip:N to leave out N steps at most")
@report_options
@click.option("--tensorboard", is_flag=True, help="write event files for TensorBoard, too")
@click.option("--print-config", is_flag=True, help="print the settings that would be used, as TOML, and stop")
@click.option("--dry-run", is_flag=True, help="print parameters, memory and time, from one batch; writes nothing")
@JSON
def train(
    preset,
    file,
    device,
    out,
    resume,
    checkpoint_minutes,
    on_nan,
    report_budget,
    elbo_points,
    log_likelihood_points,
    tensorboard,
    print_config,
    dry_run,
    as_json,
    **options,
):
    """Train a model, then report whether its latent variables collapsed.

    Without options: a 9-layer PixelCNN skip model on the digits of scikit-learn, in about two minutes on two cores.
    Every setting may also come from an environment variable, such as SKIPVAE_EPOCHS, or from a file: a flag wins over a
    variable, a variable over the file, and the file over the default. On SIGTERM, Ctrl-C or a closed terminal the run
    finishes its step, writes a checkpoint and exits with 143, 130 or 129; SIGUSR1 writes one and goes on.
    """
    if resume is not None and out is not None:
        raise click.UsageError("expected --resume RUN or --out RUN, got both")
    if "" in (resume, out):  # as from a variable of the shell that is not set
        raise click.UsageError("expected the name of a run folder, got an empty one")
    if resume:
        check_own(resume)
    limits = report_limits(report_budget, elbo_points, log_likelihood_points)
    out = out and home_path(out)
    check_temporary_folder()
    with Signals() as signals:
        flags = settings(preset, file, options)
        if not resume:
            with user_errors():
                Config.from_flags(flags)  # so that a mistake is told before torch is imported
        with signals.deferred():  # an import that is left in its middle fails in other words
            from .job import epochs_done, make_config, make_job, trial, trial_text, without_denormals
            from .several import join, together
            from .training import train_run, warn_of_idle

        click.get_current_context().with_resource(without_denormals())
        ranks = join()
        with together(ranks):
            config, data = make_config(flags, resume=resume)
            job = None if print_config else make_job(config, data, device=device, ranks=ranks)
        if print_config:
            if as_json:
                raise click.UsageError("expected --print-config or --json, got both: the settings are TOML")
            return echo(config.to_toml(), nl=False)
        settled = file and is_of_run(file)  # which names every setting
        warn_of_idle(job.config, {name: value for name, value in options.items() if value is not None} if settled else flags)
        if dry_run:
            costs = trial(job, done=epochs_done(resume) if resume else 0)
            return echo(json.dumps({"schema": 1, **costs}) if as_json else trial_text(costs))
        run, report = train_run(
            job,
            out=out,
            resume=resume,
            limits=limits,
            minutes=checkpoint_minutes,
            allowed=on_nan,
            signals=signals,
            tensorboard=tensorboard,
        )
    if report is not None:
        _show(report, as_json, run=str(run.path))


@click.command(
    epilog=examples(
        "evaluate runs/digits",
        "evaluate runs/digits --importance-samples 1000 --json > report.json",
        "evaluate runs/digits --elbo-points 10000 --log-likelihood-points 1000",
    )
)
@RUN
@click.option("--importance-samples", default=200, show_default=True, type=Whole(1), help="K of the bound on log p(x)")
@click.option("--posterior-samples", default=10, show_default=True, type=Whole(1), help="draws of z for each point")
@click.option(
    "--limit-eval",
    type=Whole(2),
    help="report on this many test items at most, the first ones, or random ones where they lie by class  [default: 10000, "
    "fewer where q(z|x) is refined or items are large]",
)
@click.option(
    "--mi-components",
    type=Whole(2),
    metavar="M",
    help="bounds on I(x; z) from all test items, each against M random ones  [default: the first 10000 against each other]",
)
@report_options
@click.option("--svi-steps", type=Whole(0), help="refine q(z|x) by this many steps  [default: as in training]")
@DATASET
@click.option(
    "--checkpoint",
    default="best",
    show_default=True,
    type=click.Choice(["best", "last"]),
    help="the epoch with the best validation, or the last one",
)
@click.option("--save", is_flag=True, help="replace the report.json of the run, and remove its page")
@DEVICE
@JSON
def evaluate(run, as_json, report_budget, elbo_points, log_likelihood_points, **options):
    """Report anew whether the latent variables of a finished RUN collapsed."""
    limits = report_limits(report_budget, elbo_points, log_likelihood_points)
    from .evaluation import evaluate_run

    _show(evaluate_run(run, limits=limits, **options), as_json, run=run)


@click.command(
    epilog=examples(
        "sample runs/digits",
        "sample runs/digits --count 100 --seed 1 --out hundred.png",
        "sample runs/digits --mean --out means.png",
        "sample runs/mine --count 1000 --out draws.csv",
        "sample runs/pydoc --decoding beam --count 20 --out twenty.txt",
    )
)
@RUN
@click.option("--count", type=Whole(1), help="how many  [default: 64 images or rows, 8 texts]")
@click.option("--mean", is_flag=True, help="the mean of p(x|z) for each z, instead of a draw  [default: draws]")
@click.option(
    "--prior",
    default="model",
    show_default=True,
    type=click.Choice(["model", "auxiliary"]),
    help="what z is drawn from: the model's prior, or the auxiliary one of a delta-VAE, fitted to its posteriors",
)
@text.decoding("sample")
@click.option("--seed", default=0, show_default=True, type=Seed(), help="seed of z and x")
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    help="PNG, .npz or .csv file, or text file  [default: samples.png, else samples.npz, in the run folder; texts on stdout]",
)
@DEVICE
@JSON
def sample(run, **options):
    """Draw from the model of RUN: z from the prior, x from the decoder; needs no data.

    Images become a PNG grid, means of p(x|z) above draws of x where the decoder has means. Other values become .npz (arrays
    x, z and mean) or .csv, and so do images where the file is named so. Texts are printed.
    """
    from .evaluation import sample_run

    sample_run(run, **options)


@click.command(epilog=examples("datasets", "datasets --data-dir /data --json"))
@click.option("--data-dir", type=click.Path(exists=True, file_okay=False), help="folder to look in first  [default: none]")
@JSON
def datasets(data_dir, as_json):
    """List the data sets: what each is, and where it was found or looked for."""
    from .listing import dataset_table

    with user_errors():
        echo(dataset_table(data_dir, as_json), nl=False)


def _show(report, as_json, run):
    echo(json.dumps({"schema": 1, "run": run, **json.loads(report.to_json())}) if as_json else str(report))
