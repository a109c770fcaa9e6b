"""The collapse report as an object: its verdict, budget, card, table and JSON."""

import dataclasses
import json
import math
import time

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_skipvae import collapse_report as top_level
from pyro_skipvae.diagnostics import (
    CollapseReport,
    Interval,
    MutualInformation,
    active_units,
    collapse_report,
    mutual_information,
    rate,
)
from pyro_skipvae.diagnostics.report.card import FIELDS
from pyro_skipvae.diagnostics.report.verdict import verdict

X = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
calls = []


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        calls.append(len(x))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def slow_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        time.sleep(2e-5 * len(x))  # the decoder; reading p(z) stops before it
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.6).to_event(1))


@pytest.fixture(scope="module")
def found():
    return collapse_report(model, guide, X, importance_samples=20, posterior_samples=3, card={"data": "noise"})


def test_public_name():
    assert top_level is collapse_report


def test_json_round_trip(found):
    text = found.to_json()
    assert CollapseReport.from_json(text) == found
    fields = json.loads(text)
    assert set(fields["mi_lower"]) == {"value", "low", "high"}
    assert fields["card"]["data"] == "noise" and fields["elbo"] == found.elbo
    assert isinstance(CollapseReport.from_json(text).mi_upper, Interval)
    assert isinstance(CollapseReport.from_json(text).model_mutual_information, MutualInformation)


def test_what_is_not_finite_becomes_null(found):
    odd = dataclasses.replace(found, elbo=-math.inf, mi_upper=Interval(math.inf, math.nan, math.inf))
    fields = json.loads(odd.to_json())
    assert fields["elbo"] is None and fields["mi_upper"] == {"value": None, "low": None, "high": None}
    again = CollapseReport.from_json(odd.to_json())
    assert math.isnan(again.elbo) and math.isnan(again.mi_upper.value)
    assert again.to_json() == odd.to_json()


def test_card_says_how(found):
    card = found.card
    assert card["points"] == card["elbo_points"] == card["log_likelihood_points"] == 400
    assert (card["posterior_samples"], card["elbo_posterior_samples"], card["importance_samples"]) == (3, 3, 20)
    assert card["estimators"]["rate"] == "closed form" and card["posterior_family"] == "Normal"
    assert "200 points of a random half of x" in card["mi_marginal_reference"]
    assert card["versions"]["torch"] == torch.__version__ and "pyro_skipvae" in card["versions"]
    assert card["seed"] == 0 and card["dtype"] == "torch.float64" and card["beyond_budget"] == []
    assert set(card) == {*FIELDS, "data"}
    with pytest.raises(ValueError, match=r"\['points'\]"):
        collapse_report(model, guide, X[:60], importance_samples=1, card={"points": 3})


def test_one_seed_one_report(found):
    again = collapse_report(model, guide, X, importance_samples=20, posterior_samples=3, card={"data": "noise"})
    assert again == found
    other = collapse_report(model, guide, X, importance_samples=20, posterior_samples=3, seed=1)
    assert other.elbo != found.elbo and other.mi_lower != found.mi_lower


def test_reference_set_of_the_marginal():
    shifted = collapse_report(model, guide, X, importance_samples=1, fit_on=X + 2)
    own = collapse_report(model, guide, X, importance_samples=1, fit_on=X)
    assert "400 points of fit_on" in shifted.card["mi_marginal_reference"]
    assert shifted.mi_marginal.value > own.mi_marginal.value + 1  # r(z) of other data pays KL(q(z) || r(z))


def test_the_marginal_does_not_see_the_order_of_its_rows():
    """Ten clusters, sorted: a part of the rows chooses the mixture, and must not be clusters that the rest lacks."""
    centres = 8 * torch.randn(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = centres.repeat_interleave(60, 0) + 0.1 * torch.randn(600, 2, dtype=torch.float64)

    def near(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(x, 0.1).to_event(1))

    def clusters(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 8.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.1).to_event(1), obs=x)

    bounds = [mutual_information(clusters, near, x, fit_on=rows).marginal.value for rows in (x, x[torch.randperm(600)])]
    assert bounds[0] == pytest.approx(bounds[1], abs=0.15) and bounds[0] < 4


@pytest.mark.parametrize("tokens", [[3] * 30, torch.full((20,), 3), torch.full((50,), 3), torch.ones(30, 1), torch.zeros(30)])
def test_tokens_are_one_number_a_row(tokens):
    with pytest.raises(ValueError, match=r"expected tokens to be a tensor \(30,\) of how many tokens each row has, 1 at least"):
        collapse_report(model, guide, X[:30], importance_samples=1, tokens=tokens)


def test_table_is_plain_text_with_ceilings(found):
    text = str(found)
    assert "\x1b" not in text and max(map(len, text.splitlines()[:-1])) <= 100
    for part in ("ELBO", "ceiling ln N", f"{math.log(400):.3f}", f"{found.mi_lower.low:.3f}", found.verdict):
        assert part in text
    assert "Saturated" not in text
    assert "Saturated" in str(collapse_report(model, guide, X[:5], importance_samples=1))


