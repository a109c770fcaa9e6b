"""Plain torch callables as a Pyro pair: the same numbers as the pair written by hand, and a sentence for each mistake."""

import functools
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from torch import distributions as torch_dist
from torch import nn

from pyro_skipvae import VAE, as_pair, collapse_report, svi_step
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.diagnostics import Monitor, log_likelihood
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import SemiAmortized
from pyro_skipvae.modules import modules_behind, parameters_behind
from pyro_skipvae.objectives import analytic_elbo, elbo, iwae
from pyro_skipvae.priors import MixtureOfNormals, StandardNormal

X = torch.rand(20, 6, generator=torch.Generator().manual_seed(1)).round()


class Plain(nn.Module):
    """A VAE as torch users write it."""

    def __init__(self, *between):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), *between, nn.ReLU(), nn.Linear(8, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 6))

    def encode(self, x):
        loc, log_variance = self.encoder(x).chunk(2, -1)
        return loc, (log_variance / 2).exp()

    def decode(self, z):
        return self.decoder(z)


def by_hand(vae, observation):
    def model(x, beta=1.0):
        pyro.module("decoder", vae.decoder)
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1))
            pyro.sample("x", observation(vae.decoder(z)), obs=x)

    def guide(x, beta=1.0):
        pyro.module("encoder", vae.encoder)
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=beta):
            pyro.sample("z", dist.Normal(*vae.encode(x)).to_event(1))

    return model, guide


def bernoulli(eta):
    return dist.Bernoulli(logits=eta).to_event(1)


def same(found, expected):
    found, expected = found.to_dict(), expected.to_dict()
    assert found == expected


QUICK = {"importance_samples": 2, "posterior_samples": 2}


@pytest.mark.parametrize(
    ("decode", "likelihood"),
    [
        (lambda vae: vae.decode, "bernoulli"),
        (lambda vae: lambda z: torch_dist.Bernoulli(logits=vae.decode(z)), None),
        (lambda vae: lambda z: bernoulli(vae.decode(z)), None),
        (lambda vae: vae.decode, lambda eta: torch_dist.Independent(torch_dist.Bernoulli(logits=eta), 1)),
        (lambda vae: vae.decoder, bernoulli),
    ],
)
def test_the_report_is_that_of_the_pair_by_hand(decode, likelihood):
    vae = Plain(nn.BatchNorm1d(8), nn.Dropout(0.5))
    found = collapse_report(*as_pair(vae.encode, decode(vae), likelihood=likelihood), X, **QUICK)
    same(found, collapse_report(*by_hand(vae, bernoulli), X, **QUICK))
    assert vae.training and vae.encoder[1].training and vae.encoder[1].num_batches_tracked == 0


@pytest.mark.parametrize("objective", [elbo, analytic_elbo, iwae(4), Trace_ELBO()])
def test_a_step_is_that_of_the_pair_by_hand(objective):
    weights = []
    for make in (lambda vae: as_pair(vae.encode, vae.decode, likelihood="bernoulli"), lambda vae: by_hand(vae, bernoulli)):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        vae = Plain()
        step = svi_step(*make(vae), objective, Adam({"lr": 0.01}), max_norm=5.0)
        losses = [step(X, 0.5).item() for _ in range(5)]
        weights.append([*losses, *torch.cat([p.flatten() for p in vae.parameters()]).tolist()])
    assert weights[0] == pytest.approx(weights[1], rel=1e-6) and losses[-1] < losses[0]


def test_refined_and_by_pyro_itself():
    vae = Plain()
    loss = []
    for pair in (as_pair(vae.encode, vae.decode, likelihood="bernoulli"), by_hand(vae, bernoulli)):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        refined = SemiAmortized(*pair, steps=3, lr=0.1)
        loss.append(SVI(pair[0], refined, Adam({"lr": 0.0}), Trace_ELBO()).step(X))
        assert collapse_report(pair[0], refined, X, **QUICK).elbo < 0
    assert loss[0] == pytest.approx(loss[1], rel=1e-6)


