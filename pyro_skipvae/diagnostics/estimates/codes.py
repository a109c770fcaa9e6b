"""Discrete latent variables: how the codes are used over the data, and what they say of x."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Distribution, ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, OneHotCategorical

DEAD = 1.0  # expected uses in the N rows, below which a code counts as dead
ACTIVE = 0.01  # nats of x that a position says, from which on it counts as active


@dataclass(frozen=True)
class Codes:
    """The codes of a site with P positions of K codes each, over N rows of x; nats.

    `perplexity` of each position is exp H(code), 1 to K, of the usage averaged over all rows; `dead` counts the codes of each
    position that the N rows are expected to use less than once. The same of the codebook that all positions share:
    `codebook_perplexity`, `codebook_dead`. `information` of each position is I(x; code) = H(code) - H(code | x), exact with
    respect to the N rows: it is at most `ceiling` = ln min(N, K), and on average at most (K - 1) / (2 N) below that of the
    population. `information_low` and `information_high` hold that of all positions together between them: the largest, and
    the sum. Where the guide draws the code given other sites, it is I(x, those; code), which is no less than I(x; code):
    `given_others`.
    """

    positions: int
    codes: int
    perplexity: list[float]
    dead: list[int]
    codebook_perplexity: float
    codebook_dead: int
    information: list[float]
    information_low: float
    information_high: float
    ceiling: float
    given_others: bool

    @property
    def active(self) -> int:
        """How many positions say 0.01 nats of x or more."""
        return sum(value >= ACTIVE for value in self.information)


def probabilities(q: Distribution, rows: int) -> Tensor | None:
    """The probabilities of the codes (n, P, K) of a finite q; None for others."""
    base: Any = q
    while isinstance(base, Independent | ExpandedDistribution | MaskedDistribution):
        base = base.base_dist
    if isinstance(base, Bernoulli):
        found = torch.stack([1 - base.probs, base.probs], -1)
    elif isinstance(base, Categorical | OneHotCategorical):
        found = base.probs
    else:
        return None
    return found.expand(*_batch(q), found.shape[-1]).reshape(rows, -1, found.shape[-1]).double()


class Usage:
    """Sums of the probabilities of the codes (P, K), of the entropies of q (P,), and of the weights, over rows and draws."""

    def __init__(self) -> None:
        self.mass: Any = 0.0
        self.entropy: Any = 0.0
        self.weight = 0.0

    def add(self, q: Tensor, kept: Tensor) -> None:
        """q (n, P, K); rows that are not kept (n,) count for nothing."""
        q = q[kept]
        self.mass = self.mass + q.sum(0).cpu()
        self.entropy = self.entropy - torch.xlogy(q, q).sum((0, 2)).cpu()
        self.weight += len(q)

    def codes(self, rows: int, *, given_others: bool) -> Codes:
        """What the sums say, of `rows` rows."""
        usage = self.mass / self.weight  # (P, K)
        entropy, shared = _entropy(usage), usage.mean(0)
        information = (entropy - self.entropy / self.weight).clamp(min=0)
        positions, codes = usage.shape
        return Codes(
            positions=positions,
            codes=codes,
            perplexity=entropy.exp().tolist(),
            dead=(usage * rows < DEAD - 1e-6).sum(1).tolist(),  # rounding of a sum of N ones
            codebook_perplexity=_entropy(shared).exp().item(),
            codebook_dead=int((shared * rows * positions < DEAD - 1e-6).sum()),
            information=information.tolist(),
            information_low=information.max().item(),
            information_high=information.sum().item(),
            ceiling=math.log(min(rows, codes)),
            given_others=given_others,
        )


def _entropy(usage: Tensor) -> Tensor:
    return -torch.xlogy(usage, usage).sum(-1)


def _batch(q: Any) -> torch.Size:
    """The shape of q with one number for each code that it draws: batch and event, without the K of a one-hot code."""
    shape: torch.Size = q.batch_shape + q.event_shape
    base = q
    while isinstance(base, Independent | ExpandedDistribution | MaskedDistribution):
        base = base.base_dist
    return shape[:-1] if isinstance(base, OneHotCategorical) else shape
