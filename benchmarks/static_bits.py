"""The ELBO of runs of mnist on the test bits of mnist-static: python benchmarks/static_bits.py RUN RUN.

Both test sets are draws of the pixels of the same grey images, in different orders. Writes results/table2-static-bits.json:
nats per image, all 10,000 test images, one draw of z each, 95 % intervals over images.
"""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from pyro_skipvae import load_data
from pyro_skipvae.diagnostics.pairs.interval import Interval, mean_interval
from pyro_skipvae.reports.comparison import values_per_point
from pyro_skipvae.runs import load_run

RESULTS = Path(__file__).parents[1] / "results" / "table2-static-bits.json"


@torch.no_grad()
def elbo_of(vae, items):
    """The ELBO of each item, (N,)."""
    torch.manual_seed(0)
    parts = [values_per_point(vae, items[first : first + 500])["elbo"] for first in range(0, len(items), 500)]
    return torch.cat(parts).double()


def minus(one, other):
    """The difference of two means of independent points."""
    value, half = one.value - other.value, math.hypot(one.high - one.value, other.high - other.value)
    return Interval(value, value - half, value + half)


if __name__ == "__main__":
    static, found = load_data("mnist-static").test, {}
    for path in sys.argv[1:]:
        vae, data, _ = load_run(path)
        drawn, fixed = (mean_interval(elbo_of(vae, test)) for test in (data.test, static))
        intervals = {"dynamic": drawn, "static": fixed, "static - dynamic": minus(fixed, drawn)}
        rounded = {name: {end: round(v, 3) for end, v in asdict(each).items()} for name, each in intervals.items()}
        found[Path(path).name] = {"images": len(static), **rounded}
        print(Path(path).name, found[Path(path).name], flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
