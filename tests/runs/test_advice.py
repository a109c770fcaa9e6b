"""What a message advises works: each is provoked, the advice is taken, and a tiny run is trained to its report and page."""

import numpy as np
import pytest
from command_line import skipvae

RANDOM = np.random.default_rng(0)
DATA = {
    "small.npz": RANDOM.random((60, 7, 7)).astype("f4"),
    "images.npz": RANDOM.integers(0, 256, (60, 8, 8)).astype("u1"),
    "vectors.npz": RANDOM.normal(5000, 100, (60, 5)).astype("f4"),
    "counts.npz": RANDOM.poisson(300, (60, 4)),
    "bits.npz": RANDOM.integers(0, 2, (60, 8, 8)),
}
TINY = ("--epochs", "1", "--layers", "1", "--width", "8", "--maps", "4", "--report-budget", "1", "--embedding", "4")
# data, flags that are refused, a part of the message, the flags that it advises (for those of the same names)
ADVICE = [
    ("small.npz", "--encoder resnet", "at least 8x8 for --encoder resnet, got (7, 7); use --encoder mlp", "--encoder mlp"),
    ("vectors.npz", "--encoder resnet", "use --encoder mlp", "--encoder mlp"),
    ("vectors.npz", "--encoder lstm", "expected --encoder", "--encoder mlp"),
    ("vectors.npz", "--decoder pixelcnn", "use --decoder mlp", "--decoder mlp"),
    ("vectors.npz", "--decoder convolutional", "use --decoder mlp", "--decoder mlp"),
    ("vectors.npz", "--model autoregressive", "use --model vae", "--model vae"),
    ("vectors.npz", "--likelihood poisson", "there is --likelihood normal or --", "--likelihood normal"),
    ("vectors.npz", "--likelihood bernoulli", "normal-shared-scale", "--likelihood normal-shared-scale"),
    ("vectors.npz", "--scaling log", "use --scaling standard", "--scaling standard"),
    ("vectors.npz", "--scaling none", "train anew with --scaling standard", "--scaling standard"),
    ("vectors.npz", "--binarisation dynamic", "expected binarisation 'none'", "--binarisation none"),
    ("counts.npz", "--likelihood normal", "or --likelihood poisson", "--likelihood poisson"),
    ("bits.npz", "--scaling standard", "use --scaling none", "--scaling none"),
    ("bits.npz", "--likelihood normal", "there is --likelihood bernoulli", "--likelihood bernoulli"),
    ("bits.npz", "--model lm", "use --model autoregressive", "--model autoregressive"),
    ("bits.npz", "--latent-dim 0", "use --model autoregressive", "--model autoregressive"),
    ("bits.npz", "--model autoregressive --decoder mlp", "--decoder pixelcnn", "--model autoregressive --decoder pixelcnn"),
    ("bits.npz", "--prior vamp --components 500", "--components of at most 48", "--prior vamp --components 48"),
    ("bits.npz", "--model skip-vae --skip none", "use --model vae", "--model vae"),
    ("bits.npz", "--model vae --inference sa", "use --model sa-vae", "--model sa-vae"),
    ("images.npz", "--likelihood colour-logistics", "use --likelihood discr", "--likelihood discretised-logistic"),
    ("images.npz", "--decoder lstm", "mlp, identifiable-mlp or convolutional", "--decoder convolutional"),
    ("images.npz", "--lr 1e30", "lower --lr", "--lr 0.001"),
    ("text.txt", "--decoder mlp", "expected --decoder lstm", "--decoder lstm"),
    ("text.txt", "--decoder pixelcnn", "or dilated-cnn", "--decoder dilated-cnn"),
]


@pytest.fixture
def folder(tmp_path):
    for name, values in DATA.items():
        np.savez(tmp_path / name, train=values)
    (tmp_path / "text.txt").write_text("the cat sat\nthe dog ran\na cat ran home\nthe dog sat home\n" * 10)
    return tmp_path


def trained(folder, data, flags, out):
    return skipvae("train", "--dataset", data, *TINY, *flags.split(), "--out", out, cwd=folder)


@pytest.mark.parametrize(("data", "wrong", "said", "right"), ADVICE)
def test_advice_works(folder, data, wrong, said, right):
    done = trained(folder, data, wrong, "wrong")
    assert done.returncode in (2, 5) and said in done.stderr, done.stderr
    done = trained(folder, data, right, "right")
    assert done.returncode == 0, done.stderr
    assert (folder / "right/report.json").exists() and (folder / "right/report.html").exists()


@pytest.mark.parametrize("data", [*DATA, "text.txt"])
@pytest.mark.parametrize("flags", ["", "--model autoregressive"])
def test_the_defaults_suit_all_kinds_of_data(folder, data, flags):
    if flags and data in ("vectors.npz", "counts.npz"):
        pytest.skip("what has no order has no autoregressive model: see above")
    flags = "--model lm" if flags and data == "text.txt" else flags
    done = trained(folder, data, flags, "run")
    assert done.returncode == 0 and (folder / "run/report.html").exists(), done.stderr
