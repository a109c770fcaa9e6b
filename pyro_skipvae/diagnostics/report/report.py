"""The collapse report: everything that says whether, and where, the latent variables are used."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any

from torch import Tensor

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.stored import INTERVAL, NUMBER, check, finite_or_none, loads

from ..estimates.active_units import mean_variances, units_above
from ..estimates.bits import BOUNDS, bits
from ..estimates.codes import Codes
from ..estimates.components import Components, evaluable
from ..estimates.elbo import elbo_terms, shuffled_latent_loss
from ..estimates.encoder import Encoded, encode
from ..estimates.model_mutual_information import ancestral_bounds, ancestral_cost
from ..estimates.mutual_information import (
    MutualInformation,
    Sandwich,
    all_bounds,
    dieng_2019,
    he_2019_batch_32,
    of_many,
    sandwich,
)
from ..estimates.pairwise import factors
from ..estimates.perplexity import checked_tokens, log_orders, perplexities
from ..estimates.random_components import Streamed, check_components, streamed
from ..estimates.sites import SiteReport, kind_of
from ..pairs.evaluation import as_found
from ..pairs.finite import finite
from ..pairs.interval import Interval, cycle_interval, cycle_standard_error, mean_interval, standard_error
from ..pairs.pair import Pair, Progress
from ..pairs.rows import Inputs, count_rows, length, select_rows
from ..pairs.unavailable import Refused, Unavailable, attempt
from .budget import ELBO_SHARE, Budget, measured_budget
from .card import check_extra, evaluation_card
from .joint import joint_fields, log_likelihood_fields, on_the_same_points, sites_beside
from .sizes import Sizes
from .table import html, table
from .values import Estimate, estimates_of
from .verdict import Verdict, verdict

MaybeNone = Any  # None where the pair does not admit an estimate: most do, and who uses one need not ask each time
CONVENTION = ({"value": NUMBER, "ceiling": NUMBER}, NoneType)
STORED = {  # the shape of a report in JSON
    **dict.fromkeys(("elbo", "distortion", "rate", "log_likelihood", "log_likelihood_tenth", "shuffled_latent_loss"), NUMBER),
    **dict.fromkeys(("mi_ceiling", "active_units", "active_units_0_02"), NUMBER),
    **dict.fromkeys(("mi_lower", "mi_upper", "mi_marginal", "aggregate_kl"), INTERVAL),
    **dict.fromkeys(("mi_dieng_2019", "mi_he_2019_batch_32"), CONVENTION),
    "model_mutual_information": ({"lower": INTERVAL, "upper": INTERVAL, "points": int, "ceiling": NUMBER}, NoneType),
    "rate_per_dimension": ([NUMBER], NoneType),
    "active_unit_variances": [NUMBER],
    "effective_sample_size": ({...: NUMBER}, NoneType),
    "standard_errors": {...: NUMBER},
    "verdict": (str, {"kind": str, "sentence": str, "amounts": dict}),  # older reports have the sentence alone
    "elbo_on_log_likelihood_points?": NUMBER,
    "perplexity?": ({"ppl_iw": INTERVAL, "ppl_elbo": INTERVAL, "importance_samples": int}, NoneType),
    "bits_per_dimension?": ({**dict.fromkeys(BOUNDS, INTERVAL), "dimensions": int, "levels": int}, NoneType),
    "sites?": ([dict], NoneType),
    "collapse_thresholds?": ([NUMBER], NoneType),
    "amortized?": ({...: (NUMBER, {...: (NUMBER, str)})}, NoneType),
    "card": {
        **dict.fromkeys(("points", "elbo_points", "log_likelihood_points"), int),
        **dict.fromkeys(("importance_samples", "importance_samples_tenth"), int),
        "unavailable": {...: str},
        "beyond_budget": [str],
        "notes": [str],
    },
}
OF_MANY = ("mi_lower", "mi_upper", "mi_marginal")
NEED_PAIRS = ("aggregate_kl", "mi_dieng_2019", "mi_he_2019_batch_32")
PLAIN = (
    "elbo", "distortion", "rate", "log_likelihood", "log_likelihood_tenth", "elbo_on_log_likelihood_points",
    "shuffled_latent_loss",
)  # fmt: skip
OF_THE_DECODER = ("elbo", "distortion", "shuffled_latent_loss")
EVERYTHING = Sizes(*[2**62] * 5)
FIRST_POINTS = 10_000  # for what is kept for each row, where the mutual information stands on rows without number
BUDGET_NOTE = "with a budget, the numbers of points and samples depend on the speed of the machine"


@dataclass(frozen=True, repr=False)
class CollapseReport:
    """Whether the latent variables are used, in nats per datapoint; an estimate that is not available is None.

    The reasons for None are in `card["unavailable"]`, by name; `standard_errors` holds the errors of the plain numbers.

    elbo = -distortion - rate on the same points; distortion: -E_q log p(x|z); rate: E_x KL(q(z|x) || p(z)), also by dimension.
    log_likelihood: by importance sampling (see `diagnostics.log_likelihood`), and with a tenth of the draws beside it;
    effective_sample_size: median and minimum over the points; elbo_on_log_likelihood_points: the ELBO on the same points.
    mi_lower, mi_upper, mi_marginal: bounds on I_q(x; z) (see `mutual_information`); mi_ceiling: what mi_lower cannot exceed;
    saturated: mi_lower is within 2 nats of it. mi_dieng_2019, mi_he_2019_batch_32: the conventions of these papers, each with
    its ceiling. model_mutual_information: bounds on I_p(x; z) (see there). aggregate_kl: KL(q(z) || p(z)).
    active_units: dimensions whose posterior mean has a variance over x of 0.01 or more (active_unit_variances), and of 0.02.
    shuffled_latent_loss: E[log p(x|z) - log p(x|z')] with z' of another datapoint; 0 for a decoder that ignores z.
    collapse_thresholds: for each dimension the smallest e with KL_d <= e at 99 % of x (Lucas et al. 2019, definition 1).
    sites: a row for each latent site (see `SiteReport`). perplexity: for texts. bits_per_dimension: for images with levels.
    amortized: what the encoder alone reaches, for a guide that refines.
    verdict: one sentence, a string with `kind` and `amounts`. card: how each number was made, such as `points`; those of the
    decoder may stand on fewer, `elbo_points` and `log_likelihood_points`.
    """

    elbo: float | MaybeNone
    distortion: float | MaybeNone
    rate: float | MaybeNone
    rate_per_dimension: list[float] | MaybeNone
    log_likelihood: float | MaybeNone
    log_likelihood_tenth: float | MaybeNone
    effective_sample_size: dict[str, float] | MaybeNone
    mi_lower: Interval | MaybeNone
    mi_upper: Interval | MaybeNone
    mi_marginal: Interval | MaybeNone
    mi_ceiling: float
    saturated: bool | MaybeNone
    mi_dieng_2019: dict[str, Any] | MaybeNone
    mi_he_2019_batch_32: dict[str, Any] | MaybeNone
    aggregate_kl: Interval | MaybeNone
    model_mutual_information: MutualInformation | MaybeNone
    active_units: int | MaybeNone
    active_units_0_02: int | MaybeNone
    active_unit_variances: list[float]
    shuffled_latent_loss: float | MaybeNone
    standard_errors: dict[str, float]
    verdict: Verdict
    card: dict[str, Any]
    perplexity: dict[str, Any] | None = None
    amortized: dict[str, Any] | None = None
    elbo_on_log_likelihood_points: float | MaybeNone = None
    bits_per_dimension: dict[str, Any] | None = None
    sites: list[SiteReport] | MaybeNone = None
    collapse_thresholds: list[float] | MaybeNone = None

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        """A few lines: the verdict, and the numbers that are looked at first, in nats per datapoint."""
        shown = {"elbo": self.elbo, "rate": self.rate, "log_likelihood": self.log_likelihood}
        numbers = ", ".join(f"{name}={value:.2f}" for name, value in shown.items() if value is not None)
        return f"CollapseReport({numbers}, points={self.card['points']})\n{self.verdict}\nprint(report) shows the table."

    def _repr_html_(self) -> str:
        """The table and the verdict as escaped HTML, for notebooks."""
        return html(self)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict of plain values; the verdict is {kind, sentence, amounts}."""
        return dataclasses.asdict(self) | {"verdict": self.verdict.to_dict()}

    def to_frame(self) -> Any:
        """The estimates as a pandas DataFrame: index `estimate`; columns value, low, high (95 % interval) and points.

        Raises ImportError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("expected pandas for to_frame(); install pandas (pip install pandas), or use to_dict()") from None
        rows = [{"estimate": name, **vars(estimate)} for name, estimate in self.estimates().items()]
        return pandas.DataFrame(rows).set_index("estimate")

    def estimates(self) -> dict[str, Estimate]:
        """The numbers of the report by name, each with its 95 % interval and the points behind it."""
        return estimates_of(self.to_dict())

    def collapsed_share(self, epsilon: float) -> float | MaybeNone:
        """The share of dimensions with P_x[KL_d <= epsilon] >= 0.99; None where the KL has no closed form per dimension."""
        if not self.collapse_thresholds:
            return None
        return sum(value <= epsilon for value in self.collapse_thresholds) / len(self.collapse_thresholds)

    def to_json(self) -> str:
        """The attributes as JSON; numbers that are not finite become null."""
        return json.dumps(finite_or_none(self.to_dict()), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "CollapseReport":
        """The report that `to_json` wrote; a number that was not finite comes back as nan. Raises ValueError for other text."""
        fields = loads(text)
        check(fields, STORED, "the report")
        for field in dataclasses.fields(cls):
            if field.name in PLAIN and fields.get(field.name, 0) is None and field.name not in fields["card"]["unavailable"]:
                fields[field.name] = math.nan
            elif field.type == Interval | MaybeNone:
                fields[field.name] = _interval(fields[field.name])
        fields["active_unit_variances"] = [_number(value) for value in fields["active_unit_variances"]]
        fields["standard_errors"] = {name: _number(value) for name, value in fields["standard_errors"].items()}
        if fields["model_mutual_information"]:
            under = fields["model_mutual_information"]
            bounds = {name: _interval(under[name]) for name in ("lower", "upper", "marginal")}
            fields["model_mutual_information"] = MutualInformation(**under | bounds)
        fields["verdict"] = Verdict.from_stored(fields["verdict"])
        fields["sites"] = [_site(row) for row in fields["sites"]] if fields.get("sites") else fields.get("sites")
        return cls(**fields)


def collapse_report(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Inputs,
    *,
    importance_samples: int = 200,
    posterior_samples: int = 10,
    fit_on: Inputs | None = None,
    site: str | None = None,
    seed: int = 0,
    budget: float | None = None,
    sizes: Sizes | None = None,
    components: int | None = None,
    rows: int | None = None,
    tokens: Tensor | None = None,
    levels: int | None = None,
    card: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> CollapseReport:
    """Reports whether the latent variables of a Pyro model and guide are used, by the encoder and by the decoder.

    x: a tensor or NumPy array of N rows, a tuple or list of them that is passed as `*x`, or a dict that is passed as `**x` (as
    one argument, where the callable has no arguments of these names).
    importance_samples: K of the log-likelihood; posterior_samples: draws of z per row for the other estimates.
    fit_on: data like x to which the marginal r(z) of `mi_marginal` is fitted (None: a random half of x).
    site: the latent site to report where there are several; the others are then nuisance. Without it all are reported.
    tokens: for texts, or counts of words, the number of tokens of each row (N,), for the perplexity. levels: for images, the
    number of grey levels of a value, for the bits per dimension, where p(x|z) gives probabilities and not densities.
    rows: how many rows the decoder runs at a time (None: 16 to 256, by the size of its convolutions); where it is given, the
    encoder runs no more than that either, and 256 at most. card: further fields for the evaluation card. progress: called as
    progress(stage, done, total). Two calls with one seed agree, unless there is a budget.

    Cost: rate, mutual information and active units run the guide on every row, with posterior_samples N^2 log-densities (see
    `mutual_information`); the rest runs the decoder on every row, importance_samples + 1 times. sizes: the most points and
    draws of each estimate, the same on every machine. budget: seconds for what runs the decoder, which then uses the first
    50, 100, 200, ... rows that fit, at least 50; the card says how many, and what the rest would have cost.

    components: for data of any size. The bounds on I_q(x; z) and KL(q(z) || p(z)) then use all rows of x, one draw each,
    against the posteriors of this number of random rows (see `mutual_information`); x is read in parts, in memory that does not
    grow with N, and all else uses the first 10,000 rows at most. The card has both numbers: `mi_points`, `mi_components`.

    Modules run in evaluation mode; parameters, modes, random numbers and the param store stay as found. Raises ValueError, with
    the reason, for a pair without numbers per datapoint: for example sites outside of one plate over the rows of x, an
    `AutoGuide` with parameters for each row, a model that is random at a given z, or a batch normalisation that makes rows
    depend on each other.
    """
    check_extra(card)
    if budget is not None and not budget >= 0:
        raise ValueError(f"expected a budget of at least 0 seconds, got {budget}")
    if levels is not None:
        check_sizes(2, levels=levels)
    sizes = sizes or EVERYTHING
    if components is not None:
        check_components(components)
        sizes = replace(sizes, points=min(sizes.points, FIRST_POINTS))
    many, first = x, None if components is None else sizes.points
    with as_found(model, guide, x=x, seed=seed, samples=(posterior_samples, importance_samples), first=first) as x:
        tokens = None if tokens is None else checked_tokens(tokens if first is None else tokens[:first], count_rows(x))
        if count_rows(x) > sizes.points:
            x, tokens = select_rows(x, slice(0, sizes.points)), None if tokens is None else tokens[: sizes.points]
        pair = Pair(model, guide, x, site=site, rows=rows, joint=None)
        if pair.joint:
            settings: Any = {"posterior_samples": posterior_samples, "importance_samples": importance_samples, "seed": seed}
            return _on_all_sites(pair, budget, sizes, components, card, tokens, levels, progress, settings)
        facts: dict[str, Any] = {"seed": seed, "budget_seconds": budget}
        reasons: dict[str, str] = {}
        encoded = encode(pair, posterior_samples, progress)
        fields = _rates(encoded, reasons)
        if components is None:
            fields |= _information(pair, encoded, fit_on, seed, reasons, facts, progress)
        else:
            how: Any = {"components": components, "fit_on": fit_on, "seed": seed, "progress": progress}
            found = attempt(reasons, OF_MANY, streamed, pair, many, samples=1, **how)
            fields |= _information_of_many(pair, encoded, found, min(components, length(many)), reasons, facts)
        fields |= _units(encoded, reasons)
        # What fails here fails below too, and has its reason there.
        spent = attempt({}, "budget", measured_budget, budget, pair, encoded.chunks) or Budget(budget)
        of_the_decoder, weights = _elbo(pair, encoded, spent, sizes, posterior_samples, seed, reasons, facts, progress)
        fields |= of_the_decoder
        fields |= _under_the_model(pair, encoded, spent, sizes, reasons, facts)
        most = min(facts["elbo_points"], sizes.log_likelihood_points)  # the ELBO stands on these points too
        samples = importance_samples if encoded.dimensions else 1  # p(x|z) is p(x) where there is no z
        about: Any = {"reasons": reasons, "facts": facts, "progress": progress, "check": encoded.check_draws}
        fields |= log_likelihood_fields(pair, encoded.chunks, weights, spent, most, samples, **about)
        fields["elbo_on_log_likelihood_points"] = on_the_same_points(fields, reasons, facts["log_likelihood_points"])
        if pair.nuisance:
            fields["sites"] = attempt(reasons, "sites", sites_beside, pair, facts["elbo_points"], seed=seed)
        if tokens is not None:
            fields["perplexity"] = attempt(reasons, "perplexity", _perplexities, fields, tokens, pair, facts)
        if levels is not None:
            fields["bits_per_dimension"] = attempt(reasons, "bits_per_dimension", _bits, fields, pair, levels)
    facts |= {"beyond_budget": spent.beyond, "unavailable": reasons}
    facts |= {"notes": pair.notes + [BUDGET_NOTE] * (budget is not None)}
    made = evaluation_card(card, **_about(pair, encoded, facts["mi_components"]), **facts)
    return _concluded(fields, made, pair)


def _on_all_sites(
    pair: Pair,
    seconds: float | None,
    sizes: Sizes,
    components: int | None,
    card: dict[str, Any] | None,
    tokens: Tensor | None,
    levels: int | None,
    progress: Progress | None,
    settings: dict[str, Any],
) -> CollapseReport:
    """The report whose z are all latent sites."""
    if components is not None:
        raise Refused(f"expected one continuous latent site for components=, got {pair.latents}")
    reasons: dict[str, str] = {}
    facts: dict[str, Any] = {"seed": settings["seed"], "budget_seconds": seconds}
    spent = attempt({}, "budget", measured_budget, seconds, pair, list(pair.chunks())) or Budget(seconds)
    fields = joint_fields(pair, spent, sizes, reasons=reasons, facts=facts, progress=progress, **settings)
    if tokens is not None:
        fields["perplexity"] = attempt(reasons, "perplexity", _perplexities, fields, tokens, pair, facts)
    if levels is not None:
        fields["bits_per_dimension"] = attempt(reasons, "bits_per_dimension", _bits, fields, pair, levels)
    notes = pair.notes + [BUDGET_NOTE] * (seconds is not None)
    facts |= {"beyond_budget": spent.beyond, "unavailable": reasons, "notes": notes}
    return _concluded(fields, evaluation_card(card, **_about_all(pair, fields), **facts), pair)


def _about_all(pair: Pair, fields: dict[str, Any]) -> dict[str, Any]:
    """The card's fields on a pair whose z are all latent sites."""
    z, _ = pair.draw(next(pair.chunks()), 1)
    rates = "closed form where the guide allows it, else Monte Carlo: see sites"
    return {
        "site": ", ".join(pair.latents),
        "nuisance_sites": [],
        "observed_sites": pair.observed,
        "latent_shape": [len(fields["active_unit_variances"])],
        "posterior_family": "of several sites" if len(pair.latents) > 1 else "discrete",
        "estimators": {
            "rate": rates,
            "elbo": f"E_q log p(x|z) - KL of each site, KL by {rates}",
            "mutual_information": "of codes: log q_i(code) less the log of its mean over all points, and over the others",
            "log_likelihood": "importance sampling from q(z|x)",
        },
        "device": str(z[pair.site].device),
        "dtype": str(z[pair.site].dtype),
    }


def _concluded(fields: dict[str, Any], card: dict[str, Any], pair: Pair) -> CollapseReport:
    """The report from its fields, whose plain numbers are still one per point, (n,)."""
    known = {name: fields[name] for name in PLAIN if fields[name] is not None}
    errors = {name: (cycle_standard_error if name == "shuffled_latent_loss" else standard_error)(known[name]) for name in known}
    fields |= {name: values.mean().item() for name, values in known.items()}
    # Against a prior of each row, the bounds on I_q(x; z) say nothing of what is beyond that prior.
    upper = [fields[name].high for name in ("mi_upper", "mi_marginal") if fields[name] and not pair.prior_varies]
    if not pair.prior_masked and "rate" in known:
        upper.append(mean_interval(known["rate"]).high)
    told = verdict(
        active=fields["active_units"],
        dimensions=len(fields["active_unit_variances"]),
        loss=cycle_interval(known["shuffled_latent_loss"]) if "shuffled_latent_loss" in known else None,
        points=pair.points,
        information=min((end for end in upper if math.isfinite(end)), default=None),
        information_low=None if pair.prior_varies else fields["mi_lower"] and fields["mi_lower"].low,
        conditional=pair.prior_varies,
        nats_of_x=-fields["log_likelihood"] if pair.discrete_x and fields["log_likelihood"] is not None else None,
        elements=pair.elements,
    )
    if "sites" not in fields:
        fields["sites"] = [_only_site(fields, known, card, pair)]
    return CollapseReport(**fields, standard_errors=errors, verdict=told, card=card)


def _only_site(fields: dict[str, Any], known: dict[str, Tensor], card: dict[str, Any], pair: Pair) -> SiteReport:
    """What the report says of its one site, as a row."""
    lost = cycle_interval(known["shuffled_latent_loss"]) if "shuffled_latent_loss" in known else None
    return SiteReport(
        name=pair.site,
        sites=[pair.site],
        dimensions=len(fields["active_unit_variances"]),
        rate=mean_interval(known["rate"]) if "rate" in known else None,
        rate_estimator=card["estimators"]["rate"],
        active_units=fields["active_units"],
        shuffled_latent_loss=lost,
        shuffled_loss_with_latents=lost,
        kind=kind_of(lost),
    )


def aggregate_kl(rate: Tensor, bounds: Sandwich, marginal: Interval | None) -> Interval:
    """KL(q(z) || p(z)) = E_x[rate] - I(x; z), between rate - upper and rate - lower bound of the mutual information.

    rate (N,) per point. The value is rate - marginal bound, moved to the nearer end where that lies outside, the middle
    without one, and never negative. The interval reaches from the low end of that of rate - upper to the high
    end of that of rate - lower, both over x; the low end is negative where the upper bound is loose.
    """
    low, high = (mean_interval(rate - term.mean(0)) for term in (bounds.upper, bounds.lower))
    return between(rate.mean().item(), low, high, marginal)


def between(rate: float, low: Interval, high: Interval, marginal: Interval | None) -> Interval:
    """KL(q(z) || p(z)) from the rate less the upper and less the lower bound of the mutual information; see `aggregate_kl`."""
    value = rate - marginal.value if marginal else (low.value + high.value) / 2
    value = max(min(max(value, low.value), high.value), 0.0)
    return Interval(value, low.low, max(high.high, value))


def _rates(encoded: Encoded, reasons: dict[str, Any]) -> dict[str, Any]:
    """`rate` per point (N,), and per dimension."""
    per_dimension = encoded.rate_per_dimension
    if per_dimension is None:
        reasons["rate_per_dimension"] = "q(z|x) and p(z) do not both factorise with a closed form per dimension"
    found = attempt(reasons, "rate", lambda: encoded.rate)
    if per_dimension is not None and found is None:
        per_dimension, reasons["rate_per_dimension"] = None, reasons["rate"]
    thresholds = None if per_dimension is None else encoded.collapse_thresholds
    return {
        "rate": found,
        "rate_per_dimension": None if per_dimension is None else per_dimension.tolist(),
        "collapse_thresholds": None if thresholds is None else thresholds.tolist(),
    }


def _information(
    pair: Pair,
    encoded: Encoded,
    fit_on: Inputs | None,
    seed: int,
    reasons: dict[str, Any],
    facts: dict[str, Any],
    progress: Progress | None,
) -> dict[str, Any]:
    """The bounds on I_q(x; z), the aggregate KL and the papers' conventions."""
    found, components, bounds = all_bounds(
        pair, encoded.chunks, encoded.z, encoded.log_q, fit_on=fit_on, seed=seed, progress=progress
    )
    facts |= {"mi_points": found.points, "mi_components": None, "mi_marginal_reference": found.marginal_reference}
    reasons |= {f"mi_{name}": reason for name, reason in found.unavailable.items()}
    if not bounds:
        reasons |= dict.fromkeys(NEED_PAIRS, reasons["mi_lower"])
    return {
        "mi_lower": found.lower,
        "mi_upper": found.upper,
        "mi_marginal": found.marginal,
        "mi_ceiling": found.ceiling,
        "saturated": found.saturated,
        "mi_dieng_2019": attempt(reasons, "mi_dieng_2019", _dieng_2019, components, encoded, bounds) if bounds else None,
        "mi_he_2019_batch_32": attempt(reasons, "mi_he_2019_batch_32", he_2019_batch_32, components) if bounds else None,
        "aggregate_kl": attempt(reasons, "aggregate_kl", _aggregate_kl, pair, encoded, bounds, found) if bounds else None,
    }


def _information_of_many(
    pair: Pair, encoded: Encoded, found: Streamed | None, count: int, reasons: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
    """The bounds from all rows of x, against `count` components, and the papers' conventions from the rows of `encoded`."""
    components = attempt(reasons, NEED_PAIRS[1:], evaluable, encoded.chunks, encoded.z[:1])
    bounds = attempt(reasons, NEED_PAIRS[1], sandwich, components.pairs, components.z) if components else None
    conventions = {
        "mi_dieng_2019": attempt(reasons, NEED_PAIRS[1], _dieng_2019, components, encoded, bounds) if bounds else None,
        "mi_he_2019_batch_32": attempt(reasons, NEED_PAIRS[2], he_2019_batch_32, components) if components else None,
    }
    if found is None:
        facts |= {"mi_points": 0, "mi_components": count, "mi_marginal_reference": None}
        reasons[NEED_PAIRS[0]] = reasons["mi_lower"]
        nothing = dict.fromkeys((*OF_MANY, NEED_PAIRS[0], "saturated"))
        return conventions | nothing | {"mi_ceiling": math.log(count + 1)}
    if not found.one_prior and not pair.prior_masked:
        pair.note_varying_prior()
    facts |= {"mi_points": found.points, "mi_components": found.components, "mi_marginal_reference": found.marginal_reference}
    reasons |= {f"mi_{name}": reason for name, reason in found.unavailable.items()}
    bounded = of_many(found)
    return conventions | {
        "mi_lower": bounded.lower,
        "mi_upper": bounded.upper,
        "mi_marginal": bounded.marginal,
        "mi_ceiling": bounded.ceiling,
        "saturated": bounded.saturated,
        "aggregate_kl": attempt(reasons, NEED_PAIRS[0], _aggregate_kl_of_many, pair, encoded, found),
    }


def _aggregate_kl_of_many(pair: Pair, encoded: Encoded, found: Streamed) -> Interval:
    _check_aggregate(pair, encoded, found.unavailable)
    if found.rate_less_upper is None or found.rate_less_lower is None:
        raise Unavailable("there is no bound on the mutual information")
    return between(found.rate.value, found.rate_less_upper, found.rate_less_lower, found.marginal)


def _dieng_2019(components: Components, encoded: Encoded, bounds: Sandwich) -> dict[str, Any]:
    return dieng_2019(components, encoded.rate, encoded.log_ratio[0], bounds)


def _aggregate_kl(pair: Pair, encoded: Encoded, bounds: Sandwich, found: MutualInformation) -> Interval:
    _check_aggregate(pair, encoded, found.unavailable)
    return aggregate_kl(encoded.rate, bounds, found.marginal)


def _check_aggregate(pair: Pair, encoded: Encoded, unavailable: dict[str, str]) -> None:
    """Raises Unavailable where there is no KL(q(z) || p(z)), or no bound on it."""
    if pair.prior_masked:
        raise Unavailable("p(z) is masked, so the rate is no divergence")
    if pair.prior_varies:
        raise Unavailable("p(z) differs between the rows of x")
    if "upper" in unavailable:
        raise Unavailable(unavailable["upper"])


def _units(encoded: Encoded, reasons: dict[str, Any]) -> dict[str, Any]:
    variances = mean_variances(encoded.halves)
    counts = {"active_units": 0.01, "active_units_0_02": 0.02}
    found = {name: attempt(reasons, name, units_above, encoded.halves, threshold) for name, threshold in counts.items()}
    return found | {"active_unit_variances": variances.tolist()}


def _elbo(
    pair: Pair,
    encoded: Encoded,
    budget: Budget,
    sizes: Sizes,
    samples: int,
    seed: int,
    reasons: dict[str, str],
    facts: dict[str, Any],
    progress: Progress | None,
) -> tuple[dict[str, Any], Tensor | None]:
    """`elbo`, `distortion` and `shuffled_latent_loss` per point (n,), and the log-weights of the draws (S, n)."""
    points = budget.points("the ELBO", min(pair.points, sizes.elbo_points), 2, ELBO_SHARE)
    samples = budget.samples(points, 1 if encoded.dimensions == 0 else min(samples, sizes.elbo_samples), ELBO_SHARE)
    facts |= {"elbo_points": points, "elbo_posterior_samples": samples}
    draws = None if pair.nuisance or pair.guide_terms else (encoded.z, encoded.log_q)
    settings = {"points": points, "samples": samples, "draws": draws, "progress": progress}
    terms = attempt(reasons, OF_THE_DECODER, elbo_terms, pair, encoded.chunks, encoded.exact_rate, **settings)
    if terms is None:
        return dict.fromkeys(OF_THE_DECODER), None
    if encoded.exact_rate is not None and "rate" in reasons:
        reasons["elbo"] = reasons["rate"]
    loss = attempt(reasons, "shuffled_latent_loss", shuffled_latent_loss, pair, terms, seed=seed)
    fields = {
        "elbo": None if "elbo" in reasons else attempt(reasons, "elbo", finite, terms.elbo, "the ELBO"),
        "distortion": attempt(reasons, "distortion", finite, -terms.log_likelihood, "-log p(x|z)"),
        "shuffled_latent_loss": loss,
    }
    return fields, terms.log_weights


def _perplexities(fields: dict[str, Any], tokens: Tensor, pair: Pair, facts: dict[str, Any]) -> dict[str, Any]:
    orders = log_orders(pair, max(facts["elbo_points"], facts["log_likelihood_points"]))
    return perplexities(fields, tokens, facts["importance_samples"], orders)


def _bits(fields: dict[str, Any], pair: Pair, levels: int) -> dict[str, Any]:
    if not pair.discrete_x:
        raise Unavailable("p(x|z) gives no probabilities of x: the nats of a density depend on the unit of x")
    return bits(fields, pair.elements, levels)


def _under_the_model(
    pair: Pair, encoded: Encoded, budget: Budget, sizes: Sizes, reasons: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
    found = attempt(reasons, "model_mutual_information", _ancestral_bounds, pair, encoded, budget, sizes)
    facts["model_mutual_information_points"] = found.points if found else 0
    return {"model_mutual_information": found}


def _ancestral_bounds(pair: Pair, encoded: Encoded, budget: Budget, sizes: Sizes) -> MutualInformation:
    if encoded.dimensions == 0:
        raise Unavailable("z has no dimensions")
    if pair.nuisance:
        raise Unavailable(f"under the model it needs one latent site, got {pair.latents}")
    largest, cost = ancestral_cost(pair)
    most = min(largest, pair.points, sizes.model_points)
    points = budget.fitting_points("the mutual information under the model", most, cost)
    return ancestral_bounds(pair.model, pair.x, samples=points, site=pair.site, rows=pair.rows_given, largest=pair.largest)


def _about(pair: Pair, encoded: Encoded, components: int | None) -> dict[str, Any]:
    """The card's fields on the pair and the estimators."""
    exact = encoded.exact_rate is not None
    rate = "closed form" if exact else "Monte Carlo"
    return {
        "points": pair.points,
        "posterior_samples": len(encoded.z),
        "site": pair.site,
        "nuisance_sites": pair.nuisance,
        "observed_sites": pair.observed,
        "latent_shape": list(encoded.z.shape[2:]),
        "posterior_family": type(factors(encoded.chunks[0].q)[0]).__name__,
        "estimators": {
            "rate": rate,
            "elbo": f"E_q log p(x|z) - KL, KL by {rate}",
            "mutual_information": "own component in the mixture (lower), leave-one-out (upper), "
            + (f"over {components:,} random rows of x" if components else "over all rows of x"),
            "log_likelihood": "importance sampling from q(z|x)",
        },
        "device": str(encoded.z.device),
        "dtype": str(encoded.z.dtype),
    }


def _site(row: dict[str, Any]) -> SiteReport:
    names = ("rate", "shuffled_latent_loss", "shuffled_loss_with_latents")
    codes = None if row["codes"] is None else Codes(**row["codes"])
    return SiteReport(**row | {name: _interval(row[name]) for name in names} | {"codes": codes})


def _interval(fields: dict[str, Any] | None) -> Interval | None:
    return None if fields is None else Interval(**{name: _number(end) for name, end in fields.items()})


def _number(value: float | None) -> float:
    """What JSON has as null was not finite."""
    return math.nan if value is None else value
