"""`SkipVAE`: an estimator that scikit-learn's own checks accept, and whose numbers are those of the report."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyro
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator
from torch.nn.utils import parameters_to_vector

from pyro_skipvae.estimator import SkipVAE

SMALL = {"latent_dim": 2, "layers": 1, "width": 8, "epochs": 1}
X = np.random.RandomState(0).randn(80, 2) @ np.random.RandomState(1).randn(2, 4)


@pytest.fixture(scope="module")
def fitted():
    return SkipVAE(**SMALL | {"epochs": 4}).fit(X)


def test_scikit_learns_own_checks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = check_estimator(SkipVAE(**SMALL, batch_size=1000), on_skip=None)
    failed = {check["check_name"]: check["status"] for check in done if check["status"] != "passed"}
    assert len(done) > 40 and failed in ({}, {"check_array_api_input": "skipped"})  # which asks for a variable of scipy's


def test_score_is_that_of_the_report(fitted):
    report = fitted.report(X, importance_samples=50)
    assert fitted.score(X) == pytest.approx(report.elbo, abs=0.3)
    many = clone(fitted).set_params(importance_samples=50).fit(X)
    assert many.score(X) == pytest.approx(report.log_likelihood, abs=0.1) and many.score(X) > fitted.score(X)


def test_it_standardises_by_itself(fitted):
    scaled = clone(fitted).fit(1000 * X + 500)
    assert scaled.score(1000 * X + 500) == pytest.approx(fitted.score(X) - 4 * np.log(1000), abs=1e-2)
    np.testing.assert_allclose(scaled.transform(1000 * X + 500), fitted.transform(X), atol=1e-3)
    back = scaled.inverse_transform(scaled.transform(1000 * X + 500))
    np.testing.assert_allclose(back, 1000 * fitted.inverse_transform(fitted.transform(X)) + 500, rtol=1e-2, atol=5)


def test_pipeline_and_grid_search():
    pipeline = make_pipeline(MinMaxScaler(), SkipVAE(**SMALL), PCA(1))
    assert pipeline.fit_transform(X).shape == (80, 1)
    search = GridSearchCV(SkipVAE(**SMALL), {"latent_dim": np.array([1, 2]), "skip": ["all", "none"]}, cv=2).fit(X)
    assert search.cv_results_["mean_test_score"].shape == (4,) and np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_partial_fit_goes_on_also_after_a_pickle():
    whole = SkipVAE(**SMALL).partial_fit(X[:40]).partial_fit(X[40:])
    broken = pickle.loads(pickle.dumps(SkipVAE(**SMALL).partial_fit(X[:40]))).partial_fit(X[40:])
    assert np.array_equal(whole.transform(X), broken.transform(X)) and len(whole.losses_) == 2
    assert whole.losses_ == broken.losses_


def test_partial_fit_after_fit_goes_on_at_its_rate_from_the_first_step():
    """Of fit the last step has a rate of 0, which must not be that of the next one."""
    whole = SkipVAE(**SMALL | {"batch_size": 80}).fit(X)
    before = [value.clone() for value in whole.vae_.parameters()]
    whole.partial_fit(X)  # one step
    assert all(not value.equal(old) for value, old in zip(whole.vae_.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"beta_schedule": "control(3)"}, "expected another beta_schedule for partial_fit, .* got control"),
        ({"objective": "kl-balancing"}, "expected another objective for partial_fit, .* got kl-balancing"),
        ({"lr_schedule": "halving"}, "a lr_schedule of cosine or constant"),
    ],
)
def test_what_partial_fit_cannot_keep_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        SkipVAE(**SMALL | options).partial_fit(X)


def test_a_training_that_is_not_finite_leaves_the_estimator_as_it_was():
    large = X.copy()
    large[0, 0] = 1e25
    whole = SkipVAE(**SMALL | {"likelihood": "normal"}).partial_fit(X)
    before = whole.transform(X)
    with pytest.raises(ValueError, match="a training that stays finite"):
        whole.partial_fit(large)
    assert np.array_equal(whole.transform(X), before) and len(whole.losses_) == 1
    same = SkipVAE(**SMALL | {"likelihood": "normal"}).partial_fit(X).partial_fit(X)
    assert np.array_equal(whole.partial_fit(X).transform(X), same.transform(X))
    whole.set_params(latent_dim=1, lr_schedule="halving")
    with pytest.raises(ValueError, match="cosine or constant"):
        whole.fit(X)
    assert pickle.loads(pickle.dumps(whole)).transform(X).shape == (80, 2)
    unheld = SkipVAE(**SMALL | {"likelihood": "normal", "epochs": 0}).fit(X)
    with pytest.raises(ValueError, match="a training that stays finite"):
        unheld.partial_fit(large)
    assert np.array_equal(unheld.transform(X), SkipVAE(**SMALL | {"likelihood": "normal", "epochs": 0}).fit(X).transform(X))
    first = SkipVAE(**SMALL | {"likelihood": "normal", "lr": 1e30})
    with pytest.raises(ValueError, match="a training that stays finite"):
        first.fit(X)
    with pytest.raises(NotFittedError):
        first.transform(X)


def test_an_estimator_of_a_device_that_is_not_here_is_loaded_on_the_cpu(monkeypatch):
    whole = SkipVAE(**SMALL).fit(X)
    whole.device = "cuda:7"  # where it was fitted
    with pytest.warns(UserWarning, match="there is no cuda:7 here: the model is on the CPU"):
        again = pickle.loads(pickle.dumps(whole))
    assert again.partial_fit(X).device == "cpu"
    with pytest.warns(UserWarning, match="there is no cuda:7 here: the model is on the CPU"):
        again = pickle.loads(pickle.dumps(whole))
    assert np.array_equal(again.transform(X), SkipVAE(**SMALL).fit(X).transform(X))


def test_a_constant_column_and_a_seed_of_numpy():
    values = np.concatenate([X, np.full((len(X), 1), 0.1)], 1)
    found, same = (SkipVAE(**SMALL | {"seed": seed}).fit(values).score(values) for seed in (np.int64(3), 3))
    assert found == same


def test_report_and_samples(fitted):
    assert fitted.report_.card["points"] == 80 and fitted.report_ is fitted.report_
    assert "of the data" in fitted.report_.card["rows"] and not hasattr(SkipVAE(), "report_")
    assert fitted.sample(7).shape == (7, 4) and np.array_equal(fitted.sample(7), fitted.sample(7))
    assert not np.array_equal(fitted.sample(7), fitted.sample(7, seed=1))
    assert list(fitted.get_feature_names_out()) == ["skipvae0", "skipvae1"]


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({}, "binary"),
        ({"likelihood": "poisson"}, "count"),
        ({"likelihood": "normal", "prior": "vamp", "components": 5}, "real"),
        ({"inference": "sa", "svi_steps": 2}, "real"),
        ({"guide": "inverse-autoregressive-flow", "objective": "iwae(2)"}, "real"),
    ],
)
def test_settings_of_train(options, values):
    x = {"binary": X > 0, "count": np.floor(3 * abs(X)), "real": X}[values].astype(np.float32)
    found = SkipVAE(**SMALL, **options).fit(x)
    assert found._about.kind == values and np.isfinite(found.score(x)) and found.transform(x).dtype == np.float32
    assert set(np.unique(found.sample(9))) <= {0, 1} if values == "binary" else True


@pytest.mark.parametrize("options", [{}, {"inference": "sa", "svi_steps": 2}, {"guide": "planar-flow"}])
def test_nothing_else_is_touched_and_a_look_changes_nothing(options):
    pyro.param("mine", torch.ones(2))
    state, other = torch.get_rng_state(), np.random.get_state()[1].copy()
    found = SkipVAE(**SMALL, **options).fit(X)
    fields = set(vars(found))
    looks = [(found.transform(X), found.score(X), found.sample(3)) for _ in range(2)]
    assert all(np.array_equal(*pair) for pair in zip(*looks, strict=True))
    found.report(X, importance_samples=2)
    assert set(pyro.get_param_store()) == {"mine"} and torch.equal(state, torch.get_rng_state())
    assert np.array_equal(other, np.random.get_state()[1]) and set(vars(found)) == fields


def test_threads_wait_for_each_other(fitted):
    alone = fitted.sample(50), fitted.score(X), fitted.transform(X)
    with ThreadPoolExecutor(4) as pool:
        draws = pool.map(lambda _: (fitted.sample(50), fitted.score(X), fitted.transform(X)), range(12))
        fits = [pool.submit(clone(fitted).set_params(epochs=1).fit, X) for _ in range(3)]
    assert all(np.array_equal(found, same) for results in draws for found, same in zip(results, alone, strict=True))
    assert len({done.result().score(X) for done in fits}) == 1 and not set(pyro.get_param_store()) - {"mine"}


def test_results_are_those_of_vae_as_it_is_now():
    found = SkipVAE(**SMALL).fit(X)
    before = found.score(X)
    with torch.no_grad():
        for value in found.vae_.parameters():
            value.mul_(1.5)
    assert found.score(X) != before and found.score(X) == pickle.loads(pickle.dumps(found)).score(X)


def test_partial_fit_reads_the_rate_anew_and_keeps_the_model():
    found = SkipVAE(**SMALL).partial_fit(X)
    for lr, moves in ((1e-12, False), (None, True)):
        before = parameters_to_vector(found.vae_.parameters()).detach().clone()
        found.set_params(lr=lr).partial_fit(X)
        assert ((parameters_to_vector(found.vae_.parameters()) - before).abs().max() > 1e-5) == moves
    assert found.score(X) == pickle.loads(pickle.dumps(found)).score(X) != SkipVAE(**SMALL).partial_fit(X).score(X)
    with pytest.raises(ValueError, match="expected width=8, with which partial_fit began, got 9; use fit"):
        found.set_params(width=9).partial_fit(X)
    pairs = SkipVAE(**SMALL, objective="mmd", batch_size=40).partial_fit(X)
    with pytest.raises(ValueError, match="at least 2 rows in each batch for objective mmd, got 1 .* use batch_size"):
        pairs.partial_fit(X[:41])


def test_what_is_decoded_on_a_sphere_is_a_direction():
    found = SkipVAE(3, layers=1, width=8, epochs=1, prior="uniform-sphere", guide="von-mises-fisher").fit(X)
    z = found.transform(X)
    directions = z / np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(found.inverse_transform(z), found.inverse_transform(directions), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"warmup_epochs": 1.0}, "warmup_epochs has no effect here: it needs beta_schedule linear or cyclical"),
        ({"components": 3}, "components has no effect here: it needs prior mixture-of-normals or vamp"),
        ({"beta": 4.0, "objective": "autoencoder"}, "beta has no effect here: it needs another objective or beta_schedule"),
    ],
)
def test_parameters_without_effect_are_told(options, told):
    with pytest.warns(UserWarning, match=told):
        SkipVAE(**SMALL | options).fit(X)


def test_none_is_chosen():
    found = SkipVAE(**SMALL | {"epochs": 1, "seed": None, "batch_size": None}).fit(X)
    assert found.score(X) == SkipVAE(**SMALL).fit(X).score(X)


@pytest.mark.parametrize(
    ("options", "values", "sentence"),
    [
        ({"likelihood": "bernoulli"}, X, "X of 0 and 1 for likelihood='bernoulli'"),
        ({"likelihood": "poisson"}, X, "X of counts"),
        ({"likelihood": "gaussian"}, X, "likelihood to be one of bernoulli, poisson, .* got 'gaussian'"),
        ({"latent_dim": 0}, X, "expected latent_dim to be a whole number of at least 1, got 0$"),
        ({"guide": "categorical"}, X, "expected a guide of real z, .* got 'categorical'"),
        ({"batch_size": 0}, X, "expected batch_size of at least 1"),
        ({"prior": "ar1"}, X, "expected images or text for prior ar1"),
        ({"prior": "vamp", "components": 500}, X, "expected components of at most 80"),
        ({"skip": "every"}, X, "unknown skip 'every'"),
        ({"device": "tpu"}, X, "a device that this machine has, got 'tpu'"),
        ({}, 1e300 * X, "float32 can hold"),
        ({}, X[0], "Expected 2D array"),
        ({}, 1e8 + X, "column 0 with mean 1e.08 and deviation .*: subtract its mean first"),
        ({"lr": 1e30, "epochs": 3, "max_norm": 1e30}, 100 * X, "a training that stays finite, .*lower lr"),
    ],
)
def test_mistakes(options, values, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        SkipVAE(**SMALL | options).fit(values)
    assert "--" not in str(raised.value)


def test_mistakes_after_fitting(fitted):
    with pytest.raises(NotFittedError):
        SkipVAE().sample()
    with pytest.raises(ValueError, match="z of 2 dimensions, got 3"):
        fitted.inverse_transform(np.zeros((1, 3)))
    for options in ({"n_samples": 0}, {"n_samples": 2.0}, {"n_samples": "3"}, {"seed": np.random.RandomState(0)}):
        with pytest.raises(ValueError, match="expected (n_samples|seed) to be a whole number"):
            fitted.sample(**options)
    of_bits = SkipVAE(**SMALL).fit((X > 0).astype(float))
    for method in (of_bits.partial_fit, of_bits.transform, of_bits.score, of_bits.report):
        with pytest.raises(ValueError, match="expected X of 0 and 1 for likelihood='bernoulli', got other values"):
            method(X)
    for samples in (0, 2.5):
        with pytest.raises(ValueError, match="importance_samples to be a whole number of at least 1"):
            clone(fitted).set_params(importance_samples=samples).fit(X).score(X)


@pytest.mark.parametrize("state", [torch.no_grad, torch.inference_mode])
def test_it_learns_where_gradients_are_off(state):
    expected = SkipVAE(**SMALL).fit(X).transform(X)
    with state():
        found = SkipVAE(**SMALL).fit(X).partial_fit(X)
        assert len(found.losses_) == 2 and found.transform(X).shape == expected.shape
        np.testing.assert_array_equal(SkipVAE(**SMALL).fit(X).transform(X), expected)


def test_another_default_dtype_changes_nothing():
    expected = SkipVAE(**SMALL).fit(X).transform(X)
    torch.set_default_dtype(torch.float64)
    try:
        found = SkipVAE(**SMALL).fit(X)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).transform(X), expected)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_encoder_has_a_width_of_its_own():
    sizes = [sum(p.numel() for p in SkipVAE(**SMALL, encoder_width=w).fit(X).vae_.encoder.parameters()) for w in (8, 16)]
    assert sizes[0] < sizes[1] < 2_000
