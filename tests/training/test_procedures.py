"""Lagging inference and pretraining: their stop rules by script, what each phase trains, and that both go on exactly."""

import copy
import math
import signal

import pyro
import pytest
import torch
import torture
from command_line import skipvae

from pyro_skipvae import VAE, fit
from pyro_skipvae.data import load_data
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import PlanarFlow
from pyro_skipvae.objectives import autoencoder, elbo
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.schedules import RateControl, delayed, linear
from pyro_skipvae.training import AggressivePhase, lagging_step, mutual_information_within, pretrained_step

X = torch.rand(12, 3, 3, generator=torch.Generator().manual_seed(0)).gt(0.5).float()


def make_vae(**about):
    pyro.clear_param_store()
    torch.manual_seed(0)
    return VAE(StandardNormal(2), MLPDecoder(2, (3, 3), layers=1, width=4), MLPEncoder((3, 3), 2, hidden=(4,), **about))


def adam():
    return pyro.optim.LambdaLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01, "fused": True}, "lr_lambda": rate})


def rate(step):
    return 1 / (1 + step)


def lagging(vae, **about):
    about = {"draw": lambda number: X[number % 4 :: 4], "valid": X, "max_norm": 1.0, **about}
    return lagging_step(vae.model, vae.guide, elbo, adam(), **about)


def pretrained(vae, **about):
    return pretrained_step(vae.model, vae.guide, elbo, adam(), decoder=vae.decoder, steps=3, **about)


@pytest.mark.parametrize(
    ("patience", "values", "active"),
    [
        (1, [0.5, 0.7, 0.7, 0.69, 2.0], [True, True, True, False, False]),  # of text: one that is lower
        (2, [0.5, 0.4, 0.6, 0.55, 0.7], [True, True, True, False, False]),  # misses add up, as in the authors' code
    ],
)
def test_the_aggressive_phase_ends_by_its_rule(patience, values, active):
    phase, found = AggressivePhase(patience), []
    for value in values:
        phase.after(value)
        found.append(phase.active)
    assert found == active


@pytest.mark.parametrize(
    ("losses", "updates"),
    [
        ([4, 4, 3, 3, 2, 2, 2.5, 2, 1, 1], 8),  # means of two: 4, 3, 2, then 2.25
        ([2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2], 10),  # none above the one before: most - 1
        ([1, 1, 5], 4),
        ([math.nan] * 20, 10),
    ],
)
def test_the_encoder_is_trained_until_its_loss_stops_falling(losses, updates, monkeypatch):
    step = lagging(make_vae(), every=2, most=11)
    script, seen = iter(losses + [5] * 20), []
    monkeypatch.setattr(step, "update", lambda x, beta: seen.append((len(x), beta)) or torch.tensor(float(next(script))))
    step._train_encoder(X, 0.3)
    assert len(seen) == updates and seen[:2] == [(12, 0.3), (3, 0.3)]  # the batch itself, then drawn ones


def test_the_loss_that_stops_falling_is_by_what_is_counted(monkeypatch):
    """Batches of ever more tokens at a loss per token that falls: per row it rises."""
    tokens, losses = [2, 2, 3, 3, 4, 4, 5, 5, 6, 6], []
    step = lagging(make_vae(), every=2, most=11, size=lambda x: len(x) * tokens[len(losses) - 1])

    def update(x, beta):
        losses.append(tokens[len(losses)] * (5 - len(losses) / 10))
        return torch.tensor(losses[-1])

    monkeypatch.setattr(step, "update", update)
    step._train_encoder(X, 1.0)
    assert len(losses) == 10 and losses[0] + losses[1] < losses[2] + losses[3]


def changed(vae, before):
    return {name.split(".")[0] for name, value in vae.state_dict().items() if not value.equal(before[name])}


