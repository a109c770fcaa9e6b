"""Independent normals with a least rate: the roots, the bound, where it is attained, and both signs of a mean."""

import pyro.distributions as dist
import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import kl_divergence

from pyro_skipvae.guides import MinimumRateNormal
from pyro_skipvae.guides.families import variances_within

D = 4


@pytest.mark.parametrize(("delta", "low", "high"), [(0.1, 0.702, 1.331), (0.15, 0.641, 1.409), (0.2, 0.592, 1.476)])
def test_the_range_of_the_deviation(delta, low, high):
    assert [round(v**0.5, 3) for v in variances_within(delta)] == [low, high]


def kl_per_dimension(q):
    return kl_divergence(q.base_dist, dist.Normal(torch.zeros(()), 1.0))


@pytest.mark.parametrize("rate", [0.01, 2.0, 40.0])
def test_no_dimension_of_any_posterior_is_below(rate, float64):
    family = MinimumRateNormal(3, D, rate=rate)
    torch.nn.init.normal_(family.parameters_of.weight, std=3.0)
    q = family(torch.randn(10_000, 3))
    kl = kl_per_dimension(q)
    assert q.event_shape == (D,) and kl.min() >= rate / D - 1e-9
    assert (q.mean > 0).any() and (q.mean < 0).any()


def test_it_is_attained(float64):
    family = MinimumRateNormal(1, D, rate=2.0)
    torch.nn.init.zeros_(family.parameters_of.weight)
    family.parameters_of.bias.data[:D] = 0
    for place in (-3.0, 0.0, 3.0):
        family.parameters_of.bias.data[D:] = place
        kl = kl_per_dimension(family(torch.zeros(1, 1)))
        torch.testing.assert_close(kl, torch.full_like(kl, 0.5), rtol=0, atol=1e-6)


def test_gradients_and_sequences(float64):
    family = MinimumRateNormal(3, (2, 2), rate=1.0)

    def moments(features):
        q = family(features)
        assert q.event_shape == (2, 2)
        return q.mean, q.stddev

    assert gradcheck(moments, torch.randn(2, 3).requires_grad_())


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_rates_that_are_none_are_refused(rate):
    with pytest.raises(ValueError, match="rate above 0 nats"):
        MinimumRateNormal(3, D, rate=rate)
