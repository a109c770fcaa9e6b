"""Training steps and epochs of MLPs: ours, the same by hand, and in the form that others have."""

import contextlib

import pyro
import torch
from baselines import authors_training, by_hand
from interleaved import Comparison
from peers import numpyro_training, pyro_example, pythae_training
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from pyro_skipvae import VAE, load_data, svi_step
from pyro_skipvae.data.batches import Batches
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal

BATCH = 128
BATCHES = 50  # that stand for an epoch
EPOCH = 60_000
AGED = 16  # such passes, 800 steps: by then Adam's means of gradients that stay 0 are denormal numbers


def mlp(small=False):
    """784-512-512-50, and a decoder of four layers of 512 with all skips."""
    width = 16 if small else 512
    decoder = MLPDecoder(50, (28, 28), width=width)
    return VAE(StandardNormal(50), decoder, MLPEncoder((28, 28), 50, hidden=(width, width)))


def our_step(vae, objective=elbo, **options):
    return svi_step(vae.model, vae.guide, objective, Adam({"lr": 1e-3, "fused": True}), max_norm=5.0, **options)


def mlp_step(small):
    """A step of the MLP, batch 128, as `train` runs it: Trace_ELBO, ours, ours compiled; by hand with a fused Adam."""
    vae, x = mlp(small), torch.rand(BATCH, 28, 28).bernoulli()
    ways = {"Trace_ELBO": our_step(vae, Trace_ELBO()), "elbo": our_step(vae), "compiled": our_step(vae, compile=True)}
    ways = {name: under(unchecked, lambda step=step: float(step(x))) for name, step in ways.items()}
    hand = by_hand.step(mlp(small), x)
    return Comparison({**ways, "by hand": hand}, repeats=20)


def tiny_step(small):
    """A step of a net so small that only overhead is left: Pyro's own SVI and Trace_ELBO, ours, ours compiled."""
    vae, other = (
        VAE(StandardNormal(2), MLPDecoder(2, (16,), layers=2, width=8), MLPEncoder((16,), 2, hidden=(8, 8))) for _ in range(2)
    )
    x, pair = torch.rand(4, 16).bernoulli(), Renamed(other)
    ours, compiled = our_step(vae), our_step(vae, compile=True)
    stock = SVI(pair.model, pair.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    return Comparison({"stock": lambda: stock.step(x), "ours": lambda: ours(x), "compiled": lambda: compiled(x)}, repeats=200)


class Renamed:
    """Model and guide of a VAE under other names, since Pyro's parameter store holds one model of a name."""

    def __init__(self, vae):
        self.vae = vae

    def model(self, x):
        pyro.module("other decoder", self.vae.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.vae.prior())
            pyro.sample("x", self.vae.decoder(z), obs=x)

    def guide(self, x):
        pyro.module("other encoder", self.vae.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.vae.encoder(x))


def mlp_epoch(small):
    """50 batches of 128 MNIST images, denormal numbers flushed for all: ours, and the same net as others train it."""
    return _epochs(small, peers_setting=flushed, our_setting=flushed)


def mlp_epoch_as_shipped(small):
    """The same as each comes, after 800 steps: only ours flushes denormal numbers."""
    return _epochs(small, peers_setting=contextlib.nullcontext, our_setting=flushed, warm=1 if small else AGED)


def mlp_epoch_jitted(small):
    """The same: ours compiled, and NumPyro with its loop over batches jitted; the time to compile is left out."""
    images, vae = _images(small), mlp(small)
    ways = {"compiled": under(flushed, _our_epoch(vae, images, compile=True))}
    missing = numpyro_training.MISSING
    if not missing:
        ways["NumPyro"] = numpyro_training.epoch(mlp(small), images, BATCH)
    return Comparison(ways, missing=missing)


def _epochs(small, *, peers_setting, our_setting, warm=1):
    images, vae = _images(small), mlp(small)
    ours = {"ours": {}, "compiled": {"compile": True}}
    ways = {name: under(our_setting, _our_epoch(vae, images, **options)) for name, options in ours.items()}
    ways["compiled, medium"] = under(medium, under(our_setting, _our_epoch(vae, images, compile=True)))
    peers = {"Pyro's example": pyro_example.epoch, "authors": authors_training.epoch}
    if not pythae_training.MISSING:
        peers["pythae"] = pythae_training.epoch
    ways |= {name: under(peers_setting, epoch(mlp(small), images, BATCH)) for name, epoch in peers.items()}
    return Comparison(ways, rounds=5, warm=warm, missing=pythae_training.MISSING)


def _images(small):
    return load_data("mnist").train[: BATCH * (2 if small else BATCHES)]


def _our_epoch(vae, images, **options):
    step, batches = our_step(vae, **options), Batches(images, BATCH, seed=0, shuffle=True)

    def epoch():
        return float(sum(step(x) for x in batches))

    return under(unchecked, epoch)


def unchecked():
    """Distributions do not check their values, as in `skipvae-pyro train`: the step itself notices what is not finite."""
    return pyro.settings.context(validate_distributions_pyro=False, validate_distributions_torch=False)


def under(setting, run):
    """`run` with a setting of torch around it."""

    def set_and_run():
        with setting():
            return run()

    return set_and_run


@contextlib.contextmanager
def flushed():
    """Denormal numbers are 0, as in `skipvae-pyro train`."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextlib.contextmanager
def medium():
    """Matrix products as with `skipvae-pyro train --matmul medium`."""
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
