"""The page of a run, and of several: one HTML file that holds its pictures, without scripts, to be read anywhere.

Equal folders give equal bytes: a page holds no date and no path. What needs the model (draws, reconstructions,
traversals, posterior means) is drawn once and kept in the run folder, where later pages find it: pictures as PNG, and
what a text model says as lines of text, their columns between tabs.
"""

import base64
import re
import shlex
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from pyro_skipvae.data import DATASETS
from pyro_skipvae.diagnostics.estimates.moments import posterior_moments
from pyro_skipvae.reports import figures
from pyro_skipvae.runs.build import resolve
from pyro_skipvae.runs.checkpoint import write_whole
from pyro_skipvae.runs.config import MODELS, Config
from pyro_skipvae.runs.folder import Run
from pyro_skipvae.text import generation as texts
from pyro_skipvae.text.decoding import interpolate

from .comparison import LABELS, estimates_of, grouped, read_record

EMBEDDED_POINTS = 1000  # t-SNE of more takes minutes
FEWEST_POINTS = 20  # fewer have no neighbourhoods to speak of
STEPS = (-3, -2, -1, 0, 1, 2, 3)  # of a traversal
MINUS = "\N{MINUS SIGN}"
# file -> (title, alternative text, caption)
MODEL_PICTURES = {
    "reconstructions.png": (
        "Reconstructions",
        "Sixteen test images, and below each what the model makes of it",
        "The first 16 test images. Mean and sample of p(x|z), with one draw of z from q(z|x). A decoder that ignores z "
        "shows the same mean, or unrelated samples, in every column.",
    ),
    "samples.png": (
        "Samples from the model",
        "A grid of images drawn from the model",
        "z from the prior, x from the decoder, always with the same random numbers.",
    ),
    "traversals.png": (
        "Latent traversals",
        "Rows of images; along each row one latent dimension changes",
        "The posterior mean of the first test image, with one dimension at a time moved through the prior. "
        "Rows by decreasing rate. A row that does not change is a dimension that the decoder ignores. Means of p(x|z), or "
        "samples with the same noise all along a row where the decoder has no mean.",
    ),
    "tsne.png": (
        "Posterior means, t-SNE",
        "Posterior means of test items in the plane by t-SNE, coloured by class",
        f"The first {EMBEDDED_POINTS:,} test items at most. Distances between clusters and their sizes mean nothing here; "
        "the neighbour accuracy is measured in the latent space itself.",
    ),
    "pca.png": (
        "Posterior means, PCA",
        "Posterior means of test items on their first two principal components, coloured by class",
        "The same points on the two directions in which the posterior means vary most.",
    ),
}
# file -> (title, headings of the columns, caption)
MODEL_TEXTS = {
    "reconstructions.txt": (
        "Reconstructions",
        ("text", "what the model makes of it"),
        "The first 8 test texts, and the greedy decoding of the mean of q(z|x). A decoder that ignores z says the same "
        "each time.",
    ),
    "interpolation.txt": (
        "From one text to another",
        ("weight", "text"),
        "Greedy decodings along the straight line between the posterior means of the first two test texts. "
        "Where all are the same, the decoder does not listen to z.",
    ),
    "samples.txt": (
        "Samples from the model",
        ("text",),
        "z from the prior, x from the decoder word by word, always with the same random numbers.",
    ),
}
KINDS = {  # words of a verdict -> its kind; any other is "collapsed"
    "not collapsed": "not collapsed",
    "partly collapsed": "partly collapsed",
    "undecided": "undecided",
    "cannot be told": "undecided",
    "does not fit": "undecided",
}
ORDER = ("reconstructions.png", "samples.png", "traversals.png", "rates", "units", "tsne.png", "pca.png", "training", "bound")
BESIDE = ("Rate of each dimension", "Reconstructions", "Samples from the model", "Posterior means, t-SNE")
MEANING = {
    "collapsed": "The latent variables carry next to nothing about x into the decoder: the model generates as if it had none.",
    "partly collapsed": "The decoder uses z. Some dimensions vary with x, the others stay at the prior and are idle.",
    "not collapsed": "The posterior varies with x, and the decoder depends on it.",
    "no latent variables": "",
    "undecided": "These points do not tell whether the decoder uses z.",
    "not measured": "There is no report in this run folder yet.",
}


