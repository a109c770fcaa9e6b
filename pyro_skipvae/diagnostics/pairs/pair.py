"""A Pyro model and guide, read through their traces: q(z|x), p(z) and log p(x|z) per datapoint, scales ignored."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pyro import poutine
from pyro.distributions import (
    Delta,
    Distribution,
    ExpandedDistribution,
    MaskedDistribution,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategoricalStraightThrough,
)
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.runtime import NonlocalExit
from torch import Tensor
from torch.distributions import Independent
from torch.overrides import TorchFunctionMode

from .evaluation import forked_random
from .rows import as_tuple, count_rows, select_rows
from .sites import by_row, data_dim, latent_sites, log_prob_by_row, observed_sites, posterior_at, sample_sites

ENCODER_ROWS = 256
PROBE_ROWS = 3


@dataclass
class Chunk:
    """Rows of x with their posterior q(z|x), batch (n,), read once from the guide."""

    start: int
    x: tuple
    q: Distribution

    def draws(self, samples: int) -> tuple[Tensor, Tensor]:
        """z (S, n, *event) and log q(z|x) (S, n): one draw at a time, since inverse flows know only their last one."""
        pairs = [(z := self.q.sample(), self.q.log_prob(z)) for _ in range(samples)]
        return tuple(torch.stack(part) for part in zip(*pairs, strict=True))


class Pair:
    """A model and a guide over the rows of x, with one latent site of interest inside one data plate.

    x is a tensor or a tuple, passed as `*x`; its tensors share their first dimension, the N rows. To evaluate
    several z per row the model is called with that row repeated, so any plate that is as long as its input works.
    A plate's scale N/B and `poutine.scale` are ignored, masks are kept: every number is one per datapoint.
    Raises ValueError, with the reason, where numbers per datapoint cannot be had from the pair.
    """

    def __init__(self, model, guide, x, *, site: str | None = None):
        self.model, self.guide, self.x = model, guide, as_tuple(x)
        if isinstance(guide, AutoGuide):  # even one look at three rows would set it up for three rows
            raise ValueError(f"expected an amortized guide of x, got {type(guide).__name__} with parameters of its own")
        self.points = count_rows(self.x)
        self.notes: list[str] = []
        rows = self.rows(slice(0, PROBE_ROWS))
        guide_trace, model_trace = self._probe(rows)
        self.latents = _shared_latents(model_trace, guide_trace)
        self.site = _chosen(site, self.latents)
        self.observed = observed_sites(model_trace)
        self.largest = min(_limit(trace, count_rows(rows)) for trace in (guide_trace, model_trace))
        _check_posterior(self.site, posterior_at(guide_trace, self.site, count_rows(rows)))
        self._check_repeatable(rows, guide_trace)

    @property
    def nuisance(self) -> list[str]:
        """The other latent sites."""
        return [name for name in self.latents if name != self.site]

    def rows(self, index) -> tuple:
        """The rows of x at a slice or an index tensor, as arguments for the model and the guide."""
        return select_rows(self.x, index)

    def chunks(self, progress=None) -> Iterator[Chunk]:
        """All rows with their posteriors, about 256 rows at a time."""
        size = min(ENCODER_ROWS, self.largest)
        starts = list(range(0, self.points, size))
        # A last chunk of a few rows joins its neighbour: many networks squeeze away a batch of one.
        if len(starts) > 1 and self.points - starts[-1] < min(32, self.largest - size + 1):
            starts.pop()
        for start, stop in zip(starts, [*starts[1:], self.points], strict=True):
            rows = self.rows(slice(start, stop))
            yield Chunk(start, rows, self.posterior(rows))
            if progress:
                progress("encoder", stop, self.points)

    def posterior(self, rows: tuple) -> Distribution:
        """q(z|x) at these rows, batch (n,)."""
        return posterior_at(poutine.trace(self.guide).get_trace(*rows), self.site, count_rows(rows))

    def support(self):
        """Where q(z|x) lies, a constraint of torch, or None where it does not say."""
        with torch.random.fork_rng():
            try:
                return self.posterior(self.rows(slice(0, 2))).support
            except NotImplementedError:
                return None

    def prior(self, rows: tuple, values: dict | None = None) -> Distribution:
        """p(z) at these rows, batch (n,); the model stops at z, so the decoder does not run."""
        model = poutine.condition(self.model, data=values or {})
        try:
            poutine.escape(model, escape_fn=lambda message: message["name"] == self.site)(*rows)
        except NonlocalExit as stop:
            return by_row(stop.site, count_rows(rows))
        raise ValueError(f"expected the model to sample {self.site!r} on every call, got a run without it")

    def prior_of(self, chunk: Chunk) -> Distribution:
        """p(z) at the rows of a chunk; raises ValueError where it is another one at the guide's draw of the other sites."""
        p = self.prior(chunk.x)
        if self.nuisance:
            values, _ = self.draw(chunk, count_rows(chunk.x))
            drawn = {name: values[name] for name in self.nuisance}
            if not _same_distribution(p, self.prior(chunk.x, drawn), chunk.x):
                self._refuse_prior()
        return p

    def draw(self, chunk: Chunk, points: int) -> tuple[dict, dict]:
        """One draw of every latent site at the first `points` rows of a chunk, and its log q per site, (points,)."""
        if not self.nuisance:
            z = chunk.q.sample()
            return {self.site: z[:points]}, {self.site: chunk.q.log_prob(z)[:points]}
        rows = select_rows(chunk.x, slice(0, points))
        trace = poutine.trace(self.guide).get_trace(*rows)
        values = {name: trace.nodes[name]["value"] for name in self.latents}
        return values, {name: log_prob_by_row(trace.nodes[name], points) for name in self.latents}

    def log_joint(self, index: Tensor, values: dict, *, rows: int) -> tuple[Tensor, dict]:
        """log p(x|z) (R,) and log p per latent site (R,), at the rows `index` (R,) of x and values (R, ...)."""
        pieces = []
        # Even pieces: a last piece of one row is a trap for networks that squeeze.
        for part in torch.arange(len(index)).tensor_split(-(-len(index) // min(rows, self.largest))):
            at = {name: value[part] for name, value in values.items()}
            trace = poutine.trace(poutine.condition(self.model, data=at)).get_trace(*self.rows(index[part]))
            pieces.append({name: log_prob_by_row(trace.nodes[name], len(part)) for name in self.observed + self.latents})
        joined = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        return sum(joined[name] for name in self.observed), {name: joined[name] for name in self.latents}

    def _probe(self, rows: tuple):
        try:
            guide_trace = poutine.trace(self.guide).get_trace(*rows)
            return guide_trace, poutine.trace(poutine.replay(self.model, guide_trace)).get_trace(*rows)
        except (ValueError, RuntimeError, IndexError) as error:
            raise ValueError(
                f"expected a model and a guide that run on any number of rows of x, got on the first "
                f"{count_rows(rows)}: {error}"
            ) from error

    def _check_repeatable(self, rows: tuple, guide_trace) -> None:
        """The same z must give the same log-densities twice; a dropout that stays on, or a nuisance, breaks that."""
        values = {name: guide_trace.nodes[name]["value"] for name in self.latents}
        index = torch.arange(count_rows(rows))
        if not _equal(*(self.log_joint(index, values, rows=len(index))[0] for _ in range(2))):
            raise ValueError(
                "expected the model to give the same log p(x|z) twice at the same z, got two values: "
                "a functional dropout that stays on, or a plate that draws its own subsample, makes it random"
            )
        q, watch = posterior_at(guide_trace, self.site, len(index)), _DropoutWatch()
        with watch:
            again = poutine.trace(self.guide).get_trace(*rows)
        if not _same_distribution(q, posterior_at(again, self.site, len(index)), rows):
            self._random_guide(watch.active)
        if self.nuisance:
            self._check_prior(rows, values, {name: again.nodes[name]["value"] for name in self.latents})

    def _random_guide(self, dropout: bool) -> None:
        if dropout:
            raise ValueError("expected a guide without dropout in evaluation mode, got an active functional dropout")
        if self.nuisance:
            raise ValueError(
                f"expected q({self.site}|x) that depends on x alone, got one that changes with {self.nuisance}: "
                "its rate and mutual information are not defined by one distribution per x"
            )
        self.notes.append(
            "the guide is itself random: q(z|x) is read once per x, given the guide's own noise, "
            "and mi_lower bounds the information of x and that noise together"
        )

    def _check_prior(self, rows: tuple, first: dict, second: dict) -> None:
        others = [{name: values[name] for name in self.nuisance} for values in (first, second)]
        if not _same_distribution(*(self.prior(rows, values) for values in others), rows):
            self._refuse_prior()

    def _refuse_prior(self) -> None:
        raise ValueError(
            f"expected p({self.site}) that does not depend on {self.nuisance}, got one that does: "
            "a rate against a conditional prior bounds no mutual information"
        )


STRAIGHT_THROUGH = (RelaxedBernoulliStraightThrough, RelaxedOneHotCategoricalStraightThrough)


class _DropoutWatch(TorchFunctionMode):
    """Remembers whether a dropout ran with `training=True`."""

    active = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if "dropout" in getattr(function, "__name__", ""):
            # F.dropout arrives with `training` named, torch.dropout with it in place.
            flags = [kwargs.get("training", kwargs.get("train")), *args[2:3]]
            self.active = self.active or any(flag is True for flag in flags)
        return function(*args, **kwargs)


def _shared_latents(model_trace, guide_trace) -> list[str]:
    in_model, in_guide = latent_sites(model_trace), latent_sites(guide_trace)
    if set(in_model) != set(in_guide):
        raise ValueError(f"expected the same latent sites in model and guide, got {in_model} and {in_guide}")
    return in_model


def _chosen(site: str | None, latents: list[str]) -> str:
    if not latents:
        raise ValueError("expected a model with a latent site, got none")
    if site is None and len(latents) > 1:
        raise ValueError(f"expected one latent site, got {latents}: name the one of interest by site=")
    if site is not None and site not in latents:
        raise ValueError(f"expected site to be one of {latents}, got {site!r}")
    return site or latents[0]


def _limit(trace, rows: int) -> int:
    """How many rows fit into one call: a plate that stands for N points takes at most N of them."""
    largest = []
    for node in sample_sites(trace).values():
        dim = data_dim(node, rows)
        largest += [frame.full_size or 0 for frame in node["cond_indep_stack"] if frame.dim == dim]
    return min([size for size in largest if size > rows], default=2**31)


def _check_posterior(site: str, q: Distribution) -> None:
    base = q
    while isinstance(base, Independent | ExpandedDistribution | MaskedDistribution):
        if isinstance(base, MaskedDistribution) and not torch.as_tensor(base._mask).all():
            raise ValueError(f"expected q({site}|x) without a mask, got one that leaves out entries: z then has no density")
        base = base.base_dist
    if isinstance(base, STRAIGHT_THROUGH):
        raise ValueError(f"expected z whose density is that of its draws, got {type(base).__name__}, whose draws are discrete")
    if isinstance(base, Delta):
        raise ValueError(f"expected a density q({site}|x), got a Delta: its rate is infinite")
    if base.has_enumerate_support or _has_discrete_support(base):
        raise ValueError(f"expected a continuous q({site}|x), got the discrete {type(base).__name__}")


def _has_discrete_support(distribution: Distribution) -> bool:
    try:
        return distribution.support.is_discrete
    except NotImplementedError:  # a density that does not state its support
        return False


def _equal(first: Tensor, second: Tensor) -> bool:
    # Repeated runs may differ by rounding (threads, atomics), a random network differs by far more.
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True)


def _same_distribution(first: Distribution, second: Distribution, rows: tuple) -> bool:
    """Whether both give the same draw from the same random numbers; needs no density at another's z."""
    draws = []
    for distribution in (first, second):
        with forked_random(rows, seed=0):
            draws.append(distribution.sample())
    return _equal(*draws)
