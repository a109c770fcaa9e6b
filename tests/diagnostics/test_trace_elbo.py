"""For every pair that is accepted the ELBO is that of Pyro's `Trace_ELBO` per datapoint; every other has its stated reason."""

import re
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch.distributions import transforms

from pyro_skipvae.diagnostics import collapse_report, rate
from pyro_skipvae.diagnostics.estimates.elbo import elbo_terms
from pyro_skipvae.diagnostics.pairs.pair import Pair

N, DATA = 200, 5000


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = draw(N, 3) * 2**0.5
ROWS = torch.arange(N)
SEEN = draw(N, seed=4) > 0
ELEMENTS = draw(N, 3, seed=5) > 0
LATE = (ROWS < 3) | (ROWS > 100)  # the rows that a look at the first ones does not see are masked
WEIGHTS = torch.where(ROWS < 3, 1.0, 2.0).double()


def normal(loc, scale=1.0):
    return dist.Normal(loc, scale).to_event(1)


def model_of(prior=lambda x, *_: normal(0 * x), likelihood=normal, around=None, plate=lambda x: pyro.plate("data", len(x))):
    """p(z), p(x|z); `around` is a handler of the z site alone."""

    def model(x, *context):
        with plate(x):
            z = (around or bare)(lambda: pyro.sample("z", prior(x, *context)))()
            pyro.sample("x", likelihood(z), obs=x)

    return model


def guide_of(posterior=lambda x, *_: normal(x / 2, 0.6), around=None, plate=lambda x: pyro.plate("data", len(x))):
    def guide(x, *context):
        with plate(x):
            (around or bare)(lambda: pyro.sample("z", posterior(x, *context)))()

    return guide


def bare(function):
    return function


def masked(mask):
    return lambda function: poutine.mask(function, mask=mask)


def scaled(scale):
    return lambda function: poutine.scale(function, scale=scale)


@dataclass
class Case:
    """A pair on x; `divisor` takes Pyro's loss to one datapoint, `unscaled` is the pair whose ELBO it has, if another."""

    model: object
    guide: object
    x: tuple = (X,)
    site: str | None = None
    divisor: float = N
    note: str | None = None
    unscaled: tuple | None = None


def likelihoods(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(0 * x))
        pyro.sample("first", normal(z[:, :2]), obs=x[:, :2])
        with poutine.mask(mask=SEEN[: len(x)]):
            pyro.sample("second", dist.Normal(z[:, 2], 1.0), obs=x[:, 2])
        pyro.deterministic("copy", z, event_dim=1)


def with_mask(x, seen):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(0 * x))
        pyro.sample("x", normal(z).mask(seen), obs=x)


def with_elements(x, seen):
    with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 3, dim=-1):
        z = pyro.sample("z", dist.Normal(0 * x, 1.0))
        with poutine.mask(mask=seen):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def elements_guide(x, seen):
    with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 3, dim=-1):
        pyro.sample("z", dist.Normal(x / 2, 0.6))


def some_pixels(x):
    """Two of three pixels stand for all of them: each counts 3/2 times."""
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", normal(0 * x[:, None]))
        with pyro.plate("pixels", 3, subsample=torch.tensor([0, 2]), dim=-1) as index:
            pyro.sample("x", dist.Normal(z[:, 0, index], 1.0), obs=x[:, index])


def some_pixels_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", normal(x[:, None] / 2, 0.6))


def far_left(x):
    with pyro.plate("data", len(x), dim=-3):
        z = pyro.sample("z", normal(0 * x[:, None, None]))
        pyro.sample("x", normal(z), obs=x[:, None, None])


def far_left_guide(x):
    with pyro.plate("data", len(x), dim=-3):
        pyro.sample("z", normal(x[:, None, None] / 2, 0.6))


def subsampled(x):
    return pyro.plate("data", DATA, subsample=torch.arange(len(x)))


def around_all(function, handler):
    return lambda *x: handler(lambda: function(*x))()


