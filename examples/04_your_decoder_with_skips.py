"""Any sequential decoder becomes its skip counterpart in one line; here a convolutional one, with and without.

    python examples/04_your_decoder_with_skips.py [--smoke]
"""

import sys

import pyro
import pyro.distributions as dist
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import VAE, collapse_report, fit, load_data, svi_step
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.skip import SkipSequential

D = 10


class Decoder(nn.Module):
    """A network of your own from z to logits, and the distribution that it parametrises."""

    def __init__(self, skip):
        super().__init__()
        plain = nn.Sequential(
            nn.Sequential(nn.Linear(D, 256), nn.ReLU(), nn.Unflatten(1, (64, 2, 2))),
            nn.Sequential(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
        )
        self.network = SkipSequential(plain, D, skip=skip)

    def forward(self, z):
        return dist.Bernoulli(logits=self.network(z)[:, 0]).to_event(2)


data = load_data("digits")
for skip in ("none", "all"):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    vae = VAE(StandardNormal(D), Decoder(skip), MLPEncoder(data.event_shape, D, hidden=(200,)))
    step = svi_step(vae.model, vae.guide, elbo, Adam({"lr": 1e-3}), max_norm=5.0)
    for _ in fit(step, data.batches("train", 64, seed=0), epochs=1 if "--smoke" in sys.argv else 60):
        pass
    report = collapse_report(vae.model, vae.guide, data.test)
    print(f"skip {skip:5s} ELBO {report.elbo:7.2f}   rate {report.rate:5.2f}   {report.verdict}")
