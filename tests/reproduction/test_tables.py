"""Tables of the paper: what is planned, what is known as done, what the words say of an ordering, and the command."""

import contextlib
import copy
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import SCRIPT, skipvae

from pyro_skipvae.diagnostics.report.report import STORED
from pyro_skipvae.reproduction import analyses
from pyro_skipvae.reproduction import page as reproduction_page
from pyro_skipvae.reproduction import tables as reproduction
from pyro_skipvae.reproduction import words as reproduction_words
from pyro_skipvae.reproduction.intervals import Difference, over_seeds, paired_difference
from pyro_skipvae.reproduction.tables import Cell, Planned, Table, cells, entry_for, load_table, read_results, write_results
from pyro_skipvae.reproduction.words import orderings
from pyro_skipvae.runs.config import Config, ConfigError
from pyro_skipvae.runs.folder import Run, load_run
from pyro_skipvae_cli import reproduction as command
from pyro_skipvae_cli.errors import UserError
from pyro_skipvae_cli.job import make_config, make_job
from pyro_skipvae_cli.pool import Anew, Pool, fresh
from pyro_skipvae_cli.reproduction import Costs, cost

TINY = {"dataset": "digits", "decoder": "mlp", "layers": 1, "width": 16, "latent_dim": 3}
FEW = {"epochs": 1, "limit_train": 200, "limit_eval": 60}


@pytest.mark.parametrize("name", reproduction.table_names())
def test_every_run_of_every_table_is_a_config_and_stands_once(name):
    table = load_table(name)
    assert set(table.columns) <= set(reproduction.COLUMNS) and table.title
    assert all(run.config.seed == run.seed and isinstance(run.config, Config) for run in table.runs)
    folders = [run.folder for run in table.runs]
    assert len(set(folders)) == len(folders)
    settings = [(json.dumps(reproduction.identity(run.config)), run.seed) for run in table.runs]
    assert len(set(settings)) == len(settings)
    assert all(set(published) <= set(table.columns) for published in table.published.values())


def test_a_name_that_does_not_exist():
    with pytest.raises(ConfigError, match="unknown table 'table9'"):
        load_table("table9")


def test_scaling_down_is_part_of_what_a_run_is():
    whole, scaled = load_table("table4"), load_table("table4", epochs=1, limit_train=64)
    entries = [entry(run) for run in scaled.runs]
    assert all(entry_for(run, entries) for run in scaled.runs) and not any(entry_for(run, entries) for run in whole.runs)
    row, arm = scaled.runs[0].row, scaled.runs[0].arm
    assert "scaled down: epochs 1, limit_train 64" in reproduction_words.label(scaled, row, arm)
    assert reproduction_words.label(whole, row, arm) == "" and not load_table("table4", epochs=20).runs[0].scaled


def test_tables_for_a_gpu_are_scaled_down_unless_in_full():
    table, full = load_table("classification"), load_table("classification", full=True)
    assert {run.row for run in table.runs if run.scaled} == {"PixelCNN, 9 layers"} and not any(run.scaled for run in full.runs)
    assert {run.config.epochs for run in full.runs} == {100} and load_table("table1", epochs=2).runs[0].config.epochs == 2
    assert load_table("figure1").runs[0].scaled == load_table("table2-mnist").runs[0].scaled != {}
    table1 = load_table("table1")
    entries = [entry(run) for run in table1.runs]
    assert "(scaled down)" in orderings(table1, entries)[0] and "not shown (one seed)" in orderings(table1, entries)[0]
    assert any("--full" in note for note in reproduction_words.notes(table1, entries))
    assert not any("--full" in note for note in reproduction_words.notes(load_table("table3"), []))


def test_one_seed_has_an_interval_over_test_points():
    table = load_table("table2-mnist", full_data=True)
    place, made = ("9 layers", "skip"), entry(table.runs[-1])
    assert (table.runs[-1].row, table.runs[-1].arm) == place and cells(table, [made])[place]["elbo"].half_interval is None
    assert not any("±" in note for note in reproduction_words.notes(table, []))
    made["report"]["standard_errors"] = {"elbo": 0.5}
    made["log_likelihood_per_point"] = [-80.0, -82.0, -84.0]
    found = cells(table, [made])[place]
    assert found["elbo"].half_interval == pytest.approx(2.262157 * 0.5) and found["log_likelihood_per_point"].ours == -82.0
    assert found["log_likelihood_per_point"].half_interval == pytest.approx(4.302653 * 2 / math.sqrt(3))
    assert any("±" in note for note in reproduction_words.notes(table, [made]))
    assert "<small>(± 1.13)</small>" in reproduction_page.page_of(table, [made])


def test_of_the_same_run_in_two_tables_the_one_with_log_p_of_x_is_shown():
    table = load_table("table2-mnist", full_data=True)
    without, measured = entry(table.runs[-1]), entry(table.runs[-1]) | {"log_likelihood_per_point": [-80.0, -82.0]}
    for entries in ([without, measured], [measured, without]):
        assert cells(table, entries)["9 layers", "skip"]["log_likelihood_per_point"].ours == -81.0


def test_a_fresh_run_goes_before_one_of_another_table_that_has_more():
    table = load_table("table1", full_data=True)
    run = next(run for run in table.runs if run.importance_samples is None)
    fresh_one, other = entry(run, elbo=-70.0), entry(run, elbo=-80.0) | {"log_likelihood_per_point": [-80.0]}
    assert entry_for(run, [fresh_one, other]) is fresh_one


def test_runs_of_the_package_stay_beside_those_that_are_trained(tmp_path, monkeypatch):
    def one(pool, table, file, device):
        write_results(file, table, [entry(pool.waiting[0], elbo=-1.0)])
        yield read_results(file)

    for name, stub in {"kept_results": one, "cost": lambda *_: "", "check_places": lambda *_: None}.items():
        monkeypatch.setattr(command, name, stub)
    before = json.loads(skipvae("reproduce", "table3", "--seeds", 4, "--json", cwd=tmp_path).stdout)["cells"]
    found = json.loads(skipvae("reproduce", "table3", "--train", "--seeds", 4, "--json", cwd=tmp_path).stdout)["cells"]
    seeds = [{(row, arm): found[row][arm]["elbo"]["seeds"] for row in found for arm in found[row]} for found in (before, found)]
    assert sum(seeds[1].values()) == sum(seeds[0].values()) + 1 > 20
    assert all(now - seeds[0][place] in (0, 1) for place, now in seeds[1].items())


