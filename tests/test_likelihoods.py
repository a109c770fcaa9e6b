"""The exponential families and the distributions over grey levels."""

import pyro.distributions as dist
import pytest
import torch

from pyro_skipvae import likelihoods
from pyro_skipvae.distributions import ColourLogistics
from pyro_skipvae.distributions.grey_levels import DiscretisedLogistic, GreyLevels

LIKELIHOODS = {
    "bernoulli": likelihoods.bernoulli,
    "poisson": likelihoods.poisson,
    "multinomial": likelihoods.multinomial_about(torch.ones(3) / 3, torch.tensor([4.0, 9.0])),
    "normal": likelihoods.normal,
    "normal in units": likelihoods.normal_in_units(torch.randn(2, 1, 1)[0], torch.rand(1, 1) + 0.5),
    "normal, shared scale": likelihoods.normal_shared_scale(torch.tensor(7.0), torch.tensor(3.0)),
    "poisson about a mean": likelihoods.poisson_about(torch.tensor([1.0, 2.0, 30.0]), torch.ones(3)),
    "categorical": likelihoods.categorical(5),
    "discretised-logistic": likelihoods.discretised_logistic(5),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_contract(name):
    likelihood = LIKELIHOODS[name]
    p = likelihood(torch.randn(4, 2, 3, likelihood.parameters), 2)
    x = p.sample((1000,))
    assert p.batch_shape == (4,) and p.event_shape == (2, 3) and x.shape == (1000, 4, 2, 3)
    assert p.log_prob(x).shape == (1000, 4) and p.log_prob(x).isfinite().all()
    assert ((x.mean(0) - p.mean) / (x.std(0) / 1000**0.5 + 1e-3)).abs().max() < 6


def test_closed_forms():
    eta = torch.tensor([[0.3, -1.2]])
    x = torch.tensor([1.0])
    torch.testing.assert_close(likelihoods.bernoulli(eta[:, :1], 1).log_prob(x), torch.sigmoid(torch.tensor(0.3)).log())
    torch.testing.assert_close(likelihoods.poisson(eta[:, :1], 1).log_prob(x), dist.Poisson(eta[0, 0].exp()).log_prob(x)[0])
    scale = torch.nn.functional.softplus(eta[0, 1]) + likelihoods.SMALLEST_SCALE
    torch.testing.assert_close(likelihoods.normal(eta, 1).log_prob(x), dist.Normal(eta[0, 0], scale).log_prob(x)[0])


@pytest.mark.parametrize(("loc", "scale"), [(0.4, 0.2), (-0.5, 0.02), (1.5, 0.01), (0.5, 30.0)])
def test_discretised_logistic_sums_to_one_and_is_the_difference_of_sigmoids(float64, loc, scale):
    levels = torch.linspace(0, 1, 17)
    p = DiscretisedLogistic(torch.tensor(loc), torch.tensor(scale), 17)
    log_prob = p.log_prob(levels)
    torch.testing.assert_close(log_prob.logsumexp(0), torch.tensor(0.0), rtol=0, atol=1e-12)
    inner = levels[1:-1]
    difference = torch.sigmoid((inner + 1 / 32 - loc) / scale) - torch.sigmoid((inner - 1 / 32 - loc) / scale)
    torch.testing.assert_close(log_prob[1:-1].exp(), difference, rtol=1e-6, atol=1e-12)
    assert log_prob.isfinite().all()


def test_grey_levels_are_a_categorical_on_the_unit_interval():
    logits = torch.randn(3, 17)
    level = torch.tensor([0, 7, 16])
    torch.testing.assert_close(GreyLevels(logits).log_prob(level / 16), dist.Categorical(logits=logits).log_prob(level))


def test_grey_levels_are_normalised_once_and_stay_so(monkeypatch):
    logits = torch.randn(3, 17, requires_grad=True)
    p, level = GreyLevels(logits, validate_args=True), torch.tensor([0, 7, 16])
    wide = p.expand([5, 3])
    expected = dist.Categorical(logits=logits).log_prob(level)
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    with pytest.raises(ValueError, match="logits"):
        GreyLevels(torch.full((3, 17), torch.nan), validate_args=True)
    monkeypatch.setattr(torch.Tensor, "logsumexp", None)  # what is asked from here on has no need of it
    assert p.log_prob(level / 16).equal(expected)
    assert wide.batch_shape == (5, 3) and wide.log_prob(level / 16).equal(expected.expand(5, 3))
    assert torch.autograd.grad(p.log_prob(level / 16).sum(), logits)[0].equal(gradient)
    assert p.to_event(1).log_prob(torch.zeros(2, 1, 3)).shape == (2, 1)
    for grey in (p, wide):
        with pytest.raises(ValueError, match="within the support"):
            grey.log_prob(torch.tensor([0.0, 1.1, 1.0]))


def test_likelihoods_have_gradients_far_from_the_data():
    eta = torch.tensor([[40.0, -8.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(likelihoods.discretised_logistic()(eta, 1).log_prob(torch.zeros(1)), eta)
    assert gradient.isfinite().all() and gradient.any()


def test_the_density_of_a_normal_in_units_follows_the_unit(float64):
    eta, x, a, b = torch.randn(5, 3, 2), torch.randn(5, 3), torch.tensor([2.0, 1000.0, 0.01]), torch.tensor([-1.0, 5000.0, 0.0])
    loc, scale = torch.randn(3), torch.rand(3) + 0.5
    for family in (likelihoods.normal_in_units, likelihoods.normal_shared_scale):
        one, other = family(loc, scale), family(a * loc + b, a * scale)
        eta_of = eta[..., : one.parameters]
        shift = one(eta_of, 1).log_prob(x) - other(eta_of, 1).log_prob(a * x + b)
        torch.testing.assert_close(shift, a.log().sum().expand(5))


def test_one_sigma_is_learned_and_starts_at_the_scale_of_the_data():
    likelihood = likelihoods.normal_shared_scale(torch.tensor(3.0), torch.tensor(2.0))
    assert sum(parameter.numel() for parameter in likelihood.module.parameters()) == 1
    p = likelihood(torch.zeros(4, 1), 1)
    torch.testing.assert_close(p.base_dist.scale, torch.full((4,), 2 * (1 + likelihoods.SMALLEST_SHARED_SCALE)))
    assert (p.mean == 3).all()


def test_counts_begin_at_their_mean():
    mean, deviation = torch.tensor([0.2, 300.0]), torch.tensor([0.4, 30.0])
    p = likelihoods.poisson_about(mean, deviation)
    torch.testing.assert_close(p(torch.zeros(2, 1), 1).mean, mean)
    torch.testing.assert_close(p(torch.ones(2, 1), 1).mean, mean * torch.tensor([1.0, 0.1]).exp())
    with pytest.raises(ValueError, match="expected means and deviations above 0"):
        likelihoods.poisson_about(torch.tensor([0.0, 1.0]), torch.ones(2))


GREYS = {
    "logistic": lambda **how: DiscretisedLogistic(torch.tensor([0.5]), torch.tensor([0.1]), **how),
    "colours": lambda **how: ColourLogistics(torch.zeros(1, 3, 2, 2, 4), **how),
    "levels": lambda **how: GreyLevels(torch.zeros(1, 256), **how),
}


@pytest.mark.parametrize("kind", GREYS)
def test_greys_beyond_0_to_1_are_refused_unless_values_are_not_checked(kind):
    p = GREYS[kind](validate_args=True)
    bright = torch.full((*p.batch_shape, *p.event_shape), 255.0)
    for each in (p, p.expand((3,))):
        with pytest.raises(ValueError, match="within the support"):
            each.log_prob(bright)
    assert GREYS[kind](validate_args=False).expand((3,))._validate_args is False


def test_a_bin_far_from_the_location_has_the_log_probability_of_its_formula():
    loc, scale, value = torch.tensor([3e5, 50.0, -1e4]), torch.tensor([0.02, 0.01, 1.0]), torch.tensor(0.2)
    value = (value * 255).round() / 255
    found = DiscretisedLogistic(loc, scale).log_prob(value)
    exact = DiscretisedLogistic(loc.double(), scale.double()).log_prob(value.double())
    torch.testing.assert_close(found, exact.float(), rtol=1e-6, atol=1e-5)
    half, (far, width) = 1 / 510, (loc.double()[1], scale.double()[1])  # a tail: sigmoid(u) - sigmoid(l) = e^u - e^l
    tail = (value.double() + half - far) / width + torch.log(-torch.expm1(-2 * half / width))
    torch.testing.assert_close(exact[1], tail)
