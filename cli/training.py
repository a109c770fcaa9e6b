"""`train`: from flags to a trained model, a report and pictures in a run folder."""

import copy
import math
import time

import click
import pyro
import torch

from pyro_skipvae.build import build_beta, build_data, build_step, build_vae, choose_device, resolve
from pyro_skipvae.config import Config
from pyro_skipvae.diagnostics import active_units, rate
from pyro_skipvae.run import Run, new_folder
from pyro_skipvae.skip import parameter_count
from pyro_skipvae.train import evaluate_loss, fit, unfinished

from .errors import user_errors
from .evaluation import pictures, report_on
from .terminal import duration, progress

MONITOR_EVERY = 50  # steps between looks at rate and active units of the current batch


def train_run(flags, *, device, out, budget):
    """Train as the flags say; returns the run and its report. Notes and progress go to stderr."""
    with user_errors():
        config = Config.from_flags(flags)
        device = choose_device(device)
        data = build_data(config)
        config = resolve(config, data)
        pyro.clear_param_store()
        pyro.set_rng_seed(config.seed)
        vae = build_vae(config, data).to(device)
    batches = data.batches("train", config.batch_size, seed=config.seed)
    step = build_step(config, vae, config.epochs * len(batches))
    beta = build_beta(config, len(batches))
    run = Run.create(out or new_folder(config), config)
    _announce(config, data, vae, batches, beta, device, run)
    _train(config, data, vae, step, beta, batches, device, run)
    best = run.load("best")
    vae.load_state_dict(best["vae"])
    vae.eval()
    click.echo(f"Reporting on epoch {best['epoch']} of {config.epochs}.", err=True)
    report = report_on(vae, data, device=device, budget=budget, extra={"run": run.path.name, "epoch": best["epoch"]})
    run.write_report(report)
    pictures(run, vae, data, report, device=device)
    click.echo(f"Everything is in {run.path}.", err=True)
    return run, report


def _announce(config, data, vae, batches, beta, device, run):
    """What will be trained, and what it will cost on this machine, measured on a few steps of a copy."""
    sizes = f"{len(data.train):,} / {len(data.valid):,} / {len(data.test):,}"
    click.echo(
        f"{config.model}: {config.layers}-layer {config.decoder}, {parameter_count(vae):,} parameters, "
        f"on {data.name} ({sizes}, {data.binarisation}), {device}, seed {config.seed}; into {run.path}",
        err=True,
    )
    if config.epochs:
        epoch = _seconds_per_step(config, vae, data, device) * len(batches)
        total = duration(epoch * config.epochs)
        click.echo(f"An epoch takes about {duration(epoch)} here, the {config.epochs} epochs about {total}.", err=True)
    warning = unfinished(beta, config.epochs * len(batches))
    if warning and config.epochs:
        click.echo(f"Warning: {warning}.", err=True)


def _seconds_per_step(config, vae, data, device, steps=3):
    """Wall time of a step after the first, on a copy that is thrown away; the random numbers stay as they were."""
    with torch.random.fork_rng():
        step = build_step(config, copy.deepcopy(vae), steps)
        x = next(iter(data.batches("train", config.batch_size, seed=config.seed))).to(device)
        times = []
        for _ in range(steps + 1):
            start = time.perf_counter()
            step(x)  # returns the loss as a number, so the device has finished
            times.append(time.perf_counter() - start)
    pyro.clear_param_store()
    return sum(times[1:]) / steps


def _train(config, data, vae, step, beta, batches, device, run):
    best = math.inf
    if not config.epochs:
        run.save("last", {"vae": vae.state_dict(), "epoch": 0})
    with progress() as bar:
        task = bar.add_task("training", total=config.epochs * len(batches), status="")
        watched = Watched(step, vae, device, lambda status: bar.update(task, advance=1, status=status))
        for epoch in fit(watched, batches, epochs=config.epochs, beta=beta):
            metrics = {
                "epoch": epoch.number,
                "steps": epoch.steps,
                "train_loss": epoch.loss,
                "beta": epoch.beta,
                **_validate(config, data, vae, step, device),
                "seconds": epoch.seconds,
            }
            run.log(**metrics)
            state = {"vae": vae.state_dict(), "step": step.state_dict(), "epoch": epoch.number, "rng": torch.get_rng_state()}
            run.save("last", state)
            # Before beta has its final value the loss is another one, and lower for a smaller beta.
            if step.steps >= beta.reached and -metrics["valid_elbo"] < best:
                best = -metrics["valid_elbo"]
                run.save("best", state)
            if bar.disable:
                click.echo(_line(config, metrics), err=True)


class Watched:
    """The step of a run, on its device, that tells a progress bar the loss, the rate and the active units."""

    def __init__(self, step, vae, device, show):
        self.step, self.vae, self.device, self.show, self.monitored = step, vae, device, show, ""

    @property
    def steps(self):
        return self.step.steps

    def __call__(self, x, beta):
        x = x.to(self.device)
        loss = self.step(x, beta)
        if self.steps % MONITOR_EVERY == 1 and len(x) > 1:
            nats = rate(self.vae.model, self.vae.guide, x).value
            units = active_units(self.vae.model, self.vae.guide, x)
            self.monitored = f"rate {nats:.2f}  active {units}"
        self.show(f"loss {loss:.2f}  {self.monitored}")
        return loss


def _validate(config, data, vae, step, device):
    """Validation metrics at beta = 1 on as many points as cost a small part of an epoch; the same draws each time."""
    x = data.valid[: max(500, len(data.train) // 5)]
    vae.eval()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        loss = evaluate_loss(step, (part.to(device) for part in x.split(config.batch_size)))
    nats = rate(vae.model, vae.guide, x.to(device)).value
    units = active_units(vae.model, vae.guide, x.to(device))
    vae.train()
    measured = {"valid_elbo": -loss, "valid_rate": nats, "valid_distortion": loss - nats}
    return {**measured, "active_units": units, "valid_points": len(x)}


def _line(config, metrics):
    return (
        f"epoch {metrics['epoch']}/{config.epochs}  loss {metrics['train_loss']:.3f}  elbo {metrics['valid_elbo']:.3f}  "
        f"rate {metrics['valid_rate']:.2f}  active {metrics['active_units']}  {metrics['seconds']:.1f} s"
    )
