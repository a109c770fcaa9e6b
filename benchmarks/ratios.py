"""Ratios of two ways to the same result: one thread, CPU time, interleaved round by round in alternating order.

    python benchmarks/ratios.py [NAME...]        # prints a table; writes results/benchmarks.json

A ratio is the median over rounds of (time of the reference) / (time of ours) in the same round, so above 1 means faster. Ratios
repeat to about 5 %. Each pair is first checked to give the same numbers.
"""

import json
import platform
import statistics
import sys
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from baselines import authors_pixelcnn
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import VAE, svi_step
from pyro_skipvae.decoders import MLPDecoder, PixelCNNDecoder
from pyro_skipvae.diagnostics.estimates.pairwise import leave_one_out, pairwise_log_prob
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.skip import SkipMaps


def cached_sampling():
    """64 images of 28x28 from a 9-layer PixelCNN: cached activations against a full pass for each pixel.

    The full passes are counted, not run: 784 times one measured pass."""
    decoder, z = PixelCNNDecoder(50, (28, 28)), torch.randn(64, 50)
    x, eta = decoder.generate(z)
    assert torch.allclose(decoder.natural_parameters(x, z), eta, atol=1e-5)
    return lambda: decoder.generate(z), lambda: decoder.natural_parameters(x, z), 784, 3


def stacked_latent_maps():
    """All ten maps U_l z of a PixelCNN by one product against one product each, forward and backward, batch 64."""
    stacked, z = SkipMaps(50, {l: 784 for l in range(10)}, bias=True), torch.randn(64, 50)
    each = nn.ModuleList(nn.Linear(50, 784) for _ in range(10))
    return (
        lambda: torch.autograd.backward([sum(u.sum() for u in stacked(z).values())]),
        lambda: torch.autograd.backward([sum(u(z).sum() for u in each)]),
        1,
        50,
    )


def svi_step_against_a_loop_by_hand(compile=False):
    """A training step of the 4-layer MLP skip VAE, batch 128: SVI with Trace_ELBO against the same written out in torch."""
    vae = VAE(StandardNormal(50), MLPDecoder(50, (28, 28)), MLPEncoder((28, 28), 50))
    other = VAE(StandardNormal(50), MLPDecoder(50, (28, 28)), MLPEncoder((28, 28), 50))
    x, optim = torch.rand(128, 28, 28).bernoulli(), torch.optim.Adam(other.parameters(), lr=1e-3, fused=True)
    step = svi_step(vae.model, vae.guide, elbo, Adam({"lr": 1e-3, "fused": True}), max_norm=5.0, compile=compile)

    def by_hand():
        features = other.encoder.network(x.flatten(1))
        loc, log_variance = other.encoder.posterior.parameters_of(features).chunk(2, -1)
        z = loc + (log_variance / 2).exp() * torch.randn_like(loc)
        logits = other.decoder.network(z)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="sum")
        loss = (loss + 0.5 * (loc.square() + log_variance.exp() - 1 - log_variance).sum()) / len(x)
        optim.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(other.parameters(), 5.0)
        optim.step()
        return loss.item()

    return lambda: float(step(x)), by_hand, 1, 10


def compiled_step_against_a_loop_by_hand():
    """The same step as one compiled graph, against the same loop."""
    return svi_step_against_a_loop_by_hand(compile=True)


def overhead_of_a_step(compile=False):
    """A step of a net so small that only overhead is left: Pyro's own SVI and Trace_ELBO against ours."""
    vae, other = (VAE(StandardNormal(2), MLPDecoder(2, (16,), layers=2, width=8), small_encoder()) for _ in range(2))
    x = torch.rand(4, 16).bernoulli()
    step = svi_step(vae.model, vae.guide, elbo, Adam({"lr": 1e-3, "fused": True}), max_norm=5.0, compile=compile)
    pyros = SVI(Renamed(other).model, Renamed(other).guide, Adam({"lr": 1e-3}), Trace_ELBO())
    return lambda: step(x), lambda: pyros.step(x), 1, 200


def overhead_of_a_compiled_step():
    """The same as one compiled graph."""
    return overhead_of_a_step(compile=True)


def small_encoder():
    return MLPEncoder((16,), 2, hidden=(8, 8))