def write_page(path, *, vae=None, data=None, out=None):
    """Write the page of a run, to report.html in its folder unless `out` names a file; returns the path.

    With the model and its data (as `load_run` returns them) the pictures of the model are drawn anew, and kept in the
    folder too unless `out` is given. Raises RunError if the folder is not a run.
    """
    record = read_record(path)
    drawn = {} if vae is None else draw_pictures(record, vae, data)
    html = run_page(record, drawn)
    if out is not None:
        write_whole(out, html)
        return Path(out)
    for name, content in {**drawn, "report.html": html}.items():
        Run(path).write(name, content)
    return record.path / "report.html"


def write_comparison(records, comparison, path):
    """Write one page on several runs: their comparison, and the pictures that can stand side by side; returns the path."""
    write_whole(path, comparison_page(records, comparison))
    return Path(path)


def run_page(record, drawn=None):
    """The HTML of one run; `drawn` holds {file name: PNG or text} of the model, others are read from its folder."""
    report, config = record.report, record.config
    changed = changed_settings(config, report)
    return render(
        "run.html.j2",
        name=record.name,
        **_headline(record),
        estimates=estimates_of(report) if report else {},
        report=report,
        card=report.get("card", {}),
        notes=notes(record),
        pictures=_pictures(record, drawn or {}),
        texts=[found for name in MODEL_TEXTS if (found := _said(record, name, drawn or {}))],
        changed=changed,
        settings=asdict(config),
        command=train_command(config, changed),
        seconds=sum(line["seconds"] or 0 for line in record.metrics),
    )


def comparison_page(records, comparison):
    """The HTML of several runs."""
    return render(
        "comparison.html.j2",
        name=" and ".join(comparison.runs) if len(records) < 3 else f"{len(records)} runs",
        comparison=comparison,
        runs=[{"name": name, **_headline(record)} for name, record in zip(comparison.runs, records, strict=True)],
        pictures=[_rate_distortion(comparison.runs, records)] if "distortion" in comparison.estimates else [],
        beside=[_beside(records, comparison.runs, title) for title in BESIDE],
        texts=[found for name in MODEL_TEXTS if (found := _said_beside(records, comparison.runs, name))],
        labels=LABELS,
        seeds=any(len(group) > 1 for group in grouped(records)),
    )  # fmt: skip


def draw_pictures(record, vae, data):
    """What the model shows, as far as its data and latent variables admit: {file name: PNG, or lines of a text model}."""
    images, latent, drawn = figures.can_draw(data.event_shape), record.config.latent_dim > 0, {}
    if images:
        drawn["samples.png"] = draw_samples(vae)
    if images and latent:
        drawn["reconstructions.png"] = draw_reconstructions(vae, data)
        drawn["traversals.png"] = draw_traversals(vae, data, rates=record.report.get("rate_per_dimension"))
    if "test" in data.labels and record.config.latent_dim > 1 and len(data.test) >= FEWEST_POINTS:
        drawn |= {f"{name}.png": figure for name, figure in draw_posterior_means(vae, data).items()}
    said = write_texts(vae, data, latent=latent) if data.kind == "text" else {}
    return {**{name: figures.png(figure) for name, figure in drawn.items()}, **said}


def write_texts(vae, data, *, latent=True):
    """Samples, reconstructions and an interpolation of a text model, {file name: lines}, columns between tabs."""
    vocabulary, x = data.vocabulary, data.test[:8]
    rows = {"samples.txt": [(text,) for text in texts.samples(vae, vocabulary)]}
    if latent:
        rows["reconstructions.txt"] = texts.reconstructions(vae, vocabulary, x)
        between = texts.interpolation(vae, vocabulary, x[:1], x[1:2])
        rows["interpolation.txt"] = [(f"{weight:.2f}", text) for weight, text in between]
    return {name: "".join("\t".join(row) + "\n" for row in found) for name, found in rows.items()}