def factor_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(0 * x))
        pyro.factor("likelihood", normal(z).log_prob(x))
        pyro.factor("penalty", -z.abs().sum(-1))


def factor_guide(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(x / 2, 0.6))
        pyro.factor("correction", 0.3 * z[:, 0] - 0.5, has_rsample=True)


def observing_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(x / 2, 0.6))
        pyro.sample("class", dist.Normal(x[:, 0], 1.0), obs=0 * x[:, 0])


def global_factor_guide(x):
    guide_of()(x)
    pyro.factor("prior of weights", torch.tensor(-3.0), has_rsample=True)


def nuisance(kind, posterior):
    def model(x):
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", kind(x))
            z = pyro.sample("z", normal(0 * x))
            pyro.sample("x", normal(z + w.reshape(len(x), -1)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("w", posterior(x))
            pyro.sample("z", normal(x / 2, 0.6))

    return model, guide


def late_nuisance_guide(x):
    """q(z|x) depends on w at the rows from 100 on."""
    with pyro.plate("data", len(x)):
        w = pyro.sample("w", normal(x / 3, 0.7))
        late = (torch.arange(len(x)) >= 100).double()[:, None]
        pyro.sample("z", normal(x / 2 + late * w, 0.6))


def late_prior(x):
    with pyro.plate("data", len(x)):
        w = pyro.sample("w", normal(0 * x))
        late = (torch.arange(len(x)) >= 100).double()[:, None]
        z = pyro.sample("z", normal(late * w))
        pyro.sample("x", normal(z + w), obs=x)


def global_weights(x):
    w = pyro.sample("w", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", normal(w * pyro.sample("z", normal(0 * x))), obs=x)


def global_weights_guide(x):
    pyro.sample("w", dist.Normal(torch.ones(3).double(), 0.1).to_event(1))
    guide_of()(x)


def auxiliary_guide(x):
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", normal(0 * x), infer={"is_auxiliary": True})
        pyro.sample("z", normal(x / 2 + 0.1 * u, 0.6))


def weighted_guide(x):
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", normal(x / 2, 0.6), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(u, log_density=torch.ones(len(x)).double(), event_dim=1))


def late_site(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(0 * x))
        pyro.sample("x", normal(z), obs=x)
        if len(x) > 3:
            pyro.factor("penalty", -z.abs().sum(-1))


def imputing(x, seen):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(0 * x))
        pyro.sample("x", normal(z), obs=x, obs_mask=seen)


def imputing_guide(x, seen):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(x / 2, 0.6))
        with poutine.mask(mask=~seen):
            pyro.sample("x_unobserved", normal(x / 3, 0.8))


def enumerating(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(2).double()), infer={"enumerate": "parallel"})
        z = pyro.sample("z", normal(0 * x))
        pyro.sample("x", normal(z + y[..., None]), obs=x)


MIXTURE = dist.MixtureSameFamily(
    dist.Categorical(torch.tensor([0.3, 0.7]).double()), normal(torch.tensor([[-2.0, 0, 1], [1.0, 0, 0]]).double(), 0.5)
)
GUIDE = guide_of()
CLASSES = (X[:, 0] > 0).double()

