"""Semi-amortized inference: gradients against finite differences of the whole refined loss, and what is left alone."""

import copy
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import VAE, collapse_report, svi_step
from pyro_skipvae.decoders import LSTMDecoder, word_scores
from pyro_skipvae.diagnostics.estimates.inference_gap import inference_gap
from pyro_skipvae.encoders import LSTMEncoder
from pyro_skipvae.guides import DiagonalNormal, FullCovarianceNormal, InverseAutoregressiveFlow, SemiAmortized
from pyro_skipvae.guides.gradient_check import compare_gradients
from pyro_skipvae.guides.local_parameters import local_parameters
from pyro_skipvae.guides.recurrence import differentiable_recurrence
from pyro_skipvae.guides.refinement import GRADIENTS, without_gradient
from pyro_skipvae.guides.semi_amortized import VARIANTS, beside, kl_to_refined, own_elbo
from pyro_skipvae.objectives import analytic_elbo, elbo, iwae
from pyro_skipvae.priors import StandardNormal, VampPrior

D = 2


class Encoder(nn.Module):
    def __init__(self, posterior=DiagonalNormal):
        super().__init__()
        self.hidden, self.posterior = nn.Linear(5, 3), posterior(3, D)

    def forward(self, x):
        return self.posterior(torch.tanh(self.hidden(x)))


class Decoder(nn.Module):
    """Smooth, so that finite differences converge; it remembers the dropout masks of its calls."""

    def __init__(self, dropout=0.3):
        super().__init__()
        self.hidden, self.dropout, self.output, self.masks = nn.Linear(D, 4), nn.Dropout(dropout), nn.Linear(4, 5), []

    def forward(self, z):
        h = torch.tanh(self.hidden(z))
        mask = self.dropout(torch.ones_like(h))
        self.masks.append(mask)
        return dist.Bernoulli(logits=self.output(mask * h)).to_event(1)


def make(prior=None, posterior=DiagonalNormal, dropout=0.3):
    encoder = Encoder(posterior)
    prior = {None: lambda: StandardNormal(D), "vamp": lambda: VampPrior(encoder, torch.rand(3, 5))}.get(prior, prior)()
    return VAE(prior, Decoder(dropout), encoder), torch.rand(8, 5).bernoulli()


def refined_loss(vae, x, beta=0.7, **options):
    """The loss of one refined step: the same random numbers at every call."""
    pyro.set_rng_seed(3)
    return elbo(vae.model, SemiAmortized(vae.model, vae.guide, **{"steps": 2, "lr": 0.2} | options), x, beta)


def gradient_of(vae, x, **options):
    vae.zero_grad()
    refined_loss(vae, x, **options).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in vae.named_parameters()}


def parts(gradients):
    """The gradient on the encoder and that on prior and decoder, one vector each."""
    encoder = torch.cat([g.flatten() for name, g in gradients.items() if name.startswith("encoder")])
    return encoder, torch.cat([g.flatten() for name, g in gradients.items() if not name.startswith("encoder")])


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def numeric_gradient(vae, x, step=1e-5, **options):
    """Central differences of the whole refined loss in every parameter: error about step^2 and rounding / step, 1e-10."""
    gradients = {}
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            gradients[name], flat = torch.zeros_like(parameter), parameter.view(-1)
            for i, value in enumerate(flat.tolist()):
                ends = []
                for sign in (1, -1):
                    flat[i] = value + sign * step
                    ends.append(refined_loss(vae, x, **options).item())
                flat[i] = value
                gradients[name].view(-1)[i] = (ends[0] - ends[1]) / (2 * step)
    return gradients


@pytest.mark.parametrize(
    "options", [{}, {"prior": "vamp"}, {"posterior": FullCovarianceNormal}], ids=["normal", "vamp", "full covariance"]
)
def test_gradients_are_those_of_the_whole_refined_loss(float64, options):
    vae, x = make(**options)
    expected = parts(numeric_gradient(vae, x[:3]))
    for gradient, tolerance in {"exact": 1e-6, "exact-rebuilt": 1e-6, "finite-difference": 1e-4}.items():
        for found, value in zip(parts(gradient_of(vae, x[:3], gradient=gradient)), expected, strict=True):
            assert relative(found, value) < tolerance, gradient


def test_gradients_from_zeros_leave_the_encoder_alone(float64):
    vae, x = make()
    exact, rebuilt = (parts(gradient_of(vae, x, start="zeros", gradient=name)) for name in ("exact", "exact-rebuilt"))
    assert exact[0].abs().max() == rebuilt[0].abs().max() == 0
    assert exact[1].norm() > 0.1 and relative(rebuilt[1], exact[1]) < 1e-12


@pytest.mark.parametrize("kept", [0, 2**26], ids=["logits made again", "logits kept"])
def test_gradients_of_a_text_model(float64, monkeypatch, kept):
    for name in ("KEPT", "KEPT_IN_A_REFINEMENT"):
        monkeypatch.setattr(word_scores, name, kept)
    sizes = {"embedding": 3, "width": 4}
    encoder, decoder = LSTMEncoder(7, D, **sizes), LSTMDecoder(7, D, max_length=5, **sizes)
    vae, x = VAE(StandardNormal(D), decoder, encoder), torch.tensor([[4, 5, 2, 0], [6, 3, 5, 2], [2, 0, 0, 0]])
    for gradient, tolerance in {"exact": 1e-6, "exact-rebuilt": 1e-6, "finite-difference": 1e-3}.items():
        found = gradient_of(vae, x, gradient=gradient)
        for part in ("encoder", "decoder"):
            # Along the gradient itself: one number for all parameters of the part, large against rounding.
            direction = {name: value / value.norm() for name, value in found.items() if name.startswith(part) and value.any()}
            slope = sum((found[name] * value).sum() for name, value in direction.items()).item()
            ends = []
            for sign in (1, -1):
                moved = copy.deepcopy(vae)
                with torch.no_grad():
                    for name, value in direction.items():
                        moved.get_parameter(name).add_(value, alpha=sign * 1e-5)
                pyro.clear_param_store()
                ends.append(refined_loss(moved, x, gradient="exact").item())
            pyro.clear_param_store()
            assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=tolerance), (gradient, part)


