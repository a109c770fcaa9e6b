"""The loop: `fit` applies a step to every batch of every epoch."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.objectives import Batch
from pyro_skipvae.schedules import RateControl, constant

from .step import SVIStep, batch_size


class Step(Protocol):
    """What `fit` needs of a step: how many there were, and (x, beta) -> loss in nats per datapoint."""

    @property
    def steps(self) -> int: ...

    def __call__(self, x: Batch, beta: float, /) -> float | Tensor: ...


@dataclass(frozen=True)
class Epoch:
    """One pass over the data: its number from 1, the steps so far, the mean loss in nats per datapoint, the last beta.

    seconds: elapsed time; cpu_seconds: CPU time, which other programs on the machine do not lengthen.
    """

    number: int
    steps: int
    loss: float
    beta: float
    seconds: float
    cpu_seconds: float = 0.0


class Callback(Protocol):
    """What `fit` calls after each epoch, such as a tracker of experiments."""

    def __call__(self, epoch: Epoch, /) -> object: ...


@dataclass
class Progress:
    """How far `fit` has come: the epochs done, and the summed loss and datapoints of the present one. Its fields are its state.

    A step whose loss is not finite is left out of both sums. They are tensors, so that no step waits for the device.
    """

    epochs: int = 0
    loss: float | Tensor = 0.0
    datapoints: int | Tensor = 0

    def add(self, loss: float | Tensor, datapoints: int) -> None:
        """Counts a step with this mean loss over so many datapoints."""
        loss = torch.as_tensor(loss)
        self.loss = self.loss + torch.where(loss.isfinite(), datapoints * loss, 0.0)
        self.datapoints = self.datapoints + datapoints * loss.isfinite()

    def close(self) -> float:
        """Ends the epoch and returns its mean loss in nats per datapoint, nan if no step was finite."""
        datapoints = int(self.datapoints)
        mean = float(self.loss) / datapoints if datapoints else math.nan
        self.epochs, self.loss, self.datapoints = self.epochs + 1, 0.0, 0
        return mean


def fit(
    step: Step,
    batches: Iterable[Batch],
    *,
    epochs: int,
    beta: float | Callable[[int], float] | None = None,
    progress: Progress | None = None,
    callback: Callback | None = None,
) -> Iterator[Epoch]:
    """Trains for `epochs` passes over `batches`, and yields an `Epoch` after each one: iterate over it.

    step: (x, beta) -> loss in nats per datapoint, such as that of `svi_step`. batches: iterated anew in each epoch, gives x, a
    tensor or a tuple. beta: the weight of the KL term, a number or a schedule, a function of the number of the step; without
    one it is that of the step's control, else 1. callback:
    called with each `Epoch` before it is yielded. progress: a saved `Progress`, with which, and with step and batches restored
    to the same moment, training goes on in the middle of an epoch. The loss of an epoch is the mean over datapoints of what the
    steps returned; steps that are not finite are left out. Raises ValueError for a beta that is not above 0, for epochs
    that are no whole number, for an epoch without batches, and for another beta than the control of the step.
    """
    check_sizes(0, epochs=epochs)
    schedule = _schedule(beta, getattr(step, "control", None))
    begun = progress is not None  # what is resumed may have been at the end of an epoch
    progress = progress or Progress()
    while progress.epochs < epochs:
        start, cpu = time.perf_counter(), time.process_time()
        given = False
        for x in batches:
            progress.add(step(x, schedule(step.steps)), batch_size(x))
            given = True
        if not given and not begun:
            raise ValueError(
                f"expected batches in epoch {progress.epochs + 1}, got none; they are iterated anew in each epoch: give a list "
                "or a DataLoader, not a generator"
            )
        begun = False
        mean, last = progress.close(), schedule(max(step.steps - 1, 0))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        epoch = Epoch(progress.epochs, step.steps, mean, last, seconds, cpu)
        if callback is not None:
            callback(epoch)
        yield epoch


def _schedule(beta: float | Callable[[int], float] | None, control: RateControl | None) -> Callable[[int], float]:
    if (control is not None and beta is not None or isinstance(beta, RateControl)) and beta is not control:
        raise ValueError(
            f"expected the control of the step itself as beta, or none, got {beta}: give one RateControl to svi_step "
            "(control=), and no beta to fit"
        )
    beta = control or (1.0 if beta is None else beta)
    return beta if callable(beta) else constant(beta)


def evaluate_loss(step: SVIStep, batches: Iterable[Batch]) -> float:
    """The mean loss in nats per datapoint at beta = 1, without training.

    No parameter changes; random numbers are drawn, and modules stay in the mode they are in. Raises ValueError for no batches.
    """
    total, size = 0.0, 0
    for x in batches:
        total, size = total + batch_size(x) * step.evaluate(x), size + batch_size(x)
    if not size:
        raise ValueError("expected at least one batch to evaluate, got none")
    return total / size
