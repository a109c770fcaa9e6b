"""`train`: from a job to a trained model, a report and pictures in a run folder."""

import contextlib
import dataclasses
import json
import math
import shlex
import signal
import time
from pathlib import Path

import torch

from pyro_skipvae.data.on_disk import OnDisk
from pyro_skipvae.diagnostics import CollapseReport, active_units, rate
from pyro_skipvae.diagnostics.estimates.active_units import half_means, mean_variances
from pyro_skipvae.diagnostics.estimates.rate import per_dimension
from pyro_skipvae.diagnostics.pairs.pair import Chunk
from pyro_skipvae.diagnostics.report.sizes import HELD
from pyro_skipvae.random_numbers import forked
from pyro_skipvae.reports.captions import values_read
from pyro_skipvae.reports.comparison import PARTS, values_per_point
from pyro_skipvae.runs import auxiliary
from pyro_skipvae.runs.build import USUAL_SCALING, latent_dim, statistics_items, without_effect
from pyro_skipvae.runs.committed import committed_by
from pyro_skipvae.runs.config import is_path
from pyro_skipvae.runs.folder import Run, new_folder
from pyro_skipvae.schedules import unfinished
from pyro_skipvae.skip import parameter_count
from pyro_skipvae.training import evaluate_loss, fit

from . import matrix_products
from .errors import NonfiniteError, Stopped, UserError, user_errors
from .evaluation import pictures, report_on
from .job import as_trained, seconds_per_step
from .notes import note, warn
from .several import SilentRun, start_alike, together
from .terminal import duration, progress

ACTIVE = 0.01  # variance of the posterior mean from which on a unit counts
VALIDATED = 50_000  # validation points at most: their standard error is far below what epochs differ by
ROUNDING = 1e-4  # of a rate in float32, relative
LOOK_EVERY = 50  # steps between looks at what the device knows: what was not finite, and, for a terminal, the loss


def train_run(job, *, out, resume, limits, minutes, allowed, signals, tensorboard):
    """Train a job in its folder; returns the run and its report. Notes and progress go to stderr.

    A checkpoint is written after every epoch, every so many `minutes`, and when `signals` ask for it; `allowed` steps
    may be left out because something was not finite; `limits` say how much the report measures. `tensorboard` writes event
    files beside the metrics. Of several processes the first one writes and reports; the report of the others is None.
    """
    first = job.ranks is None or job.ranks.first
    run = (Run if first else SilentRun)(resume or out or new_folder(job.config))
    with contextlib.ExitStack() as held:
        with together(job.ranks):
            held.enter_context(run.locked(new=not resume))
            _resume(job, run) if resume else _begin(job, run)
        if job.ranks:
            start_alike(job)
        if not resume and not job.config.epochs:
            run.save("last", job.state())
        if job.finished and not first:
            return run, None
        report = _written_report(run) if job.finished else None
        if report is not None:
            if not (run.path / "report.html").exists():
                run.load_weights(job.vae)
                pictures(run, job.vae.eval(), job.data)
            note(f"{run.path} is finished: {job.progress.epochs} epochs of {job.config.epochs}.")
            if any(limits.values()):
                note(f"Its report is as it was; evaluate {_quoted(run)} --save makes another.")
            return run, report
        if not job.finished:
            _announce(job, run)
            with signals.deferred(), as_trained(), matrix_products.multiplied(job.config.matmul), progress() as bar:
                board = Board(job, run) if tensorboard and first else None
                Training(job, run, bar, signals, minutes, allowed, board).run_epochs()
        return run, _report(job, run, limits) if first else None


def _steps_lost(config, data):
    """What it means that an average text reads few of the steps of z; empty where it reads most."""
    steps, words = latent_dim(config, data)[0], data.describe()["tokens"]["train"] / len(data.train)
    read = math.ceil(words / config.chunk)
    return "" if read > steps / 2 else (
        f"z has {steps} steps, one for each {config.chunk} words. An average text of {words:.0f} words reads {read} of them, "
        "and what is committed for the others tells it nothing: --max-words leaves out long texts and makes z shorter."
    )  # fmt: skip


def _written_report(run):
    """The report of a finished run; None if there is none that can be read, so that it is made again."""
    file = run.path / "report.json"
    if not file.exists():
        return None
    try:
        text = file.read_text(encoding="utf-8")
        report = CollapseReport.from_json(text)
    except (OSError, ValueError):
        warn(f"{file} is not a whole report; making it again.")
        return None
    if report.card.get("unfinished"):  # `evaluate --save` made it before the training had ended
        return None
    if not run.is_current(json.loads(text)):
        warn(f"{file} is of another checkpoint; making it again.")
        return None
    return report


