"""What the guide alone says of the data: draws of z with their densities, rates and posterior means."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor

from pyro_skipvae.distributions.ar1 import AR1

from ..pairs.conditions import drawn, same_density
from ..pairs.finite import check_densities, check_draws, finite
from ..pairs.pair import Chunk, Pair, Progress
from ..pairs.sites import log_density
from ..pairs.unavailable import FAILURES, Unavailable, told
from .active_units import half_means
from .dimensions import collapse_thresholds
from .pairwise import unwrapped
from .rate import closed_form, per_dimension


@dataclass(frozen=True)
class Encoded:
    """N points: z (S, N, *event), log q(z|x) and log p(z) (S, N), KL (N,), mean KL (D,), posterior means (2, N, D).

    collapse_thresholds (D,): see `dimensions.collapse_thresholds`.

    log_p is None where p(z) refuses a draw of z, with the reason in `prior_failure`.
    """

    chunks: list[Chunk]
    z: Tensor
    log_q: Tensor
    log_p: Tensor | None
    prior_failure: str | None
    exact_rate: Tensor | None
    rate_per_dimension: Tensor | None
    halves: Tensor
    collapse_thresholds: Tensor | None = None

    @property
    def dimensions(self) -> int:
        """D, the number of elements of one z."""
        return self.halves.shape[2]

    @property
    def rate(self) -> Tensor:
        """KL(q(z|x) || p(z)) per point, (N,) in float64: closed form where there is one, else Monte Carlo.

        Raises Unavailable, with the rows, where it is not finite.
        """
        if self.exact_rate is not None:
            check_densities(self.z, self.log_q)  # a formula may be finite for what is no distribution
            return finite(self.exact_rate, "KL(q(z|x) || p(z))")
        check_draws(self.z, self.log_q)
        return finite(self.log_ratio.mean(0), "log q(z|x) - log p(z), averaged over the draws of a row,")

    def check_draws(self) -> None:
        """Raises Unavailable, with the rows, where the draws are those of no density."""
        if self.dimensions:
            check_draws(self.z, self.log_q)

    @property
    def log_ratio(self) -> Tensor:
        """log q(z|x) - log p(z) per draw, (S, N) in float64; raises Unavailable where p(z) refuses a draw."""
        if self.log_p is None:
            raise Unavailable(self.prior_failure)
        return (self.log_q - self.log_p).double()


def encode(pair: Pair, samples: int, progress: Progress | None = None) -> Encoded:
    """One pass of the guide over all rows of x, with `samples` draws of z per row."""
    chunks, priors, parts = [], [], []
    for chunk in pair.chunks(progress):
        p, (z, log_q) = pair.prior_of(chunk), chunk.draws(samples)
        kl, terms = closed_form(chunk.q, p), per_dimension(chunk.q, p)
        chunks.append(chunk)
        priors.append(p)
        parts.append((z, log_q, kl, terms, half_means(chunk)))
    columns: Any = zip(*parts, strict=True)
    z, log_q, kl, terms, halves = columns
    exact = None if any(part is None for part in kl) else torch.cat(kl)
    per_point = None if any(part is None for part in terms) else torch.cat(terms)
    per_unit = None if per_point is None else per_point.mean(0)
    # Of an AR(1) prior the terms hold a part that is committed: one that is not near 0 may carry nothing all the same.
    thresholds = None
    if per_point is not None and per_point.isfinite().all() and not isinstance(unwrapped(priors[0]), AR1):
        thresholds = collapse_thresholds(per_point)
    log_p, failure = _log_priors(priors, z)
    if not pair.prior_masked and not agree(priors, drawn(priors[0])[:1] if log_p is None else z[0][0, :1]):
        pair.note_varying_prior()
    return Encoded(
        chunks,
        torch.cat(z, 1),
        torch.cat(log_q, 1),
        log_p,
        failure,
        exact,
        per_unit,
        torch.cat(halves, 1),
        thresholds,
    )


def _log_priors(priors: list[Distribution], z: tuple[Tensor, ...]) -> tuple[Tensor | None, str | None]:
    """log p(z) (S, N) of draws per chunk (S, n, *event), or None with the reason."""
    try:  # one draw at a time: a mixture takes as many times the memory of it as it has components
        log_p = [torch.stack([log_density(p, part) for part in draws]) for p, draws in zip(priors, z, strict=True)]
        return torch.cat(log_p, 1), None
    except FAILURES as error:
        return None, f"p(z) has no density at a draw from q(z|x): {told(error)}"


def agree(priors: list[Distribution], z: Tensor) -> bool:
    """Whether one z (1, *event) has the same prior density at all rows."""
    try:
        densities = torch.cat([p.log_prob(z.expand(p.batch_shape + z.shape[1:])) for p in priors])
    except FAILURES:  # it lies in the support of some rows' prior only
        return False
    return same_density(densities)