@pytest.mark.parametrize("gradient", ["exact-rebuilt", "finite-difference", "authors"])
def test_another_models_parameters_in_the_store_are_not_taken_for_this_ones(float64, gradient):
    first, x = make()
    elbo(first.model, first.guide, x)
    vae, _ = make()
    with pytest.raises(ValueError, match="belongs to another model; call pyro.clear_param_store"):
        compare_gradients(vae.model, vae.guide, x, steps=1, rounds=1)
    found = gradient_of(vae, x, gradient=gradient)  # what the model runs with is read from the graph
    pyro.clear_param_store()
    expected = gradient_of(vae, x, gradient=gradient)
    assert all(relative(a, b) < 1e-12 for a, b in zip(parts(found), parts(expected), strict=True))


@pytest.mark.parametrize("gradient", ["exact", "exact-rebuilt", "finite-difference"])
def test_parameters_that_pyro_does_not_know_get_their_gradient(float64, gradient):
    encoder, decoder, x = Encoder(), Decoder(dropout=0.0), torch.rand(8, 5).bernoulli()
    scale, shift = torch.ones(D, requires_grad=True), nn.Linear(5, D)

    def model(x, *, side):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", decoder(z * scale + side["shift"]), obs=x)

    def guide(x, *, side):
        with pyro.plate("data", len(x)):
            pyro.sample("z", encoder(x))

    def gradients(gradient):
        inputs = [*encoder.parameters(), *decoder.parameters(), scale, *shift.parameters()]
        pyro.set_rng_seed(3)
        refined = SemiAmortized(model, guide, steps=3, lr=0.2, gradient=gradient)
        loss = Trace_ELBO().differentiable_loss(model, refined, x, side={"shift": shift(x)})
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, inputs)])

    assert relative(gradients(gradient), gradients("exact")) < 1e-5


def test_first_order_is_the_plain_gradient_at_the_refined_parameters(float64):
    vae, x = make(dropout=0.0)
    pyro.set_rng_seed(3)
    guide = SemiAmortized(vae.model, vae.guide, steps=2, lr=0.2, gradient="first-order")
    encoder, _ = parts(gradient_of(vae, x, gradient="first-order"))
    pyro.set_rng_seed(3)
    _, start, refined = guide.refinement(x, beta=0.7)
    refined = tuple(part.detach().requires_grad_() for part in refined)
    z = refined[0] + (refined[1] / 2).exp() * torch.randn_like(refined[0])
    q, p = dist.Normal(refined[0], (refined[1] / 2).exp()).to_event(1), vae.prior()
    loss = -(vae.decoder(z).log_prob(x) + 0.7 * (p.log_prob(z) - q.log_prob(z))).sum()
    on_refined = torch.autograd.grad(loss, refined)
    expected = torch.autograd.grad(start, list(vae.encoder.parameters()), on_refined)
    assert encoder.norm() > 0.1
    assert relative(encoder, torch.cat([part.flatten() for part in expected])) < 1e-10


@pytest.mark.parametrize(("weight", "clips"), [(1, False), (100, True)])
def test_the_authors_gradient_is_right_only_where_their_clipping_does_not_act(float64, weight, clips):
    vae, x = make(dropout=0.0)
    x, B = x.repeat(16, 1), 128
    with torch.no_grad():
        vae.decoder.output.weight *= 4
    model, guide = (poutine.scale(part, scale=float(weight)) for part in stranger(vae.encoder, vae.decoder))

    def part(gradient, lr, steps=10):
        vae.zero_grad()
        pyro.set_rng_seed(3)
        (elbo(model, SemiAmortized(model, guide, steps=steps, lr=lr, gradient=gradient), x) / B).backward()
        return torch.cat([parameter.grad.flatten() for parameter in vae.encoder.parameters()])

    authors = part("authors", 0.1 * B / weight)  # their lr is of the batch's mean
    exact, plain = part("exact", 0.1 / weight), part("exact", 0.1, steps=0)
    if clips:
        assert torch.cosine_similarity(authors, plain, 0) > 0.85
        assert torch.cosine_similarity(authors, exact, 0) < 0.6
    else:
        assert relative(authors, exact) < 1e-4


