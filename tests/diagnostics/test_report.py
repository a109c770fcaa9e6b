"""The collapse report as an object: its verdict, budget, card, table and JSON."""

import copy
import dataclasses
import json
import math
import pickle
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

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
from pyro_skipvae.diagnostics.report import table
from pyro_skipvae.diagnostics.report.card import FIELDS
from pyro_skipvae.diagnostics.report.sizes import HELD, TABLE, Sizes, sizes_of
from pyro_skipvae.diagnostics.report.verdict import KINDS, Verdict, verdict
from pyro_skipvae.reports.rendering import nats

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
    for part in ("ELBO", "ceiling of the lower bound", f"{math.log(400):.3f}", f"{found.mi_lower.low:.3f}", found.verdict):
        assert part in text
    assert "Saturated" not in text
    assert "Saturated" in str(collapse_report(model, guide, X[:5], importance_samples=1))


def test_numbers_keep_their_digits_and_no_zero_is_negative():
    assert [table._number(value) for value in (-0.0001, -12345.678, -999.5)] == ["0.000", "-12,345.7", "-999.500"]
    assert nats(-0.0001) == "0.000" and nats(-1234.5) == "\N{MINUS SIGN}1,234.50"
    none = {"loss": Interval(-0.0001, -0.0002, 0.0001), "active": 0, "dimensions": 2, "points": 100}
    assert "-0.000" not in verdict(**none, information=0.0)


def test_names_of_sites_are_no_markup():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z[top]", dist.Normal(torch.zeros(len(x), 2, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(pyro.sample("z[/a]", dist.Normal(z, 1.0).to_event(1)), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z[top]", dist.Normal(x / 3, 0.8).to_event(1))
            pyro.sample("z[/a]", dist.Normal((z + x) / 2, 0.7).to_event(1))

    found = collapse_report(model, guide, torch.randn(40, 2, dtype=torch.float64), importance_samples=2)
    for name in ("z[top]", "z[/a]"):
        assert name in str(found) and name in found._repr_html_()


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
    found = collapse_report(slow_model, guide, X, importance_samples=200, budget=0.5)
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


def told(low, high, loss, error, active=20, **more):
    lost = None if loss is None else Interval(loss, loss - 1.96 * error, loss + 1.96 * error)
    return verdict(active=active, dimensions=50, points=100, loss=lost, information_low=low, information=high, **more)


@pytest.mark.parametrize(
    "low, high, loss, error, kind",
    [
        (0.0, 0.095, 0.10, 0.05, "collapsed"),  # z says less than 0.1 nats, whatever the loss
        (0.0, 0.095, -135.0, 573.0, "collapsed"),
        (0.0, 0.11, 0.10, 0.05, "undecided"),
        (0.0, 0.11, 0.05, 0.02, "collapsed"),
        (1.5, 2.0, 0.05, 0.02, "collapsed on the decoder's side"),
        (None, None, 0.05, 0.02, "collapsed"),
        (None, None, 0.05, 0.03, "undecided"),  # 0.05 + 1.96 0.03 > 0.1: decided by the end, not by the value
        (1.5, 2.0, -135.0, 573.0, "undecided"),
        (1.5, 2.0, -0.5, 1.0, "undecided"),
        (1.5, 2.0, -30.0, 1.0, "undecided"),
        (1.5, 2.0, 1.0, 0.9, "undecided"),
        (1.5, 2.0, None, None, "undecided"),
        (1.5, 2.0, math.nan, math.nan, "undecided"),
        (1.5, 2.0, 5.0, math.nan, "undecided"),
        (1.0, 1.1, 2.9, 0.1, "weakly used"),
        (2.2, 2.35, 2.9, 0.1, "not collapsed"),  # the upper end is above ln 10
        (7.2, 14.0, 51.0, 2.0, "not collapsed"),
        (None, None, 51.0, 2.0, "not collapsed"),
        (1.0, 14.0, math.inf, 0.0, "not collapsed"),
    ],
)
def test_verdict_is_decided_by_the_ends_of_intervals(low, high, loss, error, kind):
    found = told(low, high, loss, error, elements=784)
    assert found.kind == kind and found.kind in KINDS
    assert str(found) == found.sentence == found and found.endswith("collapsed." if "undec" not in kind and "side" not in kind
                                                                     and "weak" not in kind else f"{kind}.")  # fmt: skip


def test_three_models_that_differ_get_three_verdicts():
    """Rates of 0.09, 1.06 and 14 nats, with 1, 46 and 32 of 50 units: their numbers of units say nothing of that."""
    nearly = told(0.0, 0.095, 0.10, 0.05, active=1, nats_of_x=95.0)
    weakly = told(0.95, 1.08, 2.9, 0.1, active=46, nats_of_x=24.0)
    well = told(7.2, 14.2, 51.0, 1.0, active=32, nats_of_x=90.0)
    assert [found.kind for found in (nearly, weakly, well)] == ["collapsed", "weakly used", "not collapsed"]
    assert weakly == (
        "z says 0.95 to 1.08 nats of x (4 to 4.5 % of its 24.0 nats, -log p(x)); the decoder loses 2.90 nats (2.70 to 3.10) "
        "when z is shuffled; 46 of 50 units active: not collapsed, but z is weakly used."
    )
    assert well.amounts["share"]["high"] == pytest.approx(14.2 / 90) and well.amounts["loss"]["value"] == 51
    assert "32 of 50 units active: not collapsed." in well and "partly" not in nearly + weakly + well


