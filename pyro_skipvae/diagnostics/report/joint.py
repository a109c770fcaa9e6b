"""The report on all latent sites together: hierarchies, sequences and discrete codes, which have no single q(z|x)."""

import math
from collections.abc import Callable
from typing import Any

import torch

from ..estimates.elbo import draw_all
from ..estimates.log_likelihood import ImportanceEstimate, importance_estimate
from ..estimates.sites import (
    JointTerms,
    SiteReport,
    active_of,
    dimensions_of,
    groups_of,
    joint_terms,
    shuffled_losses,
    site_reports,
    variances_of,
)
from ..pairs.evaluation import forked_random
from ..pairs.finite import finite
from ..pairs.interval import Interval, mean_interval
from ..pairs.pair import Chunk, Pair, Progress
from ..pairs.unavailable import Unavailable, attempt
from .budget import ELBO_SHARE, Budget
from .sizes import Sizes

SITE_POINTS = 1000  # on which what is lost without a single site stands
NAME_ONE = "there are {} latent sites: name by site= one that depends on no other for bounds on what it says of x"
DISCRETE = "z is discrete"
NO_MEAN = "a site has no finite posterior mean at some points, or a single draw, which does not tell a mean from its noise"
OF_ONE_SITE = (
    "mi_lower", "mi_upper", "mi_marginal", "aggregate_kl", "mi_dieng_2019", "mi_he_2019_batch_32", "model_mutual_information",
)  # fmt: skip
OF_THE_PASS = (
    "elbo", "distortion", "rate", "rate_per_dimension", "active_units", "active_units_0_02", "shuffled_latent_loss", "sites",
)  # fmt: skip
CERTAIN = 1e-6  # nats
OF_THE_WEIGHTS = ("log_likelihood", "log_likelihood_tenth", "effective_sample_size")


def joint_fields(
    pair: Pair,
    budget: Budget,
    sizes: Sizes,
    *,
    posterior_samples: int,
    importance_samples: int,
    seed: int,
    reasons: dict[str, str],
    facts: dict[str, Any],
    progress: Progress | None,
) -> dict[str, Any]:
    """The fields of a report whose z are all latent sites; plain numbers are per point (n,). Everything is on `elbo_points`."""
    points = budget.points("the ELBO", min(pair.points, sizes.elbo_points), 2, ELBO_SHARE)
    most = min(posterior_samples, sizes.elbo_samples)
    samples = max(budget.samples(points, most, ELBO_SHARE), min(2, most))  # one draw does not tell a mean from its noise
    facts |= {"points": points, "elbo_points": points, "posterior_samples": samples, "elbo_posterior_samples": samples}
    facts |= {"mi_points": points, "mi_components": None, "mi_marginal_reference": None, "model_mutual_information_points": 0}
    reasons |= dict.fromkeys(OF_ONE_SITE, NAME_ONE.format(len(pair.latents)) if pair.nuisance else DISCRETE)
    fields: dict[str, Any] = dict.fromkeys((*OF_ONE_SITE, *OF_THE_PASS, "saturated"))
    fields |= {"mi_ceiling": math.log(points), "active_unit_variances": []}
    terms = attempt(reasons, OF_THE_PASS, joint_terms, pair, points=points, samples=samples, progress=progress)
    if terms is not None:
        fields |= _of_the_pass(pair, terms, budget, seed, reasons)
    known = None if terms is None else terms.log_weights
    most = min(points, sizes.log_likelihood_points)
    about: Any = {"reasons": reasons, "facts": facts, "progress": progress}
    chunks = list(pair.chunks())
    if terms is not None and all(site.usage.weight for site in terms.sites.values()):  # z is discrete
        about["check"] = lambda: _check_certain(pair, chunks, points, seed)
    fields |= log_likelihood_fields(pair, chunks, known, budget, most, importance_samples, **about)
    fields["elbo_on_log_likelihood_points"] = on_the_same_points(fields, reasons, facts["log_likelihood_points"])
    return fields


def _check_certain(pair: Pair, chunks: list[Chunk], points: int, seed: int) -> None:
    """Raises Unavailable where q(z|x) is certain of one code at every point: all of its draws are one."""
    with forked_random(pair.x, seed, pair.model, pair.guide):
        _, log_q = draw_all(pair, chunks, points)
    if all((each.abs() < CERTAIN).all() for each in log_q.values()):
        raise Unavailable(
            "q(z|x) is certain of one code at every point, so that importance sampling from it gives the ELBO, whatever the "
            "number of draws"
        )


def sites_beside(pair: Pair, points: int, *, seed: int) -> list[SiteReport]:
    """A row for each latent site and group, of a pair that was given one site by name: two draws of at most 1,000 points."""
    whole = Pair(pair.model, pair.guide, pair.x, rows=pair.rows_given, joint=True)
    points = min(points, SITE_POINTS)
    return site_reports(whole, joint_terms(whole, points=points, samples=2), points, seed=seed)


