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
    """log p(x), the ELBOs of two guides and the gaps between them, in nats per datapoint, with 95 % intervals over the points.

        inference_gap = amortization_gap     + approximation_gap
                      = (refined - amortized) + (log_likelihood - refined)

    The intervals of the gaps are those of paired differences.
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
    """Splits the gap log p(x) - ELBO of an amortized guide into an amortization gap and an approximation gap.

        amortization gap = ELBO(refined) - ELBO(amortized)            approximation gap = log p(x) - ELBO(refined)

    refined, amortized: two guides of the model; the refined one should be the better of the same family, for example
    `SemiAmortized`. Bias: log p(x) is estimated from below, by importance sampling from the refined q with K =
    `importance_samples`, so the approximation gap is too small on average. Where the refinement has not converged, what it
    leaves counts as approximation. Cost: each guide once, and K + `posterior_samples` rows of the decoder per point.

    Raises ValueError for a pair without numbers per datapoint (see `collapse_report`).
    Reference: Cremer, Li, Duvenaud 2018, "Inference suboptimality in variational autoencoders".
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