@pytest.mark.parametrize("weight", [1.0, 300.0], ids=["no clipping", "clipping"])
def test_the_authors_gradient_is_theirs(float64, weight):
    """Their refinement written out for one batch: plain gradients of the batch's mean, one-sided differences, clipped."""
    vae, x = make(dropout=0.0)
    theta, noise, last = list(vae.decoder.parameters()), torch.randn(4, 8, D), torch.randn(8, D)
    model, guide = (poutine.scale(part, scale=weight) for part in stranger(vae.encoder, vae.decoder))

    def f(values, epsilon):
        loc, log_variance = values
        kl = 0.5 * (log_variance.exp() + loc.square() - 1 - log_variance).sum()
        return weight * (kl - vae.decoder(loc + (log_variance / 2).exp() * epsilon).log_prob(x).sum()) / 8

    def clipped(parts):
        norm = torch.stack([part.norm() for part in parts]).norm()
        return [part * min(1.0, 5.0 / (norm.item() + 1e-6)) for part in parts]

    def gradients(values, epsilon):
        values = [part.detach().requires_grad_() for part in values]
        return torch.autograd.grad(f(values, epsilon), [*values, *theta])

    start = [part for q in [vae.encoder(x).base_dist] for part in (q.loc, 2 * q.scale.log())]
    values, velocity, path = start, [0.0, 0.0], []
    for epsilon in noise:
        here = gradients(values, epsilon)
        path.append((values, epsilon, [clipped([part])[0] for part in here[:2]], here[2:]))
        velocity = [0.5 * v - g for v, g in zip(velocity, path[-1][2], strict=True)]
        values = [(part + 0.3 * v).detach() for part, v in zip(values, velocity, strict=True)]
    values = [part.requires_grad_() for part in values]
    *b, direct = [*torch.autograd.grad(f(values, last), values, retain_graph=True), torch.autograd.grad(f(values, last), theta)]
    u, on_theta = [torch.zeros(8, D)] * 2, list(direct)
    for values, epsilon, on_values, on_decoder in reversed(path):
        u = [0.5 * part + 0.3 * more for part, more in zip(u, b, strict=True)]
        ahead = clipped(gradients([part + 1e-5 * v for part, v in zip(values, u, strict=True)], epsilon))
        change = clipped([(a - c) / 1e-5 for a, c in zip(ahead[2:], on_decoder, strict=True)])
        on_theta = [total - part for total, part in zip(on_theta, change, strict=True)]
        b = clipped([part - (a - c) / 1e-5 for part, a, c in zip(b, ahead[:2], on_values, strict=True)])
    expected = [*torch.autograd.grad(start, list(vae.encoder.parameters()), b), *on_theta]

    refined = SemiAmortized(model, guide, steps=4, lr=0.3, gradient="authors")
    _, _, values = refined.refinement(x, noise=noise)
    found = torch.autograd.grad(f(values, last), [*vae.encoder.parameters(), *theta])
    for one, other in zip(found, expected, strict=True):
        assert relative(one, other) < 1e-4  # rounding over their step of 1e-5


