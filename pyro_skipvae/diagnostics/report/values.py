"""The numbers of a report one by one, each with its interval and the points behind it."""

import math
from dataclasses import dataclass
from typing import Any

from ..pairs.interval import cycle_half_width, half_width

# Numbers of points and draws in the card -> the estimates that stand on them.
STANDING_ON = {
    "elbo_points": ("elbo", "distortion", "shuffled_latent_loss", "ppl_elbo", "bits_elbo"),
    "elbo_posterior_samples": ("elbo", "distortion", "ppl_elbo", "bits_elbo", "elbo_on_log_likelihood_points"),
    "log_likelihood_points": ("log_likelihood", "log_likelihood_tenth", "ppl_iw", "bits_iw", "elbo_on_log_likelihood_points"),
    "model_mutual_information_points": ("model_mi_lower", "model_mi_upper"),
}
OF_THE_INFORMATION = ("mi_lower", "mi_upper", "mi_marginal", "mi_ceiling", "aggregate_kl")
PERPLEXITIES = ("ppl_iw", "ppl_elbo")
BITS = ("bits_iw", "bits_elbo", "bits_rate")
PLAIN = (
    "elbo", "distortion", "log_likelihood", "elbo_on_log_likelihood_points", "log_likelihood_tenth", "rate",
    "shuffled_latent_loss",
)  # fmt: skip
COUNTS = ("active_units", "active_units_0_02", "mi_ceiling")
INTERVALS = ("mi_lower", "mi_marginal", "mi_upper", "aggregate_kl")
UNDER_THE_MODEL = ("model_mi_lower", "model_mi_upper")


@dataclass(frozen=True)
class Estimate:
    """A number of a report in nats per datapoint (or a count), its 95 % interval if it has one, and the points behind it."""

    value: float
    low: float | None
    high: float | None
    points: int | None

    @property
    def half_width(self) -> float | None:
        """Half of the interval, None where there is none."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def estimates_of(report: dict[str, Any]) -> dict[str, Estimate]:
    """The estimates of a report as plain values (report.json, or `to_dict`), by name; what was not available is absent."""
    card = report["card"]
    found: dict[str, Estimate] = {}
    points = {name: card.get(what) for what, names in STANDING_ON.items() if what.endswith("points") for name in names}
    points |= dict.fromkeys(OF_THE_INFORMATION, card.get("mi_points", card["points"]))  # older cards have one number for both
    for name in PLAIN:
        if report.get(name) is not None:
            error, count = report["standard_errors"].get(name), points.get(name, card["points"])
            of_mean = cycle_half_width if name == "shuffled_latent_loss" else half_width
            half = math.nan if error is None or count is None else of_mean(error, count)
            low, high = (report[name] - half, report[name] + half) if math.isfinite(half) else (None, None)
            found[name] = Estimate(report[name], low, high, count)
    in_units = (report.get("perplexity") or {}) | (report.get("bits_per_dimension") or {})
    for name, ends in in_units.items():
        if name in (*PERPLEXITIES, *BITS) and ends:
            found[name] = Estimate(ends["value"], ends["low"], ends["high"], points.get(name, card["points"]))
    for name in COUNTS:
        if report.get(name) is not None:
            found[name] = Estimate(report[name], None, None, points.get(name, card["points"]))
    intervals = {name: report.get(name) for name in INTERVALS}
    under = report.get("model_mutual_information") or {}
    intervals |= {f"model_mi_{end}": under.get(end) for end in ("lower", "upper")}
    for name, ends in intervals.items():
        if ends and ends["value"] is not None:
            found[name] = Estimate(ends["value"], ends["low"], ends["high"], points.get(name, card["points"]))
    return found