def test_a_likelihood_that_is_not_known_is_measured_where_the_run_is_there(two_tables, tmp_path, monkeypatch):
    folder, *_ = two_tables
    monkeypatch.setattr(reproduction, "load_table", lambda name, **which: tiny_table(name))
    monkeypatch.setattr(reproduction, "table_names", lambda: ["first"])
    for name in ("runs", "results"):
        shutil.copytree(folder / name, tmp_path / name)
    whole = read_results(tmp_path / "results/first.json")
    measured = "log_likelihood_per_point"
    write_results(
        tmp_path / "results/first.json", tiny_table("first"), [{n: v for n, v in e.items() if n != measured} for e in whole]
    )
    assert "0 of 2 runs are done" not in skipvae("reproduce", "first", cwd=tmp_path).stderr
    done = skipvae("reproduce", "first", "--train", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0 and "Started" not in done.stderr and done.stderr.count("Found: digits") == 2
    assert [e[measured] for e in read_results(tmp_path / "results/first.json")] == [e[measured] for e in whole]
    (tmp_path / "results/first.json").unlink()
    write_results(
        tmp_path / "results/first.json", tiny_table("first"), [{n: v for n, v in e.items() if n != measured} for e in whole]
    )
    shutil.rmtree(tmp_path / "runs")
    done = skipvae("reproduce", "first", "--train", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.count("is not known, and its run is not in runs/reproduce: --force would") == 2


def test_the_epochs_of_a_run_are_kept_and_drawn(two_tables):
    table, made = load_table("table2-arms"), entry(load_table("table2-arms").runs[0])
    assert reproduction.validated(made) == [] and reproduction_page.training(table, [made]) == []
    made["validation"] = {"epoch": [1, 2], "valid_elbo": [-90.0, None], "valid_rate": [20.0, 10.5], "active_units": [20, 9]}
    assert reproduction.validated(made)[1] == {"epoch": 2, "valid_elbo": None, "valid_rate": 10.5, "active_units": 9}
    (drawn,) = reproduction_page.training(table, [made])
    assert drawn["alt"] == "KL warm-up, plain: at the end ELBO unknown, rate 10.50 nats"
    folder, *_ = two_tables
    for run, kept in zip(tiny_table("first").runs, read_results(folder / "results/first.json"), strict=True):
        (line,) = Run(reproduction.run_folder(run, folder / "runs/reproduce")).metrics()
        (found,) = reproduction.validated(kept)
        assert found == {name: pytest.approx(line[name], abs=1e-3) for name in found} and found["epoch"] == 1


def test_log_likelihoods_of_the_same_points_are_compared_one_by_one():
    table, entries = load_table("table2-mnist", full_data=True), []
    for run in table.runs[-2:]:
        better = 0.5 * (run.arm == "skip")
        entries.append(entry(run) | {"log_likelihood_per_point": [-80.0 + better, -90.0 + better]})
    (told,) = (said for said in orderings(table, entries) if "log p(x)" in said)
    assert "paired on 2 test points: +0.50, +0.50 to +0.50" in told


def test_a_row_is_shown_in_the_largest_size_in_which_it_is_done(tmp_path):
    sizes = {"scaled": {}, "data": {"full_data": True}, "full": {"full": True}}
    tables = {name: load_table("table2-mnist", **size) for name, size in sizes.items()}
    of = {(name, run.row, run.arm): entry(run) for name, table in tables.items() for run in table.runs}
    rows = {"9 layers": ("scaled", "data", "full"), "6 layers": ("scaled", "data"), "3 layers": ("scaled",)}
    entries = [of[name, row, arm] for row, names in rows.items() for name in names for arm in ("plain", "skip")]
    entries.append(of["full", "6 layers", "plain"])  # an arm alone cannot be compared
    found = reproduction.in_largest_sizes(tables["scaled"], entries)
    sizes = {run.row: (run.config.epochs, run.config.limit_train) for run in found.runs}
    assert sizes == {"1 layer": (5, 2000), "3 layers": (5, 2000), "6 layers": (30, None), "9 layers": (100, None)}
    assert [(run.row, run.arm) for run in found.runs] == [(run.row, run.arm) for run in tables["scaled"].runs]
    nine = [of["data", "9 layers", arm] for arm in ("plain", "skip")]
    write_results(tmp_path / "results/table2-mnist.json", tables["data"], nine)
    shown = skipvae("reproduce", "table2-mnist", "--json", "--quiet", cwd=tmp_path).stdout
    assert json.loads(shown)["scaled"]["9 layers"]["plain"] == "scaled down: all data, 30 of 100 epochs"


def test_the_report_of_a_table_stands_on_more_points_unless_it_is_scaled_down_to_few_items():
    for which in ({"full_data": True}, {"full": True}, {"epochs": 3, "full_data": True}):
        table = load_table("table2-mnist", **which)
        assert {(run.report["elbo_points"], run.importance_samples) for run in table.runs} == {(10_000, 200)}
    for which in ({}, {"full_data": True, "limit_train": 100}):
        assert {(*run.report, run.importance_samples) for run in load_table("table2-mnist", **which).runs} == {(None,)}


def test_full_data_is_all_images_for_fewer_epochs_and_says_so():
    table = load_table("table2-mnist", full_data=True)
    assert {(run.config.limit_train, run.config.limit_eval, run.config.epochs) for run in table.runs} == {(None, None, 30)}
    assert reproduction_words.label(table, "9 layers", "skip") == " (scaled down: all data, 30 of 100 epochs)"
    assert not reproduction_words.is_comparable(table, "9 layers", "skip")
    mixed = load_table("classification", full_data=True)
    assert {run.row: run.config.epochs for run in mixed.runs} == {"MLP": 100, "PixelCNN, 9 layers": 30}
    words = " (scaled down: all data, 30 of 100 epochs, latent_dim 20)"
    assert reproduction_words.label(mixed, "PixelCNN, 9 layers", "skip") == words
    smaller = load_table("table2-mnist", full_data=True, limit_train=5000)
    assert reproduction_words.label(smaller, "9 layers", "skip") == " (scaled down: epochs 30, limit_train 5,000)"
    assert sum("bf16" in note for note in reproduction_words.notes(smaller, [])) == 1
    assert any("bf16 (PixelCNN, 9 layers); every" in note for note in reproduction_words.notes(mixed, []))
    assert not any("bf16" in note for note in reproduction_words.notes(load_table("table2-mnist"), []))
    arms = {(run.row, run.arm): run.config for run in load_table("table2-arms").runs if not run.seed}
    pair = {run.arm: run.config for run in table.runs if run.row == "9 layers"}
    assert all(arms["KL warm-up", arm] == pair[arm] for arm in ("plain", "skip"))  # trained once, for all tables
    for name in ("classification", "figure2"):
        own = {run.arm: run.config for run in load_table(name, full_data=True).runs if run.row == "PixelCNN, 9 layers"}
        assert own == pair
    with pytest.raises(ConfigError, match="--full or --full-data"):
        load_table("table1", full=True, full_data=True)


def entry(run, elbo=-80.0, rate=1.0, units=3):
    perplexity = {"value": 100.0, "low": 90.0, "high": 110.0}
    counts = ("points", "elbo_points", "log_likelihood_points", "importance_samples", "importance_samples_tenth")
    report = {
        **dict.fromkeys(name for name in STORED if not name.endswith("?")), "effective_sample_size": {}, "verdict": "",
        "elbo": elbo, "rate": rate, "active_units": units, "mi_ceiling": math.log(1929), "standard_errors": {},
        "mi_dieng_2019": {"value": rate / 2, "ceiling": math.log(1929)},
        "mi_upper": {"value": rate, "low": 0.0, "high": 2.0}, "mi_marginal": None,
        "perplexity": {"ppl_iw": perplexity, "ppl_elbo": perplexity, "importance_samples": 10},
        "card": {
            **dict.fromkeys(counts, 10), "unavailable": {}, "beyond_budget": [], "notes": [],
            "device": "cpu", "protocol": run.protocol,
        },
        "active_unit_variances": [1e-4, 0.05, 0.5, 0.9], "active_units_0_02": 3,
    }  # fmt: skip
    about = {"row": run.row, "arm": run.arm, "seed": run.seed, "scaled": run.scaled, "epochs": 1, "seconds": 1.0}
    return {**about, "settings": reproduction.identity(run.config), "report": report}


def test_cells_hold_mean_and_deviation_over_seeds_beside_what_was_published():
    table = load_table("table4", seeds=2)
    place = ("PTB, semi-amortized, 32", "skip")
    runs = [run for run in table.runs if (run.row, run.arm) == place]
    found = cells(table, [entry(runs[0], elbo=-70.0), entry(runs[1], elbo=-72.0)])
    assert found[place]["elbo"] == Cell(-330.3, -71.0, math.sqrt(2), 2)
    assert found[place]["elbo"].difference == pytest.approx(259.3)
    assert found[place]["ppl"].ours == 100.0 and found[place]["mi_upper"].ours == 1.0
    assert found["PTB, semi-amortized, 32", "plain"]["elbo"] == Cell(-327.5, None, None, 0)


@pytest.mark.parametrize(
    ("seeds", "skip", "told"),
    [
        (1, [5.0], "there is no interval: not shown (one seed)"),
        (2, [5.0, 5.2], "the ordering holds."),
        (2, [0.1, 0.2], "the ordering does not hold."),
        (2, [0.0, 9.0], "not shown over seeds"),
    ],
)
def test_an_ordering_is_told_in_words(seeds, skip, told):
    table = load_table("table4", seeds=seeds)
    rows = {arm: [r for r in table.runs if (r.row, r.arm) == ("PTB, semi-amortized, 32", arm)] for arm in ("plain", "skip")}
    entries = [entry(run, rate=rate) for run, rate in zip(rows["plain"], [1.0, 1.1], strict=False)]
    entries += [entry(run, rate=rate) for run, rate in zip(rows["skip"], skip, strict=True)]
    (sentence,) = [s for s in orderings(table, entries) if "KL" in s]
    assert told in sentence and "+9.58 published" in sentence


def test_arms_are_compared_on_the_same_test_points():
    table = load_table("table3", seeds=1)
    runs = {run.arm: run for run in table.runs if run.row == "3 layers"}
    points = {"plain": [-90.0, -100.0, -80.0], "skip": [-87.0, -96.0, -75.0], "last layer only": [-91.0, -100.0, -79.0]}
    entries = [entry(runs[arm], elbo=sum(own) / 3) | {"elbo_per_point": own} for arm, own in points.items()]
    entries.append(entry(runs["parameter-matched"]))  # made without values for each point
    pairs = paired_difference(table, entries, "elbo", ("3 layers", "skip"), ("3 layers", "plain"))
    assert (pairs.value, pairs.over) == (4.0, "paired on 3 test points")
    assert pairs.high - 4.0 == pytest.approx(4.302653 / 3**0.5)
    told = orderings(table, entries)
    assert "(paired on 3 test points: +4.00, +1.52 to +6.48)" in told[0]
    assert told[0].endswith("+1.21 published: the ordering holds (one seed).")
    arms = [sentence for sentence in told if "last layer only" in sentence]
    assert arms[0].startswith("3 layers: last layer only - plain is +0.00 in ELBO (paired on 3 test points: +0.00,")
    assert arms[1].startswith("3 layers: skip - last layer only is +4.00 in ELBO") and arms[1].endswith("seeds: 1 and 1.")
    assert any("skip - parameter-matched is" in sentence and "+0.00 in KL" in sentence for sentence in told)
    more = [*entries, copy.deepcopy(entries[0]) | {"seed": 1, "elbo_per_point": [-80.0, -80.0, -80.0]}]  # skips have no seed 1
    pairs = paired_difference(load_table("table3", seeds=2), more, "elbo", ("3 layers", "skip"), ("3 layers", "plain"))
    assert (pairs.value, pairs.over) == (4.0, "paired on 3 test points of seed 0")
    entries[1]["elbo_per_point"] = [-91.0, -99.0, -79.0]
    assert "not shown over test points (one seed)" in orderings(table, entries)[0]


def test_perplexities_are_compared_on_the_same_texts():
    table, row = load_table("table4", seeds=1), "PTB, amortized, 32"
    points = {"plain": [-10.0, -21.0, -29.0], "skip": [-9.0, -20.0, -28.0]}
    entries = [
        entry(run) | {"log_likelihood_per_point": points[run.arm], "tokens_per_point": [2, 4, 6]}
        for run in table.runs if run.row == row
    ]  # fmt: skip
    pairs = paired_difference(table, entries, "ppl", (row, "skip"), (row, "plain"))
    assert pairs.value == pytest.approx(math.exp(57 / 12) - math.exp(60 / 12)) and pairs.over == "paired on 3 test points"
    told = orderings(table, entries)
    assert any("PPL: skip - plain is" in sentence and "(paired on 3 test points: -32.83," in sentence for sentence in told)
    entries[0]["tokens_per_point"] = [2, 4, 5]  # other texts
    assert paired_difference(table, entries, "ppl", (row, "skip"), (row, "plain")) is None


def test_values_at_the_ceiling_order_nothing():
    plain, skip = Cell(9.21, 4.0, None, 1), Cell(9.20, 5.0, None, 1)
    bounds = (9.0, 9.5), (9.6, 20.0)
    assert "ceiling ln 10,000" in reproduction_words._ordering_of_information("4 layers", "mi", plain, skip, *bounds)
    equal = Cell(20, 19.0, 0.1, 3), Cell(20, 20.0, 0.1, 3)
    sure = [over_seeds(*reversed(equal))]  # Welch: 4 degrees of freedom, t = 2.776, times 0.1 sqrt(2/3)
    told = reproduction_words._ordering("1 layer", "au", *equal, sure)
    assert "(over seeds: +0.77 to +1.23); the published values are equal" in told


def test_information_is_ordered_by_its_bounds():
    table = load_table("table4", seeds=2)
    row = "PTB, semi-amortized, 32"
    runs = {arm: [run for run in table.runs if (run.row, run.arm) == (row, arm)] for arm in ("plain", "skip")}

    def bounded(run, lower, upper, marginal):
        made = entry(run)
        ends = {"mi_lower": lower, "mi_upper": upper, "mi_marginal": marginal}
        made["report"] |= {name: {"value": 0.0, "low": low, "high": high} for name, (low, high) in ends.items()}
        return made

    def told(*of_skip):
        made = [bounded(run, (0.9, 1.1), (1.2, 1.6), (1.3, 1.5)) for run in runs["plain"]]
        made += [bounded(run, *own) for run, own in zip(runs["skip"], of_skip, strict=False)]
        (sentence,) = [s for s in orderings(table, made) if f"{row}, MI:" in s]
        return sentence

    def publish(**mi):
        return replace(table, published=table.published | {(row, arm): {"mi": value} for arm, value in mi.items()})

    above, below, across = [[(low, low + 0.2), (low + 1, low + 2), (low + 1, low + 3)] for low in (1.6, -3.0, 1.4)]
    table = publish(plain=None, skip=None)
    assert told(above, above).endswith("1.60 to 3.60 nats with skips, 0.90 to 1.50 without; nothing was published.")
    table = publish(plain=1.0, skip=2.0)
    assert told(above, above).endswith("+1 published: the ordering holds.")
    assert told(above, across).endswith("the bounds overlap: not shown.")  # one seed is enough to doubt it
    assert told(below, below).endswith("the ordering does not hold.") and told(above).endswith("holds (one seed).")
    made = [entry(run) for arm in runs for run in runs[arm]]
    assert any("an arm has no bounds: not shown" in sentence for sentence in orderings(table, made))


def test_an_ordering_is_shown_by_all_its_intervals():
    plain, skip = Cell(-95.0, -92.0, 0.1, 3), Cell(-94.0, -91.9, 0.1, 3)

    def told(*ends):
        sure = [Difference((low + high) / 2, low, high, over) for low, high, over in ends]
        return reproduction_words._ordering("1 layer", "elbo", plain, skip, sure)

    seeds, points = "over seeds", "paired on 9 test points"
    assert told((0.1, 0.3, seeds), (0.2, 0.4, points)).endswith("the ordering holds.")
    assert told((-0.1, 0.3, seeds), (0.2, 0.4, points)).endswith("not shown over seeds.")
    assert told((0.1, 0.3, seeds), (-0.2, 0.4, points)).endswith("not shown over test points.")
    assert told((0.1, 0.3, seeds), (-0.4, -0.2, points)).endswith("seeds and test points say the opposite of each other.")
    assert told((-0.3, -0.1, points)).endswith("the ordering does not hold.")  # its sign, not that of other points


def test_with_one_seed_the_intervals_over_test_points_decide():
    table = load_table("table4")
    runs = {run.arm: run for run in table.runs if run.row == "PTB, amortized, 32"}
    entries = []
    for arm, (value, half) in {"plain": (100.0, 6.0), "skip": (95.0, 8.0)}.items():
        entries.append(entry(runs[arm]))
        entries[-1]["report"]["perplexity"] = {"ppl_iw": {"value": value, "low": value - half, "high": value + half}}
    (told,) = [sentence for sentence in orderings(table, entries) if "PPL" in sentence]
    assert "-5 here (unpaired over test points: -15.00 to +5.00)" in told and "not shown over test points (one seed)" in told
    entries[1]["report"]["perplexity"]["ppl_iw"] = {"value": 85.0, "low": 77.0, "high": 93.0}
    assert "the ordering holds (one seed)" in orderings(table, entries)[0]


def test_an_accuracy_has_the_interval_of_its_analysis():
    table = load_table("classification", seeds=1)
    run = next(run for run in table.runs if (run.row, run.arm) == ("MLP", "skip"))
    made = entry(run) | {"analysis": {"classification": {"mlp_probe": 97.0, "mlp_probe_error": 0.5, "silhouette": 0.1}}}
    assert reproduction.interval_of(made, "mlp_probe") == (97.0, 0.98)
    assert reproduction.interval_of(made, "silhouette") is None


def test_an_interval_over_seeds():
    found = over_seeds(Cell(None, 3.0, 1.0, 3), Cell(None, 1.0, 2.0, 5))
    low, high = found.low, found.high
    freedom = (1 / 3 + 4 / 5) ** 2 / ((1 / 3) ** 2 / 2 + (4 / 5) ** 2 / 4)
    assert freedom == pytest.approx(5.959, abs=1e-3)  # Student's quantile of it is 2.451
    assert (low, high) == pytest.approx((2.0 - 2.451 * (17 / 15) ** 0.5, 2.0 + 2.451 * (17 / 15) ** 0.5), abs=2e-3)
    assert over_seeds(Cell(None, 3.0, None, 1), Cell(None, 1.0, 2.0, 5)) is None
    assert over_seeds(Cell(None, 3.0, 0.0, 3), Cell(None, 1.0, 0.0, 3)) == Difference(2.0, 2.0, 2.0, "over seeds")
    assert over_seeds(Cell(None, 3.0, 0.0, 2), Cell(None, 1.0, 0.0, 2)) is None  # two counts that agree


def test_layers_counted_in_another_way():
    table = load_table("table3", seeds=1)
    runs = [run for run in table.runs if (run.row, run.arm) == ("1 layer", "plain")]
    (told,) = [s for s in orderings(table, [entry(runs[0], elbo=-95.0, rate=20.0)]) if "of the paper" in s]
    assert told == (
        "If 2 layers of the paper are our 1 layer, plain: ELBO -95.00 (-94.88 published, -0.12), "
        "KL 20.00 (24.23 published, -4.23)."
    )


def test_results_are_read_back_and_an_older_entry_gives_way(tmp_path):
    table = load_table("table4")
    first, second = entry(table.runs[1]), entry(table.runs[0])
    write_results(tmp_path / "new" / "table4.json", table, [first, second])
    assert read_results(tmp_path / "new" / "table4.json") == [second, first]  # in the order of the table
    assert "[ 0.0001, 0.05, 0.5, 0.9 ]" in (tmp_path / "new" / "table4.json").read_text()
    newer = copy.deepcopy(first) | {"seconds": 2.0}
    assert reproduction.added([first, second], newer) == [second, newer]
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="bad.json, which cannot be read"):
        read_results(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text('{"entries": [{"row": "2 layers"}]}')
    with pytest.raises(ValueError, match=r"bad.json, which cannot be read: entries\[0\] lacks arm"):
        read_results(tmp_path / "bad.json")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "results").glob("*.json")), ids=lambda path: path.stem)
