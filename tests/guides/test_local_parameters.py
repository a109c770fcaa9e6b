"""Local parameters of any family: the same distribution again, its draws, and exact gradients of what is refined by them."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from scipy import special, stats
from torch import nn
from torch.distributions import transforms as T

from pyro_skipvae.guides import SemiAmortized
from pyro_skipvae.guides.local_parameters import local_parameters
from pyro_skipvae.guides.standard_gamma import QuantileGammas, _LogQuantile, log_standard_gamma
from pyro_skipvae.objectives import elbo

B, D = 4, 3


def real(*shape):
    return torch.randn(*shape)


def positive(*shape):
    return torch.rand(*shape) + 0.5


def standard_uniform():
    return dist.Uniform(torch.zeros(B, D), 1.0)


# name: q with rows of its own
REFINED = {
    "Normal": lambda: dist.Normal(real(B, D), positive(B, D)).to_event(1),
    "MultivariateNormal": lambda: dist.MultivariateNormal(real(B, D), torch.eye(D) + 0.3),
    "LowRankMultivariateNormal": lambda: dist.LowRankMultivariateNormal(real(B, D), real(B, D, 2), positive(B, D)),
    "StudentT": lambda: dist.StudentT(4 * positive(B, D), real(B, D), positive(B, D)).to_event(1),
    "MultivariateStudentT": lambda: dist.MultivariateStudentT(
        4 * positive(B), real(B, D), torch.eye(D) + real(B, D, D).tril(-1)
    ),
    "Laplace": lambda: dist.Laplace(real(B, D), positive(B, D)).to_event(1),
    "AsymmetricLaplace": lambda: dist.AsymmetricLaplace(real(B, D), positive(B, D), positive(B, D)).to_event(1),
    "SoftLaplace": lambda: dist.SoftLaplace(real(B, D), positive(B, D)).to_event(1),
    "Logistic": lambda: dist.Logistic(real(B, D), positive(B, D)).to_event(1),
    "Gumbel": lambda: dist.Gumbel(real(B, D), positive(B, D)).to_event(1),
    "Cauchy": lambda: dist.Cauchy(real(B, D), positive(B, D)).to_event(1),
    "Gamma": lambda: dist.Gamma(2 * positive(B, D), positive(B, D)).to_event(1),
    "Gamma of one rate": lambda: dist.Gamma(2 * positive(B, D), 1.0).to_event(1),
    "InverseGamma": lambda: dist.InverseGamma(3 * positive(B, D), positive(B, D)).to_event(1),
    "Chi2": lambda: dist.Chi2(3 * positive(B, D)).to_event(1),
    "Exponential": lambda: dist.Exponential(positive(B, D)).to_event(1),
    "LogNormal": lambda: dist.LogNormal(real(B, D), positive(B, D)).to_event(1),
    "HalfNormal": lambda: dist.HalfNormal(positive(B, D)).to_event(1),
    "Weibull": lambda: dist.Weibull(positive(B, D), positive(B, D)).to_event(1),
    "FisherSnedecor": lambda: dist.FisherSnedecor(5 * positive(B, D), 5 * positive(B, D)).to_event(1),
    "Beta": lambda: dist.Beta(2 * positive(B, D), 3 * positive(B, D)).to_event(1),
    "Kumaraswamy": lambda: dist.Kumaraswamy(2 * positive(B, D), 2 * positive(B, D)).to_event(1),
    "ContinuousBernoulli": lambda: dist.ContinuousBernoulli(logits=real(B, D)).to_event(1),
    "RelaxedBernoulli": lambda: dist.RelaxedBernoulli(torch.tensor(0.7), logits=real(B, D)).to_event(1),
    "RelaxedOneHotCategorical": lambda: dist.RelaxedOneHotCategorical(torch.tensor(0.7), logits=real(B, D)),
    "Dirichlet": lambda: dist.Dirichlet(3 * positive(B, D)),
    "LogisticNormal": lambda: dist.LogisticNormal(real(B, D), positive(B, D)),
    "ProjectedNormal": lambda: dist.ProjectedNormal(real(B, D)),
    "tanh of a normal": lambda: dist.TransformedDistribution(
        dist.Normal(real(B, D), positive(B, D)), [T.TanhTransform()]
    ).to_event(1),
    "log of a gamma": lambda: dist.TransformedDistribution(
        dist.Gamma(positive(B, D), positive(B, D)), [T.ExpTransform().inv]
    ).to_event(1),
    "sticks of a normal": lambda: dist.TransformedDistribution(
        dist.Normal(real(B, D), positive(B, D)).to_event(1), [T.StickBreakingTransform()]
    ),
    "a box": lambda: dist.TransformedDistribution(
        dist.Normal(real(B, D), positive(B, D)), [T.SigmoidTransform(), T.AffineTransform(-torch.ones(D), 2.0)]
    ).to_event(1),
    "a logistic by hand": lambda: dist.TransformedDistribution(
        standard_uniform(), [T.SigmoidTransform().inv, T.AffineTransform(real(B, D), positive(B, D))]
    ).to_event(1),
    "a gamma, turned": lambda: dist.TransformedDistribution(
        dist.Gamma(positive(B, D), positive(B, D)).to_event(1), [T.AffineTransform(real(B, D), -positive(B, D), event_dim=1)]
    ),
    "no event": lambda: dist.Gamma(positive(B), positive(B)),
    "an event of two axes": lambda: dist.Gamma(positive(B, 2, D), 1.0).to_event(2),
    "events in steps": lambda: dist.StudentT(5.0, real(B, 2, D), 1.0).to_event(1).to_event(1),
    "expanded": lambda: dist.Gamma(positive(D), positive(D)).to_event(1).expand([B]),
    "expanded by Pyro": lambda: dist.ExpandedDistribution(dist.SoftLaplace(real(D), positive(D)).to_event(1), torch.Size([B])),
    "masked": lambda: dist.Gamma(positive(B, D), positive(B, D)).to_event(1).mask(torch.arange(B) > 1),
    "masked inside": lambda: dist.Normal(real(B, D), positive(B, D)).mask(torch.arange(D) > 0).to_event(1),
}


@pytest.fixture
def q(request, float64):
    torch.manual_seed(0)
    return REFINED[request.param]()


@pytest.mark.parametrize("q", REFINED, indirect=True)
def test_the_same_distribution_comes_back(q):
    family = local_parameters(q)
    again, noise = family.distribution(family.values), family.noise()
    z = family.draw(family.values, noise)
    assert z.shape == q.shape() and noise.shape == family.noise_shape
    assert torch.equal(z, family.draw(family.values, noise))
    assert again.batch_shape == q.batch_shape and again.event_shape == q.event_shape
    assert all(len(value) == B for value in family.values)
    torch.testing.assert_close(again.log_prob(z), q.log_prob(z), rtol=1e-9, atol=1e-9)
    moved = family.distribution(tuple(value + 0.1 * torch.randn_like(value) for value in family.values))
    assert not torch.allclose(moved.log_prob(z), q.log_prob(z)) and moved.log_prob(z).isfinite().all()


@pytest.mark.parametrize("q", REFINED, indirect=True)
def test_draws_have_the_law_of_the_distribution(q):
    """Two samples by a Kolmogorov-Smirnov test of one coordinate: at a level of 1e-4, once for each family."""
    family = local_parameters(q)
    draws = torch.stack([family.draw(family.values, family.noise()) for _ in range(500)]).flatten(1)[:, -1]
    assert stats.ks_2samp(draws, q.sample((500,)).flatten(1)[:, -1]).pvalue > 1e-4


@pytest.mark.parametrize("q", REFINED, indirect=True)
def test_draws_and_their_density_have_two_derivatives(q):
    family = local_parameters(q)
    noise, weights = family.noise(), torch.randn(q.shape())

    def total(*values):
        z = family.draw(values, noise)
        return (z * weights).sum() + family.distribution(values).log_prob(z).sum()

    values = tuple(value.detach().requires_grad_() for value in family.values)
    directions = [torch.randn_like(value) for value in values]

    def slopes(step):
        moved = tuple((value + step * way).detach().requires_grad_() for value, way in zip(values, directions, strict=True))
        loss = total(*moved)
        found = torch.autograd.grad(loss, moved, create_graph=True)
        slope = sum((part * way).sum() for part, way in zip(found, directions, strict=True))
        curve = torch.autograd.grad(slope, moved, allow_unused=True, materialize_grads=True)
        return loss.item(), slope.item(), sum((part * way).sum() for part, way in zip(curve, directions, strict=True)).item()

    h = 1e-5
    _, slope, curvature = slopes(0.0)
    ahead, behind = slopes(h), slopes(-h)
    assert slope == pytest.approx((ahead[0] - behind[0]) / (2 * h), rel=1e-5, abs=1e-6)
    assert curvature == pytest.approx((ahead[1] - behind[1]) / (2 * h), rel=1e-5, abs=1e-5)


def normal_prior():
    return dist.Normal(torch.zeros(2), 1.0)


def beta_prior():
    return dist.Beta(torch.full((2,), 1.5), 1.0)


SUPPORTS = {  # a family of two arguments over z (2,), and a prior on its support
    "StudentT": (lambda a, b: dist.StudentT(3 + b.exp(), a, b.exp()), normal_prior),
    "Laplace": (lambda a, b: dist.Laplace(a, b.exp()), normal_prior),
    "Gumbel": (lambda a, b: dist.Gumbel(a, b.exp()), normal_prior),
    "LowRank": (lambda a, b: dist.LowRankMultivariateNormal(a, b.sin().unsqueeze(-1), b.exp()), normal_prior),
    "Gamma": (lambda a, b: dist.Gamma(1 + a.exp(), b.exp()), lambda: dist.Gamma(torch.ones(2), 1.0)),
    "LogNormal": (lambda a, b: dist.LogNormal(a, b.exp()), lambda: dist.Gamma(torch.ones(2), 1.0)),
    "Beta": (lambda a, b: dist.Beta(1 + a.exp(), 1 + b.exp()), beta_prior),
    "Kumaraswamy": (lambda a, b: dist.Kumaraswamy(1 + a.exp(), 1 + b.exp()), beta_prior),
    "RelaxedBernoulli": (lambda a, b: dist.RelaxedBernoulli(torch.tensor(0.8), logits=a + b), beta_prior),
    "Dirichlet": (lambda a, b: dist.Dirichlet(1 + (a + b).exp()), lambda: dist.Dirichlet(torch.full((2,), 1.5))),
    "tanh": (
        lambda a, b: dist.TransformedDistribution(dist.Normal(a, b.exp()), [T.TanhTransform()]),
        lambda: dist.TransformedDistribution(normal_prior(), [T.TanhTransform()]),
    ),
    "affine": (
        lambda a, b: dist.TransformedDistribution(
            dist.Uniform(torch.zeros_like(a), 1.0), [T.SigmoidTransform().inv, T.AffineTransform(a, b.exp())]
        ),
        normal_prior,
    ),
}


class Pair:
    """A small smooth model of x (B, 5) and a guide of this family."""

    def __init__(self, family, prior):
        torch.manual_seed(0)
        self.family, self.prior = family, prior()
        self.encoder = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 5))

    @staticmethod
    def in_rows(q):
        return q if q.event_shape else q.to_event(1)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.in_rows(self.prior))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.in_rows(self.family(*self.encoder(x).chunk(2, -1))))


@pytest.mark.parametrize("name", SUPPORTS)
@pytest.mark.parametrize("gradient", ["exact", "exact-rebuilt"])
def test_gradients_of_the_whole_refined_loss(float64, name, gradient):
    """Against central differences along one random direction of the encoder, and one of the decoder.

    The last draw is held at its quantile too: it is made from the refined local parameters, by the noise of the steps.
    """
    pair = Pair(*SUPPORTS[name])
    x = torch.rand(3, 5).bernoulli()
    refined = SemiAmortized(pair.model, pair.guide, steps=2, lr=0.05, gradient=gradient)

    def loss():
        pyro.set_rng_seed(3)
        bound, _, values = refined.refinement(x)
        return bound(values, bound.family.noise())

    for module in (pair.encoder, pair.decoder):
        parameters = list(module.parameters())
        directions = [torch.randn_like(parameter) for parameter in parameters]
        found = torch.autograd.grad(loss(), parameters)
        slope = sum((part * way).sum() for part, way in zip(found, directions, strict=True)).item()
        ends = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                for parameter, way in zip(parameters, directions, strict=True):
                    parameter.add_(way, alpha=step)
            ends.append(loss().item())
        with torch.no_grad():
            for parameter, way in zip(parameters, directions, strict=True):
                parameter.add_(way, alpha=1e-5)
        assert abs(slope) > 1e-3 and slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("name", SUPPORTS)
def test_each_family_is_improved_and_trains(name):
    pair = Pair(*SUPPORTS[name])
    x = torch.rand(256, 5).bernoulli()
    refined = SemiAmortized(pair.model, pair.guide, steps=30, lr=0.003)  # heavy tails want small steps
    with torch.no_grad():
        before, after = (sum(Trace_ELBO().loss(pair.model, guide, x) for _ in range(6)) for guide in (pair.guide, refined))
    assert after < before
    elbo(pair.model, refined, x).backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in pair.encoder[2].parameters())


# name: q, and the reason
REFUSED = {
    "Categorical": (lambda: dist.Categorical(logits=real(B, D)), "Categorical, a family without reparameterised draws"),
    "Bernoulli": (lambda: dist.Bernoulli(logits=real(B, D)).to_event(1), "Bernoulli, a family without reparameterised"),
    "Poisson": (lambda: dist.Poisson(positive(B, D)).to_event(1), "Poisson, a family without reparameterised"),
    "VonMises": (lambda: dist.VonMises(real(B, D), positive(B, D)).to_event(1), "VonMises, a family without reparameterised"),
    "mixture": (
        lambda: dist.MixtureSameFamily(dist.Categorical(logits=real(B, 2)), dist.Normal(real(B, 2, D), 1.0).to_event(1)),
        "MixtureSameFamily, a family without reparameterised",
    ),
    "mixture with draws of its own": (
        lambda: dist.MixtureOfDiagNormals(real(B, 2, D), positive(B, 2, D), real(B, 2)),
        "MixtureOfDiagNormals, whose draws cannot be differentiated twice",
    ),
    "Delta": (lambda: dist.Delta(real(B, D)).to_event(1), "Delta, a point without a density"),
    "straight through": (
        lambda: dist.RelaxedBernoulliStraightThrough(torch.tensor(0.7), logits=real(B, D)).to_event(1),
        "RelaxedBernoulliStraightThrough, whose draws are discrete",
    ),
    "straight through one of several": (
        lambda: dist.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.7), logits=real(B, D)),
        "RelaxedOneHotCategoricalStraightThrough, whose draws are discrete",
    ),
    "Uniform": (
        lambda: dist.Uniform(torch.zeros(B, D), positive(B, D)).to_event(1),
        "Uniform, a family without local parameters .*limits",
    ),
    "a scale computed from x": (
        lambda: dist.TransformedDistribution(
            dist.Normal(real(B, D), 1.0), [T.AffineTransform(0.0, torch.ones(D, requires_grad=True).exp())]
        ).to_event(1),
        "TransformedDistribution, a flow",
    ),
    "a flow": (
        lambda: dist.TransformedDistribution(
            dist.Normal(real(B, D), 1.0).to_event(1), [dist.transforms.affine_autoregressive(D, hidden_dims=[4])]
        ),
        "TransformedDistribution, a flow: a transform that is a network",
    ),
    "a conditioned flow": (
        lambda: dist.TransformedDistribution(
            dist.Normal(real(B, D), 1.0).to_event(1), [dist.transforms.conditional_planar(D, 2).condition(real(B, 2))]
        ),
        "TransformedDistribution, a flow",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("learning", [True, False])
def test_what_cannot_be_refined_is_refused_for_its_reason(name, learning):
    q, reason = REFUSED[name]
    if name == "a scale computed from x" and not learning:
        return  # without gradients nothing tells that it was computed
    with torch.set_grad_enabled(learning), pytest.raises(ValueError, match=f"got {reason}.*: use it amortized"):
        local_parameters(q())


def test_looking_at_a_family_uses_up_no_random_numbers_and_leaves_no_gradient():
    temperature = torch.tensor(0.7, requires_grad=True)
    q = dist.RelaxedBernoulli(temperature, logits=real(B, D)).to_event(1)
    before = torch.get_rng_state()
    family = local_parameters(q)
    assert torch.equal(before, torch.get_rng_state()) and temperature.grad is None
    family.draw(family.values, torch.tensor(5))
    assert torch.equal(before, torch.get_rng_state())


def test_where_a_transform_saturates_its_draws_keep_their_density():
    q = dist.TransformedDistribution(dist.Normal(torch.full((B, D), 20.0), 1.0), [T.TanhTransform()]).to_event(1)
    family = local_parameters(q)
    z = family.draw(family.values, family.noise())
    assert (z == 1).all() and family.distribution(family.values).log_prob(z).isfinite().all()


SHAPES = torch.tensor([0.01, 0.1, 0.5, 1.0, 3.0, 20.0, 1e3, 1e6], dtype=torch.float64)
LEVELS = torch.tensor([1e-9, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-9], dtype=torch.float64)


def test_quantiles_of_a_standard_gamma_and_their_derivatives():
    """Against scipy's quantiles, and their differences; where those are too small for a number, against the leading term."""
    a, u = (part.clone() for part in torch.broadcast_tensors(SHAPES[:, None], LEVELS))
    a.requires_grad_()
    y = _LogQuantile.apply(a, u)
    (first,) = torch.autograd.grad(y.sum(), a, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), a)
    step = 1e-4 * a.detach()

    def quantile(a):
        z = torch.as_tensor(special.gammaincinv(a.numpy(), u.numpy()))
        return torch.where(z > 1e-100, z.log(), (u.log() + torch.lgamma(a + 1)) / a)

    low, middle, high = (quantile(a.detach() + way * step) for way in (-1, 0, 1))
    torch.testing.assert_close(y, middle, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(first, (high - low) / (2 * step), rtol=1e-6, atol=0)
    coarse, below, above = (1e-3 * a.detach(), *(quantile(a.detach() * (1 + way * 1e-3)) for way in (-1, 1)))
    scale = a.detach() ** -2  # the size of the second derivative, to whose last digits the difference is exact
    torch.testing.assert_close(second / scale, (below - 2 * middle + above) / coarse**2 / scale, rtol=1e-3, atol=1e-3)


def test_a_standard_gamma_of_float32_stays_positive_and_finite():
    torch.manual_seed(0)
    concentration = torch.tensor([1e-4, 1e-2, 1.0, 1e4], requires_grad=True)
    with QuantileGammas():
        z = torch._standard_gamma(concentration.expand(1000, 4))
    assert z.dtype == torch.float32 and (z > 0).all() and z.isfinite().all()
    (gradient,) = torch.autograd.grad(z.sum(), concentration)
    assert gradient.isfinite().all()
    assert gradient[2:] == pytest.approx(torch.tensor([1000.0, 1000.0]), rel=0.1)  # of E[z] = a
    assert log_standard_gamma(torch.tensor([1e-4])).dtype == torch.float32


@pytest.mark.parametrize("exponent", range(-2, 40, 3))
def test_one_step_of_any_size_is_finite_or_says_that_it_diverged(exponent):
    """The values may be finite where the distribution, or the loss, is not."""
    pair = Pair(lambda a, b: dist.Normal(a, b.exp()), normal_prior)
    x, refined = torch.rand(8, 5).bernoulli(), SemiAmortized(pair.model, pair.guide, steps=1, lr=min(10.0**exponent, 1e38))
    for seed in range(3):
        pyro.set_rng_seed(seed)
        try:
            loss = Trace_ELBO().loss(pair.model, refined, x)
        except ValueError as error:
            assert "got one that diverged: take a smaller lr, or fewer steps" in str(error)
            assert exponent > 0
        else:
            assert math.isfinite(loss) and exponent < 20


def test_a_loss_that_overflows_at_finite_values_is_told():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson((10 * z).exp(), validate_args=False).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 0.01).to_event(1))

    x = torch.full((4, 1), 30.0)
    assert math.isfinite(Trace_ELBO().loss(model, SemiAmortized(model, guide, steps=1, lr=1e-4), x))
    with pytest.raises(ValueError, match="got one that diverged: take a smaller lr"):
        SemiAmortized(model, guide, steps=1, lr=0.1).refine(x)