EQUAL = {
    "plain": Case(model_of(), GUIDE),
    "prior masked by its distribution": Case(
        model_of(lambda x, m: normal(0 * x).mask(m)), GUIDE, (X, SEEN), note="p\\(z\\) is masked"
    ),
    "prior masked by a handler": Case(lambda x, m: model_of(around=masked(m))(x), GUIDE, (X, SEEN), note="p\\(z\\) is masked"),
    "prior masked at late rows": Case(lambda x, m: model_of(around=masked(m))(x), GUIDE, (X, LATE), note="p\\(z\\) is masked"),
    "prior masked in some dimensions": Case(
        model_of(lambda x, m: dist.Normal(0 * x, 1.0).mask(m).to_event(1)), GUIDE, (X, ELEMENTS), note="is masked"
    ),
    "masks that keep everything": Case(
        model_of(lambda x, m: normal(0 * x).mask(m | True)),
        lambda x, m: guide_of(around=masked(m | True))(x),
        (X, SEEN),
    ),
    "likelihood masked by its distribution": Case(with_mask, GUIDE, (X, SEEN)),
    "likelihood masked per element": Case(with_elements, elements_guide, (X, ELEMENTS)),
    "several observations and a deterministic site": Case(likelihoods, GUIDE),
    "scale N/B": Case(model_of(plate=subsampled), guide_of(plate=subsampled), divisor=DATA),
    "one scale of everything": Case(around_all(model_of(), scaled(0.1)), around_all(GUIDE, scaled(0.1)), divisor=0.1 * N),
    "scale of z, as for a beta-VAE": Case(
        model_of(around=scaled(0.5)),
        guide_of(around=scaled(0.5)),
        note="poutine.scale is left out.*0.5 of 'z'",
        unscaled=(model_of(), GUIDE),
    ),
    "scale of z in the guide alone": Case(
        model_of(), guide_of(around=scaled(0.5)), note="left out .0.5 of 'z' in the guide", unscaled=(model_of(), GUIDE)
    ),
    "scale of z in the model alone": Case(
        model_of(around=scaled(0.5)), GUIDE, note="left out .0.5 of 'z' in the model", unscaled=(model_of(), GUIDE)
    ),
    "scale per row, all alike": Case(
        lambda x, w: model_of(around=scaled(w))(x),
        lambda x, w: guide_of(around=scaled(w))(x),
        (X, 0 * WEIGHTS + 2),
        note="left out",
        unscaled=(model_of(), GUIDE),
    ),
    "likelihood of some pixels": Case(some_pixels, some_pixels_guide),
    "data plate at dim -3": Case(far_left, far_left_guide),
    "factors in the model": Case(factor_model, GUIDE),
    "factor in the guide": Case(model_of(), factor_guide, note="guide's factors \\['correction'\\]"),
    "observed site in the guide": Case(
        model_of(), observing_guide, note="observed sites \\['class'\\] are left out", unscaled=(model_of(), GUIDE)
    ),
    "nuisance per row": Case(*nuisance(lambda x: normal(0 * x), lambda x: normal(x / 3, 0.7)), site="z"),
    "nuisance per row, masked on both sides": Case(
        *nuisance(lambda x: normal(0 * x).mask(SEEN[: len(x)]), lambda x: normal(x / 3, 0.7).mask(SEEN[: len(x)])), site="z"
    ),
    "discrete nuisance": Case(
        *nuisance(lambda x: dist.Bernoulli(0 * x[:, 0] + 0.5), lambda x: dist.Bernoulli(logits=x[:, 0])), site="z"
    ),
    "missing values that the guide draws": Case(imputing, imputing_guide, (X, SEEN), site="z"),
    "missing values that the guide leaves open": Case(
        imputing, GUIDE, (X, SEEN), note="x_unobserved.*integrated out", unscaled=(with_mask, GUIDE)
    ),
    "conditional prior": Case(model_of(lambda x, c: normal(0 * x + c[:, None])), GUIDE, (X, CLASSES), note="p\\(z\\) differs"),
    "mixture prior": Case(model_of(lambda x: MIXTURE), GUIDE),
    "prior of one row": Case(model_of(lambda x: normal(0 * x[:1])), GUIDE),
    "correlated posterior": Case(
        model_of(), guide_of(lambda x: dist.MultivariateNormal(x / 2, 0.3 * torch.eye(3).double() + 0.1))
    ),
    "mixture posterior": Case(
        model_of(),
        guide_of(
            lambda x: dist.MixtureSameFamily(
                dist.Categorical(torch.ones(len(x), 2).double()), normal(torch.stack([x / 2, x / 3], 1), 0.6)
            )
        ),
    ),
    "transformed posterior": Case(
        model_of(lambda x: dist.LogNormal(0 * x, 1.0).to_event(1)),
        guide_of(lambda x: dist.TransformedDistribution(normal(x / 2, 0.6), [transforms.ExpTransform()])),
    ),
    "likelihood of another family": Case(model_of(likelihood=lambda z: dist.StudentT(3.0, z, 1.0).to_event(1)), GUIDE),
    "plates inside the event of z": Case(
        lambda x: with_elements(x, torch.tensor(True)), lambda x: elements_guide(x, None), (X,)
    ),
}

