"""A Pyro model and guide, read through their traces: q(z|x), p(z) and log p(x|z) per datapoint."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Distribution
from pyro.infer.autoguide import AutoGuide
from pyro.infer.autoguide.effect import AutoMessenger
from pyro.poutine.runtime import NonlocalExit
from torch import Tensor

from pyro_skipvae.blocks import check_sizes

from .conditions import (
    DropoutWatch,
    check_posterior,
    chosen_site,
    draw_of,
    drawn,
    equal,
    has_discrete_support,
    is_outside,
    largest_call,
    same_density,
    same_distribution,
    shared_latents,
)
from .evaluation import forked_random
from .rows import FEW, Inputs, Rows, as_rows, call, count_rows, even_parts, named_rows, parts_of, select_rows, traced
from .sites import (
    auxiliary_sites,
    factor_sites,
    is_masked,
    latent_sites,
    likelihood_sites,
    log_density,
    log_prob_by_row,
    observed_sites,
    own_scale,
    plate_scale,
    posterior_at,
    posterior_node,
    prior_at,
    sample_sites,
    without_masks,
)
from .unavailable import FAILURES, Refused, Unavailable, told
from .working_set import ConvolutionWatch

ENCODER_ROWS = 256
PROBE_ROWS = 3
MaybeNone = Any  # a Distribution: only a joint pair, which is not asked for it, has none
Progress = Callable[[str, int, int], object]  # called with the stage, what is done, and the total


@dataclass
class Chunk:
    """Rows of x with their posterior q(z|x), batch (n,), read once from the guide; None in a joint pair."""

    start: int
    x: Rows
    q: MaybeNone

    def draws(self, samples: int) -> tuple[Tensor, Tensor]:
        """z (S, n, *event) and log q(z|x) (S, n): one draw at a time, since inverse flows know only their last one."""
        pairs = [(z := drawn(self.q), log_density(self.q, z)) for _ in range(samples)]
        z, log_q = (torch.stack(part) for part in zip(*pairs, strict=True))
        return z, log_q


class Pair:
    """A model and a guide over the rows of x, with one latent site of interest inside one data plate.

    x is a tensor, a tuple or list that is passed as `*x`, or a dict that is passed as `**x` (whole, where model or guide take
    no such names); its tensors share their first dimension, the N rows. To evaluate several z per row the model is called
    with that row repeated, so any plate that is as long as its input works.

    Every number is one per datapoint, and the ELBO is that of Pyro's `Trace_ELBO`, with these rules. The scale N/B of the data
    plate and `poutine.scale` are left out (with a note, where the latter differs between the sites). Masks are kept. Factors
    of the guide count in its log-density, and its observed sites do not (with a note). The values that `obs_mask` leaves open
    are integrated out, unless the guide draws them. Raises ValueError, with the reason, where numbers per datapoint cannot be
    had from the pair; what is asked of a pair is asked at all rows.

    rows: how many rows of the model run at a time, which changes nothing but rounding (None: see `ConvolutionWatch`). Of the
    guide at most 256 run at a time, and no more than `rows`: below 256 the posteriors are the same, their draws others.
    joint: all latent sites together, as they are drawn by the guide: they may be discrete, masked, and depend on each other in
    both; there is then no single q(z|x), and `site` is but the first of them. None: where there are several and none is
    named, or the only one is discrete.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        x: Inputs,
        *,
        site: str | None = None,
        rows: int | None = None,
        joint: bool | None = False,
    ) -> None:
        if rows is not None:
            check_sizes(rows=rows)
        self.model, self.guide, self.x, self.rows_given = model, guide, as_rows(x), rows
        if isinstance(guide, AutoGuide | AutoMessenger):  # even one look at three rows would set it up for three rows
            raise Refused(
                f"expected an amortized guide of x, got {type(guide).__name__} with parameters of its own: "
                "it draws the latent sites of all rows at once, not from one q(z|x) per row"
            )
        self.points = count_rows(self.x)
        self.notes: list[str] = []
        self.prior_masked = self.prior_varies = False
        few, guide_trace, model_trace = self._probe()
        self.latents, self.imputed = shared_latents(model_trace, guide_trace)
        self.latents_of_guide = [name for name in latent_sites(guide_trace) if name in self.latents]
        self.joint = self._is_joint(guide_trace, site) if joint is None else joint
        self.site = chosen_site(self.latents[0] if self.joint and self.latents else site, self.latents)
        self.observed = likelihood_sites(model_trace)
        # Elements of one x, and whether log p(x|z) is of probabilities: the nats of a density depend on the unit of x.
        self.elements = sum(model_trace.nodes[name]["value"].numel() for name in self.observed) // count_rows(few)
        self.discrete_x = all(has_discrete_support(model_trace.nodes[name]["fn"]) for name in self.observed)
        self._looked_at = torch.zeros(self.points, dtype=torch.bool, device="cpu")  # rows whose values of x are in the support
        self.guide_terms = factor_sites(guide_trace)
        self._heads = [name for name in observed_sites(guide_trace) if name not in self.guide_terms]
        self.probed = count_rows(few)
        self.likelihood_nodes = [model_trace.nodes[name] for name in self.observed]
        self._in_guide, self._in_model = set(sample_sites(guide_trace)), set(sample_sites(model_trace))
        self._scales: dict[tuple[str, str], float] = {}
        self.largest = min(largest_call(trace, self.probed) for trace in (guide_trace, model_trace))
        for name in self.latents if self.joint else [self.site]:
            self._check_guide(guide_trace, name, self.probed)
            self._check_kinds(guide_trace, model_trace, name)
        self._note_terms(guide_trace, model_trace, self.probed)
        self.rows_at_a_time, watch = self.probed, ConvolutionWatch(self.probed)
        with watch:
            self._check_repeatable(few, guide_trace)
        self.rows_at_a_time = min(rows or watch.rows_at_a_time, self.largest)

    def at(self, rows: Rows) -> "Pair":
        """The same pair at other rows of the same kind."""
        other = copy.copy(self)
        other.x, other.points = rows, count_rows(rows)
        other._looked_at = torch.zeros(other.points, dtype=torch.bool, device="cpu")
        return other

    @property
    def nuisance(self) -> list[str]:
        """The other latent sites."""
        return [name for name in self.latents if name != self.site]

    def rows(self, index: slice | Tensor) -> Rows:
        """The rows of x at a slice or an index tensor, as arguments for the model and the guide."""
        return select_rows(self.x, index)

    def chunks(self, progress: Progress | None = None) -> Iterator[Chunk]:
        """All rows with their posteriors, about 256 rows at a time, and no more than the number of rows that was given."""
        first: Any = None
        for start, stop in self._encoder_parts():
            rows = self.rows(slice(start, stop))
            draw = None if first is None else draw_of(first, rows)
            q: MaybeNone = None if self.joint else self.posterior(rows)
            if self.nuisance and not self.joint and not same_distribution(q, self.posterior(rows), rows):
                self._refuse_posterior()
            if draw is not None and not _gives(first, draw, rows):
                self._refuse_changed()
            first = q if start == 0 else None
            yield Chunk(start, rows, q)
            if progress:
                progress("encoder", stop, self.points)

    def _encoder_parts(self) -> list[tuple[int, int]]:
        size = min(ENCODER_ROWS, self.largest)
        if self.rows_given is None or self.rows_given >= size:
            return parts_of(self.points, size, min(FEW, self.largest - size + 1))
        return [(int(part[0]), int(part[-1]) + 1) for part in even_parts(self.points, self.rows_given)]

    def posterior(self, rows: Rows) -> Distribution:
        """q(z|x) at these rows, batch (n,).

        Where Pyro refuses its parameters, it is read without that check if its draws at some rows are not finite: those rows
        have no estimates, and are named, but nothing else suffers.
        """
        try:
            return posterior_at(self.guide_trace(rows), self.site, count_rows(rows))
        except Refused:
            raise
        except ValueError:
            with pyro.validation_enabled(False):
                q = posterior_at(self.guide_trace(rows), self.site, count_rows(rows))
                if q.log_prob(drawn(q)).isfinite().all():
                    raise
            return q

    def support(self) -> Any:
        """Where q(z|x) lies, a constraint of torch, or None where it does not say."""
        rows = self.rows(slice(0, 2))
        with forked_random(rows, 0, self.guide):
            try:
                return self.posterior(rows).support
            except (NotImplementedError, AttributeError):
                return None

    def prior(self, rows: Rows, values: dict[str, Any] | None = None) -> Distribution:
        """p(z) at these rows, batch (n,); the model stops at z, so the decoder does not run."""
        model = poutine.condition(self.model, data=values or {})
        try:
            call(self.model, rows, poutine.escape(model, escape_fn=lambda message: message["name"] == self.site))
        except NonlocalExit as stop:
            self._check_scale("model", stop.site, count_rows(rows))
            p = prior_at(stop.site, count_rows(rows))
            self.note_mask(p, self.site)
            return p
        raise Refused(f"expected the model to sample {self.site!r} on every call, got a run without it")

    def prior_of(self, chunk: Chunk) -> Distribution:
        """p(z) at the rows of a chunk; raises ValueError where it is another one at the guide's draw of the other sites."""
        p = self.prior(chunk.x)
        if self.nuisance:
            values, _ = self.draw(chunk, count_rows(chunk.x))
            others = {name: values[name] for name in self.nuisance}
            if not same_distribution(p, self.prior(chunk.x, others), chunk.x):
                self._refuse_prior()
        return p

    def draw(self, chunk: Chunk, points: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """One draw of every latent site at the first `points` rows of a chunk, and its log q per site, (points,).

        Log q has the factors and observed sites of the guide too, by their names.
        """
        if not (self.nuisance or self.guide_terms or self.joint):
            z = drawn(chunk.q)
            return {self.site: z[:points]}, {self.site: log_density(chunk.q, z)[:points]}
        trace = self.guide_trace(select_rows(chunk.x, slice(0, points)))
        values = {name: trace.nodes[name]["value"] for name in self.latents}
        nodes = [*(posterior_node(trace, name) for name in self.latents), *(trace.nodes[name] for name in self.guide_terms)]
        log_q = [log_prob_by_row(node, points) for node in nodes]
        return values, dict(zip([*self.latents, *self.guide_terms], log_q, strict=True))

    def log_joint(self, index: Tensor, values: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """log p(x|z) (R,) and log p per latent site (R,), at the rows `index` (R,) of x and values (R, ...)."""
        pieces = []
        for part in even_parts(len(index), self.rows_at_a_time):
            trace = self.model_trace(self.rows(index[part]), {name: value[part] for name, value in values.items()})
            self.look_at(trace, index[part])
            pieces.append({name: log_prob_by_row(trace.nodes[name], len(part)) for name in self.observed + self.latents})
        joined = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        log_x: Any = sum(joined[name] for name in self.observed)
        return log_x, {name: joined[name] for name in self.latents}

    def guide_trace(self, rows: Rows) -> Any:
        """A run of the guide at these rows."""
        trace = traced(self.guide, rows)
        self._check_sites("guide", trace, self._in_guide, count_rows(rows))
        return trace

    def model_trace(self, rows: Rows, values: dict[str, Any]) -> Any:
        """A run of the model at given values of the latent sites."""
        try:
            trace = call(self.model, rows, poutine.trace(poutine.condition(self.model, data=values)).get_trace)
        except Refused:
            raise
        except ValueError as error:  # in one line: torch shows all values of what is not valid
            raise Unavailable(told(error)) from error
        self._check_sites("model", trace, self._in_model, count_rows(rows))
        return trace

    def _check_sites(self, where: str, trace: Any, expected: set[str], rows: int) -> None:
        """Every run has the sites of the first, with one scale at all rows."""
        sites = sample_sites(trace)
        if set(sites) != expected:
            raise Refused(
                f"expected the {where} to have the same sites at all rows, got {sorted(expected)} at the first and "
                f"{sorted(sites)} at others"
            )
        for node in sites.values():
            self._check_scale(where, node, rows)

    def _check_scale(self, where: str, node: Any, rows: int) -> None:
        """A scale per row has no mean per datapoint; one number for all rows is left out."""
        scale = own_scale(node, rows)
        if scale.dim() == 0:
            return
        known = self._scales.setdefault((where, node["name"]), scale.flatten()[0].item())
        if not torch.allclose(scale, torch.full_like(scale, known), rtol=1e-5):
            raise Refused(
                f"expected one poutine.scale at all rows of site {node['name']!r}, got {scale.min():.3g} to "
                f"{max(scale.max().item(), known):.3g}: rows that weigh differently have no mean per datapoint. "
                "Leave the scale out for the report"
            )

    def _is_joint(self, guide_trace: Any, site: str | None) -> bool:
        if site is not None or not self.latents:
            return False
        return len(self.latents) > 1 or has_discrete_support(posterior_node(guide_trace, self.latents[0])["fn"])

    def note_prior(self, values: dict[str, Tensor], points: int) -> None:
        """Notes a p(z) that differs between the first rows of x: at one z, the values (1, ...) of all latent sites."""
        densities = []
        for part in even_parts(points, self.rows_at_a_time):
            given = {name: value.expand(len(part), *value.shape[1:]) for name, value in values.items()}
            try:
                densities.append(self._log_prior(self.rows(part), given))
            except Refused:
                raise
            except ValueError:  # it lies in the support of some rows' prior only
                self.note_varying_prior()
                return
        if not same_density(torch.cat(densities)):
            self.note_varying_prior()

    def note_varying_prior(self) -> None:
        """Notes that p(z) differs between the rows of x."""
        if not self.prior_varies:
            self.prior_varies = True
            self.notes.append(
                "p(z) differs between the rows of x: the rate is against the prior of each row, so it bounds what z says of x "
                "beyond what p(z) depends on, and not the mutual information I_q(x; z)"
            )

    def _log_prior(self, rows: Rows, values: dict[str, Tensor]) -> Tensor:
        """log p(z) of all latent sites, (n,), whatever is masked; the model stops at the last of them."""
        tracer = poutine.trace(poutine.escape(poutine.condition(self.model, data=values), escape_fn=self._is_last))
        try:
            call(self.model, rows, tracer)
        except NonlocalExit as stop:
            nodes = [*(tracer.msngr.trace.nodes[name] for name in self.latents[:-1]), stop.site]
            return torch.stack([log_prob_by_row(without_masks(node), count_rows(rows)).double() for node in nodes]).sum(0)
        raise Refused(f"expected the model to sample {self.latents[-1]!r} on every call, got a run without it")

    def _is_last(self, message: Any) -> bool:
        return bool(message["name"] == self.latents[-1])

    def look_at(self, trace: Any, index: Tensor) -> None:
        """Notes values of x without a probability, such as grey ones of a Bernoulli, in a run of the model at these rows."""
        index = index.cpu()
        if not self.discrete_x or self._looked_at[index].all():
            return
        self._looked_at[index] = True
        if outside := [name for name in self.observed if is_outside(trace.nodes[name], len(index))]:
            self.discrete_x = False
            self.notes.append(
                f"values of {', '.join(outside)} lie outside the support of p(x|z), which does not check them: log p(x|z) is "
                "minus a loss, such as the cross-entropy of grey values, and no log-probability"
            )

    def note_mask(self, p: Distribution, site: str) -> None:
        """Notes that a mask leaves out some of p(z) that is not left out of q(z|x)."""
        if is_masked(p) and not self.prior_masked:
            self.prior_masked = True
            self.notes.append(
                f"p({site}) is masked: log p({site}) counts as 0 where it is, as in Pyro's ELBO, "
                "so the rate may be negative and bounds no mutual information"
            )

    def _check_guide(self, trace: Any, site: str, rows: int) -> None:
        others = [name for name in auxiliary_sites(trace) if name != posterior_node(trace, site)["name"]]
        q = posterior_at(trace, site, rows, masked=self.joint)
        check_posterior(site, q, others, discrete=self.joint)
        if others:
            raise Refused(
                f"expected a guide that draws the sites of the model alone, got the auxiliary sites {others}: "
                f"q({site}|x) is then an integral over them, without a density of its own"
            )
        if plate_scale(posterior_node(trace, site), rows) != 1:
            raise Refused(f"expected {site!r} outside plates that subsample, got one inside: a part of z has no rate")

    def _check_kinds(self, guide_trace: Any, model_trace: Any, site: str) -> None:
        """A density cannot be held against a probability."""
        q, p = posterior_node(guide_trace, site)["fn"], model_trace.nodes[site]["fn"]
        if has_discrete_support(q) != has_discrete_support(p):
            raise Refused(f"expected q({site}|x) and p({site}) of one kind, got {_kind(q)} and {_kind(p)}")

    def _note_terms(self, guide_trace: Any, model_trace: Any, rows: int) -> None:
        """What a reader should know of factors, scales and missing values, of which the numbers are made."""
        if self.guide_terms:
            self.notes.append(
                f"the guide's factors {self.guide_terms} count in its log-density, as in Pyro: "
                "in the ELBO and the importance weights, not in the rate and the mutual information"
            )
        if self._heads:
            self.notes.append(
                f"the guide's observed sites {self._heads} are left out, which Trace_ELBO subtracts: they are a term of its "
                "training, and no part of q(z|x)"
            )
        if self.imputed:
            self.notes.append(f"the guide does not draw {self.imputed}: missing values are integrated out, not imputed")
        self._note_scales({"model": model_trace, "guide": guide_trace}, rows)

    def _note_scales(self, traces: dict[str, Any], rows: int) -> None:
        """One scale of everything cancels per datapoint; scales that differ between the sites are left out."""
        scales = {
            f"{scale:.3g} of {node['name']!r} in the {where}": scale
            for where, trace in traces.items()
            for node in sample_sites(trace).values()
            for scale in [own_scale(node, rows).flatten()[0].item()]
        }
        if max(scales.values()) > 1.00001 * min(scales.values()):
            words = ", ".join(words for words, scale in scales.items() if abs(scale - 1) > 1e-5)
            self.notes.append(f"poutine.scale is left out ({words}): the numbers are those of the unscaled model and guide")

    def _probe(self) -> tuple[Rows, Any, Any]:
        """A few rows, and the traces of guide and model there: the first, or the first with a sound q(z|x)."""
        rows = self.rows(slice(0, PROBE_ROWS))
        try:
            return rows, *self._traces(rows)
        except Refused:
            raise
        except (ValueError, RuntimeError, IndexError, TypeError, AttributeError) as error:
            sound = self._sound_rows()
            if sound is None:
                unchecked = self._unchecked(rows)
                if unchecked is None:
                    raise Refused(
                        f"expected a model and a guide that run on any number of rows of x, got on the first "
                        f"{count_rows(rows)}: {told(error)}{self._on_dicts()}"
                    ) from error
                return rows, *unchecked
        rows = self.rows(sound)
        return rows, *self._traces(rows)

    def _on_dicts(self) -> str:
        if not isinstance(self.x, dict):
            return ""
        return f". A dict is passed as keywords where a function takes {', '.join(self.x)}, all of them, and else whole"

    def _unchecked(self, rows: Rows) -> tuple[Any, Any] | None:
        """The traces where only Pyro's check of parameters fails: of a decoder that gives NaN, the guide can still be read."""
        try:
            with pyro.validation_enabled(False):
                return self._traces(rows)
        except FAILURES:
            return None

    def _sound_rows(self) -> Tensor | None:
        """A few rows where the guide's draws have finite densities; None where that is not what fails. Refused if none has."""
        rows = self.rows(slice(0, ENCODER_ROWS))
        try:
            with pyro.validation_enabled(False):
                trace = traced(self.guide, rows)
                log_q = sum(log_prob_by_row(trace.nodes[name], count_rows(rows)) for name in latent_sites(trace))
        except FAILURES:
            return None
        bad = ~torch.as_tensor(log_q).isfinite()
        if bad.all():
            raise Refused(f"expected a guide whose draws have a finite density, got none at {named_rows(bad)}")
        return (~bad).nonzero().flatten()[:PROBE_ROWS] if bad.any() else None

    def _traces(self, rows: Rows) -> tuple[Any, Any]:
        guide_trace = traced(self.guide, rows)
        return guide_trace, call(self.model, rows, poutine.trace(poutine.replay(self.model, guide_trace)).get_trace)

    def _check_repeatable(self, rows: Rows, guide_trace: Any) -> None:
        """The same z must give the same log-densities twice; a dropout that stays on, or a nuisance, breaks that."""
        values = {name: guide_trace.nodes[name]["value"] for name in self.latents}
        index = torch.arange(count_rows(rows), device="cpu")
        if not self._is_repeatable(index, values):
            raise Refused(
                "expected the model to give the same log p(x|z) twice at the same z, got two values: "
                "a functional dropout that stays on, or a plate that draws its own subsample, makes it random"
            )
        self._check_nothing_left(index, values)
        watch = DropoutWatch()
        with watch:
            again = self.guide_trace(rows)
        if self.joint:
            return self._random_guide(watch.active) if watch.active else None
        q = posterior_at(guide_trace, self.site, len(index))
        if not same_distribution(q, posterior_at(again, self.site, len(index)), rows):
            self._random_guide(watch.active)
        else:
            self._check_alone(rows, values, q)
        if self.nuisance:
            self._check_prior(rows, values, {name: again.nodes[name]["value"] for name in self.latents})

    def _is_repeatable(self, index: Tensor, values: dict[str, Any]) -> bool:
        try:
            return equal(*(self.log_joint(index, values)[0] for _ in range(2)))
        except Refused:
            raise
        except FAILURES:  # what needs log p(x|z) fails too, and says why
            return True

    def _check_nothing_left(self, index: Tensor, values: dict[str, Any]) -> None:
        """log p(x|z) must not change with the rows at which the guide ran last."""
        densities = []
        for order in (index, index.flip(0)):
            try:
                with forked_random(self.x, 0, self.guide):
                    self.guide_trace(self.rows(order))
                densities.append(self.log_joint(index, values)[0])
            except Refused:
                raise
            except FAILURES:  # what needs log p(x|z) fails too, and says why
                return
        before, after = densities
        if not torch.allclose(before, after, rtol=1e-2, atol=1e-2, equal_nan=True):
            raise Refused(
                "expected a model that reads x and z alone, got another log p(x|z) where the guide ran on other rows before: "
                "it reads what the guide left in an attribute. Compute that in the model, from its arguments"
            )

    def _check_alone(self, rows: Rows, values: dict[str, Any], q: Distribution) -> None:
        """What belongs to a row must not change with the rows that run beside it."""
        count, z = count_rows(rows), values[self.site]
        if count < PROBE_ROWS or self.nuisance:
            return
        few, index = select_rows(rows, slice(0, count - 1)), torch.arange(count, device="cpu")
        fewer = {name: value[:-1] for name, value in values.items()}
        self._compare_alone(f"q({self.site}|x)", lambda: (q.log_prob(z)[:-1], self.posterior(few).log_prob(z[:-1])))
        self._compare_alone(
            f"p(x|{self.site})",
            lambda: (self.log_joint(index, values)[0][:-1], self.log_joint(index[:-1], fewer)[0]),
        )

    def _compare_alone(self, what: str, densities: Callable[[], tuple[Tensor, Tensor]]) -> None:
        try:
            together, alone = densities()
        except FAILURES:  # what needs these densities fails too, and says why
            return
        if not torch.allclose(together, alone, rtol=1e-2, atol=1e-2, equal_nan=True):
            raise Refused(
                f"expected {what} of a row that depends on that row alone, got one that changes with the other rows of the "
                "batch: a batch normalisation by the statistics of the batch does that, also in evaluation mode where it keeps "
                "none (track_running_stats=False)"
            )

    def _random_guide(self, dropout: bool) -> None:
        if dropout:
            raise Refused("expected a guide without dropout in evaluation mode, got an active functional dropout")
        if self.nuisance:
            self._refuse_posterior()
        self.notes.append(
            "the guide is itself random: q(z|x) is read once per x, given the guide's own noise, "
            "and mi_lower bounds the information of x and that noise together"
        )

    def _refuse_posterior(self) -> None:
        raise Refused(
            f"expected q({self.site}|x) that depends on x alone, got one that changes with {self.nuisance}: "
            "its rate and mutual information are not defined by one distribution per x"
        )

    def _check_prior(self, rows: Rows, first: dict[str, Any], second: dict[str, Any]) -> None:
        one, other = (self.prior(rows, {name: values[name] for name in self.nuisance}) for values in (first, second))
        if not same_distribution(one, other, rows):
            self._refuse_prior()

    def _refuse_changed(self) -> None:
        raise Refused(
            f"expected q({self.site}|x) that stays as it is when the guide runs on other rows, got one that changes: a "
            "transform that keeps what it was given in an attribute does that. Make a new one in each call of the guide"
        )

    def _refuse_prior(self) -> None:
        raise Refused(
            f"expected p({self.site}) that does not depend on {self.nuisance}, got one that does: "
            "a rate against a conditional prior bounds no mutual information"
        )


def _gives(q: Distribution, draw: Tensor, rows: Rows) -> bool:
    """Whether a posterior still gives this draw of `draw_of`."""
    try:
        return equal(draw, draw_of(q, rows))
    except FAILURES:
        return False


def _kind(distribution: Distribution) -> str:
    return "probabilities of values" if has_discrete_support(distribution) else "a density"
