"""An epoch in the form of Pyro's own VAE example: SVI, Trace_ELBO, `pyro.module`, probabilities, a DataLoader."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch.utils.data import DataLoader, TensorDataset


def epoch(vae, images, batch):
    """() -> the mean loss of a pass over the images with the networks of `vae`."""
    decoder, encoder = vae.decoder.network, vae.encoder

    def model(x):
        pyro.module("example decoder", decoder)
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(len(x), 50), x.new_ones(len(x), 50))
            z = pyro.sample("latent", prior.to_event(1))
            probabilities = torch.sigmoid(decoder(z))
            pyro.sample("obs", dist.Bernoulli(probabilities, validate_args=False).to_event(1), obs=x)

    def guide(x):
        pyro.module("example encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_variance = encoder.posterior.parameters_of(encoder.network(x)).chunk(2, 1)
            pyro.sample("latent", dist.Normal(loc, torch.exp(log_variance / 2)).to_event(1))

    svi = SVI(model, guide, Adam({"lr": 1e-3}), Trace_ELBO())
    loader = DataLoader(TensorDataset(images.flatten(1)), batch_size=batch, shuffle=True)
    return lambda: sum(svi.step(x) for (x,) in loader) / len(images)