@pytest.mark.parametrize("prior", ["normal", "mixture"])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, 0.5), (0.5, 2.0)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_bound_has_pyros_scales_and_masks(float64, prior, scales, masked):
    """The closed form where model and guide weigh z alike and Pyro has one, else by the draw."""
    decoder, x = Decoder(dropout=0.0), torch.rand(8, 5).bernoulli()
    rows = torch.arange(8) % 3 > 0 if masked else torch.ones(8, dtype=torch.bool)
    seen = torch.arange(8) % 2 > 0 if masked else torch.ones(8, dtype=torch.bool)
    components = dist.Normal(torch.randn(3, D), 1.0).to_event(1)
    mixture = dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(3)), components)
    p = {"normal": dist.Normal(torch.zeros(D), 1.0).to_event(1), "mixture": mixture}[prior]
    q = dist.Normal(torch.randn(8, D), torch.rand(8, D) + 0.5).to_event(1)

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=scales[0]), poutine.mask(mask=rows):
                z = pyro.sample("z", p)
            with poutine.scale(scale=3.0), poutine.mask(mask=seen):
                pyro.sample("x", decoder(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), poutine.scale(scale=scales[1]), poutine.mask(mask=rows):
            pyro.sample("z", q)

    bound, *_ = SemiAmortized(model, guide, steps=0, start="zeros").refinement(x)
    values, epsilon = bound.family.values, torch.randn(8, D)
    z = q.base_dist.loc + q.base_dist.scale * epsilon
    drawn = scales[1] * q.log_prob(z) - scales[0] * p.log_prob(z)
    closed = prior == "normal" and scales[0] == scales[1]
    divergence = scales[0] * torch.distributions.kl_divergence(q, p) if closed else drawn
    expected = (rows * divergence).sum() - 3.0 * (seen * decoder(z).log_prob(x)).sum()
    assert bound(values, epsilon).item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_backward_pass_uses_up_no_random_numbers(gradient):
    vae, x = make(dropout=0.5)
    loss = refined_loss(vae, x, gradient=gradient)
    before = torch.get_rng_state()
    loss.backward()
    assert torch.equal(before, torch.get_rng_state())


def test_an_encoder_loss_draws_its_noise_and_nothing_else():
    vae, x = make(dropout=0.5)
    guide = SemiAmortized(vae.model, vae.guide, steps=2)
    bound, start, values = guide.refinement(x, method=without_gradient)
    pyro.set_rng_seed(7)
    own_elbo(bound, start, values)
    after = torch.rand(())
    pyro.set_rng_seed(7)
    torch.randn(8, D)
    assert torch.equal(after, torch.rand(()))


def test_a_batch_of_eight_equals_eight_of_one_with_the_same_noise(float64):
    vae, x = make(dropout=0.0)
    guide, noise = SemiAmortized(vae.model, vae.guide, steps=5, lr=0.3), torch.randn(5, 8, D)
    together = guide.refine(x, noise=noise)
    for i in range(8):
        alone = guide.refine(x[i : i + 1], noise=noise[:, i : i + 1])
        assert torch.allclose(alone.base_dist.loc[0], together.base_dist.loc[i], rtol=1e-12)
        assert torch.allclose(alone.base_dist.scale[0], together.base_dist.scale[i], rtol=1e-12)


class Linear(nn.Module):
    """p(x|z) = N(2 z, 1): the posterior is N(2 x / 5, 1 / 5), and -ELBO convex in loc and log scale^2."""

    def forward(self, z):
        return dist.Normal(2.0 * z, 1.0).to_event(1)


class Constant(nn.Module):
    def forward(self, x):
        return dist.Normal(torch.zeros_like(x) - 1, torch.ones_like(x)).to_event(1)


def test_more_steps_never_worsen_the_mean_bound_and_reach_the_posterior(float64):
    vae, x = VAE(StandardNormal(1), Linear(), Constant()), torch.full((4000, 1), 1.5)
    noise, bounds = torch.randn(300, 4000, 1), []
    for steps in (0, 1, 2, 5, 10, 20, 300):
        q = SemiAmortized(vae.model, vae.guide, steps=steps, lr=0.01).refine(x, noise=noise[:steps])
        loc, variance = q.base_dist.loc, q.base_dist.variance
        likelihood = -0.5 * ((1.5 - 2 * loc).square() + 4 * variance)
        bounds.append((likelihood - 0.5 * (loc.square() + variance - 1 - variance.log())).mean().item())
    assert bounds == sorted(bounds)
    # Noise of the draws leaves loc spread around the optimum: its mean over 4000 repeats has an error of about 0.005.
    assert loc.mean().item() == pytest.approx(2 * 1.5 / 5, abs=0.02)
    assert variance.mean().item() == pytest.approx(1 / 5, rel=0.05)


def test_zero_steps_are_the_amortized_guide():
    vae, x = make()
    losses = []
    for guide in (vae.guide, SemiAmortized(vae.model, vae.guide, steps=0)):
        pyro.set_rng_seed(5)
        losses.append(elbo(vae.model, guide, x, 0.5).item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_no_gradient_is_left_by_a_refinement(gradient):
    vae, x = make()
    guide = SemiAmortized(vae.model, vae.guide, gradient=gradient)
    before = copy.deepcopy(vae.state_dict())
    guide.refine(x)
    guide(x)
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in vae.state_dict().items())
    assert set(pyro.get_param_store().keys()) >= {"encoder$$$hidden.weight"}


def test_evaluation_without_gradients_gives_the_same_posterior_and_keeps_nothing():
    vae, x = make(dropout=0.0)
    guide, noise = SemiAmortized(vae.model, vae.guide, lr=0.2), torch.randn(10, 8, D)
    expected = guide.refine(x, noise=noise).base_dist.loc
    with torch.no_grad():
        plain = guide.refine(x, noise=noise).base_dist.loc
        assert not poutine.trace(guide).get_trace(x).nodes["z"]["value"].requires_grad
    with torch.inference_mode():
        inference = guide.refine(x.clone(), noise=noise).base_dist.loc
        assert Trace_ELBO().loss(vae.model, guide, x) > 0
    assert expected.requires_grad and not plain.requires_grad
    assert torch.allclose(expected, plain) and torch.allclose(expected, inference)
    assert not torch.allclose(expected, vae.encoder(x).base_dist.loc)
    with pytest.raises(ValueError, match="noise of 10 steps, got that of 9"):
        guide.refine(x, noise=noise[:9])
    assert torch.is_grad_enabled()


def test_a_failing_model_leaves_gradients_on():
    vae, x = make()
    guide = SemiAmortized(vae.model, vae.guide)
    with pytest.raises(RuntimeError):
        guide(x[:, :3])
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_one_dropout_mask_serves_a_refinement_and_the_next_has_another(gradient):
    vae, x = make(dropout=0.5)
    guide = SemiAmortized(vae.model, vae.guide, steps=3, gradient=gradient)
    masks = []
    for _ in range(2):
        vae.decoder.masks.clear()
        z = poutine.trace(guide).get_trace(x).nodes["z"]["value"]
        z.sum().backward()
        assert len(vae.decoder.masks) >= 3
        assert all(torch.equal(mask, vae.decoder.masks[0]) for mask in vae.decoder.masks)
        masks.append(vae.decoder.masks[0])
    assert not torch.equal(*masks)


def test_dropout_is_off_in_a_report():
    vae, x = make(dropout=0.5)
    vae.decoder.masks.clear()
    report = collapse_report(vae.model, SemiAmortized(vae.model, vae.guide, lr=0.2), x.repeat(3, 1), importance_samples=10)
    assert all(mask.eq(1).all() for mask in vae.decoder.masks)
    assert vae.decoder.training and any("itself random" in note for note in report.card["notes"])


def test_a_report_shows_that_refining_raises_the_bound():
    vae, x = make(dropout=0.0)
    x = x.repeat(10, 1)
    reports = [
        collapse_report(vae.model, guide, x, importance_samples=2)
        for guide in (SemiAmortized(vae.model, vae.guide, lr=0.2), vae.guide)
    ]
    assert reports[0].elbo > reports[1].elbo + 0.01


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_training_takes_batches_of_any_size(gradient):
    vae, x = make()
    guide = SemiAmortized(vae.model, vae.guide, steps=2, gradient=gradient)
    step = svi_step(vae.model, guide, elbo, Adam({"lr": 1e-2}), max_norm=5.0)
    before = [parameter.clone() for parameter in vae.parameters()]
    assert all(step(batch, 0.5).isfinite() for batch in (x, x[:3], x[:1]))
    assert all(not torch.equal(old, new) for old, new in zip(before, vae.parameters(), strict=True))


@pytest.mark.parametrize("objective", [analytic_elbo, iwae(3)])
def test_other_objectives(objective):
    vae, x = make()
    step = svi_step(vae.model, SemiAmortized(vae.model, vae.guide), objective, Adam({"lr": 1e-2}))
    before = [parameter.clone() for parameter in vae.parameters()]
    assert step(x).isfinite() and step(x[:1]).isfinite()
    assert all(not torch.equal(old, new) for old, new in zip(before, vae.parameters(), strict=True))


def stranger(encoder, decoder, size=None):
    """A pair without `beta`, with names of its own; with `size` its plate stands for that many datapoints."""

    def plate(x):
        return pyro.plate("items", size or len(x), subsample_size=len(x))

    def model(x):
        pyro.module("p", decoder)
        with plate(x):
            z = pyro.sample("latent", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("obs", decoder(z), obs=x)

    def guide(x):
        pyro.module("q", encoder)
        with plate(x):
            pyro.sample("latent", encoder(x))

    return model, guide


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO(), Trace_ELBO(num_particles=3, vectorize_particles=True)])
def test_a_strangers_pair_trains_with_svi(loss):
    model, guide = stranger(Encoder(), Decoder())
    svi = SVI(model, SemiAmortized(model, guide, steps=4), Adam({"lr": 2e-2}), loss)
    x = torch.rand(8, 5).bernoulli()
    losses = [svi.step(x) for _ in range(25)]
    assert sum(losses[-5:]) < sum(losses[:5])
    with pytest.raises(ValueError, match="beta"):
        SemiAmortized(model, guide)(x, beta=0.5)


