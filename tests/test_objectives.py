"""Objectives against closed forms, value and gradient; schedules of beta."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO
from torch import nn

from pyro_skipvae.objectives import analytic_elbo, elbo, free_bits_total, iwae, target_rate
from pyro_skipvae.schedules import constant, cyclical, linear


class LinearGaussian(nn.Module):
    """x = W z + noise with sd s; q(z|x) = N(V x, d^2): everything about it is known."""

    def __init__(self, D=2, features=3, exact=False):
        super().__init__()
        self.W, self.s = nn.Parameter(torch.randn(features, D)), 0.7
        covariance = torch.linalg.inv(torch.eye(D) + self.W.T @ self.W / self.s**2).detach()
        V = covariance @ self.W.detach().T / self.s**2
        self.V = nn.Parameter(V if exact else 0.8 * V)
        self.scale_tril = torch.linalg.cholesky(covariance)

    def model(self, x, beta=1.0):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=beta):
                z = pyro.sample("z", dist.MultivariateNormal(x.new_zeros(2), torch.eye(2)))
            pyro.sample("x", dist.Normal(z @ self.W.T, self.s).to_event(1), obs=x)

    def guide(self, x, beta=1.0):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=beta):
            pyro.sample("z", dist.MultivariateNormal(x @ self.V.T, scale_tril=self.scale_tril))

    def closed_form(self, x, beta=1.0):
        """-ELBO summed over the batch."""
        loc, covariance = x @ self.V.T, self.scale_tril @ self.scale_tril.T
        error = (x - loc @ self.W.T).square().sum() + len(x) * torch.trace(self.W.T @ self.W @ covariance)
        distortion = error / (2 * self.s**2) + x.numel() * torch.log(torch.tensor(self.s * (2 * torch.pi) ** 0.5))
        q = dist.MultivariateNormal(loc, scale_tril=self.scale_tril)
        p = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
        return distortion + beta * torch.distributions.kl_divergence(q, p).sum()

    def log_evidence(self, x):
        covariance = self.W @ self.W.T + self.s**2 * torch.eye(len(self.W))
        return dist.MultivariateNormal(torch.zeros(len(self.W)), covariance).log_prob(x)


@pytest.fixture
def pair(float64):
    torch.manual_seed(0)
    return LinearGaussian()


def gradients(loss, module):
    module.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("objective", [elbo, analytic_elbo])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_elbo_value_and_gradient(pair, objective, beta):
    x = torch.randn(3, 3)
    expected = gradients(pair.closed_form(x, beta), pair)
    # One call on many copies of x is the mean of as many draws; a tolerance of 5 standard errors at 100,000 draws.
    copies = x.repeat(100_000, 1)
    loss = objective(pair.model, pair.guide, copies, beta) / 100_000
    torch.testing.assert_close(loss, pair.closed_form(x, beta), rtol=0.005, atol=0)
    torch.testing.assert_close(gradients(loss, pair), expected, rtol=0.02, atol=0.05)


def test_analytic_kl_leaves_the_noise_of_the_reconstruction_alone(pair):
    x = torch.randn(4, 3)
    totals = {f: torch.stack([f(pair.model, pair.guide, x) for _ in range(400)]).std() for f in (elbo, analytic_elbo)}
    assert totals[analytic_elbo] != totals[elbo]
    torch.manual_seed(1)
    exact = analytic_elbo(pair.model, pair.guide, x, 2.0) - (torch.manual_seed(1), analytic_elbo(pair.model, pair.guide, x))[1]
    q = dist.MultivariateNormal(x @ pair.V.T, scale_tril=pair.scale_tril)
    kl = torch.distributions.kl_divergence(q, dist.MultivariateNormal(torch.zeros(2), torch.eye(2))).sum()
    torch.testing.assert_close(exact, kl)


def test_the_exact_posterior_makes_every_bound_the_evidence(float64):
    torch.manual_seed(0)
    pair, x = LinearGaussian(exact=True), torch.randn(50, 3)
    evidence = -pair.log_evidence(x).sum()
    for objective in (elbo, iwae(1), iwae(7)):
        torch.testing.assert_close(objective(pair.model, pair.guide, x), evidence, rtol=0, atol=1e-9)


def test_iwae_takes_a_plate_without_a_size(float64):
    def unsized(function):
        return lambda x: function(x, pyro.plate("data"))

    def model(x, plate):
        with plate:
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, plate):
        with plate:
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))

    x = torch.randn(20, 3)
    evidence = -dist.Normal(0.0, 2**0.5).log_prob(x).sum()
    torch.testing.assert_close(iwae(4)(unsized(model), unsized(guide), x), evidence, rtol=0, atol=1e-9)


def test_iwae_rises_with_the_particles_to_the_evidence(pair):
    x = torch.randn(20_000, 3)
    with torch.no_grad():
        bounds = [-iwae(K)(pair.model, pair.guide, x) / len(x) for K in (1, 5, 50)]
    evidence = pair.log_evidence(x).mean()
    assert bounds[0] < bounds[1] < bounds[2] < evidence + 0.002
    torch.testing.assert_close(bounds[0], -pair.closed_form(x) / len(x), rtol=0.01, atol=0)
    assert evidence - bounds[2] < 0.1 * (evidence - bounds[0])


def test_iwae_and_its_gradient_equal_pyros_renyi_bound(pair):
    x = torch.randn(6, 3)
    torch.manual_seed(3)
    ours = gradients(iwae(4)(pair.model, pair.guide, x), pair)
    pair.zero_grad()
    torch.manual_seed(3)
    RenyiELBO(alpha=0, num_particles=4, vectorize_particles=True, max_plate_nesting=1).loss_and_grads(pair.model, pair.guide, x)
    torch.testing.assert_close(ours, torch.cat([parameter.grad.flatten() for parameter in pair.parameters()]))


def test_iwae_weighs_the_latent_terms_of_every_draw(pair):
    x, beta = torch.randn(6, 3), 0.3
    torch.manual_seed(3)
    loss = iwae(4)(pair.model, pair.guide, x, beta)
    torch.manual_seed(3)
    q = dist.MultivariateNormal(x @ pair.V.T, scale_tril=pair.scale_tril)
    z = q.expand((4, 6)).sample()  # (K, B, D)
    p = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    log_x = dist.Normal(z @ pair.W.T, pair.s).to_event(1).log_prob(x)
    weights = log_x.exp() * (p.log_prob(z) - q.log_prob(z)).exp() ** beta
    torch.testing.assert_close(loss, -weights.mean(0).log().sum())


def test_pairs_without_beta_train_at_one_and_refuse_another():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.randn(5)
    for objective in (elbo, analytic_elbo, iwae(3)):
        assert objective(model, guide, x).isfinite()
        with pytest.raises(ValueError, match="argument beta each to use beta=0.5, got a model and a guide without one"):
            objective(model, guide, x, 0.5)


@pytest.mark.parametrize("objective", [elbo, analytic_elbo, iwae(3)])
def test_a_pair_of_which_one_alone_takes_beta_trains_at_one_and_refuses_another(pair, objective):
    x, without = torch.randn(4, 3), {"model": lambda x: pair.model(x), "guide": lambda x: pair.guide(x)}
    for model, guide, lacking in ((pair.model, without["guide"], "guide"), (without["model"], pair.guide, "model")):
        assert objective(model, guide, x).isfinite()
        with pytest.raises(ValueError, match=f"to use beta=0.5, got a {lacking} without one"):
            objective(model, guide, x, 0.5)


def test_x_may_be_a_tuple(pair):
    x = torch.randn(4, 3)
    torch.manual_seed(0)
    alone = elbo(pair.model, pair.guide, x)
    torch.manual_seed(0)
    assert elbo(lambda x, other: pair.model(x), lambda x, other: pair.guide(x), (x, torch.zeros(4))) == alone


def test_schedules():
    assert [constant(0.5)(step) for step in (0, 99)] == [0.5, 0.5]
    rise = linear(0.1, 1.0, 9)
    assert [round(rise(step), 9) for step in (0, 1, 9, 50)] == [0.1, 0.2, 1.0, 1.0] and rise.reached == 9
    waves = cyclical(0.1, 1.0, 40, cycles=2, rising=0.5)
    assert [round(waves(step), 9) for step in (0, 5, 10, 19, 20, 25, 30, 39, 40, 99)] == [
        *(0.1, 0.55, 1.0, 1.0),
        *(0.1, 0.55, 1.0, 1.0),
        *(1.0, 1.0),
    ]
    assert waves.reached == 30  # the end of the last rise


@pytest.mark.parametrize("steps", [0, 0.5, 3])
def test_a_schedule_has_its_final_value_from_the_step_on_where_it_says_so(steps):
    for schedule in (linear(0.1, 1.0, steps), cyclical(0.1, 1.0, steps)):
        assert [schedule(step) for step in range(6) if step >= schedule.reached] == [1.0] * (6 - math.ceil(schedule.reached))
        assert steps / 2 <= schedule.reached <= steps


@pytest.mark.parametrize("make", [lambda: constant(0.0), lambda: linear(0.0, 1.0, 5), lambda: cyclical(-1, 1, 5)])
def test_weights_that_pyro_would_reject_are_refused(make):
    with pytest.raises(ValueError, match="expected a positive weight beta"):
        make()


def test_iwae_refuses_draws_without_a_gradient_and_a_plate_of_more_points():
    x = torch.randn(4)

    def of(family, size):
        def guide(x):
            with pyro.plate("data", size, subsample_size=len(x)):
                pyro.sample("z", family)

        def model(x):
            with pyro.plate("data", size, subsample_size=len(x)):
                pyro.sample("x", dist.Normal(pyro.sample("z", family), 1.0), obs=x)

        return model, guide

    assert iwae(3)(*of(dist.Normal(0.0, 1.0), 4), x).isfinite()
    with pytest.raises(ValueError, match=r"expected a reparameterised q\(z\|x\), got Bernoulli"):
        iwae(3)(*of(dist.Bernoulli(0.5), 4), x)
    with pytest.raises(ValueError, match="a plate of the batch alone around z, got one of more points"):
        iwae(3)(*of(dist.Normal(0.0, 1.0), 40), x)


def test_iwae_refuses_what_is_not_in_the_data_plate():
    x = torch.randn(4, 2)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def model(x, outside=None):
        outside and outside()
        with pyro.plate("data", len(x)):
            pyro.deterministic("twice", 2 * pyro.sample("z", dist.Normal(0.0, 1.0)))
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x)

    assert iwae(3)(model, guide, x).isfinite()
    for name, outside in {
        "reg": lambda: pyro.factor("reg", torch.tensor(-1.0)),
        "t": lambda: pyro.sample("t", dist.Normal(0.0, 1.0), obs=torch.tensor(0.5)),
    }.items():
        with pytest.raises(ValueError, match=f"expected every site in one data plate .* got {name} outside of it; use elbo"):
            iwae(3)(lambda x, outside=outside: model(x, outside), guide, x)
    joint = lambda x: pyro.sample("x", dist.Normal(torch.zeros(4, 2), 1.0).to_event(2), obs=x)  # noqa: E731
    with pytest.raises(ValueError, match="got x outside of it"):
        iwae(3)(lambda x: (guide(x), joint(x)), guide, x)


def test_a_factor_of_the_guide_counts_or_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x, factor=0.0):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("penalty", factor * torch.ones_like(z), has_rsample=True)

    x, losses = torch.zeros(5), []
    for factor in (0.0, 3.0):
        pyro.set_rng_seed(0)
        losses.append(elbo(model, lambda x, factor=factor: guide(x, factor), x).item())
    assert losses[1] - losses[0] == pytest.approx(15.0)
    for objective in (free_bits_total(1.0), target_rate(1.0)):
        with pytest.raises(ValueError, match=r"a guide without factors and observed sites for .*, got \['penalty'\]: elbo"):
            objective(model, guide, x)


def test_a_module_takes_the_beta_of_its_forward():
    class Model(nn.Module):
        def forward(self, x, beta=1.0):
            with pyro.plate("data", len(x)):
                with pyro.poutine.scale(scale=beta):
                    pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    class Guide(Model):
        def forward(self, x, beta=1.0):
            with pyro.plate("data", len(x)), pyro.poutine.scale(scale=beta):
                pyro.sample("z", dist.Normal(1.0, 1.0))

    x = torch.zeros(4)
    rates = [analytic_elbo(Model(), Guide(), x, beta).item() - 2 * math.log(2 * math.pi) for beta in (1.0, 0.5)]
    assert rates == pytest.approx([2.0, 1.0])  # KL of 1/2 a row

    class Without(nn.Module):
        def forward(self, x):
            return Model()(x)

    with pytest.raises(ValueError, match="got a model without one"):
        elbo(Without(), Guide(), x, 0.5)
