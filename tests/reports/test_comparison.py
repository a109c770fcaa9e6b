"""Comparison of runs: refused where cards disagree, exact where the answer is known, and modest about seeds."""

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyro.distributions as dist
import pytest
import torch
from command_line import skipvae
from scipy import stats
from small_runs import tiny_run, train
from torch import nn

from pyro_skipvae import VAE
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.reports import comparison as compare
from pyro_skipvae.reports import comparison_page
from pyro_skipvae.reports.comparison import Record, check_comparable, differing_settings, grouped, values_per_point
from pyro_skipvae.runs.config import Config

INTERVAL = {"value": 1.0, "low": 0.9, "high": 1.1}
REPORT = {
    "elbo": -24.0, "distortion": 22.5, "rate": 1.5, "log_likelihood": -23.0, "log_likelihood_tenth": -23.5,
    "shuffled_latent_loss": 3.0, "standard_errors": {"elbo": 0.5, "distortion": 0.4, "rate": 0.1}, "active_units": 3,
    "active_units_0_02": 2, "mi_ceiling": 4.0, "mi_lower": INTERVAL, "mi_marginal": None, "mi_upper": INTERVAL,
    "aggregate_kl": INTERVAL, "model_mutual_information": {"lower": INTERVAL, "upper": INTERVAL, "points": 50},
    "verdict": "3 of 4 units active: partly collapsed.",
    "card": {
        "schema": 1, "site": "z", "nuisance_sites": [], "observed_sites": ["x"], "points": 60, "posterior_samples": 10,
        "importance_samples": 200, "elbo_points": 60, "elbo_posterior_samples": 10, "log_likelihood_points": 50,
        "model_mutual_information_points": 50, "dtype": "torch.float32", "seed": 0,
        "estimators": {"rate": "closed form", "mutual_information": "own component"},
        "data": {"name": "digits", "checksum": "ab", "split": "first", "event_shape": [8, 8], "kind": "binary", "levels": 17,
                 "binarisation": "dynamic", "seed": 0, "limits": {"test": 60}},
    },
}  # fmt: skip


def record(name, *, report=REPORT, **settings):
    return Record(name, Path(name), Config(**settings), [], copy.deepcopy(report))


def values(*rows):
    """Per-point values with the ELBO given, and a rate and distortion of no interest."""
    return {"elbo": torch.tensor(rows, dtype=torch.float64), "rate": torch.ones(len(rows)), "distortion": torch.ones(len(rows))}


def edited_copy(folder, name, file, old, new):
    shutil.copytree(folder / "skip", folder / name)
    text = (folder / name / file).read_text()
    assert old in text
    (folder / name / file).write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    shutil.copytree(tiny_run(), folder / "skip")
    train(folder, "--decoder", "mlp", "--width", "16", "--skip", "none").rename(folder / "plain")
    # Training once more would show nothing else.
    edited_copy(folder, "other", "config.toml", "seed = 0", "seed = 1")
    edited_copy(folder, "static", "report.json", '"binarisation": "dynamic"', '"binarisation": "static"')
    return folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.name", "mnist"),
        ("data.checksum", "cd"),
        ("data.split", "last"),
        ("data.binarisation", "static"),
        ("data.limits.test", None),
        ("points", 100),
        ("posterior_samples", 1),
        ("importance_samples", 1000),
        ("estimators.rate", "Monte Carlo"),
        ("seed", 1),
    ],
)
def test_cards_that_disagree_are_refused_by_the_field(name, value):
    one, other = record("one"), record("other")
    place = other.report["card"]
    *path, last = name.split(".")
    for part in path:
        place = place[part]
    place[last] = value
    with pytest.raises(ValueError, match=f"got {name} .* in one and .* in other"):
        check_comparable([one, other])
    check_comparable([one, other], allowed=[name])
    check_comparable([one, other], allowed=[name.partition(".")[0]])
    assert compare.compare([one, other], allowed=[name]).notes[:1] == [f"The cards differ in {name}, which was allowed."]