def test_a_guide_that_is_a_module_is_a_part_of_the_refined_one():
    class Guide(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.encoder = pyro.nn.PyroModule[nn.Linear](5, D)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))

    vae, x = make()
    refined, plain = SemiAmortized(vae.model, Guide(), steps=2), Guide()
    assert set(refined.state_dict()) == {f"amortized.{name}" for name in plain.state_dict()}
    loss = Trace_ELBO()(vae.model, refined)
    optimizer, before = torch.optim.SGD(loss.parameters(), lr=0.1), refined.amortized.encoder.weight.clone()
    loss(x).backward()
    optimizer.step()
    assert not torch.equal(before, refined.amortized.encoder.weight)
    vae.guide = plain
    assert vae.guide is plain and "guide.encoder.weight" in vae.state_dict() and vae.posterior(x).batch_shape == (8,)
    vae.guide = SemiAmortized(vae.model, plain)
    assert vae.posterior(x).base_dist.loc.shape == (8, D) and "guide.amortized.encoder.weight" in vae.state_dict()
    vae.guide = vae.guide.amortized
    assert vae.guide is plain
    del vae.guide
    assert vae.guide == VAE.guide.__get__(vae) and not any(name.startswith("guide") for name in vae.state_dict())


def test_beta_is_the_pairs_own_unless_it_is_given():
    encoder, decoder, x = Encoder(), Decoder(dropout=0.0), torch.rand(8, 5).bernoulli()

    def model(x, beta=0.25):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", decoder(z), obs=x)

    def guide(x, beta=0.25):
        with pyro.plate("data", len(x)), poutine.scale(scale=beta):
            pyro.sample("z", encoder(x))

    refined, noise = SemiAmortized(model, guide, steps=3, lr=0.2), torch.randn(3, 8, D)
    own, given, other = (refined.refine(x, noise=noise, **beta).mean for beta in ({}, {"beta": 0.25}, {"beta": 0.9}))
    assert torch.equal(own, given) and not torch.allclose(own, other)
    for arguments, beta in (((), 0.25), ((0.5,), 0.5)):
        assert poutine.trace(refined).get_trace(x, *arguments).nodes["z"]["scale"] == beta
        losses = []
        for each in (guide, SemiAmortized(model, guide, steps=0)):
            pyro.set_rng_seed(1)
            losses.append(Trace_ELBO().loss(model, each, x, *arguments))
        assert losses[0] == losses[1]


def test_a_plate_that_stands_for_more_changes_no_refinement():
    vae, x = make(dropout=0.0)
    noise, refined, losses, gradients = torch.randn(5, 8, D), [], [], []
    for size in (8, 80):
        model, guide = stranger(vae.encoder, vae.decoder, size)
        bound, start, values = SemiAmortized(model, guide, steps=5).refinement(x, noise=list(noise))
        refined.append(torch.cat([part.detach().flatten() for part in values]))
        losses.append(kl_to_refined(bound, start, values).item())
        pyro.set_rng_seed(1)
        gradients.append(torch.autograd.grad(own_elbo(bound, start, values), vae.encoder.hidden.weight)[0])
    assert torch.allclose(*refined)
    # Beside an objective in which a row counts for ten.
    assert losses[1] == pytest.approx(10 * losses[0], rel=1e-4) and relative(gradients[1], 10 * gradients[0]) < 1e-4


def test_the_encoders_own_loss_is_summed_over_the_batch_for_the_authors_gradient_too():
    vae, x = make(dropout=0.0)
    found = []
    for gradient in ("exact", "authors"):
        bound, start, values = SemiAmortized(vae.model, vae.guide, gradient=gradient).refinement(x, method=without_gradient)
        pyro.set_rng_seed(1)
        found.append(torch.autograd.grad(own_elbo(bound, start, values), vae.encoder.hidden.weight)[0])
    assert relative(*found) < 1e-5


def test_a_plate_that_subsamples_by_itself_is_refused():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=4) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x[rows, :1])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=4):
            pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))

    with pytest.raises(ValueError, match="each of the 8 rows of x, got those of 4: a plate that subsamples"):
        SemiAmortized(model, guide)(torch.randn(8, 5))


