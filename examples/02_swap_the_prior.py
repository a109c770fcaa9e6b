"""The same skip VAE under six priors: each is one argument.

    python examples/02_swap_the_prior.py [--smoke]
"""

import sys

import pyro
from pyro.optim import Adam

from pyro_skipvae import VAE, collapse_report, fit, load_data, svi_step
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import DiagonalNormal, VonMisesFisherPosterior
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import AR1, MixtureOfNormals, NormalizingFlow, StandardNormal, UniformSphere, VampPrior

data = load_data("digits")
SEQUENCE = (5, 2)  # z of five steps with two channels each
priors = {
    "standard normal": lambda encoder: StandardNormal(10),
    "mixture of normals": lambda encoder: MixtureOfNormals(10, components=10),
    "VampPrior": lambda encoder: VampPrior(encoder, data.train.probabilities[:50]),
    "normalizing flow": lambda encoder: NormalizingFlow(10),
    "AR(1)": lambda encoder: AR1(*SEQUENCE, correlation=0.7),
    "uniform on a sphere": lambda encoder: UniformSphere(10),
}
latent_dims = {"AR(1)": SEQUENCE}
posteriors = {"uniform on a sphere": VonMisesFisherPosterior}  # a posterior has to live where its prior does

for name, make_prior in priors.items():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    latent_dim, posterior = latent_dims.get(name, 10), posteriors.get(name, DiagonalNormal)
    encoder = MLPEncoder(data.event_shape, latent_dim, hidden=(200,), posterior=posterior)
    vae = VAE(make_prior(encoder), MLPDecoder(latent_dim, data.event_shape, layers=2, width=200), encoder)
    step = svi_step(vae.model, vae.guide, elbo, Adam({"lr": 1e-3}), max_norm=5.0)
    for _ in fit(step, data.batches("train", 64, seed=0), epochs=1 if "--smoke" in sys.argv else 100):
        pass
    report = collapse_report(vae.model, vae.guide, data.test)
    print(f"{name:20s} ELBO {report.elbo:7.2f}   rate {report.rate:5.2f}   {report.verdict}")
