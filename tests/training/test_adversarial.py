"""The games on draws of the posterior: value and gradient by hand, the ratio that a critic learns, and an exact resume."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import skipvae
from torch import nn
from torch.nn import functional as F

from pyro_skipvae import VAE
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.distributions.even_mixture import even_mixture
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import DiagonalNormal, PlanarFlow, SemiImplicitNormal
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import MixtureOfNormals, StandardNormal
from pyro_skipvae.runs.folder import Run
from pyro_skipvae.training import Critic, adversarial, adversarial_autoencoder_step, adversarial_variational_bayes_step, graphs
from pyro_skipvae_cli.job import as_trained

X = torch.rand(12, 3, 3, generator=torch.Generator().manual_seed(0)).gt(0.5).double()


def make_vae(posterior=DiagonalNormal, prior=None):
    pyro.clear_param_store()
    torch.manual_seed(0)
    encoder = MLPEncoder((3, 3), 2, hidden=(4,), posterior=posterior)
    return VAE(prior or StandardNormal(2), MLPDecoder(2, (3, 3), layers=1, width=4), encoder).double()


class Linear(nn.Module):
    """T(x, z) = w z."""

    def __init__(self, w=(0.0, 0.0)):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, z, x):
        return z @ self.w


def game(vae, critic, kind="aae", **how):
    make = {"aae": adversarial_autoencoder_step, "avb": adversarial_variational_bayes_step}[kind]
    return make(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), prior=vae.prior, critic=critic, **how)


def gradients(loss, vae):
    return torch.autograd.grad(loss, list(vae.parameters()), allow_unused=True)


def drawn(vae):
    """(log p(x|z) summed, z, q) of the draws that follow."""
    q = vae.encoder(X)
    z = q.rsample()
    return vae.decoder(z).log_prob(X).sum(), z, q


def test_the_autoencoder_pays_for_what_the_critic_sees(float64):
    vae, w = make_vae(), [0.5, -1.0]
    torch.manual_seed(1)
    loss = game(vae, Linear(w), weight=3.0)._objective(vae.model, vae.guide, X, 0.5)
    torch.manual_seed(1)
    fit, z, _ = drawn(vae)
    expected = 0.5 * 3.0 * F.softplus(z @ torch.tensor(w)).sum() - fit
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, vae), gradients(expected, vae))


def test_without_a_difference_to_see_bayes_is_the_elbo_without_a_density(float64):
    vae = make_vae()
    step = game(vae, Critic(2), "avb")
    torch.manual_seed(1)
    loss = step._objective(vae.model, vae.guide, X, 0.5)
    torch.manual_seed(1)
    torch.testing.assert_close(loss, elbo(vae.model, vae.guide, X, 0.5))
    torch.manual_seed(1)
    fit, z, q = drawn(vae)
    held = dist.Normal(q.base_dist.loc.detach(), q.base_dist.scale.detach()).to_event(1)
    expected = 0.5 * (held.log_prob(z) - vae.prior().log_prob(z)).sum() - fit
    torch.testing.assert_close(gradients(loss, vae), gradients(expected, vae))


def test_the_moments_of_an_implicit_posterior_are_functions_of_x(float64):
    """Else even the best critic is wrong: of the draw alone it cannot tell which noise the moments were of."""
    vae, seen = make_vae(SemiImplicitNormal), []
    step = game(vae, Critic(2), "avb")
    step.critic.forward = lambda z, x: z.new_zeros(len(z))
    for seed in (1, 2):
        torch.manual_seed(seed)
        site = step._posterior(X)
        contrast = adversarial._contrast(site["fn"])
        seen.append((contrast.mean, contrast.variance))
        assert not contrast.mean.requires_grad and site["fn"].component_distribution.batch_shape == (12, 8)
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other)
    vae.encoder.eval()
    torch.testing.assert_close(vae.encoder(X).mean, seen[0][0])


def test_a_learned_prior_gets_its_gradient_once(float64):
    vae = make_vae(prior=MixtureOfNormals(2, components=2))
    step = game(vae, Critic(2), "avb")
    torch.manual_seed(1)
    loss = step._objective(vae.model, vae.guide, X, 1.0)
    torch.manual_seed(1)
    _, z, _ = drawn(vae)
    expected = -vae.prior().log_prob(z.detach()).sum()
    parameters = list(vae.prior.parameters())
    for one, other in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other)


def test_the_critic_s_gradient_and_the_ratio_at_which_it_is_zero(float64):
    """Of z ~ N(m, 1) and y ~ N(0, 1) the log-ratio is m z - m^2 / 2."""
    torch.manual_seed(0)
    vae = make_vae()
    vae.encoder.posterior.parameters_of.weight.data.zero_()
    vae.encoder.posterior.parameters_of.bias.data = torch.tensor([0.6, -0.3, 0.0, 0.0])
    many = X.repeat(2000, 1, 1)

    class Ratio(Linear):
        def forward(self, z, x):
            return z @ self.w - 0.225

    for critic, expected in ((Linear(), [-0.3, 0.15]), (Ratio((0.6, -0.3)), [0.0, 0.0])):
        step, seen = game(vae, critic), []
        step.adversary.step = lambda seen=seen, critic=critic: seen.append(critic.w.grad.clone())
        step._train_critic(many)
        # Four standard errors at 24,000 draws of each; a draw has a deviation of at most about 1/2.
        torch.testing.assert_close(seen[0], torch.tensor(expected), rtol=0, atol=4 * 0.8 / 24_000**0.5)
        assert critic.w.grad is None and not critic.w.requires_grad


@pytest.mark.parametrize("posterior", [DiagonalNormal, PlanarFlow, SemiImplicitNormal])
@pytest.mark.parametrize("kind", ["aae", "avb"])
def test_each_game_goes_on_exactly_with_any_posterior(posterior, kind, float64):
    def make():
        vae = make_vae(posterior, MixtureOfNormals(2, components=2))
        reads_x = {"features": nn.Flatten(), "feature_size": 9} if kind == "avb" else {}
        return game(vae, Critic(2, **reads_x), kind), vae

    step, vae = make()
    [step(X) for _ in range(2)]
    assert step.critic.network[-1].weight.any() and vae.prior.state_dict()
    saved = copy.deepcopy((step.state_dict(), vae.state_dict(), torch.get_rng_state()))
    expected = [step(X).item() for _ in range(3)]
    step, vae = make()
    vae.load_state_dict(saved[1])
    step.load_state_dict(saved[0])
    torch.set_rng_state(saved[2])
    assert [step(X).item() for _ in range(3)] == expected
    broken = copy.deepcopy(saved[0])
    broken["adversary"]["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    with pytest.raises(ValueError, match="adversary.optimizer has exp_avg of the shape"):
        step.load_state_dict(broken)


def test_a_compiled_step_plays_the_same_game(float64, monkeypatch):
    monkeypatch.setattr(graphs, "_compiled", lambda graph, tensors: graph)
    found = []
    for compiled in (False, True):
        vae = make_vae(SemiImplicitNormal)
        step = game(vae, Critic(2, features=nn.Flatten(), feature_size=9), "avb", compile=compiled)
        torch.manual_seed(1)
        found.append([step(X, beta).item() for beta in (0.3, 0.6, 1.0)])
    assert found[0] == pytest.approx(found[1]) and step.compilation.graphs == 1 and step.compilation.refused is None


def test_a_loss_that_is_not_finite_leaves_the_critic_alone(float64):
    vae = make_vae()
    step = game(vae, Critic(2), "avb")
    step(X)
    before = copy.deepcopy(step.critic.state_dict())
    with as_trained():
        step(X * math.nan)
    assert all(value.equal(before[name]) for name, value in step.critic.state_dict().items())


def test_an_even_mixture_value_and_gradient_of_its_draws(float64):
    torch.manual_seed(0)
    loc, scale = torch.tensor([[-1.0, 0.5], [2.0, 0.0]], requires_grad=True), torch.tensor([[0.5, 1.0], [1.0, 0.2]])
    mixture = even_mixture(dist.Normal(loc, scale).to_event(1))
    z = torch.tensor([0.3, 0.1])
    parts = torch.stack([dist.Normal(a, b).log_prob(z).sum() for a, b in zip(loc, scale, strict=True)])
    torch.testing.assert_close(mixture.log_prob(z), parts.logsumexp(0) - math.log(2))
    draws = mixture.expand((3,)).rsample((40_000,))
    assert draws.shape == (40_000, 3, 2)
    value = draws.square().sum(-1)
    exact = (loc.square() + scale.square()).sum() / 2
    assert abs(value.mean() - exact) < 5 * value.std() / 120_000**0.5
    found, wanted = (torch.autograd.grad(each, loc)[0] for each in (value.mean(), exact))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.03)
    assert not mixture.sample().requires_grad


def test_a_semi_implicit_posterior_is_fixed_where_it_is_evaluated():
    torch.manual_seed(0)
    family = SemiImplicitNormal(5, 3)
    features = torch.randn(7, 5)
    assert not family(features).mean.equal(family(features).mean)
    family.eval()
    q = family(features)
    assert q.batch_shape == (7,) and q.event_shape == (3,) and q.mean.equal(family(features).mean)
    torch.testing.assert_close(torch.cat([family(features[i : i + 1]).mean for i in range(7)]), q.mean)
    family.train()
    many = torch.stack([family(features).mean for _ in range(2000)])  # fresh noise has the mean of its law
    assert many.std(0).min() > 0
    with pytest.raises(ValueError, match="SemiImplicitNormal, got the sequence"):
        SemiImplicitNormal(5, (2, 3))


BAD = {
    ("--procedure", "adversarial"): "did you mean",
    ("--procedure", "adversarial-autoencoder(0)"): "adversarial-autoencoder(WEIGHT)",
    ("--procedure", "adversarial-autoencoder", "--objective", "iwae(5)"): "expected --objective elbo",
    ("--procedure", "adversarial-variational-bayes", "--beta-schedule", "control(4)"): "without a control of the rate",
    ("--procedure", "adversarial-autoencoder", "--model", "sa-vae"): "which refines by the ELBO",
    ("--guide", "semi-implicit", "--model", "sa-vae"): "no local parameters to refine",
}


@pytest.mark.parametrize("flags", BAD)
def test_the_command_line_refuses(flags, tmp_path):
    done = skipvae("train", "--decoder", "mlp", *flags, "--print-config", cwd=tmp_path)
    assert done.returncode == 2 and BAD[flags] in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_run_reports_the_plain_elbo_of_a_posterior_that_has_a_density(tmp_path):
    small = "--epochs 1 --decoder mlp --width 8 --layers 1 --latent-dim 2 --limit-train 80 --limit-eval 40 --report-budget 1"
    done = skipvae("train", "--procedure", "adversarial-variational-bayes", *small.split(), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'guide = "semi-implicit"' in (tmp_path / "run/config.toml").read_text()
    assert "64 normals" in done.stdout and step_of(tmp_path / "run").keys() == {"critic", "optimizer"}


def step_of(run):
    return Run(run).latest()[0]["step"]["adversary"]
