"""Discrete latent variables: how the codes are used over the data, and what they say of x."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, OneHotCategorical

from pyro_skipvae.distributions.wrapped import innermost

DEAD = 1.0  # expected uses in the N rows, below which a code counts as dead
MOST_KEPT = 2**25  # probabilities, 256 MB of them
ROUNDING = 1e-12  # what is left of a sum less its only part, relative to it
ACTIVE = 0.01  # nats of x that a position says, from which on it counts as active


@dataclass(frozen=True)
class Codes:
    """How a discrete latent site of P positions with K codes each is used over N rows of x; information in nats.

    perplexity: of each position, exp H(code) from 1 to K, for the usage averaged over all rows.
    dead: of each position, the number of codes that the N rows are expected to use less than once.
    codebook_perplexity, codebook_dead: the same for the usage averaged over all positions, as of a shared codebook.
    information: of each position, I(x; code) = H(code) - H(code | x). It is exact for the N rows, at most `ceiling` =
    ln min(N, K), and on average below that of the population by about (K - 1) / (2 N) at most.
    information_low, information_high: bounds on the information of all positions together, the largest and the sum.
    given_others: whether the guide draws the code given other sites; `information` is then I(x, those sites; code), which is
    at least I(x; code).
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
        """The number of positions with an information of 0.01 nats or more."""
        return sum(value >= ACTIVE for value in self.information)


def probabilities(q: Distribution, rows: int) -> Tensor | None:
    """The probabilities of the codes (n, P, K) of a finite q; None for others."""
    base = innermost(q, masks=True)
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
        self.count = 0  # rows of the first draw
        self.rows: list[Tensor] = []  # the probabilities at the first of them

    def add(self, q: Tensor, kept: Tensor, *, keep: bool) -> None:
        """q (n, P, K); rows that are not kept (n,) count for nothing. keep: for `information`, as of the first draw."""
        q = q[kept]
        self.count += len(q) * keep
        if keep and sum(part.numel() for part in self.rows) < MOST_KEPT:
            self.rows.append(q.cpu())
        self.mass = self.mass + q.sum(0).cpu()
        self.entropy = self.entropy - torch.xlogy(q, q).sum((0, 2)).cpu()
        self.weight += len(q)

    def information(self) -> tuple[Tensor, Tensor]:
        """Bounds on I(x; code) of all positions together, from below and above: per row (n,), of the first rows that are kept.

            lower = sum_k q_i(k) [log q_i(k) - log 1/N sum_j q_j(k)]            of the position where its mean is the largest
            upper = sum_k q_i(k) [log q_i(k) - log 1/(N - 1) sum_(j != i) q_j(k)]   summed over the positions

        Both are those of `mutual_information`, without its draws: on average the lower one is at most (K - 1) / (2 N) too low
        for one position, and the upper one too high by as much or more; it is infinite where one row alone uses a code.
        """
        total, lower, upper = self.mass / self.weight * self.count, [], []  # (P, K)
        for q in self.rows:
            own = torch.xlogy(q, q).sum(2)
            lower.append(own - torch.xlogy(q, total / self.count).sum(2))
            others = torch.where(total - q < ROUNDING * total, 0.0, total - q) / (self.count - 1)
            upper.append((own - torch.xlogy(q, others).sum(2)).sum(1))
        below = torch.cat(lower)
        return below[:, below.mean(0).argmax()], torch.cat(upper)

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
    return shape[:-1] if isinstance(innermost(q, masks=True), OneHotCategorical) else shape
