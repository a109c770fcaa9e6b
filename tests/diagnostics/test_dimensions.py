"""Which dimensions matter to the decoder, and the curve of collapsed dimensions, against closed forms."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_skipvae.diagnostics import CollapseReport, collapse_report, dimension_losses
from pyro_skipvae.diagnostics.estimates.dimensions import collapse_thresholds

X = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2**0.5


def model(x):
    """Of three dimensions of z the decoder sees two: p(x_d|z) = N(z_d, 1)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[:, :2], 1.0).to_event(1), obs=x)


def guide(x):
    """Exact in what is seen, and in the third a copy of x that nobody reads."""
    with pyro.plate("data", len(x)):
        loc, scale = torch.cat([x / 2, x[:, :1] / 10], 1), x.new_tensor([0.5**0.5, 0.5**0.5, 1.0])
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))


@pytest.mark.parametrize("replace", ["shuffled", "prior"])
def test_each_dimension_loses_what_it_says(replace):
    """E 1/2 [(x - z')^2 - (x - z)^2] = Cov(x, z) = 1, with z' of another point or of the prior, which is N(0, 1) too."""
    losses = dimension_losses(model, guide, X, replace=replace)
    assert all(loss.low < 1 < loss.high and loss.high - loss.low < 1 for loss in losses[:2])
    assert (losses[2].low, losses[2].value, losses[2].high) == (0, 0, 0)


def test_some_dimensions_lose_what_they_lose_among_all():
    every = dimension_losses(model, guide, X)
    assert dimension_losses(model, guide, X, dimensions=[2, 0]) == [every[2], every[0]]


def test_what_is_asked_wrongly_is_told():
    for options, words in (
        ({"replace": "noise"}, "'shuffled' or 'prior'"),
        ({"points": 1}, "points to be 2 or more"),
        ({"dimensions": [1, 3]}, r"dimensions from 0 to 2, got \[1, 3\]"),
    ):
        with pytest.raises(ValueError, match=words):
            dimension_losses(model, guide, X, **options)


def test_thresholds_are_quantiles_over_points():
    kl = torch.arange(200.0).flip(0)[:, None] * torch.tensor([1.0, 0.0])
    assert collapse_thresholds(kl).tolist() == [197, 0]  # two of 200 points may lie above
    assert collapse_thresholds(kl[:50]).tolist() == [199, 0]  # of 50 none


def test_the_curve_of_a_report():
    found = collapse_report(model, guide, X, importance_samples=2, posterior_samples=2)
    third = (X[:, 0] / 10).square() / 2
    assert found.collapse_thresholds[2] == pytest.approx(third.sort().values[-6].item(), rel=1e-6)
    assert [found.collapsed_share(e) for e in (0.0, 0.09, 9.0)] == [0, 1 / 3, 1]
    assert "of 3 dimensions" in str(found)
    again = CollapseReport.from_json(found.to_json())
    assert again.collapse_thresholds == found.collapse_thresholds
