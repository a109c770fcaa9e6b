"""The monitor: what it reads, when it speaks of a collapse, in which order it gives advice, and that it leaves no trace."""

import json
import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import as_pair, fit, svi_step
from pyro_skipvae.diagnostics import Monitor, rate
from pyro_skipvae.diagnostics.report.advice import FIGURE_4, TABLE, UNMEASURED, Seen, advice_for
from pyro_skipvae.objectives import elbo

RESULTS = Path(__file__).parents[2] / "results"
X = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2**0.5


class Dial:
    """p(x|z) = N(weight z, noise^2), q(z|x) its exact posterior for p(z) = N(0, 1), both times `weight`."""

    def __init__(self, weight=1.0, noise=1.0):
        self.weight, self.noise = weight, noise

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.weight * z, self.noise).to_event(1), obs=x)

    def guide(self, x):
        precision = 1 + self.weight**2 / self.noise**2
        with pyro.plate("data", len(x)):
            loc = self.weight * x / self.noise**2 / precision
            pyro.sample("z", dist.Normal(loc, precision**-0.5).to_event(1))


def test_a_record_has_the_numbers_of_the_report():
    dial = Dial()
    record = Monitor(dial.model, dial.guide, X)(7)
    assert record.step == 7 and record.state == "used" and not record.set_in and record.advice == []
    assert record.rate.value == pytest.approx(rate(dial.model, dial.guide, X).value, abs=1e-9)
    assert (record.active_units, record.dimensions) == (3, 3)
    # E (x z - x z') = Cov(x, z) = 1 per dimension
    assert record.shuffled_latent_loss.low < 3 < record.shuffled_latent_loss.high
    assert record.line == str(record) and record.line.startswith("step 7: rate") and "\n" not in record.line


def test_every_so_many_steps_and_with_fit():
    dial = Dial()
    monitor = Monitor(dial.model, dial.guide, X, every=10, points=50)
    assert [step for step in range(25) if monitor(step)] == [0, 10, 20] == [record.step for record in monitor.records]
    again = Monitor(dial.model, dial.guide, X, every=30, points=50)
    measured = [(epoch, step) for epoch in range(3) for step in range(20) if again(torch.tensor(step))]
    assert measured == [(0, 0), (1, 10)] and [record.step for record in again.records] == [0, 30]  # steps of all epochs
    single = Monitor(dial.model, dial.guide, X, every=3, points=50)  # epochs of one batch
    assert [epoch for epoch in range(7) for step in range(1) if single(step)] == [0, 3, 6]
    accumulated = Monitor(dial.model, dial.guide, X, every=10, points=50)  # each step comes twice, for each half of a batch
    assert [step for step in range(5, 26) for _ in range(2) if accumulated(step)] == [5, 15, 25]
    with pytest.raises(ValueError, match="step to be a whole number, or the Epoch of fit, got a float"):
        again(3.0)
    for name in ("every", "points"):
        with pytest.raises(ValueError, match=f"expected {name}"):
            Monitor(dial.model, dial.guide, X, **{name: 0})
    with pytest.raises(ValueError, match="expected rows"):
        Monitor(dial.model, dial.guide, X, rows=0)


def test_in_fit_with_callables_of_plain_torch(capsys):
    pyro.clear_param_store()
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(3, 4), nn.Linear(2, 3)
    pair = as_pair(lambda x: (encoder(x)[:, :2], encoder(x)[:, 2:].exp()), decoder, likelihood=lambda m: dist.Normal(m, 0.5))
    monitor = Monitor(*pair, X.float(), every=20, points=100)
    state = torch.get_rng_state()
    monitor(0)
    assert torch.equal(state, torch.get_rng_state()) and encoder.training
    step = svi_step(*pair, elbo, Adam({"lr": 0.02}))
    epochs = list(fit(step, X.float().split(20), epochs=4, beta=0.7, callback=monitor))
    assert [record.step for record in monitor.records] == [0, 20, 40] and epochs[-1].steps == 40
    assert monitor.records[-1].beta == 0.7 and monitor.records[-1].elbo.value > monitor.records[0].elbo.value
    assert capsys.readouterr().out == ""