def test_what_is_kept_can_be_read(path):
    if path.stem in reproduction.table_names():
        entries, planned = read_results(path), []
        sizes = ({}, {"full": True}, {"full_data": True})
        for how in (size | protocol for size in sizes for protocol in ({}, {"protocol": "paper"})):
            with contextlib.suppress(ConfigError):  # not every table has a protocol of the paper
                planned += load_table(path.stem, **how).runs
        assert entries and all(any(entry_for(run, [e]) for run in planned) for e in entries), "expected no run of no row"


@pytest.fixture
def nothing_stored(monkeypatch, tmp_path):
    monkeypatch.setattr(reproduction, "committed_results", lambda: tmp_path / "nothing")


def test_the_command_prints_what_is_done_without_training(tmp_path):
    table = load_table("table4")
    write_results(tmp_path / "results" / "table4.json", table, [entry(run) for run in table.runs])
    done = skipvae("reproduce", "table4", cwd=tmp_path)
    assert done.returncode == 0 and "61.60" in done.stdout and "ours" in done.stdout and not done.stderr
    assert not (tmp_path / "runs").exists()
    assert "difference" not in done.stdout  # of other data, and a model of another size
    found = json.loads(skipvae("reproduce", "table4", "--json", cwd=tmp_path).stdout)
    assert found["cells"]["PTB, amortized, 32"]["plain"]["elbo"]["published"] == -330.1
    assert len(found["entries"]) == len(table.runs)
    assert "\n| --- | --- |" in skipvae("reproduce", "table4", "--markdown", cwd=tmp_path).stdout


