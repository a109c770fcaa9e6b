"""A VAE in plain torch, trained by a loop of its own, and its report.

python examples/elsewhere/plain_torch.py [--smoke]
"""

import sys

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_skipvae import as_pair, collapse_report, load_data

torch.manual_seed(0)
data = load_data("digits", binarisation="static")
x_train, x_test = data.train.flatten(1), data.test.flatten(1)
encoder = nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 20))
decoder = nn.Sequential(nn.Linear(10, 200), nn.ReLU(), nn.Linear(200, 64))


def encode(x):
    loc, log_variance = encoder(x).chunk(2, dim=-1)
    return loc, (log_variance / 2).exp()


optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
for _ in range(1 if "--smoke" in sys.argv else 100):
    for x in x_train.split(64):
        loc, scale = encode(x)
        z = loc + scale * torch.randn_like(scale)
        rate = 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log()).sum()
        loss = (binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") + rate) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

model, guide = as_pair(encode, decoder, likelihood="bernoulli")
print(collapse_report(model, guide, x_test, fit_on=x_train))