def test_a_collapse_is_told_once_each_time_it_sets_in():
    dial, told = Dial(), []
    monitor = Monitor(dial.model, dial.guide, X, every=1)
    for step, weight in enumerate((1.0, 0.0, 0.0, 0.0, 1.0, 0.0)):
        dial.weight = weight
        told.append(monitor(step).set_in)
    assert told == [False, True, False, False, False, True]
    assert "collapse set in. Try " in monitor.records[1].line and monitor.records[2].state == "collapsed"


def test_a_z_that_was_never_used_is_told_at_the_third_measurement():
    dial = Dial(weight=0.0)
    monitor = Monitor(dial.model, dial.guide, X, every=1)
    assert [monitor(step).set_in for step in range(5)] == [False, False, True, False, False]


@pytest.mark.parametrize(("options", "stands_for"), [({"rows": 8}, None), ({}, 70)])
def test_a_collapse_is_told_in_parts_of_the_rows_with_the_advice_of_all(options, stands_for):
    """In parts of 8 rows, as asked for, or of 70, for which the plate stands."""
    sizes = []

    def data(x):
        sizes.append(len(x))
        return pyro.plate("data", stands_for or len(x), subsample_size=len(x))

    def model(x):
        with data(x):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0 * z, 3.0).to_event(1), obs=x)

    def guide(x):
        with data(x):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))

    dial = Dial(weight=0.0, noise=3.0)
    monitors = Monitor(model, guide, X, every=1, **options), Monitor(dial.model, dial.guide, X, every=1)
    found, whole = ([monitor(step) for step in range(3)][-1] for monitor in monitors)
    assert found.set_in and max(sizes) <= (stands_for or 8)
    assert found.advice == whole.advice and "noise" in found.advice[0].cause


def test_values_without_an_event_are_advised_on():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(0 * z, 3.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))

    monitor = Monitor(model, guide, X[:, 0], every=1)
    assert "noise" in [monitor(step) for step in range(3)][-1].advice[0].cause


def test_advice_begins_with_a_noise_that_nothing_survives_and_a_beta_above_one():
    dial = Dial()
    monitor = Monitor(dial.model, dial.guide, X, every=1)
    monitor(0)
    dial.weight, dial.noise = 0.0, 3.0
    causes = [advice.cause for advice in monitor(1, beta=4.0).advice]
    assert "noise" in causes[0] and "beta is above 1" in causes[1] and "given up" in causes[2]
    dial.weight, dial.noise = 1.0, 1.0
    monitor(2)
    dial.weight, dial.noise = 0.0, 0.5  # variances of 2 against 0.25: nothing in the way of z
    advice = monitor(3).advice
    assert not any("noise" in each.cause or "beta is" in each.cause for each in advice) and advice[-1].evidence == UNMEASURED
    assert UNMEASURED in str(advice[-1]) and not advice[-1].measured


def test_a_beta_of_zero_and_values_that_no_advice_knows_end_no_training():
    dial = Dial(weight=0.0)
    monitor = Monitor(dial.model, dial.guide, X, every=1)
    assert [monitor(step, beta=0.0).set_in for step in range(3)] == [False, False, True]
    assert not any("noise" in advice.cause for advice in monitor.records[2].advice)


def test_what_cannot_be_measured_is_a_record_that_says_so():
    dial, broken = Dial(), []

    def guide(x):
        dial.guide(torch.where(x == X[3, 0], torch.inf, x) if broken else x)

    monitor = Monitor(dial.model, guide, X, every=1)
    monitor(0)
    broken.append(True)
    record = monitor(1)
    assert record.state == "undecided" and not record.set_in and "row 3" in record.reason
    assert record.line.startswith("step 1: not measured: ")
    broken.clear()
    assert monitor(2).state == "used" and len(monitor.records) == 3