def test_torch_distributions_keep_their_closed_forms_and_other_families_work():
    def full(x):
        return torch_dist.MultivariateNormal(x[:, :2], scale_tril=0.5 * torch.eye(2))

    prior = torch_dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    found = collapse_report(*as_pair(full, lambda z: torch_dist.Normal(z.repeat(1, 3), 1.0), prior=prior), X, **QUICK)
    exact = 0.5 * (2 * 0.25 + X[:, :2].square().sum(1) - 2 - 2 * math.log(0.25)).mean()
    assert found.rate == pytest.approx(exact.item(), rel=1e-5) and found.card["estimators"]["rate"] == "closed form"


class Counts(torch_dist.Distribution):
    """As the families of scvi-tools: it tells no shape, and cannot be expanded."""

    arg_constraints = {}
    support = torch_dist.constraints.nonnegative_integer

    def __init__(self, rate):
        self.rate = rate
        super().__init__(validate_args=False)

    @property
    def mean(self):
        return self.rate

    def log_prob(self, x):
        return torch_dist.Poisson(self.rate).log_prob(x)

    def sample(self, shape=()):
        return torch_dist.Poisson(self.rate).sample(shape)


@pytest.mark.parametrize("family", [Counts, type("Mine", (torch_dist.Poisson,), {})])
def test_a_distribution_that_pyro_does_not_know(family):
    def encode(x):
        return x[:, :2], x[:, :2] + 0.5

    given = as_pair(encode, lambda z: family(z.repeat(1, 3).exp()))
    known = as_pair(encode, lambda z: dist.Poisson(z.repeat(1, 3).exp()))
    same(collapse_report(*given, X, **QUICK), collapse_report(*known, X, **QUICK))
    assert iwae(3)(*given, X) > 0


class Rebuilt(torch_dist.Normal):
    """Its expand makes an instance of its own class, as a distribution of torch alone may."""

    def expand(self, batch_shape, _instance=None):
        return Rebuilt(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


def test_a_distribution_that_expands_to_one_of_torch():
    """Its batch is expanded by the plate, where it has no further dimension."""
    pair, known = (
        as_pair(lambda x, made=made: made(x[:, 0], torch.ones(len(x))), lambda z: torch_dist.Normal(z[:, None].repeat(1, 6), 1))
        for made in (Rebuilt, torch_dist.Normal)
    )
    assert collapse_report(*pair, X, **QUICK).rate == pytest.approx(collapse_report(*known, X, **QUICK).rate)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64])
@pytest.mark.parametrize("likelihood", ["bernoulli", "normal-shared-scale", "poisson"])
def test_bits_and_whole_numbers_are_what_the_same_floats_are(kind, likelihood):
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def encode(x):
        loc, log_scale = encoder(x.float()).chunk(2, -1)
        return loc, log_scale.exp()

    pair = as_pair(encode, decoder, likelihood=likelihood)
    same(collapse_report(*pair, X.to(kind), **QUICK), collapse_report(*pair, X, **QUICK))


def test_the_cross_entropy_of_grey_values_is_taken_and_named():
    grey, encoder, decoder = torch.rand(40, 6), nn.Linear(6, 2), nn.Linear(2, 6)
    refused = collapse_report(*as_pair(lambda x: (encoder(x), torch.ones(2)), decoder, likelihood="bernoulli"), grey, **QUICK)
    assert refused.elbo is None and "Bernoulli validate_args=False" in refused.card["unavailable"]["elbo"]

    def likelihood(eta):
        return torch_dist.Bernoulli(logits=eta, validate_args=False)

    pair = as_pair(lambda x: (encoder(x), torch.ones(2)), decoder, likelihood=likelihood)
    found = collapse_report(*pair, grey, levels=256, **QUICK)
    assert found.elbo < 0 and "no log-probability" in found.card["notes"][0] and "%" not in found.verdict
    assert "no probabilities" in found.card["unavailable"]["bits_per_dimension"]
    binary = collapse_report(*pair, grey.round(), **QUICK)
    assert not binary.card["notes"] and "-log p(x)" in binary.verdict


