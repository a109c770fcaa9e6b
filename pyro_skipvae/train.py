"""Training: a step updates the parameters on one batch, `fit` applies it to every batch of every epoch."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from pyro import poutine
from pyro.infer import ELBO, SVI
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pyro_skipvae.objectives import Schedule, as_arguments, constant, weighted


def svi_step(model, guide, objective, optim, *, max_norm=None):
    """A step of Pyro's SVI: (x, beta=1.0) -> loss in nats per datapoint, with the parameters updated.

    `objective` is one of `pyro_skipvae.objectives` or any `pyro.infer.ELBO`; the sum over the batch is divided by its
    length once, here. `max_norm` clips the norm of the whole gradient (`PyroOptim` can only clip tensor by tensor).
    A learning-rate schedule of `pyro.optim` advances at every step.

    The first step raises ValueError if Pyro's parameter store holds other tensors than the modules of this pair under
    the same names: it would then train those and leave the modules as they are.
    """
    return SVIStep(model, guide, objective, optim, max_norm)


class SVIStep:
    """What `svi_step` returns: `steps` counts its calls; `state_dict` holds the optimizer and the count."""

    def __init__(self, model, guide, objective, optim, max_norm):
        if not isinstance(optim, PyroOptim):
            raise ValueError(f"expected an optimizer of pyro.optim, got {type(optim).__name__}")
        self.objective, self.optim, self.max_norm = objective, optim, max_norm
        self.svi = SVI(model, guide, optim, loss=_mean_loss(objective), loss_and_grads=self._loss_and_grads)
        self.steps, self._checked = 0, False

    def __call__(self, x, beta=1.0):
        loss = self.svi.step(x, beta)
        if isinstance(self.optim, PyroLRScheduler):
            self.optim.step()
        self.steps += 1
        return loss

    def state_dict(self):
        return {"steps": self.steps, "optimizer": self.optim.get_state()}

    def load_state_dict(self, state):
        self.steps = state["steps"]
        self.optim.set_state(state["optimizer"])

    def _loss_and_grads(self, model, guide, x, beta):
        with poutine.trace(param_only=True) as capture:
            loss = _summed_loss_and_grads(self.objective, model, guide, x, beta)
        if not self._checked:
            _check_store(capture.trace)
            self._checked = True
        parameters = {site["value"].unconstrained() for site in capture.trace.nodes.values()}
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        size = len(as_arguments(x)[0])
        for gradient in gradients:
            gradient.div_(size)
        if self.max_norm is not None:
            clip_grads_with_norm_(parameters, self.max_norm, get_total_norm(gradients))
        return loss / size


def _summed_loss_and_grads(objective, model, guide, x, beta):
    """The loss in nats summed over the batch, and its gradients on the parameters."""
    if isinstance(objective, ELBO):
        return objective.loss_and_grads(*weighted(model, guide, beta), *as_arguments(x))
    loss = objective(model, guide, x, beta)
    loss.backward()
    return loss.item()


def _mean_loss(objective):
    def loss(model, guide, x, beta=1.0):
        if isinstance(objective, ELBO):
            return objective.loss(*weighted(model, guide, beta), *as_arguments(x)) / len(as_arguments(x)[0])
        return objective(model, guide, x, beta) / len(as_arguments(x)[0])

    return loss


def _check_store(trace):
    """Raise if a parameter that `pyro.module` offered is not the tensor that the store returned for its name."""
    for name, site in trace.nodes.items():
        offered = site["args"][1] if "$$$" in name else None
        if offered is not None and site["value"].unconstrained() is not offered:
            reason = "is not contiguous" if not offered.is_contiguous() else "belongs to another model"
            raise ValueError(
                f"expected Pyro's parameter store to hold this model's own tensors, but its {name.replace('$$$', '.')} "
                f"{reason}; call pyro.clear_param_store() before building a second model"
            )


@dataclass(frozen=True)
class Epoch:
    """One pass over the data: its number from 1, the steps so far, the mean loss in nats per datapoint, the last beta."""

    number: int
    steps: int
    loss: float
    beta: float
    seconds: float


def fit(step, batches, *, epochs, beta=1.0) -> Iterator[Epoch]:
    """Train for `epochs` passes over `batches`, and yield an `Epoch` after each.

    `batches` is iterated anew in each epoch and gives x, a tensor or a tuple; `beta` is a number or a schedule, a
    function of the number of the step. The loss is the mean over datapoints of what the steps returned.
    """
    schedule = beta if callable(beta) else constant(beta)
    for number in range(1, epochs + 1):
        start, total, size, weight = time.perf_counter(), 0.0, 0, schedule(step.steps)
        for x in batches:
            weight = schedule(step.steps)
            n = len(as_arguments(x)[0])
            total, size = total + n * step(x, weight), size + n
        yield Epoch(number, step.steps, total / max(size, 1), weight, time.perf_counter() - start)


def unfinished(schedule: Schedule, steps):
    """A warning if `schedule` does not reach its final value within `steps` steps, else None."""
    if schedule.reached < steps:
        return None
    return (
        f"beta reaches its final value at step {schedule.reached}, but the run has {steps} steps: it ends on another "
        "objective than the ELBO, and no epoch can be selected as the best"
    )


def evaluate_loss(step, batches):
    """The mean loss in nats per datapoint at beta = 1, without training. Changes no parameter, but draws random numbers."""
    total, size = 0.0, 0
    for x in batches:
        n = len(as_arguments(x)[0])
        total, size = total + n * step.svi.evaluate_loss(x), size + n
    return total / size


