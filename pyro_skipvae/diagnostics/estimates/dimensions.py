"""Which dimensions of z matter to the decoder, and from which threshold on each counts as collapsed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..pairs.conditions import drawn
from ..pairs.evaluation import as_found
from ..pairs.finite import finite
from ..pairs.interval import Interval, cycle_interval
from ..pairs.pair import Pair
from ..pairs.rows import Inputs
from .elbo import draw_all
from .pairwise import flat

DELTA = 0.01  # the share of x at which a dimension that counts as collapsed may exceed the threshold
SHUFFLED, PRIOR = "shuffled", "prior"


def dimension_losses(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Inputs,
    *,
    replace: str = "shuffled",
    points: int = 500,
    dimensions: Sequence[int] | None = None,
    site: str | None = None,
    seed: int = 0,
    rows: int | None = None,
) -> list[Interval]:
    """The decoder's loss for each dimension of z when that dimension alone is replaced: E[log p(x|z) - log p(x|z')].

    replace: "shuffled" takes the dimension of another datapoint (a random cycle), "prior" takes it from a draw of p(z).
    dimensions: their numbers in the flattened z (None: all D). Returns nats per datapoint on the first `points` rows, with
    95 % intervals, in the order of `dimensions`. Near 0 the decoder does not use the dimension, whatever the encoder writes
    into it. The losses do not add up where dimensions act together.
    rows: the most rows that guide and model run at a time (None: about 256, or fewer by the size of convolutions).

    Cost: the guide once, and (D + 1) `points` rows of the decoder. Raises ValueError for another `replace`, fewer than 2
    points, dimensions that z does not have, rows where log p(x|z) is not finite, and a pair that `collapse_report` refuses.
    """
    if replace not in (SHUFFLED, PRIOR):
        raise ValueError(f"expected replace to be '{SHUFFLED}' or '{PRIOR}', got {replace!r}")
    if points < 2:
        raise ValueError(f"expected points to be 2 or more, got {points}")
    with as_found(model, guide, x=x, seed=seed, samples=(1,), first=points) as x:
        pair = Pair(model, guide, x, site=site, rows=rows)
        values, _ = draw_all(pair, list(pair.chunks()), pair.points)
        z, index = values[pair.site], torch.randperm(pair.points, device="cpu")
        other = flat(z[index].roll(1, 0) if replace == SHUFFLED else drawn(pair.prior(pair.rows(index))))
        taken = {name: value[index] for name, value in values.items()}
        before = finite(pair.log_joint(index, taken)[0].double().cpu(), "log p(x|z)")
        chosen = range(other.shape[1]) if dimensions is None else dimensions
        if not set(chosen) <= set(range(other.shape[1])):
            raise ValueError(f"expected dimensions from 0 to {other.shape[1] - 1}, got {list(chosen)}")
        losses = []
        for dimension in chosen:
            changed = flat(taken[pair.site]).clone()
            changed[:, dimension] = other[:, dimension]
            after = pair.log_joint(index, taken | {pair.site: changed.view_as(taken[pair.site])})[0]
            losses.append(cycle_interval(before - after.double().cpu()))
    return losses


def collapse_thresholds(kl: Tensor) -> Tensor:
    """The smallest e at which each dimension counts as collapsed, P_x[KL_d <= e] >= 1 - delta with delta 0.01: kl (N, D) ->
    (D,).

    The share of dimensions that are collapsed at e is that of the thresholds at or below it.
    Reference: Lucas et al. 2019, "Don't blame the ELBO!", definition 1.
    """
    count = len(kl)
    return kl.kthvalue(count - int(DELTA * count), dim=0).values
