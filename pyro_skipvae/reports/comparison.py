"""What runs differ in: settings, the estimates of their reports, and their ELBO on the same test points.

Runs are compared only where their evaluation cards agree. Runs that differ in nothing but the seed form a group; the
first group is the one that the others are compared with.
"""

import json
import os
import shlex
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch.distributions import kl_divergence

from pyro_skipvae.diagnostics import log_likelihood_per_point
from pyro_skipvae.diagnostics.estimates.perplexity import COUNTED
from pyro_skipvae.diagnostics.pairs.conditions import drawn
from pyro_skipvae.diagnostics.pairs.interval import mean_interval, welch_half_width
from pyro_skipvae.diagnostics.report.report import STORED
from pyro_skipvae.diagnostics.report.values import (
    BITS,
    COUNTS,
    INTERVALS,
    PERPLEXITIES,
    PLAIN,
    STANDING_ON,
    UNDER_THE_MODEL,
    Estimate,
    estimates_of,
)
from pyro_skipvae.random_numbers import forked, seed_generators
from pyro_skipvae.runs.config import Config
from pyro_skipvae.runs.folder import Run, RunError, load_run
from pyro_skipvae.runs.included import folder_of
from pyro_skipvae.stored import check, finite_or_none, loads
from pyro_skipvae.text.printable import one_line
from pyro_skipvae.text.vocabulary import PAD

SCHEMA = 1
# What two cards must agree in, else their numbers are not about the same thing.
CARD = (
    "schema", "data.name", "data.checksum", "data.split", "data.event_shape", "data.kind", "data.levels",
    "data.binarisation", "data.seed", "data.limits.test", "points", "posterior_samples", "importance_samples",
    "site", "nuisance_sites", "observed_sites", "estimators.rate", "estimators.elbo",
    "estimators.mutual_information", "estimators.log_likelihood", "dtype", "seed",
)  # fmt: skip
# Where there is no z, nothing is drawn and every estimator is exact: no choice that could disagree.
DRAWS = (
    "importance_samples", "elbo_posterior_samples", "model_mutual_information_points", "estimators.rate", "estimators.elbo",
)  # fmt: skip
DENSITIES = ("normal", "normal-shared-scale")  # their nats depend on the unit of x, and those of probabilities do not
NOT_COMPARED = ("seed", "data_dir", "download")  # settings that make no other model
LABELS = {
    "ppl_iw": "perplexity, importance-weighted",
    "ppl_elbo": "perplexity, by the ELBO",
    "bits_per_dimension": "bits per dimension",
    "bits_iw": "bits per dimension, importance-weighted",
    "bits_elbo": "bits per dimension, by the ELBO",
    "bits_rate": "bits per dimension, the rate alone",
    "elbo": "ELBO",
    "distortion": "distortion -E log p(x|z)",
    "log_likelihood": "log p(x), importance-weighted",
    "elbo_on_log_likelihood_points": "ELBO, on the points of log p(x)",
    "log_likelihood_tenth": "log p(x), a tenth of the draws",
    "effective_sample_size": "effective samples",
    "rate": "rate KL(q(z|x) || p(z))",
    "shuffled_latent_loss": "loss when z is shuffled",
    "active_units": "active units (0.01)",
    "active_units_0_02": "active units (0.02)",
    "mi_ceiling": "ceiling of the lower bound",
    "mi_lower": "I_q(x; z), lower bound",
    "mi_marginal": "I_q(x; z), fitted marginal",
    "mi_upper": "I_q(x; z), upper bound",
    "aggregate_kl": "KL(q(z) || p(z))",
    "model_mi_lower": "I_p(x; z), lower bound",
    "model_mi_upper": "I_p(x; z), upper bound",
    "model_mutual_information": "I_p(x; z)",
    "mi_dieng_2019": "Dieng 2019",
    "mi_he_2019_batch_32": "He 2019",
    "rate_per_dimension": "rate of each dimension",
}
PARTS = ("elbo", "rate", "distortion")
PAIRED = (*PARTS, "log_likelihood")
BOUNDS = ("elbo", "log_likelihood")
CHUNK = 100
NONFINITE = {"steps": int}


