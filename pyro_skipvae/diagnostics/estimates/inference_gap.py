"""The inference gap of two guides over one model: what is lost by amortizing, and what by the family of posteriors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..pairs.evaluation import as_found
from ..pairs.interval import Interval, mean_interval
from ..pairs.pair import Chunk, Pair, Progress
from ..pairs.rows import Inputs
from .elbo import ElboTerms, elbo_terms
from .log_likelihood import importance_estimate
from .rate import closed_form


@dataclass(frozen=True)
class InferenceGap:
    """Nats per datapoint, each with its 95 % interval over the points; the intervals of gaps are of paired differences.

    inference_gap = amortization_gap + approximation_gap
                  = (refined - amortized) + (log p(x) - refined)
    """

    log_likelihood: Interval
    refined: Interval
    amortized: Interval
    inference_gap: Interval
    amortization_gap: Interval
    approximation_gap: Interval


def inference_gap(
    model: Callable[..., Any],
    refined: Callable[..., Any],
    amortized: Callable[..., Any],
    x: Inputs,
    *,
    importance_samples: int = 200,
    posterior_samples: int = 10,
    site: str | None = None,
    rows: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> InferenceGap:
    """Splits log p(x) - ELBO of an amortized guide by the ELBO of a better one of the same family, as a refined one is.

    Any two guides of the model do. log p(x) is an importance-sampled lower bound from the refined q, so on average the
    approximation gap is no more than log p(x) minus the better ELBO; it is that up to the bias of the estimate. Where
    refinement has not converged, its rest counts as approximation. Cost: each guide once, and K + S rows of the decoder per
    point.
    Raises ValueError for a pair that has no numbers per datapoint (see `Pair`).

    Reference: Cremer, Li, Duvenaud 2018, equation 5.
    """
    samples = (posterior_samples, importance_samples)
    with as_found(model, refined, amortized, x=x, seed=seed, samples=samples) as x:
        first, second = (Pair(model, guide, x, site=site, rows=rows) for guide in (refined, amortized))
        chunks = list(first.chunks())
        better = _elbo(first, chunks, posterior_samples)
        estimate = importance_estimate(
            first, chunks, points=first.points, samples=importance_samples, known=better.log_weights, progress=progress
        )
        worse = _elbo(second, list(second.chunks()), posterior_samples)
    log_p = estimate.log_likelihood
    values = (log_p, better.elbo, worse.elbo, log_p - worse.elbo, better.elbo - worse.elbo, log_p - better.elbo)
    return InferenceGap(*map(mean_interval, values))


def _elbo(pair: Pair, chunks: list[Chunk], samples: int) -> ElboTerms:
    """The bound per point: the KL in closed form where there is one."""
    found = [closed_form(chunk.q, pair.prior_of(chunk)) for chunk in chunks]
    rates = [rate for rate in found if rate is not None]
    exact = torch.cat(rates) if len(rates) == len(chunks) else None
    return elbo_terms(pair, chunks, exact, points=pair.points, samples=samples)