def test_few_nats_that_are_much_of_x_are_not_weak():
    """Two clusters: ln 2 nats are all that there is to say of which one it is."""
    assert told(0.6, 0.7, 2.9, 0.1, nats_of_x=1.4).kind == "not collapsed"
    assert told(0.6, 0.7, 2.9, 0.1, nats_of_x=140.0).kind == "weakly used"
    assert told(0.6, 0.7, 2.9, 0.1, nats_of_x=-3.0).amounts["share"] is None  # a density has no share
    assert told(0.6, 0.7, 2.9, 0.1, elements=3).kind == "not collapsed"  # 37 % of the variance of three numbers
    assert told(0.6, 0.7, 2.9, 0.1, elements=560).kind == "weakly used"
    assert told(0.6, 0.7, 2.9, 0.1).kind == "not collapsed"  # nothing to compare with, so nothing is claimed


def test_sentence_says_what_the_amounts_do_not_show():
    assert "z varies on a scale below the threshold of active units: not collapsed." in told(7.0, 9.0, 3.0, 0.1, active=0)
    assert "so the encoder does not fit it: undecided." in told(1.5, 2.0, -30.0, 1.0)
    assert "the decoder ignores it: collapsed on the decoder's side." in told(1.5, 2.0, 0.0, 0.0)
    assert "active units unknown" in told(1.5, 2.0, 0.0, 0.0, active=None)
    assert told(1.5, 2.0, math.nan, 0.0).finding.count("is not known") == 1
    assert told(None, 0.2, 3.0, 0.1).startswith("z says at most 0.20 nats of x;")
    assert told(0.5, None, 3.0, 0.1).startswith("z says at least 0.50 nats of x;")


def test_verdict_is_stored_with_kind_and_amounts(found):
    stored = json.loads(found.to_json())["verdict"]
    assert stored == found.verdict.to_dict() and stored["kind"] == found.verdict.kind
    again = CollapseReport.from_json(found.to_json()).verdict
    assert again == found.verdict and again.kind == found.verdict.kind and again.amounts == found.verdict.amounts
    for copied in (copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        assert copied == again and copied.to_dict() == again.to_dict()


@pytest.mark.parametrize(
    "sentence, kind",
    [
        ("0 of 4 units active; the decoder loses 0.01 nats when z is shuffled: collapsed.", "collapsed"),
        ("3 of 4 units active; the decoder loses 12.3 nats when z is shuffled: partly collapsed.", "not collapsed"),
        ("4 of 4 units active; the decoder loses 12.3 nats when z is shuffled: not collapsed.", "not collapsed"),
        ("2 of 4 units active; ...: it does better with the z of other points, so the encoder does not fit it.", "undecided"),
        ("4 of 4 units active; ...: the units vary but the decoder ignores z: collapsed on the decoder's side.",
         "collapsed on the decoder's side"),
        ("The model has no latent variables: there is nothing to collapse.", "no latent variables"),
    ],
)  # fmt: skip
def test_verdict_of_an_older_report_is_its_sentence(found, sentence, kind):
    older = json.loads(found.to_json()) | {"verdict": sentence}
    del older["elbo_on_log_likelihood_points"]
    again = CollapseReport.from_json(json.dumps(older))
    assert again.verdict == sentence and again.verdict.kind == kind and again.elbo_on_log_likelihood_points is None
    assert sentence in str(again)


def test_densities_have_no_share_and_probabilities_have(found):
    assert found.verdict.amounts["nats_of_x"] is None  # a normal p(x|z)

    def coins(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z).to_event(1), obs=(x > 0).double())

    of_coins = collapse_report(coins, guide, X, importance_samples=20)
    assert of_coins.verdict.amounts["nats_of_x"] == -of_coins.log_likelihood and "% of its 2" in of_coins.verdict


def test_sizes_are_kept_and_do_not_depend_on_the_machine():
    sizes = Sizes(points=300, elbo_points=200, elbo_samples=2, log_likelihood_points=50, model_points=60)
    sized = collapse_report(model, guide, X, importance_samples=20, posterior_samples=3, sizes=sizes)
    card = sized.card
    assert (card["points"], card["elbo_points"], card["elbo_posterior_samples"]) == (300, 200, 2)
    assert (card["log_likelihood_points"], card["model_mutual_information_points"]) == (50, 60)
    assert card["beyond_budget"] == [] and card["budget_seconds"] is None
    assert "ELBO on the same points" in str(sized) and "on the first 50 points" in str(sized)
    with pytest.raises(ValueError, match="expected a kind of decoder out of feed-forward, autoregressive image, text"):
        sizes_of("recurrent", 10)


