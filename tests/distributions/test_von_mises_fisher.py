"""The von Mises-Fisher distribution: its constant, its divergences, its draws, and both gradients of its draws."""

import math

import numpy as np
import pytest
import scipy.special
import torch
from torch.autograd import gradcheck
from torch.distributions import kl_divergence

from pyro_skipvae.distributions import SphereUniform, VonMisesFisher
from pyro_skipvae.distributions.von_mises_fisher import (
    _slope,
    committed_by,
    concentration_for,
    log_bessel,
    mean_cosine,
)
from pyro_skipvae.guides import VonMisesFisherPosterior


def made(D, k, seed=0):
    torch.manual_seed(seed)
    loc = torch.randn(D, dtype=torch.float64)
    return VonMisesFisher(loc / loc.norm(), torch.tensor(k, dtype=torch.float64))


@pytest.mark.parametrize("order", [0, 0.5, 1, 15, 24.5, 60, 150])
def test_bessel_functions_and_their_slope_are_scipys(order):
    values = np.array([0.1, 1, 20, 80, 99.9, 100.1, 600])
    values = values[scipy.special.ive(order, values) > 0]  # scipy's own underflow
    k = torch.as_tensor(values).requires_grad_()
    found, expected = log_bessel(order, k), np.log(scipy.special.ive(order, values)) + values
    torch.testing.assert_close(found.detach(), torch.as_tensor(expected), rtol=0, atol=1e-9)
    slope = scipy.special.ive(order + 1, values) / scipy.special.ive(order, values) + order / values
    torch.testing.assert_close(torch.autograd.grad(found.sum(), k)[0], torch.as_tensor(slope), rtol=1e-10, atol=0)


@pytest.mark.parametrize("k", [0.01, 1.0, 30.0, 5000.0])
def test_three_dimensions_in_closed_form(k):
    q, uniform = made(3, k), SphereUniform(3, like=torch.zeros((), dtype=torch.float64))
    log_sinh = k + math.log(-math.expm1(-2 * k)) - math.log(2)
    kl = k / math.tanh(k) - 1 + math.log(k) - log_sinh
    assert float(kl_divergence(q, uniform)) == pytest.approx(kl, abs=1e-8)  # k A(k) loses digits at k = 5,000
    z = q.sample((5,))
    expected = math.log(k / (4 * math.pi)) - log_sinh + k * (z @ q.loc)
    torch.testing.assert_close(q.log_prob(z), expected)
    assert float(uniform.log_prob(z)[0]) == pytest.approx(-math.log(4 * math.pi))


@pytest.mark.parametrize(("D", "rates", "concentrations"), [
    (32, (2, 5, 8, 10, 15), (12.4, 22.5, 32.8, 40.4, 63.4)),
    (50, (2, 5, 8, 10, 15), (15.0, 25.9, 35.9, 42.6, 60.9)),
])  # fmt: skip
def test_the_concentration_of_a_rate(D, rates, concentrations):
    assert tuple(round(concentration_for(rate, D), 1) for rate in rates) == concentrations
    assert committed_by(concentration_for(7.3, D), D) == pytest.approx(7.3, abs=1e-9)


@pytest.mark.parametrize(("D", "k"), [(2, 0.5), (2, 200.0), (5, 3.0), (64, 20.0), (300, 900.0)])
def test_draws_densities_and_divergences_agree(D, k):
    q, p = made(D, k), made(D, 2.0, seed=1)
    uniform = SphereUniform(D, like=q.loc)
    z = q.sample((20_000,))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(len(z), dtype=z.dtype))
    cosine = z @ q.loc
    error = 5 * float(cosine.std()) / len(z) ** 0.5
    assert float(cosine.mean()) == pytest.approx(float(mean_cosine(q.concentration, D)), abs=error)
    torch.testing.assert_close(z.var(0).sum(), q.variance.sum(), rtol=0.05, atol=0)
    for other in (uniform, p):
        ratio = q.log_prob(z) - other.log_prob(z)
        assert float(kl_divergence(q, other)) == pytest.approx(float(ratio.mean()), abs=5 * float(ratio.std()) / len(z) ** 0.5)
    assert float(kl_divergence(q, q)) == pytest.approx(0, abs=1e-9)
    assert float(q.entropy()) == pytest.approx(-float(q.log_prob(z).mean()), abs=error * k + 1e-9)


def test_a_circle_is_torchs_von_mises():
    q = made(2, 3.0)
    angle = torch.distributions.VonMises(torch.atan2(q.loc[1], q.loc[0]), q.concentration)
    z = q.sample((6,))
    torch.testing.assert_close(q.log_prob(z), angle.log_prob(torch.atan2(z[:, 1], z[:, 0])), rtol=0, atol=1e-6)  # its Bessel


