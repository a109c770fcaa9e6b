"""delta-VAE: a prior that no factorised posterior can reach, so that the rate cannot collapse; in plain Pyro.

    python examples/11_delta_vae.py [--smoke]
"""

import sys

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import collapse_report, load_data
from pyro_skipvae.decoders import PixelCNNDecoder
from pyro_skipvae.priors import AR1, correlation_for

ROWS, CHANNELS, RATE = 8, 4, 6.0  # one latent vector for each row of an image; nats
data = load_data("digits")


class AntiCausalEncoder(nn.Module):
    """x (B, 8, 8) -> q(z|x): z_t is read from the rows from t on, by a network that goes through them in reverse."""

    def __init__(self):
        super().__init__()
        self.network, self.output = nn.GRU(8, 64, batch_first=True), nn.Linear(64, 2 * CHANNELS)

    def forward(self, x):
        states, _ = self.network(x.flip(1))
        loc, log_scale = self.output(states.flip(1)).chunk(2, -1)  # (B, ROWS, CHANNELS) each
        return dist.Normal(loc, log_scale.exp()).to_event(2)


torch.manual_seed(0)
prior = AR1(ROWS, CHANNELS, correlation=correlation_for(RATE, ROWS, CHANNELS))
encoder = AntiCausalEncoder()
decoder = PixelCNNDecoder((ROWS, CHANNELS), data.event_shape, layers=2, maps=8, skip="all")  # row t sees z up to step t


def model(x):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior())
        pyro.sample("x", decoder(z), obs=x)


def guide(x):
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        pyro.sample("z", encoder(x))


svi = SVI(model, guide, Adam({"lr": 2e-3}), TraceMeanField_ELBO())  # the KL from an AR(1) has a closed form
for _ in range(1 if "--smoke" in sys.argv else 60):
    for x in data.batches("train", 64, seed=0):
        svi.step(x)

report = collapse_report(model, guide, data.test[:100], importance_samples=2 if "--smoke" in sys.argv else 100)
print(f"committed {prior.committed_rate():.2f} nats, rate {report.rate:.2f}; information between "
      f"{report.mi_lower.value:.2f} and {report.mi_upper.value:.2f}, which is not committed\n{report.verdict}")  # fmt: skip