def test_densities_are_not_compared_with_probabilities():
    grey = {"binarisation": "none"}
    one, other = record("one", likelihood="categorical", **grey), record("other", likelihood="discretised-logistic", **grey)
    check_comparable([one, other])
    with pytest.raises(ValueError, match="got categorical in one and normal in third"):
        check_comparable([one, other, record("third", likelihood="normal", **grey)])


def test_a_model_without_latent_variables_has_no_draws_to_agree_in():
    one, other = record("one"), record("other", model="autoregressive", skip="none", latent_dim=0, decoder="pixelcnn")
    other.report["card"] |= {"importance_samples": 1, "model_mutual_information_points": 0}
    found = compare.compare([one, other])
    assert "elbo" in found.estimates and not found.notes


def test_a_run_without_a_report_and_an_unknown_field_are_refused():
    with pytest.raises(ValueError, match="expected a report in every run, got none in other"):
        check_comparable([record("one"), record("other", report={})])
    with pytest.raises(ValueError, match="expected a field of the card out of"):
        check_comparable([record("one"), record("other")], allowed=["point"])
    with pytest.raises(ValueError, match="at least 2 runs"):
        compare.compare([record("one")])
    with pytest.raises(ValueError, match="one of them twice"):
        compare.compare([record("one"), record("one")])


def test_what_a_budget_cut_short_is_left_out_and_said():
    one, other = record("one"), record("other", skip="none", model="vae")
    other.report["card"]["log_likelihood_points"] = 20
    found = compare.compare([one, other])
    assert "elbo" in found.estimates and "log_likelihood" not in found.estimates
    assert found.notes == [
        "Not compared: log p(x), importance-weighted; log p(x), a tenth of the draws. The runs stand on 20 and 50 points."
    ]


def test_estimates_carry_intervals_and_the_points_behind_them():
    found, half = compare.estimates_of(REPORT), 2.000995 * 0.5  # the quantile of Student's t with 59 degrees of freedom
    assert vars(found["elbo"]) == pytest.approx({"value": -24.0, "low": -24.0 - half, "high": -24.0 + half, "points": 60})
    assert found["log_likelihood"] == compare.Estimate(-23.0, None, None, 50)  # it has no standard error here
    assert found["mi_lower"].high == 1.1 and "mi_marginal" not in found and found["model_mi_lower"].points == 50


def test_a_page_leaves_out_of_a_picture_what_a_run_does_not_have():
    one, other = record("one"), record("other", report={**REPORT, "rate": None, "distortion": None})
    both = SimpleNamespace(runs=["one", "other"])
    drawn = comparison_page._rate_distortion(both, [one, other])
    assert drawn["alt"].startswith("one: rate ") and "other" not in drawn["alt"]
    assert comparison_page._rate_distortion(SimpleNamespace(runs=["other"]), [other]) is None


def test_settings_that_differ_and_groups_of_seeds():
    records = [record("a"), record("b", seed=1), record("c", skip="first"), record("d", skip="first", seed=1, data_dir="/x")]
    assert differing_settings(records) == {
        "data_dir": [None, None, None, "/x"],
        "skip": ["all", "all", "first", "first"],
        "seed": [0, 1, 0, 1],
    }
    assert [[r.name for r in group] for group in grouped(records)] == [["a", "b"], ["c", "d"]]


def test_differences_are_paired_by_point():
    one, other = record("one"), record("other", skip="first")
    found = compare.compare([one, other], values={one.path: values(-10, -50, -90), other.path: values(-6, -45, -84)})
    d = found.differences[0]
    half = 4.302653 / math.sqrt(3)  # the differences 4, 5, 6 have the standard deviation 1; the points one of 40
    assert (d.quantity, d.of, d.minus, d.better, d.seed_error) == ("elbo", "other", "one", 1.0, None)
    assert (d.value, d.low, d.high) == pytest.approx((5, 5 - half, 5 + half)) and d.shown == 1