def _begin(job, run):
    run.check_space(job.checkpoint_size)
    run.begin(job.config, job.data)


def _resume(job, run):
    """Put the job where the last checkpoint was taken; a run that has none yet starts anew."""
    run.check_space(job.checkpoint_size)
    with user_errors():
        run.check_vocabulary(job.data)
    state, trouble = run.latest()
    if trouble:
        warn(f"{trouble}; going on from the checkpoint before it.")
    if state is not None:
        run.check_data(state.get("data", job.data.checksum), job.data)  # without one it is no checkpoint of a run at all
        run.check_part(job.data)
        job.restore(state)
    else:
        run.check_begun()
    done, epochs = job.progress.epochs, job.config.epochs
    begun = 0 < job.batches.position < len(job.batches)
    if epochs < done + begun:
        raise UserError(f"expected --epochs of at least {done + begun}, the epochs that {run.path} has begun, got {epochs}")
    if job.stopped and epochs != run.config().epochs:
        anew = f"train anew with --config {shlex.quote(str(run.path / 'config.toml'))} --epochs {epochs} --out FOLDER"
        raise UserError(
            f"expected --epochs {run.config().epochs}, those of {run.path}, which stopped after epoch {done} ({job.stopped}), "
            f"got {epochs}: {anew}"
        )
    run.cut_metrics(job.progress.epochs)
    for name in () if job.finished else ("report.json", "report.html", auxiliary.FILE):  # of a run that was shorter
        run.remove(name)
    run.write("config.toml", job.config.to_toml())
    if not job.finished:
        where = f"epoch {job.progress.epochs + 1}, batch {job.batches.position + 1}"
        note(f"Resuming {run.path} at {where} (step {job.step.steps}).")


def _announce(job, run):
    """What will be trained, and what it will cost on this machine, measured on a few steps of a copy."""
    config, data = job.config, job.data
    sizes = f"{len(data.train):,} / {len(data.valid):,} / {len(data.test):,}"
    note(
        f"{config.model}: {config.layers}-layer {config.decoder}, {parameter_count(job.vae):,} parameters, "
        f"on {data.name} ({sizes}, {data.binarisation}), {job.device}{_by_several(job)}, seed {config.seed}; into {run.path}"
    )
    note(values_read(config, data))
    if is_path(config.dataset):
        note(f"Splits: {data.split}.")
    note(data.where)
    if isinstance(data.train, OnDisk) and config.scaling not in (None, "none"):
        counted = len(statistics_items(data.train))
        note(f"Mean and deviation of the values are those of {counted:,} training items, evenly spread.")
    committed = committed_by(job.vae)
    if committed is not None:
        bits = committed / math.log(2)
        by = "prior" if job.config.prior == "ar1" else "guide"
        note(f"The {by} commits {committed:.3f} nats ({bits:.2f} bits) for each datapoint: no rate is below.")
    if config.prior == "ar1" and data.vocabulary is not None and (lost := _steps_lost(config, data)):
        note(lost)
    if config.compile:
        note("Compiling the step, which may take minutes; the next run of the same model finds most of it done.")
    if config.procedure == "lagging":
        note("While the encoder is trained first, a step takes up to a hundred of the steps that are measured here.")
    seconds = seconds_per_step(job)
    left = job.steps - job.step.steps
    note(
        f"An epoch takes about {duration(seconds * len(job.batches))} here, "
        f"{f'{config.epochs} of them' if left == job.steps else 'what is left'} about {duration(seconds * left)}."
    )
    if data.kind == "text":
        unknown = data.describe()["unknown_rate"]
        if not unknown["train"] and unknown["test"]:
            warn(
                f"No word of the training text is unknown, and {unknown['test']:.1%} of the test text are: their probability "
                "cannot be learned; with a smaller --vocabulary-size the rarest are unknown."
            )
    warning = unfinished(job.beta, job.steps)
    if warning:
        warn(f"{warning}.")


def warn_of_idle(config, given):
    """Name the settings that do nothing; `given` are those of this call."""
    for flag, wanted in without_effect(config, given).items():
        warn(f"{flag} does nothing here: it needs {wanted}.")


