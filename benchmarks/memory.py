"""Memory and speed of training on files of 100,000 to 10,000,000 images: python benchmarks/memory.py [ITEMS ...] [--text]

Each size is a process of its own, which loads a .npy of 784 bytes an item and takes 500 steps of a 4-layer MLP, batches of 64
drawn from the whole file. Rates and times are of CPU time. Anonymous memory is RssAnon of /proc, looked at every 20 ms.
Pages of the file, which the kernel takes back when it needs them, are not in it. The file is sparse: a thousandth of it is
pixels, the rest zeros. With --text it is one of so many lines of 16 words, of which batches are read alone. Linux only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

PIXELS, STEPS, BATCH = 784, 500, 64


def write_images(path, items):
    """A sparse .npy of images: every thousandth has pixels, and the first thousand, so that they are grey levels."""
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (items, PIXELS))
    random = np.random.default_rng(0)
    images[:1000] = random.integers(0, 256, (1000, PIXELS))
    for first in range(0, items, 1000):
        images[first] = random.integers(0, 256, PIXELS)
    images.flush()


def write_text(path, lines):
    """Lines of 16 words out of 200,000, by Zipf's law."""
    random, words = np.random.default_rng(0), np.array([f"word{number}" for number in range(200_000)])
    with open(path, "w") as file:
        for _ in range(0, lines, 10_000):
            drawn = words[np.minimum(random.zipf(1.3, (10_000, 16)), len(words) - 1)]
            file.writelines(" ".join(row) + "\n" for row in drawn)


class Watch:
    """The largest anonymous memory of this process since it was last asked for."""

    def __init__(self):
        self.largest = 0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self):
        while True:
            self.largest = max(self.largest, anonymous())
            time.sleep(0.02)

    def taken(self):
        largest, self.largest = max(self.largest, anonymous()), 0
        return largest


def anonymous():
    """MiB of anonymous memory that this process has now."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def measure(path, cache):
    """What loading and training on a file takes, as plain values."""
    import torch

    from pyro_skipvae import load_data
    from pyro_skipvae.data.on_disk import OnDisk

    torch.set_num_threads(1)
    found, watch = {"imports_MiB": anonymous()}, Watch()
    for name in ("first_look", "later_looks"):
        start = time.process_time()
        data = load_data(path, root=cache, binarisation="none")
        found |= {f"{name}_seconds": time.process_time() - start, f"{name}_MiB": watch.taken()}
    batches = data.batches("train", BATCH, seed=0)
    found["batches_a_second"] = _rate(batches, lambda x: None, STEPS)
    found |= {"on_disk": isinstance(data.train, OnDisk), "batches_MiB": watch.taken()}
    if data.kind == "text":
        return found
    step = _step(data)
    _rate(batches, step, 20)
    found["steps_a_second"] = _rate(batches, step, STEPS)
    held = [data.train[first : first + BATCH] for first in range(0, 100 * BATCH, BATCH)]
    found["steps_a_second_on_items_in_memory"] = _rate(held * 5, step, STEPS)
    return {**found, "training_MiB": watch.taken()}


def _step(data):
    from pyro.optim import Adam

    from pyro_skipvae import VAE, svi_step
    from pyro_skipvae.decoders import MLPDecoder
    from pyro_skipvae.encoders import MLPEncoder
    from pyro_skipvae.likelihoods import normal_shared_scale
    from pyro_skipvae.objectives import elbo
    from pyro_skipvae.priors import StandardNormal

    shape = data.event_shape
    decoder = MLPDecoder(20, shape, layers=4, likelihood=normal_shared_scale())
    vae = VAE(StandardNormal(20), decoder, MLPEncoder(shape, 20))
    return svi_step(vae.model, vae.guide, elbo, Adam({"lr": 1e-3}), max_norm=5.0)


def _rate(batches, step, steps):
    """Steps a second of CPU time, which hardly depends on what else the machine does."""
    start = None
    for number, x in enumerate(batches):
        if number == steps:
            break
        start = start or time.process_time()  # after the order of the epoch is drawn
        step(x)
    return steps / (time.process_time() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("items", nargs="*", type=int, default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--text", action="store_true", help="a text of so many lines")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return print(json.dumps(measure(*options.measure)))
    rows = {}
    for items in options.items:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("lines.txt" if options.text else "images.npy")
            write_text(path, items) if options.text else write_images(path, items)
            command = [sys.executable, __file__, "--measure", str(path), str(Path(folder) / "cache")]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        rows[items] = json.loads(done.stdout)
        print(f"{items:,} items: " + ", ".join(f"{name} {value:,.4g}" for name, value in rows[items].items()), flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
