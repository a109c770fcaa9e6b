"""What a training run works with, made from its config; and what has to be kept of it to go on exactly."""

import contextlib
import copy
import itertools
import math
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pyro
import torch

from pyro_skipvae.data import DataError
from pyro_skipvae.random_numbers import forked
from pyro_skipvae.runs.build import build_beta, build_data, build_step, build_vae, choose_device, resolve
from pyro_skipvae.runs.checkpoint import random_state, set_random_state
from pyro_skipvae.runs.config import Config, ConfigError, is_path
from pyro_skipvae.runs.folder import Run, RunError, stopped
from pyro_skipvae.runs.memory import check_memory
from pyro_skipvae.runs.training_state import check_training, optimizer_of
from pyro_skipvae.schedules import Halving
from pyro_skipvae.skip import parameter_count
from pyro_skipvae.timing import least_seconds
from pyro_skipvae.training import Progress

from .errors import user_errors
from .matrix_products import check, multiplied
from .several import check_in_step, check_several, own_device
from .terminal import duration, looking

MEASURED = 32  # batches, of which one of mean size tells what a step costs
JUDGED_BY = "what is trained"  # the best epoch; once it was the ELBO also at a beta other than 1
FREE = ("epochs", "data_dir", "download", "dataset")  # may change on resume: how long, and where the data lie


def make_config(flags, *, resume):
    """(config, data) of some flags, or of a run folder whose settings the flags may not contradict."""
    if is_path(str(flags.get("dataset", ""))):  # of the user's own data, which are found from any folder later
        flags = {**flags, "dataset": str(Path(os.path.expanduser(flags["dataset"])).absolute())}
    if flags.get("data_dir"):
        flags = {**flags, "data_dir": str(Path(os.path.expanduser(flags["data_dir"])).absolute())}
    with user_errors():
        config = _continued(Run(resume), flags) if resume else Config.from_flags(flags)
        with looking() as told:
            try:
                data = build_data(config, told)
            except DataError as error:
                if resume and is_path(config.dataset):
                    raise DataError(f"{error}; if they were moved, name them with --dataset FILE") from None
                raise
        if resume and (about := Run(resume).description()):
            Run(resume).check_data(about.checksum, data)  # before anything else is asked of other data
        return resolve(config, data), data


def make_job(config, data, *, device, ranks=None):
    with user_errors():
        if ranks:
            check_several(config, ranks)
            device = own_device(device)
        return Job(config, data, choose_device(device), ranks)


def _continued(run, flags):
    """The config of a run with what the flags may change of it."""
    config = run.config()
    changed = {name: value for name, value in flags.items() if value != getattr(config, name)}
    refused = [f"{name} {changed[name]!r} (there {getattr(config, name)!r})" for name in changed if name not in FREE]
    if refused:
        raise ConfigError(f"expected the settings of {run.path} to resume it, got {', '.join(refused)}")
    return replace(config, **changed)


