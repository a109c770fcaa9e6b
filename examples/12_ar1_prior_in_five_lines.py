"""An AR(1) prior in a pair of one's own: the five lines marked (1) to (5) are all that changes.

    python examples/12_ar1_prior_in_five_lines.py [--smoke]
"""

import sys

import pyro
import pyro.distributions as dist
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import collapse_report, load_data
from pyro_skipvae.priors import AR1, committed_rate  # (1)

data = load_data("digits")
encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 2 * 32))
decoder = nn.Sequential(nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 64))
prior = AR1(8, 4, correlation=0.8)  # (2) the 32 dimensions are 8 steps of 4 channels


def model(x):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior())  # (3) was dist.Normal(zeros, ones).to_event(1)
        logits = decoder(z.flatten(-2))  # (4)
        pyro.sample("x", dist.Bernoulli(logits=logits.unflatten(-1, (8, 8))).to_event(2), obs=x)


def guide(x):
    pyro.module("encoder", encoder)
    loc, log_scale = encoder(x).unflatten(-1, (8, 8)).chunk(2, -1)  # (5) was .chunk(2, -1) alone
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(loc.dim() - 1))


svi = SVI(model, guide, Adam({"lr": 2e-3}), TraceMeanField_ELBO())
for _ in range(1 if "--smoke" in sys.argv else 50):
    for x in data.batches("train", 64, seed=0):
        svi.step(x)

report = collapse_report(model, guide, data.test, importance_samples=10)
print(f"no rate is below {committed_rate(8, [0.8] * 4):.2f} nats: it is {report.rate:.2f}\n{report.verdict}")
