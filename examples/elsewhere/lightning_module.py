"""A VAE as a LightningModule, trained by Lightning, and its report.

pip install lightning
python examples/elsewhere/lightning_module.py [--smoke]
"""

import sys

import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from pyro_skipvae import as_pair, collapse_report, load_data
from pyro_skipvae.data.torchvision_shim import load_torchvision

load_torchvision()  # lightning imports it, which fails beside a torch that torchvision was not built for
import lightning  # noqa: E402


class LitVAE(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, 20))
        self.decoder = nn.Sequential(nn.Linear(10, 200), nn.ReLU(), nn.Linear(200, 64))

    def encode(self, x):
        loc, log_scale = self.encoder(x).chunk(2, dim=-1)
        return Normal(loc, log_scale.exp())

    def decode(self, z):
        return Bernoulli(logits=self.decoder(z))

    def training_step(self, x, _):
        q = self.encode(x)
        rate = kl_divergence(q, Normal(0.0, 1.0)).sum()
        return (rate - self.decode(q.rsample()).log_prob(x).sum()) / len(x)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


lightning.seed_everything(0, verbose=False)
data = load_data("digits", binarisation="static")
x_train, x_test = data.train.flatten(1), data.test.flatten(1)
lit = LitVAE()
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = lightning.Trainer(max_epochs=1 if "--smoke" in sys.argv else 100, accelerator="cpu", **quiet)
trainer.fit(lit, torch.utils.data.DataLoader(x_train, 64, shuffle=True))

model, guide = as_pair(lit.encode, lit.decode)
print(collapse_report(model, guide, x_test, fit_on=x_train))
