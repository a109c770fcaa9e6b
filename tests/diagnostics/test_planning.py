"""Predictions before training against closed forms and a trained linear VAE; the beta of losses as people write them."""

import json
import math

import pytest
import torch
from command_line import skipvae
from test_known_answers import ANSWERS, EIGENVALUES, LATENT, whitened
from torch.nn import functional

from pyro_skipvae.diagnostics import effective_beta, predict_collapse
from pyro_skipvae.diagnostics.planning import spectrum


@pytest.mark.parametrize("variance", ANSWERS)
def test_the_closed_form_of_the_linear_vae(variance):
    found = predict_collapse(whitened(200), variance**0.5, latent_dim=LATENT)
    assert (found.active, found.rate, found.elbo) == pytest.approx(ANSWERS[variance], abs=1e-6)
    assert found.collapses_at_beta == pytest.approx(9 / variance) and found.collapses_at_sigma == pytest.approx(3)


def linear_objective(weight, encoder, log_scale, log_sigma, beta):
    """-E_q log p(x|z) + beta KL of a linear VAE on data of covariance diag(EIGENVALUES), in nats per datapoint."""
    covariance, precision = EIGENVALUES.diag(), (-2 * log_sigma).exp()
    off = torch.eye(12, dtype=torch.float64) - weight @ encoder
    left = (off @ covariance @ off.T).trace() + (weight.square() * (2 * log_scale).exp()).sum()
    means = (encoder @ covariance @ encoder.T).diagonal()
    kl = 0.5 * ((2 * log_scale).exp() + means - 1 - 2 * log_scale).sum()
    return 0.5 * precision * left + 12 * (log_sigma + 0.5 * math.log(2 * math.pi)) + beta * kl, kl


