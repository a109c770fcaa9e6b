"""`check-gradients`: how good the gradients through a refinement are on a run's own model, and what they cost."""

import json
from dataclasses import asdict

import click

from .commands import DATASET, DEVICE, JSON, RUN, examples
from .echo import echo
from .errors import user_errors
from .models import data_of, loaded
from .notes import note
from .options import Seed, Whole


@click.command(
    "check-gradients",
    epilog=examples("check-gradients runs/sa", "check-gradients runs/digits --batch 32 --steps 20 --json"),
)
@RUN
@click.option("--batch", default=8, show_default=True, type=Whole(1), help="how many test items, from the first on")
@click.option("--steps", type=Whole(1), help="steps of the refinement  [default: those of the run]")
@click.option("--seed", default=0, show_default=True, type=Seed(), help="seed of the noise, the same for all")
@DATASET
@DEVICE
@JSON
def check_gradients(run, batch, steps, seed, dataset, device, as_json):
    """Compare the ways to differentiate a refinement on RUN: error against the exact gradient, time and memory.

    An amortized run is checked with a refinement around its guide. "Encoder" are the parameters of the guide, "decoder" those
    of the model alone; time is that of a loss and its gradient, as a multiple of the amortized guide's.
    """
    with user_errors():
        checks, about = _checked(run, batch, steps, dataset, seed, device)
    if as_json:
        from pyro_skipvae.stored import finite_or_none

        found = finite_or_none([asdict(check) for check in checks])
        return echo(json.dumps({"schema": 1, "run": str(run), **about, "gradients": found}))
    note(f"The first {about['batch']} test items, {about['steps']} steps, lr {about['lr']:g}, without dropout.")
    echo(_table(checks), nl=False)


def _checked(run, batch, steps, dataset, seed, device):
    from pyro_skipvae.guides.gradient_check import compare_gradients
    from pyro_skipvae.modules import device_of
    found = loaded(run, device, latent=True, dataset=dataset)
    vae, data, config = found.vae, data_of(found), found.config
    x = next(iter(data.limit(eval=batch).batches("test", batch, seed=0))).to(device_of(vae))
    lr = config.svi_lr / (config.batch_size if config.svi_gradient == "authors" else 1)  # theirs is of a batch's mean
    loop = {"steps": steps or config.svi_steps, "lr": lr, "momentum": config.svi_momentum}
    guide = getattr(vae.guide, "amortized", vae.guide)
    return compare_gradients(vae.model, guide, x, **loop, seed=seed), {"batch": len(x), **loop}


def _table(checks):
    from .terminal import table

    parts = [f"{part} {what}" for part in ("encoder", "decoder") for what in ("cosine", "error")]
    rows = [
        (
            check.gradient,
            f"{check.encoder_cosine:.4f}",
            f"{check.encoder_error:.1e}",
            f"{check.decoder_cosine:.4f}",
            f"{check.decoder_error:.1e}",
            f"{check.time_ratio:.1f} x",
            f"{check.memory_bytes / 2**20:,.1f} MiB",
        )
        for check in checks
    ]
    amortized = ("amortized", "", "", "", "", "1.0 x", f"{checks[0].amortized_memory_bytes / 2**20:,.1f} MiB")
    return table(("gradient", *parts, "time", "memory"), [*rows, amortized])
