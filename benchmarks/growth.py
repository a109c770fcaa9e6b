"""How cost grows: time and memory against layers, latent dimensions, points, components, steps of refinement, draws and words.

    python benchmarks/growth.py [NAME...] [--minutes 60]

prints exponents and writes results/growth.json and docs/pictures/growth_*.png; `python benchmarks/table.py --markdown`
puts them into docs/performance.md. With a limit those go first whose measurement is oldest, and the rest keep theirs.

Each size runs in a process of its own: CPU seconds of one thread, the least of three if they are short, and the resident
memory that the work takes beyond what was there when it began. An exponent is the slope of a line through the logarithms of the
upper half of the sizes, where the fixed cost of a call weighs least: 1 is proportional, 0 flat.
"""

import argparse
import json
import math
import os
import resource
import time
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from interleaved import machine
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from pyro.optim import Adam

from pyro_skipvae import VAE, svi_step
from pyro_skipvae.decoders import LSTMDecoder, MLPDecoder
from pyro_skipvae.diagnostics import log_likelihood, mutual_information
from pyro_skipvae.encoders import LSTMEncoder, MLPEncoder
from pyro_skipvae.guides import SemiAmortized
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal

ROOT = Path(__file__).parents[1]
LONG = 10  # seconds, after which nothing is repeated
LEAST_BYTES = 8 * 2**20  # what the allocator has in reserve hides less than this


def images(batch=64):
    return torch.rand(batch, 28, 28).bernoulli()


def mlp(latent_dim=50, layers=4, width=256):
    return VAE(
        StandardNormal(latent_dim),
        MLPDecoder(latent_dim, (28, 28), layers=layers, width=width),
        MLPEncoder((28, 28), latent_dim),
    )


def step_of(vae, x, guide=None):
    step = svi_step(vae.model, guide or vae.guide, elbo, Adam({"lr": 1e-4, "fused": True}), max_norm=5.0)
    return lambda: step(x)


def layers(count):
    """A training step, MLP of so many layers of 256 with skips, batch 64."""
    return step_of(mlp(layers=count), images())


def latent_dimensions(count):
    """A training step, MLP of 4 layers of 256 with skips, so many latent dimensions, batch 64."""
    return step_of(mlp(count), images())


def refinement_steps(count):
    """A training step through so many steps of refinement, exact gradient, MLP of 2 layers of 128, batch 32."""
    vae = mlp(20, 2, 128)
    return step_of(vae, images(32), SemiAmortized(vae.model, vae.guide, steps=count))


def words(count):
    """A training step on texts of so many words, LSTMs of 128 units, vocabulary 2,000, batch 16."""
    sizes = {"embedding": 64, "width": 128}
    vae = VAE(StandardNormal(16), LSTMDecoder(2000, 16, max_length=count, **sizes), LSTMEncoder(2000, 16, **sizes))
    return step_of(vae, torch.randint(4, 2000, (16, count)))


def importance_samples(count):
    """log p(x) of 50 images with so many draws, MLP of 4 layers of 256."""
    vae, x = mlp(), images(50)
    return lambda: log_likelihood(vae.model, vae.guide, x, importance_samples=count)


class Points:
    """Rows of x that are made when they are read, so that their own memory is not counted."""

    def __init__(self, count):
        self.shape = (count, 20)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, part):
        start, stop, _ = part.indices(len(self))
        return torch.randn(stop - start, 20, generator=torch.Generator().manual_seed(start))


def model(x):
    with pyro.plate("data", len(x)):
        pyro.sample(
            "x", dist.Normal(pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1)), 1.0).to_event(1), obs=x
        )


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5).to_event(1))


def points(count):
    """Bounds on the mutual information of so many points, each against all, 20 dimensions."""
    x, fitted = Points(count), Points(100)[:100]  # r(z) from few points: its cost is not that of the bounds
    return lambda: mutual_information(model, guide, x, fit_on=fitted)


def points_against_500(count):
    """Bounds on the mutual information of so many points against 500 random ones of them, 20 dimensions."""
    x, fitted = Points(count), Points(100)[:100]
    return lambda: mutual_information(model, guide, x, components=500, fit_on=fitted)


