"""A VAE of pythae, trained by pythae, and its report.

pip install pythae
python examples/elsewhere/pythae_vae.py [--smoke]
"""

import sys
import tempfile

import torch
from pythae.models import VAE, VAEConfig
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig

from pyro_skipvae import as_pair, collapse_report, load_data

data = load_data("digits", binarisation="static")
x_train, x_valid, x_test = (split[:, None] for split in (data.train, data.valid, data.test))
vae = VAE(VAEConfig(input_dim=(1, 8, 8), latent_dim=10, reconstruction_loss="bce"))
with tempfile.TemporaryDirectory() as folder:
    epochs = 1 if "--smoke" in sys.argv else 50
    config = BaseTrainerConfig(folder, num_epochs=epochs, learning_rate=1e-3, no_cuda=True, seed=0)
    TrainingPipeline(vae, config)(x_train, x_valid)


def encode(x):
    found = vae.encoder(x)
    return found.embedding, (found.log_covariance / 2).exp()


def decode(z):  # reconstruction_loss="bce": p(x|z) is Bernoulli, and the reconstruction its mean
    return torch.distributions.Bernoulli(vae.decoder(z).reconstruction)


model, guide = as_pair(encode, decode)
print(collapse_report(model, guide, x_test, fit_on=x_train))
