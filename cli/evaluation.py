"""`evaluate` and `sample`: what can be asked of a finished run."""

import contextlib
import csv
import io
import json
import math
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from pyro_skipvae.diagnostics import collapse_report
from pyro_skipvae.diagnostics.estimates.inference_gap import inference_gap
from pyro_skipvae.diagnostics.estimates.ranking import ranking
from pyro_skipvae.diagnostics.report.budget import PAIR_SECONDS, expected_seconds
from pyro_skipvae.diagnostics.report.report import FIRST_POINTS
from pyro_skipvae.diagnostics.report.sizes import sizes_of
from pyro_skipvae.distributions.autoregressive import Autoregressive
from pyro_skipvae.distributions.multinomial import MultinomialGivenTotal
from pyro_skipvae.guides.families import SemiImplicitNormal
from pyro_skipvae.guides.semi_amortized import SemiAmortized
from pyro_skipvae.reports.decoder_use import layers_moved
from pyro_skipvae.runs import auxiliary
from pyro_skipvae.runs.build import choose_device
from pyro_skipvae.runs.checkpoint import write_whole
from pyro_skipvae.runs.committed import committed_by
from pyro_skipvae.runs.config import PRIOR_OF
from pyro_skipvae.runs.folder import Run, load_run
from pyro_skipvae.runs.included import is_included
from pyro_skipvae.text.generation import samples
from pyro_skipvae.text.vocabulary import PAD

from . import text
from .errors import UserError, user_errors, written
from .models import data_of
from .notes import note
from .options import beside
from .terminal import duration, progress

NUMBERS = (".npz", ".csv")  # files of draws as numbers
IMPLICIT = (
    "q(z|x) is measured as the even mixture of {} normals at noise that was drawn once: its rate is, on average, no less than "
    "that of the implicit q(z|x), which has no density"
)
GAP_POINTS = 500  # at most, for the gap: importance sampling once more


def evaluate_run(run, *, save, **options):
    """The collapse report of a run, measured anew; `svi_steps` refines q(z|x) by so many steps, whatever the run did.

    To `save` it holds the folder: beside a training its report would be one of a checkpoint that is gone.
    """
    folder = Run(run)
    folder.config()
    if save and is_included(run):
        raise UserError(f"expected a run of your own for --save, got one that comes with the package; copy its folder: {run}")
    with folder.locked() if save else contextlib.nullcontext():
        left = folder.unfinished()
        if left:
            note(f"The training of {run} is not finished: {left}. --resume goes on with it.")
        report = _evaluated(folder, **options)
        if left:
            report.card["unfinished"] = left
        if save:
            folder.remove("report.html")  # the page of another report
            folder.write_report(report)
            note(f"report.json is replaced; report {shlex.quote(str(folder.path))} makes its page.")
    return report


def _evaluated(
    folder,
    *,
    importance_samples,
    posterior_samples,
    limit_eval,
    mi_components,
    limits,
    checkpoint,
    device,
    svi_steps,
    dataset,
):
    run = folder.path
    with user_errors():
        device, checksum = choose_device(device), folder.checksum(checkpoint)
        found = load_run(run, device=device, which=checkpoint, dataset=dataset)
        vae, data, config, loaded = found.vae, data_of(found), found.config, found.checkpoint
        if limit_eval and config.limit_eval and limit_eval > config.limit_eval:
            note(f"{run} was made with --limit-eval {config.limit_eval}: evaluating those.")
        data = data.limit(eval=limit_eval)
        if limit_eval and (most := sizes_for(vae, data).points) < min(limit_eval, len(data.test)):
            note(f"The report is on {most:,} test items, the most that it takes of such a model; --mi-components takes all.")
        if svi_steps is not None:
            vae.guide = _refined(vae, config, svi_steps)
    if loaded != checkpoint:
        note(f"{run} has no {checkpoint} checkpoint; evaluating {loaded}.")
    extra = {"run": run.resolve().name, "checkpoint": loaded, "checkpoint_sha256": checksum}
    extra |= {"epoch": epoch} if (epoch := folder.load(loaded)[0].get("epoch")) else {}
    extra |= {"settings": asdict(config), "svi_steps": svi_steps}
    samples = {"importance_samples": importance_samples, "posterior_samples": posterior_samples}
    about = {"device": device, **limits, "extra": extra, "auxiliary_prior": _kept(run, device)}
    with user_errors():  # of a model that does not admit what is asked
        return report_on(vae, data, components=mi_components, **about, **samples)


