"""The estimators against linear-Gaussian models, whose every number has a closed form (Tipping and Bishop 1999)."""

import math
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_skipvae.diagnostics import (
    active_units,
    collapse_report,
    log_likelihood,
    model_mutual_information,
    mutual_information,
    rate,
)

EIGENVALUES = torch.tensor([9, 5, 3, 1.8, 1.2, 0.9, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], dtype=torch.float64)
LATENT = 6
# variance of the noise: active units, rate = mutual information, ELBO = log-likelihood
ANSWERS = {0.5: (6, 4.864453, -17.432832), 1.0: (5, 2.837692, -18.164954), 2.0: (3, 1.412917, -19.749062)}


def whitened(points, seed=0):
    """Data whose mean is zero and whose covariance (divisor N) is exactly diag(EIGENVALUES)."""
    x = torch.randn(points, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    factor = torch.linalg.cholesky(x.T @ x / points)
    return torch.linalg.solve_triangular(factor, x.T, upper=False).T * EIGENVALUES.sqrt()


def linear_pair(variance, shrink=1.0):
    """The optimal linear VAE at a fixed noise variance: p(z) p(x|z) and the exact posterior (its mean times shrink)."""
    weight = torch.zeros(12, LATENT, dtype=torch.float64)
    weight[range(LATENT), range(LATENT)] = (EIGENVALUES[:LATENT] - variance).clamp(min=0).sqrt()
    inner = weight.T @ weight + variance * torch.eye(LATENT, dtype=torch.float64)
    encoder, scale = shrink * torch.linalg.solve(inner, weight.T), (variance / inner.diagonal()).sqrt()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T, variance**0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ encoder.T, scale).to_event(1))

    return model, guide


def channel(information, dimensions=8):
    """A guide with I(x; z) = `information` for x ~ N(0, 1): q(z|x) = N(sqrt(1 - s^2) x, s^2), so that q(z) = N(0, 1)."""
    variance = math.exp(-2 * information / dimensions)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((1 - variance) ** 0.5 * x, variance**0.5).to_event(1))

    return model, guide


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("variance", ANSWERS)
def test_linear_vae(variance):
    model, guide = linear_pair(variance)
    x = whitened(2000)
    report = collapse_report(model, guide, x, importance_samples=10, posterior_samples=20)
    units, information, bound = ANSWERS[variance]
    # The data have their covariance exactly: the averages below have no sampling error but that of z.
    assert report.active_units == units
    assert report.rate == pytest.approx(information, abs=1e-6)
    assert report.log_likelihood == pytest.approx(bound, abs=1e-6)  # the exact posterior's weights are constant
    assert report.log_likelihood_tenth == pytest.approx(bound, abs=1e-6)
    assert report.effective_sample_size["min"] == pytest.approx(10, abs=1e-6)
    # E log p(x|z) given x varies with z by sqrt(6 / 2) nats at most: over 40,000 draws that is 0.009.
    assert report.elbo == pytest.approx(bound, abs=4 * 0.009)
    assert report.elbo == pytest.approx(-report.distortion - report.rate, abs=1e-9)
    assert report.mi_lower.low <= information <= report.mi_upper.high
    assert abs(report.mi_marginal.value - information) < 3 * (report.mi_marginal.high - report.mi_marginal.value)
    expected = (1 - variance / EIGENVALUES[:LATENT]).clamp(min=0) * 2000 / 1999
    torch.testing.assert_close(torch.tensor(report.active_unit_variances, dtype=torch.float64), expected, atol=1e-9, rtol=0)
    per_unit = 0.5 * (EIGENVALUES[:LATENT] / variance).log().clamp(min=0)
    torch.testing.assert_close(torch.tensor(report.rate_per_dimension, dtype=torch.float64), per_unit, atol=1e-6, rtol=0)


def test_single_functions_agree_with_the_closed_form():
    model, guide = linear_pair(1.0)
    x = whitened(500)
    assert rate(model, guide, x).value == pytest.approx(2.837692, abs=1e-6)
    assert active_units(model, guide, x) == 5
    assert active_units(model, guide, x, threshold=0.5) == 3  # 1 - 1 / eigenvalue exceeds 1/2 for 9, 5, 3
    assert log_likelihood(model, guide, x, importance_samples=25).value == pytest.approx(-18.164954, abs=1e-6)
    bounds = mutual_information(model, guide, x)
    assert bounds.lower.low <= 2.837692 <= bounds.upper.high
    assert bounds.ceiling == pytest.approx(math.log(500)) and not bounds.saturated