def test_first_the_encoder_then_the_decoder_then_both():
    vae = make_vae()
    step = lagging(vae, every=2, most=4)
    before = copy.deepcopy(vae.state_dict())
    encoder_only = []
    whole = step._train_encoder
    step._train_encoder = lambda x, beta: (whole(x, beta), encoder_only.append(changed(vae, before)))
    step(X, 0.5)
    assert encoder_only == [{"encoder"}] and changed(vae, before) == {"encoder", "decoder"}
    assert (step.steps, step.updates) == (1, 4)  # the schedule of the learning rate saw one
    assert {one.last_epoch for one in step.optim.optim_objs.values()} == {1}
    moved = copy.deepcopy(vae.encoder.state_dict())
    step._train_encoder = lambda x, beta: None
    step(X, 0.5)
    assert all(value.equal(moved[name]) for name, value in vae.encoder.state_dict().items())
    step.phase.active = False
    step(X, 0.5)
    assert not all(value.equal(moved[name]) for name, value in vae.encoder.state_dict().items())
    assert step.after_epoch() is None


def test_mutual_information_within_is_that_of_separate_posteriors():
    """q(z|x) far apart from each other: every x is known by its z, and the bound is ln N."""
    vae = make_vae()

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = 1000 * x.flatten(1) @ (2 ** torch.arange(9.0))[:, None].expand(9, 2)  # another one for each x
            pyro.sample("z", pyro.distributions.Normal(loc, 1.0).to_event(1))

    assert mutual_information_within(vae.model, guide, X) == pytest.approx(math.log(12))

    def collapsed(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    before = torch.get_rng_state()
    assert mutual_information_within(vae.model, collapsed, X) == pytest.approx(0.0, abs=1e-6)
    assert before.equal(torch.get_rng_state())
    flow = make_vae(posterior=PlanarFlow)
    with pytest.raises(ValueError, match="density is known at any z"):
        mutual_information_within(flow.model, flow.guide, X)


def test_pretraining_is_an_autoencoder_whose_decoder_starts_anew(monkeypatch):
    vae = make_vae()
    start = copy.deepcopy(vae.decoder.state_dict())
    step = pretrained(vae)
    torch.manual_seed(3)
    for _ in range(3):
        state = torch.get_rng_state()
        expected = autoencoder(vae.model, vae.guide, X).item() / len(X)
        torch.set_rng_state(state)
        assert step(X, 0.1).item() == pytest.approx(expected)
    kept = copy.deepcopy(vae.encoder.state_dict())
    seen = []
    monkeypatch.setattr(step, "update", lambda x, beta: seen.append((step.objective, copy.deepcopy(vae.state_dict()))))
    step._last_loss = torch.zeros(())
    step(X, 0.1)
    objective, state = seen[0]
    assert objective is elbo
    assert all(state[f"decoder.{name}"].equal(value) for name, value in start.items())
    assert all(state[f"encoder.{name}"].equal(value) for name, value in kept.items())
    assert not any(one.optimizer.state for one in step.optim.optim_objs.values())


def test_a_control_is_told_nothing_while_there_is_no_rate():
    vae = make_vae()
    control = RateControl(0.01, integral=0.1)
    step = pretrained(vae, control=control)
    betas = [(step(X, control(step.steps)), control.beta)[1] for _ in range(6)]
    assert betas[:3] == [0.001] * 3 and betas[5] != 0.001


def test_a_schedule_may_begin_later():
    schedule = delayed(linear(0.1, 1.0, 9), 5)
    assert [round(schedule(step), 6) for step in (0, 5, 6, 14, 90)] == [0.1, 0.1, 0.2, 1.0, 1.0] and schedule.reached == 14


def test_lagging_trains_the_network_of_an_objective_with_the_decoder():
    class Told(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.f = torch.nn.Linear(1, 1)

        def forward(self, model, guide, x, beta=1.0):
            return elbo(model, guide, x, beta) + self.f(torch.ones(1)).square().sum()

    vae, objective = make_vae(), Told()
    about = {"draw": lambda number: X, "valid": X, "every": 2, "most": 4}
    step = lagging_step(vae.model, vae.guide, objective, adam(), **about)
    seen, whole = [], step._train_encoder
    before = objective.f.bias.item()
    step._train_encoder = lambda x, beta: (whole(x, beta), seen.append(objective.f.bias.item()))
    step(X)
    assert seen == [before] and objective.f.bias.item() != before


@pytest.mark.parametrize("make", [lagging, pretrained])
@pytest.mark.parametrize("moment", [2, 3, 4])  # before, at and after the end of a phase
def test_each_goes_on_exactly(make, moment):
    def more(step, vae, count):
        losses = []
        for _ in fit(step, [X[:7], X[7:]], epochs=count, callback=getattr(step, "after_epoch", None)):
            losses.append(step(X).item())
        return losses, copy.deepcopy(vae.state_dict())

    about = {"every": 2, "most": 5, "patience": 1} if make is lagging else {}
    vae = make_vae()
    step = make(vae, **about)
    for _ in range(moment):
        step(X)
    saved = copy.deepcopy((step.state_dict(), vae.state_dict(), torch.get_rng_state()))
    expected = more(step, vae, 2)
    for first in ("step", "weights"):
        vae = make_vae()
        step = make(vae, **about) if first == "step" else None
        vae.load_state_dict(saved[1])
        step = step or make(vae, **about)
        step.load_state_dict(copy.deepcopy(saved[0]))
        torch.set_rng_state(saved[2])
        found = more(step, vae, 2)
        assert found[0] == expected[0] and all(found[1][name].equal(value) for name, value in expected[1].items())


@pytest.mark.parametrize("name", ["digits", "pydoc"])
def test_batches_are_drawn_by_number(name):
    data = load_data(name).limit(train=300)
    batches = data.batches("train", 8, seed=1)
    next(iter(batches))
    state = batches.state_dict()
    one, again, other = batches.drawn(5), data.batches("train", 8, seed=1).drawn(5), batches.drawn(6)
    assert one.equal(again) and len(one) == 8 and batches.state_dict() == state
    assert one.shape != other.shape or not one.equal(other)


BAD = {
    ("--procedure", "laging"): "did you mean lagging?",
    ("--procedure", "pretrain(0)", "--epochs", "5"): "from 1 to 4 EPOCHS",
    ("--procedure", "pretrain(5)", "--epochs", "5"): "from 1 to 4 EPOCHS",
    ("--procedure", "pretrain", "--objective", "autoencoder"): "'free-bits-total(8)'",
    ("--procedure", "lagging", "--guide", "planar-flow"): "use --guide full-covariance-normal",
    ("--procedure", "lagging", "--model", "sa-vae"): "each makes up for a slow encoder",
    ("--procedure", "pretrain", "--inference", "svi"): "which refines by the ELBO",
    ("--procedure", "pretrain", "--model", "sa-vae"): "which refines by the ELBO",
    ("--procedure", "pretrain", "--prior", "vamp"): "got vamp: fitting it would train the encoder",
    ("--model", "autoregressive", "--inference", "vae+svi"): "which has no z to refine, got vae+svi",
    ("--procedure", "lagging", "--model", "autoregressive", "--decoder", "pixelcnn"): "which has no encoder",
}


@pytest.mark.parametrize("flags", BAD)
def test_the_command_line_refuses(flags, tmp_path):
    done = skipvae("train", "--decoder", "mlp", *flags, "--print-config", cwd=tmp_path)
    assert done.returncode == 2 and BAD[flags] in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.slow  # three trainings in processes of their own
@pytest.mark.parametrize(
    "more",
    [
        *[("--procedure", procedure) for procedure in ("lagging", "pretrain(1)", "hmc(1)")],
        *[("--guide", guide) for guide in ("categorical", "codebook", "variational-laplace")],
    ],
    ids=lambda more: more[1],
)
def test_a_stopped_run_ends_as_if_it_had_not_been(more, tmp_path):
    if "codebook" in more:
        pytest.importorskip("vector_quantize_pytorch")
    quick = (("no_report",),)
    assert torture.train(tmp_path / "whole", "mlp", *more, hooks=quick).end() == 0
    stopped = torture.train(tmp_path / "run", "mlp", *more, hooks=(*quick, ("signal_at", 10, signal.SIGTERM)))
    assert stopped.end() == 143, stopped.log.read_text()
    assert torture.train(tmp_path / "run", "mlp", *more, hooks=quick).end() == 0
    assert torture.same(torture.outcome(tmp_path / "run"), torture.outcome(tmp_path / "whole"))