def test_a_decoder_that_ignores_its_encoder_and_one_that_models_x_alone():
    deaf = advice_for(Seen(None, 1.0, autoregressive=False, encoder_varies=True, was_used=False))
    strong = advice_for(Seen(None, 1.0, autoregressive=True, encoder_varies=False, was_used=False))
    assert "ignores it" in deaf[0].cause and "other elements" in strong[0].cause
    assert "skip connections" in deaf[0].remedy and "skip connections" in strong[0].remedy


def test_a_decoder_of_others_that_is_given_x_gets_no_advice_for_one_that_is_not():
    def model(x, forced):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1) if forced is None else 0
            pyro.sample("x", dist.Normal(before + 0 * z, 1.0).to_event(1), obs=x)

    def guide(x, forced):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))

    causes = {}
    for forced in (None, False):
        monitor = Monitor(model, guide, (X, forced), every=1)
        causes[forced] = [advice.cause for step in range(3) for advice in monitor(step).advice]
    assert "a deep decoder starts without z" in causes[False] and causes[None]
    assert not any("deep decoder" in cause or "other elements" in cause for cause in causes[None])


def test_a_mask_of_each_row_is_no_x_that_a_decoder_reads():
    def model(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0 * z, 1.0).mask(seen).to_event(1), obs=x)

    def guide(x, seen):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))

    monitor = Monitor(model, guide, (X, torch.arange(X.numel()).view_as(X) % 4 > 0), every=1)
    assert any("deep decoder" in advice.cause for step in range(3) for advice in monitor(step).advice)


def mean(table, row, arm, name="rate"):
    entries = json.loads((RESULTS / f"{table}.json").read_text())["entries"]
    found = [entry["report"][name] for entry in entries if (entry["row"], entry["arm"]) == (row, arm)]
    return sum(found) / len(found)


def test_what_the_advice_says_was_measured_is_what_the_results_hold():
    evidence, plain, figure = " ".join(row[3] for row in TABLE), "beta-VAE, beta 1", "delta-vae-figure4"
    assert (
        f"rate {mean('table3', '4 layers', 'plain'):.1f} -> {mean('table3', '4 layers', 'skip'):.1f} nats, three seeds"
        in evidence
    )
    for row, words in (("free bits, 16 nats", ""), ("delta-VAE, 8 nats", " with 8 committed")):
        worse = mean(figure, plain, "plain", "elbo") - mean(figure, row, "plain", "elbo")
        rates = f"rate {mean(figure, plain, 'plain'):.1f} -> {mean(figure, row, 'plain'):.1f} nats{words}"
        assert f"{rates}, ELBO {worse:.1f} worse" in evidence
    vae = mean("table4", "PTB, amortized, 32", "plain")
    for row in ("PTB, amortized, 32", "PTB, semi-amortized, 32"):
        assert f"rate {vae:.2f} -> {mean('table4', row, 'skip'):.2f} nats" in evidence
    for arm in ("skip", "anneal", "beta"):
        elbo, rate = ([mean("remedies-mnist", "mnist", each, name) for each in ("vae", arm)] for name in ("elbo", "rate"))
        assert f"ELBO {elbo[1] - elbo[0]:+.1f} nats, rate {rate[0]:.1f} -> {rate[1]:.1f}, three seeds" in evidence
    ptb = {name: mean("remedies-ptb", "ptb", "free-bits", name) for name in ("elbo", "rate")}
    worse = mean("remedies-ptb", "ptb", "vae", "elbo") - ptb["elbo"]
    assert f"rate 0.00 -> {ptb['rate']:.1f} nats, ELBO {worse:.1f} worse, one seed" in evidence
    assert all(mean("remedies-ptb", "ptb", arm) < 0.005 for arm in ("vae", "word-dropout"))
    (warm_up,) = (row for row in TABLE if "warm-up" in row[2] and row[0](Seen(None, 1.0, True, False, was_used=True)))
    assert warm_up[3].startswith(f"measured: PTB, LSTM, rate 0.00 -> {mean('remedies-ptb', 'ptb', 'anneal'):.2f} nats")
    assert FIGURE_4 and {path for path in re.findall(r"results/([\w-]+)\.json", evidence)} <= {
        p.stem for p in RESULTS.glob("*.json")
    }