@torch.no_grad()
def draw_samples(vae, *, count=64, seed=0):
    """A grid of images from the model: z from the prior, x from the decoder."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return figures.prior_samples(vae.decoder(vae.prior().sample((count,))).sample().cpu())


@torch.no_grad()
def draw_reconstructions(vae, data, *, count=16, seed=0):
    """The first test images, the means of p(x|z) (absent for an autoregressive decoder) and samples of it."""
    x = data.test[:count].to(_device(vae))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoded = vae.decoder(vae.posterior(x).sample())
        drawn = decoded.sample().cpu()
    return figures.reconstructions(x.cpu(), _mean(decoded), drawn)


def draw_traversals(vae, data, *, rates=None, dimensions=10, item=0, values=STEPS, seed=0):
    """One test image, its posterior mean moved along one dimension of z at a time; see `traversed`.

    Means of p(x|z), or samples with the same noise in every column where an autoregressive decoder has none.
    """
    z, labels = traversed(vae, data, rates=rates, dimensions=dimensions, item=item, values=values, seed=seed)
    with torch.random.fork_rng(), torch.no_grad():
        images = torch.stack([_mean_or_sample(vae.decoder(column), seed) for column in z.unbind(1)], 1)
    return figures.latent_traversals(images, values=values, labels=labels)


@torch.no_grad()
def traversed(vae, data, *, rates=None, dimensions=10, item=0, values=STEPS, seed=0):
    """The posterior mean of a test item moved along one dimension at a time, z (rows, values, D), and labels of the rows.

    `values` in standard deviations of the prior; rows by decreasing rate (D,), or where that is not known by the variance
    of the posterior mean. Raises ValueError for an item that is not there.
    """
    x, points = item_of(data, item), 0 if rates else EMBEDDED_POINTS
    means = texts.posterior_means(vae, torch.cat([x, data.test[:points]]), seed)
    what = "rate" if rates else "variance"
    ranked = torch.tensor(rates) if rates else means[1:].var(0)
    rows = ranked.argsort(descending=True)[:dimensions].tolist()
    prior = vae.prior()
    z = means[0].repeat(len(rows), len(values), 1)  # (rows, values, D)
    for row, dimension in enumerate(rows):
        steps = torch.tensor(values, dtype=z.dtype, device=z.device)
        z[row, :, dimension] = prior.mean[dimension] + prior.stddev[dimension] * steps
    return z, [f"z {dimension}, {what} {ranked[dimension]:.2f}" for dimension in rows]


@torch.no_grad()
def draw_interpolation(vae, x_a, x_b, *, points=7, seed=0):
    """A row of images along the straight line between the posterior means of x_a and x_b, each (1, *event_shape)."""
    z = interpolate(*(texts.posterior_means(vae, x, seed)[0] for x in (x_a, x_b)), points)
    with torch.random.fork_rng():
        images = torch.cat([_mean_or_sample(vae.decoder(step), seed) for step in z.split(1)])
    weights = [round(weight, 2) for weight in torch.linspace(0, 1, points).tolist()]
    figure = figures.latent_traversals(images[None], values=weights, labels=[""])
    figure.axes[0].set_xlabel("weight of the second image")
    return figure


def item_of(data, number):
    """The test item of that number, (1, *event_shape). Raises ValueError where there is none."""
    if not 0 <= number < len(data.test):
        raise ValueError(f"expected a test item in 0..{len(data.test) - 1}, got {number}")
    return data.test[number : number + 1]


@torch.no_grad()
def draw_posterior_means(vae, data, *, points=EMBEDDED_POINTS, seed=0):
    """Posterior means of the first test items coloured by class, {"tsne": figure, "pca": figure}."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        means = posterior_moments(vae.posterior(data.test[:points].to(_device(vae))))[0].cpu()
    classes = data.labels["test"][:points]
    accuracy = figures.neighbour_accuracy(means, classes, k=min(10, len(means) - 1))
    drawn = {"tsne": figures.tsne(means, seed=seed), "pca": figures.pca(means)}
    names = {"tsne": "t-SNE", "pca": "PCA"}
    return {
        name: figures.posterior_means(
            plane, classes, accuracy=accuracy, title=f"{names[name]} of {len(means):,} posterior means"
        )
        for name, plane in drawn.items()
    }


def changed_settings(config, report):
    """{setting: (value, what it would have been)} of those that are not the default for this decoder and these data."""
    data, never_resolved = report.get("card", {}).get("data"), ("data_dir", "limit_train", "limit_eval")
    usual = {**asdict(Config()), **MODELS[config.model]}
    if data:
        stub = SimpleNamespace(**{**data, "event_shape": tuple(data["event_shape"])})
        for entry in fields(Config):
            # Defaults that are None depend on the other settings.
            if entry.default is None and entry.name not in never_resolved:
                usual[entry.name] = getattr(resolve(replace(config, **{entry.name: None}), stub), entry.name)
    if config.binarisation:
        usual["binarisation"] = DATASETS[config.dataset].binarisation if config.dataset in DATASETS else "none"
    return {name: (value, usual[name]) for name, value in asdict(config).items() if value != usual[name]}


def train_command(config, changed):
    """The command that repeats a run."""
    given = {name: value for name, (value, _) in changed.items() if value is not None}
    flags = [f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in given.items()]
    return " ".join(["skipvae-pyro train", *flags])


