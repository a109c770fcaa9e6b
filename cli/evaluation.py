"""`evaluate` and `sample`: what can be asked of a finished run."""

import json
from dataclasses import asdict, replace

from pyro_skipvae.diagnostics import collapse_report
from pyro_skipvae.diagnostics.estimates.inference_gap import inference_gap
from pyro_skipvae.diagnostics.pairs.pair import ENCODER_ROWS
from pyro_skipvae.guides.semi_amortized import SemiAmortized
from pyro_skipvae.reports import figures
from pyro_skipvae.reports.model_pictures import draw_samples
from pyro_skipvae.reports.run_page import write_page
from pyro_skipvae.runs.build import choose_device
from pyro_skipvae.runs.folder import Run, load_checkpoint, load_run
from pyro_skipvae.text.generation import samples
from pyro_skipvae.text.vocabulary import PAD

from . import text
from .errors import user_errors, written
from .notes import note
from .terminal import progress

REPORT_POINTS = 10_000  # of the test set: the paper's N
GAP_POINTS = 500  # at most, for the gap: importance sampling once more


def evaluate_run(run, *, importance_samples, posterior_samples, limit_eval, report_budget, checkpoint, save, device, svi_steps):
    """The collapse report of a run, measured anew; `svi_steps` refines q(z|x) by so many steps, whatever the run did."""
    with user_errors():
        device = choose_device(device)
        vae, data, config, loaded = load_checkpoint(run, device=device, which=checkpoint)
        if limit_eval and config.limit_eval and limit_eval > config.limit_eval:
            note(f"{run} was made with --limit-eval {config.limit_eval}: evaluating those.")
        data = data.limit(eval=limit_eval)
        if svi_steps is not None:
            vae.guide = _refined(vae, config, svi_steps)
    if loaded != checkpoint:
        note(f"{run} has no {checkpoint} checkpoint; evaluating {loaded}.")
    extra = {"run": Run(run).path.name, "checkpoint": loaded, "settings": asdict(config), "svi_steps": svi_steps}
    samples = {"importance_samples": importance_samples, "posterior_samples": posterior_samples}
    report = report_on(vae, data, device=device, budget=report_budget, extra=extra, **samples)
    if save:
        Run(run).write_report(report)
    return report


def _refined(vae, config, steps):
    """The guide of a run, refined by another number of steps than in training; 0 is the encoder alone."""
    if config.latent_dim == 0:
        raise ValueError(f"expected a model with latent variables for --svi-steps, got {config.model}")
    amortized = getattr(vae.guide, "amortized", vae.guide)
    start = getattr(vae.guide, "start", "amortized")
    loop = {"steps": steps, "lr": config.svi_lr, "momentum": config.svi_momentum, "gradient": config.svi_gradient}
    return SemiAmortized(vae.model, amortized, **loop, start=start) if steps or start == "zeros" else amortized


def report_on(vae, data, *, device, budget, extra, **samples):
    """The collapse report on the first test points; the variational marginal is fitted on as many training points."""
    x, other = data.test[:REPORT_POINTS].to(device), data.train[:REPORT_POINTS].to(device)
    with progress() as bar:
        task = bar.add_task("reporting", total=1, status="")

        def show(stage, done, total):
            bar.update(task, description=stage, completed=done, total=total)

        card = {**extra, "data": data.describe()}
        tokens = (x != PAD).sum(-1) if data.kind == "text" else None
        about = {"fit_on": other, "budget": budget, "tokens": tokens, "progress": show}
        report = collapse_report(vae.model, vae.guide, x, card=card, **about, **samples)
        if isinstance(vae.guide, SemiAmortized):
            if vae.guide.gradient == "authors":
                note(f"The authors' steps are of a batch's mean: of {ENCODER_ROWS} rows in a report, however many in training.")
            report = replace(report, amortized=_amortized(vae, x, other, report, budget, show))
    for sentence in report.card.get("beyond_budget", ()):
        note(f"Not measured: {sentence}")
    return report


def _amortized(vae, x, other, report, budget, show):
    """What the encoder alone reaches, and the gap of its bound on the points that importance sampling covers."""
    own = vae.guide.amortized
    alone = json.loads(collapse_report(vae.model, own, x, fit_on=other, importance_samples=1, budget=budget).to_json())
    error = 1.96 * alone["standard_errors"]["elbo"]
    points = min(report.card["log_likelihood_points"], GAP_POINTS)
    gap = inference_gap(vae.model, vae.guide, own, x[:points], posterior_samples=1, progress=show)
    return {
        "steps": vae.guide.steps,
        "elbo": {"value": alone["elbo"], "low": alone["elbo"] - error, "high": alone["elbo"] + error},
        **{name: alone[name] for name in ("rate", "mi_lower", "mi_upper", "active_units")},
        **{name: vars(getattr(gap, name)) for name in ("inference_gap", "amortization_gap", "approximation_gap")},
        "gap_points": points,
    }


def sample_run(run, *, count, decoding, beam_width, seed, out, device, as_json):
    """Draw `count` images and write them as a grid, or as many texts and print them."""
    with user_errors():
        vae, data, _ = load_run(run, device=choose_device(device))
        text.only_for_text(data, decoding=decoding, beam_width=beam_width)
        if data.kind != "text" and not figures.can_draw(data.event_shape):
            raise ValueError(f"expected a model of images or text to sample, got items of shape {data.event_shape}")
        how = text.how(decoding, beam_width, "sample")
    if data.kind == "text":
        found = samples(vae, data.vocabulary, count=count or 8, seed=seed, **how)
        return text.emit(run, found, {"decoding": how["decoding"], "seed": seed, "texts": found}, out=out, as_json=as_json)
    path = out or Run(run).path / "samples.png"
    with user_errors(), written(path):
        figures.save_png(draw_samples(vae, count=count or 64, seed=seed), path)
    text.emit_file(run, path, as_json=as_json)


def pictures(run, vae, data):
    """The page of a run that has its report, and the pictures on it."""
    write_page(run.path, vae=vae, data=data)
