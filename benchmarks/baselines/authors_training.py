"""An epoch of an MLP VAE in the style of the paper's authors: a port of the structure, not of the text.

A DataLoader, probabilities and their cross-entropy, the rate by hand, the norm clipped, torch's default Adam, and
two numbers of tensors in each step.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def epoch(vae, images, batch):
    """() -> the mean loss of a pass over the images with the networks of `vae`."""
    loader = DataLoader(TensorDataset(images.flatten(1)), batch_size=batch, shuffle=True)
    optim = torch.optim.Adam(vae.parameters(), lr=1e-3)

    def run():
        total, rate = 0.0, 0.0
        for (x,) in loader:
            optim.zero_grad()
            loc, log_variance = vae.encoder.posterior.parameters_of(vae.encoder.network(x)).chunk(2, 1)
            z = loc + torch.exp(0.5 * log_variance) * torch.randn_like(loc)
            probabilities = torch.sigmoid(vae.decoder.network(z))
            distortion = nn.functional.binary_cross_entropy(probabilities, x, reduction="sum") / len(x)
            kl = -0.5 * torch.sum(1 + log_variance - loc.pow(2) - log_variance.exp()) / len(x)
            (distortion + kl).backward()
            nn.utils.clip_grad_norm_(vae.parameters(), 5.0)
            optim.step()
            total, rate = total + distortion.item() * len(x), rate + kl.item() * len(x)
        return (total + rate) / len(images)

    return run
