"""The 9-layer PixelCNN of 28x28: passes in training, sampling, importance sampling; ours and the authors' structure."""

import pyro.distributions as dist
import torch
from baselines import authors_evaluation, authors_pixelcnn
from interleaved import Comparison
from torch import nn

from pyro_skipvae import VAE
from pyro_skipvae.decoders import PixelCNNDecoder
from pyro_skipvae.diagnostics.estimates.log_likelihood import importance_estimate
from pyro_skipvae.diagnostics.pairs.pair import Pair
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.priors import StandardNormal


def decoder_of(small):
    return PixelCNNDecoder(50, (28, 28), layers=2 if small else 9, maps=4 if small else 32)


def passes(small):
    """Forward and backward, batch 16: the authors' structure; ours, in bfloat16, compiled, compiled in bfloat16."""
    decoder, x, z = decoder_of(small), torch.rand(16, 28, 28).bernoulli(), torch.randn(16, 50)

    def authors(x, z):
        return authors_pixelcnn.natural_parameters(decoder, x, z)

    def bfloat16(x, z):
        with torch.autocast(x.device.type, torch.bfloat16):
            return decoder.natural_parameters(x, z).float()

    def both(natural_parameters):
        nn.functional.binary_cross_entropy_with_logits(natural_parameters(x, z)[:, 0], x, reduction="sum").backward()
        decoder.zero_grad()

    assert torch.allclose(authors(x, z), decoder.natural_parameters(x, z), atol=1e-5)
    ways = {"authors": authors, "ours": decoder.natural_parameters, "bf16": bfloat16}
    if not small:  # minutes of a compiler
        ways |= {"compiled": torch.compile(decoder.natural_parameters), "compiled bf16": torch.compile(bfloat16)}
    return Comparison({name: lambda way=way: both(way) for name, way in ways.items()}, repeats=2, rounds=5)


@torch.no_grad()
def sampling(small):
    """64 images: with cached activations, and one full pass, of which an image takes one for each pixel."""
    decoder, z = decoder_of(small), torch.randn(64, 50)
    x, eta = decoder.generate(z)
    assert torch.allclose(decoder.natural_parameters(x, z), eta, atol=1e-5)
    ways = {"cached": lambda: decoder.generate(z), "one pass": lambda: decoder.natural_parameters(x, z)}
    return Comparison({name: torch.no_grad()(way) for name, way in ways.items()}, repeats=2)


@torch.no_grad()
def importance_sampling(small):
    """log p(x) of an image, K = 200: the authors' structure in one pass, ours in chunks as a report has them."""
    samples, decoder = 20 if small else 200, decoder_of(small).eval()
    x = torch.rand(4, 28, 28).bernoulli()
    vae = VAE(StandardNormal(50), decoder, MLPEncoder((28, 28), 50)).eval()
    pair = Pair(vae.model, vae.guide, x)
    chunks = list(pair.chunks())
    loc, scale = (part[0] for part in (chunks[0].q.mean, chunks[0].q.stddev))
    z = chunks[0].draws(8)[0][:, 0]
    log_x, log_p = pair.log_joint(torch.zeros(8, dtype=torch.long), {"z": z})
    found = log_x + log_p["z"] - dist.Normal(loc, scale).to_event(1).log_prob(z)
    assert torch.allclose(found, authors_evaluation.log_weights(decoder, x[0], z, loc, scale), atol=1e-3)

    def authors():
        draws = loc + scale * torch.randn(samples, len(loc))
        return authors_evaluation.log_weights(decoder, x[0], draws, loc, scale).logsumexp(0)

    def ours():
        return importance_estimate(pair, chunks, points=1, samples=samples)

    return Comparison({"authors": torch.no_grad()(authors), "ours": torch.no_grad()(ours)}, rounds=5)