def _refined(vae, config, steps):
    """The guide of a run, refined by another number of steps than in training; 0 is the encoder alone."""
    if config.latent_dim == 0:
        raise ValueError(f"expected a model with latent variables for --svi-steps, got {config.model}")
    if steps and config.guide in PRIOR_OF:
        raise ValueError(
            f"expected a guide that can be refined for --svi-steps, got {config.guide}, whose family is bound to its encoder: "
            "leave it out"
        )
    amortized = getattr(vae.guide, "amortized", vae.guide)
    start = getattr(vae.guide, "start", "amortized")
    loop = {"steps": steps, "lr": config.svi_lr, "momentum": config.svi_momentum, "gradient": config.svi_gradient}
    loop |= {"batch_size": config.batch_size}
    return SemiAmortized(vae.model, amortized, **loop, start=start) if steps or start == "zeros" else amortized


def _kept(run, device):
    return auxiliary.load(run, device) if auxiliary.exists(run) else None


def report_on(vae, data, *, device, budget, extra, points=None, auxiliary_prior=None, components=None, **samples):
    """The collapse report on the first test points; the variational marginal is fitted on as many training points.

    How many points and draws there are is fixed by `sizes_for`, but for the `points` that are given, {"elbo_points": number,
    "log_likelihood_points": number}, or, with a budget in seconds, by what fits.
    What an auxiliary prior reaches is in the card, under names of its own. With `components` the bounds on the mutual
    information stand on all test points (see `collapse_report`).
    """
    sizes = with_points(sizes_for(vae, data), **(points or {}))
    x, other = data.first("test", sizes.points).to(device), data.first("train", sizes.points).to(device)
    if budget is None:
        _announce_report(vae, x, sizes, samples, pairs=len(data.test) * (components or 0))
    else:
        sizes = None
    with progress() as bar:
        task = bar.add_task("reporting", total=1, status="")

        def show(stage, done, total):
            bar.update(task, description=stage, completed=done, total=total)

        card = {**extra, "data": data.describe(), **_committed(vae)}
        tokens = None
        if data.kind == "text":  # of the rows that the report reads
            tokens = ((x if components is None else data.first("test", FIRST_POINTS)) != PAD).sum(-1)
        about = {"fit_on": other, "budget": budget, "sizes": sizes, "tokens": tokens, "levels": _levels(data), "progress": show}
        points = x if components is None else data.in_order("test")
        report = collapse_report(vae.model, vae.guide, points, card=card, components=components, **about, **samples)
        if isinstance(posterior := getattr(vae.encoder, "posterior", None), SemiImplicitNormal):
            report.card["notes"].append(IMPLICIT.format(len(posterior.fixed)))
        if math.prod(vae.prior().event_shape):
            report.card["decoder_layers"] = layers_moved(vae, data)
        if auxiliary_prior is not None:
            found = auxiliary.measured(vae, auxiliary_prior, x, distortion=report.distortion)
            report.card["auxiliary_prior"] = found
        if isinstance(vae.decoder(vae.prior().sample((1,))), MultinomialGivenTotal):
            try:
                report.card["ranking"] = ranking(vae, x)
            except ValueError as error:
                report.card["unavailable"]["ranking"] = str(error)
        if isinstance(vae.guide, SemiAmortized):
            if vae.guide.start != "zeros":  # else no encoder is trained
                report = replace(report, amortized=_amortized(vae, x, other, report, budget, sizes, show))
    for sentence in report.card.get("beyond_budget", ()):
        note(f"Not measured: {sentence}")
    return report


def _levels(data):
    """Of how many levels each value of an image is one; None for other data."""
    return data.levels if data.kind == "grey" and len(data.event_shape) in (2, 3) else None


def _committed(vae):
    """What the card says of a committed rate: how many nats, and the correlations of an AR(1) prior."""
    committed = committed_by(vae)
    correlation = {"correlation": vae.prior.correlation.tolist()} if hasattr(vae.prior, "correlation") else {}
    return {} if committed is None else {"committed_rate": committed, **correlation}


def sizes_for(vae, data):
    """The points and draws of a report: by the kind of the decoder, whether the guide refines, and the elements of one x."""
    if data.kind == "text":
        kind = "text"
    elif isinstance(vae.decoder(vae.prior().sample((1,))), Autoregressive):
        kind = "autoregressive image"
    else:
        kind = "feed-forward"
    return sizes_of("refined " * isinstance(vae.guide, SemiAmortized) + kind, math.prod(data.event_shape))


def with_points(sizes, **points):
    """The sizes with other numbers of points, each estimate on some of the points of the one before it."""
    wanted = {"elbo_points": max(sizes.elbo_points, points.get("log_likelihood_points", 0)), **points}
    return replace(sizes, **wanted, points=max(sizes.points, wanted["elbo_points"]))


