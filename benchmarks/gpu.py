"""Everything that a GPU is asked for, in a given time: steps, their share of what it can do, the bars B5 to B11, and table 2.

    python benchmarks/gpu.py --minutes 30        # prints; writes results/benchmarks_gpu.json as it goes

Steps a second of a PixelCNN and of an MLP on images that lie on the device: as Pyro runs them, compiled (`--compile`), and
captured as a CUDA graph; the least time that their arithmetic and their memory traffic would take at the measured speeds of the
device. The last half of the time goes to `skipvae-pyro reproduce table2-mnist --train --full`. Without a GPU all of it runs on
tiny sizes on the CPU, writes nothing, and says what was not measured.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pyro
import torch
from interleaved import in_short, machine
from pyro.optim import Adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pyro_skipvae import VAE, svi_step
from pyro_skipvae.decoders import MLPDecoder, PixelCNNDecoder
from pyro_skipvae.encoders import MLPEncoder, ResNetEncoder
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "benchmarks_gpu.json"
BARS = (  # of table.py, in the order of their names
    "pixelcnn:passes",
    "pixelcnn:sampling",
    "information:of_10000",
    "information:of_60000",
    "text:step",
    "text:logits_memory",
    "semi_amortized:plain_and_exact",
    "pixelcnn:importance_sampling",
)
IMAGES = 60_000
TARGETS = {"PixelCNN": 1.5, "MLP": 0.4}  # seconds for an epoch


def mlp(small):
    width = 16 if small else 512
    return VAE(StandardNormal(50), MLPDecoder(50, (28, 28), width=width), MLPEncoder((28, 28), 50, hidden=(width, width)))


def pixelcnn(small):
    decoder = PixelCNNDecoder(50, (28, 28), layers=2 if small else 9, maps=4 if small else 32)
    return VAE(StandardNormal(50), decoder, ResNetEncoder((28, 28), 50, layers=1 if small else 3, maps=4 if small else 64))


def waited(device):
    """The wall clock, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def steps_a_second(step, device, seconds):
    """Of at least ten steps and so many seconds, after three that warm up."""
    for _ in range(3):
        step()
    start, count = waited(device), 0
    while count < 10 or time.perf_counter() - start < seconds:
        step()
        count += 1
    return count / (waited(device) - start)


def our_step(vae, x, **options):
    pyro.clear_param_store()
    step = svi_step(vae.model, vae.guide, elbo, Adam({"lr": 1e-3, "fused": True}), max_norm=5.0, **options)
    step(x)
    if step.compilation is not None and step.compilation.refused:
        raise RuntimeError(f"not compiled: {step.compilation.refused}")
    return lambda: step(x)