def test_a_loss_that_is_not_finite_from_the_start_is_no_divergence():
    pair = Pair(lambda a, b: dist.Normal(a, b.exp()), normal_prior)
    with torch.no_grad():
        pair.decoder[2].bias.fill_(3e38)
    with pytest.raises(ValueError, match="expected a finite ELBO where the refinement starts, got -inf: look for x"):
        SemiAmortized(pair.model, pair.guide, steps=2).refine(torch.zeros(8, 5))


def test_the_check_of_the_last_step_uses_up_no_random_numbers():
    pair, x = Pair(*SUPPORTS["Gamma"]), torch.rand(8, 5).bernoulli()
    states = []
    for checked in (True, False):
        with pyro.validation_enabled(checked):
            pyro.set_rng_seed(1)
            SemiAmortized(pair.model, pair.guide, steps=2, lr=0.01).refine(x)
            states.append(torch.get_rng_state())
    assert torch.equal(*states)


def two_sites(encoder, decoder, names=("a", "b"), joint=False):
    def model(x):
        with pyro.plate("data", len(x)):
            if joint:
                z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            else:
                z = torch.cat([pyro.sample(name, dist.Normal(torch.zeros(2), 1.0).to_event(1)) for name in names], -1)
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        loc, log_scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            if joint:
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
            for k, name in enumerate(() if joint else names):
                part = slice(2 * k, 2 * k + 2)
                pyro.sample(name, dist.Normal(loc[:, part], log_scale[:, part].exp()).to_event(1))

    return model, guide


