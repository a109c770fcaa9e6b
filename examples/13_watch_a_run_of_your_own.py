"""Watch a training loop of your own: is z used, when is it given up, and what might help.

    python examples/13_watch_a_run_of_your_own.py [--smoke]

A plain torch model whose noise is set too large: z is used at first, and pays for itself no more once beta has risen.
"""

import sys

import torch
from pyro.optim import Adam
from torch import nn
from torch.distributions import Normal

from pyro_skipvae import as_pair, fit, load_data, svi_step
from pyro_skipvae.diagnostics import Monitor, predict_collapse
from pyro_skipvae.objectives import analytic_elbo

torch.manual_seed(0)
data = load_data("digits", binarisation="none")
x_train, x_valid = data.train.flatten(1), data.valid.flatten(1)
encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * 8))
decoder = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64))


def encode(x):
    loc, log_scale = encoder(x).chunk(2, -1)
    return loc, log_scale.exp()


print(predict_collapse(x_train, sigma=1.0, latent_dim=8).sentence)
model, guide = as_pair(encode, decoder, likelihood=lambda loc: Normal(loc, 1.0))
step = svi_step(model, guide, analytic_elbo, Adam({"lr": 1e-3}))
monitor = Monitor(model, guide, x_valid, every=100)
epochs = 2 if "--smoke" in sys.argv else 60
for _ in fit(step, x_train.split(64), epochs=epochs, beta=lambda number: min(1.0, 0.01 + number / 800), callback=monitor):
    pass
for record in monitor.records:
    print(record)
