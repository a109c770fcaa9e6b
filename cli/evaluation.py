"""`evaluate` and `sample`: what can be asked of a finished run."""

from dataclasses import asdict

from pyro_skipvae import figures
from pyro_skipvae.build import choose_device
from pyro_skipvae.diagnostics import collapse_report
from pyro_skipvae.page import draw_samples, write_page
from pyro_skipvae.run import Run, load_run
from pyro_skipvae.vocabulary import PAD

from .errors import user_errors
from .notes import note
from .terminal import progress

REPORT_POINTS = 10_000  # of the test set: the paper's N


def evaluate_run(run, *, importance_samples, posterior_samples, limit_eval, report_budget, checkpoint, save, device):
    """The collapse report of a run, measured anew."""
    with user_errors():
        device = choose_device(device)
        vae, data, config = load_run(run, device=device, which=checkpoint)
        data = data.limit(eval=limit_eval)
    extra = {"run": Run(run).path.name, "checkpoint": checkpoint, "settings": asdict(config)}
    samples = {"importance_samples": importance_samples, "posterior_samples": posterior_samples}
    report = report_on(vae, data, device=device, budget=report_budget, extra=extra, **samples)
    if save:
        Run(run).write_report(report)
    return report


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
    for sentence in report.card.get("beyond_budget", ()):
        note(f"Not measured: {sentence}")
    return report


def sample_run(run, *, count, seed, out, device):
    """Draw `count` images and write them as a grid; returns the path."""
    with user_errors():
        device = choose_device(device)
        vae, data, _ = load_run(run, device=device)
        if len(data.event_shape) not in (2, 3):
            raise ValueError(f"expected a model of images to draw a picture, got items of shape {data.event_shape}")
    path = out or Run(run).path / "samples.png"
    figures.save_png(draw_samples(vae, count=count, seed=seed), path)
    return str(path)


def pictures(run, vae, data):
    """The page of a run that has its report, and the pictures on it."""
    write_page(run.path, vae=vae, data=data)