@dataclass(frozen=True)
class Record:
    """What a run folder says without its model: settings, lines of metrics, report, and steps that were not finite.

    report is {} if there is none, and nonfinite if all steps were finite.
    """

    name: str
    path: Path
    config: Config
    metrics: list
    report: dict
    nonfinite: dict = field(default_factory=dict)
    stale: bool = False  # its report.json is of a checkpoint that is gone, and is not in `report`
    other: str | None = None  # of what its report is, if not of the model that `load_run` gives


@dataclass(frozen=True)
class Difference:
    """A group of runs minus the first group, in nats per datapoint, with the 95 % interval over test points.

    better: the share of points on which the bound is higher, None for rate and distortion. seeds: the runs of both groups;
    seed_error, over_seeds: the standard error over seeds, and the ends of the 95 % interval over them (Welch 1947); None unless
    both groups have at least two runs.
    """

    quantity: str
    of: str
    minus: str
    value: float
    low: float
    high: float
    better: float | None
    seeds: tuple[int, int]
    seed_error: float | None
    over_seeds: tuple[float, float] | None

    @property
    def shown(self) -> int:
        """1 or -1 where the sign is certain by the interval over test points, and by that over seeds if known; else 0."""
        low, high = (self.low, self.high) if self.over_seeds is None else self.over_seeds
        return (min(low, self.low) > 0) - (max(high, self.high) < 0)


