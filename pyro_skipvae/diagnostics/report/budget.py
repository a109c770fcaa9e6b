"""What a report costs, and holding what needs the decoder to a number of seconds."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_skipvae.timing import least_seconds

from ..estimates.elbo import draw_all
from ..estimates.model_mutual_information import ancestral_cost
from ..pairs.evaluation import as_found
from ..pairs.pair import Chunk, Pair
from ..pairs.rows import Inputs, count_rows, select_rows
from ..pairs.unavailable import Unavailable
from ..pairs.working_set import MOST
from .sizes import Sizes

LADDER = (50, 100, 200, 500, 1000, 2000, 5000, 10_000)
ELBO_SHARE, MODEL_SHARE = 0.4, 0.1
PAIR_SECONDS = 1e-8  # for a log-density of one posterior at the z of another point


@dataclass
class Budget:
    """Seconds for the decoder (None: without a limit), the measured cost of one of its rows, and what did not fit."""

    seconds: float | None
    row_seconds: float = 0.0
    beyond: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def left(self) -> float:
        """Seconds that are left."""
        return (math.inf if self.seconds is None else self.seconds) - (time.perf_counter() - self.started)

    def points(self, what: str, points: int, rows_per_point: float, share: float | None = None) -> int:
        """How many of `points` fit into a share (None: what is left); the smallest step of the ladder at least."""
        steps = _steps(points)
        fit = [step for step in steps if self._fits(step * rows_per_point, share)]
        chosen = max(fit, default=steps[0])
        self._note(what, points, points * rows_per_point, left_out=chosen < points)
        return chosen

    def samples(self, points: int, samples: int, share: float) -> int:
        """How many draws per point fit beside one shuffled pass over the points; one at least."""
        fit = [count for count in range(1, samples + 1) if self._fits((count + 1) * points, share)]
        chosen = max(fit, default=1)
        self._note(f"the ELBO with {samples} draws per point", points, (samples + 1) * points, left_out=chosen < samples)
        return chosen

    def fitting_points(self, what: str, points: int, rows: Callable[[int], float]) -> int:
        """How many joint samples fit into the model's share, where n of them cost rows(n); Unavailable if none do."""
        fit = [step for step in _steps(points) if self._fits(rows(step), MODEL_SHARE)]
        self._note(what, points, rows(points), left_out=points not in fit)
        if not fit:
            raise Unavailable(f"not even {_steps(points)[0]} samples fit the budget")
        return max(fit)

    def _fits(self, rows: float, share: float | None) -> bool:
        if self.seconds is None:
            return True
        return rows * self.row_seconds <= (self.left() if share is None else share * self.seconds)

    def _note(self, what: str, points: int, rows: float, left_out: bool) -> None:
        if left_out:
            self.beyond.append(f"{what} on {points} points: about {rows * self.row_seconds:.3g} s")


def _steps(points: int) -> list[int]:
    return [step for step in LADDER if step < points] + [points]


def measured_budget(seconds: float | None, pair: Pair, chunks: list[Chunk]) -> Budget:
    """A budget whose clock runs; without seconds nothing is measured, so that results depend on the seed alone."""
    budget = Budget(seconds)
    if seconds is not None:
        budget.row_seconds = row_seconds(pair, chunks, wall=True)  # a budget is of the wall clock
    return budget


def row_seconds(pair: Pair, chunks: list[Chunk], *, wall: bool = False) -> float:
    """Seconds for log p(x, z) per row, measured after a warm-up; on more rows where that is cheap. See `least_seconds`."""
    most = min(MOST, pair.points)
    draws, _ = draw_all(pair, chunks, most)
    device, seconds = draws[pair.site].device, 0.0
    for size, times in ((2, 1), (16, 3), (most, 3)):
        index = torch.arange(min(size, most), device="cpu")
        values = {name: value[index] for name, value in draws.items()}

        def run(index: Tensor = index, values: dict[str, Any] = values) -> None:
            pair.log_joint(index, values)[0].sum().item()  # .item() waits for a GPU

        seconds = least_seconds(run, times=times, device=device, wall=wall) / len(index)
        if size == 16 and seconds * most > 0.3:
            break
    return seconds


def expected_seconds(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Inputs,
    *,
    sizes: Sizes,
    importance_samples: int = 200,
    posterior_samples: int = 10,
) -> float:
    """About how many seconds a report of these sizes takes on this machine, from one batch of the guide and of the decoder."""
    with as_found(model, guide, x=x, seed=0, samples=(posterior_samples, importance_samples)) as x:
        points, few = min(count_rows(x), sizes.points), select_rows(x, slice(0, MOST))
        pair = Pair(model, guide, few, joint=None)
        chunks = list(pair.chunks())
        device = pair.draw(chunks[0], 1)[0][pair.site].device
        encoding = least_seconds(lambda: list(pair.chunks()), times=2, device=device) * points / pair.points
        elbo_points = min(points, sizes.elbo_points)
        elbo_samples = min(posterior_samples, sizes.elbo_samples)
        decoded: float = elbo_points * (elbo_samples + 1)
        decoded += min(elbo_points, sizes.log_likelihood_points) * max(0, importance_samples - elbo_samples)
        largest, cost = ancestral_cost(pair)
        decoded += cost(min(largest, points, sizes.model_points))
        return encoding + decoded * row_seconds(pair, chunks) + PAIR_SECONDS * posterior_samples * points**2