def notes(record):
    """Sentences that a reader of the estimates must know, the gravest first."""
    report, found, epochs = record.report, [], _epochs(record)
    if epochs < record.config.epochs:
        found.append(f"Training stopped after epoch {epochs} of {record.config.epochs}.")
    if record.nonfinite:
        found.append(f"Left out in training, since not finite: {record.nonfinite['steps']:,} steps.")
    if not report:
        return found
    card, estimates = report["card"], estimates_of(report)
    return found + _on_bounds(report, estimates) + _on_importance_sampling(report, card) + _on_points(card) + _left_out(card)


def _on_bounds(report, estimates):
    found, under = [], report.get("model_mutual_information")
    if report.get("saturated"):
        lower, ceiling = estimates["mi_lower"], nats(report["mi_ceiling"])
        found.append(
            f"The lower bound on I_q(x; z) is saturated: with N = {lower.points:,} points it cannot exceed ln N = {ceiling} "
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


def _on_importance_sampling(report, card):
    """The bound on log p(x) still rises with K where its weights rest on few draws."""
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
    first = {"elbo_points": "ELBO, distortion and the loss when z is shuffled", "log_likelihood_points": "The log-likelihood"}
    found = [
        f"{what} stand{'s' * what.startswith('The')} on the first {card[name]:,} of {card['points']:,} test points."
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


def _headline(record):
    """What is said first: the verdict, its kind, what it means, and what was trained."""
    config, report = record.config, record.report
    sentence = report.get("verdict", "Not measured yet: run `skipvae-pyro evaluate RUN --save`.")
    if not report:
        kind = "not measured"
    elif config.latent_dim == 0:
        kind = "no latent variables"
    else:
        kind = next((kind for words, kind in KINDS.items() if words in sentence), "collapsed")
    title = DATASETS[config.dataset].title if config.dataset in DATASETS else "a file of one's own"
    return {
        "verdict": sentence.removesuffix(f": {kind}."),
        "kind": kind,
        "meaning": MEANING[kind],
        "model": f"{config.layers}-layer {config.decoder} {config.model}"
        + (f", {config.latent_dim} latent dimensions" if config.latent_dim else ""),
        "dataset": f"{Path(config.dataset).name}: {title}{_how_read(record)}",
        "training": f"{_epochs(record)} of {config.epochs} epochs, seed {config.seed}",
    }


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
    found = {name: _of_model(record, name, drawn) for name in MODEL_PICTURES}
    if report.get("rate_per_dimension"):
        found["rates"] = _rates(record)
    if report.get("active_unit_variances"):
        alt = f"Variance of the posterior mean of each dimension; {report['active_units']} are above 0.01"
        caption = "A unit counts as active where its posterior mean varies over the data by more than the threshold."
        found["units"] = picture("Active units", alt, caption, figures.active_unit_variances(report["active_unit_variances"]))
    if record.metrics:
        rate = record.metrics[-1]["valid_rate"]
        alt = f"Curves of loss, rate, active units and beta over the epochs; at the end the rate is {nats(rate)} nats"
        caption = "Rate and distortion stand apart, since a collapse hides in their sum. Validation data, always at beta = 1."
        found["training"] = picture("Training", alt, caption, figures.training_curves(record.metrics))
    if report and report["card"]["importance_samples"] > report["card"]["importance_samples_tenth"]:
        found["bound"] = _importance_bound(report)
    return [{**found[name], "wide": name == "reconstructions.png"} for name in ORDER if found.get(name)]


def _rates(record):
    rates = record.report["rate_per_dimension"]
    alt = f"Rate of each of {len(rates)} dimensions, sorted: from {max(rates):.2f} down to {min(rates):.4f} nats"
    caption = "KL(q(z|x) || p(z)) of each dimension. One at 0 says nothing of x."
    return picture("Rate of each dimension", alt, caption, figures.rate_per_dimension(rates))


def _importance_bound(report):
    """The bound on log p(x) for both numbers of draws, beside the ELBO where that stands on the same points."""
    card, names = report["card"], ("log_likelihood_tenth", "log_likelihood")
    bounds, errors = [report[name] for name in names], [report["standard_errors"].get(name) for name in names]
    if None in (*bounds, *errors):
        return None
    elbo = report["elbo"] if card["elbo_points"] == card["log_likelihood_points"] else None
    samples = [card["importance_samples_tenth"], card["importance_samples"]]
    alt = "; ".join(f"{K} draws: {nats(bound)} nats" for K, bound in zip(samples, bounds, strict=True))
    caption = "The bound rises to log p(x) with K. Where it still rises, the truth is higher."
    figure = figures.importance_bound(samples, bounds, errors, elbo=elbo)
    return picture("Importance-weighted bound", alt, caption, figure)


def _rate_distortion(names, records):
    reports = [record.report for record in records]
    points = [
        (name, r["rate"], r["distortion"], r["standard_errors"]["rate"], r["standard_errors"]["distortion"])
        for name, r in zip(names, reports, strict=True)
    ]
    alt = "; ".join(f"{name}: rate {rate:.1f}, distortion {distortion:.1f} nats" for name, rate, distortion, *_ in points)
    caption = (
        "Further down is a better reconstruction, further right costs more rate; along a dashed line the ELBO is the same. "
        "Two runs on one line with different rates are equally good, and differ in how much they say through z."
    )
    return picture("Rate and distortion", alt, caption, figures.rate_distortion(points))


def _beside(records, names, title):
    """The same picture of every run that has it."""
    found = []
    for name, record in zip(names, records, strict=True):
        file = next((file for file, about in MODEL_PICTURES.items() if about[0] == title), None)
        if file:
            picture = _of_model(record, file, {})
        else:
            picture = _rates(record) if record.report.get("rate_per_dimension") else None
        if picture:
            found.append({**picture, "title": name, "alt": f"{name}: {picture['alt']}", "wide": title == "Reconstructions"})
    return {"title": title, "caption": found[0]["caption"] if found else "", "pictures": [{**p, "caption": ""} for p in found]}


def _of_model(record, name, drawn):
    """A picture of the model, just drawn or found in the folder; None if it is in neither, or would show no z."""
    if record.config.latent_dim == 0 and name != "samples.png":
        return None
    file = record.path / name
    content = drawn.get(name) or (file.read_bytes() if file.is_file() else None)
    return content and _embedded(*MODEL_PICTURES[name], content)


def _said(record, name, drawn):
    """What a text model says, just made or found in the folder: title, caption, headings and rows; None in neither."""
    file = record.path / name
    lines = drawn.get(name) or (file.read_text(encoding="utf-8") if file.is_file() else "")
    title, headings, caption = MODEL_TEXTS[name]
    rows = [line.split("\t") for line in lines.splitlines()]
    return {"title": title, "caption": caption, "headings": headings, "rows": rows} if rows else None


def _said_beside(records, names, file):
    """The same texts of every run that has them."""
    said = [(name, _said(record, file, {})) for name, record in zip(names, records, strict=True)]
    found = [{**text, "title": name, "caption": ""} for name, text in said if text]
    title, _, caption = MODEL_TEXTS[file]
    return {"title": title, "caption": caption, "texts": found} if found else None


def picture(title, alt, caption, figure):
    """A figure as a template shows it: title, alternative text, caption, and the PNG itself as its source."""
    return _embedded(title, alt, caption, figures.png(figure))


def _embedded(title, alt, caption, content):
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))  # of the PNG's header
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return {"title": title, "alt": alt, "caption": caption, "source": source, "width": width, "height": height}