def test_a_decoder_of_nan_leaves_what_the_guide_says():
    pair = as_pair(lambda x: torch_dist.Normal(x[:, :2], 1.0), lambda z: torch_dist.Normal(z.repeat(1, 3) * math.nan, 1.0))
    found = collapse_report(*pair, X, **QUICK)
    assert found.elbo is None and "loc of Normal is not valid" in found.card["unavailable"]["elbo"]
    assert found.rate == pytest.approx(0.5 * X[:, :2].square().sum(1).mean().item(), rel=1e-5) and found.mi_lower is not None
    assert Monitor(*pair, X)(0).reason == "the loc of Normal is not valid"
    with pytest.raises(ValueError, match="^the loc of Normal is not valid$"):
        log_likelihood(*pair, X)


def test_our_own_modules_and_a_prior_of_ones_own():
    encoder, decoder, prior = MLPEncoder((6,), 3, hidden=(8,)), MLPDecoder(3, (6,), layers=1, width=8), MixtureOfNormals(3)
    pair, vae = as_pair(encoder, decoder, prior=prior), VAE(prior, decoder, encoder)
    same(collapse_report(*pair, X, **QUICK), collapse_report(vae.model, vae.guide, X, **QUICK))
    names = {name for name, _ in pyro.get_param_store().items()}
    step = svi_step(*pair, elbo, Adam({"lr": 0.1}))
    before = prior.loc.clone() if hasattr(prior, "loc") else next(prior.parameters()).clone()
    step(X)
    assert not names and not torch.equal(before, next(prior.parameters()))


@pytest.mark.parametrize("prior", [dist.Normal(torch.zeros(3), 2.0), lambda c: torch_dist.Normal(c, 2.0), StandardNormal(3)])
def test_context_is_an_argument(prior):
    """A policy: q(z | action, observation), p(action | z, observation)."""
    encoder, decoder = nn.Linear(9, 6), nn.Linear(6, 6)
    observation = torch.randn(20, 3)

    def encode(action, observation):
        loc, raw = encoder(torch.cat([action, observation], -1)).chunk(2, -1)
        return loc, raw.exp()

    def decode(z, observation):
        return decoder(torch.cat([z, observation], -1))

    model, guide = as_pair(encode, decode, prior=prior, likelihood=lambda loc: dist.Normal(loc, 0.5))
    found = collapse_report(model, guide, (X, observation), **QUICK)
    assert found.elbo < 0 < found.rate and found.card["estimators"]["rate"] == "closed form"
    svi_step(model, guide, iwae(3), Adam({"lr": 0.1}))((X, observation))
    assert set(pyro.get_param_store()) == {f"{part}$$$0.{n}" for part in ("encoder", "decoder") for n in ("weight", "bias")}


def test_the_model_alone_draws():
    vae = Plain(nn.BatchNorm1d(8))
    model, _ = as_pair(vae.encode, vae.decode, likelihood="bernoulli")
    state = torch.get_rng_state()
    assert Predictive(pyro.poutine.uncondition(model), num_samples=7)(X)["x"].shape == (7, 20, 6)
    assert vae.encoder[1].num_batches_tracked == 0 and not torch.equal(state, torch.get_rng_state())


def test_images_by_convolutions_with_particles():
    images = torch.rand(20, 1, 8, 8)
    encoder = nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.BatchNorm2d(4))
    decoder = nn.ConvTranspose2d(2, 1, 4, 4)

    def encode(x):
        loc, raw = encoder(x).chunk(2, 1)
        return loc, (raw / 2).exp()

    pair = as_pair(encode, decoder, likelihood="normal-shared-scale")
    loss = svi_step(*pair, iwae(6), Adam({"lr": 0.01}))(images)
    assert loss.isfinite() and "decoder$$$1.tenth_log_sigma" in pyro.get_param_store()
    found = collapse_report(*pair, images, **QUICK)
    assert found.card["latent_shape"] == [2, 2, 2] and len(found.rate_per_dimension) == 8