SIZES = {
    layers: (2, 8, 32, 128),
    latent_dimensions: (16, 64, 256, 1024),
    refinement_steps: (2, 4, 8, 16),
    words: (10, 20, 40, 80),
    importance_samples: (25, 50, 100, 200),
    points: (1000, 2000, 4000, 8000),
    points_against_500: (16_384, 65_536, 250_000, 1_000_000),
}


def apart(make, size):
    """CPU seconds and bytes of a run of this size, in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        pyro.set_rng_seed(0)
        make(SIZES[make][0])()  # what the first run imports and sets up is not counted
        pyro.clear_param_store()
        run = make(size)
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        seconds = []
        while len(seconds) < 3 and sum(seconds) < LONG:
            start = time.process_time()
            run()
            seconds.append(time.process_time() - start)
        took = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        os.write(writing, json.dumps({"seconds": min(seconds), "bytes": max(took, 0)}).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return json.loads(found)


def exponent(sizes, values):
    """The slope in logarithms through the upper half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(values[half:]), 1)[0])


def measured(make):
    sizes = SIZES[make]
    runs = [apart(make, size) for size in sizes]
    seconds, taken = ([run[name] for run in runs] for name in ("seconds", "bytes"))
    return {
        "what": make.__doc__.strip(),
        "measured": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "sizes": sizes,
        "seconds": seconds,
        "bytes": taken,
        "time_exponent": exponent(sizes, seconds),
        "memory_exponent": exponent(sizes, [max(value, LEAST_BYTES) for value in taken]),
    }


def draw(name, found):
    """Time and memory over the size, both axes logarithmic."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ax, values, unit, power in (
        (left, found["seconds"], "CPU seconds", found["time_exponent"]),
        (right, [max(value, LEAST_BYTES) / 2**20 for value in found["bytes"]], "MiB", found["memory_exponent"]),
    ):
        ax.loglog(found["sizes"], values, "o-", color="#0072B2")
        ax.set_xticks(found["sizes"], [f"{size:,}" for size in found["sizes"]], fontsize=8)
        ax.set_xticks([], minor=True)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:,.3g}")
        ax.yaxis.set_minor_formatter("")
        ax.set_xlabel(name.replace("_", " "))
        ax.set_ylabel(unit)
        ax.set_title(f"exponent {power:.2f}", fontsize=9, loc="left")
        room = 2 ** max(0.0, 1 - math.log2(max(values) / min(values)))  # what is flat must not look steep
        ax.set_ylim(min(values) / 1.2 / room, max(values) * 1.2 * room)
    figure.savefig(ROOT / "docs" / "pictures" / f"growth_{name}.png", dpi=110)


def oldest_first(names, results):
    """The named quantities, or all, by the day and time when they were measured."""
    wanted = [make for make in SIZES if not names or make.__name__ in names]
    return sorted(wanted, key=lambda make: results.get(make.__name__, {}).get("measured", ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [make.__name__ for make in SIZES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; else all")
    parser.add_argument("--minutes", type=float, default=60, help="begin none after so many")
    given = parser.parse_args()
    if unknown := set(given.names) - set(known):
        parser.error(f"expected names of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    path, end = ROOT / "results" / "growth.json", time.monotonic() + 60 * given.minutes
    results = json.loads(path.read_text()) if path.exists() else {}
    for make in oldest_first(given.names, results):
        if time.monotonic() > end:
            print(f"The {given.minutes:g} minutes are over before {make.__name__}.")
            return
        found = results[make.__name__] = measured(make)
        draw(make.__name__, found)
        powers = f"time N^{found['time_exponent']:.2f}, memory N^{found['memory_exponent']:.2f}"
        seconds, taken = [round(s, 3) for s in found["seconds"]], [round(b / 2**20) for b in found["bytes"]]
        print(f"{make.__name__:20s} {powers}  {seconds} s, {taken} MiB", flush=True)
        results["machine"] = machine()
        path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
