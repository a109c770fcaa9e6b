"""x in the forms that people have it, and guides of the kinds that Pyro offers: taken, or refused for the true reason."""

import math

import numpy
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoContinuous, AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn

from pyro_skipvae.diagnostics import (
    active_units,
    collapse_report,
    inference_gap,
    log_likelihood,
    model_mutual_information,
    mutual_information,
    rate,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, LABELS = draw(60, 3), torch.arange(60) % 4


def normal(loc, scale=1.0):
    return dist.Normal(loc, scale).to_event(1)


def model(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", normal(pyro.sample("z", normal(torch.zeros_like(x)))), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(x / 2, 0.6))


def labelled(image, label):
    assert len(image) == len(label)
    model(image)


def labelled_guide(image, label):
    assert len(image) == len(label)
    guide(image)


def of_batch(function):
    return lambda batch: function(batch["image"])


def report(model, guide, x, **options):
    return collapse_report(model, guide, x, **{"importance_samples": 5, "posterior_samples": 2} | options)


PLAIN = report(model, guide, X)
BATCH = {"image": X, "label": LABELS}


@pytest.mark.parametrize(
    "pair, x",
    [
        ((model, guide), [X]),
        ((model, guide), X.numpy()),
        ((model, guide), (X.numpy(),)),
        ((labelled, labelled_guide), [X, LABELS]),
        ((labelled, labelled_guide), [X.numpy(), LABELS.numpy()]),
        ((labelled, labelled_guide), BATCH),
        ((labelled, labelled_guide), {"label": LABELS.numpy(), "image": X.numpy()}),
        ((of_batch(model), of_batch(guide)), BATCH),
        ((labelled, of_batch(guide)), BATCH),
        ((lambda image, **more: model(image), lambda *, image, label=None: guide(image)), BATCH),
        ((lambda image, flag: model(image), lambda image, flag: guide(image)), {"flag": True, "image": X}),
    ],
)
def test_forms_of_x_give_the_same_report(pair, x):
    found = report(*pair, x)
    for name in ("elbo", "rate", "log_likelihood", "mi_lower", "mi_marginal", "model_mutual_information"):
        assert getattr(found, name) == getattr(PLAIN, name)


def test_the_fitted_marginal_takes_the_same_forms():
    forms = [({"fit_on": BATCH}, BATCH), ({"fit_on": [X.numpy(), LABELS]}, (X, LABELS))]
    found = [report(labelled, labelled_guide, x, **fit_on).mi_marginal for fit_on, x in forms]
    assert found[0] == found[1] == report(model, guide, X, fit_on=X).mi_marginal


FUNCTIONS = {
    "rate": lambda *pair, x: rate(*pair, x),
    "active_units": lambda *pair, x: active_units(*pair, x),
    "mutual_information": lambda *pair, x: mutual_information(*pair, x),
    "log_likelihood": lambda *pair, x: log_likelihood(*pair, x),
    "inference_gap": lambda model, guide, x: inference_gap(model, guide, guide, x, importance_samples=2),
    "model_mutual_information": lambda model, guide, x: model_mutual_information(model, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_single_functions_take_the_same_forms(name):
    plain = FUNCTIONS[name](model, guide, x=X)
    assert FUNCTIONS[name](labelled, labelled_guide, x=BATCH) == FUNCTIONS[name](model, guide, x=X.numpy()) == plain


class Module(PyroModule):
    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = PyroModule[nn.Linear](3, 3), PyroModule[nn.Linear](3, 6)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros_like(x)))
            pyro.sample("x", normal(self.decoder(z)), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", normal(loc, log_scale.exp()))


@pytest.fixture(autouse=True)
def no_parameters():
    pyro.clear_param_store()
    torch.manual_seed(0)


def test_arrays_follow_the_precision_of_the_module():
    module = Module()
    found = report(module, module.guide, X)
    assert report(module, module.guide, X.double().numpy()).elbo == found.elbo
    assert report(module, module.guide, {"x": X.double().numpy()}).elbo == found.elbo
    codes = (3 * X).numpy().astype("uint8")
    assert report(lambda x: model(x.float()), lambda x: guide(x.float()), codes).card["points"] == 60


def test_arrays_for_plain_functions_take_the_default_precision():
    """What scikit-learn and NumPy give is in double precision, where the weights of a function's network are not."""
    weight = torch.eye(3)

    def found(x):
        return report(lambda x: model(x @ weight), lambda x: guide(x @ weight), x).elbo

    assert found(X.double().numpy()) == found(X)
    torch.set_default_dtype(torch.float64)
    try:
        weight = torch.eye(3)
        assert found(X.numpy()) == found(X.double())
    finally:
        torch.set_default_dtype(torch.float32)


class Table:
    """As a table of pandas: with a shape, and slices that are tables."""

    shape = (60, 3)

    def __getitem__(self, index):
        return self


@pytest.mark.parametrize(
    "x, got",
    [
        (X.tolist(), "a list"),
        ({"image": X.tolist()}, "a dict of 'image': a list"),
        ({}, "an empty dict"),
        ({0: X}, "a dict of 0: a tensor of shape"),
        (numpy.array(["a"] * 60), "an array of <U1"),
        (torch.utils.data.TensorDataset(X), "a TensorDataset"),
        (torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X)), "a DataLoader"),
        (Table(), "a Table"),
        ("digits", "a str"),
        (None, "a NoneType"),
    ],
)
def test_other_forms_are_refused_by_name(x, got):
    with pytest.raises(ValueError, match=f"expected x to be a tensor with rows.*got {got}"):
        report(model, guide, x)


def test_sparse_and_nested_tensors_are_refused_with_what_makes_them_dense():
    with pytest.raises(ValueError, match=r"expected dense tensors in x, got a sparse one: pass x.to_dense\(\)"):
        report(model, guide, X.to_sparse())
    with pytest.raises(ValueError, match=r"got a nested one: pass x.to_padded_tensor\(0.0\)"):
        report(model, guide, torch.nested.nested_tensor(list(X)))


def test_what_is_read_in_turn_has_to_be_joined_and_a_table_is_no_such_thing():
    rows = torch.utils.data.TensorDataset(X)
    for x in (rows, torch.utils.data.DataLoader(rows), iter([X])):
        with pytest.raises(ValueError, match="; join what it gives first, by torch.cat or torch.stack$"):
            report(model, guide, x)
    for x in (Table(), numpy.array(["a"] * 60)):
        with pytest.raises(ValueError) as raised:
            report(model, guide, x)
        assert "join" not in str(raised.value)


def test_a_dict_has_to_fit():
    with pytest.raises(ValueError, match=r"expected tensors of 60 rows in x, got the shapes \[\(59,\)\]"):
        report(labelled, labelled_guide, {"image": X, "label": LABELS[:59]})
    with pytest.raises(
        ValueError, match="run on any number of rows of x, got.*missing 1 required positional argument: 'label'"
    ):
        report(labelled, labelled_guide, {"image": X})


SEEN = draw(60, seed=3) > 0


def missing(x, seen):
    with pyro.plate("data", len(x)):
        pyro.sample("x", normal(pyro.sample("z", normal(torch.zeros_like(x)))), obs=x, obs_mask=seen)


def missing_guide(x, seen):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(x / 4))


