"""Log-densities for all pairs: the matrix products against Pyro's own broadcast log_prob."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import transforms

from pyro_skipvae.diagnostics.estimates import pairwise
from pyro_skipvae.diagnostics.estimates.pairwise import carries_network, leave_one_out, pairwise_log_prob


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("event", [(), (5,), (3, 4)])
@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_normal_product_equals_broadcast(event, scale):
    q = dist.Normal(50 + draw(40, *event), scale * draw(40, *event, seed=1).exp()).to_event(len(event))
    z = q.sample()
    expected = q.log_prob(z[:, None])
    near = expected > expected.amax(1, keepdim=True) - 100  # what a log-sum-exp can see
    found = pairwise_log_prob(q)(z)
    torch.testing.assert_close(found[near], expected[near], atol=1e-8, rtol=0)


def test_tight_posteriors_leave_the_matrix_product(monkeypatch):
    q = dist.Normal(draw(20, 3), torch.full((20, 3), 1e-6, dtype=torch.float64)).to_event(1)
    z = q.sample()
    expected = q.log_prob(z)
    torch.testing.assert_close(pairwise_log_prob(q)(z).diagonal(), expected, atol=1e-8, rtol=0)
    monkeypatch.setattr(pairwise, "LARGEST_SQUARE", float("inf"))
    assert (pairwise_log_prob(q)(z).diagonal() - expected).abs().max() > 1e-7  # why there is another path


def test_a_common_offset_does_not_leave_the_matrix_product(monkeypatch):
    q = dist.Normal(1000 + draw(20, 3), torch.ones(20, 3, dtype=torch.float64)).to_event(1)
    z = q.sample()
    expected = q.log_prob(z[:, None])
    monkeypatch.setattr(pairwise, "_broadcast_pairs", None)
    torch.testing.assert_close(pairwise_log_prob(q)(z), expected, atol=1e-8, rtol=0)


def test_normals_in_single_precision_are_computed_in_double():
    loc, scale = draw(30, 8).float(), (0.05 * draw(30, 8, seed=1).exp()).float()
    z = loc + scale * draw(30, 8, seed=2).float()
    expected = dist.Normal(loc.double(), scale.double()).to_event(1).log_prob(z.double()[:, None])
    found = pairwise_log_prob(dist.Normal(loc, scale).to_event(1))(z)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("event", [(), (6,), (2, 3, 3)])
def test_bernoulli_product_equals_broadcast(event):
    likelihood = dist.Bernoulli(logits=3 * draw(25, *event)).to_event(len(event))
    x = likelihood.sample()
    torch.testing.assert_close(pairwise_log_prob(likelihood)(x), likelihood.log_prob(x[:, None]), atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    "q",
    [
        dist.MultivariateNormal(draw(30, 3), scale_tril=torch.eye(3, dtype=torch.float64) + 0.1 * draw(3, 3).tril()),
        dist.Laplace(draw(30, 3), 0.5).to_event(1),
        dist.LogNormal(draw(30, 3), 0.5).to_event(1),
        dist.Normal(draw(30, 4, 3), 0.5).to_event(1).to_event(1),
    ],
)
def test_other_families_broadcast(q, monkeypatch):
    monkeypatch.setattr(pairwise, "TILE_BYTES", 30 * 3 * 8 * 7)  # tiles of a few rows, with a rest
    z = q.sample()
    torch.testing.assert_close(pairwise_log_prob(q)(z), q.log_prob(z[:, None]), atol=1e-8, rtol=0)


@pytest.mark.parametrize("sizes", [(5,), (2, 3), (1, 1, 3)])
def test_leave_one_out_matches_the_full_matrix(sizes):
    loc, scale = draw(5, 2), torch.tensor([0.5, 0.5, 1e-3, 2.0, 0.5]).double()[:, None].expand(5, 2)
    q = dist.Normal(10 * loc, scale).to_event(1)
    z = q.sample((301,))  # more rows than one tile
    groups = [dist.Normal(*part).to_event(1) for part in zip((10 * loc).split(sizes), scale.split(sizes), strict=True)]
    own, others = leave_one_out([pairwise_log_prob(group) for group in groups], z.flatten(0, 1), torch.arange(5).repeat(len(z)))
    full = q.log_prob(z[:, :, None])
    torch.testing.assert_close(own.view(301, 5), full.diagonal(dim1=1, dim2=2))
    masked = full.masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf)
    torch.testing.assert_close(others.view(301, 5), masked.logsumexp(2))


def test_leave_one_out_of_disjoint_supports():
    q = dist.Uniform(torch.arange(3.0), torch.arange(3.0) + 0.5, validate_args=False)
    own, others = leave_one_out([pairwise_log_prob(q)], torch.arange(3.0) + 0.25, torch.arange(3))
    assert own.isfinite().all() and (others == -torch.inf).all()


def test_learned_densities_are_recognised():
    flow = dist.TransformedDistribution(dist.Normal(draw(4, 2).float(), 1.0), [dist.transforms.affine_autoregressive(2)])
    fixed = dist.TransformedDistribution(dist.Normal(draw(4, 2), 1.0), [transforms.SigmoidTransform()])

    class Network(dist.TorchDistribution):
        arg_constraints = {}

        def __init__(self):
            self.network = torch.nn.Linear(1, 1)
            super().__init__(torch.Size([3]), torch.Size())

    assert carries_network(flow) and carries_network(Network()) and carries_network(Network().to_event(1))
    assert not carries_network(fixed) and not carries_network(dist.Normal(draw(3, 2), 1.0).to_event(1))
