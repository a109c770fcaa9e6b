"""Lagging inference: while z says more and more of x, the encoder is trained to its end before each step of the decoder."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.diagnostics.estimates.components import evaluable
from pyro_skipvae.diagnostics.estimates.mutual_information import sandwich
from pyro_skipvae.diagnostics.pairs.evaluation import as_found
from pyro_skipvae.diagnostics.pairs.pair import Pair
from pyro_skipvae.diagnostics.pairs.unavailable import Unavailable
from pyro_skipvae.objectives import Batch, Objective, as_arguments

from .graphs import run_once
from .step import SVIStep, batch_size


@dataclass
class AggressivePhase:
    """Decides how long lagging inference trains the encoder alone: until the mutual information on other data stops rising.

    An epoch with a value below the best one so far is a miss, and the phase ends after `patience` misses. Its fields are its
    state. Reference: He et al. 2019, section 4.3; their code has a patience of 1 for text and of 5 for images.
    """

    patience: int = 5
    active: bool = True
    best: float = -math.inf
    misses: int = 0

    def after(self, mutual_information: float) -> None:
        """Note the mutual information after an epoch, in nats."""
        self.misses += mutual_information < self.best
        self.best = max(self.best, mutual_information)
        self.active = self.active and self.misses < self.patience


def lagging_step(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    objective: Objective | ELBO,
    optim: PyroOptim,
    *,
    draw: Callable[[int], Batch],
    valid: Batch,
    every: int = 10,
    most: int = 100,
    patience: int = 5,
    size: Callable[[Batch], int] = batch_size,
    **how: Any,
) -> "LaggingStep":
    """Makes a training step of lagging inference: at first the encoder is trained to convergence before each decoder step.

    In the aggressive phase a step updates the parameters of the guide on x, and then on `draw(number)`, a random training
    batch that depends on the number of the update alone, until the mean loss of `every` updates is above that of the `every`
    before, or `most` - 1 were made; then it updates all other parameters on x. That mean is over what `size` counts in a batch:
    its rows, or, where their lengths differ from batch to batch, their tokens. After the phase (`AggressivePhase(patience)`) it
    is a plain step. It is called as that of `svi_step`; how: the other arguments of `svi_step`.

    Pass its method `after_epoch` as the callback of `fit`: it measures on `valid` (N rows) what ends the phase, the bound of
    `mutual_information_within`, at most ln N (He et al. take it within batches of 32). It raises ValueError for a guide whose
    density is known at its own draws alone.

    Reference: He, Spokoyny, Neubig, Berg-Kirkpatrick 2019, algorithm 1; `every` is 15 for text in their code,
    and the mean there is over words.
    """
    check_sizes(every=every, most=most, patience=patience)
    return LaggingStep(model, guide, objective, optim, draw, valid, every, most, AggressivePhase(patience), size, **how)


class LaggingStep(SVIStep):
    """What `lagging_step` returns; its state also holds the phase and the number of updates."""

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        objective: Objective | ELBO,
        optim: PyroOptim,
        draw: Callable[[int], Batch],
        valid: Batch,
        every: int,
        most: int,
        phase: AggressivePhase,
        size: Callable[[Batch], int],
        *,
        max_norm: float | None = None,
        **how: Any,
    ) -> None:
        super().__init__(model, guide, objective, optim, max_norm, **how)
        self.draw, self.valid, self.every, self.most, self.phase, self.size = draw, valid, every, most, phase, size
        self._encoder: set[int] = set()
        self._others: set[int] = set()

    def __call__(self, x: Batch, beta: float | None = None) -> Tensor:
        beta = self._beta_of(beta)
        if not self.phase.active:
            return super().__call__(x, beta)
        if not self._encoder:
            self._encoder = set(map(id, parameters_of_sites(self.svi.guide, x)))
            others = [*parameters_of_sites(self.svi.model, x), *(self.auxiliary.parameters() if self.auxiliary else ())]
            self._others = set(map(id, others)) - self._encoder
        try:
            self.held = self._others
            self._train_encoder(x, beta)
            self.held = self._encoder
            return super().__call__(x, beta)
        finally:
            self.held = set()

    def _train_encoder(self, x: Batch, beta: float) -> None:
        before, losses, counted = math.inf, torch.zeros((), dtype=torch.double), 0
        for number in range(1, self.most):
            losses, counted = losses + batch_size(x) * self.update(x, beta).double().cpu(), counted + self.size(x)
            if number % self.every == 0:
                mean = losses.item() / counted
                if before < mean:
                    return
                before, losses, counted = mean, torch.zeros_like(losses), 0
            x = self._moved(self.draw(self.updates), x)

    def _moved(self, drawn: Any, like: Any) -> Any:
        device = as_arguments(like)[0].device
        moved = tuple(part.to(device) if isinstance(part, Tensor) else part for part in as_arguments(drawn))
        return moved if isinstance(drawn, tuple | list) else moved[0]

    def after_epoch(self, epoch: Any = None) -> float | None:
        """Measures the mutual information, in nats, which may end the phase; None where it has ended already."""
        if not self.phase.active:
            return None
        found = mutual_information_within(self.svi.model, self.svi.guide, self.valid)
        self.phase.after(found)
        if self.ranks is not None:  # other processors may round it otherwise
            self.phase.active = not self.ranks.any(not self.phase.active)[0]
        return found

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "updates": self.updates, "phase": vars(self.phase).copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        vars(self.phase).update(vars(AggressivePhase(**state["phase"])))


def mutual_information_within(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, *, seed: int = 0) -> float:
    """A lower bound on I_q(x; z) from N rows of x with one draw of z each, in nats, at most ln N.

        mean_i [log q(z_i|x_i) - log 1/N sum_j q(z_i|x_j)]

    Modes and random numbers stay as found. Raises ValueError for a guide whose density is known at its own draws alone, and for
    fewer than 2 rows.
    """
    with as_found(model, guide, x=x, seed=seed, samples=(1,)) as rows:
        chunks = list(Pair(model, guide, rows).chunks())
        z = torch.cat([chunk.draws(1)[0] for chunk in chunks], 1)
        try:
            found = evaluable(chunks, z)
            return sandwich(found.pairs, found.z).lower.mean().item()
        except Unavailable as error:
            raise ValueError(f"expected a guide whose density is known at any z, got one where {error}") from None


def parameters_of_sites(callable_: Callable[..., Any], x: Batch) -> list[Tensor]:
    """The parameters that a model or guide is made of; it leaves no trace in buffers and random numbers."""
    with poutine.trace(param_only=True) as capture:
        run_once(lambda x, _: callable_(*as_arguments(x)), x, 1.0)
    nodes: dict[str, Any] = capture.trace.nodes
    return [site["value"].unconstrained() for site in nodes.values()]