@pytest.mark.parametrize("gradient", ["exact", "exact-rebuilt", "finite-difference", "first-order"])
def test_two_sites_are_refined_together_as_one_site_of_both(float64, gradient):
    torch.manual_seed(0)
    encoder, decoder = nn.Sequential(nn.Linear(5, 8), nn.Tanh()), nn.Sequential(nn.Linear(4, 5), nn.Tanh())
    x, noise, found = torch.rand(6, 5).bernoulli(), torch.randn(3, 6, 4), []
    for joint in (True, False):
        refined = SemiAmortized(*two_sites(encoder, decoder, joint=joint), steps=3, lr=0.2, gradient=gradient)
        parts = list(noise) if joint else [{"a": part[:, :2], "b": part[:, 2:]} for part in noise]
        _, _, values = refined.refinement(x, noise=parts)
        loc, log_variance = values if joint else (torch.cat(values[::2], -1), torch.cat(values[1::2], -1))
        weights = torch.linspace(-1, 1, loc.numel()).reshape(loc.shape)
        total = (weights * loc).sum() + (weights * log_variance).square().sum()
        gradients = torch.autograd.grad(
            total, [*encoder.parameters(), *decoder.parameters()], allow_unused=True, materialize_grads=True
        )
        found.append(torch.cat([loc.flatten(), log_variance.flatten(), *(part.flatten() for part in gradients)]))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)