def test_the_difference_stands_beside_what_was_published_of_the_same_data(tmp_path, nothing_stored):
    runs = [run for run in load_table("table3").runs if (run.row, run.arm) == ("2 layers", "plain")]
    write_results(tmp_path / "results/table3.json", load_table("table3"), [entry(run, elbo=-95.0) for run in runs])
    said = skipvae("reproduce", "table3", "--show", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[2:6] for line in said if " difference " in line] == [["difference", "-0.12", "-23.23", "-8.71"]]
    found = json.loads(skipvae("reproduce", "table3", "--show", "--json", cwd=tmp_path).stdout)
    assert found["cells"]["2 layers"]["plain"]["elbo"]["difference"] == pytest.approx(-0.12)
    assert not (tmp_path / "results/table3.html").exists()
    skipvae("reproduce", "table3", "--html", "page.html", cwd=tmp_path)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<br>difference ") == 4


def test_the_command_says_what_there_is(tmp_path):
    done = skipvae("reproduce", cwd=tmp_path)
    assert done.returncode == 2 and "table4" in done.stderr
    done = skipvae("reproduce", "tabel4", cwd=tmp_path)
    assert done.returncode == 2 and "unknown table 'tabel4'" in done.stderr


def tiny_table(name, analysis=None, **about):
    """A table of two runs on digits, scaled down to seconds of training."""
    models = {"plain": "vae", "skip": "skip-vae"}
    more = {"report": {"elbo_points": 40}, "importance_samples": 3}
    runs = [Planned("digits", arm, {**TINY, "model": model}, 0, FEW, analysis, **more) for arm, model in models.items()]
    published = {("digits", "plain"): {}, ("digits", "skip"): {}}
    return Table(name, "Digits", about.pop("columns", ["elbo", "kl"]), published, runs, **about)


