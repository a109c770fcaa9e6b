"""The log-likelihood by importance sampling."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..pairs.evaluation import as_found
from ..pairs.finite import check_densities, check_draws, finite
from ..pairs.interval import Interval, mean_interval
from ..pairs.pair import Chunk, Pair, Progress
from ..pairs.rows import Inputs
from .elbo import draw_all, log_ratio


@dataclass(frozen=True)
class ImportanceEstimate:
    """Importance sampling per point, each (n,) in float64: log p_K(x), the same with K/10 samples, effective sample size.

    The effective sample size (sum_k w_k)^2 / sum_k w_k^2 of the weights w_k = p(x, z_k) / q(z_k|x) lies from 1 to K.
    """

    log_likelihood: Tensor
    tenth: Tensor
    effective_samples: Tensor


def log_likelihood(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Inputs,
    *,
    importance_samples: int = 200,
    site: str | None = None,
    rows: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Interval:
    """The mean log-likelihood by importance sampling from the guide, in nats per datapoint, with its 95 % interval.

        log p_K(x) = log 1/K sum_k p(x, z_k) / q(z_k|x),  z_k ~ q(z|x),  K = `importance_samples`

    z is of all latent sites together, which may be discrete; `site` names the one of interest where the others are nuisances.

    Bias: on average a lower bound on log p(x). The bias falls like 1/K: in a linear model whose ELBO is 0.74 nats too low it
    is 0.02 nats at K = 200. Where q(z|x) is certain of one code, it is the ELBO for any K, and `collapse_report` gives none.
    `rows`: how many rows the decoder runs at a time. Cost: N K rows of the decoder.
    Raises ValueError for fewer than 2 rows, rows where the estimate is not finite, and a pair that `collapse_report` refuses.
    Reference: Burda et al. 2016, equation 8.
    """
    settings: Any = {"importance_samples": importance_samples, "site": site, "rows": rows, "seed": seed, "progress": progress}
    return mean_interval(finite(log_likelihood_per_point(model, guide, x, **settings).log_likelihood, "log p(x)"))


def log_likelihood_per_point(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Inputs,
    *,
    importance_samples: int = 200,
    site: str | None = None,
    rows: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ImportanceEstimate:
    """log p_K(x) of each row of x, in nats: what `log_likelihood` is the mean of.

    Returns `.log_likelihood`, `.tenth` (with K/10 draws) and `.effective_samples` (1 to K), each (N,) in float64: for example
    to find the texts or images that a model finds unlikely, or to compare two models point by point. A log p_K(x) that is not
    finite is returned as it is. Raises ValueError for fewer than 2 rows, draws or densities of q(z|x) that are not finite, and
    a pair that `collapse_report` refuses. Reference: Burda et al. 2016, equation 8.
    """
    with as_found(model, guide, x=x, seed=seed, samples=(importance_samples,)) as x:
        pair = Pair(model, guide, x, site=site, rows=rows, joint=None)
        chunks = list(pair.chunks())
        return importance_estimate(pair, chunks, points=pair.points, samples=importance_samples, progress=progress)


def importance_estimate(
    pair: Pair,
    chunks: list[Chunk],
    *,
    points: int,
    samples: int,
    known: Tensor | None = None,
    progress: Progress | None = None,
) -> ImportanceEstimate:
    """Importance sampling on the first `points` rows, in memory that does not depend on the number of samples K.

    The K/10 estimate is the mean over the ten tenths of the same weights: where ten divides K, it is never above the
    estimate with K, by Jensen's inequality. `known` are log-weights (S, n >= points) of draws from q(z|x) that were made
    before, by the ELBO: they are taken as the first of the K, which are then K independent draws as before, and so unbiased as
    before.
    """
    block = max(1, samples // 10)
    lowest = torch.full((points,), -math.inf, dtype=torch.float64, device="cpu")
    total, squares, done = lowest, lowest, 0
    tenths: list[Tensor] = []
    for size in [block] * (samples // block) + [samples % block] * (samples % block > 0):
        within = lowest
        given = [] if known is None else list(known[done : done + size, :points].split(size))
        for weights in chain(given, _log_weights(pair, chunks, points, size - sum(map(len, given)))):
            within = torch.logaddexp(within, weights.logsumexp(0))
            squares = torch.logaddexp(squares, (2 * weights).logsumexp(0))
        total = torch.logaddexp(total, within)
        if size == block and len(tenths) < 10:
            tenths.append(within - math.log(block))
        done += size
        if progress:
            progress("importance sampling", done * points, samples * points)
    return ImportanceEstimate(total - math.log(samples), torch.stack(tenths).mean(0), (2 * total - squares).exp())


def _log_weights(pair: Pair, chunks: list[Chunk], points: int, samples: int) -> Iterator[Tensor]:
    """log p(x, z) - log q(z|x) of `samples` draws, (k, n) at a time with k n rows that run at once where n allows."""
    most = max(1, pair.rows_at_a_time // points)
    for copies in [most] * (samples // most) + [samples % most] * (samples % most > 0):
        values, log_q = draw_all(pair, chunks, points, copies)
        check = check_densities if pair.joint else check_draws  # discrete draws may well be the same
        check(values[pair.site].unflatten(0, (copies, points)), log_q[pair.site].view(copies, points))
        log_x, log_p = pair.log_joint(torch.arange(points, device="cpu").repeat(copies), values)
        log_weight = log_x + log_ratio(log_p, log_q)
        yield log_weight.double().cpu().view(copies, points)