def _announce_report(vae, x, sizes, samples, pairs):
    """Say on stderr what the report will cost here; what it measures does not depend on that."""
    seconds = expected_seconds(vae.model, vae.guide, x, sizes=sizes, **samples)
    if isinstance(vae.guide, SemiAmortized):
        seconds *= 2  # the encoder alone is measured too, and the gap
    seconds += PAIR_SECONDS * pairs
    elbo_points = min(len(x), sizes.elbo_points)
    note(
        f"The report takes about {duration(seconds)} here: ELBO on {elbo_points:,} test points, log p(x) on "
        f"{min(elbo_points, sizes.log_likelihood_points):,}. --report-budget limits the time instead."
    )


def _amortized(vae, x, other, report, budget, sizes, show):
    """What the encoder alone reaches, and the gap of its bound on the points that importance sampling covers."""
    own = vae.guide.amortized
    limits = {"budget": budget, "sizes": sizes}
    found = collapse_report(vae.model, own, x, fit_on=other, importance_samples=1, **limits)
    alone, elbo = json.loads(found.to_json()), found.estimates()["elbo"]
    points = min(report.card["log_likelihood_points"], GAP_POINTS)
    gap = inference_gap(vae.model, vae.guide, own, x[:points], posterior_samples=1, progress=show)
    return {
        "steps": vae.guide.steps,
        "elbo": {"value": elbo.value, "low": elbo.low, "high": elbo.high},
        **{name: alone[name] for name in ("rate", "mi_lower", "mi_upper", "active_units")},
        **{name: vars(getattr(gap, name)) for name in ("inference_gap", "amortization_gap", "approximation_gap")},
        "gap_points": points,
    }


def sample_run(run, *, count, mean, prior, decoding, beam_width, seed, out, device, as_json):
    """Draw `count` images and write them as a grid, or as many texts and print them, or write other values as numbers."""
    from pyro_skipvae.reports import figures
    from pyro_skipvae.reports.model_pictures import draw_samples, draws_of

    with user_errors():
        found = load_run(run, device=choose_device(device))
        if prior == "auxiliary":
            found.vae.prior = auxiliary.load(run, choose_device(device))
        text.only_for_text(found.about, decoding=decoding, beam_width=beam_width)
        how = text.how(decoding, beam_width, "sample")
        if found.about.kind == "text" and mean:
            raise ValueError("expected a run on images or numbers for --mean, got one on text; use --decoding greedy")
    if found.about.kind == "text":
        said = samples(found.vae, found.about.vocabulary, count=count or 8, seed=seed, **how)
        return text.emit(run, said, {"decoding": how["decoding"], "seed": seed, "texts": said}, out=out, as_json=as_json)
    images = figures.can_draw(found.about.event_shape)
    path = Path(out or beside(run, "samples.png" if images else "samples.npz"))
    with user_errors(), written(path):
        if images and path.suffix.lower() not in NUMBERS:
            figures.save_png(draw_samples(found.vae, found.about.kind, count=count, mean=mean, seed=seed), path)
        else:
            write_whole(path, _numbers(path, found, draws_of(found.vae, count=count or 64, seed=seed), mean))
    text.emit_file(run, path, as_json=as_json)


def _numbers(path, run, drawn, mean):
    """The content of a .npz or .csv file of draws; with `mean` the means stand for them."""
    from pyro_skipvae.reports.model_pictures import means_of

    x = (means_of(drawn) if mean else drawn.x).numpy()
    if path.suffix.lower() == ".npz":
        means = {} if mean or drawn.means is None else {"mean": drawn.means.numpy()}
        buffer = io.BytesIO()
        np.savez(buffer, x=x, z=drawn.z.numpy(), **means)
        return buffer.getvalue()
    if path.suffix.lower() != ".csv":
        raise ValueError(f"expected the name of a .csv or .npz file for items of shape {run.about.event_shape}, got {path}")
    x = x.reshape(len(x), -1)
    whole = run.about.kind in ("count", "binary") and not mean
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(run.about.columns or [f"x{i}" for i in range(1, x.shape[1] + 1)])
    np.savetxt(buffer, x, fmt="%d" if whole else "%.9g", delimiter=",")
    return buffer.getvalue()


def pictures(run, vae, data):
    """The page of a run that has its report, and the pictures on it."""
    from pyro_skipvae.reports.run_page import write_page  # matplotlib takes half a second to import

    write_page(run, vae=vae, data=data)
