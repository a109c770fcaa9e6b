"""What refining costs: a training step of each variant against one amortized step, one thread, CPU time, interleaved.

    python benchmarks/semi_amortized.py [mlp] [lstm] [--write]     # prints a table; --write keeps results/semi_amortized.json

A ratio is the median over rounds of (time of the variant) / (time of the amortized step) in the same round, K = 10 steps.
"""

import json
import platform
import statistics
import sys
import time
from pathlib import Path

import pyro
import torch
from interleaved import Comparison
from pyro.optim import Adam

from pyro_skipvae import VAE, svi_step
from pyro_skipvae.decoders import LSTMDecoder, MLPDecoder
from pyro_skipvae.encoders import LSTMEncoder, MLPEncoder
from pyro_skipvae.guides import SemiAmortized
from pyro_skipvae.guides.refinement import GRADIENTS
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal

BARS = {"mlp": {"exact": 15, "finite-difference": 19, "first-order": 6}, "lstm": {"exact": 22}}


def mlp():
    """784-512-512-50 encoder, decoder of four layers of 512 with skips, batch 64."""
    vae = VAE(StandardNormal(50), MLPDecoder(50, (28, 28)), MLPEncoder((28, 28), 50))
    return vae, torch.rand(64, 28, 28).bernoulli()


def lstm():
    """LSTMs of 128 units, words of 128, vocabulary 5,000, z of 32, batch 32, 20 words."""
    sizes = {"embedding": 128, "width": 128}
    vae = VAE(StandardNormal(32), LSTMDecoder(5000, 32, max_length=21, **sizes), LSTMEncoder(5000, 32, **sizes))
    x = torch.randint(4, 5000, (32, 21))
    x[:, -1] = 2
    return vae, x


def steps_of(make):
    """A training step with the amortized guide, and one with each variant, all on one model."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    vae, x = make()
    guides = {"amortized": vae.guide} | {name: SemiAmortized(vae.model, vae.guide, gradient=name) for name in GRADIENTS}
    for name, guide in guides.items():
        step = svi_step(vae.model, guide, elbo, Adam({"lr": 1e-4, "fused": True}), max_norm=5.0)
        yield name, lambda step=step: seconds_of(step, x)


def plain_and_exact(small):
    """A step of the MLP: amortized, and through 10 steps of refinement with the exact gradient."""
    ways = dict(steps_of(mlp))
    return Comparison({name: ways[name] for name in ("amortized", "exact")}, repeats=1 if small else 5)


def seconds_of(step, x):
    start = time.process_time()
    step(x)
    return time.process_time() - start


def measure(make, rounds=9):
    """The median ratio of each variant, and the seconds of an amortized step."""
    steps = list(steps_of(make))
    times = {name: [] for name, _ in steps}
    for number in range(rounds + 1):
        for name, run in reversed(steps) if number % 2 else steps:
            times[name].append(statistics.median(run() for _ in range(5 if name == "amortized" else 1)))
    plain = times["amortized"][1:]  # the first round warms up
    ratios = {name: statistics.median(t / one for t, one in zip(times[name][1:], plain, strict=True)) for name in GRADIENTS}
    return {"what": " ".join(make.__doc__.split()), "seconds": statistics.median(plain), "rounds": rounds, "ratios": ratios}


def main(arguments):
    torch.set_num_threads(1)
    names = [name for name in arguments if not name.startswith("-")] or ["mlp", "lstm"]
    results = {"machine": {"torch": torch.__version__, "threads": 1, "cpu": platform.processor() or platform.machine()}}
    for name in names:
        results[name] = measure({"mlp": mlp, "lstm": lstm}[name])
        print(f"{name}: {results[name]['what']} Amortized step {results[name]['seconds'] * 1e3:.1f} ms")
        for variant, ratio in results[name]["ratios"].items():
            print(f"    {variant:20s} {ratio:6.2f} x   bar {BARS[name].get(variant, '-')}")
    if "--write" in arguments:
        (Path(__file__).parents[1] / "results" / "semi_amortized.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
