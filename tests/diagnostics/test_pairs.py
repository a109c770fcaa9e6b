"""Models and guides that this package did not build: right numbers, or a refusal with its reason."""

import math
from collections import UserDict

import numpy
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import transforms
from pyro.infer.autoguide import AutoNormalMessenger
from torch import nn

from pyro_skipvae.diagnostics import (
    Monitor,
    active_units,
    collapse_report,
    inference_gap,
    log_likelihood,
    model_mutual_information,
    mutual_information,
    rate,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model(x):
    """p(z) = N(0, 1), p(x|z) = N(z, 1) in each dimension, so that p(x) = N(0, 2)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    """The exact posterior of `model`."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))


def posterior_rate(x):
    """KL(N(x/2, 1/2) || N(0, 1)) per point."""
    return (0.5 * (0.5 + x.square() / 4 - 1 + math.log(2))).sum(-1).mean().item()


def report(model, guide, x, **options):
    return collapse_report(model, guide, x, **{"importance_samples": 20, "posterior_samples": 4} | options)


X = draw(60, 3) * 2**0.5
EVIDENCE = dist.Normal(torch.zeros(3).double(), 2**0.5).to_event(1).log_prob(X).mean().item()


def assert_right(found):
    assert found.rate == pytest.approx(posterior_rate(X), abs=1e-9)
    assert found.log_likelihood == pytest.approx(EVIDENCE, abs=1e-9)
    assert found.elbo == pytest.approx(EVIDENCE, abs=0.4)  # sqrt(3 / 2 / 240) is one standard deviation: 0.08
    assert found.active_units == 3


def test_plain_pair():
    assert_right(report(model, guide, X))


def test_subsampling_plate_with_scale():
    def scaled(function):
        def plated(x):
            with pyro.plate("outer", 5000, subsample=torch.arange(len(x))), pyro.poutine.scale(scale=7.0):
                function(x)

        return plated

    def core_model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def core_guide(x):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))

    assert_right(report(scaled(core_model), scaled(core_guide), X))


def test_plate_that_stands_for_n_points_takes_no_more_than_those():
    def sized(function):
        def plated(x):
            with pyro.plate("data", 70, subsample_size=len(x)):
                function(x)

        return plated

    found = report(
        sized(lambda x: pyro.sample("x", dist.Normal(pyro.sample("z", PRIOR(x)), 1.0).to_event(1), obs=x)),
        sized(lambda x: pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))),
        X,
        rows=1000,
    )
    assert_right(found)


def PRIOR(x):  # noqa: N802
    return dist.Normal(torch.zeros_like(x), 1.0).to_event(1)


def test_plate_that_subsamples_by_itself_is_refused():
    def subsampled(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            z = pyro.sample("z", PRIOR(x[index]))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[index])

    def subsampled_guide(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            pyro.sample("z", dist.Normal(x[index] / 2, 0.7).to_event(1))

    with pytest.raises(ValueError, match="subsamples inside the model.*Pass the rows as x"):
        report(subsampled, subsampled_guide, X)


def test_no_plate_is_refused():
    def bare(x):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(2), obs=x)

    with pytest.raises(ValueError, match="without a plate.*to_event"):
        report(bare, lambda x: pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(2)), X)


def test_global_latent_is_refused():
    def shared(x):
        z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match="'z' inside one data plate.*all rows share"):
        report(shared, lambda x: pyro.sample("z", dist.Normal(x.new_zeros(3), 0.7).to_event(1)), X)


def test_latent_per_dimension_in_a_second_plate():
    def nested(function):
        def plated(x):
            with pyro.plate("data", len(x), dim=-2), pyro.plate("units", 3, dim=-1):
                function(x)

        return plated

    found = report(
        nested(lambda x: pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0 * x, 1.0)), 1.0), obs=x)),
        nested(lambda x: pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))),
        X,
    )
    assert_right(found)
    assert len(found.rate_per_dimension) == 3


