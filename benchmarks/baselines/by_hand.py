"""A training step of an MLP VAE written out in torch, as fast as can be: no Pyro, fused Adam, zero copies."""

import torch
from torch import nn


def step(vae, x):
    """() -> the loss of a step on x with the networks of `vae`: encoder, draw, decoder, clipping, Adam."""
    optim = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)

    def run():
        features = vae.encoder.network(x.flatten(1))
        loc, log_variance = vae.encoder.posterior.parameters_of(features).chunk(2, -1)
        z = loc + (log_variance / 2).exp() * torch.randn_like(loc)
        logits = vae.decoder.network(z)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="sum")
        loss = (loss + 0.5 * (loc.square() + log_variance.exp() - 1 - log_variance).sum()) / len(x)
        optim.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 5.0)
        optim.step()
        return loss.item()

    return run
