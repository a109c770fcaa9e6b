"""Which rows and draws an estimate stands on: each against a closed form on data whose rows differ widely."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_skipvae.diagnostics import (
    active_units,
    collapse_report,
    dimension_losses,
    log_likelihood_per_point,
    mutual_information,
    rate,
)

# Rows that grow: an estimate on the wrong ones is off by far more than its error.
X = torch.linspace(0, 6, 120, dtype=torch.float64)[:, None].expand(120, 2).contiguous()


def normal(loc, scale=1.0):
    return dist.Normal(loc, scale).to_event(1)


def model(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", normal(pyro.sample("z", normal(torch.zeros_like(x)))), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(x / 2, 0.5**0.5))


def rates(x):
    return (0.5 * (0.5 + x.square() / 4 - 1 + math.log(2))).sum(1)


def evidence(x):
    return normal(torch.zeros_like(x), 2**0.5).log_prob(x)


def test_under_a_budget_the_elbo_is_that_of_its_own_points():
    found = collapse_report(model, guide, X, importance_samples=20, posterior_samples=2, budget=1e-9)
    assert found.card["elbo_points"] == found.card["log_likelihood_points"] == 50
    first = X[:50]
    # Exactly: the ELBO is minus distortion minus the rate of the same points.
    assert found.elbo + found.distortion == pytest.approx(-rates(first).mean().item(), abs=1e-9)
    assert found.log_likelihood == pytest.approx(evidence(first).mean().item(), abs=1e-9)
    assert found.rate == pytest.approx(rates(X).mean().item(), abs=1e-9)
    # E log p(x|z) of each row: log N(x; x/2, 1) - 1/4 per dimension.
    expected = (normal(first / 2).log_prob(first) - 0.5).mean().item()
    assert found.distortion == pytest.approx(-expected, abs=0.4)


def test_the_error_of_the_elbo_is_over_points():
    """Each point's bound has its own rate: E log p(x|z) alone varies half as much as log p(x) between these rows."""
    found = collapse_report(model, guide, X, importance_samples=2, posterior_samples=50)
    assert found.standard_errors["elbo"] == pytest.approx(evidence(X).std().item() / 120**0.5, rel=0.05)
    assert found.standard_errors["distortion"] < 0.6 * found.standard_errors["elbo"]
    assert found.elbo + found.distortion == pytest.approx(-found.rate, abs=1e-9)


def test_under_a_budget_a_rate_by_draws_is_that_of_its_own_points():
    """The same model with a prior that hides the closed form: the bound still belongs to the first points."""
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(1)), normal(torch.zeros(1, 2).double()))

    def hidden(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", normal(pyro.sample("z", mixture)), obs=x)

    found = collapse_report(hidden, guide, X, importance_samples=5, posterior_samples=5, budget=1e-9)
    assert found.card["estimators"]["rate"] == "Monte Carlo" and found.card["elbo_points"] == 50
    # With the exact posterior every draw gives log p(x) itself.
    assert found.elbo == pytest.approx(evidence(X[:50]).mean().item(), abs=1e-9)


def wide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(0.3 * x, 1.0))


@pytest.mark.parametrize("samples", [20, 50])
def test_a_tenth_of_the_draws_is_the_mean_over_all_tenths(samples):
    """By Jensen's inequality it is below the estimate of all draws at every point; the first tenth alone is not."""
    found = log_likelihood_per_point(model, wide, X, importance_samples=samples)
    assert (found.tenth <= found.log_likelihood + 1e-9).all()
    assert (found.log_likelihood - found.tenth).mean() > 0.1


def test_a_tenth_of_the_draws_agrees_with_as_many_draws():
    """It estimates the bound of K/10 draws, with a tenth of the variance."""
    tenth = log_likelihood_per_point(model, wide, X[::12], importance_samples=2000).tenth
    fewer = torch.stack(
        [log_likelihood_per_point(model, wide, X[::12], importance_samples=200, seed=s).log_likelihood for s in range(10)]
    )
    assert (tenth - fewer.mean(0)).abs().max() < 5 * fewer.std(0).max() * (2 / 10) ** 0.5


def test_effective_samples_lie_between_one_and_all():
    exact = log_likelihood_per_point(model, guide, X, importance_samples=30).effective_samples
    torch.testing.assert_close(exact, torch.full((120,), 30.0, dtype=torch.float64))
    poor = log_likelihood_per_point(model, wide, X, importance_samples=30).effective_samples
    assert (poor >= 1 - 1e-9).all() and (poor < 30).all() and poor.argmin() > 60  # it is worst where x is largest


@pytest.mark.parametrize("rows", [120, 1000])
def test_pieces_of_the_decoder_change_nothing(rows):
    found = collapse_report(model, guide, X, importance_samples=3, posterior_samples=2, rows=rows)
    reference = collapse_report(model, guide, X, importance_samples=3, posterior_samples=2)
    for name in ("elbo", "distortion", "shuffled_latent_loss", "log_likelihood"):
        assert getattr(found, name) == pytest.approx(getattr(reference, name), abs=1e-9)


def test_parts_of_the_encoder_change_its_draws_and_nothing_else():
    sizes = []

    def counted(x):
        sizes.append(len(x))
        guide(x)

    found = collapse_report(model, counted, X, importance_samples=3, posterior_samples=2, rows=7)
    assert max(sizes) <= 7
    assert found.rate == pytest.approx(rates(X).mean().item(), abs=1e-9)
    assert found.log_likelihood == pytest.approx(evidence(X).mean().item(), abs=1e-9)  # the guide is the posterior
    assert rate(model, counted, X, rows=5).value == pytest.approx(found.rate, abs=1e-9)
    for function in (active_units, mutual_information, dimension_losses):
        function(model, counted, X, rows=7)
    assert max(sizes) <= 7


def test_every_chunk_counts_once():
    """More rows than one run of the guide takes, in two runs."""
    x = torch.linspace(0, 6, 300, dtype=torch.float64)[:, None].expand(300, 2).contiguous()
    found = collapse_report(model, guide, x, importance_samples=2, posterior_samples=1)
    assert found.rate == pytest.approx(rates(x).mean().item(), abs=1e-9)
    assert found.rate_per_dimension == pytest.approx([found.rate / 2] * 2)
    assert found.log_likelihood == pytest.approx(evidence(x).mean().item(), abs=1e-9)
    assert found.active_unit_variances == pytest.approx([(x[:, 0] / 2).var().item()] * 2)
    assert found.standard_errors["rate"] == pytest.approx(rates(x).std().item() / 300**0.5)
