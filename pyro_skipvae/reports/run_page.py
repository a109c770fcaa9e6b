"""The page of a run: one HTML file that holds its pictures, without scripts, to be read anywhere.

Equal folders give equal bytes: a page holds no date and no path. What needs the model (draws, reconstructions,
traversals, posterior means) is drawn once and kept in the run folder, where later pages find it: pictures as PNG, and
what a text model says as lines of text, their columns between tabs.
"""

import os
import shlex
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace

from pyro_skipvae.data import DATASETS, Data
from pyro_skipvae.diagnostics.estimates.sites import NOTHING
from pyro_skipvae.diagnostics.report.table import few_samples
from pyro_skipvae.diagnostics.report.verdict import NO_LATENTS, Verdict
from pyro_skipvae.model import VAE
from pyro_skipvae.reports import figures
from pyro_skipvae.runs.build import settled
from pyro_skipvae.runs.checkpoint import write_whole
from pyro_skipvae.runs.config import MODELS, Config
from pyro_skipvae.runs.folder import Run, RunError
from pyro_skipvae.runs.included import is_included

from .captions import (
    COLOURS,
    IDLE,
    MEANING,
    MISFIT,
    MODEL_PICTURES,
    MODEL_TEXTS,
    NO_LOSS,
    ORDER,
    UNBOUNDED,
    about_picture,
    without_z,
)
from .comparison import LABELS, estimates_of, read_record
from .model_pictures import draw_pictures
from .rendering import embedded, nats, picture, render


