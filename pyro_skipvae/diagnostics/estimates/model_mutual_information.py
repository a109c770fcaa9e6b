"""The mutual information of x and z under the generative model p(z) p(x|z)."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_skipvae.blocks import check_sizes

from ..pairs.evaluation import as_found
from ..pairs.pair import Pair, Progress
from ..pairs.rows import Inputs, Rows, call, count_rows, leading, select_rows, traced
from ..pairs.sites import data_dim, likelihood_at, likelihood_sites, log_prob_by_row, plate_scale, sample_sites
from ..pairs.unavailable import FAILURES, Unavailable, told
from ..pairs.working_set import MOST, ConvolutionWatch
from .mutual_information import MutualInformation, bounded, sandwich
from .pairwise import Pairs, carries_network, pairwise_log_prob


class Ancestors:
    """Joint samples (z_i, x_i) of a model's prior and likelihood, n of them, drawn where the rows of x stand."""

    def __init__(
        self, model: Callable[..., Any], x: Rows, points: int, *, site: str | None, rows: int | None, largest: int
    ) -> None:
        self.model, self.x, self.points = model, select_rows(x, slice(0, points)), points
        self.drawn_together = min(rows or MOST, points, largest)  # draws do not depend on the measured `self.rows`
        self.observed = likelihood_sites(traced(model, select_rows(x, slice(0, 3))))
        sampled = [self._sample(part) for part in self._parts()]
        self.latents = [name for name in sampled[0] if name not in self.observed]
        if len(self.latents) != 1 or (site is not None and site != self.latents[0]):
            raise Unavailable(f"under the model it needs one latent site, got {self.latents}")
        self.values = {name: torch.cat([part[name] for part in sampled]) for name in sampled[0]}
        watch = ConvolutionWatch(len(self._parts()[0]))
        with watch:
            self._check_likelihood()
        self.rows = rows or watch.rows_at_a_time

    def pairs(self) -> list[Pairs]:
        """Functions of sample indices i (M,) that return log p(x_i|z_j), (M, n_j), for consecutive groups of j."""
        return [self._group(part) for part in self._parts()]

    def _parts(self) -> list[Tensor]:
        return list(torch.arange(self.points, device="cpu").tensor_split(-(-self.points // self.drawn_together)))

    def _run(self, handled: Any, inputs: Tensor) -> Any:
        """The trace of the handled model at these rows of its input."""
        return call(self.model, select_rows(self.x, inputs), poutine.trace(handled).get_trace)

    def _sample(self, part: Tensor) -> dict[str, Any]:
        try:
            trace = self._run(poutine.uncondition(self.model), part)
        except FAILURES as error:
            raise Unavailable(f"the model cannot draw x: {told(error)}") from error
        sites = sample_sites(trace)
        for node in sites.values():
            data_dim(node, len(part))
        return {name: node["value"] for name, node in sites.items()}

    def _check_likelihood(self) -> None:
        """Where p(x|z) reads its input x (teacher forcing, a context) there is no ancestral sample to be had this way."""
        index = torch.arange(self.points, device="cpu")
        for part in self._parts():  # far from their own rows too: neighbours may share a context
            own = _sound(self._log_likelihood(part, part, part))
            for inputs in (index.roll(1)[part], index.roll(self.points // 2)[part]):
                if not torch.allclose(own, self._at_other(inputs, part), rtol=1e-4, atol=1e-4):
                    raise Unavailable("p(x|z) also reads the x that it is given (teacher forcing or a context)")

    def _at_other(self, inputs: Tensor, part: Tensor) -> Tensor:
        try:
            return self._log_likelihood(inputs, part, part)
        except FAILURES as error:
            reads = "p(x|z) also reads the x that it is given: a draw of one row is impossible at another"
            raise Unavailable(f"{reads} ({told(error)})") from error

    def _log_likelihood(self, inputs: Tensor, x_index: Tensor, z_index: Tensor) -> Tensor:
        """log p(x|z) of given pairs (R,), the model called with the input rows `inputs`."""
        values = {name: self.values[name][x_index] for name in self.observed}
        values |= {name: self.values[name][z_index] for name in self.latents}
        trace = self._run(poutine.condition(self.model, data=values), inputs)
        log_x: Any = sum(log_prob_by_row(trace.nodes[name], len(inputs)) for name in self.observed)
        return log_x

    def _group(self, part: Tensor) -> Pairs:
        latents = {name: self.values[name][part] for name in self.latents}
        trace = self._run(poutine.condition(self.model, data=latents), part)
        nodes = [trace.nodes[name] for name in self.observed]
        if not _decodes_once(nodes, len(part)):
            return lambda index: self._by_rows(index, part)
        pairs, x = pairwise_log_prob(likelihood_at(nodes[0], len(part))), self.values[self.observed[0]]
        return lambda index: pairs(x[index])

    def _by_rows(self, index: Tensor, part: Tensor) -> Tensor:
        """All pairs by running the model on each of them; for densities that are a run of the decoder themselves."""
        x_index, z_index = index.repeat_interleave(len(part)), part.repeat(len(index))
        pieces = zip(x_index.split(self.rows), z_index.split(self.rows), strict=True)
        return torch.cat([self._log_likelihood(z, x, z) for x, z in pieces]).double().view(len(index), len(part))


def _sound(log_likelihood: Tensor) -> Tensor:
    bad = ~log_likelihood.isfinite()
    if bad.any():
        kinds = " or ".join(sorted({str(value) for value in log_likelihood[bad].tolist()}))
        raise Unavailable(f"log p(x|z) is {kinds} at {int(bad.sum())} of {len(bad)} draws of z and x from the model")
    return log_likelihood


def _decodes_once(nodes: list[Any], rows: int) -> bool:
    """Whether one run of the decoder per z gives its likelihood at any x."""
    plain = len(nodes) == 1 and nodes[0]["mask"] is None and plate_scale(nodes[0], rows) == 1
    return plain and not carries_network(nodes[0]["fn"])


def model_mutual_information(
    model: Callable[..., Any],
    x: Inputs,
    *,
    samples: int = 1000,
    site: str | None = None,
    rows: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> MutualInformation:
    """Bounds on I_p(x; z) under the generative model p(z) p(x|z), in nats, from n joint samples (z_i, x_i) of the model.

        lower = mean_i[log p(x_i|z_i) - log 1/n sum_j p(x_i|z_j)]                       at most ln n
        upper = mean_i[log p(x_i|z_i) - log 1/(n-1) sum_(j != i) p(x_i|z_j)]            far above I_p once I_p > ln n

    x gives the shape of the input and is not used otherwise; n is `samples`, or the number of rows of x where that is smaller.
    `marginal` is None here. Cost: n rows of the decoder and n^2 log-densities, or n^2 rows of the decoder where the likelihood
    runs a network itself (an autoregressive decoder). Raises ValueError where p(x|z) depends on the x that the model is given
    (teacher forcing, a context), for several latent sites, and where log p(x|z) is not finite at the samples.
    Reference: Poole et al. 2019, section 2; theorem 1 of Dieng et al. 2019 compares I_p between models.
    """
    if rows is not None:
        check_sizes(rows=rows)
    with as_found(model, x=x, seed=seed, samples=(samples,)) as x:
        return ancestral_bounds(model, x, samples=samples, site=site, rows=rows, largest=2**31, progress=progress)


def ancestral_cost(pair: Pair) -> tuple[int, Callable[[int], float]]:
    """The largest number of joint samples worth their cost, and the decoder rows that n of them cost, at most."""
    nodes = pair.likelihood_nodes
    if _decodes_once(nodes, pair.probed):
        return 1000, lambda n: 5 * n
    # Drawing may take one run of the decoder per element of x.
    elements = sum(node["fn"].event_shape.numel() for node in nodes)
    return 50, lambda n: n * (n + elements + 4)


def ancestral_bounds(
    model: Callable[..., Any],
    x: Rows,
    *,
    samples: int,
    site: str | None,
    rows: int | None,
    largest: int,
    progress: Progress | None = None,
) -> MutualInformation:
    """The bounds of `model_mutual_information`, without its guard."""
    points = min(samples, count_rows(x))
    ancestors = Ancestors(model, x, points, site=site, rows=rows, largest=largest)
    bounds = sandwich(ancestors.pairs(), torch.arange(points, device=leading(x).device)[None], progress)
    return bounded(bounds, None, points=points, samples=1, unavailable={"marginal": "not defined under the model"})
