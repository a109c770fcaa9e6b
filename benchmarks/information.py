"""Mutual information: log q(z) of draws by a loop over z, as the paper's authors have it, and by ours."""

import math

import pyro.distributions as dist
import torch
from baselines import authors_evaluation
from interleaved import Comparison

from pyro_skipvae.diagnostics.estimates.pairwise import leave_one_out, pairwise_log_prob
from pyro_skipvae.diagnostics.pairs.pair import ENCODER_ROWS

DRAWS = 400  # as many as a report takes at a time
LOOPED = 100  # of them go through the loop: its time is in proportion to them


def of_10000(small):
    """400 z against 10,000 posteriors, D = 50, float64."""
    return against(500 if small else 10_000)


def of_60000(small):
    """400 z against 60,000 posteriors, D = 50, float64."""
    return against(1_000 if small else 60_000)


@torch.no_grad()
def against(points):
    """The loop runs over 100 of the 400 z; both give the same to 1e-8."""
    loc = 2 * torch.randn(points, 50, dtype=torch.float64)
    q = dist.Normal(loc, torch.rand_like(loc) + 0.1)
    z, element = q.sample()[:DRAWS], torch.arange(DRAWS)
    parts = zip(q.loc.split(ENCODER_ROWS), q.scale.split(ENCODER_ROWS), strict=True)
    pairs, log_variance = [pairwise_log_prob(dist.Normal(*part).to_event(1)) for part in parts], 2 * q.scale.log()
    own, others = leave_one_out(pairs, z, element)
    found = (torch.logaddexp(own, others) - math.log(points))[:LOOPED]
    assert (found - authors_evaluation.log_aggregate(z[:LOOPED], q.loc, log_variance)).abs().max() < 1e-8
    ways = {
        "ours": lambda: leave_one_out(pairs, z, element),
        "quarter of the loop": lambda: authors_evaluation.log_aggregate(z[:LOOPED], q.loc, log_variance),
    }
    return Comparison({name: torch.no_grad()(way) for name, way in ways.items()}, rounds=5)
