"""The evidence lower bound, its distortion, and what the decoder loses when z is shuffled."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..pairs.finite import check_values, finite
from ..pairs.pair import Chunk, Pair, Progress
from ..pairs.rows import count_rows

Draws = tuple[Tensor, Tensor]  # z (S, N, *event) and log q(z|x) (S, N)


@dataclass(frozen=True)
class ElboTerms:
    """Per point (n,) in float64: the bound, log p(x|z) averaged over z, and that of the first draw with its z.

    log_weights (S, n) are log p(x, z) - log q(z|x) of each draw.
    """

    elbo: Tensor
    log_likelihood: Tensor
    first: Tensor
    first_values: dict[str, Any]
    log_weights: Tensor


def elbo_terms(
    pair: Pair,
    chunks: list[Chunk],
    exact_rate: Tensor | None,
    *,
    points: int,
    samples: int,
    draws: Draws | None = None,
    progress: Progress | None = None,
) -> ElboTerms:
    """ELBO = E_q log p(x|z) - KL(q(z|x) || p(z)) on the first `points` rows, in nats per datapoint.

    The KL is exact_rate (N,) where there is a closed form, else log p(z) - log q(z|x) of the same draws is averaged;
    nuisance sites always enter by their draws.

    Shared: `draws` z (S, N, *event) with log q(z|x) (S, N), those of the mutual information, are taken where there are any; and
    `importance_estimate` takes the weights of this bound as its first. Each estimate is a mean over draws from q(z|x) whoever
    else reads them, so none is biased by that; the difference of two on the same draws has less noise than on other ones.
    """
    index = torch.arange(points, device="cpu")
    elbo, likelihood = torch.zeros(2, points, dtype=torch.float64, device="cpu")
    first: Any = None
    weights = []
    for sample in range(samples):
        values, log_q = draw_all(pair, chunks, points) if draws is None else _given(pair, draws, sample, points)
        log_x, log_p = pair.log_joint(index, values)
        likelihood += log_x.double().cpu() / samples
        elbo += (log_x + log_ratio(log_p, log_q, leave_out=None if exact_rate is None else pair.site)).double().cpu() / samples
        weights.append((log_x + log_ratio(log_p, log_q)).double().cpu())
        first = first or (log_x.double().cpu(), values)
        if progress:
            progress("ELBO", (sample + 1) * points, samples * points)
    elbo = elbo if exact_rate is None else elbo - exact_rate[:points].cpu()
    return ElboTerms(elbo, likelihood, first[0], first[1], torch.stack(weights))


def _given(pair: Pair, draws: Draws, sample: int, points: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A draw that was made before at the first points: values and log q by site, as `draw_all` returns them."""
    z, log_q = draws
    check_values(z[sample : sample + 1, :points])
    return {pair.site: z[sample, :points]}, {pair.site: log_q[sample, :points]}


def shuffled_latent_loss(pair: Pair, terms: ElboTerms, *, seed: int) -> Tensor:
    """log p(x|z) - log p(x|z'), per point (n,), where z' is the same draw of another, random point; z is `site` alone.

    Zero for a decoder that ignores z, whatever the encoder does. A random cycle makes sure that no point keeps its z;
    the result is in the order of that cycle, in which neighbours share a z: see `cycle_standard_error`. It is infinite where x
    is impossible at z' alone; raises Unavailable, with the rows, where x is impossible at z.
    """
    points = len(terms.first)
    order = torch.randperm(points, generator=torch.Generator().manual_seed(seed), device="cpu")
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    values = terms.first_values | {pair.site: terms.first_values[pair.site][other]}
    loss = terms.first - pair.log_joint(torch.arange(points, device="cpu"), values)[0].double().cpu()
    finite(loss.nan_to_num(nan=torch.nan, posinf=0.0, neginf=-torch.inf), "log p(x|z) - log p(x|z')")
    return loss[order]


def log_ratio(log_p: dict[str, Any], log_q: dict[str, Any], *, leave_out: str | None = None) -> Tensor:
    """log p - log q over all latent sites but one, with the factors that only the guide has, (R,)."""
    return sum(log_p.get(name, 0) - value for name, value in log_q.items() if name != leave_out)


def draw_all(pair: Pair, chunks: list[Chunk], points: int, copies: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draws of all latent sites at the first `points` rows, `copies` after another: values and log q, (copies n, ...)."""
    drawn = [
        pair.draw(chunk, min(points - chunk.start, count_rows(chunk.x)))
        for _ in range(copies)
        for chunk in chunks
        if chunk.start < points
    ]
    values, log_q = ({name: torch.cat([part[which][name] for part in drawn]) for name in drawn[0][which]} for which in (0, 1))
    check_values(values[pair.site].unflatten(0, (copies, points)))
    return values, log_q