def test_particles_are_those_of_one_pass_each():
    vae, x = Plain(), X[:5]
    losses = []
    for decode in (vae.decode, lambda z: bernoulli(vae.decode(z))):
        model, guide = as_pair(vae.encode, decode, likelihood="bernoulli" if decode == vae.decode else None)
        pyro.set_rng_seed(0)
        losses.append(iwae(5)(model, guide, x).item())  # as many particles as rows
    pyro.set_rng_seed(0)
    assert losses == pytest.approx([iwae(5)(*by_hand(vae, bernoulli), x).item()] * 2, rel=1e-6)


def test_modules_are_found():
    vae, scale = Plain(), nn.Parameter(torch.zeros(()))

    class Wrapper:
        def __init__(self):
            self.net = vae.decoder

        def __call__(self, z):
            return self.net(z)

    def nested(x):
        return inner(x)

    def inner(x):
        return [part(x) * scale for part in {"a": vae.encoder}.values()]

    assert modules_behind(vae.encode) == [vae] and modules_behind(vae) == [vae]
    assert modules_behind(lambda z: GLOBAL(z)) == [GLOBAL] and modules_behind(Wrapper()) == [vae.decoder]
    assert modules_behind(Wrapper().__call__) == [vae.decoder]
    assert modules_behind(functools.partial(lambda net, z: net(z), vae.decoder)) == [vae.decoder]
    assert modules_behind(nested) == [vae] and [id(p) for p in parameters_behind(nested)] == [id(scale)]
    assert modules_behind(torch.no_grad()(nested)) == [vae] and modules_behind(torch.relu) == []


GLOBAL = nn.Linear(2, 6)