def test_one_dimensional_latent_without_event():
    def scalar(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def scalar_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = draw(100)
    found = report(scalar, scalar_guide, x)
    assert found.rate == pytest.approx(posterior_rate(x[:, None]), abs=1e-9)
    assert found.rate_per_dimension == [pytest.approx(found.rate)]
    assert found.active_units == 1 and len(found.active_unit_variances) == 1
    assert found.mi_lower is not None and found.mi_marginal is not None


def test_no_row_is_left_alone():
    """A network that squeezes away a batch of one sees none, whatever the number of rows."""

    def squeezed(x):
        assert len(x) > 1
        guide(x)

    def squeezed_model(x):
        assert len(x) > 1
        model(x)

    for points in (257, 513):
        found = report(squeezed_model, squeezed, draw(points, 1), importance_samples=1, posterior_samples=1)
        assert found.card["points"] == points


def test_x_as_a_tuple():
    def conditional(x, shift, flag):
        assert flag == "context"
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", PRIOR(x))
            pyro.sample("x", dist.Normal(z + shift, 1.0).to_event(1), obs=x)

    def conditional_guide(x, shift, flag):
        guide(x - shift)

    shift = 10 * draw(60, 3, seed=9)
    found = report(conditional, conditional_guide, (X + shift, shift, "context"))
    assert_right(found)
    assert found.model_mutual_information is None
    assert "also reads the x" in found.card["unavailable"]["model_mutual_information"]
    with pytest.raises(ValueError, match="expected tensors of 60 rows"):
        report(conditional, conditional_guide, (X, shift[:5], "context"))
    with pytest.raises(ValueError, match="expected x to be a tensor"):
        report(model, guide, X.tolist())


class Networks(nn.Module):
    """An encoder and decoder with BatchNorm and dropout, in Pyro's usual methods."""

    def __init__(self, rate=0.5):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(rate), nn.Linear(8, 2))
        self.decoder = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(rate), nn.Linear(8, 3))
        self.double()

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def snapshot(networks):
    store = pyro.get_param_store()
    return (
        {name: value.clone() for name, value in networks.state_dict().items()},
        [module.training for module in networks.modules()],
        {name: store[name].clone() for name in store.keys()},
        torch.get_rng_state(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("function", [collapse_report, rate, mutual_information, active_units, log_likelihood])
def test_everything_stays_as_found(function):
    pyro.clear_param_store()
    torch.manual_seed(5)
    networks = Networks()
    networks.encoder[1].eval()  # a mixture of modes, as when a statistic is frozen
    pyro.param("somebody_elses", torch.ones(2))
    before = snapshot(networks)
    small = {"importance_samples": 3} if function in (collapse_report, log_likelihood) else {}
    # As plain functions: only the modules' own forwards betray them.
    function(lambda x: networks.model(x), lambda x: networks.guide(x), X, **small)
    torch.testing.assert_close(snapshot(networks), before, rtol=0, atol=0)
    pyro.clear_param_store()


def test_an_embedding_that_encoder_and_decoder_share_leaves_the_store_as_found():
    embedding, words = nn.Embedding(7, 2), torch.arange(60).view(20, 3) % 7
    encoder, decoder = nn.Sequential(embedding, nn.Flatten(), nn.Linear(6, 2)), nn.Linear(2, 21)

    def decode(z):
        return decoder(z).view(-1, 3, 7) + embedding.weight.sum()

    networks = nn.ModuleDict({"encoder": encoder, "decoder": nn.ModuleList([decoder, embedding])})

    def tied_model(x):
        pyro.module("decoder", networks["decoder"])
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Categorical(logits=decode(z)).to_event(1), obs=x)

    def tied_guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

    pyro.clear_param_store()
    pyro.param("somebody_elses", torch.ones(2))
    before = snapshot(networks)
    assert rate(tied_model, tied_guide, words).value > 0 and Monitor(tied_model, tied_guide, words)(0).rate.value > 0
    torch.testing.assert_close(snapshot(networks), before, rtol=0, atol=0)
    pyro.clear_param_store()


def test_an_observed_site_of_the_guide_is_no_part_of_its_density():
    """A CEVAE classifies in its guide; log p(x), known here, must not rise by that."""

    def classified(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))
            pyro.sample("class", dist.Bernoulli(torch.full((len(x),), 0.1)), obs=(x[:, 0] > 0).double())

    found = report(model, classified, X)
    assert_right(found)
    assert found.elbo == pytest.approx(-found.distortion - found.rate, abs=1e-9)
    assert log_likelihood(model, classified, X, importance_samples=5).value == pytest.approx(EVIDENCE, abs=1e-9)
    assert any("['class'] are left out" in note for note in found.card["notes"])


def test_what_the_guide_leaves_in_an_attribute_for_the_model_is_refused():
    left = {}

    def leaving(x):
        left["features"] = x / 2
        guide(x)

    def reading(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(left["features"] + 0 * z, 1.0).to_event(1), obs=x)

    for measure in (report, lambda model, guide, x: Monitor(model, guide, x)(0)):
        with pytest.raises(ValueError, match="it reads what the guide left in an attribute"):
            measure(reading, leaving, X)


LENGTHS = [1 + n % 3 for n in range(60)]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (LENGTHS, "list"),
        (tuple(LENGTHS), "tuple"),
        (numpy.array([str(n) for n in LENGTHS], dtype=object), "ndarray"),
        ({"lengths": torch.tensor(LENGTHS)}, "dict"),
        ([torch.tensor(LENGTHS), 3], "list"),
    ],
    ids=str,
)
def test_values_of_rows_that_are_no_tensor_are_refused_since_no_part_would_get_its_own(given, kind):
    def masked(function):
        return lambda x, lengths: function(x)

    with pytest.raises(ValueError, match=f"each of the 60 rows of x has of its own in a tensor, .* got a {kind}"):
        report(masked(model), masked(guide), (X, given))
    assert_right(report(masked(model), masked(guide), (X, torch.tensor(LENGTHS))))
    for other in ([1.0, 2.0], "no row", {"temperature": 0.5}, None, nn.ModuleList([nn.Identity()] * 60)):
        assert_right(report(masked(model), masked(guide), (X, other)))