REASONS = {
    "without a mask": (
        model_of(lambda x, m: dist.Normal(0 * x, 1.0).mask(m[:, None]).to_event(1)),
        guide_of(lambda x, m: dist.Normal(x / 2, 0.6).mask(m[:, None]).to_event(1)),
        (X, LATE),
        None,
        r"expected q\(z\|x\) without a mask, got one that leaves out entries",
    ),
    "z masked by handlers": (
        lambda x, m: model_of(around=masked(m))(x),
        lambda x, m: guide_of(around=masked(m))(x),
        (X, LATE),
        None,
        r"expected q\(z\|x\) without a mask",
    ),
    "z that does not count": (
        model_of(),
        guide_of(around=masked(False)),
        (X,),
        None,
        r"expected q\(z\|x\) without a mask",
    ),
    "weights of late rows, on z": (
        lambda x, w: model_of(around=scaled(w))(x),
        lambda x, w: guide_of(around=scaled(w))(x),
        (X, WEIGHTS),
        None,
        "expected one poutine.scale at all rows of site 'z', got 1 to 2",
    ),
    "weights of late rows, on x": (
        lambda x, w: around_all(model_of(), scaled(w))(x),
        lambda x, w: GUIDE(x),
        (X, WEIGHTS),
        None,
        "expected one poutine.scale at all rows of site",
    ),
    "weights of late rows, on z in the guide alone": (
        model_of(),
        lambda x, w: guide_of(around=scaled(w))(x),
        (X, WEIGHTS),
        None,
        "expected one poutine.scale at all rows of site 'z', got 1 to 2",
    ),
    "factor that all rows share": (model_of(), global_factor_guide, (X,), None, "'prior of weights' inside one data plate"),
    "latent that all rows share": (
        global_weights,
        global_weights_guide,
        (X,),
        "z",
        "'w' inside one data plate.*all rows share",
    ),
    "auxiliary sites": (model_of(), auxiliary_guide, (X,), None, r"got the auxiliary sites \['u'\]"),
    "posterior on a nuisance, at late rows": (
        nuisance(lambda x: normal(0 * x), None)[0],
        late_nuisance_guide,
        (X,),
        "z",
        r"expected q\(z\|x\) that depends on x alone, got one that changes with \['w'\]",
    ),
    "prior on a nuisance, at late rows": (
        late_prior,
        nuisance(None, lambda x: normal(x / 3, 0.7))[1],
        (X,),
        "z",
        r"expected p\(z\) that does not depend on \['w'\]",
    ),
    "sites that come with the rows": (late_site, GUIDE, (X,), None, "expected the model to have the same sites at all rows"),
    "enumerated site": (enumerating, GUIDE, (X,), None, r"\['y'\] is summed over by TraceEnum_ELBO alone"),
    "mask of another shape in the guide": (
        model_of(),
        lambda x, m: guide_of(around=masked((m | True)[:, None]))(x),
        (X, SEEN),
        None,
        r"expected a mask of site 'z' of its batch shape, got \(3,\) and \(3, 3\)",
    ),
    "density of a site that hands on an auxiliary one": (
        model_of(),
        weighted_guide,
        (X,),
        None,
        r"draws 'z' itself, got values that it computes from the auxiliary sites \['u'\]",
    ),
    "mask of another shape": (
        lambda x, m: model_of(around=masked(m[:, None]))(x),
        GUIDE,
        (X, SEEN),
        None,
        r"expected log p of site 'z' for 3 rows, got \(3, 3\)",
    ),
}


def pyros(model, guide, x, divisor, particles):
    """Pyro's ELBO per datapoint, one value per particle."""
    with torch.no_grad(), pyro.validation_enabled(True):
        return torch.tensor([-Trace_ELBO().loss(model, guide, *x) / divisor for _ in range(particles)], dtype=torch.float64)


