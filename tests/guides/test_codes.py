"""Discrete z: one-hot distributions, relaxed draws, both families of codes, the loss of a codebook, a prior of codes."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_skipvae import VAE, collapse_report
from pyro_skipvae.decoders import CodesDecoder, MLPDecoder
from pyro_skipvae.distributions import OneHot
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import CategoricalPosterior, CodebookPosterior
from pyro_skipvae.guides.codes import codebook_loss, quantised
from pyro_skipvae.objectives import analytic_elbo, batch_prior, elbo
from pyro_skipvae.priors import CodesPrior, UniformCategorical, fit_to_draws
from pyro_skipvae.training import svi_step

M, K, D = 3, 4, 6
FAMILIES = {"categorical": CategoricalPosterior, "codebook": CodebookPosterior}


@pytest.fixture(params=FAMILIES)
def name(request):
    if request.param == "codebook":
        pytest.importorskip("vector_quantize_pytorch")
    return request.param


def vae_of(name):
    torch.manual_seed(0)
    pyro.clear_param_store()
    encoder = MLPEncoder((D,), M, hidden=(8,), posterior=partial(FAMILIES[name], classes=K))
    codebook, read = (encoder.posterior, 16 * M) if name == "codebook" else (None, K * M)
    decoder = CodesDecoder(MLPDecoder(read, (D,), layers=1, width=8), codebook)
    return VAE(UniformCategorical(M, K), decoder, encoder)


def data(rows=32):
    return torch.rand(rows, D, generator=torch.Generator().manual_seed(1)).round()


def test_one_hot_rows_have_the_probabilities_kl_and_entropy_of_a_categorical(float64):
    logits, other = torch.randn(5, K), torch.randn(5, K)
    p, plain = OneHot(logits, temperature=0.3, validate_args=True), dist.Categorical(logits=logits)
    for k in range(K):
        z = torch.eye(K)[k]
        torch.testing.assert_close(p.log_prob(z), plain.log_prob(torch.tensor(k)))
    torch.testing.assert_close(kl_divergence(p, OneHot(other)), kl_divergence(plain, dist.Categorical(logits=other)))
    torch.testing.assert_close(p.expand((2, 5)).entropy()[0], plain.entropy())
    assert p.expand((2, 5)).temperature == 0.3 and p.has_rsample and not OneHot(logits).has_rsample
    certain = OneHot(torch.tensor([[-math.inf, 0.0, -math.inf]]))
    assert certain.log_prob(torch.eye(3)).tolist() == [-math.inf, 0.0, -math.inf] and certain.entropy().item() == 0
    torch.testing.assert_close(kl_divergence(certain, OneHot(torch.zeros(3))), torch.tensor([3.0]).log())


def test_relaxed_draws_come_from_the_classes_and_carry_the_gradient(float64):
    torch.manual_seed(0)
    logits = torch.tensor([1.0, -1.0, 0.0, 0.5], requires_grad=True)
    z = OneHot(logits, temperature=0.01).rsample((20_000,))
    torch.testing.assert_close(z.sum(-1), torch.ones(20_000))
    chosen = torch.nn.functional.one_hot(z.argmax(-1), K).double().mean(0)
    assert ((chosen - logits.softmax(0)).abs() < 4 * (0.25 / 20_000) ** 0.5).all()  # Gumbel's largest is categorical
    # At a high temperature z is nearly uniform, and d E[z] / d logits nearly (I - 1/K) / (K temperature).
    hot = OneHot(logits, temperature=50.0).rsample((2000,)).mean(0)
    (gradient,) = torch.autograd.grad(hot[0], logits)
    torch.testing.assert_close(gradient, (torch.eye(K)[0] - 1 / K) / K / 50, rtol=0.05, atol=1e-5)


def test_contract_and_evaluation_are_one_hot(name):
    vae, x = vae_of(name).eval(), data()
    q, p = vae.encoder(x), vae.prior()
    assert q.batch_shape == (len(x),) and q.event_shape == p.event_shape == (M, K) and p.batch_shape == ()
    z = q.sample()
    assert set(z.unique().tolist()) == {0.0, 1.0} and (z.sum(-1) == 1).all()
    assert vae.decoder(z).batch_shape == (len(x),) and vae.decoder(z[None].expand(5, *z.shape)).batch_shape == (5, len(x))
    rate = kl_divergence(q, p.expand(q.batch_shape))
    assert rate.shape == (len(x),) and (rate <= M * math.log(K) + 1e-5).all()
    report = collapse_report(vae.model, vae.guide, x, importance_samples=3)
    codes = report.sites[0].codes
    assert report.rate == pytest.approx(rate.mean().item(), abs=1e-4) and (codes.positions, codes.codes) == (M, K)
    assert sum(codes.information) <= report.rate + 1e-4


def test_the_elbo_of_all_codes_bounds_log_p(float64):
    vae, x = vae_of("categorical").double().eval(), data(4).double()
    rows = torch.eye(K)[torch.cartesian_prod(*[torch.arange(K)] * M)]  # every z, (K^M, M, K)
    q, p = vae.encoder(x), vae.prior()
    log_q = q.expand((len(rows), 4)).log_prob(rows[:, None])
    log_joint = vae.decoder(rows[:, None]).log_prob(x) + p.log_prob(rows)[:, None]
    exact = (log_q.exp() * (log_joint - log_q)).sum(0)
    torch.testing.assert_close(log_q.logsumexp(0), torch.zeros(4), rtol=0, atol=1e-9)
    torch.manual_seed(0)
    many, count = x.repeat(2000, 1), 2000
    with torch.no_grad():
        drawn = vae.decoder(vae.encoder(many).sample()).log_prob(many).view(count, 4).sum(1)
        found = -analytic_elbo(vae.model, vae.guide, many) / count
    assert (found - exact.sum()).abs() < 5 * drawn.std() / count**0.5
    assert (exact <= log_joint.logsumexp(0)).all()


def test_a_batch_prior_leaves_the_information_about_the_row_out_of_the_rate(float64):
    vae, x = vae_of("categorical").double().train(), data(6).double()
    probs = vae.encoder(x).base_dist.probs.detach()
    mean = probs.mean(0)
    information = (probs * (probs / mean).log()).sum() / 6
    losses = []
    for objective in (analytic_elbo, batch_prior):
        torch.manual_seed(0)
        losses.append(objective(vae.model, vae.guide, x))
    torch.testing.assert_close((losses[0] - losses[1]) / 6, information)
    bias = vae.encoder.posterior.parameters_of.bias
    gradients = [torch.autograd.grad(loss, bias)[0] for loss in losses]
    probs = vae.encoder(x).base_dist.probs
    left_out = (probs * (probs / probs.mean(0)).log()).sum()
    torch.testing.assert_close(gradients[0] - gradients[1], torch.autograd.grad(left_out, bias)[0])
    with pytest.raises(ValueError, match="one-hot categorical z for a batch prior"):
        batch_prior(normal_pair, normal_pair, x)


def test_a_batch_prior_that_depends_on_a_context_is_its_mean(float64):
    q, p = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.2, 0.8], [0.6, 0.4]])

    def pair(probs):
        def sampled(rows):
            with pyro.plate("data", len(rows)):
                pyro.sample("z", dist.OneHotCategorical(probs[rows]))

        return sampled

    exact = 2 * (torch.tensor([0.7, 0.3]) * (torch.tensor([0.7, 0.3]) / torch.tensor([0.4, 0.6])).log()).sum()
    for rows in ([0, 1], [1, 0]):
        with torch.no_grad():
            torch.testing.assert_close(batch_prior(pair(p), pair(q), torch.tensor(rows)), exact)


def normal_pair(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


def test_training_improves_the_bound(name):
    vae, x = vae_of(name), data()
    objective = codebook_loss(vae) if name == "codebook" else analytic_elbo
    step = svi_step(vae.model, vae.guide, objective, pyro.optim.Adam({"lr": 0.1}))
    bound = []
    for _ in range(2):
        vae.eval()
        with torch.no_grad():
            bound.append(elbo(vae.model, vae.guide, x).item())
        vae.train()
        for _ in range(20):
            step(x)
    assert bound[1] < bound[0] - 1


def test_the_loss_of_a_codebook_and_its_gradients(float64):
    pytest.importorskip("vector_quantize_pytorch")
    vae, x = vae_of("codebook").double(), data().double()
    vae.encoder(x)  # the codebook begins at some e(x)
    family, before = vae.encoder.posterior, vae.encoder.posterior.vectors.clone()
    family.quantizer.freeze_codebook = True
    e = family.parameters_of(vae.encoder.network(x)).unflatten(-1, (M, -1)).detach().requires_grad_()
    c = before[torch.cdist(e, before).argmin(-1)]
    through = (e + (c - e).detach()).requires_grad_()
    expected = -vae.decoder.of_vectors(through).log_prob(x).sum() + len(x) * M * math.log(K) + 0.25 * (e - c).square().sum()
    loss = codebook_loss(vae)(vae.model, vae.guide, x)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)  # the library looks codes up in float32
    wanted = torch.autograd.grad(expected, e)[0]
    got = torch.autograd.grad(loss, family.parameters_of.bias)[0]
    torch.testing.assert_close(got.view(M, -1), wanted.sum(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quantised(vae.encoder(x)).vectors, c, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="posterior of a codebook in training"):
        quantised(vae.eval().encoder(x))


def test_what_is_not_finite_does_not_reach_the_codebook():
    pytest.importorskip("vector_quantize_pytorch")
    vae, x = vae_of("codebook"), data()
    vae.encoder(x)
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    vae.encoder(torch.full_like(x, math.nan))
    assert all(value.equal(before[key]) for key, value in vae.state_dict().items())


def test_a_prior_of_codes_sums_to_one_and_learns_their_order(float64):
    torch.manual_seed(0)
    prior = CodesPrior((2, 3), width=8).double()
    rows = torch.eye(3)[torch.cartesian_prod(torch.arange(3), torch.arange(3))]
    torch.testing.assert_close(prior().log_prob(rows).logsumexp(0), torch.tensor(0.0), rtol=0, atol=1e-12)
    first = torch.randint(3, (256,))
    z = torch.eye(3)[torch.stack([first, (first + 1) % 3], 1)]  # the second follows from the first
    loss = fit_to_draws(prior, lambda: z, steps=150, lr=0.02)
    assert math.log(3) - 0.05 < loss < math.log(3) + 0.2
    drawn = prior().sample((200,)).argmax(-1)
    assert ((drawn[:, 0] + 1) % 3 == drawn[:, 1]).double().mean() > 0.9


def test_mistakes(monkeypatch):
    with pytest.raises(ValueError, match="classes to be a whole number of at least 2, got 1"):
        UniformCategorical(3, 1)
    with pytest.raises(ValueError, match="temperature above 0"):
        CategoricalPosterior(4, 3, classes=2, temperature=0.0)
    monkeypatch.setitem(__import__("sys").modules, "vector_quantize_pytorch", None)
    with pytest.raises(ImportError, match="pip install vector-quantize-pytorch"):
        CodebookPosterior(4, 3, classes=2)


@pytest.mark.parametrize(("batch_size", "classes"), [(64, 128), (64, 512), (8, 512)])
def test_codes_are_out_of_use_by_their_share_of_a_batch(batch_size, classes):
    """A fixed number would replace nearly all codes where a batch has few vectors for each."""
    pytest.importorskip("vector_quantize_pytorch")
    posterior = CodebookPosterior(4, 16, classes=classes, batch_size=batch_size)
    assert posterior.quantizer._codebook.threshold_ema_dead_code == pytest.approx(0.1 * batch_size * 16 / classes)


def test_relaxed_draws_of_many_classes_lie_in_their_support():
    p = OneHot(torch.zeros(300, 10_000), temperature=0.5, validate_args=True)
    assert p.log_prob(p.rsample()).isfinite().all()
    with pytest.raises(ValueError, match="within the support"):
        p.log_prob(1.01 * p.rsample())


def test_a_batch_prior_counts_the_points_that_the_batch_stands_for():
    q = torch.tensor([[0.5, 0.5], [0.9, 0.1]])

    def pair(p, size):
        def function(x):
            with pyro.plate("data", size, subsample=torch.arange(2)):
                pyro.sample("z", dist.OneHotCategorical(p))

        return function

    with torch.no_grad():
        found = [batch_prior(pair(torch.tensor([0.4, 0.6]), size), pair(q, size), torch.zeros(2)) for size in (2, 20)]
    torch.testing.assert_close(found[1], 10 * found[0])
