"""An estimate that fails takes nothing else with it: the rest is reported, and it is None with its reason."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.contrib.zuko import ZukoToPyro
from torch.distributions import ComposeTransform

from pyro_skipvae.diagnostics import (
    CollapseReport,
    active_units,
    collapse_report,
    log_likelihood,
    model_mutual_information,
    mutual_information,
    rate,
)
from pyro_skipvae.diagnostics.estimates.pairwise import carries_network, pairwise_log_prob
from pyro_skipvae.diagnostics.estimates.rate import closed_form, per_dimension
from pyro_skipvae.diagnostics.pairs.sites import log_density
from pyro_skipvae.diagnostics.pairs.unavailable import told

NAMES = ("elbo", "distortion", "rate", "log_likelihood", "log_likelihood_tenth", "effective_sample_size", "mi_lower",
         "mi_upper", "mi_marginal", "aggregate_kl", "mi_dieng_2019", "mi_he_2019_batch_32", "rate_per_dimension",
         "model_mutual_information", "active_units", "active_units_0_02", "shuffled_latent_loss")  # fmt: skip
BY_DRAWS = {"mi_lower", "mi_upper", "mi_marginal", "aggregate_kl", "mi_dieng_2019", "mi_he_2019_batch_32", "log_likelihood",
            "log_likelihood_tenth", "effective_sample_size"}  # fmt: skip
BY_Q = BY_DRAWS | {"rate", "rate_per_dimension", "elbo"}
BY_Z = {"distortion", "shuffled_latent_loss"}
WEIGHTS = {"log_likelihood", "log_likelihood_tenth", "effective_sample_size"}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = draw(60, 3)


def normal(loc, scale=1.0, **options):
    return dist.Normal(loc, scale, **options).to_event(1)


def model_of(likelihood=normal, prior=lambda x: normal(torch.zeros_like(x))):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", likelihood(pyro.sample("z", prior(x))), obs=x)

    return model


def guide_of(posterior=lambda x: normal(x / 2, 0.6)):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))

    return guide


def report(model, guide, x=X, **options):
    found = collapse_report(model, guide, x, **{"importance_samples": 20, "posterior_samples": 5} | options)
    missing = {name for name in NAMES if getattr(found, name) is None}
    assert missing == set(found.card["unavailable"]) & set(NAMES)
    assert all(
        reason in " ".join(str(found).split()) for reason in {" ".join(v.split()) for v in found.card["unavailable"].values()}
    )
    again = CollapseReport.from_json(found.to_json())
    assert {name for name in NAMES if getattr(again, name) is None} == missing and again.to_json() == found.to_json()
    return found, missing


def spoiled(row, value, parameter="scale", **options):
    """q(z|x) with one odd parameter at one row."""

    def posterior(x):
        odd = (x - X[row].to(x)).abs().sum(1, keepdim=True) < 1e-6
        loc, scale = x / 2, torch.full_like(x, 0.6)
        if parameter == "scale":
            return normal(loc, torch.where(odd, value, scale), **options)
        return normal(torch.where(odd, value, loc), scale, **options)

    return guide_of(posterior)


@pytest.mark.parametrize("row", [0, 2, 17, 59])
@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("options", [{}, {"validate_args": False}])
def test_a_row_of_the_posterior_that_is_not_finite_is_named(row, value, options):
    found, missing = report(model_of(), spoiled(row, value, **options))
    assert missing == BY_Q | BY_Z
    for name in missing:
        assert found.card["unavailable"][name].startswith(f"draws from q(z|x) are not finite at row {row} of x")
    assert found.active_units == 3 and found.model_mutual_information.lower is not None
    assert "it cannot be told" in found.verdict or "undecided" in found.verdict
    for estimate in (rate, log_likelihood):
        with pytest.raises(ValueError, match=f"at row {row} of x"):
            estimate(model_of(), spoiled(row, value, **options), X)
    assert f"at row {row} of x" in mutual_information(model_of(), spoiled(row, value, **options), X).unavailable["lower"]


def test_a_mean_that_is_no_number_is_named():
    found, missing = report(model_of(), spoiled(17, math.nan, "loc"))
    assert missing == BY_Q | BY_Z | {"active_units", "active_units_0_02"}
    assert found.card["unavailable"]["active_units"] == "q(z|x) has no finite mean at row 17 of x"
    with pytest.raises(ValueError, match="no finite mean at row 17 of x"):
        active_units(model_of(), spoiled(17, math.nan, "loc"), X)


def test_rows_of_x_that_are_not_finite_are_named():
    x = X.clone()
    x[[5, 40]] = math.nan
    found, missing = report(model_of(), guide_of(), x)
    assert "at rows 5, 40 of x (2 rows)" in found.card["unavailable"]["elbo"] and found.model_mutual_information


def test_a_posterior_that_is_no_density_anywhere_is_refused():
    with pytest.raises(ValueError, match="finite density, got none at all 60 rows of x"):
        report(model_of(), guide_of(lambda x: normal(x * math.nan)))


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_a_scale_that_is_none_has_no_rate(value):
    found, missing = report(model_of(), spoiled(17, value))
    assert missing == BY_Q and "log q(z|x) of its own draws is not finite at row 17 of x" in found.card["unavailable"]["rate"]


def test_a_posterior_too_narrow_for_its_precision():
    found, missing = report(model_of(), guide_of(lambda x: normal(x / 2, 1e-30)))
    assert missing == BY_Q and "too narrow for float32" in found.card["unavailable"]["mi_lower"]
    found, missing = report(model_of(), guide_of(lambda x: normal(x / 2, 1e-30)), X.double())
    assert missing == BY_DRAWS and "narrower than float64 can tell" in found.card["unavailable"]["mi_lower"]
    assert found.rate == pytest.approx(3 * 30 * math.log(10) - 1.5 + (X**2).sum(1).mean().item() / 8, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_every_estimate(dtype):
    found, missing = report(model_of(), guide_of(), X.to(dtype))
    assert not missing
    whole = report(model_of(), guide_of())[0]
    assert found.rate == pytest.approx(whole.rate, rel=0.02)
    assert found.log_likelihood == pytest.approx(whole.log_likelihood, abs=0.05)


def test_densities_of_many_values_are_summed_in_full_precision():
    """Of 784 bits in bfloat16 log p is a multiple of 2 or 4 nats, which importance sampling would take for a gain."""
    logits = draw(20, 784)
    p, x = dist.Bernoulli(logits=logits.bfloat16()).to_event(1), (draw(20, 784, seed=1) > 0).bfloat16()
    exact = dist.Bernoulli(logits=logits.bfloat16().double()).to_event(1).log_prob(x.double())
    assert (p.log_prob(x).double() - exact).abs().max() > 0.5
    assert (log_density(p, x) - exact).abs().max() < 0.2
    assert log_density(dist.Normal(logits, 1.0).to_event(1), logits).dtype == logits.dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rates_of_many_dimensions_are_summed_in_full_precision(dtype):
    """KL(N(m, s) || N(0, 1)) = sum (m^2 + s^2 - 1)/2 - ln s, of 16384 dimensions: about 130,000 nats, beyond float16."""
    loc, scale = 3 * draw(4, 16384).to(dtype), torch.full((4, 16384), 0.02).to(dtype)
    q, p = dist.Normal(loc, scale).to_event(1), dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)
    exact = (loc.double().square() + scale.double().square() - 1) / 2 - scale.double().log()
    torch.testing.assert_close(closed_form(q, p), exact.sum(1))
    torch.testing.assert_close(per_dimension(q, p), exact)


def test_densities_of_all_pairs_are_summed_in_full_precision():
    loc, z = draw(4, 2048).bfloat16(), draw(3, 2048, seed=1).bfloat16()
    exact = dist.Laplace(loc.double(), 0.5).to_event(1).log_prob(z.double()[:, None])
    found = pairwise_log_prob(dist.Laplace(loc, torch.full_like(loc, 0.5)).to_event(1))(z)
    assert (found - exact).abs().max() < 1 and found.abs().min() > 2048


COUNTS = torch.poisson(5 * draw(300, 5).exp(), generator=torch.Generator().manual_seed(0)) + 1
TOTALS = torch.arange(300) % 17 + 3.0
PARTS = (torch.rand(300, 4, generator=torch.Generator().manual_seed(0)) * TOTALS[:, None]).floor()


def multinomial(x):
    """As in Pyro's ProdLDA: the total is the largest of those that the model is given."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(torch.zeros_like(x)))
        pyro.sample("x", dist.Multinomial(int(x.sum(-1).max()), logits=z), obs=x)