def test_over_seeds_the_standard_error_is_that_of_two_independent_means():
    records = [record("a"), record("b", seed=1), record("c", skip="first"), record("d", skip="first", seed=1)]
    given = [values(0, 0), values(2, 2), values(5, 5), values(9, 9)]
    found = compare.compare(records, values={r.path: v for r, v in zip(records, given, strict=True)})
    d = found.differences[0]
    assert d.value == 6 and d.seeds == (2, 2) and d.seed_error == pytest.approx(math.sqrt(2 / 2 + 8 / 2)) and d.low > 0
    half = stats.t.ppf(0.975, 25 / 17) * d.seed_error  # Welch: (1 + 4)^2 / (1^2 / 1 + 4^2 / 1) degrees of freedom
    assert d.over_seeds == pytest.approx((6 - half, 6 + half)) and d.over_seeds[0] < 0 and d.shown == 0
    assert replace(d, over_seeds=(0.1, 11.9)).shown == 1 and replace(d, over_seeds=(-11.9, -0.1)).shown == 0
    assert found.over_seeds["a"]["elbo"] == {"mean": -24.0, "standard_error": 0.0, "seeds": 2}


def test_a_run_that_was_made_twice_is_no_further_seed():
    records = [record("a"), record("again"), record("c", skip="first"), record("d", skip="first", seed=1)]
    given = [values(0, 0, 0), values(0, 0, 0), values(5, 5, 5), values(9, 9, 9)]
    found = compare.compare(records, values={r.path: v for r, v in zip(records, given, strict=True)})
    assert found.groups == {"a": ["a"], "c": ["c", "d"]} and set(found.over_seeds) == {"c"}
    assert (found.differences[0].seeds, found.differences[0].over_seeds) == ((2, 1), None)
    assert found.notes == ["again has the settings and the seed of a run before it: it is no further seed."]


class Known(nn.Module):
    """p(x|z) = N(x; z, 1) or q(z|x) = N(x / 2, 1/2), the exact posterior of a standard normal prior."""

    def __init__(self, posterior, transformed=False):
        super().__init__()
        self.posterior, self.transformed = posterior, transformed

    def forward(self, x):
        loc, scale = (x / 2, torch.full_like(x, 0.5**0.5)) if self.posterior else (x, torch.ones_like(x))
        found = dist.Normal(loc, scale)
        if self.transformed:  # the same distribution, without a closed form of its KL
            found = dist.TransformedDistribution(found, [dist.transforms.AffineTransform(0.0, 1.0)])
        return found.to_event(1)


@pytest.mark.parametrize("transformed", [False, True])
def test_values_per_point_of_a_linear_gaussian_model(transformed):
    vae = VAE(StandardNormal(2), Known(False), Known(True, transformed))
    x = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    found = values_per_point(vae, x, samples=2_000)
    # Its posterior is exact, so that the ELBO is log N(x; 0, 2), and KL = sum of (1/2 + x^2/4 - 1 + log 2) / 2.
    exact = dist.Normal(0.0, 2**0.5).log_prob(x).sum(1).double()
    rate = ((x**2 / 4 - 0.5 + math.log(2)) / 2).sum(1).double()
    # log p(x|z) and log q - log p have standard deviations below 2: four standard errors of 2,000 draws.
    assert torch.allclose(found["elbo"], exact, atol=4 * 2 / 2_000**0.5)
    assert torch.allclose(found["rate"], rate, atol=4 * 2 / 2_000**0.5 if transformed else 1e-6)
    assert torch.allclose(found["elbo"], -found["rate"] - found["distortion"])


