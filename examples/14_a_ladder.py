"""A ladder of two latent variables, and which of them is used.

    python examples/14_a_ladder.py [--smoke]

z2 is above z1: x sees it through z1 alone. The report has a row for each.
"""

import sys

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import collapse_report, load_data


def network(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, outputs))


def normal(parameters):
    loc, log_scale = parameters.chunk(2, -1)
    return dist.Normal(loc, log_scale.clamp(-5, 3).exp()).to_event(1)


class Ladder(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.decoder = network(4, 2 * 12), network(12, 64)
        self.up, self.top, self.merge = network(64, 32), network(32, 2 * 4), network(32 + 4, 2 * 12)

    def model(self, x):
        pyro.module("ladder", self)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
            z1 = pyro.sample("z1", normal(self.down(z2)))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z1)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("ladder", self)
        features = self.up(x)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", normal(self.top(features)))
            pyro.sample("z1", normal(self.merge(torch.cat([features, z2], -1))))


pyro.set_rng_seed(0)
data, ladder = load_data("digits", binarisation="static"), Ladder()
svi = SVI(ladder.model, ladder.guide, Adam({"lr": 1e-3}), Trace_ELBO())
for _ in range(1 if "--smoke" in sys.argv else 60):
    for x in data.train.flatten(1).split(64):
        svi.step(x)
print(report := collapse_report(ladder.model, ladder.guide, data.test.flatten(1), importance_samples=50))
for site in report.sites:
    print(f"{site.name}: {site.rate.value:.2f} nats, {site.active_units} of {site.dimensions} units, {site.kind}")
