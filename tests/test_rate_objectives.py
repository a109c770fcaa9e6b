"""KL balancing, a target rate, MMD and the autoencoder: value and gradient by hand; the control of the rate."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import skipvae
from pyro import poutine
from test_free_bits import KL, B, D, Known, X
from torch import nn

from pyro_skipvae import VAE, fit, svi_step
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides.semi_amortized import SemiAmortized
from pyro_skipvae.objectives import (
    analytic_elbo,
    autoencoder,
    elbo,
    free_bits_per_dimension,
    free_bits_per_group,
    free_bits_total,
    kl_balancing,
    kl_balancing_prior,
    mmd,
    mutual_divergence,
    squared_mmd,
    target_rate,
)
from pyro_skipvae.priors import MixtureOfNormals, StandardNormal
from pyro_skipvae.schedules import RateControl
from pyro_skipvae.training import graphs, hamiltonian_draws

FIT = (X.double().square() / 2 + math.log(2 * math.pi) / 2).sum()


@pytest.fixture
def known(float64):
    return Known((2 * torch.tensor(KL, dtype=torch.float64)).sqrt())


#   KL_xd = loc^2 / 2 has the gradient loc; the rates of the rows are 2, 5, 3.5
@pytest.mark.parametrize(("nats", "cost", "sign"), [(1.0, 10.5 - 3, 1), (3.0, 1.5, 1), (5.0, 15 - 10.5, -1)])
@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_a_target_rate_prices_the_distance_of_the_batch(nats, cost, sign, beta, known):
    loss = target_rate(nats)(known.model, known.guide, X.double(), beta)
    torch.testing.assert_close(loss, FIT + beta * cost)
    loss.backward()
    torch.testing.assert_close(known.loc.grad, beta * sign * known.loc.detach())


def test_balanced_dimensions_pay_by_their_share_while_beta_is_below_one(known):
    share = torch.tensor([3.01, 0.51]) / (3.52 / 2)  # means of the dimensions 3 and 0.5
    for beta, weight in ((0.5, share), (1.0, torch.ones(2)), (torch.tensor(0.5), share)):
        known.loc.grad = None
        loss = kl_balancing(known.model, known.guide, X.double(), beta)
        torch.testing.assert_close(loss, FIT + beta * (torch.tensor(KL).double() * weight).sum())
        loss.backward()
        torch.testing.assert_close(known.loc.grad, beta * weight * known.loc.detach())


class LearnedPrior(Known):
    """The same with p(z) = N(m, 1)."""

    def __init__(self, loc):
        super().__init__(loc)
        self.m = nn.Parameter(loc.new_tensor([0.3, -0.2]))

    def model(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=beta):
                pyro.sample("z", dist.Normal(self.m, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), obs=x)


def test_prior_and_posterior_move_by_their_shares(float64):
    pair, share, beta = LearnedPrior(torch.randn(B, D)), 0.8, 0.5
    found = []
    for objective in (kl_balancing_prior(share), elbo):
        pair.zero_grad()
        torch.manual_seed(2)
        loss = objective(pair.model, pair.guide, X.double(), beta)
        loss.backward()
        found.append((loss, pair.m.grad.clone(), pair.loc.grad.clone()))
    (loss, m, loc), (plain, all_m, all_loc) = found
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close((m, loc), (share * all_m, (1 - share) * all_loc))


def test_the_autoencoder_pays_for_the_distortion_and_fits_the_prior(float64):
    pair = LearnedPrior(torch.randn(B, D))
    torch.manual_seed(2)
    loss = autoencoder(pair.model, pair.guide, X.double(), 0.5)
    torch.testing.assert_close(loss, FIT)
    loss.backward()
    torch.manual_seed(2)
    z = pair.loc.detach() + torch.randn(B, D)
    torch.testing.assert_close(pair.m.grad, (pair.m.detach() - z).sum(0))  # of -log N(z; m, 1)
    assert pair.loc.grad is None or not pair.loc.grad.any()


def closed_mmd(loc, variance, width):
    """MMD^2 of N(loc, variance I) and N(0, I) for k = exp(-|z - y|^2 / width): integrals of normals."""

    def kernel(distance, spread):
        return (width / (width + 2 * spread)) ** (D / 2) * torch.exp(-distance / (width + 2 * spread))

    zero, distance = torch.zeros(()), loc.square().sum()
    return kernel(zero, 2 * variance) + kernel(zero, torch.tensor(2.0)) - 2 * kernel(distance, variance + 1)


def test_mmd_of_two_normals_value_and_gradient(float64):
    torch.manual_seed(0)
    loc, variance = torch.tensor([0.8, -0.5], requires_grad=True), torch.tensor(0.4, requires_grad=True)
    expected = closed_mmd(loc, variance, 4.0)
    wanted = torch.autograd.grad(expected, [loc, variance])
    found = []
    for _ in range(200):
        value = squared_mmd(loc + variance.sqrt() * torch.randn(60, D), torch.randn(40, D), width=4.0)
        found.append(torch.cat([value[None], *(part.flatten() for part in torch.autograd.grad(value, [loc, variance]))]))
    found, exact = torch.stack(found), torch.cat([expected[None], *(part.flatten() for part in wanted)])
    assert ((found.mean(0) - exact).abs() < 4 * found.std(0) / 200**0.5).all()
    assert (found.mean(0).detach() / exact - 1).abs().max() < 0.1  # and the errors are small


def test_mmd_has_no_bias(float64):
    torch.manual_seed(0)
    values = torch.stack([squared_mmd(torch.randn(5, D), torch.randn(5, D), width=4.0) for _ in range(2000)])
    assert abs(values.mean()) < 4 * values.std() / 2000**0.5  # with the diagonal it would be 0.27
    with pytest.raises(ValueError, match="at least 2 draws of each distribution for an MMD, got 1 and 5"):
        squared_mmd(torch.zeros(1, D), torch.zeros(5, D), width=4.0)


@pytest.mark.parametrize("prior", [StandardNormal(D), MixtureOfNormals(D, components=3)])
def test_infovae_is_made_of_its_parts(prior, float64):
    prior = prior.double()
    pair = Known(torch.randn(B, D))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), obs=x)

    torch.manual_seed(2)
    loss = mmd(10.0, 0.7)(model, pair.guide, X.double(), 0.5)
    torch.manual_seed(2)
    z = pair.loc + torch.randn(B, D)
    y = prior().expand((B,)).sample()
    width = torch.cdist(y, y).square().sum() / (B * (B - 1))
    q = dist.Normal(pair.loc, 1.0).to_event(1)
    closed = isinstance(prior, StandardNormal)
    rate = (pair.loc.square() / 2).sum() if closed else (q.log_prob(z) - prior().log_prob(z)).sum()
    torch.testing.assert_close(loss, FIT + 0.5 * (0.3 * rate + 9.7 * B * squared_mmd(z, y, width=width)))
    loss.backward()
    assert all(parameter.grad.any() for parameter in prior.parameters())


def test_infovae_is_finite_where_all_draws_of_the_prior_are_one():
    logits = torch.zeros(2, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.OneHotCategoricalStraightThrough(torch.tensor([1.0, 0.0])))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.OneHotCategoricalStraightThrough(logits=logits))

    torch.manual_seed(0)
    loss = mmd(1.0)(model, guide, torch.zeros(4, 1))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: target_rate(-1.0), "target rate of at least 0 nats"),
        (lambda: kl_balancing_prior(1.0), "share of the gradient from 0 to below 1"),
        (lambda: mmd(0.2, 0.5), "a weight of at least 1 - alpha"),
        (lambda: RateControl(0.0), "a target above 0 for a control"),
        (lambda: RateControl(2.0, most=1e-4), "a range above 0"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_draws_without_a_derivative_are_refused_where_a_gradient_is_wanted():
    """Their score-function term would be missing; without a gradient the value is right."""

    def model(x, beta=1.0):
        with pyro.plate("data", len(x)), poutine.scale(scale=beta):
            pyro.sample("z", dist.Bernoulli(0.5 * x.new_ones(2)).to_event(1))

    def guide(x, beta=1.0):
        with pyro.plate("data", len(x)), poutine.scale(scale=beta):
            pyro.sample("z", dist.Bernoulli(logits=x.new_zeros(len(x), 2)).to_event(1))

    x = torch.zeros(5, 2)
    for objective in (free_bits_total(0.0), target_rate(1.0), kl_balancing, autoencoder, mmd(1.0)):
        with pytest.raises(ValueError, match=r"expected a reparameterised q\(z\|x\), got Independent; use elbo"):
            objective(model, guide, x)
    with torch.no_grad():
        assert free_bits_total(0.0)(model, guide, x) == 0.0


def test_a_mask_is_refused_where_each_dimension_counts_by_itself():
    def pair(x, beta=1.0):
        with pyro.plate("data", len(x)), poutine.mask(mask=torch.arange(len(x)) < 3):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    for objective in (free_bits_total(0.0), kl_balancing):
        with pytest.raises(ValueError, match="expected latent sites without a mask"):
            objective(pair, pair, torch.zeros(5, 2))


def pair_of_plates(points, chosen, dim):
    """Each datapoint has 3 latents, q(z_i|x) = N(i, 1) and p(z_i) = N(0, 1), in a plate inside that of the data."""
    loc = torch.arange(3.0).reshape((3, 1) if dim == -2 else 3)

    def model(x, beta=1.0):
        with pyro.plate("data", points, subsample_size=chosen, dim=-3 - dim), pyro.plate("inner", 3, dim=dim):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide(x, beta=1.0):
        with pyro.plate("data", points, subsample_size=chosen, dim=-3 - dim), pyro.plate("inner", 3, dim=dim):
            pyro.sample("z", dist.Normal(loc, 1.0))

    return model, guide


@pytest.mark.parametrize("dim", [-1, -2])
@pytest.mark.parametrize(("points", "chosen"), [(6, None), (6, 4), (60, 6)])
def test_the_rate_is_that_of_the_datapoints_whatever_the_plates(points, chosen, dim):
    """KL is 0, 1/2 and 2 nats of each datapoint, also where the plate chooses 4 of 6 rows, or holds 6 of 60."""
    model, guide = pair_of_plates(points, chosen, dim)
    x = torch.zeros(6, 2)
    objectives = (target_rate(0.5), free_bits_per_group(1.0), free_bits_per_dimension(1.0), free_bits_total(3.0))
    found = [objective(model, guide, x).item() for objective in objectives]
    assert found == pytest.approx([points * 2.0, points * 4.0, points * 4.0, points * 3.0])


def test_the_control_follows_its_recurrence():
    control = RateControl(10.0, proportional=0.1, integral=0.01, least=0.001, most=2.0)
    assert control(0) == 0.001
    control.after(30.0)  # e = -20
    assert control.total == pytest.approx(0.2) and control(1) == pytest.approx(0.2 + 0.1 / (1 + math.exp(-20)))
    control.after(9.0)  # e = 1
    assert control.total == pytest.approx(0.19) and control(2) == pytest.approx(0.19 + 0.1 / (1 + math.e))
    control.after(1e6)
    assert control(3) == 2.0
    control.after(9.0)  # it turns back at once
    assert 1.9 < control(4) < 2.0
    for rate in (math.nan, math.inf):
        before = control.beta
        control.after(rate)
        assert control.beta == before
    control.after(-1e6)
    assert control(5) == 0.001


def make_vae():
    pyro.clear_param_store()
    torch.manual_seed(0)
    return VAE(StandardNormal(2), MLPDecoder(2, (3, 3), layers=1, width=8), MLPEncoder((3, 3), 2, hidden=(8,)))


IMAGES = torch.rand(20, 3, 3, generator=torch.Generator().manual_seed(0)).gt(0.5).float()


@pytest.mark.parametrize("kind", ["elbo", "analytic", "semi-amortized", "compiled"])
def test_the_step_tells_its_control_the_rate(kind, monkeypatch):
    monkeypatch.setattr(graphs, "_compiled", lambda graph, tensors: graph)
    vae, told = make_vae(), []
    guide = SemiAmortized(vae.model, vae.guide, steps=2) if kind == "semi-amortized" else vae.guide
    objective = analytic_elbo if kind == "analytic" else elbo
    control = RateControl(5.0, beta=0.7)
    monkeypatch.setattr(RateControl, "after", lambda self, rate: told.append(rate))
    step = svi_step(vae.model, guide, objective, pyro.optim.SGD({"lr": 0.0}), control=control, compile=kind == "compiled")
    losses = [(torch.manual_seed(1), step(IMAGES, beta))[1] for beta in (0.7, 1.0)]
    if kind == "semi-amortized":  # at another beta it refines to another place
        trace = pyro.poutine.trace(guide)
        torch.manual_seed(1)
        q = trace.get_trace(IMAGES, beta=0.7)
        q.compute_log_prob()
        z = q.nodes["z"]
        rate = (z["log_prob"].sum() / 0.7 - vae.prior().log_prob(z["value"]).sum()) / 20
    else:
        rate = (losses[1] - losses[0]) / 0.3
    assert told[0] == pytest.approx(rate.item(), rel=1e-4)


def test_a_step_takes_the_beta_of_its_control_where_none_is_given():
    def trained(given):
        vae = make_vae()
        control = RateControl(0.001, integral=0.1)
        step = svi_step(vae.model, vae.guide, elbo, pyro.optim.Adam({"lr": 1e-2}), control=control)
        epochs = fit(step, [IMAGES] * 3, epochs=2, beta=control if given else None)
        return [(epoch.loss, epoch.beta) for epoch in epochs], step, control

    (told, step, control), (by_default, *_) = trained(True), trained(False)
    assert told == by_default and 0.001 < told[0][1] < told[1][1]
    seen = []
    step.update = lambda x, beta: seen.append(beta)
    step._last_loss = torch.zeros(())
    before = control.beta
    step(IMAGES)
    step(IMAGES, 0.3)
    assert seen == [before, 0.3]
    for beta in (1.0, RateControl(0.5)):
        with pytest.raises(ValueError, match="the control of the step itself as beta, or none"):
            next(fit(step, [IMAGES], epochs=9, beta=beta))
    vae = make_vae()
    plain = svi_step(vae.model, vae.guide, elbo, pyro.optim.Adam({"lr": 1e-2}))
    with pytest.raises(ValueError, match="the control of the step itself"):
        next(fit(plain, [IMAGES], epochs=1, beta=RateControl(0.5)))


@pytest.mark.parametrize("objective", [free_bits_total(8.0), mmd(10.0), target_rate(3.0), autoencoder])
def test_a_control_is_for_objectives_whose_derivative_in_beta_is_the_rate(objective):
    vae = make_vae()
    with pytest.raises(ValueError, match="elbo or analytic_elbo of .* with a control, got one whose slope"):
        svi_step(vae.model, vae.guide, objective, pyro.optim.Adam({"lr": 1e-2}), control=RateControl(5.0))


def test_a_step_goes_on_with_its_control():
    def steps():
        vae = make_vae()
        control = RateControl(0.001, integral=0.1)
        return svi_step(vae.model, vae.guide, elbo, pyro.optim.Adam({"lr": 1e-2}), control=control), control, vae

    step, control, vae = steps()
    for _ in range(3):
        step(IMAGES, control(step.steps))
    state, weights, random = copy.deepcopy((step.state_dict(), vae.state_dict(), torch.get_rng_state()))
    assert control.beta > 0.001
    expected = [(step(IMAGES, control(step.steps)).item(), control.beta) for _ in range(2)]
    step, control, vae = steps()
    vae.load_state_dict(weights)
    step.load_state_dict(state)
    torch.set_rng_state(random)
    assert [(step(IMAGES, control(step.steps)).item(), control.beta) for _ in range(2)] == expected


BAD = {
    "kl-balancing-prior(1)": "SHARE from 0 to below 1",
    "kl-balancing-prior(0.75)": "with it that is --objective elbo --beta 0.25",
    "kl-balancing(0.8)": "unknown objective",
    "kl-balancing": "use --beta-schedule linear",
    "mmd(1,2)": "ALPHA of at most 1",
    "mmd(1,2,3)": "unknown objective",
    "target-rate": "target-rate(NATS)",
    "autoencoder(1)": "unknown objective",
}


@pytest.mark.parametrize("objective", BAD)
def test_the_command_line_refuses(objective, tmp_path):
    more = ("--beta-schedule", "constant") if objective == "kl-balancing" else ()
    done = skipvae("train", "--decoder", "mlp", "--objective", objective, *more, "--print-config", cwd=tmp_path)
    assert done.returncode == 2 and BAD[objective] in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--beta-schedule", "control"), "control(NATS)"),
        (("--beta-schedule", "control(0)"), "NATS above 0"),
        (("--beta-schedule", "control(9)", "--objective", "iwae(5)"), "expected --objective elbo or analytic-elbo"),
        (("--beta-schedule", "control(9)", "--model", "autoregressive", "--decoder", "pixelcnn"), "with latent variables"),
        (("--objective", "mmd", "--limit-train", "101", "--batch-size", "50"), "use --batch-size 51"),
        (("--objective", "target-rate(4)", "--model", "delta-vae", "--rate", "5"), "above the 5 nats that --rate commits"),
        (("--objective", "kl-balancing", "--prior", "vamp"), "'target-rate(NATS)' takes any"),
        (("--objective", "autoencoder", "--prior", "vamp"), "use --prior mixture-of-normals"),
        (("--procedure", "adversarial-autoencoder", "--prior", "vamp"), "use --prior mixture-of-normals"),
        (("--objective", "mmd", "--model", "sa-vae"), "expected --objective elbo with --inference sa"),
        (("--objective", "mmd", "--model", "autoregressive"), "which has no z"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(flags, said, tmp_path):
    done = skipvae("train", "--decoder", "mlp", *flags, "--print-config", cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_control_turns_back_at_once_from_the_lower_end():
    control = RateControl(10.0, proportional=0.1, integral=0.01, least=0.001, most=2.0)
    control.after(-1e6)
    assert control(0) == 0.001
    control.after(30.0)
    assert control(1) == pytest.approx(0.001 + 0.2 + 0.1 / (1 + math.exp(-20)), abs=1e-3)


def standing_for(size):
    """A pair whose batch stands for so many points."""

    def plate(x):
        return pyro.plate("data", size, subsample=torch.arange(len(x)))

    def model(x, beta=1.0):
        with plate(x):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, beta=1.0):
        with plate(x), poutine.scale(scale=beta):
            pyro.sample("z", dist.Normal(x / 2, torch.full_like(x, 0.7)).to_event(1))

    return model, guide


@pytest.mark.parametrize(
    "objective", [mmd(10.0, 0.5), kl_balancing, kl_balancing_prior(0.8), mutual_divergence(1.0, 1.0), autoencoder]
)
def test_a_batch_that_stands_for_ten_times_as_many_points_costs_ten_times_as_much(objective):
    x, found = torch.randn(6, 2), []
    for size in (6, 60):
        torch.manual_seed(0)
        found.append(objective(*standing_for(size), x, 0.7))
    torch.testing.assert_close(found[1], 10 * found[0])


def test_hamiltonian_draws_are_of_the_posterior_of_one_point_however_many_it_stands_for():
    x, found = torch.randn(6, 2), []
    for size in (6, 60):
        torch.manual_seed(0)
        found.append(hamiltonian_draws(*standing_for(size), x).z)
    torch.testing.assert_close(*found)
