"""The ELBO of runs of mnist on the test bits of mnist-static: python benchmarks/static_bits.py RUN RUN.

Both test sets are draws of the pixels of the same grey images, in different orders. Writes results/table2-static-bits.json:
nats per image, all 10,000 test images, one draw of z each, 95 % intervals over images.
"""

import json
import sys
from pathlib import Path

import torch

from pyro_skipvae import load_data
from pyro_skipvae.reports.comparison import values_per_point
from pyro_skipvae.runs import load_run

RESULTS = Path(__file__).parents[1] / "results" / "table2-static-bits.json"


@torch.no_grad()
def elbo_of(vae, items):
    """The ELBO of each item, (N,)."""
    torch.manual_seed(0)
    parts = [values_per_point(vae, items[first : first + 500])["elbo"] for first in range(0, len(items), 500)]
    return torch.cat(parts).double()


def interval(mean, variance):
    half = 1.96 * variance.item() ** 0.5
    return {"value": round(mean.item(), 3), "low": round(mean.item() - half, 3), "high": round(mean.item() + half, 3)}


if __name__ == "__main__":
    static, found = load_data("mnist-static").test, {}
    for path in sys.argv[1:]:
        vae, data, _ = load_run(path)
        values = {"dynamic": elbo_of(vae, data.test), "static": elbo_of(vae, static)}
        means, variances = ({n: f(v) for n, v in values.items()} for f in (torch.mean, lambda v: v.var() / len(v)))
        about = {name: interval(means[name], variances[name]) for name in values}
        about["static - dynamic"] = interval(means["static"] - means["dynamic"], sum(variances.values()))
        found[Path(path).name] = {"images": len(static), **about}
        print(Path(path).name, found[Path(path).name], flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
