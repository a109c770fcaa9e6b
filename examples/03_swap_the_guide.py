"""The same skip VAE with six families of posteriors: each is one argument of the encoder.

    python examples/03_swap_the_guide.py [--smoke]
"""

import sys
from functools import partial

import pyro
from pyro.optim import Adam

from pyro_skipvae import VAE, collapse_report, fit, load_data, svi_step
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import (
    BatchNormalisedNormal,
    DiagonalNormal,
    FullCovarianceNormal,
    InverseAutoregressiveFlow,
    MinimumRateNormal,
    PlanarFlow,
)
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal

data = load_data("digits")
posteriors = {
    "diagonal normal": DiagonalNormal,
    "full covariance": FullCovarianceNormal,
    "inverse autoregressive flow": InverseAutoregressiveFlow,
    "planar flow": PlanarFlow,
    "batch-normalised means": partial(BatchNormalisedNormal, rate=5.0),
    "minimum rate": partial(MinimumRateNormal, rate=5.0),
}

for name, posterior in posteriors.items():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    encoder = MLPEncoder(data.event_shape, 10, hidden=(200,), posterior=posterior)
    vae = VAE(StandardNormal(10), MLPDecoder(10, data.event_shape, layers=2, width=200), encoder)
    step = svi_step(vae.model, vae.guide, elbo, Adam({"lr": 1e-3}), max_norm=5.0)
    for _ in fit(step, data.batches("train", 64, seed=0), epochs=1 if "--smoke" in sys.argv else 100):
        pass
    report = collapse_report(vae.model, vae.guide, data.test)
    print(f"{name:28s} ELBO {report.elbo:7.2f}   log p(x) {report.log_likelihood:7.2f}   rate {report.rate:5.2f}")
