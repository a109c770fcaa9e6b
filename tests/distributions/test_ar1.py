"""AR(1) sequences against the dense Gaussian they are."""

import pyro.distributions as dist
import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import kl_divergence

from pyro_skipvae.distributions import AR1
from pyro_skipvae.distributions.ar1 import rate_per_step

T, C = 5, 3


def correlation():
    return torch.tensor([0.2, -0.6, 0.95], dtype=torch.float64)


def dense(a, length=T):
    """One channel as a multivariate normal: the covariance of steps s and t is a^|s - t|."""
    steps = torch.arange(length, dtype=torch.float64)
    return dist.MultivariateNormal(torch.zeros(length, dtype=torch.float64), a ** (steps[:, None] - steps).abs())


def posterior(*batch, seed=0):
    torch.manual_seed(seed)
    loc, log_scale = torch.randn(2, *batch, T, C, dtype=torch.float64)
    return dist.Normal(loc, log_scale.exp()).to_event(2)


def test_density_and_entropy_are_those_of_the_dense_normal(float64):
    p, z = AR1(correlation(), T), torch.randn(7, T, C)
    each = [dense(a) for a in correlation()]
    torch.testing.assert_close(p.log_prob(z), sum(q.log_prob(z[..., k]) for k, q in enumerate(each)))
    torch.testing.assert_close(p.entropy(), sum(q.entropy() for q in each))


def test_draws_have_the_stated_moments(float64):
    torch.manual_seed(0)
    p = AR1(correlation(), T)
    z = p.sample((40_000,))
    assert z.shape == (40_000, T, C) and p.mean.equal(torch.zeros(T, C)) and p.variance.equal(torch.ones(T, C))
    for k, a in enumerate(correlation()):  # 4 standard errors of a covariance of 40,000 draws
        torch.testing.assert_close(torch.cov(z[..., k].T), dense(a).covariance_matrix, rtol=0, atol=4 * (2 / 40_000) ** 0.5)


def test_draws_are_reparameterised(float64):
    a = correlation().requires_grad_()

    def draw(a):
        torch.manual_seed(0)
        return AR1(a, T).rsample((2,))

    assert AR1(a, T).has_rsample and gradcheck(draw, a)


def test_shapes_and_expansion():
    p = AR1(torch.full((4, C), 0.5), T)
    assert p.batch_shape == (4,) and p.event_shape == (T, C) and p.sample((2,)).shape == (2, 4, T, C)
    assert p.log_prob(torch.zeros(2, 1, T, C)).shape == (2, 4)
    one = AR1(torch.full((C,), 0.5), T)
    assert one.expand((6, 4)).sample().shape == (6, 4, T, C) and one.expand((6,)).log_prob(one.sample()).shape == (6,)
    assert one.mask(torch.tensor(True)).log_prob(one.sample()).shape == ()


def test_kl_of_normals_is_that_of_the_dense_normal(float64):
    q, p = posterior(6), AR1(correlation(), T)
    exact = sum(
        kl_divergence(dist.MultivariateNormal(q.mean[..., k], torch.diag_embed(q.variance[..., k])), dense(a))
        for k, a in enumerate(correlation())
    )
    torch.testing.assert_close(kl_divergence(q, p), exact)
    torch.testing.assert_close(kl_divergence(q, p.expand((6,))), exact)
    nested = torch.distributions.Independent(torch.distributions.Independent(q.base_dist, 1), 1)
    torch.testing.assert_close(kl_divergence(nested, p), exact)
    steps = rate_per_step(q.mean, q.stddev, p)
    assert steps.shape == (6, T, C) and (steps >= 0).all()
    torch.testing.assert_close(steps.sum((1, 2)), exact)


def test_kl_gradients_against_finite_differences(float64):
    def kl(loc, log_scale, a):
        return kl_divergence(dist.Normal(loc, log_scale.exp()).to_event(2), AR1(a, T))

    torch.manual_seed(0)
    assert gradcheck(kl, [*torch.randn(2, 2, T, C).requires_grad_().unbind(), correlation().requires_grad_()])


def test_kl_of_two_ar1(float64):
    a, b = torch.tensor([0.3, -0.5]), torch.tensor([0.9, 0.1])
    exact = sum(kl_divergence(dense(x), dense(y)) for x, y in zip(a, b, strict=True))
    torch.testing.assert_close(kl_divergence(AR1(a, T), AR1(b, T)), exact)


def test_other_posteriors_have_no_closed_form():
    p = AR1(torch.full((C,), 0.5), T)
    for q in (dist.Laplace(torch.zeros(T, C), 1.0).to_event(2), dist.Normal(torch.zeros(T, C), 1.0).to_event(1)):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AR1(torch.tensor([0.5, 1.0]), 4), r"strictly between -1 and 1, got \[0.5, 1.0\]"),
        (lambda: AR1(torch.tensor([float("nan")]), 4), "strictly between -1 and 1"),
        (lambda: AR1(torch.tensor(0.5), 4), r"\(..., channels\)"),
        (lambda: AR1(torch.tensor([0.5]), 1), "length of at least 2 steps"),
        (lambda: AR1(torch.tensor([0.5]), 2.5), "length of at least 2 steps"),
        (
            lambda: kl_divergence(dist.Normal(torch.zeros(4, 3), 1.0).to_event(2), AR1(torch.tensor([0.5]), 4)),
            r"expected a posterior over \(length, channels\) = \(4, 1\), got \(4, 3\)",
        ),
        (lambda: kl_divergence(AR1(torch.tensor([0.5]), 4), AR1(torch.tensor([0.5]), 5)), "sequences of one shape"),
    ],
)
def test_what_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
