"""Means normalised over a batch: the rate that this keeps, where it is attained, and what stands in for a batch elsewhere."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_skipvae.guides import BatchNormalisedNormal

D = 32


def rates(q):
    return kl_divergence(q.base_dist, dist.Normal(torch.zeros(()), 1.0)).sum(-1)


@pytest.mark.parametrize(("gamma", "rate"), [(0.5, 4.0), (0.6, 5.76), (0.7, 7.84)])
def test_the_published_bounds(gamma, rate):
    assert BatchNormalisedNormal(3, D, rate=rate).gamma == pytest.approx(gamma)


def test_the_mean_rate_of_a_training_batch_is_not_below(float64):
    family = BatchNormalisedNormal(5, D, rate=5.76)
    for scale in (0.1, 1.0, 30.0):
        torch.nn.init.normal_(family.parameters_of.weight, std=scale)
        torch.nn.init.normal_(family.shift)
        assert rates(family(torch.randn(64, 5))).mean() >= 5.76 * (1 - 1e-2)
    torch.nn.init.zeros_(family.shift)
    family.parameters_of.weight.data[D:] = 0
    family.parameters_of.bias.data[D:] = 0  # variances of 1: the bound is attained
    for scale in (30, 1e-5):  # the encoder cannot escape by means that hardly differ
        assert float(rates(family(scale * torch.randn(64, 5))).mean().detach()) == pytest.approx(5.76, rel=1e-4)


def test_a_dimension_that_the_encoder_ignores_cannot_fall_silent_but_one_without_any_variance_can(float64):
    family = BatchNormalisedNormal(5, 2, rate=1.0)
    family.parameters_of.weight.data[0] *= 0.1
    q = family(torch.randn(64, 5))
    assert float(q.mean[:, 0].detach().var(correction=0)) == pytest.approx(1.0, rel=0.5)
    family.parameters_of.weight.data[0] = 0
    assert float(family(torch.randn(64, 5)).mean[:, 0].detach().var()) < 1e-12


def test_features_of_a_sequence_are_not_put_to_a_variance_over_the_wrong_places():
    with pytest.raises(ValueError, match=r"expected features \(B, F\)"):
        BatchNormalisedNormal(5, 2, rate=1.0)(torch.randn(4, 4, 5))


def test_a_batch_that_is_not_finite_leaves_the_statistics():
    guide = BatchNormalisedNormal(4, 2, rate=1.0).train()
    guide(torch.randn(8, 4))
    before = guide.running_mean.clone(), guide.running_variance.clone()
    with pytest.raises(ValueError, match="nan"):
        guide(torch.full((8, 4), torch.nan))
    assert guide.running_mean.equal(before[0]) and guide.running_variance.equal(before[1])


def test_rows_depend_on_themselves_alone_in_evaluation_and_where_there_is_one():
    torch.manual_seed(0)
    family = BatchNormalisedNormal(5, (2, 3), rate=2.0)
    features = torch.randn(400, 5)
    for part in features.split(20):
        family(part)
    whole = family.eval()(features)
    assert whole.event_shape == (2, 3)
    torch.testing.assert_close(family(features[:1]).mean, whole.mean[:1])
    assert float(rates(dist.Normal(whole.mean.flatten(1), whole.stddev.flatten(1)).to_event(1)).mean()) > 1.5
    family.train()
    before = family.running_mean.clone()
    torch.testing.assert_close(family(features[:1]).mean, whole.mean[:1])
    torch.testing.assert_close(family.running_mean, before)
    family(features[:2])
    assert not torch.equal(family.running_mean, before)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_rates_that_are_none_are_refused(rate):
    with pytest.raises(ValueError, match="rate above 0 nats"):
        BatchNormalisedNormal(3, D, rate=rate)


def test_distributions_are_in_float32_whatever_the_network():
    family = BatchNormalisedNormal(5, D, rate=5.0)
    with torch.autocast("cpu", torch.bfloat16):
        q = family(torch.randn(64, 5))
    assert q.mean.dtype == q.stddev.dtype == torch.float32