def missing_pixels(x, seen):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", normal(torch.zeros_like(x)[:, None]))
        with pyro.plate("pixels", 3, dim=-1):
            pyro.sample("x", dist.Normal(z[:, 0], 1.0), obs=x, obs_mask=seen)


def pixels_guide(x, seen):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", normal(x[:, None] / 4))


@pytest.mark.parametrize(
    "pair, seen", [((missing, missing_guide), SEEN), ((missing_pixels, pixels_guide), draw(60, 3, seed=5) > 0)]
)
def test_missing_values_are_integrated_out(pair, seen):
    found = report(*pair, (X, seen), importance_samples=2000)
    marginal = dist.Normal(torch.zeros(()), 2**0.5).log_prob(X)
    evidence = (seen.view(60, -1) * marginal).sum(1).mean().item()
    assert found.log_likelihood == pytest.approx(evidence, abs=0.03)
    assert "['x_unobserved']: missing values are integrated out, not imputed" in found.card["notes"][0]
    assert "x_unobserved" in found.card["unavailable"]["model_mutual_information"]


class Grouped(EasyGuide):
    def guide(self, x):
        with self.plate("data", len(x), dim=-1):
            self.group("z").sample("u", normal(x / 2, 0.6))


class Direct(EasyGuide):
    def guide(self, x):
        with self.plate("data", len(x), dim=-1):
            pyro.sample("z", normal(x / 2, 0.6))


class Estimated(EasyGuide):
    def guide(self, x):
        with self.plate("data", len(x), dim=-1):
            self.map_estimate("z")


@pytest.mark.parametrize("kind", [Grouped, Direct])
@pytest.mark.parametrize("trained", [True, False])
def test_an_amortized_easy_guide_is_a_guide(kind, trained):
    easy = kind(model)
    if trained:
        easy(X)
    prototype = easy.prototype_trace
    found = report(model, easy, X, posterior_samples=200)
    particles = [-Trace_ELBO().loss(model, Direct(model), X) / 60 for _ in range(100)]
    assert found.elbo == pytest.approx(sum(particles) / 100, abs=0.05)
    assert found.rate == pytest.approx(PLAIN.rate) and found.mi_lower.value == pytest.approx(PLAIN.mi_lower.value, abs=0.2)
    assert easy.prototype_trace is prototype


