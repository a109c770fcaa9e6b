"""Hamiltonian Monte Carlo: the exact posterior of a linear model from a poor guide, and who learns of what."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import skipvae
from torch import nn

from pyro_skipvae import VAE
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import PlanarFlow, VonMisesFisherPosterior
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal, UniformSphere
from pyro_skipvae.runs.build import build_data, resolve
from pyro_skipvae.runs.config import Config
from pyro_skipvae.training import hamiltonian, hamiltonian_draws, hamiltonian_step
from pyro_skipvae_cli.job import Job, seconds_per_step

D, E, VARIANCE = 2, 3, 0.49
PLAIN = "--decoder mlp --print-config"


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.tensor([[1.0, 0.4], [0.0, 0.7], [-0.5, 0.5]])), nn.Parameter(torch.ones(E))

    def forward(self, z):
        return dist.Normal(z @ self.weight.T + self.bias, VARIANCE**0.5).to_event(1)


def vae_of(decoder=None, prior=None, **about):
    pyro.clear_param_store()
    torch.manual_seed(0)
    return VAE(prior or StandardNormal(D), decoder or Linear(), MLPEncoder((E,), D, hidden=(4,), **about))


def adam():
    return pyro.optim.Adam({"lr": 0.01})


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_draws_come_to_the_posterior_of_a_linear_model(beta, float64):
    vae, count = vae_of(), 4000
    x = torch.tensor([[1.0, -2.0, 0.5], [3.0, 2.0, 1.0]])
    W = vae.decoder.weight.detach()
    covariance = beta * torch.linalg.inv(W.T @ W / VARIANCE + beta * torch.eye(D))
    mean = (x - 1) @ W @ covariance / VARIANCE / beta
    with torch.no_grad():
        how = {"moves": 12} if beta == 1 else {"moves": 60, "step_size": 0.1}  # the guide is too wide for so narrow a posterior
        found = hamiltonian_draws(vae.model, vae.guide, x.repeat_interleave(count, 0), beta, **how)
        assert (vae.encoder(x).mean - mean).abs().max() > 0.3  # the guide does not know it
    z = found.z.reshape(2, count, D)
    torch.testing.assert_close(z.mean(1), mean, atol=4 * covariance.diagonal().max().sqrt() / count**0.5, rtol=0)
    for own in z:
        torch.testing.assert_close(own.T.cov(), covariance, atol=0.05 * covariance.max(), rtol=0)
    assert found.accepted.shape == (2 * count,) and 0.8 < found.accepted.mean() < 1


def test_rows_are_accepted_by_themselves():
    """Steps that are too long for some rows alone: those stay, and the others go on."""
    vae = vae_of()
    x = torch.cat([torch.zeros(50, E), 100 * torch.ones(50, E)])
    narrow = lambda x: dist.Normal(0.0, torch.where(x[:, :1] == 0, 1.0, 20.0).expand(-1, D)).to_event(1)  # noqa: E731
    vae.encoder.forward = narrow
    accepted = hamiltonian_draws(vae.model, vae.guide, x, moves=2).accepted
    assert accepted[:50].mean() > 0.9 and accepted[50:].mean() < 0.5


def test_the_decoder_learns_of_the_draws_and_the_encoder_of_its_own_bound():
    vae, x = vae_of(), torch.randn(6, E)
    step = hamiltonian_step(vae.model, vae.guide, elbo, adam())
    step(x)  # the first one looks for the parameters of both
    torch.manual_seed(3)
    loss = step._mean_loss_and_grads(x, 0.5)
    got = {name: parameter.grad.clone() for name, parameter in vae.named_parameters()}
    vae.zero_grad()
    torch.manual_seed(3)
    bound = elbo(vae.model, vae.guide, x, 0.5) / 6
    bound.backward()
    own = {name: parameter.grad.clone() for name, parameter in vae.named_parameters()}
    z = hamiltonian_draws(vae.model, vae.guide, x, 0.5).z
    vae.zero_grad()
    (-vae.decoder(z).log_prob(x).mean()).backward()
    torch.testing.assert_close(loss, bound)
    for name, parameter in vae.named_parameters():
        torch.testing.assert_close(got[name], own[name] if name.startswith("encoder") else parameter.grad)
        assert name.startswith("encoder") or not torch.allclose(got[name], own[name])
    assert 0 < step.accepted <= 1


def test_dropout_is_off_while_z_moves_and_on_while_the_decoder_learns():
    seen = []
    decoder = Linear()
    decoder.register_forward_pre_hook(lambda module, inputs: seen.append(module.training))
    vae = vae_of(decoder)
    step = hamiltonian_step(vae.model, vae.guide, elbo, adam(), moves=1, leapfrog=2)
    step(torch.randn(4, E))
    seen.clear()
    step(torch.randn(4, E))
    assert seen == [True, False, False, False, True] and vae.training


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"posterior": PlanarFlow}, "a guide of real z with a deviation"),
        ({"posterior": VonMisesFisherPosterior, "prior": UniformSphere(D)}, "a guide of real z with a deviation"),
    ],
)
def test_guides_that_cannot_be_moved_are_refused(about, message):
    vae = vae_of(**about)
    with pytest.raises(ValueError, match=message):
        hamiltonian_draws(vae.model, vae.guide, torch.zeros(2, E))


def test_other_mistakes():
    vae = vae_of()
    with pytest.raises(ValueError, match="expected no compile for a step with Hamiltonian"):
        hamiltonian_step(vae.model, vae.guide, elbo, adam(), compile=True)

    def two(x):
        pyro.sample("y", dist.Normal(0.0, 1.0))
        return vae.model(x)

    with pytest.raises(ValueError, match="expected z alone to be unknown.*got the site y"):
        hamiltonian_draws(two, vae.guide, torch.zeros(2, E))


BAD = {
    "--procedure hmc(0)": "at least 1 of the MOVES",
    "--procedure hmc(x)": "unknown procedure",
    "--procedure hmc --guide planar-flow": "expected --guide diagonal-normal or",
    "--procedure hmc --objective iwae(3)": "expected --objective elbo or analytic-elbo",
    "--procedure hmc --model sa-vae": "expected --inference amortized",
    "--procedure hmc --compile": "expected no --compile",
    "--procedure hmc --beta-schedule control(4)": "no control of the rate",
}


@pytest.mark.parametrize("flags", BAD)
def test_the_command_line_refuses(flags, tmp_path):
    done = skipvae("train", *PLAIN.split(), *flags.split(), cwd=tmp_path)
    assert done.returncode == 2 and BAD[flags] in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_the_time_of_an_epoch_is_that_of_its_own_steps(monkeypatch):
    """What is measured before a run moves z, too."""
    calls, told = [], lambda *of, **how: calls.append(how["moves"]) or hamiltonian_draws(*of, **how)
    monkeypatch.setattr(hamiltonian, "hamiltonian_draws", told)
    config = Config.from_flags({"decoder": "mlp", "width": 4, "procedure": "hmc(1)", "limit_train": 20, "limit_eval": 4})
    data = build_data(config)
    seconds_per_step(Job(resolve(config, data), data, torch.device("cpu")), steps=1)
    assert set(calls) == {1}