def test_runs_on_disk_are_compared_with_the_same_noise(trained):
    done = skipvae("compare", "plain", "skip", "other", "--json", cwd=trained)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == 1 and found["points"] == 60 and found["groups"] == {"plain": ["plain"], "skip": ["skip", "other"]}
    assert found["settings"] == {"model": ["vae", "skip-vae", "skip-vae"], "skip": ["none", "all", "all"], "seed": [0, 0, 1]}
    again = skipvae("compare", "plain", "skip", "other", "--json", cwd=trained)
    assert again.stdout == done.stdout and not done.stderr
    records = [compare.read_record(trained / name) for name in ("skip", "plain")]
    drawn = compare.paired_values(records, samples=20)
    for found in records:  # the report has its own draws of z for the same points
        error = found.report["standard_errors"]["elbo"]
        assert drawn[found.path]["elbo"].mean().item() == pytest.approx(found.report["elbo"], abs=error)


def test_log_likelihoods_are_compared_on_the_same_points(trained):
    options = ("plain", "skip", "--importance-samples", "20")
    found = json.loads(skipvae("compare", *options, "--json", cwd=trained).stdout)
    (pair,) = [d for d in found["differences"] if d["quantity"] == "log_likelihood"]
    records = [compare.read_record(trained / name) for name in ("plain", "skip")]
    values = compare.paired_values(records, importance_samples=20)
    plain, skip = (values[record.path]["log_likelihood"] for record in records)
    assert pair["value"] == pytest.approx((skip - plain).mean().item()) and pair["low"] < pair["value"] < pair["high"]
    assert pair["better"] == (skip > plain).double().mean().item()
    for record in records:
        tenth, whole = (record.report[name] for name in ("log_likelihood_tenth", "log_likelihood"))
        assert values[record.path]["log_likelihood"].mean().item() == pytest.approx(whole, abs=3 * (whole - tenth) + 0.05)
    assert skipvae("report", *options, "--out", "likely.html", cwd=trained).returncode == 0
    assert "log p(x)</th>" in (trained / "likely.html").read_text()


def test_the_budget_limits_the_points_and_zero_leaves_the_pairs_out(trained, monkeypatch):
    monkeypatch.setattr(compare, "CHUNK", 10)
    records = [compare.read_record(trained / name) for name in ("skip", "plain")]
    assert len(compare.paired_values(records, seconds=0)[records[0].path]["elbo"]) == 10
    done = skipvae("compare", "skip", "plain", "--budget", "0", cwd=trained)
    assert done.returncode == 0 and "better" not in done.stdout and "ELBO" in done.stdout


def test_without_a_budget_the_points_are_as_many_as_in_the_reports():
    records = [SimpleNamespace(report={"card": {"elbo_points": n, "log_likelihood_points": n // 10}}) for n in (90, 70)]
    assert compare.paired_points(records) == 70 and compare.paired_points(records, importance_samples=5) == 7
    assert compare.paired_points([SimpleNamespace(report={})]) is None


def test_text_gives_the_answer_first_and_the_page_too(trained):
    done = skipvae("compare", "plain", "skip", cwd=trained)
    first = done.stdout.splitlines()[0]
    assert "plain" in first and "skip" in first and "ELBO" in first
    done = skipvae("report", "plain", "skip", "--out", "both.html", cwd=trained)
    assert done.stdout == "both.html\n" and done.returncode == 0
    html = (trained / "both.html").read_text()
    assert html.index("Settings in which they differ") < html.index("Estimates of each run")
    again = skipvae("report", "plain", "skip", "--out", "again.html", cwd=trained)
    assert again.returncode == 0 and (trained / "again.html").read_text() == html


def test_runs_that_cannot_be_compared_exit_with_2(trained):
    done = skipvae("compare", "skip", "static", cwd=trained)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "data.binarisation" in done.stderr and not done.stdout
    assert skipvae("report", "skip", "static", cwd=trained).returncode == 2
    assert skipvae("compare", "skip", "nowhere", cwd=trained).returncode == 4
