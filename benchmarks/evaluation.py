"""What a report computes, against the structure of the paper's authors: one thread, CPU time, interleaved.

    python benchmarks/evaluation.py [NAME...]        # prints a table; writes results/benchmarks_evaluation.json

Read as `ratios.py`, whose rounds these are: above 1 means that ours is faster. Each pair is first checked to give the same
numbers.
"""

import json
import math
import platform
import sys
from pathlib import Path

import pyro.distributions as dist
import torch
from baselines import authors_evaluation
from ratios import cached_sampling, measure

from pyro_skipvae import VAE
from pyro_skipvae.decoders import PixelCNNDecoder
from pyro_skipvae.diagnostics.estimates.log_likelihood import importance_estimate
from pyro_skipvae.diagnostics.estimates.pairwise import leave_one_out, pairwise_log_prob
from pyro_skipvae.diagnostics.pairs.pair import ENCODER_ROWS, Pair
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.priors import StandardNormal

BARS = {"cached_sampling": 450, "information_of_10000": 35, "information_of_60000": 35, "importance_sampling": 3}
DRAWS = 400  # as many as a report takes at a time


def information(points):
    """log q(z) of 400 draws, D = 50, in float64; the posteriors in groups of 256, as a report has them."""
    loc = 2 * torch.randn(points, 50, dtype=torch.float64)
    q = dist.Normal(loc, torch.rand_like(loc) + 0.1)
    z, element = q.sample()[:DRAWS], torch.arange(DRAWS)
    parts = zip(q.loc.split(ENCODER_ROWS), q.scale.split(ENCODER_ROWS), strict=True)
    pairs, log_variance = [pairwise_log_prob(dist.Normal(*part).to_event(1)) for part in parts], 2 * q.scale.log()
    own, others = leave_one_out(pairs, z, element)
    found = torch.logaddexp(own, others) - math.log(points)
    assert (found - authors_evaluation.log_aggregate(z, q.loc, log_variance)).abs().max() < 1e-8
    return lambda: leave_one_out(pairs, z, element), lambda: authors_evaluation.log_aggregate(z, q.loc, log_variance), 1, 1


def information_of_10000():
    """Mutual information: 400 z against 10,000 posteriors, D = 50, float64, against a loop over z; error below 1e-8."""
    return information(10_000)


def information_of_60000():
    """Mutual information: 400 z against 60,000 posteriors, D = 50, float64, against a loop over z; error below 1e-8."""
    return information(60_000)


def importance_sampling():
    """log p(x) of an image of 28x28, K = 200, 9-layer PixelCNN: the authors' structure in one pass against ours in chunks."""
    decoder, x = PixelCNNDecoder(50, (28, 28)).eval(), torch.rand(4, 28, 28).bernoulli()
    vae = VAE(StandardNormal(50), decoder, MLPEncoder((28, 28), 50)).eval()
    pair = Pair(vae.model, vae.guide, x)
    chunks = list(pair.chunks())
    loc, scale = (part[0] for part in (chunks[0].q.mean, chunks[0].q.stddev))
    z = chunks[0].draws(8)[0][:, 0]
    log_x, log_p = pair.log_joint(torch.zeros(8, dtype=torch.long), {"z": z})
    ours = log_x + log_p["z"] - dist.Normal(loc, scale).to_event(1).log_prob(z)
    assert torch.allclose(ours, authors_evaluation.log_weights(decoder, x[0], z, loc, scale), atol=1e-3)

    def authors():
        draws = loc + scale * torch.randn(200, len(loc))
        return authors_evaluation.log_weights(decoder, x[0], draws, loc, scale).logsumexp(0)

    return lambda: importance_estimate(pair, chunks, points=1, samples=200), authors, 1, 1


BENCHMARKS = [cached_sampling, information_of_10000, information_of_60000, importance_sampling]


def main(names):
    torch.set_num_threads(1)
    path = Path(__file__).parents[1] / "results" / "benchmarks_evaluation.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for make in BENCHMARKS:
        if not names or make.__name__ in names:
            with torch.no_grad():
                results[make.__name__] = {"bar": BARS[make.__name__], **measure(make, rounds=5)}
            row = results[make.__name__]
            print(f"{make.__name__:24s} {row['ratio']:8.2f} x  (bar {row['bar']})  {row['seconds'] * 1e3:10.2f} ms", flush=True)
            results["machine"] = {"torch": torch.__version__, "threads": 1, "cpu": platform.processor() or platform.machine()}
            path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
