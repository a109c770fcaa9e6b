"""Calibration of a guide: the exact posterior passes; one that is shifted, too narrow, too wide or blind does not."""

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_skipvae import as_pair
from pyro_skipvae.diagnostics import calibration as full_calibration
from pyro_skipvae.diagnostics.estimates.calibration import _quantity

WEIGHT = torch.tensor([[1.0, 0.5], [0.0, 2.0], [1.0, -1.0]], dtype=torch.float64)  # x = WEIGHT z + noise
COVARIANCE = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + WEIGHT.T @ WEIGHT)
X = torch.zeros(40, 3, dtype=torch.float64)
SEEN = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def calibration(model, guide, x, **options):
    return full_calibration(model, guide, x, **{"simulations": 300, "draws": 39} | options)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT.T, 1.0).to_event(1), obs=x)


def posterior(shift=0.0, factor=1.0, blind=False):
    """The exact posterior, its mean shifted by so many standard deviations, its scale times the factor; or the prior."""
    deviation = COVARIANCE.diagonal().sqrt()
    cholesky = factor * torch.linalg.cholesky(COVARIANCE)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = x @ WEIGHT @ COVARIANCE + shift * deviation
            exact = dist.MultivariateNormal(loc, scale_tril=cholesky)
            pyro.sample("z", dist.Normal(0 * loc, 1.0).to_event(1) if blind else exact)

    return guide


def test_the_exact_posterior_passes():
    found = calibration(model, posterior(), X)
    assert found.kind == "no departure found" and [each.name for each in found.quantities] == ["z[0]", "z[1]", "log p(x|z)"]
    for quantity in found.quantities[:2]:
        assert quantity.width.low < 1 < quantity.width.high and quantity.width.high - quantity.width.low < 0.2
        assert abs(quantity.bias.value) < 0.05 and quantity.bias.low < 0 < quantity.bias.high
        for level, share in quantity.coverage.items():
            assert share.low < float(level.rstrip("%")) / 100 < share.high
    explained = 1 - COVARIANCE.diagonal()
    assert [each.explained for each in found.quantities[:2]] == pytest.approx(explained.tolist(), abs=0.08)
    assert "data that the model draws" in found.notes[-1] and json.loads(found.to_json())["kind"] == found.kind


def test_the_p_values_of_an_exact_posterior_are_uniform():
    """Of 36 p-values about 4 lie below a tenth; more than 11 have a probability below 0.001."""
    values = [
        each
        for seed in range(6)
        for quantity in calibration(model, posterior(), X, simulations=100, draws=19, seed=seed).quantities
        for each in (quantity.uniformity, quantity.symmetry)
    ]
    assert sum(value < 0.1 for value in values) <= 11


@pytest.mark.parametrize(("factor", "kind"), [(0.1, "too narrow"), (0.7, "too narrow"), (1.5, "too wide")])
def test_a_wrong_width_is_told_which_the_symmetric_test_cannot_see(factor, kind):
    found = calibration(model, posterior(factor=factor), X)
    assert found.kind == kind, str(found)
    for quantity in found.quantities[:2]:
        assert quantity.width.low * factor < 1 < quantity.width.high * factor
        assert quantity.symmetry > 0.001 and quantity.uniformity < 0.01
    if factor == 0.1:  # P(|error| < 0.1 * 1.645 standard deviations) = 0.13
        assert found.quantities[0].coverage["90%"].low < 0.13 < found.quantities[0].coverage["90%"].high


@pytest.mark.parametrize("draws", [28, 36, 40, 100])
def test_any_number_of_draws_sees_a_wrong_width(draws):
    """Also where no number of bins divides draws + 1."""
    found = calibration(model, posterior(factor=0.3), X, simulations=100, draws=draws, likelihood=False)
    assert found.kind == "too narrow" and found.quantities[0].uniformity < 1e-6
    exact = calibration(model, posterior(), X, simulations=100, draws=draws, likelihood=False)
    assert exact.kind == "no departure found" and min(each.uniformity for each in exact.quantities) > 0.01


