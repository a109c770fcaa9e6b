"""A monitor for a training loop of one's own: whether z is used, at a stated cost, and what to try when it is not."""

import math
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, SupportsIndex

import torch
from torch import Tensor

from pyro_skipvae.blocks import check_sizes

from ..estimates.sites import NOTHING, JointTerms, SiteReport, kind_of, shuffled_losses, site_reports
from ..estimates.sites import joint_terms as measured_terms
from ..pairs.evaluation import as_found
from ..pairs.finite import finite
from ..pairs.interval import Interval, cycle_interval, mean_interval
from ..pairs.pair import Pair
from ..pairs.rows import Inputs, even_parts
from ..pairs.sites import log_prob_by_row, without_masks
from ..pairs.unavailable import FAILURES, Unavailable
from .advice import Advice, Elements, Seen, advice_for, elements_of, is_autoregressive, predicted

DRAWS = 2  # of z for each row: two, so that a posterior mean can be told from its noise
PATIENCE = 3  # measurements in which a z that was never used may stay so


class Progressed(Protocol):
    """What `fit` gives its callback: the steps so far, and the beta of the last one."""

    @property
    def steps(self) -> int: ...

    @property
    def beta(self) -> float: ...


@dataclass(frozen=True)
class Record:
    """One measurement of a `Monitor`, in nats per datapoint on its rows, with 95 % intervals over them.

    state: "collapsed" where the interval of the rate lies below 0.1 nats, or that of `shuffled_latent_loss` inside -0.1 to 0.1;
    "used" where the latter lies above 0.1; else "undecided". The rate decides nothing where p(z) differs between the rows of x
    or is masked: it then bounds no information.
    set_in: this is the first measurement of a collapse: the first after z was used, or the third in a row for a z that never
    was. advice: what to try then, the most certain first; else empty.
    sites: a row for each latent site where there are several. seconds: how long the measurement took. reason: why nothing could
    be measured, as where q(z|x) is not finite; the numbers are then nan, and the state is "undecided".
    """

    step: int
    beta: float
    elbo: Interval
    rate: Interval
    active_units: int | None
    dimensions: int
    shuffled_latent_loss: Interval | None
    state: str
    set_in: bool
    advice: list[Advice]
    sites: list[SiteReport]
    seconds: float
    reason: str | None = None

    @property
    def line(self) -> str:
        """The record in one line; where collapse set in, with the first advice."""
        if self.reason is not None:
            return f"step {self.step}: not measured: {self.reason}"
        lost = "is not known" if self.shuffled_latent_loss is None else _range(self.shuffled_latent_loss)
        units = "unknown" if self.active_units is None else f"{self.active_units} of {self.dimensions}"
        said = f"step {self.step}: rate {self.rate.value:.2f} nats, units {units}, loss when z is shuffled {lost}"
        idle = [site.name for site in self.sites if site.kind == "collapsed" and len(site.sites) == 1]
        if idle and self.state != "collapsed":
            said += f"; not used: {', '.join(idle)}"
        if not self.set_in:
            return f"{said}: {self.state}"
        return f"{said}: collapse set in. Try {'; or '.join(str(each) for each in self.advice[:2])}"

    def __str__(self) -> str:
        return self.line