@pytest.fixture(scope="module")
def two_tables(tmp_path_factory):
    """A folder in which a table was made, and then another of the same runs that puts them to an analysis; what each said."""
    folder = tmp_path_factory.mktemp("tables")
    tables = {
        "first": tiny_table("first"),
        "second": tiny_table("second", "clusters", columns=["test_neighbours", "silhouette"], pictures=["planes"]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduction, "load_table", lambda name, **which: tables[name])
        patch.setattr(reproduction, "table_names", lambda: list(tables))
        patch.setenv("SKIPVAE_EPOCHS", "2")  # settings are those of the table
        said = {name: skipvae("reproduce", name, "--train", "--jobs", 2, "--device", "cpu", cwd=folder) for name in tables}
        shown = skipvae("reproduce", "second", "--show", "--html", "page.html", cwd=folder)
        listed = skipvae("reproduce", "--list", cwd=folder)
    assert all(done.returncode == 0 for done in said.values()), [done.stderr for done in said.values()]
    return folder, said, shown, listed


def test_a_run_that_was_made_for_another_table_is_only_analysed(two_tables):
    folder, said, *_ = two_tables
    assert "Now training 2 into" in said["first"].stderr and said["first"].stdout.count("scaled down: epochs 1") == 2
    assert "training" not in said["second"].stderr
    assert said["second"].stderr.count("Found: digits") == 2 and not (folder / "runs/reproduce/second").exists()
    first, second = (read_results(folder / "results" / f"{name}.json") for name in said)
    assert [e["report"] for e in first] == [e["report"] for e in second] and {e["epochs"] for e in first} == {1}
    assert {e["report"]["card"]["elbo_points"] for e in first} == {40}
    assert all(len(e["log_likelihood_per_point"]) == 60 > sum(v > 0 for v in e["log_likelihood_per_point"]) for e in first)
    numbers = second[0]["analysis"]["clusters"]
    assert 0 <= numbers["test_neighbours"] <= 100 and -1 <= numbers["silhouette"] <= 1
    assert len(numbers["x"]) == len(numbers["y"]) == len(numbers["classes"]) == 60
    assert f"{numbers['test_neighbours']:.2f}" in said["second"].stdout


def test_show_trains_nothing_and_the_page_holds_its_pictures(two_tables):
    folder, said, shown, _ = two_tables
    assert shown.stdout == said["second"].stdout and not shown.stderr
    page = (folder / "page.html").read_text()
    assert page == (folder / "results" / "second.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "<script" not in page and "http" not in page
    assert page.count("Evaluation card:") == 2 and "skipvae-pyro train --limit-train 200" in page and "silhouette" in page


def test_nothing_is_trained_unless_it_is_asked_for(two_tables, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduction, "load_table", lambda name, **which: tiny_table(name))
    monkeypatch.setattr(reproduction, "table_names", lambda: ["any"])
    done = skipvae("reproduce", "any", cwd=tmp_path)
    assert done.returncode == 0 and "0 of 2 runs are done. --train trains the others" in done.stderr
    assert list(tmp_path.iterdir()) == []
    _, said, *_ = two_tables
    assert re.search(r"0 of 2 runs are done. The other 2 take about [\d.]+ s of training", said["first"].stderr)


def test_runs_that_were_begun_are_told_with_what_they_have_reached(two_tables, tmp_path, monkeypatch):
    folder, *_ = two_tables
    monkeypatch.setattr(reproduction, "load_table", lambda name, **which: tiny_table(name))
    monkeypatch.setattr(reproduction, "table_names", lambda: ["any"])
    shutil.copytree(folder / "runs", tmp_path / "runs")
    plain, skip = (reproduction.run_folder(run, tmp_path / "runs/reproduce") for run in tiny_table("any").runs)
    (plain / "report.json").unlink()
    (last,) = Run(plain).metrics()
    done = skipvae("reproduce", "any", cwd=tmp_path)
    reached = f"ELBO {last['valid_elbo']:.2f}, rate {last['valid_rate']:.2f}"
    assert done.returncode == 0 and f"digits, plain, seed 0: 1 of 1 epochs; on validation items {reached}" in done.stderr
    assert "digits, skip" not in done.stderr
    (begun,) = json.loads(skipvae("reproduce", "any", "--json", cwd=tmp_path).stdout)["begun"]
    assert {name: begun[name] for name in ("row", "arm", "seed", "epochs")} == {
        "row": "digits", "arm": "plain", "seed": 0, "epochs": 1}  # fmt: skip
    assert begun["validation"] == reproduction.epochs_of(plain) and begun["validation"]["epoch"] == [1]
    (skip / "metrics.jsonl").unlink()
    assert reproduction.epochs_of(skip)["epoch"] == []
    shutil.copytree(plain, tmp_path / "kept")
    (plain / "metrics.jsonl").write_text("spoilt\n")
    done = skipvae("reproduce", "any", cwd=tmp_path)
    assert done.returncode == 0 and "digits, plain, seed 0: expected" in done.stderr and "metrics.jsonl" in done.stderr
    shutil.copy(tmp_path / "kept/metrics.jsonl", plain)
    assert cost(tiny_table("any").runs, tmp_path / "runs/reproduce", False, "cpu").startswith(" The other 1 take about 0 s of")


def test_the_list_is_json_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduction, "load_table", lambda name, **which: tiny_table(name))
    monkeypatch.setattr(reproduction, "table_names", lambda: ["any"])
    (found,) = json.loads(skipvae("reproduce", "--list", "--json", cwd=tmp_path).stdout)["tables"]
    assert (found["name"], found["runs"], found["done"], found["data"]) == ("any", 2, 0, {"digits": True})
    assert found["seconds_left"] > 0


def test_stored_results_are_found_from_anywhere_and_those_of_the_folder_go_first(tmp_path):
    found = json.loads(skipvae("reproduce", "table3", "--json", cwd=tmp_path).stdout)
    assert found["cells"]["4 layers"]["skip"]["elbo"]["seeds"] == 3
    runs = [run for run in load_table("table3").runs if (run.row, run.arm) == ("4 layers", "skip")]
    write_results(tmp_path / "results/table3.json", load_table("table3"), [entry(run, elbo=-1.0) for run in runs])
    found = json.loads(skipvae("reproduce", "table3", "--json", cwd=tmp_path).stdout)
    assert found["cells"]["4 layers"]["skip"]["elbo"]["ours"] == -1.0


def test_the_list_says_what_is_done(two_tables):
    *_, listed = two_tables
    rows = [line.split() for line in listed.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == ["first", "second"] and all(row[-4:] == ["2", "of", "2", "-"] for row in rows)


def test_the_list_measures_a_cell_once_and_says_which_data_are_absent(tmp_path, monkeypatch, nothing_stored):
    measured = []
    monkeypatch.setattr(Costs, "_measured", lambda self, config: measured.append(config) or 60.0)
    monkeypatch.setenv("SKIPVAE_DATA", str(tmp_path))
    monkeypatch.setattr(reproduction, "table_names", lambda: ["table1", "theorem1"])
    said = skipvae("reproduce", "--list", cwd=tmp_path).stdout
    assert "mnist (not here)" in said and "0 of 10" in said and "0 of 20" in said
    arms = {run.arm for run in load_table("theorem1").runs}
    assert len(measured) == len(arms) and "20 min" in said  # each arm once, for all seeds
    tables = [skipvae("reproduce", "theorem1", "--list", "--seeds", seeds, cwd=tmp_path).stdout for seeds in (1, 2)]
    assert all("table1" not in text for text in tables) and f"0 of {2 * len(arms)}" in tables[1]


def test_what_a_cell_costs_is_measured():
    first, second = (
        replace(run, flags={**run.flags, "epochs": epochs}, scaled={})
        for run, epochs in zip(tiny_table("any").runs, (1, 200), strict=True)
    )
    costs = Costs("cpu")
    assert 0 < costs.of(first) < costs.of(second)


def test_the_classification_study_of_a_run(two_tables):
    folder, *_ = two_tables
    path = reproduction.run_folder(tiny_table("any").runs[1], folder / "runs/reproduce")
    found = analyses.analyse("classification", path)
    assert json.loads(json.dumps(found)) == found
    assert set(load_table("classification").columns) <= set(found) and -1 <= found.pop("silhouette") <= 1
    assert all(0 <= value <= 100 for value in found.values())
    assert found["mlp_probe_error"] == pytest.approx((found["mlp_probe"] * (100 - found["mlp_probe"]) / 60) ** 0.5, abs=0.01)
    with pytest.raises(ValueError, match="unknown analysis 'probe'"):
        analyses.analyse("probe", path)


def test_the_random_encoder_is_that_of_the_run_before_its_first_step(two_tables):
    folder, *_ = two_tables
    planned = tiny_table("any").runs[1]
    vae, data, config = load_run(reproduction.run_folder(planned, folder / "runs/reproduce"))
    job = make_job(*make_config({**planned.flags, **FEW, "seed": 0}, resume=None), device="cpu")
    before, trained = analyses._untrained(config, data).state_dict(), vae.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in job.vae.state_dict().items())
    assert not all(torch.equal(value, before[name]) for name, value in trained.items())
    x = data.test[:7]
    torch.testing.assert_close(analyses.posterior_means(vae, x), vae.posterior(x).mean)


def test_the_folder_of_a_run_is_known_by_its_settings(tmp_path):
    planned = tiny_table("any").runs[0]
    for name, config in (("a/x", planned.config), ("b/y", planned.config), ("b/z", replace(planned.config, seed=1))):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name).with_suffix(".toml").write_text(config.to_toml())
    (tmp_path / "b/half.toml").write_text("epochs = ")
    (tmp_path / "b/older.toml").write_text('gone = "a setting that was"')
    (tmp_path / "b/y/report.json").write_text("{}")
    assert reproduction.run_folder(planned, tmp_path) == tmp_path / "b/y"  # a finished one rather than one that was begun
    (tmp_path / "a/x/report.json").write_text("{}")
    for name, when in (("a/x.toml", 2e9), ("b/y.toml", 1e9)):
        os.utime(tmp_path / name, (when, when))
    assert reproduction.run_folder(planned, tmp_path) == tmp_path / "a/x"  # the newest
    assert reproduction.run_folder(replace(planned, seed=2), tmp_path) is None