def write_page(
    path: str | os.PathLike[str] | Run,
    *,
    vae: VAE | None = None,
    data: Data | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes the HTML page of a run to report.html in its folder, or to the file `out`; returns the path.

    With the model and its data, as `load_run` returns them, the pictures of the model are drawn anew, and without `out` also
    kept in the folder. Raises RunError if the folder is not a run, and ValueError for a run that comes with the package where
    no `out` is given.
    """
    run = path if isinstance(path, Run) else Run(path)
    record = read_record(run.path)
    if out is None and is_included(record.path):
        raise ValueError(f"expected a file to write to for {record.name}, which comes with the package, got none")
    drawn = {} if vae is None else draw_pictures(record, vae, data)
    html = run_page(record, drawn)
    if out is not None:
        write_whole(out, html)
        return Path(out)
    for name, content in {**drawn, "report.html": html}.items():
        run.write(name, content)
    return record.path / "report.html"


def run_page(record, drawn=None):
    """The HTML of one run; `drawn` holds {file name: PNG or text} of the model, others are read from its folder."""
    report, config = record.report, record.config
    changed = changed_settings(config, report)
    return render(
        "run.html.j2",
        name=record.name,
        **headline(record),
        estimates=estimates_of(report) if report else {},
        report=report,
        card=report.get("card", {}),
        notes=notes(record),
        other=record.other,
        pictures=_pictures(record, drawn or {}),
        texts=[found for name in MODEL_TEXTS if (found := model_text(record, name, drawn or {}))],
        changed=changed,
        settings=asdict(config),
        codes=_codes(report),
        command=train_command(config, changed),
        seconds=sum(line["seconds"] or 0 for line in record.metrics),
    )


def changed_settings(config, report):
    """{setting: (value, what it would have been)} of those that are not the default for this decoder and these data."""
    data, never_resolved = report.get("card", {}).get("data"), ("data_dir", "limit_train", "limit_eval")
    usual = {**asdict(Config()), **MODELS[config.model]}
    if data:
        stub = SimpleNamespace(**{**data, "event_shape": tuple(data["event_shape"])})
        for entry in fields(Config):
            # Defaults that are None depend on the other settings.
            if entry.default is None and entry.name not in never_resolved:
                usual[entry.name] = getattr(settled(replace(config, **{entry.name: None}), stub), entry.name)
    if config.binarisation:
        usual["binarisation"] = DATASETS[config.dataset].binarisation if config.dataset in DATASETS else "none"
    return {name: (value, usual[name]) for name, value in asdict(config).items() if value != usual[name]}


def train_command(config, changed):
    """The command that repeats a run."""
    words = ["skipvae-pyro", "train"]
    for name, (value, _) in changed.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [shlex.quote(str(value))])]
    return " ".join(words)


def notes(record):
    """Sentences that a reader of the estimates must know, the gravest first."""
    report, found, epochs = record.report, [], _epochs(record)
    if not record.metrics:
        found.append("Training stopped within the first epoch, or metrics.jsonl, which has the numbers of its epochs, is gone.")
    elif epochs < record.config.epochs:
        found.append(f"Training stopped after epoch {epochs} of {record.config.epochs}.")
    if lost := sorted(set(range(1, epochs + 1)) - {line["epoch"] for line in record.metrics}):
        found.append(f"metrics.jsonl lacks {len(lost):,} of {epochs:,} epochs, the first of them epoch {lost[0]}.")
    if record.stale:
        found.append("Its report is left out: it is of a checkpoint that is gone. `evaluate --save` makes a new one.")
    if record.other:
        found.append(f"The report is of {record.other}, the pictures are not: they are of the run as it is loaded.")
    if record.nonfinite:
        found.append(f"Left out in training, since not finite: {record.nonfinite['steps']:,} steps.")
    if not report:
        return found
    card, estimates = report["card"], estimates_of(report)
    if not record.config.latent_dim:
        return found + _on_points(card) + _left_out({**card, "unavailable": {}})  # log p(x) is exact, the rest is of z
    return found + _on_bounds(report, estimates) + _on_importance_sampling(report, card) + _on_points(card) + _left_out(card)


def _on_bounds(report, estimates):
    found, under = [], report.get("model_mutual_information")
    if report.get("saturated"):
        lower, ceiling = estimates["mi_lower"], nats(report["mi_ceiling"])
        found.append(
            f"The lower bound on I_q(x; z) is saturated: with {held_against(report)} it cannot exceed {ceiling} "
            f"nats, whatever the truth. Read it as “at least {nats(lower.value)}”."
        )
        if "mi_marginal" in estimates:
            found[-1] += f" From above, the fitted-marginal bound says at most {nats(estimates['mi_marginal'].value)}."
    if under and under["saturated"]:
        ceiling = f"ln {under['points']:,} = {nats(under['ceiling'])}"
        found.append(f"The lower bound under the model is saturated too: its ceiling is {ceiling}.")
    if "aggregate_kl" in estimates and estimates["aggregate_kl"].low < 0:
        found.append(
            "KL(q(z) || p(z)) is never negative; its interval reaches below 0 because it is the rate minus bounds on I_q(x; z)."
        )
    return found


def held_against(report):
    """What the mixture q(z) of the bounds on I_q(x; z) is made of, in words."""
    components, points = report["card"].get("mi_components"), report["card"]["points"]
    return f"{components:,} random components" if components else f"N = {points:,} points"


def _on_importance_sampling(report, card):
    """The bound on log p(x) still rises with K where its weights rest on few draws."""
    few = few_samples((report["effective_sample_size"] or {}).get("median"), card["importance_samples"])
    return ([few] if few else []) + _still_rises(report, card)


def _still_rises(report, card):
    K, tenth = card["importance_samples"], card["importance_samples_tenth"]
    if K == tenth or report.get("log_likelihood") is None or report.get("log_likelihood_tenth") is None:
        return []
    rise = report["log_likelihood"] - report["log_likelihood_tenth"]
    error = report["standard_errors"].get("log_likelihood", 0)
    if rise < 0.1 or not rise > error:
        return []
    return [
        f"The importance-weighted bound has not reached log p(x) with K = {K} draws: from {tenth} to {K} it still rose by "
        f"{nats(rise)} nats. The true value is higher."
    ]


def _on_points(card):
    first = {
        "elbo_points": "ELBO, distortion and the loss when z is shuffled are measured",
        "log_likelihood_points": "The log-likelihood is measured",
    }
    found = [
        f"{what} on the first {card[name]:,} of {card['points']:,} test points."
        for name, what in first.items()
        if card[name] < card["points"]
    ]
    limits = card.get("data", {}).get("limits", {})
    if "train" in limits:
        found.append(f"Trained on {limits['train']:,} items only.")
    if "test" in limits:
        found.append(f"Measured on the first {limits['test']:,} test items only.")
    return found


def _left_out(card):
    unavailable = card["unavailable"]
    found = []
    for why in dict.fromkeys(unavailable.values()):
        names = [LABELS.get(name, name) for name, reason in unavailable.items() if reason == why]
        found.append(f"Not available: {'; '.join(names)}. The reason: {why}.")
    found += [f"Left out for want of time: {what}." for what in card["beyond_budget"]]
    return found + [f"{note[0].upper()}{note[1:]}." for note in card["notes"]]


def headline(record):
    """What is said first: the verdict, its kind, what it means, and what was trained."""
    config, report = record.config, record.report
    if report:
        told = Verdict.from_stored(report["verdict"])
    else:
        told = Verdict("Run `skipvae-pyro evaluate RUN --save`.", "not measured")
    title = DATASETS[config.dataset].title if config.dataset in DATASETS else "a file of one's own"
    return {
        "verdict": "" if told.kind == NO_LATENTS else told.finding,  # the kind says it all
        "kind": told.kind,
        "colour": COLOURS.get(told.kind, ""),
        "meaning": _meaning(told, report),
        "model": f"{config.layers}-layer {config.decoder} {config.model}"
        + (f", {config.latent_dim} {dimensions(config)}" if config.latent_dim else ""),
        "dataset": f"{Path(config.dataset).name}: {title}{_how_read(record)}",
        "training": f"{_epochs(record)} of {config.epochs} epochs, seed {config.seed}",
    }


def _meaning(told, report):
    """What a kind of verdict means for these amounts; that idle units are no defect, where the decoder uses z and some are."""
    active, high = report.get("active_units"), told.amounts.get("information", {}).get("high")
    lost = told.amounts.get("loss", {})
    if told.kind == "undecided" and lost and lost["value"] is None:
        return NO_LOSS
    if told.kind == "undecided" and lost and lost["high"] is not None and lost["high"] < -NOTHING:
        return MISFIT
    if told.kind == "collapsed" and told.amounts and (high is None or high >= NOTHING):
        return UNBOUNDED
    idle = told.kind in ("not collapsed", "weakly used") and active and active < len(report["active_unit_variances"])
    return MEANING.get(told.kind, "") + (f" {IDLE}" if idle else "")


def _how_read(record):
    """What was made of the data: the vocabulary of a text, the binarisation of others."""
    words = record.report.get("card", {}).get("data", {}).get("vocabulary")
    if words:
        return f", vocabulary of {words['size']:,}"
    return "" if record.config.text else f", binarisation {record.config.binarisation or 'none'}"


def _epochs(record):
    return record.metrics[-1]["epoch"] if record.metrics else 0


def _pictures(record, drawn):
    """The pictures of a run, as dicts of title, alt, caption and the data of the image."""
    report = record.report
    found = {name: model_picture(record, name, drawn) for name in MODEL_PICTURES}
    if report.get("rate_per_dimension"):
        found["rates"] = rate_picture(record)
    if report.get("collapse_thresholds"):
        found["collapse"] = _collapse_curve(report)
    if (values := report.get("active_unit_variances")) and None not in values:
        of = "What each code says of x, in nats" if _codes(report) else "Variance of the posterior mean of each dimension"
        caption = "A unit counts as active where its posterior mean varies over the data by more than the threshold."
        if _codes(report):
            caption = "A code counts as active where it says more of x than the threshold."
        drawn = figures.active_unit_variances(values, codes=_codes(report))
        found["units"] = picture("Active units", f"{of}; {report['active_units']} are above 0.01", caption, drawn)
    if record.metrics:
        rate = record.metrics[-1]["valid_rate"]
        alt = f"Curves of loss, rate, active units and beta over the epochs; at the end the rate is {nats(rate)} nats"
        caption = "Rate and distortion stand apart, since a collapse hides in their sum. Validation data, always at beta = 1."
        found["training"] = picture("Training", alt, caption, figures.training_curves(record.metrics))
    if report and report["card"]["importance_samples"] > report["card"]["importance_samples_tenth"]:
        found["bound"] = _importance_bound(report)
    return [{**found[name], "wide": name == "reconstructions.png"} for name in ORDER if found.get(name)]


def training_picture(runs):
    """Several runs by epoch, {name: lines of metrics.jsonl}, as a template shows it; None unless one has two epochs."""
    if not any(len(lines) > 1 for lines in runs.values()):
        return None
    ends = "; ".join(f"{name}: at the end ELBO {_last(lines, 'valid_elbo')}, rate {_last(lines, 'valid_rate')} nats"
                     for name, lines in runs.items() if lines)  # fmt: skip
    caption = "After each epoch, on validation items, always at beta = 1."
    return picture("Training", ends, caption, figures.runs_by_epoch(runs))


def _last(lines, key):
    return "unknown" if lines[-1].get(key) is None else nats(lines[-1][key])


def _codes(report):
    """Whether the one latent site is discrete."""
    sites = report.get("sites") or []
    return len(sites) == 1 and bool(sites[0].get("codes"))


def dimensions(config):
    """What z is made of, in words."""
    discrete = {"categorical": "discrete variables", "codebook": "codes"}
    return "channels of a sequence z" if config.prior == "ar1" else discrete.get(config.guide, "latent dimensions")


def rate_picture(record):
    rates = record.report["rate_per_dimension"]
    alt = f"Rate of each of {len(rates)} dimensions, sorted: from {max(rates):.2f} down to {min(rates):.4f} nats"
    caption = "KL(q(z|x) || p(z)) of each dimension. One at 0 says nothing of x."
    if record.config.prior == "ar1":
        caption = "What each step and channel adds to the rate, given the step before. A part is committed, whatever x is."
    return picture("Rate of each dimension", alt, caption, figures.rate_per_dimension(rates))


def _collapse_curve(report):
    alt = f"A curve: the share of {len(report['collapse_thresholds'])} dimensions that count as collapsed, over the threshold"
    caption = (
        "How many dimensions count as collapsed at each threshold e: those whose KL is at most e at 99 % of x. A step far to "
        "the right is a dimension that is far from collapsed."
    )
    return picture("Collapse as a curve", alt, caption, figures.collapse_curve(report["collapse_thresholds"]))


def _importance_bound(report):
    """The bound on log p(x) for both numbers of draws, beside the ELBO on the same points."""
    card, names = report["card"], ("log_likelihood_tenth", "log_likelihood")
    found = [estimates_of(report).get(name) for name in names]
    if None in found or None in (halves := [bound.half_width for bound in found]):
        return None
    bounds = [bound.value for bound in found]
    same = report["elbo"] if card["elbo_points"] == card["log_likelihood_points"] else None
    elbo = report.get("elbo_on_log_likelihood_points", same)
    samples = [card["importance_samples_tenth"], card["importance_samples"]]
    alt = "; ".join(f"{K} draws: {nats(bound)} nats" for K, bound in zip(samples, bounds, strict=True))
    caption = "The bound rises to log p(x) with K. Where it still rises, the truth is higher."
    figure = figures.importance_bound(samples, bounds, halves, elbo=elbo)
    return picture("Importance-weighted bound", alt, caption, figure)


def model_picture(record, name, drawn):
    """A picture of the model, just drawn or found in the folder; None if it is in neither, or would show no z."""
    if record.config.latent_dim == 0 and name != "samples.png":
        return None
    file = record.path / name
    content = drawn.get(name) or (file.read_bytes() if file.is_file() else None)
    kind = record.report.get("card", {}).get("data", {}).get("kind")
    return content and embedded(*about_picture(name, record.config, kind), content)


def model_text(record, name, drawn):
    """What a text model says, just made or found in the folder: title, caption, headings and rows; None in neither.

    Raises RunError if the file there cannot be read.
    """
    file = record.path / name
    try:
        lines = drawn.get(name) or (file.read_text(encoding="utf-8") if file.is_file() else "")
    except (OSError, ValueError) as error:
        raise RunError(f"expected what a model of texts says in {file}, which cannot be read: {error}") from None
    title, headings, caption = MODEL_TEXTS[name]
    rows = [line.split("\t", len(headings) - 1) for line in lines.splitlines()]
    caption = without_z(caption, record.config)
    return {"title": title, "caption": caption, "headings": headings, "rows": rows} if rows else None
