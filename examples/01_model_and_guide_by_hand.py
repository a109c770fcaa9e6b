"""A skip VAE written out as a Pyro model and guide, trained with SVI, and asked whether it collapsed.

    python examples/01_model_and_guide_by_hand.py [--smoke]
"""

import sys

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import collapse_report, load_data

D = 10
encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 2 * D))


class SkipDecoder(nn.Module):
    """h_1 = relu(W_1 z), h_2 = relu(W_2 h_1 + U_2 z), eta = W_3 h_2 + U_3 z: z enters every layer (equation of section 3)."""

    def __init__(self):
        super().__init__()
        self.W1, self.W2, self.W3 = nn.Linear(D, 200), nn.Linear(200, 200), nn.Linear(200, 64)
        self.U2, self.U3 = nn.Linear(D, 200, bias=False), nn.Linear(D, 64, bias=False)

    def forward(self, z):
        h = torch.relu(self.W1(z))
        h = torch.relu(self.W2(h) + self.U2(z))
        return self.W3(h) + self.U3(z)


decoder = SkipDecoder()


def model(x):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x.flatten(1))


def guide(x):
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        loc, log_variance = encoder(x).chunk(2, dim=-1)
        pyro.sample("z", dist.Normal(loc, (log_variance / 2).exp()).to_event(1))


pyro.set_rng_seed(0)
data = load_data("digits")
svi = SVI(model, guide, Adam({"lr": 1e-3}), Trace_ELBO())
for _ in range(1 if "--smoke" in sys.argv else 100):
    for x in data.batches("train", 64, seed=0):
        svi.step(x)
print(collapse_report(model, guide, data.test))