@pytest.mark.parametrize("name", EQUAL)
def test_one_draw_has_pyros_elbo(name):
    """The same random numbers on both sides: equal to rounding."""
    case = EQUAL[name]
    reference = case.unscaled or (case.model, case.guide)
    with torch.no_grad():
        pair = Pair(case.model, case.guide, case.x, site=case.site)
        chunks = list(pair.chunks())
        torch.manual_seed(1)
        found = elbo_terms(pair, chunks, None, points=N, samples=1).elbo.mean().item()
    torch.manual_seed(1)
    (expected,) = pyros(*reference, case.x, N if case.unscaled else case.divisor, 1)
    assert found == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("name", EQUAL)
def test_the_report_has_pyros_elbo(name):
    case = EQUAL[name]
    reference = case.unscaled or (case.model, case.guide)
    report = collapse_report(case.model, case.guide, case.x, site=case.site, posterior_samples=10, importance_samples=1)
    torch.manual_seed(0)
    particles = pyros(*reference, case.x, N if case.unscaled else case.divisor, 20)
    assert report.elbo == pytest.approx(particles.mean().item(), abs=5 * particles.std().item() * (1 / 10 + 1 / 20) ** 0.5)
    notes = " ".join(report.card["notes"])
    assert not notes if case.note is None else re.search(case.note, notes)


@pytest.mark.parametrize("name", REASONS)
def test_what_has_no_number_per_datapoint_is_refused(name):
    model, guide, x, site, reason = REASONS[name]
    with pytest.raises(ValueError, match=reason):
        collapse_report(model, guide, x, site=site, importance_samples=1)


def test_the_rate_against_a_masked_prior_bounds_no_information():
    """It is -0.7 nats here, which says nothing of x: the verdict must not read it as less than 0.1 nats."""
    nothing = 0 * SEEN
    found = collapse_report(lambda x, m: model_of(around=masked(m > 0))(x), GUIDE, (X, nothing), importance_samples=1)
    entropy = normal(X / 2, 0.6).entropy().mean().item()
    assert found.rate == pytest.approx(-entropy, abs=0.2) and found.rate < 0
    assert found.aggregate_kl is None and "p(z) is masked" in found.card["unavailable"]["aggregate_kl"]
    deaf = model_of(likelihood=lambda z: normal(0 * z))
    found = collapse_report(lambda x, m: poutine.mask(deaf, mask=m > 0)(x), GUIDE, (X, nothing), importance_samples=1)
    assert found.shuffled_latent_loss == 0 and "less than 0.1 nats" not in found.verdict


def test_masks_that_keep_everything_hide_no_closed_form():
    case = EQUAL["masks that keep everything"]
    found = collapse_report(case.model, case.guide, case.x, importance_samples=1)
    assert found.card["estimators"]["rate"] == "closed form" and found.card["posterior_family"] == "Normal"
    assert found.rate == collapse_report(model_of(), GUIDE, X, importance_samples=1).rate
    assert len(found.rate_per_dimension) == 3


def test_weights_of_late_rows_are_seen_without_the_decoder():
    def weighted(x, weights):
        model_of(around=scaled(weights))(x)

    with pytest.raises(ValueError, match="expected one poutine.scale at all rows of site 'z', got 1 to 2"):
        rate(weighted, GUIDE, (X, WEIGHTS))


def test_weights_of_late_rows_on_x_alone_are_refused_where_x_counts():
    def weighted(x, weights):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0 * x))
            with poutine.scale(scale=weights):
                pyro.sample("x", normal(z), obs=x)

    with pytest.raises(ValueError, match="expected one poutine.scale at all rows of site 'x', got 1 to 2"):
        collapse_report(weighted, GUIDE, (X, WEIGHTS), importance_samples=1)
    assert rate(weighted, GUIDE, (X, WEIGHTS)) == rate(model_of(), GUIDE, X)
