"""A conditional model: p(x|z, y) with a prior p(z|y), where y is the class of an image; and what is left for z to say.

    python examples/16_a_conditional_model.py [--smoke]

Data with a context are a tuple (x, y): model and guide are called with both, and so is the report.
"""

import sys

import pyro.distributions as dist
import torch
from pyro.optim import Adam
from torch import nn
from torch.nn.functional import one_hot

from pyro_skipvae import as_pair, collapse_report, fit, load_data, svi_step
from pyro_skipvae.objectives import analytic_elbo

torch.manual_seed(0)
data = load_data("digits", binarisation="static")
x_train, x_test = data.train.flatten(1), data.test.flatten(1)
y_train, y_test = (one_hot(data.labels[split], 10).float() for split in ("train", "test"))
encoder = nn.Sequential(nn.Linear(64 + 10, 128), nn.ReLU(), nn.Linear(128, 2 * 8))
decoder = nn.Sequential(nn.Linear(8 + 10, 128), nn.ReLU(), nn.Linear(128, 64))
prior_network = nn.Linear(10, 2 * 8)


def normal(parameters):
    loc, log_scale = parameters.chunk(2, -1)
    return dist.Normal(loc, log_scale.exp())


pair = as_pair(
    lambda x, y: normal(encoder(torch.cat([x, y], 1))),
    lambda z, y: decoder(torch.cat([z, y], 1)),
    prior=lambda y: normal(prior_network(y)),
    likelihood="bernoulli",
)
step = svi_step(*pair, analytic_elbo, Adam({"lr": 2e-3}))
batches = list(zip(x_train.split(64), y_train.split(64), strict=True))
for _ in fit(step, batches, epochs=1 if "--smoke" in sys.argv else 60):
    pass
report = collapse_report(*pair, (x_test, y_test), importance_samples=50)
print(report)
print(f"Given y, z says what costs {report.rate:.1f} nats; the decoder loses {report.shuffled_latent_loss:.1f} without it.")