def test_bins_of_unequal_size_expect_unequal_counts():
    """With 28 draws 9 of 20 bins hold two ranks and 11 one: 3000 uniform ranks are far from uniform over the bins."""
    exact = calibration(model, posterior(), X, simulations=3000, draws=28, likelihood=False)
    assert min(each.uniformity for each in exact.quantities) > 0.001


def test_a_shift_is_told():
    """The mean rank of a guide that is one standard deviation too high is P(z_l < z*) = Phi(-1 / sqrt 2) = 0.24."""
    found = calibration(model, posterior(shift=1.0), X)
    assert found.kind == "shifted" and "too high" in found.sentence
    assert found.quantities[0].bias.low < 0.2398 - 0.5 < found.quantities[0].bias.high


def test_a_guide_that_ignores_x_is_seen_by_the_likelihood_alone():
    found = calibration(model, posterior(blind=True), X)
    of_z, of_x = found.quantities[:2], found.quantities[2]
    assert all(quantity.uniformity > 0.001 for quantity in of_z) and of_x.uniformity < 1e-6
    assert found.kind == "not uniform" and "do not follow x" in found.sentence
    assert any("less than 5 %" in note for note in found.notes)
    assert calibration(model, posterior(blind=True), X, likelihood=False).kind == "no departure found"


def test_a_conditional_model_and_callables_of_plain_torch():
    """p(z|c) = N(c, 1), p(x|z) = N(z, 1): the posterior is N((c + x) / 2, 1/2)."""
    c = torch.linspace(-3, 3, 40, dtype=torch.float64)[:, None]
    right, wrong = (lambda x, c: ((c + x) / 2, 0.5**0.5 + 0 * x)), (lambda x, c: (x / 2, 0.5**0.5 + 0 * x))
    kinds = []
    for encode in (right, wrong):
        pair = as_pair(encode, lambda z, c: dist.Normal(z, 1.0), prior=lambda c: dist.Normal(c, 1.0))
        kinds.append(calibration(*pair, (0 * c, c)).kind)
    assert kinds[0] == "no departure found" != kinds[1]


def test_codes_with_ties_of_ranks():
    logits = torch.tensor([2.0, -2.0], dtype=torch.float64)

    def coded(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(x.new_tensor(0.5)))
            pyro.sample("x", dist.Bernoulli(logits=logits[z.long()]), obs=x)

    def guide(strength):
        def sampled(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Bernoulli(logits=strength * (2 - 4 * x)))

        return sampled

    x = torch.zeros(40, dtype=torch.float64)
    assert calibration(coded, guide(1.0), x).kind == "no departure found"
    assert calibration(coded, guide(-1.0), x).kind != "no departure found"


def test_what_cannot_be_simulated_is_told():
    def derived(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ WEIGHT.T, 1.0).to_event(1), obs=x + 1)

    def forced(x, given=None):
        given = x if given is None else given
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ WEIGHT.T + given.roll(1, -1), 1.0).to_event(1), obs=x)

    for pair, words in ((derived, "observe an argument of its own"), (forced, "teacher forcing")):
        with pytest.raises(ValueError, match=words):
            calibration(pair, posterior(), X)
    with pytest.raises(ValueError, match="teacher forcing"):  # also where x is given once more, as a context
        calibration(forced, lambda x, given: posterior()(x), (SEEN, SEEN), simulations=20, draws=19)
    with pytest.raises(ValueError, match="at least 20 simulations, got 3"):
        calibration(model, posterior(), X, simulations=3)


def test_p_values_are_those_of_scipy():
    ranks = torch.cat([torch.arange(20).repeat(10), torch.arange(10).repeat(4)]).double()  # 240, of 20 places
    found = _quantity("log p(x|z)", ranks, {}, 0, 19)
    assert found.uniformity == pytest.approx(stats.chisquare(ranks.long().bincount()).pvalue)
    bias, error = ((ranks + 0.5) / 20 - 0.5).mean(), ((1 - 20**-2) / 12 / 240) ** 0.5
    assert found.symmetry == pytest.approx(2 * stats.norm.sf(abs(bias) / error))
