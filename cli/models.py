"""Commands that take a model out of its run: codes of the data, an exported model."""


import click

from .commands import DATASET, DEVICE, RUN, SEED, examples
from .echo import echo
from .errors import user_errors, written
from .notes import note


@click.command(epilog=examples("encode runs/digits --out z.npz", "encode runs/mine --data new.csv --out new.npz"))
@RUN
@click.option("--out", required=True, type=click.Path(dir_okay=False), help=".npz file")
@click.option("--data", "new", metavar="FILE", help="new items, of the shape that RUN was trained on  [default: its own data]")
@DATASET
@SEED
@DEVICE
def encode(run, out, new, dataset, seed, device):
    """Write mean and scale of q(z|x) for all data of RUN: arrays train_loc, train_scale, train_labels, and so on.

    Each is (N, D), and (N, steps, channels) of a delta-VAE. Of discrete z it is probabilities, (N, variables, classes).

    With --data it encodes new items instead, from any file that `train` reads, and writes data_loc, data_scale and, where the
    file has labels, data_labels; of a text also data_lines, the line that each row is. It then needs no data of RUN.
    """
    import io

    import numpy as np

    from pyro_skipvae.runs.checkpoint import write_whole

    with user_errors():
        if new is not None and dataset is not None:
            raise ValueError("expected --data or --dataset, got both: --data is encoded in place of the data of the run")
        found = loaded(run, device, latent=True, dataset=dataset)
        if not str(out).endswith(".npz"):
            raise ValueError(f"expected --out FILE.npz, got {out}")
        codes = _codes(found.vae, data_of(found), seed) if new is None else _new_codes(found, new, seed)
    buffer = io.BytesIO()
    np.savez(buffer, **codes)
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
    from pyro_skipvae.runs.config import is_path

    try:
        return run.data
    except DataError as error:
        where = "name them with --dataset FILE" if is_path(run.dataset or run.config.dataset) else moved(run)
        raise DataError(f"{error}; if they were moved, {where}") from None


def moved(run):
    """What to do about the data of a run that are elsewhere now, where no option names them."""
    from pyro_skipvae.runs.config import is_path

    file = run.path / "config.toml"
    if is_path(run.config.dataset):
        return f"set dataset in {file} to their place"
    return f"set data_dir in {file} to their folder" if run.config.data_dir else "set the variable SKIPVAE_DATA to their folder"


def _codes(vae, data, seed, size=500):
    """{split_loc, split_scale, split_labels}; dynamically binarised training images are drawn once, at the seed."""
    arrays = {}
    for split in ("train", "valid", "test"):
        arrays |= _encoded(vae, split, data.batches(split, size, seed=seed, shuffle=False), seed)
        if split in data.labels:
            arrays[f"{split}_labels"] = data.labels[split].numpy()
    return arrays


def _new_codes(run, file, seed, size=500):
    """{data_loc, data_scale, data_labels} of the items in a file; of a text also data_lines."""
    import numpy as np

    from pyro_skipvae.data.new_items import new_items

    x, labels, lines, unknown = new_items(file, run.about, seed=seed)
    if unknown:
        note(f"{unknown:,} words of {file} are not in the vocabulary, and read as <unk>. Words are between blanks.")
    names = None if labels is None else labels.astype(str) if labels.dtype.kind in "OS" else np.asarray(labels)
    found = _encoded(run.vae, "data", x.split(size), seed) | ({} if names is None else {"data_labels": names})
    return found | ({} if lines is None else {"data_lines": lines})


def _encoded(vae, name, batches, seed):
    """{name_loc, name_scale}: mean and scale of q(z|x) for all batches, the same at each call."""
    import torch

    from pyro_skipvae.diagnostics.estimates.moments import posterior_moments
    from pyro_skipvae.modules import device_of
    from pyro_skipvae.random_numbers import forked

    device = device_of(vae)
    with forked([device], seed), torch.no_grad():
        moments = [posterior_moments(vae.posterior(x.to(device))) for x in batches]
    parts = zip(("loc", "scale"), zip(*moments, strict=True), strict=True)
    return {f"{name}_{what}": torch.cat(each).cpu().numpy() for what, each in parts}