def _of_the_pass(pair: Pair, terms: JointTerms, budget: Budget, seed: int, reasons: dict[str, str]) -> dict[str, Any]:
    rate = attempt(reasons, "rate", finite, terms.rate, "log q(z|x) - log p(z)")
    fields: dict[str, Any] = {
        "elbo": attempt(reasons, "elbo", finite, terms.elbo, "the ELBO"),
        "distortion": attempt(reasons, "distortion", finite, -terms.log_likelihood, "-log p(x|z)"),
        "rate": rate,
        "rate_per_dimension": None if rate is None else attempt(reasons, "rate_per_dimension", _per_dimension, terms),
        "shuffled_latent_loss": attempt(reasons, "shuffled_latent_loss", _loss_of_all, pair, terms, seed),
    }
    passes = len(pair.latents) + len(groups_of(pair.latents))
    points = budget.points("what is lost without each site", min(len(terms.elbo), SITE_POINTS), passes)
    fields["sites"] = attempt(reasons, "sites", site_reports, pair, terms, points, seed=seed)
    return fields | _units(pair, terms, fields["sites"], reasons) | _information(terms, len(terms.elbo), reasons)


def _loss_of_all(pair: Pair, terms: JointTerms, seed: int) -> torch.Tensor:
    return shuffled_losses(pair, terms, pair.latents, len(terms.elbo), seed=seed)[0]


def _per_dimension(terms: JointTerms) -> list[float]:
    parts = [site.per_dimension for site in terms.sites.values() if site.per_dimension is not None and site.exact]
    if len(parts) < len(terms.sites):
        raise Unavailable("q and p of a site do not both factorise with a closed form per dimension")
    return torch.cat(parts).tolist()


def _units(pair: Pair, terms: JointTerms, sites: list[SiteReport] | None, reasons: dict[str, str]) -> dict[str, Any]:
    """Active units of all sites: dimensions whose means vary, and positions of codes that say something."""
    rows = {row.name: row for row in sites or () if len(row.sites) == 1}
    variances: list[float] = []
    counts = []
    for name, site in terms.sites.items():
        codes = rows[name].codes if name in rows else None
        found = variances_of(site)
        values = codes.information if codes else [math.nan] * dimensions_of(site, None) if found is None else found.tolist()
        variances += values
        counts.append(active_of(site, codes))
    fields: dict[str, Any] = {"active_unit_variances": variances}
    if None in counts:
        reasons |= dict.fromkeys(("active_units", "active_units_0_02"), NO_MEAN)
        return fields | {"active_units": None, "active_units_0_02": None}
    above = {"active_units": 0.01, "active_units_0_02": 0.02}
    return fields | {name: sum(value >= threshold for value in variances) for name, threshold in above.items()}


def _information(terms: JointTerms, points: int, reasons: dict[str, str]) -> dict[str, Any]:
    """Bounds on I(x; code) of a model whose only latent site is discrete."""
    (usage,) = [site.usage for site in terms.sites.values()] if len(terms.sites) == 1 else [None]
    if usage is None or not usage.weight:
        return {}
    del reasons["mi_lower"], reasons["mi_upper"]
    lower, upper = usage.information()
    return {
        "mi_lower": mean_interval(lower),
        "mi_upper": attempt(reasons, "mi_upper", _upper, upper),
        "mi_ceiling": math.log(min(points, usage.mass.shape[-1])),  # of one position
        "saturated": lower.mean().item() > math.log(points) - 2,
    }


def _upper(per_point: torch.Tensor) -> Interval:
    if not per_point.isfinite().all():
        raise Unavailable("some codes are used at one row of x alone: the bound is infinite")
    return mean_interval(per_point)


def log_likelihood_fields(
    pair: Pair,
    chunks: list[Chunk],
    known: Any,
    budget: Budget,
    most: int,
    samples: int,
    *,
    reasons: dict[str, str],
    facts: dict[str, Any],
    progress: Progress | None,
    check: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """`log_likelihood` and `log_likelihood_tenth` per point (n,), and the effective sample size of their weights.

    known: the log-weights of draws that were made before. check: raises Unavailable where the draws are those of no density.
    """
    points = budget.points(f"importance sampling with {samples} samples", most, samples)
    facts |= {"log_likelihood_points": points, "importance_samples": samples}
    facts["importance_samples_tenth"] = max(1, samples // 10)

    def estimated() -> ImportanceEstimate:
        check()
        found = importance_estimate(pair, chunks, points=points, samples=samples, known=known, progress=progress)
        finite(found.log_likelihood, "log p(x)")
        return found

    found = attempt(reasons, OF_THE_WEIGHTS, estimated)
    if found is None:
        return dict.fromkeys(OF_THE_WEIGHTS)
    effective = {"median": found.effective_samples.median().item(), "min": found.effective_samples.min().item()}
    return {
        "log_likelihood": found.log_likelihood,
        "log_likelihood_tenth": attempt(reasons, "log_likelihood_tenth", finite, found.tenth, "log p(x) by a tenth of K"),
        "effective_sample_size": effective,
    }


def on_the_same_points(fields: dict[str, Any], reasons: dict[str, Any], points: int) -> torch.Tensor | None:
    """The ELBO on the points of the log-likelihood, (points,), to compare the two."""
    missing = next((name for name in ("elbo", "log_likelihood") if fields[name] is None), None)
    if missing:
        reasons["elbo_on_log_likelihood_points"] = reasons[missing]
        return None
    return fields["elbo"][:points]