def test_an_entry_without_the_analysis_of_the_table_is_not_done():
    table = load_table("classification")
    entries = [entry(run) for run in load_table("table3").runs]
    assert not any(entry_for(run, entries) for run in table.runs)
    assert entry_for(replace(table.runs[0], analysis=None), entries)  # 4 layers of table 3
    numbers = {"mlp_probe": 98.0, "mlp_probe_error": 0.14, "random_mlp_probe": 92.0}
    entries = [entry(run) | {"analysis": {"classification": numbers}} for run in table.runs]
    found = cells(table, entries)["MLP", "plain"]
    assert found["mlp_probe"] == Cell(97.70, 98.0, 0.0, 3) and found["linear_probe"].ours is None
    assert not any("random" in sentence for sentence in orderings(table, entries))
    assert "at most 0.14" in reproduction_words.notes(table, entries)[-1]


def test_figures_take_their_runs_from_tables(tmp_path):
    table = load_table("figure1")
    write_results(tmp_path / "table3.json", load_table("table3"), [entry(run) for run in load_table("table3").runs])
    others = reproduction.results_of_others(load_table("figure1"), tmp_path)
    done = [run for run in table.runs if entry_for(run, others)]
    rows = {"MLP, 1 layer", *(f"MLP, {layers} layers" for layers in (2, 3, 4))}
    assert {run.row for run in done} == rows and len(done) == 20
    assert table.published["PixelCNN, 9 layers", "skip"] == {"kl": 9.34, "mi": 7.8}
    assert len(reproduction_page.depth(table, others)) == 4
    assert "depth" in table.pictures and set(table.pictures) <= set(reproduction_page.PICTURES)


def test_the_protocol_is_said_and_changes_what_a_run_is():
    usual, paper = load_table("table3"), load_table("table3", protocol="paper")
    assert [run.config.batch_size for run in paper.runs] == [50] * len(paper.runs) and usual.runs[0].config.batch_size != 50
    entries = [entry(run) for run in paper.runs]
    assert not any(entry_for(run, entries) for run in usual.runs)
    page = reproduction_page.page_of(paper, entries)
    assert page.count("<td>paper</td>") == len(paper.runs) and "<td>default</td>" not in page
    (said, *_), (usually, *_) = reproduction_words.notes(paper, entries), reproduction_words.notes(usual, [])
    assert said.endswith("in these settings: batch_size 50, lr_schedule constant.") and "default" in usually
    pixelcnn = next(run for run in load_table("figure2", protocol="paper").runs if "PixelCNN" in run.row)
    assert pixelcnn.config.beta_schedule == "constant" and pixelcnn.config.lr_schedule == "constant"


def test_a_protocol_that_a_table_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="expected --protocol default for theorem1, which has no settings of the paper"):
        load_table("theorem1", protocol="paper")
    paper = load_table("table4", protocol="paper")
    assert "Protocol: paper" in reproduction_words.notes(paper, [])[0]
    assert "optimizer sgd, svi_gradient authors" in reproduction_words.notes(paper, [])[0]
    assert {run.config.svi_gradient for run in paper.runs if "semi" in run.row} == {"authors"}
    assert not {run.folder for run in paper.runs} & {run.folder for run in load_table("table4").runs}