class Job:
    """Data, model, step, schedule and batches of a resolved config, and how far the training is."""

    def __init__(self, config, data, device, ranks=None):
        check_memory(config, data, device)
        check(config.matmul, device)
        self.config, self.data, self.device, self.ranks = config, data, device, ranks
        pyro.clear_param_store()
        pyro.set_rng_seed(self.config.seed)
        self.vae = build_vae(self.config, self.data).to(device)
        self.batches = self.data.batches("train", self.config.batch_size, seed=self.config.seed)
        self.steps = self.config.epochs * len(self.batches)
        self.halving = Halving(first=self.config.halving_epoch)
        self.sources = {"data": self.data, "batches": self.batches}
        self.beta = build_beta(self.config, len(self.batches))
        self.step = build_step(self.config, self.vae, self.steps, self.halving, ranks, self.beta, **self.sources)
        self.progress = Progress()
        self.best = math.inf  # the lowest validation loss at the final beta
        self.stalled = 0  # epochs since then

    @property
    def finished(self):
        return self.progress.epochs >= self.config.epochs or self.stopped

    @property
    def stopped(self):
        """Why the training ended before its last epoch, or None."""
        return stopped(self.config, self.stalled, self.halving)

    def selection(self, metrics):
        """What the validation of an epoch is judged by: -ELBO, or, where another thing is trained, that by its parts."""
        config, distortion, rate = self.config, metrics["valid_distortion"], metrics["valid_rate"]
        target = config.numbers[0] if config.bound == "target-rate" else config.rate_target
        if target is not None:
            return distortion + max(1.0, metrics["beta"]) * abs(rate - target)
        if config.procedure.startswith("adversarial-autoencoder") or config.bound in ("autoencoder", "batch-prior"):
            return distortion  # without what is of a batch: the critic's cost, or the KL of the mean posterior
        if config.bound == "mmd":  # without the MMD, which is of a batch
            return distortion + config.beta * (1 - config.numbers[1]) * rate
        if config.beta != 1 and "valid_bound" not in metrics:  # the rest of an objective is on a batch, or no cost of the model
            return distortion + config.beta * rate
        return -metrics.get("valid_bound", metrics["valid_elbo"])

    def judge(self, epoch, loss):
        """Whether the validation loss after an epoch is the best so far; before beta has its final value none is.

        Until then the loss is another one, and lower for a smaller beta: no patience is lost, no rate halved.
        """
        if self.step.steps <= (self.config.pretraining or 0) * len(self.batches) or self.step.steps < self.beta.reached:
            return False
        better = loss < self.best
        self.best, self.stalled = (loss, 0) if better else (self.best, self.stalled + 1)
        self.halving.after(epoch, better)
        return better

    @property
    def checkpoint_size(self):
        """Bytes of a checkpoint, about: all that is trained, and Adam's two moments."""
        trained = filter(None, (self.vae, self.step.auxiliary, getattr(self.step, "critic", None)))
        return 3 * sum(tensor.nbytes for module in trained for tensor in module.state_dict().values()) + 100_000

    def state(self):
        if self.ranks:
            check_in_step(self)
        step = self.step.state_dict()
        return {
            "vae": self.vae.state_dict(),
            "optimizer": step.pop("optimizer"),
            "step": step,
            "batches": self.batches.state_dict(),
            "progress": vars(self.progress),
            "epoch": self.progress.epochs,
            "best": self.best,
            "stalled": self.stalled,
            "halving": vars(self.halving),
            "random": random_state(self.device),
            "data": self.data.checksum,
            "judged_by": JUDGED_BY,
        }

    def restore(self, state):
        """Go on from a state. Raises RunError, before anything is changed, if it is of another model or no state at all."""
        try:
            check_training(state, vae=self.vae, step=self.step)
            self.batches.load_state_dict(state["batches"])
            self.vae.load_state_dict(state["vae"])
            self.step.load_state_dict({**state["step"], "optimizer": optimizer_of(state)})
            self.progress, self.best = Progress(**state["progress"]), state["best"]
            self.stalled = state["stalled"]
            if "judged_by" not in state and self.config.beta != 1:  # by an earlier version, and by another loss
                self.best, self.stalled = math.inf, 0
            vars(self.halving).update(state["halving"])
            set_random_state(state["random"], self.device, first=self.ranks is not None)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0].rstrip(":")  # torch names every tensor in lines of their own
            raise RunError(f"expected a checkpoint of this run, got another one: {reason}") from None


@contextlib.contextmanager
def without_denormals():
    """Numbers below 1e-38 are 0: Adam's averages of gradients that stay 0 decay to these, with which a CPU is slow.

    They were half of the time of a long training. To be entered before torch has threads, which take it over.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextlib.contextmanager
def as_trained():
    """Under this setting distributions check nothing, and Pyro does not warn: the step notices what is not finite."""
    checks = {"validate_distributions_pyro": False, "validate_distributions_torch": False}
    with pyro.settings.context(**checks), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered |the step is not compiled")  # the training tells the second itself
        yield


def seconds_per_step(job, steps=5):
    """The least time of some steps after the first, on a copy that is thrown away; the random numbers stay as they were."""
    with forked([job.device]), as_trained(), multiplied(job.config.matmul):
        config = job.config
        if config.moves is None:
            config = replace(config, procedure="joint")  # a step of which the others are made
        step = build_step(config, copy.deepcopy(job.vae), steps, ranks=job.ranks, **job.sources)
        batches = list(itertools.islice(job.data.batches("train", job.config.batch_size, seed=job.config.seed), MEASURED))
        mean = sum(x.numel() for x in batches) / len(batches)  # batches of text differ in length
        x = min(batches, key=lambda x: abs(x.numel() - mean)).to(job.device)
        step(x).item()
        seconds = least_seconds(lambda: step(x).item(), times=steps, device=job.device)
    pyro.clear_param_store()
    return seconds


def epochs_done(path):
    """The whole epochs of a run that is gone on with."""
    state, _ = Run(path).latest()
    return state["epoch"] if state else 0


def trial(job, done=0):
    """What the epochs that are left would cost, by the time of a step forward and backward, as plain values; writes nothing."""
    seconds = seconds_per_step(job, steps=3)
    if job.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(job.device)
    else:
        import resource  # not on Windows

        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "parameters": parameter_count(job.vae),
        "memory_bytes": memory,
        "data": job.data.where,
        "data_memory_bytes": job.data.memory,
        "checkpoint_bytes": job.checkpoint_size,
        "steps_per_epoch": len(job.batches),
        "seconds_per_epoch": seconds * len(job.batches),
        "epochs": job.config.epochs - done,
        "seconds": seconds * (job.config.epochs - done) * len(job.batches),
    }


def trial_text(costs):
    return (
        f"{costs['parameters']:,} parameters, {costs['memory_bytes'] / 1e6:,.0f} MB of memory, "
        f"{costs['checkpoint_bytes'] / 1e6:,.1f} MB a checkpoint\n"
        f"{costs['data']}\n"
        f"{costs['steps_per_epoch']:,} steps an epoch, about {duration(costs['seconds_per_epoch'])}; "
        f"{costs['epochs']} epochs to train, about {duration(costs['seconds'])}"
    )