def test_values_of_rows_are_told_by_all_rows_not_by_those_of_a_part():
    def masked(function):
        return lambda x, given: function(x)

    pair = masked(model), masked(guide)
    with pytest.raises(ValueError, match="each of the 60 rows of x has of its own in a tensor"):
        Monitor(*pair, (X, LENGTHS), points=50)(0)
    assert Monitor(*pair, (X, list(range(50))), points=50)(0).state == "used"  # 50 of something else
    import scipy.sparse

    with pytest.raises(ValueError, match="got a ndarray"):
        Monitor(*pair, (X, numpy.array([str(n) for n in LENGTHS], dtype=object)), points=50)(0)
    assert_right(report(*pair, (X, dist.Normal(0.0, 1.0))))
    assert Monitor(*pair, (X, dist.Normal(0.0, 1.0)), points=50)(0).state == "used"  # whose shape is a method
    with pytest.raises(ValueError, match="got a csr_matrix"):
        report(*pair, (X, scipy.sparse.csr_matrix(X.numpy())))
    assert_right(report(*pair, (X, nn.Sequential)))


def test_packed_sequences_are_refused_by_name():
    packed = nn.utils.rnn.pack_padded_sequence(X[..., None], torch.full((60,), 3), batch_first=True)
    for x in (packed, (X, packed)):
        with pytest.raises(ValueError, match="got a PackedSequence: pass \\(padded, lengths\\)"):
            report(model, guide, x)


def test_modes_are_restored_after_an_error():
    networks = Networks()

    def broken(x):
        networks.model(x)
        raise KeyError("mine")

    before = snapshot(networks)
    with pytest.raises(KeyError, match="mine"):
        report(broken, networks.guide, X)
    torch.testing.assert_close(snapshot(networks), before, rtol=0, atol=0)
    pyro.clear_param_store()


def test_dropout_and_batchnorm_are_evaluated():
    networks = Networks()
    training = report(lambda x: networks.model(x), lambda x: networks.guide(x), X)
    networks.eval()
    torch.testing.assert_close(training.elbo, report(networks.model, networks.guide, X).elbo)
    pyro.clear_param_store()


class Moving(nn.Module):
    """What it gives in training is another thing than in evaluation, also outside of a forward."""

    def shift(self):
        return 1.0 if self.training else 0.0


MOVING, BATCH_NORM = Moving(), transforms.BatchNorm(3)


def test_modules_without_a_forward_of_their_own_are_evaluated():
    """A module that a plain function names, and a transform that is a module: their statistics and flags stay as they were."""

    def normalised(x):
        pyro.module("normalisation", BATCH_NORM)
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
            z = pyro.sample("z", dist.TransformedDistribution(base, [BATCH_NORM]))
            pyro.sample("x", dist.Normal(z + MOVING.shift(), 1.0).to_event(1), obs=x)

    before, x = BATCH_NORM.moving_mean.clone(), draw(100, 3).float() + 2
    found = report(normalised, guide, x).to_json()
    assert torch.equal(before, BATCH_NORM.moving_mean) and BATCH_NORM.training and MOVING.training
    BATCH_NORM.eval(), MOVING.eval()
    assert report(normalised, guide, x).to_json() == found


def test_dropout_in_a_method_without_a_forward():
    class Methods(nn.Module):
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = nn.functional.dropout(pyro.sample("z", PRIOR(x)), 0.5, training=self.training)
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    pair = Methods()
    assert_right(report(pair.model, guide, X))
    assert pair.training


@pytest.mark.parametrize("where", ["model", "guide"])
def test_functional_dropout_is_refused(where):
    def dropped(x):
        return nn.functional.dropout(x, 0.5)

    def noisy_model(x):
        with pyro.plate("data", len(x)):
            z = dropped(pyro.sample("z", PRIOR(x)))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    pair = (noisy_model, guide) if where == "model" else (model, lambda x: guide(dropped(x)))
    with pytest.raises(ValueError, match="functional dropout"):
        report(*pair, X)


def test_guide_with_noise_of_its_own_is_noted():
    """A refinement by stochastic gradients gives another q(z|x) each time; each is a valid one."""

    def refined(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + 0.01 * torch.randn_like(x), 0.5**0.5).to_event(1))

    found = report(model, refined, X, importance_samples=100)
    assert "guide is itself random" in found.card["notes"][0]
    assert found.log_likelihood == pytest.approx(EVIDENCE, abs=0.01)