def test_an_easy_guide_without_a_density_is_refused_untouched():
    estimated = Estimated(model)
    with pytest.raises(ValueError, match="got a Delta: its rate is infinite"):
        report(model, estimated, X)
    assert estimated.prototype_trace is None and not list(estimated.parameters()) and not len(pyro.get_param_store())


def positive(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", normal(pyro.sample("z", dist.LogNormal(torch.zeros_like(x), 1.0).to_event(1))), obs=x)


def test_a_group_behind_a_map_is_refused_as_what_it_is():
    with pytest.raises(ValueError, match=r"draws 'z' itself, got values that it computes from the auxiliary sites \['u'\]"):
        report(positive, Grouped(positive), X)


class Amortized(AutoContinuous):
    def get_posterior(self, x):
        return normal((x / 2).flatten(), 0.6)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal, AutoDelta, Amortized])
def test_automatic_guides_are_refused_for_what_they_do(kind):
    automatic = kind(model)
    with pytest.raises(ValueError, match="it draws the latent sites of all rows at once, not from one q"):
        report(model, automatic, X)
    assert automatic.prototype_trace is None


def test_weights_with_a_prior_are_a_latent_that_all_rows_share():
    module = Module()
    module.decoder.weight = PyroSample(normal(torch.zeros(3, 3)).to_event(1))

    def with_weights(x):
        pyro.sample("decoder.weight", normal(torch.zeros(3, 3), 0.1).to_event(1))
        module.guide(x)

    with pytest.raises(ValueError, match="'decoder.weight' inside one data plate.*all rows share"):
        report(module, with_weights, X)
    with pytest.raises(ValueError, match="'decoder.weight' inside one data plate.*all rows share"):
        report(module, with_weights, X, site="z")


def semi_supervised(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.OneHotCategorical(torch.ones(len(x), 3) / 3))
        pyro.sample("x", normal(pyro.sample("z", normal(torch.zeros_like(x))) + y), obs=x)


@config_enumerate
def semi_supervised_guide(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.OneHotCategorical(logits=x))
        pyro.sample("z", normal((x - y) / 2, 0.6))


def test_a_class_that_the_posterior_depends_on_is_named():
    """As in Pyro's ss-vae: z has another posterior for every class."""
    with pytest.raises(ValueError, match=r"q\(z\|x\) that depends on x alone, got one that changes with \['y'\]"):
        report(semi_supervised, semi_supervised_guide, X, site="z")


def test_a_chain_of_latents_is_named():
    """As in Pyro's DMM: z_2 has a prior and a posterior given z_1."""

    def chain(function):
        def stepped(x):
            with pyro.plate("data", len(x)):
                z = 0 * x
                for step in range(2):
                    z = function(step, z, x)

        return stepped

    def transition(step, z, x):
        z = pyro.sample(f"z_{step}", normal(z))
        pyro.sample(f"x_{step}", normal(z), obs=x)
        return z

    pair = chain(transition), chain(lambda step, z, x: pyro.sample(f"z_{step}", normal((z + x) / 3, 0.6)))
    assert [row.name for row in report(*pair, X).sites] == ["z_0", "z_1", "z_*"]
    with pytest.raises(ValueError, match=r"got \['z_0', 'z_1'\]: name the one of interest"):
        rate(*pair, X)
    with pytest.raises(ValueError, match=r"q\(z_1\|x\) that depends on x alone"):
        report(*pair, X, site="z_1")
    assert report(*pair, X, site="z_0").rate == pytest.approx(
        (0.5 * (0.36 + X.square() / 9 - 1) - math.log(0.6)).sum(1).mean().item(), rel=1e-4
    )


def test_marginalised_classes_are_said_to_be_summed_over_elsewhere():
    @config_enumerate
    def mixture(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(2)))
            pyro.sample("x", normal(pyro.sample("z", normal(torch.zeros_like(x))) + y[..., None]), obs=x)

    assert TraceEnum_ELBO(max_plate_nesting=1).loss(mixture, guide, X)
    with pytest.raises(ValueError, match=r"\['y'\] is summed over by TraceEnum_ELBO alone"):
        report(mixture, guide, X)


@pytest.mark.parametrize(
    "plate", [lambda x: pyro.plate("data", x.shape[0]), lambda x: pyro.plate("data", 60, subsample_size=len(x))]
)
def test_usual_plates(plate):
    def plated(function):
        def inner(x):
            with plate(x):
                function(x)

        return inner

    pair = (
        plated(lambda x: pyro.sample("x", normal(pyro.sample("z", normal(torch.zeros_like(x)))), obs=x)),
        plated(lambda x: pyro.sample("z", normal(x / 2, 0.6))),
    )
    assert report(*pair, X).rate == pytest.approx(PLAIN.rate)
