"""What a run is patched with before it starts: a signal or something not finite at a step, a look at its memory."""

import json
import os
import resource
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from pyro_skipvae.data import DataError, contents, dataset
from pyro_skipvae.runs.folder import Run
from pyro_skipvae.training.step import SVIStep
from pyro_skipvae_cli import evaluation, job, training

step_once = SVIStep.__call__


def environment(variables):
    os.environ.update({name: str(value) for name, value in variables.items()})


def no_report():
    """Leave out report, pictures and the estimate of time: they take longer than a tiny run."""
    training._report = lambda _, run, __: run.write("report.json", "{}")
    training.CollapseReport = SimpleNamespace(from_json=lambda _: SimpleNamespace(card={"unfinished": True}))
    no_pictures()
    training.seconds_per_step = job.seconds_per_step = lambda *_, **__: 0.0


def no_pictures():
    training.pictures = evaluation.pictures = lambda *_, **__: None


def full_disk(epoch):
    """Let the disk take no more than 100 kB a file from the end of an epoch on."""
    log = Run.log

    def full(self, **metrics):
        log(self, **metrics)
        if metrics["epoch"] == epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    Run.log = full


def signal_at(step, number):
    """Send this process a signal in the middle of a step, counted from 1."""
    _after_step(lambda done: done == step and os.kill(os.getpid(), number))


def signal_in_data(number):
    """Send this process a signal while a data set is read, where anything raised counts as damage."""
    read = contents.checksum

    def interrupted(*arrays):
        try:
            os.kill(os.getpid(), number)
            return read(*arrays)
        except Exception as error:
            raise DataError("damaged") from error

    dataset.checksum = interrupted


def signal_in_report(number):
    training.report_on = lambda *_, **__: os.kill(os.getpid(), number)


def end_at(step):
    """Leave in the middle of a step, as after a crash."""
    _after_step(lambda done: done == step and os._exit(1))


def slowly(seconds):
    """Wait in every step."""
    _after_step(lambda _: time.sleep(seconds))


def _after_step(act):
    once = SVIStep.__call__

    def call(self, *arguments):
        loss = once(self, *arguments)
        act(self.steps)
        return loss

    SVIStep.__call__ = call


def poison(place, step, file):
    """Make input, loss or gradient not finite in a step, counted from 0; write down whether anything was changed by it."""

    def call(self, x, beta):
        if self.steps != step:
            return step_once(self, x, beta)
        before, objective = _trained(self), self.objective
        if place == "input":
            x = x.clone()
            x[0, 0, 0] = torch.nan
        else:
            self.objective = lambda *arguments: POISONS[place](objective(*arguments))
        loss = step_once(self, x, beta)
        self.objective = objective
        unchanged = all(a.equal(b) for a, b in zip(before, _trained(self), strict=True))
        Path(file).write_text(json.dumps({"unchanged": unchanged, "tensors": len(before)}))
        return loss

    SVIStep.__call__ = call


class _Infinite(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(_, loss):
        return loss.clone()

    @staticmethod
    def backward(_, gradient):
        return gradient * torch.inf


POISONS = {"loss": lambda loss: loss + torch.nan, "gradient": _Infinite.apply}


def _trained(step):
    """Copies of the parameters and of what the optimizers remember of earlier steps."""
    tensors = []
    for parameter, one in step.optim.optim_objs.items():
        remembered = getattr(one, "optimizer", one).state[parameter]
        tensors += [parameter.detach().clone(), *(value.clone() for value in remembered.values())]
    return tensors


def memory(every, file):
    """Write down the resident memory, in bytes, and the open files, every so many steps."""

    def look(step):
        if step % every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            sizes = {"step": step, "bytes": pages * os.sysconf("SC_PAGE_SIZE"), "files": len(os.listdir("/proc/self/fd"))}
            with open(file, "a") as out:
                out.write(json.dumps(sizes) + "\n")

    _after_step(look)
