"""The structures that benchmarks compare with give the numbers of ours."""

import sys
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch

from pyro_skipvae.decoders import PixelCNNDecoder
from pyro_skipvae.diagnostics.estimates.pairwise import leave_one_out, pairwise_log_prob


@pytest.fixture
def evaluation(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from baselines import authors_evaluation

    yield authors_evaluation
    for name in [name for name in sys.modules if name.partition(".")[0] == "baselines"]:
        del sys.modules[name]


def test_the_loop_over_z_is_the_mixture(evaluation):
    torch.manual_seed(0)
    loc, scale = torch.randn(300, 4).double(), torch.rand(300, 4).double() + 0.1
    q = dist.Normal(loc, scale).to_event(1)
    z = q.sample()[:40]
    own, others = leave_one_out([pairwise_log_prob(q)], z, torch.arange(40))
    found = torch.logaddexp(own, others) - torch.tensor(300.0).double().log()
    assert (found - evaluation.log_aggregate(z, loc, 2 * scale.log())).abs().max() < 1e-8


def test_the_weights_in_one_pass_are_ours(evaluation):
    torch.manual_seed(0)
    decoder, x = PixelCNNDecoder(3, (6, 6), layers=3, maps=4), torch.rand(6, 6).bernoulli()
    loc, scale, z = torch.randn(3), torch.rand(3) + 0.5, torch.randn(5, 3)
    with torch.no_grad():
        found = evaluation.log_weights(decoder, x, z, loc, scale)
        expected = decoder(z).log_prob(x.expand(5, 6, 6)) + dist.Normal(torch.zeros(3), 1.0).to_event(1).log_prob(z)
    torch.testing.assert_close(found, expected - dist.Normal(loc, scale).to_event(1).log_prob(z), atol=1e-4, rtol=0)