def test_model_and_guide_that_are_conditional():
    class Conditional(nn.Module):
        def forward(self, *inputs):
            return dist.Normal(inputs[0] + inputs[-1], 1.0).to_event(1)

    class Shifted(nn.Module):
        def forward(self, context):
            return dist.Normal(context, 1.0).to_event(1)

    vae = VAE(Shifted(), Conditional(), Conditional())
    x, context = torch.randn(6, D), 10 * torch.ones(6, D)
    q = SemiAmortized(vae.model, vae.guide, steps=200, lr=0.02).refine(x, context)
    # p(z) = N(c, 1), p(x|z) = N(z + c, 1): the posterior mean is x / 2.
    assert torch.allclose(q.base_dist.loc, x / 2, atol=0.6)


def test_a_context_that_needs_a_gradient_gets_it(float64):
    class Shift(nn.Module):
        def forward(self, z, c):
            return dist.Normal(torch.tanh(z * c), 1.0).to_event(1)

    class Prior(StandardNormal):
        def forward(self, c):
            return super().forward()

    class Fixed(nn.Module):
        def forward(self, x, c):
            return dist.Normal(x, 1.0).to_event(1)

    vae, x, found = VAE(Prior(D), Shift(), Fixed()), torch.randn(4, D), []
    for gradient in ("exact", "exact-rebuilt"):
        pyro.set_rng_seed(1)
        c = torch.full((4, D), 0.7, requires_grad=True)
        elbo(vae.model, SemiAmortized(vae.model, vae.guide, gradient=gradient), (x, c)).backward()
        found.append(c.grad)
    assert torch.allclose(*found, rtol=1e-10)


@pytest.mark.parametrize("gradient", ["exact-rebuilt", "finite-difference"])
def test_arguments_that_were_computed_pass_their_gradient_on_once(float64, gradient):
    """Also where one was computed from another, or from a parameter that the model uses itself."""
    weight, x = torch.randn(5, D, requires_grad=True), torch.rand(4, 5)

    def model(x, a, b):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.tanh((z + a) @ weight.T) + b, 1.0).to_event(1), obs=x)

    def guide(x, a, b):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(a, 1.0).to_event(1))

    found = []
    for name in ("exact", gradient):
        pyro.set_rng_seed(1)
        a = torch.tanh(x @ weight)
        loss = elbo(model, SemiAmortized(model, guide, steps=3, lr=0.1, gradient=name), (x, a, a[:, :1].sin()))
        found.append(torch.autograd.grad(loss, weight)[0])
    assert relative(found[1], found[0]) < (1e-12 if gradient == "exact-rebuilt" else 1e-4)


@pytest.mark.parametrize(
    "q",
    [
        dist.Normal(torch.randn(4, 3), torch.rand(4, 3) + 0.1).to_event(1),
        dist.Normal(torch.randn(4), 0.3),
        dist.Normal(torch.randn(4, 2, 3), 0.3).to_event(2),
        dist.Normal(torch.zeros(3), 1.0).to_event(1).expand([4]),
        dist.MultivariateNormal(torch.randn(4, 3), torch.eye(3) + 0.3),
        dist.Laplace(torch.randn(4, 3), torch.rand(4, 3) + 0.1).to_event(1),
        dist.LogNormal(torch.randn(4, 3), torch.rand(4, 3) + 0.1).to_event(1),
        dist.Cauchy(torch.randn(4, 3), 1.0).to_event(1),
    ],
    ids=lambda q: f"{type(getattr(q, 'base_dist', q)).__name__}{tuple(q.batch_shape + q.event_shape)}",
)
def test_local_parameters_give_the_distribution_back_and_draws_from_it(q):
    family = local_parameters(q)
    again, noise = family.distribution(family.values), family.noise()
    z = family.draw(family.values, noise)
    assert z.shape == q.sample().shape and noise.shape == z.shape
    assert again.batch_shape == q.batch_shape and again.event_shape == q.event_shape
    assert torch.allclose(again.log_prob(z), q.log_prob(z), atol=1e-4)
    draws = torch.stack([family.draw(family.values, family.noise()) for _ in range(4000)])
    expected = torch.stack([q.sample() for _ in range(4000)])
    assert torch.allclose(draws.median(0).values, expected.median(0).values, atol=0.25, rtol=0.25)


def test_what_cannot_be_refined_is_refused():
    vae, x = make(posterior=InverseAutoregressiveFlow)
    with pytest.raises(ValueError, match="TransformedDistribution, a flow"):
        SemiAmortized(vae.model, vae.guide)(x)
    with pytest.raises(ValueError, match="Categorical"):
        local_parameters(dist.Categorical(logits=torch.zeros(4, 3)))
    with pytest.raises(ValueError, match="got Uniform, a family without local parameters"):
        local_parameters(dist.Uniform(torch.zeros(4, 3), 1.0).to_event(1))
    with pytest.raises(ValueError, match="AutoNormal"):
        SemiAmortized(vae.model, AutoNormal(vae.model))
    for wrong in ({"gradient": "exacter"}, {"start": "ones"}, {"steps": -1}, {"steps": 2.5}, {"lr": 0.0}, {"momentum": 1.0}):
        with pytest.raises(ValueError, match="expected"):
            SemiAmortized(vae.model, vae.guide, **wrong)


def test_steps_that_diverge_are_told_as_such():
    vae, x = VAE(StandardNormal(1), Linear(), Constant()), torch.full((4, 1), 1.5)
    for steps in (1, 30):
        with pytest.raises(ValueError, match="got one that diverged: take a smaller lr"):
            elbo(vae.model, SemiAmortized(vae.model, vae.guide, steps=steps, lr=1e38), x)
    pyro.enable_validation(False)
    try:
        assert not elbo(vae.model, SemiAmortized(vae.model, vae.guide, steps=30, lr=1e38), x).isfinite()
    finally:
        pyro.enable_validation(True)


