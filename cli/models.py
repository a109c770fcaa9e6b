"""Commands that take a model out of its run: codes of the data, an exported model."""


import click

from .commands import DATASET, DEVICE, RUN, SEED, examples
from .echo import echo
from .errors import user_errors, written


@click.command(epilog=examples("encode runs/digits --out z.npz"))
@RUN
@click.option("--out", required=True, type=click.Path(dir_okay=False), help=".npz file")
@DATASET
@SEED
@DEVICE
def encode(run, out, dataset, seed, device):
    """Write mean and scale of q(z|x) of all data of RUN: arrays train_loc, train_scale, train_labels, and so on."""
    import io

    import numpy as np

    from pyro_skipvae.runs.checkpoint import write_whole

    with user_errors():
        found = loaded(run, device, latent=True, dataset=dataset)
        if not str(out).endswith(".npz"):
            raise ValueError(f"expected --out FILE.npz, got {out}")
        data = data_of(found)
    buffer = io.BytesIO()
    np.savez(buffer, **_codes(found.vae, data, seed))
    with written(out):
        write_whole(out, buffer.getvalue())
    echo(out)


@click.command(epilog=examples("export runs/digits digits-model"))
@RUN
@click.argument("folder", type=click.Path(file_okay=False))
def export(run, folder):
    """Write the model of RUN into FOLDER: safetensors weights, settings and a model card."""
    from pyro_skipvae.reports.export import export_run

    with user_errors(), written(folder):
        for file in export_run(run, folder):
            echo(file)


def loaded(run, device, *, latent=False, dataset=None):
    """The `LoadedRun` of a folder; ValueError for one without latent variables where these are asked for."""
    from pyro_skipvae.runs.build import choose_device
    from pyro_skipvae.runs.folder import load_run

    found = load_run(run, device=choose_device(device), dataset=dataset)
    if latent and found.config.latent_dim == 0:
        raise ValueError(f"expected a model with latent variables, got {found.config.model} in {run}")
    return found


def data_of(run):
    """The data of a loaded run; where they are not found, the error says how to name them."""
    from pyro_skipvae.data.folder import DataError

    try:
        return run.data
    except DataError as error:
        raise DataError(f"{error}; if they were moved, name them with --dataset FILE") from None


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