def test_an_entry_is_known_by_what_its_run_was_made_with():
    planned = load_table("table3").runs[0]
    made = entry(planned)
    made["report"]["card"]["settings"] = {"lr_schedule": planned.config.lr_schedule, "layers": 1}
    assert entry_for(planned, [made]) is made
    made["report"]["card"]["settings"]["lr_schedule"] = "constant"  # once the default, say, and so not among its settings
    assert entry_for(planned, [made]) is None


def test_the_folder_of_another_run_is_not_taken_for_this_one(two_tables):
    folder, *_ = two_tables
    planned = tiny_table("any").runs[0]
    path = reproduction.run_folder(planned, folder / "runs/reproduce")
    other = replace(planned, flags={**planned.flags, "batch_size": 50})
    with pytest.raises(ValueError, match="expected a run of digits, plain, seed 0 in .* got other settings"):
        reproduction.entry_of(other, path)
    assert fresh(path).name == f"{path.name}-1" and reproduction.run_folder(other, folder / "runs/reproduce") is None


@pytest.mark.slow
def test_a_slice_ends_with_a_checkpoint_and_the_next_goes_on(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("pyro_skipvae_cli.pool.LOOK_SECONDS", 0.05)
    planned = tiny_table("any").runs[0]
    planned = replace(planned, scaled={**FEW, "epochs": 60})
    options = {"jobs": 1, "device": "cpu", "budget": 1.0, "force": False}
    pool = Pool([planned], tmp_path, "any", minutes=10, **options)
    look = pool._look

    def until_the_second_epoch(process, bar):
        yield from look(process, bar)
        if process in pool.running and len(Run(pool.running[process][1]).metrics()) >= 2:
            pool.end = 0

    monkeypatch.setattr(pool, "_look", until_the_second_epoch)
    assert not list(pool.finished()) and not pool.failed
    folder = reproduction.run_folder(planned, tmp_path)
    before = Run(folder).metrics()
    assert 2 <= len(before) < 60 and "1 runs are not finished" in capfd.readouterr().err
    ((again, path),) = Pool([planned], tmp_path, "any", minutes=10, **options).finished()
    after = Run(path).metrics()
    assert again is planned and path == folder and reproduction.is_finished(path)
    assert [line["epoch"] for line in after] == list(range(1, 61)) and after[: len(before)] == before
    Pool([planned], tmp_path, "any", minutes=0.01, **options)
    assert "or slices may never finish a run" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they go on")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_runs_end_with_a_checkpoint_when_the_command_is_killed(number, tmp_path):
    scale = ["--epochs", "5000", "--limit-train", "100", "--seeds", "1"]
    arguments = ["reproduce", "theorem1", "--train", *scale, "--device", "cpu"]
    process = subprocess.Popen(
        [SCRIPT, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests may run under nohup
    )  # fmt: skip
    run = tmp_path / "runs/reproduce/theorem1/digits-plain-epochs5000-limit-train100-seed0"
    log = run.with_suffix(".log")
    try:
        _until(lambda: (run / "metrics.jsonl").exists())
        process.send_signal(number)
        code = process.wait(60)
        _until(lambda: "Stopped by SIG" in log.read_text())
    finally:
        process.kill()
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert (run / "checkpoints/last.safetensors").exists()
    _until(lambda: not (run / ".lock").exists())


def _until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_what_is_made_anew_is_gone_on_with(tmp_path):
    runs = tiny_table("any").runs
    (tmp_path / runs[0].folder).mkdir()
    first = Anew(tmp_path, runs)
    assert first.folder_of(runs[0]).name == f"{runs[0].folder}-1" and first.folder_of(runs[1]).name == runs[1].folder
    first.folder_of(runs[0]).mkdir()
    again = Anew(tmp_path, runs)
    assert [again.folder_of(run) for run in runs] == [first.folder_of(run) for run in runs]
    again.keep(runs[0])
    kept = Anew(tmp_path, runs)
    assert kept.is_kept(runs[0]) and not kept.is_kept(runs[1])
    again.file.write_text(again.file.read_text()[:-5])
    with pytest.raises(UserError, match="anew.json what --force has begun, which cannot be read"):
        Anew(tmp_path, runs)
    again.done()
    assert Anew(tmp_path, runs).folder_of(runs[0]).name == f"{runs[0].folder}-2"


@pytest.mark.slow
def test_runs_that_fail_are_told_and_the_others_kept(tmp_path, monkeypatch):
    table = tiny_table("any")
    broken = replace(table.runs[0], flags={**table.runs[0].flags, "encoder": "lstm"})
    table = replace(table, runs=[broken, table.runs[1]])
    monkeypatch.setattr(reproduction, "load_table", lambda name, **which: table)
    monkeypatch.setattr(reproduction, "table_names", lambda: ["any"])
    done = skipvae("reproduce", "any", "--train", "--report-budget", 1, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 4 and "Error: 1 runs failed: digits, plain, seed 0" in done.stderr
    assert "ended with code 2: Error: expected --encoder mlp or resnet for binary data" in done.stderr
    assert "skip, ours" in done.stdout
    assert [e["arm"] for e in read_results(tmp_path / "results/any.json")] == ["skip"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--train", "--device", "cuda:99"], "cuda:99"),
        (["--minutes", "5", "--force"], "expected --train with --minutes and --force: nothing is trained without it"),
        (["--report-budget", "5"], "expected --train with --report-budget: nothing is trained without it"),
        (["--list", "--train", "--html", "page.html"], "expected --list or --train and --html, got both"),
        (["--train", "--show"], "expected --train or --show, got both"),
        (["--show", "--results", "nowhere"], "expected a folder of results, got nowhere"),
        (["--train", "--runs", "file"], "got file"),
        (["--train", "--results", "file"], "got file"),
        (["--report-budget", "-1"], "-1"),
        (["--list", "--results", "damaged"], "table3.json, which cannot be read"),
        (["--show", "--results", "damaged"], "entries[0].report.elbo is 'abc'"),
    ],
)
def test_what_would_fail_later_is_told_before_a_run_begins(arguments, said, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "damaged").mkdir()
    made = entry(load_table("table3").runs[0])
    made["report"]["elbo"] = "abc"
    (tmp_path / "damaged/table3.json").write_text(json.dumps({"entries": [made]}))
    done = skipvae("reproduce", "table3", "--epochs", 1, "--limit-train", 100, *arguments, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr and "Started" not in done.stderr


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("report", "card"), {}, "entries[0].report.card lacks points"),
        (("report", "card", "device"), None, "entries[0].report.card.device is 'None'"),
        (("report", "card", "settings"), [], "entries[0].report.card.settings is '[]'"),
        (("report", "mi_dieng_2019"), "9.2", "entries[0].report.mi_dieng_2019 is '9.2'"),
        (("report", "mi_upper", "low"), "x", "entries[0].report.mi_upper.low is 'x'"),
        (("report", "rate"), math.nan, "NaN is no JSON"),
        (("seconds",), "long", "entries[0].seconds is 'long'"),
        (("elbo_per_point",), "many", "entries[0].elbo_per_point is 'many'"),
        (("elbo_per_point",), [1.0, None], "entries[0].elbo_per_point[1] is 'None'"),
        (("analysis",), {"clusters": 3}, "entries[0].analysis.clusters is '3'"),
        (("seed",), True, "entries[0].seed is 'True'"),
    ],
)
def test_results_of_another_shape_are_told_with_their_place(place, value, said, tmp_path):
    made = entry(load_table("table3").runs[0])
    inner = made
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    (tmp_path / "table3.json").write_text(json.dumps({"entries": [made]}))
    with pytest.raises(ValueError, match=re.escape(said)):
        read_results(tmp_path / "table3.json")
    (tmp_path / "table3.json").write_text(json.dumps({"entries": [entry(load_table("table3").runs[0])]}))
    assert len(read_results(tmp_path / "table3.json")) == 1


