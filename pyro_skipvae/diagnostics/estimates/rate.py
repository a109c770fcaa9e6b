"""The rate KL(q(z|x) || p(z))."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_skipvae.distributions.ar1 import AR1, normal_factors, rate_per_step

from ..pairs.evaluation import as_found
from ..pairs.finite import finite
from ..pairs.interval import Interval, mean_interval
from ..pairs.pair import Chunk, Pair
from ..pairs.rows import Inputs
from ..pairs.sites import log_density, widened
from .pairwise import factors, flat, unwrapped


def rate(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Inputs,
    *,
    posterior_samples: int = 10,
    site: str | None = None,
    seed: int = 0,
    rows: int | None = None,
) -> Interval:
    """The mean rate E_x KL(q(z|x) || p(z)) in nats per datapoint, with its 95 % interval over x.

    In closed form where Pyro has one, else the mean of log q(z|x) - log p(z) over `posterior_samples` draws per x (unbiased).
    rows: the most rows that guide and model run at a time (None: about 256, or fewer by the size of convolutions).
    Cost: the guide, and the model up to z, once on every row of x; the decoder runs on three rows, to check the pair.
    Raises ValueError for fewer than 2 rows, rows where the rate is not finite, and a pair that `collapse_report` refuses.
    """
    with as_found(model, guide, x=x, seed=seed, samples=(posterior_samples,)) as x:
        pair = Pair(model, guide, x, site=site, rows=rows)
        per_point = torch.cat([chunk_rate(chunk, pair.prior_of(chunk), posterior_samples) for chunk in pair.chunks()])
        return mean_interval(finite(per_point, "KL(q(z|x) || p(z))"))


def closed_form(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) per row, (n,), where Pyro or torch has it in closed form, else None; of 16 bits it is taken in float64."""
    try:
        found = kl_divergence(widened(unwrapped(q)), widened(unwrapped(p)))
        return found.expand(q.batch_shape).double()
    except NotImplementedError:
        return None


def per_dimension(q: Distribution, p: Distribution) -> Tensor | None:
    """KL per row and dimension (n, D) of a factorised q against a factorised p, or against an AR(1) sequence, else None.

    Of a sequence (T, C), D = T C: what each step and channel adds, given the step before (see `rate_per_step`).
    """
    sequence, normals = widened(unwrapped(p)), normal_factors(widened(unwrapped(q)))
    if isinstance(sequence, AR1):
        return None if normals is None else flat(rate_per_step(*normals, sequence).double())
    (q_base, q_event), (p_base, p_event) = factors(q), factors(p)
    if not q_event == p_event == q.event_shape:
        return None
    terms = closed_form(q_base, p_base)
    return None if terms is None else flat(terms)


def chunk_rate(chunk: Chunk, p: Distribution, samples: int) -> Tensor:
    """KL(q(z|x) || p(z)) at the rows of a chunk, (n,): closed form where there is one, else over draws."""
    exact = closed_form(chunk.q, p)
    if exact is not None:
        return exact
    z, log_q = chunk.draws(samples)
    return (log_q - torch.stack([log_density(p, part) for part in z])).double().mean(0)
