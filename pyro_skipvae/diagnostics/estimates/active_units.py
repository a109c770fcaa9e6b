"""Active units: the dimensions of z whose posterior mean varies with x."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..pairs.evaluation import as_found
from ..pairs.pair import Chunk, Pair
from ..pairs.rows import Inputs, named_rows
from ..pairs.unavailable import Unavailable
from .pairwise import flat

MEAN_DRAWS = 200  # for a mean without a closed form


def active_units(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Inputs,
    *,
    threshold: float = 0.01,
    posterior_samples: int = 200,
    site: str | None = None,
    seed: int = 0,
    rows: int | None = None,
) -> int:
    """The number of active units: dimensions d of z with Var_x(E_q(z|x)[z_d]) >= threshold.

    It depends on the scale of z and says nothing about the decoder: read it beside the mutual information and the loss when z
    is shuffled. Where q(z|x) has no mean in closed form, two independent halves of `posterior_samples` draws give two
    estimates of it, whose covariance over x is taken, so that the noise of the draws does not count as variance.
    rows: the most rows that guide and model run at a time (None: about 256, or fewer by the size of convolutions).
    Cost: the guide once on every row of x. Raises ValueError for fewer than 2 rows, a q(z|x) without a finite mean, and a pair
    that `collapse_report` refuses. Reference: Burda et al. 2016, section 5.2.
    """
    if not 0 <= threshold < math.inf:
        raise ValueError(f"expected a threshold of at least 0 for a variance, got {threshold}")
    with as_found(model, guide, x=x, seed=seed, samples=(posterior_samples,)) as x:
        means = [half_means(chunk, posterior_samples) for chunk in Pair(model, guide, x, site=site, rows=rows).chunks()]
        return units_above(torch.cat(means, 1), threshold)


def units_above(halves: Tensor, threshold: float) -> int:
    """How many dimensions of the means (2, N, D) vary by the threshold; Unavailable, with the rows, where one is infinite."""
    bad = ~halves.isfinite().all(2).all(0)
    if bad.any():
        raise Unavailable(f"q(z|x) has no finite mean at {named_rows(bad)}")
    return int((mean_variances(halves) >= threshold).sum())


def half_means(chunk: Chunk, samples: int = MEAN_DRAWS) -> Tensor:
    """Two estimates of E_q[z], (2, n, D): the mean twice where the family has one, else independent half-sample means."""
    try:
        mean = flat(chunk.q.mean).double()
        return torch.stack([mean, mean])
    except (NotImplementedError, AttributeError):
        z = flat(chunk.draws(2 * max(1, samples // 2))[0], 2).double()
        return z.view(2, -1, *z.shape[1:]).mean(1)


def mean_variances(halves: Tensor) -> Tensor:
    """Var_x(E_q[z_d]) per dimension, (D,), by the covariance of both estimates (2, N, D); unbiased, divisor N - 1."""
    first, second = halves - halves.mean(1, keepdim=True)
    return (first * second).sum(0) / (len(first) - 1)
