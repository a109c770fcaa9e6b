"""The collapse report for a VAE that uses none of our classes: the one of Pyro's own tutorial, on 8x8 digits.

    python examples/05_report_for_any_pyro_vae.py [--smoke]
"""

import sys

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import collapse_report, load_data


class TutorialVAE(nn.Module):
    """A VAE with softplus layers, as in pyro.ai/examples/vae.html."""

    def __init__(self, pixels=64, z_dim=20, hidden=200):
        super().__init__()
        self.z_dim = z_dim
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.Softplus(), nn.Linear(hidden, 2 * z_dim))
        self.decoder = nn.Sequential(nn.Linear(z_dim, hidden), nn.Softplus(), nn.Linear(hidden, pixels), nn.Sigmoid())

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(x.shape[0], self.z_dim)
            z = pyro.sample("latent", dist.Normal(z_loc, torch.ones_like(z_loc)).to_event(1))
            pyro.sample("obs", dist.Bernoulli(self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


pyro.set_rng_seed(0)
data = load_data("digits", binarisation="static")
x_train, x_test = data.train.flatten(1), data.test.flatten(1)
vae = TutorialVAE()
svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), loss=Trace_ELBO())
for _ in range(1 if "--smoke" in sys.argv else 100):
    for x in x_train.split(64):
        svi.step(x)

report = collapse_report(vae.model, vae.guide, x_test, fit_on=x_train)
print(report)
print(f"The decoder loses {report.shuffled_latent_loss:.1f} nats per image when z is shuffled across images.")
