"""Values of any unit train alike: what enters the encoder and leaves the decoder is in the units of the data."""

import json
import math

import numpy as np
import pytest
import torch
from command_line import skipvae

from pyro_skipvae import load_run

TINY = ("--epochs", "2", "--width", "16", "--layers", "1", "--latent-dim", "2", "--batch-size", "50", "--report-budget", "3")


def trained(folder, values, *flags, name="data"):
    """(report, metrics, run folder, stderr) of a run on these values."""
    np.savez(folder / f"{name}.npz", train=values)
    done = skipvae("train", "--dataset", f"{name}.npz", *TINY, *flags, "--out", name, cwd=folder)
    assert done.returncode == 0, done.stderr
    run = folder / name
    assert (run / "report.html").exists()
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return json.loads((run / "report.json").read_text()), metrics, run, done.stderr


def vectors(count=200, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=(count, 2)) @ random.normal(size=(2, 5)) + 0.1 * random.normal(size=(count, 5))).astype("f4")


@pytest.mark.parametrize(
    ("shape", "flags"),
    [((-1, 5), ()), ((-1, 5), ("--likelihood", "normal")), ((-1, 4, 5), ("--decoder", "pixelcnn", "--maps", "4"))],
)
def test_another_unit_gives_the_same_run(tmp_path, shape, flags):
    x = vectors(800).reshape(shape) if len(shape) > 2 else vectors()
    one, metrics, run, _ = trained(tmp_path, x, *flags, name="one")
    other, metrics_of_other, other_run, _ = trained(tmp_path, (1000 * x + 5000).astype("f4"), *flags, name="other")
    shift = math.prod(x.shape[1:]) * math.log(1000)
    assert one["elbo"] - other["elbo"] == pytest.approx(shift, abs=0.02)  # float32 has seven digits of 5000
    assert one["rate"] == pytest.approx(other["rate"], abs=1e-3)
    assert one["active_units"] == other["active_units"]
    for a, b in zip(metrics, metrics_of_other, strict=True):
        assert a["train_loss"] - b["train_loss"] == pytest.approx(-shift, abs=0.02)
    draws = []
    for folder in (run, other_run):
        vae = load_run(folder)[0]
        torch.manual_seed(0)
        with torch.no_grad():
            draws.append(vae.decoder(vae.prior().sample((50,))).sample())
    np.testing.assert_allclose(1000 * draws[0] + 5000, draws[1], rtol=0, atol=5)


@pytest.mark.parametrize(
    ("values", "floor"),
    [  # floor: the log density of independent normals, or Poissons, at the means and deviations of the features
        ((np.random.default_rng(0).normal(5000, 100, (300, 6))).astype("f4"), True),
        ((np.random.default_rng(0).uniform(0, 255, (300, 6, 6))).astype("f4"), True),
        (np.random.default_rng(0).poisson(300, (300, 6)), False),
        (np.random.default_rng(0).poisson([0.0, 0.01, 3, 1000], (300, 4)), False),
        (np.concatenate([np.random.default_rng(0).normal(size=(300, 3)), np.full((300, 1), 0.1)], 1).astype("f4"), False),
    ],
    ids=["mean 5000", "0 to 255", "counts of 300", "counts of all sizes", "a constant"],
)
def test_values_of_any_unit_train_from_the_start(tmp_path, values, floor):
    report, metrics, _, _ = trained(tmp_path, values)
    assert all(math.isfinite(line["train_loss"]) for line in metrics)
    if values.dtype.kind == "i":
        mean = values.mean(0) + 1e-9
        independent = (values * np.log(mean) - mean - np.vectorize(math.lgamma)(values + 1.0)).sum(1).mean()
    else:
        scale = np.where(np.ptp(values, 0) > 0, values.std(0), 1)
        independent = -(np.log(scale) + 0.5 * math.log(2 * math.pi * math.e)).sum()
    assert report["elbo"] > independent - 0.15 * math.prod(values.shape[1:]) - 3
    assert report["elbo"] < independent + 3 or not floor


def test_a_run_of_before_there_was_a_scaling_is_read_as_it_was(tmp_path):
    _, _, run, _ = trained(tmp_path, vectors(), "--likelihood", "normal", "--scaling", "none")
    settings = (run / "config.toml").read_text()
    (run / "config.toml").write_text(settings.replace('scaling = "none"\n', ""))
    vae, data, config = load_run(run)
    assert config.scaling == "none" and not any("observation" in name or "inputs" in name for name in vae.state_dict())
    done = skipvae("train", "--resume", run, "--epochs", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "flags", "said"),
    [
        (vectors(60), (), "Inside the model values are standardised; the likelihood is normal-shared-scale."),
        (np.random.default_rng(0).poisson(3, (60, 4)), (), "Inside the encoder log(1 + x) is standardised; the"),
        (np.random.default_rng(0).integers(0, 2, (60, 4)), (), "all values are 0 or 1. The likelihood is bernoulli."),
        (np.arange(240, dtype="u1").reshape(60, 4), ("--binarisation", "dynamic"), "draws each pixel as 0 or 1"),
        (np.random.default_rng(0).random((60, 4)), ("--likelihood", "normal"), "Inside the model values are standardised; the"),
    ],
    ids=["real", "count", "binary", "drawn", "grey"],
)
def test_a_run_says_how_values_were_read(tmp_path, values, flags, said):
    *_, stderr = trained(tmp_path, values, *flags)
    assert "Read as " in stderr and said in stderr