def two_sites(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", PRIOR(x))
        w = pyro.sample("w", PRIOR(x))
        pyro.sample("x", dist.Normal(z + w, 1.0).to_event(1), obs=x)


def two_sites_guide(x):
    """q(z|x) is exact, and so is q(w|z, x): p(x) = N(0, 3)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x / 3, (2 / 3) ** 0.5).to_event(1))
        pyro.sample("w", dist.Normal((x - z) / 2, 0.5**0.5).to_event(1))


def test_several_latent_sites():
    with pytest.raises(ValueError, match=r"\['z', 'w'\].*site="):
        rate(two_sites, two_sites_guide, X)
    assert report(two_sites, two_sites_guide, X).log_likelihood == pytest.approx(
        dist.Normal(torch.zeros(3).double(), 3**0.5).to_event(1).log_prob(X).mean().item(), abs=1e-9
    )
    found = report(two_sites, two_sites_guide, X, site="z")
    evidence = dist.Normal(torch.zeros(3).double(), 3**0.5).to_event(1).log_prob(X).mean().item()
    assert found.log_likelihood == pytest.approx(evidence, abs=1e-9)
    assert found.elbo == pytest.approx(evidence, abs=0.4)
    assert found.rate == pytest.approx((0.5 * (2 / 3 + X**2 / 9 - 1 + math.log(1.5))).sum(-1).mean().item(), abs=1e-9)
    assert found.active_units == 3 and found.shuffled_latent_loss > 0.1
    assert found.card["nuisance_sites"] == ["w"]
    assert "one latent site" in found.card["unavailable"]["model_mutual_information"]
    with pytest.raises(ValueError, match="expected site to be one of"):
        report(two_sites, two_sites_guide, X, site="y")


def test_posterior_that_depends_on_a_nuisance_is_refused():
    with pytest.raises(ValueError, match=r"q\(w\|x\) that depends on x alone"):
        report(two_sites, two_sites_guide, X, site="w")


def test_prior_that_depends_on_a_nuisance_is_refused():
    def chain(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.sample("w", PRIOR(x)), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def independent(x):
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(x / 3, 0.7).to_event(1))
            pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))

    with pytest.raises(ValueError, match=r"p\(z\) that does not depend on \['w'\]"):
        report(chain, independent, X, site="z")


@pytest.mark.parametrize(
    "posterior, reason",
    [
        (lambda x: dist.Delta(x).to_event(1), "Delta"),
        (lambda x: dist.Poisson(x.exp()).to_event(1), "probabilities of values and a density"),
    ],
)
def test_posteriors_without_a_density_are_refused(posterior, reason):
    def plated(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))

    with pytest.raises(ValueError, match=reason):
        report(model, plated, X)


def test_latents_must_be_shared():
    with pytest.raises(ValueError, match="same latent sites"):
        report(two_sites, guide, X)


def test_guide_that_is_not_amortized_is_refused_untouched():
    automatic = pyro.infer.autoguide.AutoNormal(model)
    with pytest.raises(ValueError, match="amortized guide of x, got AutoNormal"):
        report(model, automatic, X)
    assert automatic.prototype_trace is None


def test_an_auto_messenger_is_refused_untouched():
    auto = AutoNormalMessenger(model)
    with pytest.raises(ValueError, match="expected an amortized guide of x, got AutoNormalMessenger"):
        report(model, auto, X)
    assert not list(auto.parameters())


def test_plate_of_a_fixed_size_is_refused():
    def fixed(x):
        with pyro.plate("data", 60):
            pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))

    with pytest.raises(ValueError, match="any number of rows"):
        report(model, fixed, X)


def test_deterministic_masked_and_several_observed_sites():
    mask = (draw(60, seed=4) > 0).double()

    def several(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.deterministic("copy", pyro.sample("z", PRIOR(x)), event_dim=1)
            pyro.sample("first", dist.Normal(z[:, :2], 1.0).to_event(1), obs=x[:, :2])
            with pyro.poutine.mask(mask=seen > 0):
                pyro.sample("second", dist.Normal(z[:, 2], 1.0), obs=x[:, 2])

    found = report(several, lambda x, seen: guide(x), (X, mask), importance_samples=4000)
    marginal = dist.Normal(torch.zeros(()).double(), 2**0.5)
    expected = marginal.log_prob(X[:, :2]).sum(1) + mask * marginal.log_prob(X[:, 2])
    assert found.log_likelihood == pytest.approx(expected.mean().item(), abs=0.02)
    assert found.card["observed_sites"] == ["first", "second"]


def test_learned_prior_has_a_monte_carlo_rate():
    """Against a mixture no closed form exists; the integral over a grid is the reference."""
    mixture = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7]).double()), dist.Normal(torch.tensor([-2.0, 1.0]).double(), 0.5)
    )

    def mixed(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", mixture)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def narrow(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.4))

    x = draw(200)
    grid = torch.linspace(-6, 6, 4001).double()
    q = dist.Normal(x / 2, 0.4)
    log_q = q.log_prob(grid[:, None])
    exact = torch.trapezoid(log_q.exp() * (log_q - mixture.log_prob(grid)[:, None]), grid, dim=0).mean().item()
    found = report(mixed, narrow, x, posterior_samples=300)
    assert found.rate == pytest.approx(exact, abs=4 * 1.5 / (200 * 300) ** 0.5)
    assert found.card["estimators"]["rate"] == "Monte Carlo"
    assert found.rate_per_dimension is None and "rate_per_dimension" in found.card["unavailable"]
    assert found.elbo == pytest.approx(-found.distortion - exact, abs=0.05)


def test_full_covariance_posterior():
    factor = torch.tensor([[0.5, 0.0], [0.3, 0.4]]).double()

    def correlated(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(0.8 * x, scale_tril=factor))

    x = draw(400, 2)
    covariance = factor @ factor.T
    kl = 0.5 * (covariance.trace() + (0.8 * x).square().sum(1).mean() - 2 - covariance.logdet())
    found = report(model, correlated, x, posterior_samples=200, importance_samples=1, rows=400)
    assert found.rate == pytest.approx(kl.item(), abs=0.02)
    aggregate = 0.64 * torch.eye(2).double() + covariance  # x is N(0, 1)
    information = 0.5 * (aggregate.logdet() - covariance.logdet()).item()
    assert found.mi_lower.low <= information <= found.mi_upper.high
    assert found.active_units == 2
    assert found.mi_he_2019_batch_32["value"] <= math.log(32)


def test_full_covariance_prior_and_posterior():
    factor = torch.tensor([[0.5, 0.0], [0.3, 0.4]]).double()

    def correlated(loc):
        return dist.MultivariateNormal(loc, scale_tril=factor)

    def prior_model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", correlated(torch.zeros_like(x)))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def posterior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", correlated(0.1 * x))

    x = draw(100, 2)
    found = report(prior_model, posterior, x)
    exact = 0.5 * torch.linalg.solve_triangular(factor, 0.1 * x.T, upper=False).square().sum(0).mean()
    assert found.rate == pytest.approx(exact.item(), abs=1e-9)
    assert found.card["estimators"]["rate"] == "closed form" and found.rate_per_dimension is None


def test_both_thresholds_of_active_units():
    scale = torch.tensor([0.005, 0.015, 0.03, 0.5]).double().sqrt()

    def scaled(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x * scale, 0.5).to_event(1))

    x = draw(500, 4)
    found = report(model, scaled, (x - x.mean(0)) / x.std(0), importance_samples=1)
    assert found.active_unit_variances == pytest.approx([0.005, 0.015, 0.03, 0.5])
    assert (found.active_units, found.active_units_0_02) == (3, 2)


def flow_guide(steps, context=None):
    def flow(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(x / 2, 0.5**0.5)
            conditioned = [step.condition(x) if context else step for step in steps]
            pyro.sample("z", dist.TransformedDistribution(base, conditioned))

    return flow


def test_flow_without_context_has_the_information_of_its_base():
    torch.manual_seed(0)
    steps = [transforms.affine_autoregressive(3).double(), transforms.affine_autoregressive(3).double()]
    x = draw(300, 3) * 2**0.5
    found = report(model, flow_guide(steps), x, posterior_samples=4, importance_samples=200)
    assert found.card["estimators"]["rate"] == "Monte Carlo"
    assert found.mi_lower.low <= 1.5 * math.log(2) <= found.mi_upper.high
    evidence = dist.Normal(torch.zeros(3).double(), 2**0.5).to_event(1).log_prob(x).mean().item()
    assert found.elbo < evidence - 0.3  # the random flow is no posterior; 200 samples make up for most of it
    assert evidence - 0.15 < found.log_likelihood < evidence + 0.02


def test_flow_on_x_has_no_bounds_by_pairs():
    torch.manual_seed(0)
    steps = [transforms.conditional_affine_autoregressive(3, 3).double()]
    found = report(model, flow_guide(steps, context=True), X, importance_samples=200)
    for name in ("mi_lower", "mi_upper", "aggregate_kl", "mi_dieng_2019", "mi_he_2019_batch_32"):
        assert getattr(found, name) is None and "runs a network" in found.card["unavailable"][name]
    assert found.mi_marginal is not None and found.saturated is None
    assert found.log_likelihood == pytest.approx(EVIDENCE, abs=0.1)
    assert str(found).count("runs a network") == 1
    assert mutual_information(model, flow_guide(steps, context=True), X).lower is None


def test_flow_that_cannot_be_inverted():
    """A planar flow knows the density of its last draw only."""
    torch.manual_seed(0)
    steps = [transforms.conditional_planar(3, 3).double()]
    found = report(model, flow_guide(steps, context=True), X, importance_samples=200)
    assert found.log_likelihood == pytest.approx(EVIDENCE, abs=0.1)
    assert found.mi_lower is None


def test_variance_of_the_posterior_mean_without_a_mean_is_unbiased():
    """Half-sample means of a flow that is the identity: the noise of the draws must not count as activity."""
    step = transforms.affine_autoregressive(3).double()
    for parameter in step.parameters():
        nn.init.zeros_(parameter)

    def still(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.cat([x[:, :1], 0 * x[:, 1:]], 1), 1.0)
            pyro.sample("z", dist.TransformedDistribution(base, [step]))

    x = draw(4000, 3)
    found = report(model, still, x, posterior_samples=2, importance_samples=1, budget=0.01)
    variances = torch.tensor(found.active_unit_variances)
    # The covariance of two independent means of N(0, 1) over 4,000 points has the error 0.016.
    assert variances[1:].abs().max() < 4 * 0.016
    assert variances[0] == pytest.approx(x[:, 0].var().item(), abs=4 * 0.04)


def test_decoder_that_ignores_z():
    def deaf(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", PRIOR(x))
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0).to_event(1), obs=x)

    found = report(deaf, guide, X)
    assert found.shuffled_latent_loss == 0
    assert found.verdict.endswith("z varies with x but the decoder ignores it: collapsed on the decoder's side.")
    assert found.model_mutual_information.lower.value == pytest.approx(0, abs=1e-9)
    assert found.model_mutual_information.upper.value == pytest.approx(0, abs=1e-9)


def test_shuffled_loss_of_the_linear_model():
    """log p(x|z) - log p(x|z') = (x.z - x.z') + (z'^2 - z^2)/2 has the mean E[x z] - E[x] E[z] = Var(x)/2 per unit."""
    x = draw(4000, 1) * 2**0.5
    found = report(model, guide, x, posterior_samples=1, importance_samples=1)
    assert found.shuffled_latent_loss == pytest.approx(1.0, abs=4 * found.standard_errors["shuffled_latent_loss"])
    assert found.standard_errors["shuffled_latent_loss"] < 0.05


def test_sorted_data_are_shuffled_across_the_whole_set():
    """A shift by one row would swap points of the same class and find nothing."""
    x = draw(1500, 1).sign().sort(0).values * 3 + 0.01 * draw(1500, 1, seed=1)
    assert report(model, guide, x, posterior_samples=1, importance_samples=1).shuffled_latent_loss > 3


def test_latent_of_size_zero():
    def empty(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), 0), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 2**0.5).to_event(1), obs=x)

    def empty_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), 0), 1.0).to_event(1))

    found = report(empty, empty_guide, X)
    assert found.rate == 0 and found.active_units == 0 and found.active_unit_variances == []
    assert found.elbo == pytest.approx(EVIDENCE) and found.log_likelihood == pytest.approx(EVIDENCE)
    assert found.mi_lower is found.mi_upper is found.mi_marginal is found.aggregate_kl is None
    assert found.card["unavailable"]["mi_lower"] == "z has no dimensions"
    assert found.card["importance_samples"] == 1
    assert "no latent variables" in found.verdict
    assert type(found).from_json(found.to_json()) == found