def render(template, **values):
    """A template of this package filled in; HTML is escaped, other text is not."""
    folder = FileSystemLoader(Path(__file__).with_name("templates"))
    escape = ".html." in template
    environment = Environment(loader=folder, autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(nats=nats, signed=signed, deviation=deviation, duration=duration, prose=prose)
    return environment.get_template(template).render(**values)


def nats(value):
    """A number as it is read: two decimals, three below a tenth, a true minus sign."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    return f"{value:,.{decimals(value)}f}".replace("-", MINUS)


def decimals(value):
    """How many decimals a number is read with: two, three below a tenth."""
    return 3 if abs(value) < 0.1 else 2


def deviation(value, of):
    """The deviation of a number, with as many decimals as that number."""
    return f"{value:,.{decimals(of)}f}"


def prose(text, block=False):
    """Markdown as HTML, with true minus signs: a sentence, or blocks with paragraphs, lists and tables."""
    read = MarkdownIt("commonmark").enable("table")
    text = re.sub(r"(?<![\w-])-(?=\d)", MINUS, text)
    return Markup(read.render(text) if block else read.renderInline(text))


def signed(value):
    """A difference with its sign."""
    return ("+" if value > 0 else "") + nats(value)


def duration(seconds):
    """Seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _mean(decoded):
    """The mean of p(x|z); None for an autoregressive decoder, which has none in closed form."""
    try:
        return decoded.mean.cpu()
    except NotImplementedError:
        return None


def _mean_or_sample(decoded, seed):
    mean = _mean(decoded)
    if mean is None:
        torch.manual_seed(seed)
        mean = decoded.sample().cpu()
    return mean


def _device(vae):
    return next(vae.parameters()).device
