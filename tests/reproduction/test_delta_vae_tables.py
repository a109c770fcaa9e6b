"""The reproduction of the delta-VAE: what is computed, what is derived of reports, and what its tables say in words."""

import json
import math
import re

import pytest
import torch
from command_line import skipvae
from page_text import plain
from pyro.distributions import Bernoulli, Normal

from pyro_skipvae.reproduction import analyses, binarisation, committed_rate_study
from pyro_skipvae.reproduction.page import page_of
from pyro_skipvae.reproduction.tables import cells, committed_results, identity, load_table, read_results, value_of
from pyro_skipvae.reproduction.words import notes, orderings

DELTA = ("delta-vae-figure3", "delta-vae-figure4", "delta-vae-table6", "delta-vae-text")


def entry(run, **report):
    """A stored run with the numbers that these tests ask for."""
    counts = ("points", "elbo_points", "log_likelihood_points", "importance_samples", "importance_samples_tenth")
    data = {"name": run.config.dataset, "checksum": "0" * 64, "event_shape": [2, 2]}
    card = {**dict.fromkeys(counts, 10), "unavailable": {}, "beyond_budget": [], "notes": [], "code": "", "protocol": "default"}
    whole = {"elbo": -80.0, "rate": 1.0, "distortion": 79.0, "mi_lower": None, "active_units": 3, "standard_errors": {}}
    whole |= {"mi_ceiling": 2.3, "active_unit_variances": [1.0], "card": {**card, "data": data, "device": "cpu"}}
    place = {"row": run.row, "arm": run.arm, "seed": run.seed, "scaled": run.scaled}
    whole["standard_errors"] = dict.fromkeys(("elbo", "rate", "distortion"), 0.1)
    return {**place, "settings": identity(run.config), "epochs": 2, "seconds": 1.0, "report": whole | report}


def test_figure_1_is_computed_and_has_the_published_numbers_beside(tmp_path):
    done = skipvae("reproduce", "delta-vae-figure1", "--html", "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for number in ("0.144", "0.511", "1.164", "79.45", "666.6", "1.17"):
        assert number in done.stdout
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img") == 2 and "0 of 0" not in plain(page) and "seeds" not in done.stdout
    for flags in (("--epochs", 2), ("--train",)):
        refused = skipvae("reproduce", "delta-vae-figure1", *flags, cwd=tmp_path)
        assert refused.returncode == 2 and f"no {flags[0]} for delta-vae-figure1, which is computed" in refused.stderr
    refused = skipvae("reproduce", "delta-vae-text", "--full-data", cwd=tmp_path)
    assert refused.returncode == 2 and "no --full-data for delta-vae-text, which has no such size" in refused.stderr


def test_the_contours_are_of_the_posterior_that_attains_the_bound():
    figure = committed_rate_study.contours_figure()
    prior, _, nearest, _ = figure.axes[2].lines  # correlation 0.8
    radius = torch.tensor(nearest.get_xydata()).norm(dim=1)
    assert torch.allclose(radius, torch.full_like(radius, math.sqrt(1 - 0.8**2)))
    points = torch.tensor(prior.get_xydata())
    precision = torch.linalg.inv(torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64))
    assert torch.allclose(((points @ precision) * points).sum(1), torch.ones(len(points), dtype=torch.float64))


def test_bits_per_dimension_with_the_rate_in_brackets():
    table = load_table("delta-vae-table6")
    run = next(run for run in table.runs if (run.row, run.arm) == ("cifar10, low rate", "non-causal"))
    found = entry(run, elbo=-4 * math.log(2) * 3, rate=math.log(2))
    found["report"]["card"]["auxiliary_prior"] = {
        "rate": {"value": 0.4 * math.log(2), "low": 0.0, "high": 1.0}, "elbo": -4 * math.log(2) * 2.9,
    }  # fmt: skip
    columns = ("bits", "bits_kl", "auxiliary_bits", "auxiliary_bits_kl")
    assert [value_of(found, column) for column in columns] == pytest.approx([3, 0.25, 2.9, 0.1])
    cell = cells(table, [found])[run.row, run.arm]["bits"]
    assert (cell.published, cell.bracketed.published) == (3.04, 0.02) and cell.bracketed.ours == pytest.approx(0.25)
    text = plain(page_of(table, [found]))
    assert "3.00 (0.25)" in text and "published 3.04 (0.02)" in text
    without = value_of(entry(run), "auxiliary_bits")
    assert without is None