def test_teacher_forcing_has_no_ancestral_samples():
    def forced(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", PRIOR(x))
            before = nn.functional.pad(x, (1, 0))[:, :-1]
            pyro.sample("x", dist.Normal(z + before, 1.0).to_event(1), obs=x)

    found = report(forced, guide, X)
    assert found.model_mutual_information is None
    assert "teacher forcing" in found.card["unavailable"]["model_mutual_information"]


def test_likelihood_written_as_a_factor():
    def factored(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", PRIOR(x))
            pyro.factor("likelihood", dist.Normal(z, 1.0).to_event(1).log_prob(x))

    found = report(factored, guide, X)
    assert_right(found)
    assert "also reads the x" in found.card["unavailable"]["model_mutual_information"]


def test_likelihood_that_cannot_be_drawn_from():
    class DensityOnly(dist.Normal):
        def sample(self, sample_shape=()):
            raise NotImplementedError("no sampler")

        rsample = sample

    def silent(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", PRIOR(x))
            pyro.sample("x", DensityOnly(z, 1.0).to_event(1), obs=x)

    found = report(silent, guide, X)
    assert_right(found)
    assert "no sampler" in found.card["unavailable"]["model_mutual_information"]


class Chain(dist.TorchDistribution):
    """x_1 ~ N(z, 1), x_2 ~ N(z + a x_1, 1): a density that runs a network, and that only takes its own batch."""

    arg_constraints = {}
    support = dist.constraints.real_vector

    def __init__(self, network, z):
        self.network, self.z = network, z
        super().__init__(z.shape, torch.Size([2]), validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Chain(self.network, self.z.expand(batch_shape))

    def sample(self, sample_shape=torch.Size()):
        first = self.z + torch.randn_like(self.z)
        return torch.stack([first, self.z + self.network(first) + torch.randn_like(self.z)], -1)

    def log_prob(self, x):
        assert x.shape == (*self.z.shape, 2)
        loc = torch.stack([self.z, self.z + self.network(x[..., 0])], -1)
        return dist.Normal(loc, 1.0).to_event(1).log_prob(x)


def test_autoregressive_likelihood_runs_once_per_pair():
    class Halve(nn.Module):
        def forward(self, x):
            return -x / 2

    def chained(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", Chain(Halve(), z), obs=x)

    bounds = model_mutual_information(chained, torch.zeros(300, 2).double(), samples=300, rows=4000)
    # The innovations e_1 = x_1, e_2 = x_2 + x_1 / 2 are z plus noise: I = 1/2 ln(1 + 2).
    assert bounds.lower.low <= 0.5 * math.log(3) <= bounds.upper.high
    assert bounds.upper.high - bounds.lower.low < 0.4


def test_a_vae_in_the_manner_of_pyros_tutorial():
    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(16, 12), nn.Softplus(), nn.Linear(12, 4))
            self.decoder = nn.Sequential(nn.Linear(2, 12), nn.Softplus(), nn.Linear(12, 16), nn.Sigmoid())

        def model(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                loc, scale = x.new_zeros(x.shape[0], 2), x.new_ones(x.shape[0], 2)
                z = pyro.sample("latent", dist.Normal(loc, scale).to_event(1))
                image = self.decoder(z)
                pyro.sample("obs", dist.Bernoulli(image, validate_args=False).to_event(1), obs=x.reshape(-1, 16))
                return image

        def guide(self, x):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", x.shape[0]):
                loc, log_scale = self.encoder(x.reshape(-1, 16)).chunk(2, -1)
                pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))

    torch.manual_seed(0)
    vae = VAE()
    x = (torch.rand(80, 4, 4) < 0.3).float()
    found = report(vae.model, vae.guide, x, importance_samples=50)
    with torch.no_grad():
        elbo = -pyro.infer.Trace_ELBO(num_particles=200, vectorize_particles=False).loss(vae.model, vae.guide, x) / 80
    assert found.elbo == pytest.approx(elbo, abs=0.2)
    assert found.log_likelihood > found.elbo
    assert found.model_mutual_information.points == 80
    pyro.clear_param_store()


def test_a_lazily_binarised_view_is_read_whole():
    from pyro_skipvae import VAE, collapse_report, load_data
    from pyro_skipvae.decoders import MLPDecoder
    from pyro_skipvae.encoders import MLPEncoder
    from pyro_skipvae.priors import StandardNormal

    data = load_data("digits").limit(train=60, eval=40)
    vae = VAE(StandardNormal(3), MLPDecoder(3, (8, 8), layers=1, width=8), MLPEncoder((8, 8), 3, hidden=(8,)))
    report = collapse_report(vae.model, vae.guide, data.test, fit_on=data.train, importance_samples=2)
    assert "60 points of fit_on" in report.card["mi_marginal_reference"]
    assert collapse_report(vae.model, vae.guide, data.train, importance_samples=2).card["points"] == 60


FUNCTIONS = {
    "collapse_report": lambda x, **more: report(model, guide, x, **more).elbo,
    "rate": lambda x, **more: rate(model, guide, x, **more),
    "active_units": lambda x, **more: active_units(model, guide, x, **more),
    "mutual_information": lambda x, **more: mutual_information(model, guide, x, **more),
    "log_likelihood": lambda x, **more: log_likelihood(model, guide, x, **more),
    "inference_gap": lambda x, **more: inference_gap(model, guide, guide, x, **more),
    "model_mutual_information": lambda x, **more: model_mutual_information(model, x, **more),
}
DRAWS = {"log_likelihood": "importance_samples", "model_mutual_information": "samples"}


class Lazy:
    """A view that draws noise onto its rows whenever it is read."""

    shape = X.shape

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index] + torch.rand(X[index].shape, dtype=X.dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_view_that_draws_is_drawn_from_the_seed(name):
    before = torch.get_rng_state()
    found = [FUNCTIONS[name](Lazy(), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert found[0] == found[1] and (found[0] != found[2] or name == "active_units")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_row_and_no_sample_are_refused(name):
    with pytest.raises(ValueError, match="expected at least 2 rows of x, got 1"):
        FUNCTIONS[name](X[:1])
    with pytest.raises(ValueError, match="whole numbers of samples, at least 1, got"):
        FUNCTIONS[name](X, **{DRAWS.get(name, "posterior_samples"): 0})


WRONG = [(torch.zeros(0, 3), r"a tensor of shape \(0, 3\)"), ([1, 2], "a list"), ((), "an empty tuple")]


@pytest.mark.parametrize(("x", "got"), WRONG)
def test_what_x_is_not_is_named(x, got):
    with pytest.raises(ValueError, match=f"expected x to be a tensor with rows.*got {got}"):
        rate(lambda x: None, lambda x: None, x)


def on_simplex(q):
    """A pair whose z lies on the simplex of three corners, with the posterior q(x)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(torch.ones(3).double()))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q(x))

    return model, guide


def test_a_density_in_all_of_space_bounds_nothing_on_a_simplex():
    found = mutual_information(*on_simplex(lambda x: dist.Dirichlet(1 + 5 * x.softmax(-1))), X)
    assert found.marginal is None and "simplex or a sphere" in found.unavailable["marginal"] and found.lower.value > 0

    def mixture(x):
        alpha = 1 + 5 * torch.stack([x, 2 * x], 1).softmax(-1)
        return dist.MixtureSameFamily(dist.Categorical(logits=alpha[..., 0]), dist.Dirichlet(alpha))

    found = mutual_information(*on_simplex(mixture), X)
    assert found.marginal is None and "simplex or a sphere" in found.unavailable["marginal"]


@pytest.mark.parametrize("components", [None, 100])
def test_an_upper_bound_below_the_lower_one_is_none(components):
    """z on a circle, by a density that says it lies in the plane: log q is of angles, log r of points."""

    class Circle(dist.TorchDistribution):
        arg_constraints, support = {}, dist.constraints.real_vector

        def __init__(self, loc, concentration):
            self.angle = dist.VonMises(loc, concentration, validate_args=False)
            super().__init__(loc.shape, torch.Size([2]), validate_args=False)

        def sample(self, shape=()):
            angle = self.angle.sample(shape)
            return torch.stack([angle.cos(), angle.sin()], -1)

        def log_prob(self, z):
            return self.angle.log_prob(torch.atan2(z[..., 1], z[..., 0]))

        def expand(self, shape, _instance=None):
            return Circle(self.angle.loc.expand(shape), self.angle.concentration.expand(shape))

    def pair_on(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", Circle(x[:, 0], x.new_full((len(x),), 30.0)))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Circle(x.new_zeros(len(x)), x.new_full((len(x),), 1e-3)))
            pyro.sample("x", dist.Normal(z[..., :1].expand(len(x), x.shape[1]), 1.0).to_event(1), obs=x)

    found = mutual_information(model, pair_on, 2 * torch.randn(300, 2).double(), components=components)
    assert found.lower.value > 0.5 and found.marginal is None and "below the lower one" in found.unavailable["marginal"]


def test_draws_that_have_no_density_are_refused():
    relaxed = dist.RelaxedOneHotCategoricalStraightThrough
    pair = on_simplex(lambda x: relaxed(torch.tensor(0.5).double(), logits=x))
    with pytest.raises(ValueError, match="got RelaxedOneHotCategoricalStraightThrough, whose draws are discrete"):
        rate(*pair, X)
    keep = torch.arange(3) < 2

    def masked(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).mask(keep).to_event(1))

    with pytest.raises(ValueError, match="without a mask, got one that leaves out entries"):
        rate(model, masked, X)


@pytest.mark.parametrize("sure", [0.9, 0.999])
def test_a_prior_over_classes_is_noticed_however_sure_the_guide_is_of_them(sure):
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5).double()))
            z = pyro.sample("z", dist.Normal((6 * c - 3)[:, None], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(torch.where(x[:, 0] > 0, sure, 1 - sure).double()))
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))

    x = draw(60, 1) + 3 * draw(60, 1, seed=1).sign()
    for diagnostic in (rate, collapse_report):
        with pytest.raises(ValueError, match=r"expected p\(z\) that does not depend on \['c'\]"):
            diagnostic(model, guide, x, site="z")


def test_a_prior_that_differs_between_rows_has_no_aggregate():
    def conditional(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.sign(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    found = report(conditional, guide, X)
    assert found.aggregate_kl is None and "differs between the rows" in found.card["unavailable"]["aggregate_kl"]
    assert any(note.startswith("p(z) differs between the rows") for note in found.card["notes"])
    assert found.mi_lower is not None and "differs between the rows" in str(found)
    assert found.verdict.amounts["information"]["low"] is None and found.verdict.startswith("Beyond what p(z) depends on")
    assert not report(model, guide, X).card["notes"]


def test_units_of_a_mean_by_sampling_do_not_count_its_noise():
    class NoMean(dist.Normal):
        mean = property(lambda self: self._no())

        def _no(self):
            raise NotImplementedError

    def wide(x):
        mask = torch.tensor([1.0] + [0.0] * 49).double()
        with pyro.plate("data", len(x)):
            pyro.sample("z", NoMean(0.5 * x * mask, torch.ones_like(x)).to_event(1))

    assert active_units(model, wide, draw(200, 50)) == 1


def test_a_posterior_without_a_mean_has_no_active_units(tmp_path):
    def cauchy(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Cauchy(x / 2, 0.1).to_event(1))

    with pytest.raises(ValueError, match="no finite mean"):
        active_units(model, cauchy, X)
    found = report(model, cauchy, X)
    assert found.active_units is found.active_units_0_02 is None and "no finite mean" in str(found)
    assert "active units unknown" in found.verdict
    assert type(found).from_json(found.to_json()).active_units is None


class Shift(torch.distributions.Transform):
    domain = codomain = torch.distributions.constraints.real_vector
    bijective = True

    def _call(self, z):
        return z + self.by

    def _inverse(self, z):
        return z - self.by

    def log_abs_det_jacobian(self, z, y):
        return torch.zeros(z.shape[:-1])


def test_a_transform_that_keeps_its_rows_is_refused_where_it_would_be_wrong():
    shift = Shift()

    def keeping(x):
        shift.by = x / 2
        with pyro.plate("data", len(x)):
            base = dist.MultivariateNormal(torch.zeros(len(x), 2).double(), 0.5 * torch.eye(2).double())
            pyro.sample("z", dist.TransformedDistribution(base, [shift]))

    x = draw(600, 2)
    with pytest.raises(ValueError, match="stays as it is when the guide runs on other rows.*new one in each call"):
        log_likelihood(model, keeping, x, importance_samples=2)
    expected = log_likelihood(model, guide, x[:200], importance_samples=50)
    assert log_likelihood(model, keeping, x[:200], importance_samples=50).value == pytest.approx(expected.value, abs=0.05)


def test_values_outside_the_support_are_noticed_in_any_row_and_not_where_they_are_masked_out():
    def grey(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z, validate_args=False).to_event(1), obs=x)

    x = (draw(100, 3) > 0).double()
    assert not report(grey, guide, x).card["notes"]
    x[90, 1] = 0.5
    found = report(grey, guide, x, levels=2, rows=16)
    assert any("outside the support" in note for note in found.card["notes"]) and found.bits_per_dimension is None
    assert found.verdict.amounts["share"] is None

    def padded(x, kept):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            with poutine.mask(mask=kept):
                pyro.sample("x", dist.Bernoulli(logits=z, validate_args=False).to_event(1), obs=x)

    found = report(padded, lambda x, kept: guide(x), (x, torch.arange(100) != 90))
    assert not any("outside the support" in note for note in found.card["notes"])


def test_another_default_device_changes_nothing():
    """What a report makes for itself lies on the CPU: on the meta device, which has no values, all of it would fail."""
    x = draw(60, 3)
    expected = report(model, guide, x).to_json(), log_likelihood(model, guide, x, importance_samples=5)
    zeros, ones = torch.zeros(3).double(), torch.ones(3).double()

    def placed(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zeros, ones).expand([len(x), 3]).to_event(1))
            pyro.sample("x", dist.Normal(z, ones).to_event(1), obs=x)

    def placed_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, ones * 0.5**0.5).to_event(1))

    with torch.device("meta"):
        found = report(placed, placed_guide, x).to_json(), log_likelihood(placed, placed_guide, x, importance_samples=5)
    assert found == expected


def test_a_mapping_is_taken_like_a_dict():
    """As tokenizers give one, which is no dict."""
    assert_right(report(model, guide, UserDict(x=X)))


def test_a_dict_of_other_names_than_the_functions_take_is_told():
    with pytest.raises(ValueError, match="A dict is passed as keywords where a function takes x, labels, all of them"):
        report(model, guide, {"x": X, "labels": X[:, 0]})