def captured_step(vae, x, precision="float32"):
    """Loss, gradients, clipping and Adam as one CUDA graph that is replayed."""
    pyro.clear_param_store()
    parameters = list(vae.parameters())
    optim = torch.optim.Adam(parameters, lr=1e-3, fused=True, capturable=True)

    def step():
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = elbo(vae.model, vae.guide, x) / len(x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optim.step()
        optim.zero_grad(set_to_none=False)

    aside = torch.cuda.Stream()
    with pyro.settings.context(validate_infer=False, validate_poutine=False):
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    return graph.replay


class Traffic(TorchDispatchMode):
    """The bytes of what each operation reads and writes: an upper end, since a cache keeps some and fused kernels skip some."""

    bytes = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        found = operator(*args, **(kwargs or {}))
        if not operator.is_view:
            self.bytes += sum(part.nbytes for part in tree_leaves((args, kwargs, found)) if isinstance(part, torch.Tensor))
        return found


def speeds(device, small):
    """Multiplications and additions a second of matrix products, and bytes a second of a copy, as measured here."""
    size = 256 if small else 8192
    a, found = torch.randn(size, size, device=device), {}
    for name, factor in (("float32", a), ("bf16", a.bfloat16())):
        rate = steps_a_second(lambda factor=factor: factor @ factor, device, 0.2)
        found[f"{name} operations a second"] = 2 * size**3 * rate
    large = torch.empty(2**20 if small else 2**28, device=device)
    found["bytes a second"] = 2 * large.nbytes * steps_a_second(large.clone, device, 0.2)
    return found


def measured_steps(name, make, batch, device, limits, small, seconds):
    """Steps and images a second of each way to make a step, and its share of the nearer limit; or why there is none."""
    x = torch.rand(batch, 28, 28, device=device).bernoulli()
    vae = make(small).to(device)
    step = our_step(vae, x)
    with FlopCounterMode(display=False) as counter:
        step()
    with Traffic() as traffic:
        step()
    least = max(counter.get_total_flops() / limits["float32 operations a second"], traffic.bytes / limits["bytes a second"])
    found = {"batch": batch, "operations": counter.get_total_flops(), "bytes": traffic.bytes, "seconds at the limits": least}
    ways = {
        "eager": lambda: our_step(make(small).to(device), x),
        "eager, bf16": lambda: our_step(make(small).to(device), x, precision="bf16"),
        "compiled": lambda: our_step(make(small).to(device), x, compile=True),
        "captured": lambda: captured_step(make(small).to(device), x),
        "captured, bf16": lambda: captured_step(make(small).to(device), x, "bf16"),
    }
    for way, made in ways.items():
        if device.type != "cuda" and way.startswith("captured"):
            found[way] = {"not_measured": "needs a GPU"}
            continue
        try:
            rate = steps_a_second(made(), device, seconds)
        except Exception as error:  # one way less: the others are measured all the same
            found[way] = {"not_measured": " ".join(str(error).split())[:300]}
            continue
        epoch = IMAGES / batch / rate
        found[way] = {"steps a second": rate, "seconds an epoch": epoch, "share of the limit": least * rate}
        if not small:
            found[way]["target met"] = epoch <= TARGETS[name]
    return found


def bar(measured, small, limit):
    """The rows of table.py that a comparison serves, measured on the GPU by the wall clock, in a process of its own."""
    import table

    command = [sys.executable, __file__, "--comparison", measured, *["--small"] * small]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"not_measured": f"not done in {limit:.0f} s"}
    if done.returncode:
        return {"not_measured": (done.stderr.strip().splitlines() or ["no words"])[-1][:300]}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {row.name: table.row_of(row, found) for row in table.ROWS[measured]} | {
        way: in_short(seconds) for way, seconds in found["numbers"].items()
    }


def comparison(measured, small, device):
    """The seconds of each way of a comparison on the device."""
    import importlib

    from interleaved import Comparison, seconds_of

    module, _, name = measured.partition(":")
    torch.set_default_device(device)
    pyro.set_rng_seed(0)
    found = getattr(importlib.import_module(module), name)(small)
    numbers = seconds_of(found, lambda: waited(device)) if isinstance(found, Comparison) else found
    return {"numbers": numbers, "missing": {}}


def table2(minutes):
    """The published table, as far as the time goes; finished runs stay in runs/reproduce, and the next call goes on."""
    command = [sys.executable, "-m", "pyro_skipvae_cli", "reproduce", "table2-mnist", "--train", "--full"]
    return subprocess.run([*command, "--minutes", f"{minutes:.1f}", "--device", "cuda"], cwd=ROOT).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="in all, table 2 included")
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--comparison", help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if given.comparison:
        print(json.dumps(comparison(given.comparison, given.small, device)))
        return
    small, end = device.type != "cuda", time.monotonic() + 60 * given.minutes
    results = {"machine": {**machine(), "device": torch.cuda.get_device_name() if not small else "none"}}

    def keep(name, found):
        results[name] = found
        print(f"{name}: {json.dumps(found, indent=1)}", flush=True)
        if not small:
            RESULTS.write_text(json.dumps(results, indent=2) + "\n")

    if small:
        print("There is no GPU: tiny sizes on the CPU. Not measured: captured steps, shares of a GPU, targets, table 2.")
    limits = speeds(device, small)
    keep("speeds", limits)
    for name, make, batch in (("MLP", mlp, 64), ("PixelCNN", pixelcnn, 64)):
        keep(name, measured_steps(name, make, 2 if small else batch, device, limits, small, 0.1 if small else 5))
    for measured in BARS:
        left = end - time.monotonic() - 30 * given.minutes * (not small)
        keep(measured, bar(measured, small, left) if left > 10 else {"not_measured": f"the {given.minutes:g} minutes are over"})
    if small:
        keep("table2-mnist", {"not_measured": "needs a GPU"})
    elif (left := (end - time.monotonic()) / 60) > 1:
        keep("table2-mnist", {"minutes": left, "exit code": table2(left)})


if __name__ == "__main__":
    main()
