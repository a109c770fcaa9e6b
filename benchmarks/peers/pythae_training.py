"""An epoch of pythae's trainer on its VAE with our networks."""

import contextlib
import importlib.util
import io
import tempfile

import torch
from torch import nn

from . import INSTALL

MISSING = {} if importlib.util.find_spec("pythae") else {"pythae": INSTALL}


def epoch(vae, images, batch):
    """() -> the mean loss of a pass over the images with the networks of `vae`, by `BaseTrainer.train_step`."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self):
            nn.Module.__init__(self)
            self.encoder = vae.encoder

        def forward(self, x):
            loc, log_variance = self.encoder.posterior.parameters_of(self.encoder.network(x)).chunk(2, 1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self):
            nn.Module.__init__(self)
            self.decoder = vae.decoder.network

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.decoder(z)))

    config = VAEConfig(input_dim=(784,), latent_dim=50, reconstruction_loss="bce")
    data = BaseDataset(images.flatten(1), torch.zeros(len(images)))
    how = BaseTrainerConfig(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch, learning_rate=1e-3, no_cuda=True)
    with contextlib.redirect_stderr(io.StringIO()):
        trainer = BaseTrainer(VAE(config, Encoder(), Decoder()), data, training_config=how)
        trainer.prepare_training()

    def run():
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return float(trainer.train_step(1))

    return run
