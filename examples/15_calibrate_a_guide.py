"""Calibrate a guide: are its posteriors where they should be, and as wide?

    python examples/15_calibrate_a_guide.py [--smoke]

The guide of a trained VAE, the same made ten times too narrow, and one that returns the prior, on data that the model draws.
"""

import sys

import pyro.distributions as dist
import torch
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import as_pair, fit, load_data, svi_step
from pyro_skipvae.diagnostics import calibration
from pyro_skipvae.objectives import analytic_elbo

smoke = "--smoke" in sys.argv
torch.manual_seed(0)
data = load_data("digits", binarisation="static")
encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * 4))
decoder = nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 64), nn.Unflatten(1, (8, 8)))


def encode(x, narrow=1.0):
    loc, log_scale = encoder(x).chunk(2, -1)
    return loc, log_scale.exp() / narrow


def prior(x):
    return dist.Normal(x.new_zeros(len(x), 4), 1.0)


model, guide = as_pair(encode, decoder, likelihood="bernoulli")
step = svi_step(model, guide, analytic_elbo, Adam({"lr": 2e-3}))
*_, last = fit(step, data.batches("train", 64, seed=0), epochs=1 if smoke else 60)
print(f"trained: loss {last.loss:.2f} nats")
guides = {"the guide": encode, "ten times too narrow": lambda x: encode(x, 10.0), "the prior": prior}
for name, posterior in guides.items():
    pair = as_pair(posterior, decoder, likelihood="bernoulli")
    print(f"\n{name}\n{calibration(*pair, data.test, simulations=50 if smoke else 500, draws=19 if smoke else 99)}")
