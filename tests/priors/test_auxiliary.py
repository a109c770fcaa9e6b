"""The auxiliary prior: a density over sequences that is causal, samples as it says, and fits what it is shown."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_skipvae.priors import AR1, AuxiliaryPrior, fit_auxiliary, fit_to_draws

T, C = 3, 2


def spread(prior):
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return prior


def test_the_density_is_that_of_its_steps(float64):
    prior = spread(AuxiliaryPrior((T, C), width=4, components=2)).double()
    z, network, memory, total = torch.randn(5, T, C), prior.network, None, 0.0
    step = torch.zeros(5, 1, C)
    for t in range(T):
        states, memory = network.lstm(step, memory)
        logits, loc, scale = network.output(states[:, 0]).split([2, 4, 4], -1)
        each = dist.Normal(loc.view(5, 2, C), torch.nn.functional.softplus(scale.view(5, 2, C)) + 1e-3)
        step = z[:, t : t + 1]
        total = total + (logits.log_softmax(-1) + each.log_prob(step).sum(-1)).logsumexp(-1)
    torch.testing.assert_close(prior().log_prob(z), total)
    assert prior().event_shape == (T, C) and prior().batch_shape == () and prior().expand((4,)).sample().shape == (4, T, C)


def test_the_prior_is_fitted_to_draws_and_not_to_means():
    prior = AuxiliaryPrior((4, 1), width=8, components=1)
    torch.manual_seed(0)
    loss = fit_auxiliary(prior, torch.zeros(100, 4, 1), torch.ones(100, 4, 1), steps=150, batch_size=256, lr=2e-2)
    assert loss == pytest.approx(2 * math.log(2 * math.pi * math.e), abs=0.3)  # the entropy of four standard normals


def test_fitting_leaves_what_draws_come_from_alone():
    encoder, prior = torch.nn.Linear(1, T * C), AuxiliaryPrior((T, C), width=4)
    loc = encoder(torch.ones(5, 1)).reshape(5, T, C)
    fit_auxiliary(prior, loc, torch.ones_like(loc), steps=2)
    fit_to_draws(prior, lambda: encoder(torch.ones(5, 1)).reshape(5, T, C), steps=2)
    assert encoder.weight.grad is None
    with pytest.raises(ValueError, match=r"scale of each, got loc \(5, 3, 2\) and scale \(\)"):
        fit_auxiliary(prior, loc, torch.ones(()))


def test_draws_follow_the_density(float64):
    prior = spread(AuxiliaryPrior((2, 1), width=4, components=2)).double()
    z = prior().sample((20_000,))
    grid = torch.linspace(-12, 12, 241)
    at = torch.cartesian_prod(grid, grid).reshape(-1, 2, 1)
    with torch.no_grad():
        density = prior().log_prob(at).exp() * (grid[1] - grid[0]) ** 2
    torch.testing.assert_close(density.sum(), torch.tensor(1.0), rtol=0, atol=1e-3)
    expected = (density[:, None] * at[..., 0]).sum(0)
    torch.testing.assert_close(z[..., 0].mean(0), expected, rtol=0, atol=5 * (z.std().item() / 20_000**0.5))


def test_fitting_comes_near_the_entropy_of_what_is_drawn():
    torch.manual_seed(0)
    target = AR1(4, 1, correlation=0.9)()
    prior = AuxiliaryPrior((4, 1), width=16, components=2)
    z = target.sample((4000,))
    before = -prior().log_prob(z).mean().item()
    fit_auxiliary(prior, z, torch.full_like(z, 1e-6), steps=150, lr=1e-2)
    after, entropy = -prior().log_prob(target.sample((4000,))).mean().item(), target.entropy().item()
    assert entropy - 0.15 < after < entropy + 0.5 < before


def test_posteriors_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"posteriors over \(3, 2\), .*, got loc \(5, 2, 2\)"):
        fit_auxiliary(AuxiliaryPrior((T, C)), torch.zeros(5, 2, 2), torch.ones(5, 2, 2))