def test_importance_sampling_closes_the_gap():
    model, guide = linear_pair(0.5, shrink=0.8)
    x = whitened(3000)
    gaps = [
        -17.432832 - log_likelihood(model, guide, x, importance_samples=samples, rows=3000).value
        for samples in (1, 10, 50, 200)
    ]
    # KL(q || posterior) = sum (0.2 mean)^2 / (2 d), d the posterior's variance, is the gap at one sample.
    assert gaps[0] == pytest.approx(0.02 * (2 * EIGENVALUES[:LATENT].sum().item() - LATENT), abs=0.06)
    assert gaps == sorted(gaps, reverse=True)
    # From independent runs with K = 10, 50, 200; one weight varies by 1.2 nats: 0.022, 0.010, 0.005 for the mean.
    for gap, expected, tolerance in zip(gaps[1:], (0.127, 0.038, 0.019), (0.03, 0.012, 0.008), strict=True):
        assert gap == pytest.approx(expected, abs=tolerance)


def test_a_tenth_of_the_samples_is_never_better():
    model, guide = linear_pair(0.5, shrink=0.7)
    report = collapse_report(model, guide, whitened(60), importance_samples=50, posterior_samples=2)
    assert report.log_likelihood_tenth < report.log_likelihood < -17.3
    assert 1 <= report.effective_sample_size["min"] < report.effective_sample_size["median"] < 50
    assert report.card["importance_samples_tenth"] == 5


def test_identical_posteriors_carry_nothing():
    model, _ = channel(1.0, dimensions=2)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.ones_like(x), 0.3).to_event(1))

    bounds = mutual_information(model, guide, normal(300, 2), posterior_samples=3)
    assert bounds.lower.value == pytest.approx(0, abs=1e-9)
    assert bounds.upper.value == pytest.approx(0, abs=1e-9)
    report = collapse_report(model, guide, normal(300, 2), posterior_samples=3, importance_samples=1)
    assert report.mi_he_2019_batch_32["value"] == pytest.approx(0, abs=0.1)  # minus the entropy is an average over z
    assert report.mi_dieng_2019["value"] == pytest.approx(0, abs=0.4)
    assert report.active_units == 0 and report.rate > 0.5


def test_posteriors_far_apart_carry_the_ceiling():
    model, _ = channel(1.0, dimensions=1)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(1e4 * x, 1e-3).to_event(1))

    bounds = mutual_information(model, guide, torch.arange(200.0, dtype=torch.float64)[:, None])
    assert bounds.lower.value == pytest.approx(math.log(200), abs=1e-9)
    assert bounds.saturated and bounds.upper.value > 1e10


def test_bounds_saturate_as_known():
    model, guide = channel(8.0)
    bounds = mutual_information(model, guide, normal(10_000, 8))
    # From an independent implementation at the same MI and N: 7.391 +- 0.036, 8.598 +- 0.067, fitted 8.04 +- 0.13.
    assert bounds.lower.value == pytest.approx(7.391, abs=0.07)
    assert bounds.upper.value == pytest.approx(8.598, abs=0.14)
    assert bounds.marginal.low < 8 < bounds.marginal.high + 0.05
    assert bounds.saturated


def test_interval_is_narrow_at_three_nats():
    model, guide = channel(3.0)
    bounds = mutual_information(model, guide, normal(10_000, 8, seed=3))
    assert bounds.lower.low <= 3 <= bounds.upper.high
    assert bounds.upper.high - bounds.lower.low <= 0.15
    assert not bounds.saturated


def test_the_truth_lies_between_the_bounds_in_95_percent_of_repeats():
    model, guide = channel(2.0, dimensions=4)
    repeats = 60
    covered = 0
    for seed in range(repeats):
        bounds = mutual_information(model, guide, normal(200, 4, seed=seed), posterior_samples=2, seed=seed)
        covered += bounds.lower.low <= 2 <= bounds.upper.high
    assert covered >= 0.95 * repeats


def test_bounds_do_not_depend_on_the_scale_of_z():
    model, guide = channel(1.0, dimensions=3)

    variance = math.exp(-2 / 3)

    def tiny(x):
        with pyro.plate("data", len(x)):
            loc = 7 + 1e-3 * (1 - variance) ** 0.5 * x
            pyro.sample("z", dist.Normal(loc, 1e-3 * variance**0.5).to_event(1))

    x = normal(300, 3)
    first, second = mutual_information(model, guide, x), mutual_information(model, tiny, x)
    for name in ("lower", "upper", "marginal"):
        assert getattr(second, name).value == pytest.approx(getattr(first, name).value, abs=1e-3)


def test_standard_errors_are_clustered_by_x():
    model, guide = channel(1.0)
    x = normal(400, 8)
    one, many = (mutual_information(model, guide, x, posterior_samples=samples) for samples in (1, 50))
    # Fifty draws at the same x are not fifty points: treating them so would divide the width by seven.
    assert many.lower.high - many.lower.low > 0.25 * (one.lower.high - one.lower.low)