def binomial(x, totals):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(torch.zeros_like(x)))
        pyro.sample("x", dist.Binomial(totals[:, None], logits=z).to_event(1), obs=x)


@pytest.mark.parametrize(
    "model, guide, x",
    [
        (multinomial, guide_of(lambda x: normal(x.log() - 2, 0.5)), COUNTS),
        (binomial, lambda x, n: guide_of(lambda x: normal(2 * x / n[:, None] - 1, 0.5))(x), (PARTS, TOTALS)),
    ],
)
def test_totals_that_differ_between_the_rows(model, guide, x):
    found, missing = report(model, guide, x)
    assert missing == {"model_mutual_information"}
    assert "also reads the x that it is given" in found.card["unavailable"]["model_mutual_information"]
    assert "tensor(" not in found.card["unavailable"]["model_mutual_information"]
    assert found.log_likelihood == pytest.approx(log_likelihood(model, guide, x, importance_samples=20).value, abs=0.3)


def test_a_prior_without_a_density_at_the_draws():
    found, missing = report(model_of(prior=lambda x: dist.Exponential(torch.ones_like(x)).to_event(1)), guide_of())
    assert missing == BY_Z | WEIGHTS | {"rate", "rate_per_dimension", "elbo", "aggregate_kl", "mi_dieng_2019"}
    assert found.mi_lower.value > 0.3 and "support of Exponential" in found.card["unavailable"]["distortion"]
    assert "log p of site 'z'" in found.card["unavailable"]["distortion"]