@dataclass(frozen=True)
class Comparison:
    """The comparison of runs that `compare` makes.

    groups: {name: the runs that differ in the seed alone}. settings: {field: a value for each run} where they differ.
    estimates: {name: one for each run}, None where there is none. over_seeds: means and standard errors of groups with several
    runs. differences: see `Difference`, on `points` test points. notes: what was not compared, and why.
    """

    runs: list[str]
    groups: dict[str, list[str]]
    settings: dict[str, list]
    estimates: dict[str, list[Estimate | None]]
    over_seeds: dict[str, dict[str, dict]]
    differences: list[Difference] = field(default_factory=list)
    points: int = 0
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The attributes as JSON; numbers that are not finite become null."""
        return json.dumps({"schema": SCHEMA, **finite_or_none(asdict(self))}, indent=2, allow_nan=False)


def read_record(path: str | os.PathLike[str]) -> Record:
    """Reads what a run folder says without its model: settings, metrics and report (see `Record`).

    path: as in `load_run`. Raises RunError if it is not a run, or a file in it cannot be read.
    """
    run = Run(folder_of(path))
    config, anew = run.config(), f"write it anew by evaluate {shlex.quote(str(run.path))} --save"
    if not (run.path / "data.json").exists():
        anew = "remove it"  # what is known of the data of an older run is in this file alone
    report = _read_json(run.path / "report.json", STORED, "a collapse report", anew)
    nonfinite = _read_json(run.path / "nonfinite.json", NONFINITE, "the steps left out", "remove it")
    name, stale = one_line(run.path.resolve().name), bool(report) and not run.is_current(report)
    other = None if stale else _other_than_loaded(run, report.get("card", {}))
    return Record(name, run.path, config, run.metrics(), {} if stale else report, nonfinite, stale, other)


def _other_than_loaded(run, card):
    if card.get("checkpoint_sha256") not in (None, run.checksum()):
        return f"the checkpoint {card['checkpoint']!r}"
    steps = card.get("svi_steps")
    return None if steps is None else f"q(z|x) refined by {steps} steps"


def _read_json(file, pattern, what, remedy):
    """The object in a JSON file, {} where there is none. Raises RunError, with the remedy, if it is not of the pattern."""
    try:
        found = loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        check(None if found == {} else found, (pattern, NoneType), "it")
    except (OSError, ValueError) as error:
        raise RunError(f"expected {what} in {file}, which cannot be read: {error}; {remedy}") from None
    return found or {}


def check_comparable(records, allowed=()):
    """Raises ValueError naming the first field of the evaluation cards that differs and is not among `allowed`."""
    if len({record.path.resolve() for record in records}) < len(records):
        raise ValueError("expected different runs, got one of them twice")
    for record in records:
        if not record.report:
            raise ValueError(f"expected a report in every run, got none in {record.path}; make one with evaluate --save")
    unknown = [name for name in allowed if not any(_allowed(known, [name]) for known in CARD)]
    if unknown:
        raise ValueError(f"expected a field of the card out of {', '.join(CARD)}, got {unknown[0]!r}")
    for name in CARD:
        pair = _disagreement(records, name)
        if pair and not _allowed(name, allowed):
            first, other = (f"{_short(_entry(record.report['card'], name))} in {record.name}" for record in pair)
            raise ValueError(f"expected runs whose evaluation cards agree, got {name} {first} and {other}")
    for record in records:
        if (record.config.likelihood in DENSITIES) != (records[0].config.likelihood in DENSITIES):
            pair = " and ".join(f"{r.config.likelihood} in {r.name}" for r in (records[0], record))
            raise ValueError(f"expected likelihoods that are all densities or all probabilities, got {pair}")


def differing_settings(records):
    """{field: a value for each run} of the settings in which the runs are not all the same."""
    names = [entry.name for entry in fields(Config)]
    values = {name: [getattr(record.config, name) for record in records] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def grouped(records):
    """Runs of the same settings but for the seed, [[Record, ...], ...], in the order in which they were given; of a seed the
    first one."""
    groups = {}
    for record in records:
        settings = asdict(record.config)
        same = tuple(value for name, value in settings.items() if name not in NOT_COMPARED)
        groups.setdefault(same, {}).setdefault(record.config.seed, record)
    return [list(group.values()) for group in groups.values()]


def compare(records: Sequence[Record], *, values: dict[Path, Any] | None = None, allowed: Collection[str] = ()) -> Comparison:
    """Compares runs: their settings, their estimates, and their differences on the same test points.

    records: of `read_record`. values: of `paired_values`, {path: {quantity: (n,)}} in nats; without them there are no
    differences per point. allowed: fields of the evaluation card in which the runs may differ. Raises ValueError for fewer than
    two runs, a run twice or without a report, and evaluation cards that disagree.
    """
    if len(records) < 2:
        raise ValueError(f"expected at least 2 runs to compare, got {len(records)}")
    check_comparable(records, allowed)
    records = _named_apart(records)
    found = [estimates_of(record.report) for record in records]
    known = (*PERPLEXITIES, *BITS, *PLAIN, *COUNTS, *INTERVALS, *UNDER_THE_MODEL)
    names = [name for name in known if any(name in f for f in found)]
    notes = [f"The cards differ in {name}, which was allowed." for name in CARD if _disagreement(records, name)]
    for record in records:
        if left := record.report["card"].get("unfinished"):
            notes.append(f"The training of {record.name} was not finished: {left}.")
        if record.other:
            told = f"The estimates of {record.name} are of {record.other}"
            notes.append(told + (", its differences on the same points are not." if values else "."))
    for field_name, standing in STANDING_ON.items():
        standing = [name for name in standing if name in names]
        if standing and _disagreement(records, field_name):
            names = [name for name in names if name not in standing]
            seen = " and ".join(sorted({f"{_entry(record.report['card'], field_name):,}" for record in records}))
            left_out = "; ".join(LABELS[name] for name in standing)
            notes.append(f"Not compared: {left_out}. The runs stand on {seen} {_spoken(field_name)}.")
    if any(name in names for name in PERPLEXITIES):
        draws = max(record.report["card"]["importance_samples"] for record in records)  # a model without z needs none
        notes.append(f"Perplexities per token ({COUNTED}); importance-weighted with {draws} draws of z.")
    groups = grouped(records)
    counted = [record.name for group in groups for record in group]
    for name in (record.name for record in records if record.name not in counted):
        notes.append(f"{name} has the settings and the seed of a run before it: it is no further seed.")
    return Comparison(
        runs=[record.name for record in records],
        groups={group[0].name: [record.name for record in group] for group in groups},
        settings=differing_settings(records),
        estimates={name: [f.get(name) for f in found] for name in names},
        over_seeds=_over_seeds(groups, names),
        differences=_differences(groups, values) if values else [],
        points=len(next(iter(values.values()))["elbo"]) if values else 0,
        notes=notes,
    )


def paired_values(
    records, *, points=None, seconds=60.0, samples=1, importance_samples=None, seed=0, device="cpu", progress=None
):
    """ELBO, rate and distortion of every run on the same test points, {path: {quantity: (n,)}}, in nats.

    The points are so many, spread evenly over the test set, or all of it, of which as many as `seconds` allow are used, the
    first ones, 100 at least. All runs get the same noise for z. One draw a point is the default, since with the same work
    more points narrow the interval more than more draws. With `importance_samples` there is the log-likelihood too, by that
    many draws; of texts there are `tokens`, how many each has. Raises ValueError if the test sets differ.
    """
    loaded = {record.path: load_run(record.path, device=device)[:2] for record in records}
    tests = [spread(data.test, points) for _, data in loaded.values()]
    if any(not _same_items(test, tests[0]) for test in tests[1:]):
        raise ValueError("expected the same test points in every run, but the data found here differ")
    total, start, parts = len(tests[0]), time.perf_counter(), {path: [] for path in loaded}
    firsts = list(range(0, max(total - 1, 1), CHUNK))  # importance sampling wants two points at least
    for first, end in zip(firsts, [*firsts[1:], total], strict=True):
        began = time.perf_counter()
        x = tests[0][first:end].to(device)
        for path, (vae, data) in loaded.items():
            with forked([x.device], seed + first), torch.no_grad():
                q = vae.posterior(x)
                seed_generators([x.device], seed + first)  # a refinement has used up some
                found = values_per_point(vae, x, q=q, samples=samples)
            if importance_samples:
                draws = importance_samples if vae.prior().event_shape.numel() else 1  # p(x|z) is p(x) then
                estimate = log_likelihood_per_point(vae.model, vae.guide, x, importance_samples=draws, seed=seed + first)
                found["log_likelihood"] = estimate.log_likelihood
            parts[path].append(found | ({"tokens": (x != PAD).sum(1).cpu()} if data.kind == "text" else {}))
        if progress:
            progress(end, total)
        now = time.perf_counter()
        if now - start + (now - began) > seconds:
            break
    return {path: {name: torch.cat([part[name] for part in found]) for name in found[0]} for path, found in parts.items()}


def paired_points(records, importance_samples=None):
    """On how many points runs are compared: as many as their reports have for the ELBO, or for log p(x); None: on all.

    So the number does not depend on the speed of the machine.
    """
    name = "log_likelihood_points" if importance_samples else "elbo_points"
    return min((n for record in records if (n := record.report.get("card", {}).get(name))), default=None)


def _same_items(a, b):
    """Whether items, in memory or on disk, are equal."""
    return a.shape == b.shape and all(torch.equal(a[i : i + CHUNK], b[i : i + CHUNK]) for i in range(0, len(a), CHUNK))


def spread(x, points):
    """So many rows of x, evenly spread: data lie in files in an order of their own."""
    return x if points is None or points >= len(x) else x[torch.arange(points) * len(x) // points]


def values_per_point(vae, x, *, q=None, samples=1):
    """ELBO, rate and distortion of each row of x, (B,) in float64, averaged over draws of z from torch's generator.

    `q` is q(z|x), if it is known already.
    """
    q, p = q or vae.posterior(x), vae.prior()
    try:
        rate = kl_divergence(q, p.expand(q.batch_shape)).double()
    except NotImplementedError:
        rate = None
    distortion, sampled = 0.0, 0.0
    for _ in range(samples):
        z = drawn(q)
        distortion = distortion - vae.decoder(z).log_prob(x).double() / samples
        if rate is None:
            sampled = sampled + (q.log_prob(z) - p.log_prob(z)).double() / samples
    rate = sampled if rate is None else rate
    return {"elbo": (-rate - distortion).cpu(), "rate": rate.cpu(), "distortion": distortion.cpu()}


def _differences(groups, values):
    """Every further group minus the first, on the mean over the runs of each per point."""
    first, *others = groups
    found = []
    for group in others:
        for quantity in (name for name in PAIRED if name in values[first[0].path]):
            runs, base = (torch.stack([values[record.path][quantity] for record in part]) for part in (group, first))
            delta = runs.mean(0) - base.mean(0)  # (n,)
            found.append(
                Difference(
                    quantity=quantity,
                    of=group[0].name,
                    minus=first[0].name,
                    **vars(mean_interval(delta)),
                    better=(delta > 0).double().mean().item() if quantity in BOUNDS else None,
                    seeds=(len(group), len(first)),
                    **_of_seeds(runs.mean(1), base.mean(1)),
                )
            )
    return found


def _of_seeds(runs, base):
    """The error of the difference of two means over seeds, which are not paired: inits of other nets have no pair."""
    if min(len(runs), len(base)) < 2:
        return {"seed_error": None, "over_seeds": None}
    delta, half = (runs.mean() - base.mean()).item(), welch_half_width(*((v.std().item(), len(v)) for v in (runs, base)))
    error = (runs.var() / len(runs) + base.var() / len(base)).sqrt().item()
    return {"seed_error": error, "over_seeds": (delta - half, delta + half)}


def _over_seeds(groups, names):
    """{group: {estimate: mean, standard error, seeds}} of the groups that hold at least two runs."""
    found = {}
    for group in groups:
        if len(group) > 1:
            rows = [estimates_of(record.report) for record in group]
            kept = {name: torch.tensor([row[name].value for row in rows], dtype=torch.float64)
                    for name in names if name != "mi_ceiling" and all(name in row for row in rows)}  # fmt: skip
            found[group[0].name] = {
                name: {"mean": v.mean().item(), "standard_error": (v.std() / len(v) ** 0.5).item(), "seeds": len(v)}
                for name, v in kept.items()
            }
    return found


def _named_apart(records):
    """The records with their paths as names where two folders have the same name."""
    names = [record.name for record in records]
    if len(set(names)) == len(names):
        return records
    return [Record(**{**vars(record), "name": str(record.path)}) for record in records]


def _allowed(name, allowed):
    """Whether a field, or the part of the card that it is in, is among those allowed."""
    return any(name == entry or name.startswith(f"{entry}.") for entry in allowed)


def _disagreement(records, name):
    """The first two records whose cards differ in a field, or None."""
    judged = [record for record in records if not (name in DRAWS and record.config.latent_dim == 0)]
    values = [_entry(record.report["card"], name) for record in judged]
    return next(((judged[0], record) for record, value in zip(judged, values, strict=True) if value != values[0]), None)


def _entry(card, name):
    """The entry of a card by its dotted name; None where it is absent."""
    for part in name.split("."):
        card = card.get(part) if isinstance(card, dict) else None
    return card


def _short(value):
    text = json.dumps(value) if isinstance(value, dict | list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _spoken(name):
    return "draws of z for the ELBO" if name == "elbo_posterior_samples" else "points"
