"""SCVI of scvi-tools on counts, trained by scvi-tools, and its report.

    pip install scvi-tools
    python examples/elsewhere/scvi_model.py [--smoke]

scVI reads the library size of a cell, log of its counts in total, and its batch beside z: they are context here.
"""

import sys

import anndata
import torch

from pyro_skipvae import as_pair, collapse_report
from pyro_skipvae.data.torchvision_shim import load_torchvision

load_torchvision()  # lightning imports it, which fails beside a torch that torchvision was not built for
import scvi  # noqa: E402

scvi.settings.seed = 0
programs = torch.distributions.Gamma(0.3, 1.0).sample((4, 100))  # four cell programs over 100 genes
mixture = torch.distributions.Dirichlet(torch.full((4,), 0.5)).sample((600,))
counts = torch.poisson(5 * mixture @ programs)
cells = anndata.AnnData(counts.numpy())
scvi.model.SCVI.setup_anndata(cells)
scvi_model = scvi.model.SCVI(cells, n_latent=8, gene_likelihood="nb")
epochs = 1 if "--smoke" in sys.argv else 100
scvi_model.train(epochs, accelerator="cpu", enable_progress_bar=False, logger=False, train_size=1.0)
module = scvi_model.module


def encode(x, library, batch):
    return module.inference(x, batch)["qz"]


def decode(z, library, batch):
    return module.generative(z, library, batch)["px"]


model, guide = as_pair(encode, decode)
x = counts[counts.sum(1) > 0]
print(collapse_report(model, guide, (x, x.sum(1, keepdim=True).log(), torch.zeros(len(x), 1))))