def test_rows_bound_the_decoder():
    calls.clear()
    collapse_report(model, guide, X, importance_samples=2, posterior_samples=1, rows=64)
    assert calls and max(calls) <= 64


def test_rate_and_information_do_not_run_the_decoder():
    calls.clear()
    for function in (rate, mutual_information, active_units):
        function(model, guide, X)
    assert max(calls) <= 3  # the first look at the pair


def test_budget_takes_what_fits():
    start = time.perf_counter()
    found = collapse_report(slow_model, guide, X, importance_samples=200, budget=0.5)
    assert time.perf_counter() - start < 10
    card = found.card
    assert card["points"] == 400 and found.mi_ceiling == pytest.approx(math.log(400))
    # At least 20 microseconds a row: 400 x 200 samples would take 1.6 s, 50 x 200 take 0.2 s.
    assert card["log_likelihood_points"] in (50, 100)
    assert 1 <= card["elbo_posterior_samples"] <= 10
    text = " ".join(card["beyond_budget"])
    assert "importance sampling with 200 samples on 400 points: about " in text
    assert any("speed of the machine" in note for note in card["notes"])
    assert "Beyond the budget" in str(found)


def test_smallest_step_is_always_taken():
    found = collapse_report(slow_model, guide, X, importance_samples=5, budget=1e-6)
    assert found.card["elbo_points"] == found.card["log_likelihood_points"] == 50
    assert found.card["elbo_posterior_samples"] == 1
    assert found.model_mutual_information is None
    assert "fit the budget" in found.card["unavailable"]["model_mutual_information"]


def test_what_the_smallest_step_covers_is_not_beyond_the_budget():
    found = collapse_report(slow_model, guide, X[:40], importance_samples=5, budget=1e-6)
    assert found.card["elbo_points"] == found.card["log_likelihood_points"] == 40
    told = found.card["beyond_budget"]
    assert any("draws per point" in words for words in told) and not any("importance sampling" in words for words in told)


def test_ample_budget_is_no_limit(found):
    ample = collapse_report(model, guide, X, importance_samples=20, posterior_samples=3, budget=1000)
    assert ample.card["beyond_budget"] == []
    assert ample.card["log_likelihood_points"] == 400 and ample.card["elbo_posterior_samples"] == 3
    assert ample.log_likelihood == pytest.approx(found.log_likelihood, abs=0.1)


def test_progress_reaches_the_end_of_every_stage():
    seen = {}
    collapse_report(
        model, guide, X, importance_samples=15, progress=lambda stage, done, total: seen.update({stage: (done, total)})
    )
    assert set(seen) == {"encoder", "mutual information", "ELBO", "importance sampling"}
    assert all(done == total for done, total in seen.values())


@pytest.mark.parametrize(
    "active, loss, error, expected",
    [
        (50, 12.3, 1.0, "50 of 50 units active; the decoder loses 12.3 nats when z is shuffled: not collapsed."),
        (4, 12.3, 1.0, "4 of 50 units active; the decoder loses 12.3 nats when z is shuffled: partly collapsed."),
        (0, 0.01, 0.001, "0 of 50 units active; the decoder loses 0.01 nats when z is shuffled: collapsed."),
        (9, 0.05, 0.001, "the decoder ignores z: collapsed on the decoder's side."),
        (9, 1.0, 0.9, "the decoder loses 1.0 nats when z is shuffled, which these points do not tell from 0: undecided."),
        (0, 0.5, 0.9, "undecided."),
        (9, -30.0, 1.0, "it does better with the z of other points, so the encoder does not fit it."),
        (9, -0.5, 1.0, "the decoder ignores z: collapsed on the decoder's side."),
        (9, math.nan, math.nan, "what the decoder loses when z is shuffled is no number: it cannot be told."),
        (0, 3.0, 0.1, "not collapsed, z varies on a scale below the threshold of active units."),
        (3, math.inf, math.nan, "partly collapsed."),
    ],
)
def test_verdict(active, loss, error, expected):
    assert verdict(active=active, dimensions=50, loss=loss, error=error).endswith(expected)


def test_verdict_on_units_that_say_nothing():
    facts = {"active": 1, "dimensions": 5, "loss": 0.05, "error": 0.2}
    assert verdict(**facts, information=0.04).endswith("z says less than 0.1 nats of x: collapsed.")
    assert verdict(**facts, information=1.5).endswith("collapsed on the decoder's side.")


def test_what_is_asked_for_must_make_sense():
    with pytest.raises(ValueError, match="at least one sample"):
        collapse_report(model, guide, X, importance_samples=0)
    with pytest.raises(ValueError, match="at least 2 rows"):
        collapse_report(model, guide, X[:1])