def test_a_guide_of_two_sites_is_a_guide():
    encoder, decoder = nn.Linear(5, 8), nn.Linear(4, 5)
    model, guide = two_sites(encoder, decoder)
    x, refined = torch.rand(50, 5).bernoulli(), SemiAmortized(model, guide, steps=20, lr=0.1)
    qs = refined.refine(x)
    assert set(qs) == {"a", "b"} and all(q.batch_shape == (50,) and q.event_shape == (2,) for q in qs.values())
    with torch.no_grad():
        losses = [sum(Trace_ELBO().loss(model, each, x) for _ in range(10)) for each in (guide, refined)]
    assert losses[1] < losses[0]
    Trace_ELBO().differentiable_loss(model, refined, x).backward()
    assert encoder.weight.grad.any() and decoder.weight.grad.any()
    with pytest.raises(ValueError, match=r"noise like z in each step, \{'a': \(50, 2\), 'b': \(50, 2\)\}, got \(50, 2\)"):
        refined.refine(x, noise=torch.zeros(20, 50, 2))
    with pytest.raises(ValueError, match="expected the model to sample 'c'"):
        SemiAmortized(model, two_sites(nn.Linear(5, 12), decoder, names=("a", "b", "c"))[1])(x)


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("family", ["normal", "gamma"])
def test_a_site_that_depends_on_the_draw_of_another_is_refused(learning, family):
    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x[:, :2], 1.0).to_event(1))
            q = dist.Normal(a.sin(), 1.0) if family == "normal" else dist.Gamma(a.exp(), 1.0)
            pyro.sample("b", q.to_event(1))

    model, _ = two_sites(None, nn.Linear(4, 5))
    with torch.set_grad_enabled(learning), pytest.raises(ValueError, match="'b', whose q depends on the draw of 'a'"):
        SemiAmortized(model, guide)(torch.rand(6, 5).bernoulli())


