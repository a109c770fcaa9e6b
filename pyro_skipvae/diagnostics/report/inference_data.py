"""`to_arviz`: what a pair draws and how likely it is, for ArviZ."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_skipvae.blocks import in_full

from ..pairs.evaluation import as_found
from ..pairs.pair import Pair
from ..pairs.rows import Inputs, even_parts
from .report import CollapseReport, collapse_report


def to_arviz(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Inputs,
    *,
    draws: int = 100,
    report: CollapseReport | None = None,
    site: str | None = None,
    seed: int = 0,
    rows: int | None = None,
) -> Any:
    """Draws of z from the guide, their log-densities and the collapse report of a pair, as ArviZ's `InferenceData`.

    posterior: z (chain 1, draw, point, ...), under the name of its site. log_likelihood: log p(x|z) (chain, draw, point).
    sample_stats: `log_prior` is log p(z) and `log_guide` is log q(z|x), both (chain, draw, point), in nats. observed_data: the
    values that the model observes. attributes: `collapse_report`, the report as JSON (one with the defaults is made where none
    is given), and `verdict`. rows: see `collapse_report`.

    The draws are from the guide q(z|x), not from the posterior p(z|x): log_likelihood + log_prior - log_guide is the log of
    the importance weight that corrects for that. Raises ValueError for a pair with several latent sites or without numbers per
    datapoint (see `collapse_report`), and ImportError without ArviZ below version 1.
    """
    try:
        import arviz
    except ImportError:
        raise ImportError("expected arviz for to_arviz; install it: pip install 'arviz<1'") from None
    if not hasattr(arviz, "InferenceData"):
        raise ImportError(f"expected arviz below 1 for to_arviz, got {arviz.__version__}; install it: pip install 'arviz<1'")
    report = report or collapse_report(model, guide, x, site=site, seed=seed, rows=rows)
    with as_found(model, guide, x=x, seed=seed, samples=(draws,)) as found:
        pair = Pair(model, guide, found, site=site, rows=rows)
        if pair.nuisance:
            raise ValueError(f"expected one latent site for to_arviz, got {pair.latents}")
        z, log_q = (torch.cat(part, 1) for part in zip(*(chunk.draws(draws) for chunk in pair.chunks()), strict=True))
        log_x, log_z = _log_joint(pair, z)
        observed = _observed(pair, z[0])
    points = {"point": range(pair.points)}
    names = [f"{pair.site}_dim_{axis}" for axis in range(z.dim() - 2)]
    return arviz.from_dict(
        posterior={pair.site: _one_chain(z)},
        log_likelihood={pair.observed[0]: _one_chain(log_x)},
        sample_stats={"log_prior": _one_chain(log_z), "log_guide": _one_chain(log_q)},
        observed_data={pair.observed[0]: in_full(observed).cpu().numpy()},
        coords=points,
        dims={
            pair.site: ["point", *names],
            pair.observed[0]: ["point", *(f"{pair.observed[0]}_dim_{axis}" for axis in range(observed.dim() - 1))],
            "log_prior": ["point"],
            "log_guide": ["point"],
        },
        attrs={"collapse_report": report.to_json(), "verdict": report.verdict.sentence, "draws_of": "the guide q(z|x)"},
    )


def _log_joint(pair: Pair, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x|z) and log p(z), each (S, N), at draws z (S, N, ...)."""
    index = torch.arange(pair.points, device=z.device)
    found = [pair.log_joint(index, {pair.site: each}) for each in z]
    return torch.stack([log_x for log_x, _ in found]), torch.stack([log_z[pair.site] for _, log_z in found])


def _observed(pair: Pair, z: Tensor) -> Tensor:
    """The values (N, ...) of the site to which log p(x|z) is given, in a run of the model at a draw z (N, ...)."""
    parts = even_parts(pair.points, pair.rows_at_a_time)
    traces = (pair.model_trace(pair.rows(part), {pair.site: z[part]}) for part in parts)
    return torch.cat([trace.nodes[pair.observed[0]]["value"] for trace in traces])


def _one_chain(values: Tensor) -> Any:
    return in_full(values)[None].cpu().numpy()
