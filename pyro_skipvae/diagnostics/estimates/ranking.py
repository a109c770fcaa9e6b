"""How well a model ranks what a user will choose: recall@k and NDCG@k of items that were held out."""

import math
from typing import Any

import torch
from torch import Tensor

from pyro_skipvae.random_numbers import forked

from ..pairs.interval import mean_interval
from .moments import posterior_moments

RECALL, NDCG = (20, 50), (100,)
HELD_OUT = 0.2  # of what each user chose


def recall_at_k(scores: Tensor, held_out: Tensor, k: int) -> Tensor:
    """Of the k items with the highest scores, the hits over min(k, items held out), (N,); nan for rows with none.

        scores (N, D), -inf for what is not to be ranked;  held_out (N, D), above 0 where an item was held out

    Raises ValueError for k below 1. Reference: Liang et al. 2018, section 4.2.
    """
    hits, count = _hits(scores, held_out, k)
    return hits.sum(-1) / count.clamp(max=k)


def ndcg_at_k(scores: Tensor, held_out: Tensor, k: int) -> Tensor:
    """Discounted gain of the k items with the highest scores, over that of the best order, (N,); nan for rows with none.

        DCG = sum_(r <= k) hit_r / log2(r + 1)

    Arguments and reference are those of `recall_at_k`.
    """
    hits, count = _hits(scores, held_out, k)
    discount = 1 / torch.arange(2, hits.shape[-1] + 2, dtype=hits.dtype, device=hits.device).log2()
    best = torch.cat([discount.new_zeros(1), discount.cumsum(0)])[count.clamp(max=len(discount)).long()]
    return (hits * discount).sum(-1) / best


def _hits(scores: Tensor, held_out: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Whether each of the k highest is one of those held out, in double precision, and how many of these there are."""
    if k < 1:
        raise ValueError(f"expected k of at least 1, got {k}")
    relevant = held_out > 0
    best = scores.topk(min(k, scores.shape[-1]), -1).indices
    return relevant.gather(-1, best).double(), relevant.sum(-1).double()


@torch.no_grad()
def ranking(vae: Any, x: Tensor, *, held_out: float = HELD_OUT, seed: int = 0) -> dict[str, Any]:
    """Recall@20, recall@50 and NDCG@100 of a model of choices x (N, D), {name: Interval}, with the `users` that count.

    Of what each user chose a part is hidden, at random; z is the posterior mean given the rest, and the items outside of that
    are ranked by the mean of p(x|z). Users of fewer than two items are left out, and so is a k of D or more. Random numbers
    stay as found. Raises ValueError where fewer than two users are left.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(x.shape, generator=generator, device="cpu").to(x.device)
    order = drawn.masked_fill(x == 0, math.inf).argsort(-1).argsort(-1)
    chosen = (x > 0).sum(-1)
    hide = (held_out * chosen).ceil().clamp(min=1)
    hidden = (order < hide[:, None]) & (x > 0) & (chosen > 1)[:, None]
    if int((chosen > 1).sum()) < 2:
        raise ValueError("expected at least two users of two items or more to rank for")
    seen = x.masked_fill(hidden, 0)[chosen > 1]
    with forked([x.device], seed):  # for a family whose mean is that of draws
        z = posterior_moments(vae.posterior(seen))[0]
    scores = vae.decoder(z).mean.masked_fill(seen > 0, -math.inf)
    measures = {f"recall@{k}": recall_at_k(scores, hidden[chosen > 1], k) for k in RECALL if k < x.shape[-1]}
    measures |= {f"ndcg@{k}": ndcg_at_k(scores, hidden[chosen > 1], k) for k in NDCG if k < x.shape[-1]}
    return {name: vars(mean_interval(values)) for name, values in measures.items()} | {"users": len(seen)}