class Renamed:
    """Model and guide of a VAE under other names, since Pyro's parameter store holds one model of a name."""

    def __init__(self, vae):
        self.vae = vae

    def model(self, x):
        pyro.module("other decoder", self.vae.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.vae.prior())
            pyro.sample("x", self.vae.decoder(z), obs=x)

    def guide(self, x):
        pyro.module("other encoder", self.vae.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.vae.encoder(x))


def pixelcnn_passes(bf16=False, compile=False):
    """Forward and backward of the 9-layer PixelCNN, batch 16: the authors' structure against ours."""
    decoder, x, z = PixelCNNDecoder(50, (28, 28)), torch.rand(16, 28, 28).bernoulli(), torch.randn(16, 50)
    assert torch.allclose(authors_pixelcnn.natural_parameters(decoder, x, z), decoder.natural_parameters(x, z), atol=1e-5)

    def passes(natural_parameters):
        nn.functional.binary_cross_entropy_with_logits(natural_parameters(x, z)[:, 0], x, reduction="sum").backward()
        decoder.zero_grad()

    def network(x, z):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return decoder.natural_parameters(x, z).float()

    ours = torch.compile(network) if compile else network
    return lambda: passes(ours), lambda: passes(lambda x, z: authors_pixelcnn.natural_parameters(decoder, x, z)), 1, 1


def pixelcnn_passes_in_bfloat16():
    """The same, ours in bfloat16."""
    return pixelcnn_passes(bf16=True)


def pixelcnn_passes_compiled():
    """The same, ours compiled."""
    return pixelcnn_passes(compile=True)


def pixelcnn_passes_compiled_in_bfloat16():
    """The same, ours compiled and in bfloat16."""
    return pixelcnn_passes(bf16=True, compile=True)


def aggregated_posterior():
    """log q(z_i | x_j) of 200 z against 10,000 posteriors, D = 50, and their sums: matrix products against one z at a time."""
    loc = 2 * torch.randn(10_000, 50, dtype=torch.float64)
    q = dist.Normal(loc, torch.rand_like(loc) + 0.1).to_event(1)
    z, pairs = q.sample()[:200], [pairwise_log_prob(q)]

    def one_at_a_time():
        return torch.stack([q.log_prob(row).logsumexp(0) for row in z])

    own, others = leave_one_out(pairs, z, torch.arange(200))
    assert torch.allclose(torch.logaddexp(own, others), one_at_a_time(), atol=1e-8)
    return lambda: leave_one_out(pairs, z, torch.arange(200)), one_at_a_time, 1, 1


BENCHMARKS = [
    cached_sampling,
    aggregated_posterior,
    stacked_latent_maps,
    svi_step_against_a_loop_by_hand,
    compiled_step_against_a_loop_by_hand,
    overhead_of_a_step,
    overhead_of_a_compiled_step,
    pixelcnn_passes,
    pixelcnn_passes_in_bfloat16,
    pixelcnn_passes_compiled,
    pixelcnn_passes_compiled_in_bfloat16,
]


def measure(make, rounds=7):
    """The ratio and the median CPU seconds of ours and of the reference."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    ours, reference, factor, repeats = make()
    times = []
    for number in range(rounds + 1):
        pair = {}
        for name, function in sorted({"ours": ours, "reference": reference}.items(), reverse=number % 2):
            start = time.process_time()
            for _ in range(repeats):
                function()
            pair[name] = (time.process_time() - start) / repeats
        times.append((pair["ours"], factor * pair["reference"]))
    times = times[1:]  # the first round warms up
    return {
        "what": " ".join(make.__doc__.split()),
        "ratio": statistics.median(reference / ours for ours, reference in times),
        "seconds": statistics.median(ours for ours, _ in times),
        "reference_seconds": statistics.median(reference for _, reference in times),
        "rounds": rounds,
    }


def main(names):
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as `svi_step` advises; Adam keeps denormal numbers here, which take twice the time
    path = Path(__file__).parents[1] / "results" / "benchmarks.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for make in BENCHMARKS:
        if not names or make.__name__ in names:
            with torch.no_grad() if make is cached_sampling else torch.enable_grad():
                results[make.__name__] = measure(make)
            row = results[make.__name__]
            print(f"{make.__name__:36s} {row['ratio']:8.2f} x   {row['seconds'] * 1e3:10.2f} ms")
            results["machine"] = {"torch": torch.__version__, "threads": 1, "cpu": platform.processor() or platform.machine()}
            path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