@pytest.mark.parametrize(("beta", "learned"), [(2.0, False), (2.0, True)])
def test_a_trained_linear_vae_carries_what_was_predicted(beta, learned):
    generator = torch.Generator().manual_seed(0)
    start = [0.3 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((12, 6), (6, 12), (6,), ())]
    start[3].zero_()
    trained = [part.requires_grad_(learned or part.dim() > 0) for part in start]
    optimizer = torch.optim.LBFGS([part for part in trained if part.requires_grad], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        objective, _ = linear_objective(*trained, beta)
        objective.backward()
        return objective

    optimizer.step(closure)
    objective, rate = linear_objective(*trained, beta)
    found = predict_collapse(whitened(200), None if learned else 1.0, beta, latent_dim=LATENT)
    assert found.sigma == pytest.approx(trained[3].exp().item(), rel=1e-4)
    assert found.rate == pytest.approx(rate.item(), abs=1e-4)
    assert beta * found.rate - found.elbo - found.rate == pytest.approx(objective.item(), abs=1e-6)
    active = (trained[1] @ EIGENVALUES.diag() @ trained[1].T).diagonal() > 1e-3
    assert found.active == int(active.sum())


def test_each_direction_dies_at_the_beta_and_the_noise_that_are_told():
    x = whitened(200)
    for sigma in (0.8, None):
        for number, direction in enumerate(predict_collapse(x, sigma, latent_dim=LATENT).directions[:LATENT]):
            for factor, active in ((0.999, True), (1.001, False)):
                at = predict_collapse(x, sigma, factor * direction.dies_at_beta, latent_dim=LATENT)
                assert at.directions[number].active == active
    for number, direction in enumerate(predict_collapse(x, 0.8, 2.0).directions):
        assert not predict_collapse(x, direction.dies_at_sigma * 1.001, 2.0).directions[number].active
        assert predict_collapse(x, direction.dies_at_sigma * 0.999, 2.0).directions[number].active


def test_noise_by_element_is_that_of_data_in_its_units():
    x, sigma = whitened(200), torch.linspace(0.5, 2, 12, dtype=torch.float64)
    found, scaled = predict_collapse(x, sigma, 1.5), predict_collapse(x / sigma, 1.0, 1.5)
    assert found.rate == pytest.approx(scaled.rate)
    assert found.elbo == pytest.approx(scaled.elbo - sigma.log().sum().item())
    assert found.sigma is None and found.collapses_at_sigma is None


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
def test_where_a_collapsed_solution_is_unstable(likelihood):
    """The gain of a small linear decoder, with its best posterior, over a collapsed one: its sign is what is predicted."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    slopes = torch.tensor([1.5, 1.0, -1.0, 0.0, 0.0], dtype=torch.float64)
    rates = (0.5 * factor * slopes).exp() if likelihood == "poisson" else torch.sigmoid(factor * slopes)
    x = (torch.poisson if likelihood == "poisson" else torch.bernoulli)(rates, generator=generator)
    mean, edge = x.mean(0), predict_collapse(x, likelihood=likelihood).collapses_at_beta
    noise = mean if likelihood == "poisson" else mean * (1 - mean)
    whitened_x = (x - mean) / noise.sqrt()
    vector = torch.linalg.eigh(whitened_x.T @ whitened_x / len(x))[1][:, -1]
    weight = 1e-2 * vector / noise.sqrt()
    base = mean.log() if likelihood == "poisson" else mean.logit()

    def log_p(eta):
        return (x.view(len(x), -1, 5) * eta - (eta.exp() if likelihood == "poisson" else functional.softplus(eta))).sum(-1)

    for beta, gains in ((0.9 * edge, True), (1.1 * edge, False)):
        loc = (x - mean) @ weight / beta  # of the best q(z|x) for a small weight
        scale = (1 - weight @ (noise * weight) / beta).sqrt()
        draws = torch.linspace(-4, 4, 81, dtype=torch.float64)
        bound = (log_p(base + (loc[:, None] + scale * draws)[..., None] * weight) @ (-draws.square() / 2).softmax(0)).mean()
        kl = (0.5 * (loc.square() + scale**2 - 1) - scale.log()).mean()
        assert (bound - beta * kl > log_p(base).mean()) == gains


def test_few_rows_and_many_parts_have_the_eigenvalues_of_one_matrix(monkeypatch):
    x = torch.randn(30, 4, 3, generator=torch.Generator().manual_seed(1)) + 1000
    expected = torch.linalg.eigvalsh(torch.cov(x.flatten(1).double().T, correction=0)).flip(0)
    monkeypatch.setattr(spectrum, "ROWS", 7)
    found, mean, points = spectrum.spectrum(x)
    assert torch.allclose(found, expected, rtol=1e-6) and points == 30 and torch.allclose(mean, x.flatten(1).double().mean(0))
    few, _, _ = spectrum.spectrum(x[:5])
    assert torch.allclose(few[:4], torch.linalg.eigvalsh(torch.cov(x[:5].flatten(1).double().T, correction=0)).flip(0)[:4])
    assert (few[4:] == 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": 0.0}, "sigma to be a number above 0"),
        ({"sigma": "much"}, "sigma to be a number above 0"),
        ({"sigma": 1.0, "beta": math.inf}, "beta to be a number above 0"),
        ({"sigma": torch.ones(3)}, "one for each of the 12 elements, got 3"),
        ({"sigma": 1.0, "likelihood": "bernoulli"}, "no sigma for a bernoulli likelihood"),
        ({"likelihood": "bernoulli"}, "values from 0 to 1 for a bernoulli likelihood"),
        ({"likelihood": "cauchy"}, "one of normal, bernoulli, poisson"),
        ({"latent_dim": 0, "sigma": 1.0}, "latent_dim to be 1 or more"),
        ({"beta": 0.5}, "whose noise can be learned"),
    ],
)
def test_what_cannot_be_predicted_is_told(options, words):
    with pytest.raises(ValueError, match=words):
        predict_collapse(whitened(50) - 2, **options)


def test_data_that_have_no_spectrum_are_told():
    bad = whitened(50)
    bad[7, 3] = math.nan
    with pytest.raises(ValueError, match="others at row 7"):
        predict_collapse(bad, 1.0)
    assert predict_collapse(torch.ones(9, 4), 1.0).sentence.startswith("All directions collapse")


def test_predict_on_the_command_line(tmp_path):
    shown = skipvae("predict", "--dataset", "digits", "--binarisation", "none", "--sigma", "0.2", "--beta", "4", cwd=tmp_path)
    told = skipvae("predict", "--dataset", "digits", "--latent-dim", "7", "--json", cwd=tmp_path)
    assert shown.returncode == told.returncode == 0, shown.stderr + told.stderr
    found = json.loads(told.stdout)
    assert found["active"] == 7 and found["likelihood"] == "bernoulli" and found["sentence"] in json.dumps(found)
    assert "can be active" in shown.stdout and "dies at beta" in shown.stdout
    assert skipvae("predict", "--dataset", "digits", "--sigma", "-1", cwd=tmp_path).returncode == 2


def kl_terms(loc, log_variance):
    return -0.5 * (1 + log_variance - loc.square() - log_variance.exp())


def bce_logits(x_hat, x, reduction):
    return functional.binary_cross_entropy_with_logits(x_hat, x, reduction=reduction)


N, D, B = 3 * 8 * 8, 16, 32
LOSSES = {  # as people write them -> (the loss, its words, beta)
    "sum and sum": (
        lambda h, x, m, v: functional.binary_cross_entropy(h, x, reduction="sum") + kl_terms(m, v).sum(),
        {"reconstruction": "sum", "kl": "sum"},
        1.0,
    ),
    "a mean over pixels, a KL per item": (
        lambda h, x, m, v: bce_logits(h, x, "mean") + kl_terms(m, v).sum(1).mean(),
        {"reconstruction": "mean", "kl": "batchmean"},
        N,
    ),
    "a mean over pixels, a KL summed over the batch": (
        lambda h, x, m, v: bce_logits(h, x, "mean") + 0.5 * kl_terms(m, v).sum(),
        {"reconstruction": "mean", "kl": "sum", "weight": 0.5},
        0.5 * N * B,
    ),
    "means of squares and of the KL": (
        lambda h, x, m, v: functional.mse_loss(h, x) + 0.1 * kl_terms(m, v).mean(),
        {"reconstruction": "mean", "kl": "mean", "weight": 0.1, "form": "squared error"},
        0.1 * N / D / 2,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_reductions_have_one_beta(name):
    loss, words, beta = LOSSES[name]
    probed = effective_beta(loss, event_size=(3, 8, 8), latent_dim=D, batch_size=B)
    told = effective_beta(event_size=N, latent_dim=D, batch_size=B, **words)
    assert probed.beta == pytest.approx(beta, rel=1e-4) and told.beta == pytest.approx(beta, rel=1e-9)
    assert probed.reconstruction_scale == pytest.approx(told.reconstruction_scale, rel=1e-4)
    assert f"{beta:.4g}" in str(told) or "the ELBO itself" in str(told)


def test_a_squared_error_fixes_the_noise_and_beta_together():
    """A linear VAE at (sigma, beta) of the loss, and at beta 1 with the noise that is told, carry the same directions."""
    found = effective_beta(event_size=12, form="squared error", reconstruction="mean", kl="batchmean", batch_size=8, sigma=0.9)
    assert found.beta == pytest.approx(12 / (2 * 0.81)) and found.sigma_at_beta_1 == pytest.approx(6**0.5)
    x = whitened(200)
    one, other = predict_collapse(x, 0.9, found.beta), predict_collapse(x, found.sigma_at_beta_1, 1.0)
    assert one.rate == pytest.approx(other.rate) and one.active == other.active == 1


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda h, x, m, v: functional.mse_loss(h, x) + kl_terms(m, v).clamp(min=0.2).sum(), "free bits or a clamp"),
        (lambda h, x, m, v: functional.mse_loss(h, x) + kl_terms(m, 2 * v).sum(), "log_variance is read as something else"),
        (lambda h, x, m, v: functional.l1_loss(h, x) + kl_terms(m, v).sum(), "give its reductions instead"),
        (lambda h, x, m, v: functional.mse_loss(h, x), "leaves one of them out"),
        (lambda h, x, m, v: (functional.mse_loss(h, x), 0), "to give one number, got tuple"),
    ],
)
def test_a_loss_that_is_no_such_sum_is_told(loss, words):
    with pytest.raises(ValueError, match=words):
        effective_beta(loss, event_size=10, latent_dim=4, batch_size=6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kl": "mean"}, "batch_size=, since one term is a sum"),
        ({"kl": "mean", "batch_size": 3}, "latent_dim="),
        ({"reconstruction": "average", "batch_size": 3}, "'sum', 'batchmean', 'mean', got 'average'"),
        ({"form": "mse"}, "'nats', 'squared error', got 'mse'"),
        ({"sigma": 0.0}, "sigma"),
        ({"weight": math.nan}, "weight"),
        ({"loss": lambda h, x, m, v: h.sum()}, "latent_dim= and batch_size="),
        ({"loss": lambda h, x, m, v: h.sum(), "weight": 0.1}, "got both"),
    ],
)
def test_sizes_and_names_that_are_missing_are_told(options, words):
    with pytest.raises(ValueError, match=words):
        effective_beta(event_size=10, **options)


def test_rows_of_more_elements_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr("pyro_skipvae.diagnostics.planning.spectrum.HELD", 1000)
    with pytest.raises(ValueError, match=r"at most 1,000 numbers .*, got 20 rows of 60; take fewer rows, such as x\[:16\]"):
        spectrum.spectrum(torch.randn(20, 60))
    assert spectrum.spectrum(torch.randn(16, 60))[2] == 16
