"""A remedy of your own is one function: an objective in which a lack of rate costs tenfold.

    python examples/18_your_own_remedy.py [--smoke]
"""

import sys

import pyro
from pyro import poutine
from pyro.optim import Adam
from torch.distributions import kl_divergence

from pyro_skipvae import VAE, collapse_report, fit, load_data, svi_step
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.objectives import analytic_elbo
from pyro_skipvae.priors import StandardNormal

LEAST = 8.0  # nats for each datapoint


def rate_of_at_least(model, guide, x, beta=1.0):
    """Nats, summed over the batch: distortion + rate + 10 max(0, LEAST - rate)."""
    drawn = poutine.trace(guide).get_trace(x)
    scored = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(x)
    rate = kl_divergence(drawn.nodes["z"]["fn"], scored.nodes["z"]["fn"]).sum()
    distortion = -scored.nodes["x"]["fn"].log_prob(x).sum()
    return distortion + rate + 10 * (LEAST * len(x) - rate).clamp(min=0)


data = load_data("digits")
for name, objective in {"the ELBO": analytic_elbo, "your own": rate_of_at_least}.items():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    encoder = MLPEncoder(data.event_shape, 10, hidden=(200,))
    vae = VAE(StandardNormal(10), MLPDecoder(10, data.event_shape, layers=6, width=100, skip="none"), encoder)
    step = svi_step(vae.model, vae.guide, objective, Adam({"lr": 1e-3}), max_norm=5.0)
    for _ in fit(step, data.batches("train", 64, seed=0), epochs=1 if "--smoke" in sys.argv else 60):
        pass
    report = collapse_report(vae.model, vae.guide, data.test)
    print(f"{name}: ELBO {report.elbo:.2f}, rate {report.rate:.2f} nats, {report.active_units} of 10 units active")