def test_a_covariance_that_diverges_is_told_as_such():
    """Its Cholesky factor fails before a number is infinite; a smaller lr, as the message says, is the remedy."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(4 * z, 0.5).to_event(1), obs=x)

    def guide(x):
        factor, diagonal = torch.full((len(x), 2, 1), 0.1), torch.full((len(x), 2), 0.2)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LowRankMultivariateNormal(0.05 * x, factor, diagonal))

    x = torch.linspace(-9.0, 9.0, 40).reshape(20, 2)
    for steps in (2, 3, 6):
        with pytest.raises(ValueError, match="got one that diverged: take a smaller lr"):
            elbo(model, SemiAmortized(model, guide, steps=steps, lr=1.0), x)
    assert elbo(model, SemiAmortized(model, guide, steps=6, lr=1e-3), x) < elbo(model, guide, x)


def test_what_a_guide_does_besides_its_latent_site_is_refused():
    vae, x = make()

    def with_factor(x):
        vae.guide(x)
        pyro.factor("penalty", torch.ones(()), has_rsample=False)

    def noted(x):
        vae.guide(x)
        pyro.deterministic("note", x.sum())

    def shared(x):
        pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))

    with pytest.raises(ValueError, match="a latent site alone, got 'penalty' too"):
        SemiAmortized(vae.model, with_factor)(x)
    assert SemiAmortized(vae.model, noted).refine(x).batch_shape == (8,)
    with pytest.raises(ValueError, match="a plate of the 8 rows of x around 'z', got none"):
        SemiAmortized(vae.model, shared)(x)
    for noise in (torch.zeros(10, D), torch.zeros(10, 1, D)):
        with pytest.raises(ValueError, match=r"noise like z in each step, \(8, 2\), got"):
            SemiAmortized(vae.model, vae.guide).refine(x, noise=noise)


def test_latent_sites_that_model_and_guide_do_not_share_are_refused():
    def two(x):
        with pyro.plate("data", len(x)):
            for name in "ab":
                pyro.sample(name, dist.Normal(torch.zeros(D), 1.0).to_event(1))

    vae, x = make()
    with pytest.raises(ValueError, match=r"the latent sites \['a', 'b'\], got 'z' too"):
        SemiAmortized(vae.model, two)(x)
    with pytest.raises(ValueError, match="expected the model to sample 'z'"):
        SemiAmortized(lambda x: None, vae.guide)(x)
    with pytest.raises(ValueError, match="one latent site 'z', got 'a' too"):
        SemiAmortized(lambda x: two(x), vae.guide)(x)


@pytest.mark.parametrize(("encoder_loss", "own"), [(own_elbo, True), (kl_to_refined, False)])
def test_beside_trains_decoder_and_encoder_each_by_its_own_loss(float64, encoder_loss, own):
    vae, x = make(dropout=0.0)
    guide = SemiAmortized(vae.model, vae.guide, steps=3, lr=0.2)
    loss = beside(encoder_loss)(vae.model, guide, x, 0.6)
    loss.backward()
    found = parts({name: parameter.grad for name, parameter in vae.named_parameters()})
    vae.zero_grad()

    pyro.set_rng_seed(0)
    make(dropout=0.0)  # draws what the first made drew
    bound, start, refined = guide.refinement(x, beta=0.6, method=without_gradient)
    z = bound.family.draw(refined, torch.randn(8, D))
    q, p = bound.family.distribution(refined), vae.prior()
    decoder = -(vae.decoder(z).log_prob(x) + 0.6 * (p.log_prob(z) - q.log_prob(z))).sum()
    assert loss.item() == pytest.approx(decoder.item(), rel=1e-10)
    expected = torch.autograd.grad(decoder, list(vae.decoder.parameters()))
    assert relative(found[1], torch.cat([part.flatten() for part in expected])) < 1e-10
    q_0 = bound.family.distribution(start)
    if own:
        z = bound.family.draw(start, bound.family.noise())
        loss = -(vae.decoder(z).log_prob(x) - 0.6 * torch.distributions.kl_divergence(q_0, p)).sum()
    else:
        loss = torch.distributions.kl_divergence(q_0, q).sum()
    expected = torch.autograd.grad(loss, list(vae.encoder.parameters()))
    assert relative(found[0], torch.cat([part.flatten() for part in expected])) < 1e-10


@pytest.mark.parametrize("name", VARIANTS)
def test_named_variants_train(name):
    options, encoder_loss = VARIANTS[name]
    vae, x = make()
    objective = elbo if encoder_loss is None else beside(encoder_loss)
    step = svi_step(vae.model, SemiAmortized(vae.model, vae.guide, steps=3, **options), objective, Adam({"lr": 1e-2}))
    before = [[p.clone() for p in module.parameters()] for module in (vae.encoder, vae.decoder)]
    assert step(x, 0.5).isfinite() and step(x[:1]).isfinite()
    moved = [
        all(not torch.equal(old, new) for old, new in zip(olds, module.parameters(), strict=True))
        for olds, module in zip(before, (vae.encoder, vae.decoder), strict=True)
    ]
    assert moved == [name != "svi", True]


@pytest.mark.parametrize("name", VARIANTS)
def test_named_variants_are_evaluated_as_what_they_train(name):
    options, encoder_loss = VARIANTS[name]
    vae, x = make(dropout=0.0)
    objective = elbo if encoder_loss is None else beside(encoder_loss)
    step = svi_step(vae.model, SemiAmortized(vae.model, vae.guide, steps=3, **options), objective, Adam({"lr": 0.0}))
    losses = []
    for evaluate in (lambda x: step(x).item(), step.evaluate):
        pyro.set_rng_seed(5)
        losses.append(evaluate(x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def kept_bytes(vae, x, steps, gradient):
    """What autograd still keeps for the backward pass of one refined loss."""
    kept = weakref.WeakSet()

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor
            kept.add(self)

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        loss = refined_loss(vae, x, steps=steps, gradient=gradient)
    assert loss.requires_grad
    return sum({saved.tensor.data_ptr(): saved.tensor.nbytes for saved in kept}.values())


def test_memory_of_what_is_replayed_does_not_grow_with_the_steps():
    vae, x = make()
    sizes = {gradient: [kept_bytes(vae, x, steps, gradient) for steps in (2, 12)] for gradient in GRADIENTS}
    assert sizes["exact"][1] > 3 * sizes["exact"][0]
    for gradient in set(GRADIENTS) - {"exact"}:
        assert sizes[gradient][1] == sizes[gradient][0], gradient


def test_the_inference_gap_of_a_known_model(float64):
    vae, x = VAE(StandardNormal(1), Linear(), Constant()), torch.randn(300, 1) * 5**0.5
    refined = SemiAmortized(vae.model, vae.guide, steps=300, lr=0.005)
    gap = inference_gap(vae.model, refined, vae.guide, x, importance_samples=100)
    log_p = dist.Normal(0.0, 5**0.5).log_prob(x)[:, 0]
    posterior = dist.Normal(2 * x[:, 0] / 5, 5**-0.5)
    amortized = torch.distributions.kl_divergence(dist.Normal(-torch.ones(300), 1.0), posterior).mean().item()
    assert gap.log_likelihood.value == pytest.approx(log_p.mean().item(), abs=0.01)
    assert gap.inference_gap.low <= amortized <= gap.inference_gap.high
    assert abs(gap.approximation_gap.value) < 0.05  # the true posterior is in the family: what is left is noise
    assert gap.inference_gap.value == pytest.approx(gap.amortization_gap.value + gap.approximation_gap.value)
    same = inference_gap(vae.model, vae.guide, vae.guide, x, importance_samples=2)
    assert same.amortization_gap.value == pytest.approx(0.0, abs=0.5)


def test_compare_gradients_tells_the_exact_ones_from_the_others(float64):
    vae, x = make()
    before = torch.get_rng_state()
    rows = {row.gradient: row for row in compare_gradients(vae.model, vae.guide, x, steps=6, lr=0.2, rounds=1)}
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert list(rows) == list(GRADIENTS)
    assert rows["exact"].encoder_error == rows["exact"].decoder_error == 0
    assert max(rows["exact-rebuilt"].encoder_error, rows["exact-rebuilt"].decoder_error) < 1e-12
    assert rows["finite-difference"].encoder_error < 1e-4 < 1e-2 < rows["first-order"].encoder_error
    assert rows["exact"].memory_bytes > 2 * rows["exact-rebuilt"].memory_bytes > 2 * rows["exact"].amortized_memory_bytes
    assert all(row.time_ratio > 1 for row in rows.values())


def test_compare_gradients_gives_the_authors_the_step_of_the_others(float64):
    """The objective is of a batch's mean, as in training: their clipping, at 5, then leaves this toy alone."""
    vae, x = make(dropout=0.0)
    for many in (x, x.repeat(200, 1)):  # summed over so many rows, it would be clipped
        (row,) = compare_gradients(vae.model, vae.guide, many, steps=6, lr=0.02, rounds=1, gradients=("authors",))
        assert row.encoder_error < 1e-3