class Monitor:
    """Measures in a training loop of your own, every `every` steps, whether z is used; it never prints and changes nothing.

        monitor = Monitor(model, guide, x_valid, every=100)
        for step, x in enumerate(batches):
            svi.step(x)
            if record := monitor(step):
                print(record)

    Works for any model and guide that `collapse_report` takes, such as a pair of `as_pair`, also with several or discrete
    latent sites. As `fit(..., callback=monitor)` it measures after each epoch in which `every` steps have passed. `records`
    holds all measurements.

    Cost of a measurement: two passes of the guide and three of the decoder over the first `points` rows of x (one more for each
    site and group of sites where there are several), one of the prior, and a check on a few rows. Where collapse sets in, also
    two more of the decoder, and the eigenvalues of the covariance of these rows. rows: the most that run at a time (None: 16 to
    256, see `collapse_report`). Raises ValueError for `every` or `rows` below 1 or `points` below 2, and, when it is called,
    for a pair without numbers per datapoint (see `collapse_report`).
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        x: Inputs,
        *,
        every: int = 100,
        points: int = 500,
        seed: int = 0,
        rows: int | None = None,
    ) -> None:
        if rows is not None:
            check_sizes(rows=rows)
        for name, value, least in (("every", every, 1), ("points", points, 2)):
            if value < least:
                raise ValueError(f"expected {name} to be {least} or more, got {value}")
        self.model, self.guide, self.x = model, guide, x
        self.every, self.points, self.seed, self.rows = every, points, seed, rows
        self.records: list[Record] = []
        self._last, self._before = -1, 0  # the step given last, and the steps of the epochs before

    def __call__(self, step: SupportsIndex | Progressed, beta: float | None = None) -> Record | None:
        """Measures and returns the `Record`, or None where fewer than `every` steps have passed since the last one.

        step: the number of the step, or the `Epoch` that `fit` gives its callback. It may start from 0 or 1 again in each
        epoch, also in epochs of one batch: the record has the steps of all. beta: the weight of the KL term now, for the advice
        (None: that of the `Epoch`, else 1). Raises ValueError for another step.
        """
        if isinstance(step, SupportsIndex):
            number = operator.index(step)
            # A later number that comes again is no epoch of one batch: gradients are accumulated over several.
            anew = number < self._last or number == self._last <= 1
        elif hasattr(step, "steps"):
            number, beta = step.steps, step.beta if beta is None else beta
            anew = number < self._last
        else:
            raise ValueError(f"expected step to be a whole number, or the Epoch of fit, got a {type(step).__name__}")
        if anew:  # another epoch, or another training, that counts from 0 again
            self._before += self._last + 1
        self._last = number
        passed = self._before + number
        if self.records and passed - self.records[-1].step < self.every:
            return None
        beta = 1.0 if beta is None else float(beta)
        try:
            record = self._measured(passed, beta)
        except Unavailable as error:  # training may go on, and come back
            record = _not_measured(passed, beta, str(error))
        self.records.append(record)
        return record

    def _measured(self, step: int, beta: float) -> Record:
        start = time.perf_counter()
        with as_found(self.model, self.guide, x=self.x, seed=self.seed, samples=(DRAWS,), first=self.points) as x:
            pair = Pair(self.model, self.guide, x, rows=self.rows, joint=True)
            terms = measured_terms(pair, points=pair.points, samples=DRAWS)
            rows = site_reports(pair, terms, pair.points, seed=self.seed)
            lost = self._lost(pair, terms, rows)
            rate = mean_interval(finite(terms.rate, "the rate"))
            state = "collapsed" if rate.high < NOTHING and not pair.prior_masked else kind_of(lost)
            set_in = self._sets_in(state)
            advice = self._advice(pair, terms, rate, beta) if set_in else []
        alone = [row for row in rows if len(row.sites) == 1]
        units = [row.active_units for row in alone]
        return Record(
            step=step,
            beta=beta,
            elbo=mean_interval(finite(terms.elbo, "the ELBO")),
            rate=rate,
            active_units=None if None in units else sum(count for count in units if count is not None),
            dimensions=sum(row.dimensions for row in alone),
            shuffled_latent_loss=lost,
            state=state,
            set_in=set_in,
            advice=advice,
            sites=rows if len(rows) > 1 else [],
            seconds=time.perf_counter() - start,
        )

    def _lost(self, pair: Pair, terms: JointTerms, rows: list[SiteReport]) -> Interval | None:
        """What log p(x|z) loses without the z of its point, all sites together."""
        if len(rows) == 1:
            return rows[0].shuffled_latent_loss
        try:
            return cycle_interval(shuffled_losses(pair, terms, pair.latents, pair.points, seed=self.seed)[0])
        except Unavailable:
            return None

    def _sets_in(self, state: str) -> bool:
        """Whether collapse is to be told now: once for each time that z was used, or once where it never was."""
        before = [record.state for record in self.records]
        if state != "collapsed" or any(record.set_in for record in self._since_used()):
            return False
        return "used" in before or len(before) + 1 >= PATIENCE and before[1 - PATIENCE :] == ["collapsed"] * (PATIENCE - 1)

    def _since_used(self) -> list[Record]:
        used = [number for number, record in enumerate(self.records) if record.state == "used"]
        return self.records[used[-1] + 1 :] if used else self.records

    def _advice(self, pair: Pair, terms: JointTerms, rate: Interval, beta: float) -> list[Advice]:
        elements: list[Elements | None] = []
        reads_x: bool | None = False
        for part in even_parts(pair.points, pair.rows_at_a_time):
            values = {name: value[part] for name, value in terms.values.items()}
            trace = pair.model_trace(pair.rows(part), values)
            nodes = [trace.nodes[name] for name in pair.observed]
            elements.append(elements_of(nodes))
            if is_autoregressive(nodes):
                reads_x = True
            elif reads_x is False and _reads_inputs(pair, part, nodes, values):
                reads_x = None
        return advice_for(
            Seen(
                prediction=predicted(elements, beta),
                beta=beta,
                autoregressive=reads_x,
                encoder_varies=rate.low >= NOTHING,
                was_used=any(record.state == "used" for record in self.records),
            )
        )


def _not_measured(step: int, beta: float, reason: str) -> Record:
    unknown = Interval(math.nan, math.nan, math.nan)
    none: Any = {"active_units": None, "dimensions": 0, "shuffled_latent_loss": None, "advice": [], "sites": [], "seconds": 0.0}
    return Record(step=step, beta=beta, elbo=unknown, rate=unknown, state="undecided", set_in=False, reason=reason, **none)


def _reads_inputs(pair: Pair, part: Tensor, nodes: list[Any], values: dict[str, Any]) -> bool:
    """Whether log p(x|z) of a part changes where the model is given other rows, with x and z held; True where it then fails."""
    other = pair.rows((part - 1) % pair.points)
    try:
        trace = pair.model_trace(other, values | {node["name"]: node["value"] for node in nodes})
        runs = [[without_masks(found) for found in (node, trace.nodes[node["name"]])] for node in nodes]
        both = [[log_prob_by_row(found, len(part)) for found in run] for run in runs]
    except FAILURES:
        return True
    return not all(torch.allclose(one, two, rtol=1e-4, atol=1e-4) for one, two in both)


def _range(interval: Interval) -> str:
    if math.isnan(interval.low):
        return f"{interval.value:z.2f}"
    return f"{interval.value:z.2f} ({interval.low:z.2f} to {interval.high:z.2f})"
