"""Pretraining: some steps as an autoencoder, then the decoder starts anew and the encoder goes on under the objective."""

import copy
from collections.abc import Callable
from typing import Any

from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

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
    """A step as of `svi_step` whose first `steps` minimise the distortion alone, by `objectives.autoencoder`.

    Then the decoder gets the weights back that it has now, before any step, and the optimizer forgets what it knows of the
    gradients; learning-rate schedules go on. So the objective finds an encoder whose z tells x apart, and a decoder that does
    not know it yet. `how` are the other arguments of `svi_step`; a `control` is told nothing before.

    Reference: Li, He, Neubig, Berg-Kirkpatrick, Yang 2019, who go on with free bits and a beta that rises from 0.
    """
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

    def __call__(self, x: Batch, beta: float = 1.0) -> Tensor:
        if self.steps == self.pretraining:
            self._begin()
        control = self.control
        self.control = control if self.steps >= self.pretraining else None
        try:
            return super().__call__(x, beta)
        finally:
            self.control = control

    def _begin(self) -> None:
        """From the autoencoder to the objective."""
        self.decoder.load_state_dict(self.start)
        if self.ranks is not None:
            self.ranks.same_start(self.decoder.state_dict().values())
        self.forget()
        self._graphs = None
        self._set_phase()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._graphs = None
        self._set_phase()