def test_units_between_the_two_kinds():
    table = load_table("active-units")
    entries = [entry(run) for run in table.runs]  # variances 1e-4, 0.05, 0.5 and 0.9
    found = cells(table, entries)["MLP, 2 layers", "plain"]
    assert found["units_between"].ours == 25.0 and found["au"].ours == 3
    (sentence,) = [note for note in reproduction_words.notes(table, entries) if note.startswith("MLP")]
    assert "25.0 % vary by less than 0.003, 50.0 % by more than 0.1, and 25.0 % lie between; 0.0 % are active" in sentence


@pytest.mark.parametrize("name", reproduction.table_names())
def test_every_reproduction_has_a_page_with_and_without_results(name, monkeypatch):
    monkeypatch.setattr(reproduction_page, "premise", lambda table: ["What is claimed."])  # its own takes a while
    table = load_table(name, seeds=1)
    planar = {"clusters": {"test_neighbours": 90.0, "silhouette": 0.1, "x": [0.0, 1.0], "y": [1.0, 0.0], "classes": [0, 1]}}
    planar |= {"auxiliary-draws": {"rows": 1, "columns": 2, "width": 2, "same": [0, 1, 2, 3], "different": [3, 2, 1, 0]}}
    planar |= {"classification": {"mlp_probe": 97.0}, "linear-probe": {"linear_probe": 90.0, "linear_probe_error": 0.3}}
    entries = [entry(run) | {"analysis": planar} for run in table.runs]
    for found in entries:
        found["report"]["distortion"] = 79.0
        found["report"]["card"]["data"] = {"name": "", "checksum": "0", "event_shape": [2, 2]}
    empty, full = (reproduction_page.page_of(table, found) for found in ([], entries))
    done = f"{len(table.runs)} of {len(table.runs)}"
    assert done in full and "0 of" in empty if table.runs else "0 of" not in empty
    assert full.count("<img") >= 1 and all(f" {column} " not in full for column in ("None", "nan"))


def test_the_side_claims_are_told_by_their_numbers():
    table = load_table("side-claims")
    told = {
        ("2 layers", "plain"): (9.0, -90.0, 80.0),
        ("4 layers", "plain"): (8.0, -91.0, 81.0),
        ("8 layers", "plain"): (2.0, -99.0, 60.0),
    }
    told |= {
        ("4 layers, data-dependent start", "plain"): (8.0, -90.5, 81.0),
        ("4 layers, torch's start", "plain"): (8.0, -91.1, 81.0),
        ("4 layers, 2 dimensions", "plain"): (5.0, -130.0, 79.0),
    }
    runs, entries = {(run.row, run.arm): run for run in table.runs}, []
    for place, (rate, elbo, share) in told.items():
        entries.append(entry(runs[place], rate=rate, elbo=elbo))
        entries[-1]["report"]["standard_errors"] = {"rate": 0.1, "elbo": 0.1}
        entries[-1]["analysis"] = {"clusters": {"test_neighbours": share, "test_neighbours_error": 0.5}}
    size, start, torch_start, dimensions = orderings(table, entries)
    assert "9.00, 8.00, 2.00; it falls with every step (one seed)." in size
    assert "plain: ELBO +0.50 against He's start (unpaired over test points: +0.18 to +0.82); it is better (one seed)." in start
    assert "Torch's own start" in torch_start and torch_start.endswith("a difference is not shown (one seed).")
    assert "79.0 %" in dimensions and dimensions.endswith("against 81.0 %; less (one seed).")
    entries[0]["report"]["standard_errors"] = {"rate": 1.0}
    assert "it is not shown to fall with every step" in orderings(table, entries)[0]  # 9 +- 2 and 8
    assert orderings(table, []) == ["The claims wait for their runs."]


def test_what_is_scaled_down_says_so_in_words_too():
    small = load_table("side-claims", epochs=1, limit_train=64)
    told = orderings(small, [entry(run) | {"analysis": {"clusters": {"test_neighbours": 50.0}}} for run in small.runs])
    assert len(told) == 8 and all(said.startswith("Scaled down (epochs 1, limit_train 64). ") for said in told)
    table3 = load_table("table3", seeds=1, epochs=1)
    assert not any("of the paper are our" in said for said in orderings(table3, [entry(run) for run in table3.runs]))
    cells_of = reproduction_words.as_json(table3, [entry(run) for run in table3.runs])["cells"]
    assert cells_of["4 layers"]["skip"]["elbo"]["ours"] == -80.0 and cells_of["4 layers"]["skip"]["elbo"]["difference"] is None
    mixed = load_table("classification")
    assert reproduction_words.scaled_words(mixed) == "epochs 5, limit_train 2,000, limit_eval 1,000 (PixelCNN, 9 layers)"
    assert not reproduction_words.is_comparable(load_table("table2-omniglot", full=True), "9 layers", "plain")


def test_runs_of_different_data_in_one_row_are_told():
    table = load_table("table2-omniglot", seeds=1)
    runs = [run for run in table.runs if run.row == "9 layers"]
    entries = [entry(run) for run in runs]
    for made, name in zip(entries, ("omniglot", "omniglot-burda"), strict=True):
        made["report"]["card"]["data"] = {"name": name, "checksum": f"{name}-0123456789"}
    assert any("9 layers: its runs are of different data" in note for note in reproduction_words.notes(table, entries))
    entries[1]["report"]["card"]["data"] = entries[0]["report"]["card"]["data"]
    assert not any("different data" in note for note in reproduction_words.notes(table, entries))


def test_a_number_on_fewer_points_is_told():
    table = load_table("table4")
    whole, part = entry(table.runs[0]), entry(table.runs[1])
    part["report"]["card"] = {"points": 1000, "log_likelihood_points": 200}
    (sentence,) = [s for s in reproduction_words.notes(table, [whole, part]) if "the first" in s]
    assert sentence == f"PPL of {part['row']}, {part['arm']}, seed 0: the first 200 of 1,000 points."


def test_results_made_before_the_code_was_recorded_are_marked():
    table = load_table("table3")
    made = [entry(run) for run in table.runs[:2]]
    for one in made:
        one["report"]["card"].pop("code", None)
    made[0]["report"]["card"] = {**made[0]["report"]["card"], "code": "v1-3-gabc"}
    assert any("1 of 2 runs are older" in note for note in reproduction_words.notes(table, made))
    made[1]["report"]["card"] = made[0]["report"]["card"]
    assert not any("older" in note for note in reproduction_words.notes(table, made))