def test_the_authors_mean_is_over_the_batch_of_training_whatever_rows_there_are(float64):
    vae, x = make(dropout=0.0)
    noise = [torch.randn(1, *vae.posterior(x).event_shape).expand(len(x), -1) for _ in range(3)]
    how = {"steps": 3, "lr": 1.0, "gradient": "authors"}
    refined = SemiAmortized(vae.model, vae.guide, **how, batch_size=len(x))
    other = SemiAmortized(vae.model, vae.guide, **how)
    with torch.no_grad():
        whole, part = refined.refine(x, noise=noise), refined.refine(x[:2], noise=[item[:2] for item in noise])
        torch.testing.assert_close(part.mean, whole.mean[:2])
        assert not torch.allclose(other.refine(x[:2], noise=[item[:2] for item in noise]).mean, part.mean)
    with pytest.raises(ValueError, match="batch_size to be a whole number of at least 1, got 0"):
        SemiAmortized(vae.model, vae.guide, batch_size=0)


@pytest.mark.parametrize(("twice", "training", "off"), [(True, True, True), (False, True, False), (False, False, True)])
def test_cudnn_is_off_for_recurrent_layers_alone_and_only_where_it_must(twice, training, off):
    seen = {}

    class Watched(nn.LSTM):
        def forward(self, x):
            seen["lstm"] = torch.backends.cudnn.enabled
            return super().forward(x)

    class Layer(nn.Linear):
        def forward(self, x):
            seen["linear"] = torch.backends.cudnn.enabled
            return super().forward(x)

    lstm, linear = Watched(2, 3).train(training), Layer(3, 3)
    with differentiable_recurrence(torch.device("cuda"), twice=twice):
        linear(lstm(torch.zeros(4, 1, 2))[0])
    assert seen == {"lstm": not off, "linear": True}
    lstm(torch.zeros(4, 1, 2))
    assert seen["lstm"] and torch.backends.cudnn.enabled