@pytest.mark.parametrize("D", [2, 3, 20, 300])
@pytest.mark.parametrize("k", [0.2, 10.0, 500.0])
def test_the_slope_of_a_draw_keeps_the_distribution_function(D, k):
    """F(w(k); k) constant, by quadrature on a fine grid of angles."""
    angles = torch.linspace(0, math.pi, 400_001, dtype=torch.float64)[1:-1]

    def cumulative(k):
        log_density = (D - 2) * angles.sin().log() + k * angles.cos()
        density = (log_density - log_density.max()).exp()
        return density.cumsum(0) / density.sum()

    low, high = cumulative(k * (1 - 1e-4)), cumulative(k * (1 + 1e-4))
    place = torch.searchsorted(low, torch.tensor([0.05, 0.5, 0.9], dtype=torch.float64))
    # The angle at which F is the same for a little more concentration, by linear interpolation.
    after = torch.searchsorted(high, low[place]).clamp(min=1)
    share = (low[place] - high[after - 1]) / (high[after] - high[after - 1])
    moved = angles[after - 1] + share * (angles[after] - angles[after - 1])
    expected = (moved - angles[place]) / (2e-4 * k)
    found = _slope(torch.tensor(k, dtype=torch.float64).expand(3), angles[place], D)
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=0)


def test_gradients_of_an_expectation_reach_both_parameters():
    """E[<a, z>^2] in closed form by the second moment, against the gradient through draws."""
    D, a = 6, torch.linspace(-1, 1, 6, dtype=torch.float64)
    free = torch.tensor([1.0, -0.5, 0.3, 0.8, 0.1, -0.2], dtype=torch.float64, requires_grad=True)
    k = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    q = VonMisesFisher(free / free.norm(), k)
    across = mean_cosine(k, D) / k
    exact = across * (a @ a) + (1 - D * across) * (a @ q.loc).square()
    expected = torch.autograd.grad(exact, (free, k), retain_graph=True)
    torch.manual_seed(0)
    z = q.rsample((30_000,))
    found = torch.autograd.grad((z @ a).square().mean(), (free, k))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("D", [2, 3, 50])
@pytest.mark.parametrize("k", [1e-3, 1.0, 1e3, 1e6])
def test_single_precision_has_finite_draws_and_gradients(D, k):
    loc, concentration = torch.eye(D)[0].expand(2000, D), torch.full((2000,), k, requires_grad=True)
    q = VonMisesFisher(loc, concentration, validate_args=True)
    z = q.rsample()
    (z.sum() + q.log_prob(z).sum()).backward()
    assert z.isfinite().all() and concentration.grad.isfinite().all()


def test_the_divergence_has_the_right_gradient():
    uniform = SphereUniform(9, like=torch.zeros((), dtype=torch.float64))
    loc = torch.eye(9, dtype=torch.float64)[:2]
    k = torch.tensor([0.5, 140.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda k: kl_divergence(VonMisesFisher(loc, k), uniform), k)


def test_shapes():
    q = made(4, 2.0).expand((3, 1)).expand((3, 2))
    assert q.batch_shape == (3, 2) and q.event_shape == (4,) and q.rsample((5,)).shape == (5, 3, 2, 4)
    assert q.log_prob(q.sample()).shape == q.entropy().shape == (3, 2) and q.mean.shape == q.variance.shape == (3, 2, 4)
    uniform = SphereUniform(4).expand((3, 2))
    assert uniform.sample((5,)).shape == (5, 3, 2, 4) and uniform.log_prob(uniform.sample()).shape == (3, 2)
    assert kl_divergence(q, SphereUniform(4)).shape == (3, 2)


@pytest.mark.parametrize("make", [lambda: SphereUniform(1), lambda: VonMisesFisher(torch.ones(1), 1.0)])
def test_a_sphere_needs_two_dimensions(make):
    with pytest.raises(ValueError, match="dimensions of a sphere to be a whole number of at least 2, got 1"):
        make()


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e6])
def test_rates_that_no_concentration_has_are_refused(rate):
    with pytest.raises(ValueError, match="expected a rate"):
        concentration_for(rate, 10)


def test_the_family_commits_its_rate_or_learns_a_concentration(float64):
    features = torch.randn(5, 3)
    fixed = VonMisesFisherPosterior(3, 6, rate=4.0)(features)
    torch.testing.assert_close(kl_divergence(fixed, SphereUniform(6, like=features)), torch.full((5,), 4.0))
    learned = VonMisesFisherPosterior(3, 6)(features)
    assert len(set(learned.concentration.tolist())) == 5
    torch.testing.assert_close(learned.loc.norm(dim=-1), torch.ones(5))


@pytest.mark.parametrize("k", [3e3, 4.2e7, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_concentrations_in_closed_form(k, dtype):
    """In three dimensions KL = ln 2k - 1, the variance along loc 1/k^2, and across it 1/k, up to terms in exp(-2k)."""
    loc = torch.eye(3, dtype=dtype)[0]
    q, uniform = VonMisesFisher(loc, k), SphereUniform(3, like=loc)
    assert float(kl_divergence(q, uniform)) == pytest.approx(math.log(2 * k) - 1, rel=1e-6)
    assert q.variance.tolist() == pytest.approx([1 / k**2, (1 - 1 / k) / k, (1 - 1 / k) / k], rel=1e-4, abs=0)
    torch.manual_seed(0)
    log_q = q.log_prob(q.sample((4000,)))
    assert float(log_q.mean()) == pytest.approx(-float(q.entropy()), abs=5 * float(log_q.std()) / 4000**0.5)
    assert committed_by(concentration_for(9.2, 2), 2) == pytest.approx(9.2, abs=1e-6)


def test_draws_have_no_second_derivative():
    """What a backward pass computes from numbers alone would be a constant in the next one."""
    k = torch.tensor([5.0], requires_grad=True)
    loc = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    (first,) = torch.autograd.grad(VonMisesFisher(loc, k).rsample()[0, 0].square(), k, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.backward()
