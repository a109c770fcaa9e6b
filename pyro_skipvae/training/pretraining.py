"""Pretraining: some steps as an autoencoder, then the decoder starts anew and the encoder goes on under the objective."""

import copy
from collections.abc import Callable
from typing import Any

from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.objectives import Batch, Objective, autoencoder

from .step import SVIStep


def pretrained_step(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    objective: Objective | ELBO,
    optim: PyroOptim,
    *,
    decoder: nn.Module,
    steps: int,
    **how: Any,
) -> "PretrainedStep":
    """Makes a training step that pretrains an autoencoder: its first `steps` calls minimise `objectives.autoencoder`.

    After them the decoder gets the weights back that it had when the step was made, and the optimizer's state is cleared;
    learning-rate schedules go on. The objective thus starts with an encoder whose z tells the x apart and a new decoder. It is
    called as the step of `svi_step`. decoder: the module that is reset; how: the other arguments of `svi_step`, of which a
    `control` starts after the pretraining.

    Reference: Li, He, Neubig, Berg-Kirkpatrick, Yang 2019, who go on with free bits and a beta that rises from 0.
    """
    check_sizes(0, steps=steps)
    return PretrainedStep(model, guide, objective, optim, decoder, steps, **how)


class PretrainedStep(SVIStep):
    """What `pretrained_step` returns; the phase follows from the number of steps."""

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        objective: Objective | ELBO,
        optim: PyroOptim,
        decoder: nn.Module,
        pretraining: int,
        *,
        max_norm: float | None = None,
        **how: Any,
    ) -> None:
        super().__init__(model, guide, objective, optim, max_norm, **how)
        self.then, self.decoder, self.pretraining = objective, decoder, pretraining
        self.start = copy.deepcopy(decoder.state_dict())
        self._set_phase()

    def _set_phase(self) -> None:
        self.objective = autoencoder if self.steps < self.pretraining else self.then

    def __call__(self, x: Batch, beta: float | None = None) -> Tensor:
        if self.steps == self.pretraining:
            self._begin()
        control = self.control
        self.control = control if self.steps >= self.pretraining else None
        try:
            return super().__call__(x, beta)
        finally:
            self.control = control

    def evaluate(self, x: Batch) -> float:
        """As in `SVIStep`, of the objective that follows the autoencoder."""
        phase, self.objective = self.objective, self.then
        try:
            return super().evaluate(x)
        finally:
            self.objective = phase

    def _begin(self) -> None:
        """From the autoencoder to the objective."""
        self.decoder.load_state_dict(self.start)
        if self.ranks is not None:
            self.ranks.same_start(self.decoder.state_dict().values())
        self.forget()
        self._graphs = None
        self._set_phase()

    def state_dict(self) -> dict[str, Any]:
        """As in `SVIStep`; until the decoder starts anew also with what it starts from."""
        start = {"start": self.start} if self.steps <= self.pretraining else {}
        return {**super().state_dict(), **start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.start = state.get("start", self.start)
        self._graphs = None
        self._set_phase()