def test_a_loose_parameter_learns_and_a_frozen_one_stays():
    vae, log_scale = Plain(), nn.Parameter(torch.zeros(()))
    vae.encoder.requires_grad_(False)
    pair = as_pair(vae.encode, lambda z: dist.Normal(vae.decode(z), log_scale.exp()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svi_step(*pair, elbo, Adam({"lr": 0.1}))(X)
    assert log_scale.item() != 0 and not any(p.requires_grad or p.grad is not None for p in vae.encoder.parameters())


def test_a_second_pair_is_told_to_clear_the_store():
    for expected in (None, "call pyro.clear_param_store"):
        vae = Plain()
        step = svi_step(*as_pair(vae.encode, vae.decode, likelihood="bernoulli"), elbo, Adam({"lr": 0.1}))
        if expected is None:
            step(X)
        else:
            same(*(collapse_report(*pair, X, **QUICK) for pair in (step.svi and (step.svi.model, step.svi.guide),) * 2))
            with pytest.raises(ValueError, match=expected):
                step(X)


NET = nn.Linear(6, 4)
LOC = NET(X).detach()[:, :2]
MISTAKES = {
    "a log variance as scale": (
        lambda x: (NET(x)[:, :2], NET(x)[:, 2:] - 9),
        r"scales above 0, got -\d+.*if it is a log variance, give \(log_variance / 2\)\.exp\(\), if a log scale, its exp\(\)",
    ),
    "three things": (
        lambda x: (x[:, :2], x[:, :2].exp(), x[:, :2]),
        r"to give a distribution or \(loc, scale\), got 3 items \(a tensor.*leave out what is neither",
    ),
    "an output of another library": (
        lambda x: SimpleNamespace(embedding=x[:, :2]),
        r"encode to give a distribution or .* got a SimpleNamespace: give \(loc, scale\) of what is in it",
    ),
    "one tensor": (lambda x: x[:, :2], "encode to give a distribution or .* got a tensor of shape .*give its scale too"),
    "arrays": (lambda x: (np.zeros((len(x), 2)), np.ones((len(x), 2))), "got 2 items .*a NumPy array of shape .* tensors are"),
    "nothing": (lambda x: None, "encode to give a distribution or .* got None"),
    "no rows": (lambda x: (torch.zeros(2), torch.ones(2)), r"with a batch of 3.*got batch shape \(2,\)"),
    "rows as event": (
        lambda x: dist.Normal(x, 1.0).to_event(2),
        r"batch of 3, one for each row, got batch shape \(\) and event shape \(3, 6\); leave the rows out of",
    ),
    "rows second": (lambda x: (x.T, x.T.exp()), r"got batch shape \(6, 3\) and event shape \(\); the rows come first"),
    "two shapes": (lambda x: (x[:, :2], x[:, :3].exp()), r"loc and scale of one shape, got \(3, 2\) and \(3, 3\)"),
    "a bounded family": (lambda x: torch_dist.Beta(x + 1, 2.0), r"expected prior= for a q\(z\|x\) on .*Interval.*N\(0, I\)"),
    "a functional batch norm": (
        lambda x: (nn.functional.batch_norm(x, None, None, training=True), torch.ones_like(x)),
        r"q\(z\|x\) of a row that depends on that row alone.*a batch normalisation",
    ),
    "an active dropout": (lambda x: (nn.functional.dropout(x), torch.ones_like(x)), "without dropout in evaluation mode"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_of_encode(mistake):
    encode, sentence = MISTAKES[mistake]
    with pytest.raises(ValueError, match=sentence) as raised:
        collapse_report(*as_pair(encode, lambda z: dist.Normal(z[:, :1].repeat(1, 6), 1.0)), X, **QUICK)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


DECODING = {
    "a tensor": ({}, lambda z: z, "a distribution over x, got a tensor of shape .*likelihood=, one of bernoulli"),
    "a distribution and a likelihood": (
        {"likelihood": "bernoulli"},
        lambda z: dist.Normal(z.repeat(1, 3), 1.0),
        "natural parameters for likelihood=, got a Normal; leave likelihood= out",
    ),
    "too few": (
        {"likelihood": "bernoulli"},
        lambda z: z,
        r"natural parameters of shape \(3, 6, 1\), or \(3, 6\), got a tensor of shape \(3, 2\)",
    ),
    "loc and scale": (
        {"likelihood": "normal"},
        lambda z: (z.repeat(1, 3), z.repeat(1, 3).exp()),
        r"of shape \(3, 6, 2\), got 2 items .*write likelihood=torch.distributions.Normal",
    ),
    "another shape of x": ({}, lambda z: dist.Normal(z, 1.0), r"p\(x\|z\) over x of shape \(6,\), got \(2,\)"),
    "a column": ({}, lambda z: dist.Normal(z[:, :1], 1.0), r"p\(x\|z\) over x of shape \(6,\), got \(1,\)"),
    "a likelihood that gives none": ({"likelihood": torch.sigmoid}, lambda z: z, "likelihood to give .*, got a tensor"),
    "batch statistics": (
        {"likelihood": "bernoulli"},
        nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6, track_running_stats=False)),
        r"p\(x\|z\) of a row that depends on that row alone",
    ),
    "a prior of another size": (
        {"likelihood": "bernoulli", "prior": StandardNormal(5)},
        nn.Linear(2, 6),
        r"a prior of z of shape \(2,\), as encode gives it, got one of \(5,\)",
    ),
    "a prior that is a tensor": ({"prior": lambda: torch.zeros(2)}, nn.Linear(2, 6), "prior to give .*, got a tensor"),
}


@pytest.mark.parametrize("mistake", DECODING)
def test_mistakes_of_decode(mistake):
    options, decode, sentence = DECODING[mistake]
    with pytest.raises(ValueError, match=sentence) as raised:
        collapse_report(*as_pair(lambda x: (x[:, :2], x[:, :2].exp()), decode, **options), X, **QUICK)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_mistakes_of_the_call():
    with pytest.raises(ValueError, match="encode to be a function or a module, got a tensor"):
        as_pair(X, NET)
    with pytest.raises(ValueError, match="one of bernoulli, .* or a callable, got 'gaussian'"):
        as_pair(NET, NET, likelihood="gaussian")
    with pytest.raises(ValueError, match="prior to be a distribution, or a callable"):
        as_pair(NET, NET, prior=3)
    _, guide = as_pair(lambda x: (x, x.exp()), NET)
    with pytest.raises(ValueError, match=r"x to be a tensor, got a NumPy array.*torch.as_tensor\(x\)"):
        guide(X.numpy())
    with pytest.raises(ValueError, match=r"x to be a tensor, got a dict; give a tuple \(x, \*context\)"):
        guide({"image": X})
    with pytest.warns(UserWarning, match=r"lies in \[0, 1\], and bernoulli reads logits.*Bernoulli\(p\)"):
        decode = nn.Sequential(nn.Linear(2, 6), nn.Sigmoid())
        collapse_report(*as_pair(lambda x: (x[:, :2], x[:, :2].exp()), decode, likelihood="bernoulli"), X, **QUICK)
    encode = lambda x: (x[:, :2], x[:, :2].exp())  # noqa: E731
    for last, name, told in (
        (nn.Softplus(), "poisson", r"poisson reads log rates.*Poisson\(p\)"),
        (nn.Softmax(-1), "multinomial", "sum to 1, and multinomial reads logits"),
    ):
        with pytest.warns(UserWarning, match=told):
            collapse_report(*as_pair(encode, nn.Sequential(nn.Linear(2, 6), last), likelihood=name), X.round().abs(), **QUICK)
    linear = nn.Linear(2, 6)
    still = lambda x: (x[:, :2] * 0, x[:, :2] * 0 + 1)  # noqa: E731
    counts = as_pair(still, lambda z: 4 + linear(z).square().tanh(), likelihood="poisson")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # log rates of 5 for counts of 150
        collapse_report(*counts, 150 + X.round().abs(), **QUICK)
    for made, likelihood in (
        (decode, lambda p: torch_dist.Bernoulli(p)),
        (lambda z: (z.repeat(1, 3),) * 2, torch_dist.Laplace),
    ):
        advised = as_pair(
            lambda x: (x[:, :2] + 1, x[:, :2].exp() / 9), lambda z, made=made: made(z.abs()), likelihood=likelihood
        )
        assert collapse_report(*advised, X, **QUICK).elbo < 0


def test_arrays_are_taken_by_the_report():
    vae = Plain().double()
    pair = as_pair(vae.encode, vae.decode, likelihood="bernoulli")
    same(collapse_report(*pair, X.double().numpy(), **QUICK), collapse_report(*pair, X.double(), **QUICK))


def test_a_tensor_that_is_an_attribute_of_a_module_learns():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.log_scale = nn.Linear(2, 3), torch.zeros((), requires_grad=True)

        def forward(self, z):
            return dist.Normal(self.net(z), self.log_scale.exp())

    pyro.clear_param_store()
    decoder, encoder = Decoder(), nn.Linear(3, 2)
    model, guide = as_pair(lambda x: (encoder(x), torch.ones(len(x), 2)), decoder)
    svi_step(model, guide, elbo, pyro.optim.Adam({"lr": 0.1}))(torch.randn(8, 3))
    assert decoder.log_scale.item() != 0


def test_z_follows_the_shape_and_dtype_of_x():
    encoder, decoder = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)
    model, guide = as_pair(lambda x: (encoder(x), torch.ones_like(encoder(x))), decoder, likelihood="bernoulli")
    guide(torch.zeros(2, 1, 4, 4))
    assert model(torch.zeros(3, 1, 6, 6)).shape == (3, 1, 6, 6)
    encoder.double(), decoder.double()
    assert model(torch.zeros(3, 1, 6, 6, dtype=torch.float64)).dtype is torch.float64


def test_a_prior_whose_arguments_all_have_values_is_not_given_the_context():
    scales = []

    def prior(scale=0.5):
        scales.append(scale)
        return dist.Normal(torch.zeros(2), scale)

    model, _ = as_pair(lambda x, y: (x[:, :2], torch.ones(len(x), 2)), lambda z, y: dist.Normal(z, 1.0), prior=prior)
    model(torch.zeros(3, 2), torch.ones(3, 1))
    assert scales == [0.5]
