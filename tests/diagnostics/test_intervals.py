"""95 % intervals: the quantiles of Student's t, and how often they cover a mean that is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_skipvae.diagnostics import collapse_report
from pyro_skipvae.diagnostics.pairs.interval import (
    Moments,
    cycle_interval,
    cycle_standard_error,
    half_width,
    mean_interval,
    welch_half_width,
)


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def covered(interval, points):
    """The share of rows whose interval covers 0."""
    found = [interval(row) for row in points]
    return sum(each.low <= 0 <= each.high for each in found) / len(found)


@pytest.mark.parametrize("points, quantile", [(2, 12.706205), (3, 4.302653), (6, 2.570582), (11, 2.228139), (10**7, 1.959964)])
def test_half_of_an_interval_is_a_quantile_of_students_t(points, quantile):
    assert half_width(2.0, points) == pytest.approx(2 * quantile, rel=1e-6)


def test_one_point_has_no_interval():
    assert math.isnan(half_width(0.0, 1))


@pytest.mark.parametrize("points", [2, 3, 6, 20])
def test_intervals_of_few_points_cover_the_mean(points):
    assert covered(mean_interval, normal(4_000, points)) == pytest.approx(0.95, abs=0.011)  # three errors of this share


def test_parts_have_the_interval_of_the_whole():
    points, moments = normal(7), Moments()
    for part in points.split((3, 4)):
        moments.add(part)
    assert vars(moments.interval()) == pytest.approx(vars(mean_interval(points)))


@pytest.mark.parametrize("points", [4, 6, 10, 40])
@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_intervals_of_few_points_on_a_cycle_cover_the_mean(points, shared):
    """Each point has a part of what the next one has: with 0.8 their correlation is near the most that neighbours can have."""
    own = normal(2_000, points)
    assert covered(cycle_interval, own + shared * own.roll(1, 1)) > 0.95 - 0.015


def test_the_standard_error_on_a_cycle_is_that_of_the_mean():
    """SE^2 of e_i + 0.8 e_{i-1} is 1.8^2 / N exactly; the larger of two estimates is a little above it."""
    own = normal(4_000, 60)
    squares = torch.tensor([cycle_standard_error(row) ** 2 for row in own + 0.8 * own.roll(1, 1)])
    assert squares.mean().item() == pytest.approx(1.8**2 / 60, rel=0.03)


def test_fewer_than_four_points_on_a_cycle_say_nothing_nor_fewer_than_ten_that_agree():
    assert math.isnan(cycle_interval(torch.tensor([1.0, 2.0, 1.5])).low) and math.isnan(cycle_interval(torch.zeros(9)).high)
    assert vars(cycle_interval(torch.zeros(10))) == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert cycle_interval(torch.tensor([1.0, math.inf])).low == math.inf


def test_two_groups_have_the_interval_of_welch():
    first, second = normal(3).numpy(), 2 * normal(9)[3:].numpy()
    found = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    half = welch_half_width((first.std(ddof=1), 3), (second.std(ddof=1), 6))
    assert half == pytest.approx((found.high - found.low) / 2)
    assert welch_half_width((0.0, 3), (0.0, 2)) == 0.0


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))


def blind(x):
    """A guide that says nothing of x."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))


@pytest.mark.parametrize("points", [2, 3, 9])
@pytest.mark.parametrize("encoder", [guide, blind])
def test_a_report_on_few_points_is_undecided(encoder, points):
    report = collapse_report(model, encoder, normal(points, 3), importance_samples=10)
    assert report.verdict.kind == "undecided" and f"a verdict needs 10 points, and these are {points}" in report.verdict
    assert "nan" not in str(report) and (report.estimates()["shuffled_latent_loss"].low is None) == (points < 4)


def test_the_shuffled_loss_has_one_interval_wherever_it_stands():
    report = collapse_report(model, guide, normal(12, 3), importance_samples=10)
    found, site = report.estimates()["shuffled_latent_loss"], report.sites[0].shuffled_latent_loss
    assert (found.low, found.high) == pytest.approx((site.low, site.high)) and report.verdict.amounts["loss"] == vars(site)


def test_ten_points_may_be_enough():
    assert collapse_report(model, blind, normal(10, 3), importance_samples=10).verdict.kind == "collapsed"


def switch(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(3)))
        pyro.sample("x", dist.Normal(3.0 * z, 1.0), obs=x)


def switched(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Categorical(logits=-(x[:, None] - 3.0 * torch.arange(3.0)).square() / 2))


@pytest.mark.parametrize("points", [2, 4, 7])
def test_codes_of_few_points_that_agree_are_not_taken_for_a_collapse(points):
    """Three codes, of which these points have the same one: to shuffle them changes nothing."""
    report = collapse_report(switch, switched, 6.0 + 0.1 * normal(points).float(), importance_samples=10)
    assert report.verdict.kind == report.sites[0].kind == "undecided"
