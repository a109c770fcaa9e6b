"""Perplexity: nats per token, as an exponential."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Multinomial

from pyro_skipvae.distributions.multinomial import MultinomialGivenTotal
from pyro_skipvae.distributions.wrapped import innermost

from ..pairs.interval import Interval, half_width, standard_error
from ..pairs.pair import Pair
from ..pairs.rows import count_rows, select_rows
from ..pairs.sites import counted, plate_scale
from ..pairs.unavailable import Unavailable

COUNTED = "words and the end mark of each text, unknown words too; not the mark at its beginning"
OF_COUNTS = "the words that are counted, in an order"
COUNTS = (Multinomial, MultinomialGivenTotal)
BOUNDS = {"ppl_iw": "log_likelihood", "ppl_elbo": "elbo"}


def checked_tokens(tokens: Any, rows: int) -> Tensor:
    """The number of tokens of each row, (rows,), on the CPU. Raises ValueError for anything else, or a row without tokens."""
    if not (isinstance(tokens, Tensor) and tokens.shape == (rows,) and tokens.min() > 0):
        shape = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(f"expected tokens to be a tensor ({rows},) of how many tokens each row has, 1 at least, got {shape}")
    return tokens.cpu()


def perplexity(nats: Tensor, tokens: Tensor) -> Interval:
    """exp(sum of nats / sum of tokens) over texts: nats (N,) is -log p(x) or a bound on it, tokens (N,) counts those of x.

    A bound from above where nats are one. The interval is over texts, of a ratio of two means (delta method).
    Reference: Dieng et al. 2019, Table 4 (there by importance sampling with 200 draws).
    """
    nats, tokens = nats.double(), tokens.double()
    per_token = nats.sum() / tokens.sum()
    half = half_width(standard_error((nats - per_token * tokens) / tokens.mean()), len(tokens))
    return Interval(*(value.exp().item() for value in (per_token, per_token - half, per_token + half)))


def perplexity_difference(first: Tensor, second: Tensor, tokens: Tensor) -> Interval:
    """The perplexity of one model minus that of another on the same texts: nats (N,) of each, tokens (N,).

    The interval is over texts, paired: what makes a text hard for both is not in it (delta method).
    """
    tokens = tokens.double()
    values, influence = [], torch.zeros((), device="cpu")
    for sign, nats in ((1, first.double()), (-1, second.double())):
        per_token = nats.sum() / tokens.sum()
        values.append(sign * per_token.exp())
        influence = influence + values[-1] * (nats - per_token * tokens) / tokens.mean()
    value, half = torch.stack(values).sum().item(), half_width(standard_error(influence), len(tokens))
    return Interval(value, value - half, value + half)


def log_orders(pair: Pair, points: int) -> Tensor | None:
    """Of x that are counts of words, ln of the number of orders that these can be in, (points,); None for any other x.

        ln n! - sum_d ln x_d!,   n = sum_d x_d

    A multinomial gives all orders together, a perplexity is that of one.
    """
    found = torch.zeros(points, dtype=torch.float64, device="cpu")
    counts = [node["name"] for node in pair.likelihood_nodes if isinstance(innermost(node["fn"], masks=True), COUNTS)]
    if not counts:
        return None
    for chunk in pair.chunks():
        rows = min(points - chunk.start, count_rows(chunk.x))
        if rows <= 0:
            break
        trace = pair.model_trace(select_rows(chunk.x, slice(0, rows)), pair.draw(chunk, rows)[0])
        for name in counts:
            if not counted(trace.nodes[name], rows).all():
                raise Unavailable(f"{name} is masked: which of its words count is not known")
            x = trace.nodes[name]["value"].reshape(rows, -1, trace.nodes[name]["fn"].event_shape[-1]).double().cpu()
            orders = ((x.sum(-1) + 1).lgamma() - (x + 1).lgamma().sum(-1)).sum(-1)
            found[chunk.start : chunk.start + rows] += orders * plate_scale(trace.nodes[name], rows)
    return found


def perplexities(fields: dict[str, Any], tokens: Tensor, samples: int, orders: Tensor | None = None) -> dict[str, Any]:
    """By the ELBO and by importance sampling with `samples` draws, as plain values: each with the texts that it stands on.

    These are the first ones, and how many tokens they have; `tokens` is the number of all. None where the bound is. With
    `orders` (n,), of `log_orders`, counts have the perplexity of their words in an order.
    """
    found: dict[str, Any] = {}
    for name, of in BOUNDS.items():
        if fields[of] is None:  # its reason is that of the bound
            found[name] = None
            continue
        own = tokens[: len(fields[of])]
        nats = -fields[of] if orders is None else orders[: len(own)] - fields[of].cpu()
        found[name] = {**vars(perplexity(nats, own)), "texts": len(own), "tokens": int(own.sum())}
    told = COUNTED if orders is None else OF_COUNTS
    return {**found, "tokens": int(tokens.sum()), "counted": told, "importance_samples": samples}
