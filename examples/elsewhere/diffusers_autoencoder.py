"""AutoencoderKL of diffusers, a small one built and trained here, and its report.

    pip install diffusers
    python examples/elsewhere/diffusers_autoencoder.py [--smoke]

A pretrained one goes the same way: AutoencoderKL.from_pretrained(...).
"""

import sys

import torch

from pyro_skipvae import as_pair, collapse_report, load_data
from pyro_skipvae.data.torchvision_shim import load_torchvision

load_torchvision()  # diffusers imports it, which fails beside a torch that torchvision was not built for
from diffusers import AutoencoderKL  # noqa: E402

torch.manual_seed(0)
data = load_data("digits", binarisation="none")
x_train, x_test = data.train[:, None] * 2 - 1, data.test[:, None] * 2 - 1
blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
sizes = {"in_channels": 1, "out_channels": 1, "block_out_channels": (16, 16), "norm_num_groups": 4, "latent_channels": 2}
vae = AutoencoderKL(**blocks, **sizes, sample_size=8)
NOISE, BETA = 0.2, 1.0  # of p(x|z), which diffusers leaves open; published autoencoders have a beta of about 1e-6


def encode(x):
    q = vae.encode(x).latent_dist
    return q.mean, q.std


def decode(z):
    return torch.distributions.Normal(vae.decode(z).sample, NOISE)


model, guide = as_pair(encode, decode)
optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3)
for _ in range(1 if "--smoke" in sys.argv else 10):
    for x in x_train[: 128 if "--smoke" in sys.argv else None].split(64):
        q = vae.encode(x).latent_dist
        loss = (BETA * q.kl().sum() - decode(q.sample()).log_prob(x).sum()) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

few = {"importance_samples": 20, "posterior_samples": 2} if "--smoke" not in sys.argv else {"importance_samples": 1}
print(collapse_report(model, guide, x_test[: 30 if "--smoke" in sys.argv else 200], fit_on=x_train[:200], **few))
