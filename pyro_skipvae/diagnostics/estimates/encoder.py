"""What the guide alone says of the data: draws of z with their densities, rates and posterior means."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..pairs.pair import Chunk, Pair
from .active_units import half_means
from .rate import closed_form, per_dimension


@dataclass(frozen=True)
class Encoded:
    """N points: z (S, N, *event), log q(z|x) and log p(z) (S, N), KL (N,), mean KL (D,), posterior means (2, N, D).

    one_prior: whether p(z) is the same for all points.
    """

    chunks: list[Chunk]
    z: Tensor
    log_q: Tensor
    log_p: Tensor
    exact_rate: Tensor | None
    rate_per_dimension: Tensor | None
    halves: Tensor
    one_prior: bool

    @property
    def dimensions(self) -> int:
        """D, the number of elements of one z."""
        return self.halves.shape[2]

    @property
    def rate(self) -> Tensor:
        """KL(q(z|x) || p(z)) per point, (N,) in float64: closed form where there is one, else Monte Carlo."""
        return (self.log_q - self.log_p).double().mean(0) if self.exact_rate is None else self.exact_rate


def encode(pair: Pair, samples: int, progress=None) -> Encoded:
    """One pass of the guide over all rows of x, with `samples` draws of z per row."""
    chunks, parts, densities = [], [], []
    for chunk in pair.chunks(progress):
        p, (z, log_q) = pair.prior_of(chunk), chunk.draws(samples)
        kl, terms = closed_form(chunk.q, p), per_dimension(chunk.q, p)
        chunks.append(chunk)
        densities.append(p.log_prob((parts[0][0] if parts else z)[0, :1].expand_as(z[0])))  # of one z, at every row
        log_p = torch.stack([p.log_prob(part) for part in z])  # of one draw at a time: a mixture's takes K times its memory
        parts.append((z, log_q, log_p, kl, None if terms is None else terms.sum(0), half_means(chunk)))
    z, log_q, log_p, kl, terms, halves = zip(*parts, strict=True)
    exact = None if any(part is None for part in kl) else torch.cat(kl)
    per_unit = None if any(part is None for part in terms) else sum(terms) / pair.points
    densities = torch.cat(densities)
    one_prior = torch.allclose(densities, densities[:1].expand_as(densities), rtol=1e-4, atol=1e-4)
    drawn = (torch.cat(part, 1) for part in (z, log_q, log_p))
    return Encoded(chunks, *drawn, exact, per_unit, torch.cat(halves, 1), one_prior)