def test_a_prior_whose_log_prob_fails_leaves_the_information():
    """No closed form either: log q - log p has no number, I(x; z) has."""
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Gamma(torch.ones(2, 3), 1.0).to_event(1))
    found, missing = report(model_of(prior=lambda x: mixture), guide_of())
    assert {"rate", "elbo", "mi_dieng_2019", "aggregate_kl"} <= missing and found.mi_lower and found.mi_marginal
    assert found.card["unavailable"]["rate"].startswith("p(z) has no density at a draw from q(z|x)")


def test_a_likelihood_that_forbids_x_at_another_z():
    """Every x is possible at its own z, and at no other far from it: the shuffled loss is infinite, all else is finite."""
    found, missing = report(
        model_of(lambda z: dist.Uniform(z - 2, z + 2, validate_args=False).to_event(1)),
        guide_of(lambda x: normal(x, 0.01)),
        9 * X,
    )
    assert missing == {"mi_upper", "aggregate_kl"} or not missing & BY_Z
    assert found.shuffled_latent_loss == math.inf and found.elbo > -500
    assert "decoder loses inf" in found.verdict or found.verdict


def test_a_likelihood_that_forbids_x():
    found, missing = report(model_of(lambda z: dist.Uniform(z, z + 0.1, validate_args=False).to_event(1)), guide_of())
    assert missing >= {"elbo", "distortion", "shuffled_latent_loss", "log_likelihood"} and found.rate and found.mi_lower
    assert "the ELBO is -inf at all 60 rows of x" in found.card["unavailable"]["elbo"]


def test_posteriors_that_do_not_overlap_have_no_upper_bound():
    found, missing = report(
        model_of(), guide_of(lambda x: dist.Uniform(x - 1e-3, x + 1e-3, validate_args=False).to_event(1)), X
    )
    assert {"mi_upper", "aggregate_kl"} <= missing and found.mi_lower.value == pytest.approx(math.log(60))
    assert "no other row reaches the z of" in found.card["unavailable"]["mi_upper"]


def test_a_decoder_that_fails_leaves_what_the_guide_says():
    def broken(x):
        model_of()(x)
        if len(x) > 3:
            raise RuntimeError("the decoder is broken")

    found, missing = report(broken, guide_of(), budget=1.0)
    assert missing == BY_Z | WEIGHTS | {"elbo", "model_mutual_information"}
    assert found.card["unavailable"]["elbo"] == "the decoder is broken" and found.rate and found.mi_upper


@pytest.mark.parametrize("rows", [2, 3, 5, 19])
def test_few_rows(rows):
    found, missing = report(model_of(), guide_of(), X[:rows])
    assert missing == {"mi_marginal"} and "cannot be fitted to" in found.card["unavailable"]["mi_marginal"]


def test_perplexities_that_lack_a_bound():
    tokens = torch.full((60,), 3)
    found, _ = report(model_of(), guide_of(lambda x: normal(x / 2, 1e-30)), X.double(), tokens=tokens)
    assert found.perplexity["ppl_iw"] is None and found.perplexity["ppl_elbo"]["value"] > 1


class DrawnByCall(dist.TorchDistribution):
    """As Pyro's wrapper of zuko draws: by a call alone, with the density of its draws remembered."""

    arg_constraints = {}

    def __init__(self, base):
        self.dist, self.cache = base, {}
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def __call__(self, shape=()):
        z = self.dist.rsample(shape)
        self.cache[z] = self.dist.log_prob(z)
        return z

    def expand(self, *args, **kwargs):
        return DrawnByCall(self.dist.expand(*args, **kwargs))

    def log_prob(self, z):
        return self.cache[z] if z in self.cache else self.dist.log_prob(z)