def test_every_size_keeps_the_log_likelihood_among_the_points_of_the_elbo():
    for sizes in TABLE.values():
        assert sizes.log_likelihood_points <= sizes.elbo_points <= sizes.points
    assert sizes_of("text", 21) != sizes_of("text", 82) and sizes_of("feed-forward", 10**4).points == 10_000


def test_elbo_on_the_points_of_the_log_likelihood_is_below_it():
    """The first rows are far easier than the others: the ELBO on all points is no bound for the log-likelihood of the first."""
    x = torch.cat([X[:50], 6 + X])
    sizes = Sizes(10**6, 10**6, 10, 50, 50)
    mixed = collapse_report(model, guide, x, importance_samples=50, sizes=sizes)
    alone = collapse_report(model, guide, X[:50], importance_samples=50)
    assert mixed.elbo < mixed.elbo_on_log_likelihood_points - 10
    assert mixed.elbo_on_log_likelihood_points < mixed.log_likelihood
    assert mixed.elbo_on_log_likelihood_points == pytest.approx(alone.elbo, abs=0.5)
    assert mixed.estimates()["elbo_on_log_likelihood_points"].points == 50


def test_few_effective_samples_are_a_warning(found):
    assert "effective samples, median" in str(found) and "effective samples of" not in str(found)

    def far(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + 3, 0.1).to_event(1))

    poor = collapse_report(model, far, X[:60], importance_samples=20)
    assert poor.effective_sample_size["median"] < 10
    assert f"Warning: log p(x) rests on {poor.effective_sample_size['median']:.1f} effective samples of 20" in " ".join(
        str(poor).split()
    )


def test_the_convention_of_one_paper_is_shown_without_that_of_the_other(found):
    text = str(dataclasses.replace(found, mi_he_2019_batch_32=None))
    assert "papers' conventions" in text and "Dieng 2019" in text and "He 2019" not in text
    text = str(dataclasses.replace(found, mi_dieng_2019=None))
    assert "papers' conventions" in text and "He 2019" in text and "Dieng 2019" not in text


def test_a_posterior_that_leaves_the_prior_is_said_to_have_holes(found):
    def apart(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + 4, 0.6).to_event(1))  # 24 nats more of KL(q(z) || p(z))

    said = str(collapse_report(model, apart, X, importance_samples=1))
    assert "Holes in q(z): at least 2" in said and "Holes" not in str(found)


def test_report_in_a_notebook_and_in_a_debugger(found):
    assert len(repr(found).splitlines()) <= 4 and found.verdict in repr(found) and f"elbo={found.elbo:.2f}" in repr(found)
    odd = dataclasses.replace(found, card=found.card | {"notes": ["<u>&"]}, verdict=Verdict("<i>", "undecided"))
    shown = odd._repr_html_()
    assert "<u>&" not in shown and "<i>" not in shown and "&lt;u&gt;&amp;" in shown and "&lt;i&gt;" in shown
    assert f"{found.elbo:.3f}" in shown and shown.count("<table>") == 1


def test_report_as_plain_values(found):
    plain = found.to_dict()
    assert plain["mi_lower"] == vars(found.mi_lower) and json.loads(found.to_json()) == json.loads(json.dumps(plain))
    assert type(plain["verdict"]) is dict


def test_report_as_a_frame(found, monkeypatch):
    class Frame:
        def __init__(self, rows):
            self.rows = rows

        def set_index(self, name):
            return {row.pop(name): row for row in self.rows}

    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=Frame))
    frame = found.to_frame()
    assert frame["elbo"]["value"] == found.elbo and frame["mi_lower"]["high"] == found.mi_lower.high
    assert frame["rate"]["points"] == 400 and set(frame["rate"]) == {"value", "low", "high", "points"}
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="install pandas"):
        found.to_frame()


def test_card_names_the_code(found):
    code = found.card["code"]
    assert code and "\n" not in code
    if (Path(__file__).parents[2] / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
        assert head.returncode or head.stdout[:8] in code or "-g" not in code


def test_what_is_asked_for_must_make_sense():
    with pytest.raises(ValueError, match="samples, at least 1, got"):
        collapse_report(model, guide, X, importance_samples=0)
    with pytest.raises(ValueError, match="at least 2 rows"):
        collapse_report(model, guide, X[:1])


def test_a_report_holds_no_more_points_than_memory_does_at_ease():
    large = sizes_of("feed-forward", 3 * 256 * 256)
    assert large.points == large.elbo_points == HELD // (3 * 256 * 256) == 1365 and large.log_likelihood_points == 200
    assert sizes_of("feed-forward", 3 * 64 * 64) == TABLE["feed-forward", float("inf")]
    assert sizes_of("feed-forward", 2**28).points == 2
