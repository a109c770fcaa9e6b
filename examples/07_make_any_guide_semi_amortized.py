"""Any Pyro guide becomes semi-amortized in one line: the pair of Pyro's tutorial, on 8x8 digits, trained both ways.

    python examples/07_make_any_guide_semi_amortized.py [--smoke]
"""

import sys

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import collapse_report, load_data
from pyro_skipvae.guides import SemiAmortized


class TutorialVAE(nn.Module):
    """A VAE with softplus layers, as in pyro.ai/examples/vae.html."""

    def __init__(self, pixels=64, z_dim=10, hidden=200):
        super().__init__()
        self.z_dim = z_dim
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.Softplus(), nn.Linear(hidden, 2 * z_dim))
        self.decoder = nn.Sequential(nn.Linear(z_dim, hidden), nn.Softplus(), nn.Linear(hidden, pixels))

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


data = load_data("digits", binarisation="static")
x_train, x_test = data.train.flatten(1), data.test.flatten(1)
for refined in (False, True):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    vae = TutorialVAE()
    guide = SemiAmortized(vae.model, vae.guide, steps=10) if refined else vae.guide
    svi = SVI(vae.model, guide, Adam({"lr": 1e-3}), loss=Trace_ELBO())
    for _ in range(1 if "--smoke" in sys.argv else 40):
        for x in x_train.split(64):
            svi.step(x)
    report = collapse_report(vae.model, guide, x_test, importance_samples=50)
    name = "semi-amortized" if refined else "amortized"
    print(f"{name:15s} ELBO {report.elbo:7.2f}   log p(x) {report.log_likelihood:7.2f}   rate {report.rate:5.2f} nats")
