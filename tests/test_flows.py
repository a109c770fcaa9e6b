"""Flows in the guide and in the prior: densities that integrate to 1, and gradients that reach every parameter."""

import copy
import warnings

import pyro
import pytest
import torch
from command_line import skipvae

from pyro_skipvae.guides import InverseAutoregressiveFlow, PlanarFlow
from pyro_skipvae.priors import NormalizingFlow


def test_an_autoregressive_flow_of_one_dimension_is_normal_and_brings_no_warning(float64):
    """log q of draws is a parabola in z: its fourth point follows from three."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow = InverseAutoregressiveFlow(3, 1)
    q = flow(torch.randn(1, 3))
    found = q.log_prob(torch.tensor([[[-1.0]], [[0.0]], [[1.0]], [[2.0]]])).flatten()
    assert (found[3] - 3 * found[2] + 3 * found[1] - found[0]).abs() < 1e-9


def test_the_density_of_a_planar_flow_is_that_of_its_draws(float64):
    """log q(z) = log N(z0) - sum of ln |1 + u' w (1 - tanh^2)|, against the Jacobian by autograd."""
    torch.manual_seed(0)
    q = PlanarFlow(2, 3, flows=4, hidden=8)(torch.randn(1, 2))
    z = start = q.rsample()
    log_q = q.log_prob(z)
    for flow in reversed(q.transforms):
        start = flow.inv(start)  # remembered, not computed

    def push(z):
        for flow in q.transforms:
            z = flow(z)
        return z

    jacobian = torch.autograd.functional.jacobian(lambda z: push(z[None])[0], start[0].detach())
    torch.testing.assert_close(log_q, q.base_dist.log_prob(start) - torch.linalg.slogdet(jacobian).logabsdet)


def test_the_flow_prior_is_a_density(float64):
    torch.manual_seed(0)
    prior = NormalizingFlow(2, flows=3, hidden=8)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    axis = torch.linspace(-15, 15, 601)
    z = torch.cartesian_prod(axis, axis)
    p = prior()
    total = p.log_prob(z).exp().sum() * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(total, torch.tensor(1.0), rtol=0, atol=5e-3)
    draws = p.sample((20_000,))
    mean = (p.log_prob(z).exp()[:, None] * z).sum(0) * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=6 * float(draws.std()) / 20_000**0.5)


def test_gradients_reach_every_parameter_of_the_prior():
    prior = NormalizingFlow(4)
    prior().log_prob(torch.randn(5, 4)).sum().backward()
    assert [name for name, parameter in prior.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("flows", [1, 3])
def test_a_flow_prior_keeps_nothing_of_what_it_saw(flows):
    prior, z = NormalizingFlow(4, flows=flows), torch.randn(5, 4)
    prior().log_prob(z).sum().backward()
    copied = copy.deepcopy(prior)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.1)
        found = prior().log_prob(z)
        assert found.equal(prior().log_prob(z.clone())) and not found.allclose(copied().log_prob(z))
    prior().log_prob(z).sum().backward()


def test_all_of_a_flow_prior_moves_to_a_device():
    prior = NormalizingFlow(4).to("meta")
    with pyro.validation_enabled(False):  # checks look at values, which there are none of
        p = prior()
        assert p.log_prob(torch.zeros(3, 4, device="meta")).device.type == p.rsample((3,)).device.type == "meta"


def test_coupling_layers_need_two_dimensions():
    with pytest.raises(ValueError, match="latent_dim of coupling layers to be a whole number of at least 2, got 1"):
        NormalizingFlow(1)


@pytest.mark.parametrize(
    "flags",
    [
        "--guide planar-flow",
        "--prior normalizing-flow --guide inverse-autoregressive-flow",
        "--guide batch-normalised --rate 4",
        "--prior uniform-sphere --guide von-mises-fisher",
    ],
)
def test_a_run_with_each_of_them_has_its_report_and_pictures(flags, tmp_path):
    small = "--decoder mlp --layers 1 --width 16 --latent-dim 4 --epochs 1 --limit-train 60 --limit-eval 30"
    done = skipvae("train", "--dataset", "digits", *small.split(), *flags.split(), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/report.json").exists() and (tmp_path / "run/traversals.png").exists()