def test_papers_conventions():
    model, guide = channel(5.0)
    report = collapse_report(model, guide, normal(3000, 8), posterior_samples=2, importance_samples=1, card={"run": "a"})
    # The same implementation at MI 5, N = 3,000: own component 4.839 +- 0.072, batches of 32 3.12.
    assert report.mi_dieng_2019["N"] == 3000
    assert report.mi_dieng_2019["ceiling"] == pytest.approx(math.log(3000))
    assert report.mi_dieng_2019["value"] == pytest.approx(4.839, abs=0.2)
    assert report.mi_he_2019_batch_32["value"] == pytest.approx(3.12, abs=0.15)
    assert report.mi_he_2019_batch_32["ceiling"] == pytest.approx(math.log(32))
    few = collapse_report(model, guide, normal(10, 8), posterior_samples=2, importance_samples=1)
    assert few.mi_he_2019_batch_32["ceiling"] == few.mi_ceiling == pytest.approx(math.log(10))


def test_the_papers_convention_stops_at_ten_thousand_points():
    model, guide = channel(1.0, dimensions=1)
    x = normal(10_300, 1)
    x[10_000:] += 1000.0  # far away: were they in, the value would change
    report = collapse_report(model, guide, x, posterior_samples=1, importance_samples=1, budget=0.01)
    assert report.mi_dieng_2019["N"] == 10_000
    assert report.mi_dieng_2019["value"] == pytest.approx(1.0, abs=0.1)


def wide_prior_pair():
    """q(z) = N(0, 1) for x ~ N(0, 1), p(z) = N(0, 2^2), p(x|z) = N(z, 1)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 2.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.75**0.5 * x, 0.5).to_event(1))

    return model, guide, math.log(2) + 1 / 8 - 0.5  # KL(N(0, 1) || N(0, 4))


def test_aggregate_kl_is_rate_minus_information():
    model, guide, exact = wide_prior_pair()
    report = collapse_report(model, guide, normal(2000, 2), posterior_samples=4, importance_samples=1)
    kl = report.aggregate_kl
    assert kl.low < report.rate - report.mi_upper.value < report.rate - report.mi_lower.value < kl.high
    assert kl.low < kl.value < kl.high and kl.value == pytest.approx(2 * exact, abs=0.06)
    held = 0
    for seed in range(40):
        x = normal(150, 1, seed=10_000 + seed)
        kl = collapse_report(model, guide, x, posterior_samples=1, importance_samples=1, seed=seed).aggregate_kl
        held += kl.low <= exact <= kl.high
    assert held >= 35


def test_aggregate_kl_is_not_negative():
    model, _, _ = wide_prior_pair()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 2.0).to_event(1))

    for seed in range(3):
        kl = collapse_report(model, guide, normal(50, 1), posterior_samples=1, importance_samples=1, seed=seed).aggregate_kl
        assert kl.low <= 0 <= kl.value <= kl.high


def test_standard_error_of_the_shuffled_loss():
    """The loss is x z - x z' + (z'^2 - z^2) / 2, of which the last sums to zero over the cycle: var(x z) + var(x z') = 2.75."""
    model, guide, _ = wide_prior_pair()
    report = collapse_report(model, guide, normal(4000, 1), posterior_samples=1, importance_samples=1, seed=1)
    error = report.standard_errors["shuffled_latent_loss"]
    assert error == pytest.approx((2.75 / 4000) ** 0.5, rel=0.07)  # as if neighbours were independent: 14 % less
    assert report.shuffled_latent_loss == pytest.approx(0.75**0.5, abs=3 * error)


def test_information_under_the_linear_model():
    model, _ = linear_pair(1.0)
    bounds = model_mutual_information(model, torch.zeros(3000, 12, dtype=torch.float64), samples=3000)
    # Prior N(0, I): 1/2 log det(I + W'W / variance), the same as under q at the optimum.
    assert bounds.lower.low <= 2.837692 <= bounds.upper.high
    assert bounds.upper.high - bounds.lower.low < 0.3
    assert bounds.points == 3000 and bounds.ceiling == pytest.approx(math.log(3000))


def test_memory_stays_small():
    code = """
import resource, sys, torch
from pyro_skipvae.diagnostics import mutual_information
sys.path.insert(0, 'tests/diagnostics')
from test_known_answers import channel
model, guide = channel(8.0, dimensions=50)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mutual_information(model, guide, torch.randn(12_000, 50), fit_on=torch.randn(100, 50))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # One N x N matrix in float64 would be 1.1 GB; what is needed are 12,000 x 50 x a few copies of 5 MB.
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(run.stdout) * unit < 250e6


def test_the_fitted_marginal_is_evaluated_on_the_half_it_was_not_fitted_to():
    """Fitted to the same few points it would fall below the information, 8 ln(2) / 2 nats less what it misses."""
    model, guide = channel(1.0, dimensions=8)
    values = [mutual_information(model, guide, normal(80, 8, seed=s), seed=s).marginal.value for s in range(20)]
    assert sum(values) / 20 > 1