def test_a_prior_that_depends_on_another_site_is_taken(float64):
    """p(b|a) = N(a, 1), x = b + noise of variance 1: the refined means are those of the best factorised normal."""

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(a, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(b, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            for name in "ab":
                pyro.sample(name, dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))

    torch.manual_seed(0)
    q = SemiAmortized(model, guide, steps=300, lr=0.02).refine(torch.full((2000, 1), 3.0))
    assert q["a"].mean.mean().item() == pytest.approx(1.0, abs=0.02) and q["b"].mean.mean().item() == pytest.approx(
        2.0, abs=0.02
    )
    assert q["a"].variance.mean().item() == pytest.approx(0.5, rel=0.1) == pytest.approx(q["b"].variance.mean().item(), rel=0.1)


def test_guides_of_pyro_that_are_not_amortized_are_refused_for_their_reason():
    pair = Pair(*SUPPORTS["Laplace"])
    x = torch.rand(6, 5).bernoulli()

    class Easy(EasyGuide):
        def guide(self, x):
            group = self.group(match="z")
            with self.plate("data", len(x)):
                group.sample("all", dist.Normal(x[:, :2], 1.0).to_event(1))

    for auto in (AutoNormal, AutoDiagonalNormal):
        with pytest.raises(ValueError, match=f"{auto.__name__}, which has no .* of its own for each x"):
            SemiAmortized(pair.model, auto(pair.model))
    with pytest.raises(ValueError, match="auxiliary site 'all' that the others are computed from"):
        SemiAmortized(pair.model, Easy(pair.model))(x)


def test_a_guide_without_a_latent_site_is_refused():
    pair = Pair(*SUPPORTS["Laplace"])
    with pytest.raises(ValueError, match="expected a guide with a latent site to refine, got none"):
        SemiAmortized(pair.model, lambda x: None)(torch.rand(6, 5))