def _by_several(job):
    return f", {job.ranks.size} processes" if job.ranks else ""


def _fitted_auxiliary(job, run):
    """The auxiliary prior of a run with an AR(1) prior or codes, fitted to posteriors of training data and kept; else None."""
    if job.config.prior not in ("ar1", "uniform-categorical"):
        return None
    note("Fitting an auxiliary prior to the posteriors of training data.")
    points = min(auxiliary.POINTS, max(2, HELD // math.prod(job.data.event_shape)))
    fitted = auxiliary.fit(job.vae, job.data.first("train", points).to(job.device), seed=job.config.seed)
    auxiliary.save(run.path, fitted)
    return fitted


def _report(job, run, limits):
    """The report on the best epoch, then the page and its pictures, which are made from it."""
    best, loaded = run.load_weights(job.vae)
    job.vae.eval()
    if any(line["epoch"] == best["epoch"] and line["valid_elbo"] is None for line in run.metrics()):
        what = f"the validation loss of epoch {best['epoch']} is not finite"
        raise NonfiniteError(f"{what}: nothing to report on; {_advice(job)}")
    note(f"Reporting on epoch {best['epoch']} of {job.config.epochs}.")
    extra = {"run": run.path.resolve().name, "epoch": best["epoch"], "checkpoint": loaded}
    extra |= {"checkpoint_sha256": best["checksum"], "settings": dataclasses.asdict(job.config)}
    fitted = _fitted_auxiliary(job, run)
    with user_errors():  # of a model that does not admit what is asked
        report = report_on(job.vae, job.data, device=job.device, **limits, extra=extra, auxiliary_prior=fitted)
    run.remove("report.html")  # before: none of another report is left if this ends here, or before the page is written
    run.write_report(report)
    pictures(run, job.vae, job.data)
    note(f"Everything is in {run.path.resolve() if run.path == Path() else run.path}.")
    return report


def _quoted(run):
    return shlex.quote(str(run.path))


def _advice(job):
    usual = USUAL_SCALING[job.data.kind]
    if job.config.scaling == "none" and usual != "none":  # no learning rate is small enough for values in the thousands
        return f"train anew with --scaling {usual}"
    return "lower --lr" if job.config.inference == "amortized" else "lower --lr or --svi-lr"


class Training:
    """The epochs of a job: after every step it looks at the signals and the clock, after every epoch it validates."""

    def __init__(self, job, run, bar, signals, minutes, allowed, board):
        self.job, self.run, self.bar, self.signals, self.board = job, run, bar, signals, board
        self.minutes, self.allowed, self.left_out, self.stop = minutes, allowed, 0, None
        self.saved, self.compiled, self.phase = time.monotonic(), (0, None), {}
        self.shown, self.measured = -math.inf, ""  # when the bar was last written anew; rate and units of a batch
        self.task = bar.add_task(self._epoch(), total=job.steps, completed=job.step.steps, status="")

    def run_epochs(self):
        job = self.job
        feed = Feed(job.batches, job.device, self.after_step)
        about = {"epochs": job.config.epochs, "beta": job.beta, "progress": job.progress}
        for epoch in fit(job.step, feed, **about, callback=self.after_epoch):
            metrics = {
                "epoch": epoch.number,
                "steps": epoch.steps,
                "train_loss": epoch.loss,
                "beta": epoch.beta,
                **_validate(job),
                **_committed(job),
                **self.phase,
                "seconds": epoch.seconds,
                "cpu_seconds": epoch.cpu_seconds,
            }
            self.check_finite()
            _check_committed(metrics)
            self.run.log(**metrics)
            if self.board:
                self.board.epoch(metrics)
            if job.ranks:
                job.ranks.wait()  # the first process alone draws, and writes
            if job.judge(epoch.number, job.selection(metrics)):
                self.run.save("best", job.state())  # before last: killed between the two, this epoch is done again
                if job.ranks:
                    job.ranks.wait()
            self.save()
            if self.bar.disable:
                note(_line(job.config, metrics))
            if job.stopped:
                note(f"Stopped after epoch {epoch.number}: {job.stopped}.")
                return
            self.is_save_due()
            self.leave_if_asked()

    def after_epoch(self, epoch):
        """Let lagging inference measure whether its aggressive phase goes on; what it found goes into the metrics."""
        measure = getattr(self.job.step, "after_epoch", None)
        found = measure() if measure else None
        self.phase = {} if found is None else {"valid_mutual_information": found}
        if found is not None and not self.job.step.phase.active:
            note(f"Epoch {epoch.number}: I(x; z) of the validation data no longer rises; from now on all train at once.")

    def after_step(self, x):
        self.bar.update(self.task, advance=1)
        self.tell_compilation()
        if self.job.step.steps % LOOK_EVERY == 0:
            self.check_finite()
        if not self.bar.disable:
            self.show(x)
        if self.is_save_due():
            self.check_finite()
            self.save()
        self.leave_if_asked()

    def is_save_due(self):
        """Whether a checkpoint is to be written now: it is time, or a signal asked for it, or for a stop, in any process."""
        overdue = time.monotonic() - self.saved > 60 * self.minutes
        asked = overdue, self.signals.save, self.signals.stop is not None
        if self.job.ranks:
            asked = self.job.ranks.any(*asked)
        if asked[2]:
            self.stop = self.signals.stop or signal.SIGTERM
        return any(asked)

    def tell_compilation(self):
        """One line for each graph that was made, or why none was."""
        found = self.job.step.compilation
        if found is None or (found.graphs, found.refused) == self.compiled:
            return
        self.compiled = (found.graphs, found.refused)
        if found.refused:
            warn(f"The step is not compiled, since {found.refused}; training goes on as without --compile.")
        else:
            sizes = f"{found.graphs} size{'s' * (found.graphs > 1)}"
            note(f"The step is compiled for batches of {sizes}, in {duration(found.seconds)} so far.")

    def show(self, x):
        """Write epoch and loss on the bar, twice a second at most; rate and active units are measured less often."""
        if self.job.step.steps % LOOK_EVERY == 1:
            self.measured, self.shown = _measured(self.job, x), -math.inf
        if time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            self.bar.update(self.task, description=self._epoch(), status=f"loss {_loss(self.job):.2f}{self.measured}")

    def _epoch(self):
        epochs = self.job.config.epochs
        return f"epoch {min(self.job.progress.epochs + 1, epochs)} of {epochs}"

    def save(self):
        self.signals.save = False
        self.run.save("last", self.job.state())
        if self.job.ranks:
            self.job.ranks.wait()  # as long as it takes to write
        self.saved = time.monotonic()

    def leave_if_asked(self):
        if self.stop:
            where = f"a checkpoint of step {self.job.step.steps} is written; go on with --resume {_quoted(self.run)}"
            raise Stopped(self.stop, where)

    def check_finite(self):
        """Write down what was not finite, and raise if it was so in more steps than allowed."""
        found = self.job.step.nonfinite()
        if found is None or found.steps == self.left_out:
            return
        self.left_out = found.steps
        what = f"{' and '.join(found.what)} of step {found.first} not finite, steps left out: {found.steps}"
        self.run.write("nonfinite.json", json.dumps(dataclasses.asdict(found) | _batch_of(self.job, found.first)) + "\n")
        if found.steps > self.allowed:
            raise NonfiniteError(
                f"{what}; the parameters never saw them; its batch is in {self.run.path / 'nonfinite.json'}; "
                f"{_advice(self.job)}, or go on with --resume {_quoted(self.run)} --on-nan skip:{max(10, 10 * found.steps)}"
            )
        warn(f"{what}.")


class Board:
    """TensorBoard's view of a run: the metrics of an epoch, the rate of each dimension, and the same 64 draws of z and x."""

    def __init__(self, job, run):
        from pyro_skipvae.reports.tensorboard import TensorBoard  # takes two seconds to import

        self.job, self.writer = job, TensorBoard(run.path / "tensorboard", steps=job.step.steps)

    def epoch(self, metrics):
        from pyro_skipvae.reports.figures import can_draw
        from pyro_skipvae.reports.model_pictures import as_grey

        vae, data = self.job.vae.eval(), self.job.data
        with forked([self.job.device], 0), torch.no_grad():
            rates = per_dimension(vae.posterior(data.valid[:500].to(self.job.device)), vae.prior())
            images = vae.decoder(vae.prior().sample((64,))).sample() if can_draw(data.event_shape) else None
        rates = None if rates is None else rates.mean(0)
        shown = None if images is None else {"samples": as_grey(images.cpu(), data.kind)}
        self.writer.epoch(metrics, rate_per_dimension=rates, images=shown)
        vae.train()


class Feed:
    """Batches on a device; `after(x)` is called when the step on x is done and its loss counted."""

    def __init__(self, batches, device, after):
        self.batches, self.device, self.after = batches, device, after

    def __iter__(self):
        for x in self.batches:
            x = copied(x, self.device)
            yield x
            self.after(x)


def copied(x, device):
    """A batch on the device; a GPU copies it from pinned memory while the program goes on."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def _batch_of(job, step):
    """Which items a step saw: the epoch and batch (from 0), the indices of its items, and the seed of their draw."""
    epoch, batch = divmod(step, len(job.batches))
    indices = job.batches.order(epoch)[batch * job.batches.size : (batch + 1) * job.batches.size]
    return {"epoch": epoch, "batch": batch, "indices": indices.tolist(), "seed": job.config.seed}


def _loss(job):
    """The mean loss of the epoch so far."""
    return float(job.progress.loss) / max(int(job.progress.datapoints), 1)


def _measured(job, x):
    """Rate and active units of a batch, in words; "" where it is too small."""
    if len(x) < 2:
        return ""
    try:
        nats = rate(job.vae.model, job.vae.guide, x).value
        units = active_units(job.vae.model, job.vae.guide, x, posterior_samples=20)
    except ValueError:  # q(z|x) is not finite: the step that made it so says more
        return "  rate ?  active ?"
    return f"  rate {nats:.2f}  active {units}"


def _validate(job):
    """Validation metrics at beta = 1 on as many points as cost a small part of an epoch; the same draws each time.

    The ELBO and its parts from one draw of z for each point; where a bound of several draws is trained, also `valid_bound`.
    """
    count = min(len(job.data.valid), VALIDATED, max(500, len(job.data.train) // 5))
    job.vae.eval()
    with forked([job.device], job.config.seed), torch.no_grad():
        values, means = [], []
        for part in _valid(job, count):
            found, halves = _validated(job, part)
            values.append(found)
            means.append(halves)
        elbo, nats, distortion = (torch.cat([value[name] for value in values]).mean().item() for name in PARTS)
        bound = {"valid_bound": -evaluate_loss(job.step, _valid(job, count))} if job.config.particles > 1 else {}
    job.vae.train()
    units = int((mean_variances(torch.cat(means, 1)) >= ACTIVE).sum())
    measured = {"valid_elbo": elbo, "valid_rate": nats, "valid_distortion": distortion, **bound}
    return {**measured, "active_units": units, "valid_points": count}


def _valid(job, count):
    """The first validation items in batches, of items that lie class by class a fixed random part."""
    items = job.data.first("valid", count) if "valid" in job.data.by_class else job.data.valid  # a file is read by batches
    for start in range(0, count, job.config.batch_size):
        yield items[start : min(count, start + job.config.batch_size)].to(job.device)


def _validated(job, x):
    """(ELBO and its parts of each row of x, two estimates of its mean of z); of several processes each computes some rows."""
    if job.ranks is None:
        q = job.vae.posterior(x)
        return values_per_point(job.vae, x, q=q), half_means(Chunk(0, (x,), q))
    with job.ranks.noise(len(x)):
        rows = job.ranks.share(x)
        q = job.vae.posterior(rows)
        values, halves = values_per_point(job.vae, rows, q=q), half_means(Chunk(0, (rows,), q))
    whole = {name: job.ranks.whole(value, len(x)) for name, value in values.items()}
    return whole, job.ranks.whole(halves.transpose(0, 1), len(x)).transpose(0, 1)


def _committed(job):
    committed = committed_by(job.vae)
    return {} if committed is None else {"committed_rate": committed}


def _check_committed(metrics):
    """The bound holds for every posterior: a rate below it is a fault of ours, in the KL or in the bound.

    Without a committed rate nothing is checked: a rate that is estimated from draws may be a little below 0.
    """
    least = metrics.get("committed_rate")
    if least is not None and metrics["valid_rate"] < least - ROUNDING * max(1.0, metrics["valid_rate"]):
        raise RuntimeError(f"expected a rate of at least the committed {least} nats, got {metrics['valid_rate']}")


def _line(config, metrics):
    return (
        f"epoch {metrics['epoch']}/{config.epochs}  loss {metrics['train_loss']:.3f}  elbo {metrics['valid_elbo']:.3f}  "
        f"rate {metrics['valid_rate']:.2f}  active {metrics['active_units']}  {metrics['seconds']:.1f} s"
    )