def test_compared_places_are_told_with_intervals_and_verdicts():
    table = load_table("delta-vae-figure4")
    runs = {(run.row, run.arm): run for run in table.runs}
    first, second = runs["delta-VAE, 8 nats", "skip"], runs["delta-VAE, 8 nats", "plain"]
    entries = [entry(first, elbo=-79.0), entry(second)]
    for found, elbos, accuracy in zip(entries, ([-78.0, -79.1, -80.0], [-79.0, -80.0, -81.1]), (90.0, 89.9), strict=True):
        found["elbo_per_point"] = elbos
        found["analysis"] = {"linear-probe": {"linear_probe": accuracy, "linear_probe_error": 0.5}}
    (sentence,) = orderings(table, entries)
    assert re.search(r"ELBO \+1 \(paired on 3 test points: \+1.00, \+0.75 to \+1.25\);", sentence)
    assert "linear probe, % +0.10 (unpaired over test points: -1.29 to +1.49), not shown" in sentence
    assert orderings(table, entries[:1]) == []


def test_epochs_in_which_a_committed_rate_was_held_are_counted():
    table = load_table("delta-vae-figure4")
    run = table.runs[0]
    held = entry(run) | {"committed_rate": 8.0, "rates": [8.5, 12.0], "analysis": {"linear-probe": {}}}
    assert any("in 2 of 2 epochs of 1 runs; it was above by 0.50 nats" in note for note in notes(table, [held]))
    broken = held | {"rates": [7.5, 12.0]}
    assert any("in 1 of 2 epochs" in note for note in notes(table, [broken]))


@pytest.mark.parametrize("name", DELTA)
def test_every_epoch_of_every_delta_run_that_is_kept_has_a_rate_above_the_committed_one(name):
    entries = [e for e in read_results(committed_results() / f"{name}.json") if e["settings"].get("prior") == "ar1"]
    for found in entries:
        card = found["report"]["card"]
        assert found["committed_rate"] == pytest.approx(card["committed_rate"]) and len(found["rates"]) == found["epochs"]
        assert min(found["rates"]) >= found["committed_rate"] - 1e-3
        assert found["report"]["rate"] >= found["committed_rate"] - 1e-3
        # The rate against any other prior bounds the information from above, and the lower bound is below it.
        assert card["auxiliary_prior"]["rate"]["high"] >= found["report"]["mi_lower"]["low"]


def test_draws_for_one_z_share_it_and_images_are_packed_without_loss():
    seen = []

    def decoder(z):
        seen.append(z)
        return Bernoulli(torch.sigmoid(z[:, :1, None] * torch.ones(2, 3, 3)[:1])).to_event(2)

    same, different = analyses.draws_by_latent(Normal(torch.zeros(1), 9.0), decoder, rows=2, columns=4)
    assert same.shape == different.shape == (8, 3, 3)
    assert len(seen[0].unique()) == 2 and (seen[0][:4] == seen[0][0]).all() and len(seen[1].unique()) == 8
    packed = analyses._packed(same)
    assert json.loads(json.dumps(packed)) == packed and torch.equal(analyses.unpacked(packed, 3).float(), same)


def test_which_binarisation_is_nearer_is_told_only_where_an_interval_says_so():
    table = load_table("binarisation")
    runs = {(run.row, run.arm): run for run in table.runs}
    own = [runs[f"MLP, 4 layers, {name}", "skip"] for name in ("mnist", "mnist-static")]
    (sentence,) = binarisation.findings(table, [entry(own[0], elbo=-92.0), entry(own[1], elbo=-98.0)])
    assert "published -93.79; mnist is nearer, by 2.42" in sentence
    (sentence,) = binarisation.findings(table, [entry(own[0], elbo=-92.0), entry(own[1], elbo=-95.7)])
    assert "which is nearer is not shown" in sentence
    shorter = {**entry(own[1], elbo=-98.0), "epochs": 20}
    (sentence,) = binarisation.findings(table, [{**entry(own[0], elbo=-92.0), "epochs": 100}, shorter])
    assert "which is nearer is not shown: runs of 20 and 100 epochs" in sentence
    assert binarisation.findings(table, []) == ["It waits for its runs."]
