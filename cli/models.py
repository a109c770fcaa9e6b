"""Commands that take a model out of its run: codes of the data, an exported model."""


import click

from .commands import DEVICE, RUN, SEED, examples
from .errors import user_errors, written


@click.command(epilog=examples("encode runs/digits --out z.npz"))
@RUN
@click.option("--out", required=True, type=click.Path(dir_okay=False), help=".npz file")
@SEED
@DEVICE
def encode(run, out, seed, device):
    """Write mean and scale of q(z|x) of all data of RUN: arrays train_loc, train_scale, train_labels, and so on."""
    import io

    import numpy as np

    from pyro_skipvae.runs.checkpoint import write_whole

    with user_errors():
        vae, data, _ = loaded(run, device, latent=True)
        if not str(out).endswith(".npz"):
            raise ValueError(f"expected --out FILE.npz, got {out}")
    buffer = io.BytesIO()
    np.savez(buffer, **_codes(vae, data, seed))
    with written(out):
        write_whole(out, buffer.getvalue())
    click.echo(out)


@click.command(epilog=examples("export runs/digits digits-model"))
@RUN
@click.argument("folder", type=click.Path(file_okay=False))
def export(run, folder):
    """Write the model of RUN into FOLDER: safetensors weights, settings and a model card."""
    from pyro_skipvae.reports.export import export_run

    with user_errors(), written(folder):
        for file in export_run(run, folder):
            click.echo(file)


def loaded(run, device, *, latent=False):
    """vae, data and config of a run; ValueError for one without latent variables where these are asked for."""
    from pyro_skipvae.runs.build import choose_device
    from pyro_skipvae.runs.folder import load_run

    vae, data, config = load_run(run, device=choose_device(device))
    if latent and config.latent_dim == 0:
        raise ValueError(f"expected a model with latent variables, got {config.model} in {run}")
    return vae, data, config


def _codes(vae, data, seed, size=500):
    """{split_loc, split_scale, split_labels}; dynamically binarised training images are drawn once, at the seed."""
    import torch

    from pyro_skipvae.diagnostics.estimates.moments import posterior_moments

    arrays, device = {}, next(vae.parameters()).device
    for split in ("train", "valid", "test"):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            batches = data.batches(split, size, seed=seed, shuffle=False)
            moments = [posterior_moments(vae.posterior(x.to(device))) for x in batches]
        for name, parts in zip(("loc", "scale"), zip(*moments, strict=True), strict=True):
            arrays[f"{split}_{name}"] = torch.cat(parts).cpu().numpy()
        if split in data.labels:
            arrays[f"{split}_labels"] = data.labels[split].numpy()
    return arrays
