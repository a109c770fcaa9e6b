"""Schedules: the weight beta of the KL term, and a factor of the learning rate, as functions of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from .blocks import check_shares, check_sizes


@dataclass(frozen=True)
class Schedule:
    """The weight beta of the KL term as a function of the step; from step `reached` on it has its final value."""

    at: Callable[[float], float]
    reached: float = 0

    def __call__(self, step: float) -> float:
        return self.at(step)


def constant(beta: float = 1.0) -> Schedule:
    """The same beta at every step. Raises ValueError unless it is above 0."""
    _positive(beta)
    return Schedule(lambda step: beta)


def linear(start: float, final: float, steps: float) -> Schedule:
    """From `start` to `final` in a straight line over `steps` steps, then `final`.

    Raises ValueError for fewer than 0 steps, and unless both ends are above 0, since Pyro rejects a scale of zero: start low,
    for example at 0.1.
    Reference: Bowman et al. 2016.
    """
    _positive(start), _positive(final)
    _check_steps(steps)
    return Schedule(lambda step: final if step >= steps else final + (start - final) * (1 - step / steps), steps)


def cyclical(start: float, final: float, steps: float, *, cycles: int = 4, rising: float = 0.5) -> Schedule:
    """`cycles` equal cycles in `steps` steps: in each a straight line from `start` to `final` over the share `rising` of it.

    The rest of a cycle, and all steps after the last one, have `final`. Raises ValueError for fewer than 1 cycle, a share
    outside of (0, 1], and what `linear` does.
    Reference: Fu et al. 2019.
    """
    check_sizes(cycles=cycles)
    _check_steps(steps)
    if not 0 < rising <= 1:
        raise ValueError(f"expected a cycle to rise over a share above 0 and at most 1 of it, got {rising}")
    length = max(steps / cycles, 1)
    rise = linear(start, final, rising * length)
    reached = steps - (1 - rising) * length if steps >= cycles else steps  # the end of the last rise
    return Schedule(lambda step: final if step >= steps else rise(step % length), reached)


def delayed(schedule: Schedule, steps: float) -> Schedule:
    """`schedule`, begun at step `steps`, with its first value before. Raises ValueError for fewer than 0 steps."""
    _check_steps(steps)
    return Schedule(lambda step: schedule.at(max(step - steps, 0)), schedule.reached + steps)


def _check_steps(steps: float) -> None:
    if not steps >= 0:
        raise ValueError(f"expected a schedule of at least 0 steps, got {steps}")


def _positive(beta: float) -> float:
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"expected a positive weight beta (Pyro rejects a scale of zero), got {beta}")
    return beta


def unfinished(schedule: Schedule, steps: int) -> str | None:
    """A warning if `schedule` does not reach its final value within `steps` steps, else None."""
    if schedule.reached <= steps:
        return None
    return (
        f"beta reaches its final value at step {schedule.reached}, but the run has {steps} steps: it ends on another "
        "objective than the ELBO, and no epoch can be selected as the best"
    )


@dataclass
class Halving:
    """A factor of the learning rate that is halved after every epoch, once the validation no longer improves.

    The first epoch from number `first` on without a better validation starts the halving; training has `ended` once the factor
    is below `floor`. Tell it each epoch by `after`. It is called with the step, as torch's LambdaLR does after each step, so
    the first step of the next epoch still has the old rate. Its fields are its state. Raises ValueError for a first epoch
    below 0 and a floor that is not from 0 to 1.

    Reference: the training rule of Kim et al. 2018 for text (learning rate 1, halved until it is below 0.03).
    """

    first: int = 15
    floor: float = 0.03
    factor: float = 1.0
    started: bool = False

    def __post_init__(self) -> None:
        check_sizes(0, first=self.first)
        check_shares(floor=self.floor)

    def __call__(self, step: int) -> float:
        return self.factor

    @property
    def ended(self) -> bool:
        """Whether the factor is below `floor`."""
        return self.factor < self.floor

    def after(self, epoch: int, better: bool) -> None:
        """Note that an epoch, numbered from 1, has ended, and whether its validation was the best so far."""
        self.started = self.started or (epoch >= self.first and not better)
        if self.started:
            self.factor /= 2


@dataclass
class RateControl:
    """A PI controller of beta that holds the rate at `target` nats per datapoint; `svi_step(..., control=)` tells it each rate.

        e = target - rate,   I <- I - integral e,   beta = proportional / (1 + exp(e)) + I,   least <= beta <= most

    A rate below the target lowers beta, one above it raises beta. Where beta would leave its range, I is set so that beta is at
    the end of it and can turn back at once (in the authors' code the test for this is never true). It is called with the step,
    as a schedule. Its fields are its state. Raises ValueError for a target, gain or `least` that is not above 0, for an empty
    range, and for a beta outside of it.

    Reference: Shao et al. 2020, "ControlVAE". Their beta is at most 1; a rate below that of the ELBO needs more.
    """

    target: float
    proportional: float = 0.01
    integral: float = 1e-3
    least: float = 1e-3  # Pyro rejects a scale of zero
    most: float = 10.0
    total: float = 0.0  # I
    beta: float = 1e-3

    reached: ClassVar[float] = 0  # there is no final value to wait for

    def __post_init__(self) -> None:
        wanted = {"target": self.target, "gain": min(self.proportional, self.integral), "range": self.most - self.least}
        for name, value in {**wanted, "least beta": self.least}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"expected a {name} above 0 for a control of the rate, got {value}")
        if not (self.least <= self.beta <= self.most and math.isfinite(self.total)):
            raise ValueError(f"expected a beta from {self.least} to {self.most}, got {self.beta} (I {self.total})")

    def __call__(self, step: float) -> float:
        return self.beta

    def after(self, rate: float) -> None:
        """Note the rate of a step, in nats per datapoint; one that is not finite is ignored."""
        if not math.isfinite(rate):
            return
        error = self.target - rate
        part = self.proportional / (1 + math.exp(min(error, 700.0)))  # beyond it a float is infinite
        self.total = min(max(self.total - self.integral * error, self.least - part), self.most - part)
        self.beta = min(max(part + self.total, self.least), self.most)  # once more, for what rounding leaves