@pytest.mark.parametrize("wrapper", [DrawnByCall, ZukoToPyro])
def test_a_flow_that_is_drawn_by_calling_it(wrapper):
    torch.manual_seed(0)
    step = dist.transforms.conditional_affine_autoregressive(3, 3)
    flow = guide_of(
        lambda x: wrapper(dist.TransformedDistribution(normal(x / 2, 0.6), [ComposeTransform([step.condition(x)])]))
    )
    found, missing = report(model_of(), flow)
    assert missing == BY_DRAWS - WEIGHTS - {"mi_marginal"} | {"rate_per_dimension"}
    assert "runs a network" in found.card["unavailable"]["mi_lower"]
    evidence = normal(torch.zeros(3), 2**0.5).log_prob(X).mean().item()
    assert found.elbo < evidence + 0.3 and found.log_likelihood == pytest.approx(evidence, abs=0.3)
    plain, missing = report(model_of(), guide_of(lambda x: wrapper(normal(x / 2, 0.6))))
    assert missing == {"rate_per_dimension"} and plain.mi_lower.value == pytest.approx(0.6, abs=0.15)


def test_a_prior_that_is_drawn_by_calling_it():
    found, missing = report(model_of(prior=lambda x: DrawnByCall(normal(torch.zeros_like(x)))), guide_of())
    assert missing == {"rate_per_dimension"} and found.model_mutual_information.lower.value > 0.5


def test_zuko_itself():
    zuko = pytest.importorskip("zuko")
    torch.manual_seed(0)
    flow = zuko.flows.MAF(3, 3, transforms=2, hidden_features=(8,))
    found, missing = report(model_of(), guide_of(lambda x: ZukoToPyro(flow(x))))
    assert "runs a network" in found.card["unavailable"]["mi_lower"] and found.rate > 0 and found.active_units is not None


def test_networks_hidden_in_composed_maps_are_recognised():
    step = dist.transforms.affine_autoregressive(3)
    fixed = [dist.transforms.SigmoidTransform(), dist.transforms.AffineTransform(0.0, 2.0)]
    for hidden in (ComposeTransform([*fixed, step]), step.inv, ComposeTransform([ComposeTransform([step])])):
        assert carries_network(dist.TransformedDistribution(normal(X), [hidden]))
    assert not carries_network(dist.TransformedDistribution(normal(X), [ComposeTransform(fixed), fixed[0].inv]))


def test_a_context_that_neighbours_share_is_noticed():
    """Sorted rows: the context differs between the first half and the second alone."""
    context = (torch.arange(600) >= 300).float()[:, None]

    def conditional(x, context):
        with pyro.plate("data", len(x)):
            pyro.sample("x", normal(pyro.sample("z", normal(torch.zeros_like(x))) + context), obs=x)

    with pytest.raises(ValueError, match="also reads the x that it is given"):
        model_mutual_information(conditional, (draw(600, 3), context), samples=600)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_decoder_that_breaks_at_some_draws_is_not_said_to_read_x(bad):
    def decoder(z):
        return normal(torch.where(z[:, :1] > 0.5, bad, z), validate_args=False)

    with pytest.raises(ValueError, match=r"log p\(x\|z\) is nan at \d+ of 60 draws of z and x from the model"):
        model_mutual_information(model_of(decoder), X)


def test_what_is_wrong_with_fit_on_is_said_of_it():
    with pytest.raises(ValueError, match="fit_on: expected a model and a guide that run"):
        collapse_report(lambda x: model_of()(x), lambda x: guide_of()(x @ torch.eye(3)), X, fit_on=draw(60, 4))
    found, missing = report(model_of(), spoiled(17, math.inf), X[:17], fit_on=X)
    assert missing == {"mi_marginal"} and "rows of fit_on" in found.card["unavailable"]["mi_marginal"]


def test_reasons_are_one_line_without_tensors():
    with pytest.raises(ValueError) as parameter:
        dist.Normal(X, -X.abs(), validate_args=True)
    with pytest.raises(ValueError) as value:
        dist.Gamma(X.abs(), 1.0, validate_args=True).log_prob(-X.abs())
    assert told(parameter.value) == "the scale of Normal is not valid"
    assert told(value.value) == "a value lies outside the support of Gamma"
    assert told(RuntimeError("first\nsecond")) == "first" and told(KeyError("z")) == "KeyError: 'z'"
