"""The same skip VAE under three priors: each is one argument.

    python examples/02_swap_the_prior.py [--smoke]
"""

import sys

import pyro
from pyro.optim import Adam

from pyro_skipvae import VAE, collapse_report, fit, load_data, svi_step
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import MixtureOfNormals, StandardNormal, VampPrior

data = load_data("digits")
priors = {
    "standard normal": lambda encoder: StandardNormal(10),
    "mixture of normals": lambda encoder: MixtureOfNormals(10, components=10),
    "VampPrior": lambda encoder: VampPrior(encoder, data.train.probabilities[:50]),
}

for name, make_prior in priors.items():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    encoder = MLPEncoder(data.event_shape, 10, hidden=(200,))
    vae = VAE(make_prior(encoder), MLPDecoder(10, data.event_shape, layers=2, width=200), encoder)
    step = svi_step(vae.model, vae.guide, elbo, Adam({"lr": 1e-3}), max_norm=5.0)
    for _ in fit(step, data.batches("train", 64, seed=0), epochs=1 if "--smoke" in sys.argv else 100):
        pass
    report = collapse_report(vae.model, vae.guide, data.test)
    print(f"{name:20s} ELBO {report.elbo:7.2f}   rate {report.rate:5.2f}   {report.verdict}")
