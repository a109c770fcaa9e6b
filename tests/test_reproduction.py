"""Tables of the paper: what is planned, what is known as done, what the words say of an ordering, and the command."""

import copy
import json
import math

import pytest
from test_cli import skipvae

from pyro_skipvae import reproduction
from pyro_skipvae.config import Config, ConfigError
from pyro_skipvae.reproduction import Cell, cells, entry_for, load_table, orderings, read_results, write_results


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
    assert "scaled down: epochs 1, limit_train 64" in reproduction.label(scaled, row, arm)
    assert reproduction.label(whole, row, arm) == "" and not load_table("table4", epochs=20).runs[0].scaled


def entry(run, elbo=-80.0, rate=1.0, units=3):
    report = {
        "elbo": elbo, "rate": rate, "active_units": units, "mi_ceiling": math.log(1929), "standard_errors": {},
        "mi_dieng_2019": {"value": rate / 2}, "mi_upper": {"value": rate, "low": 0.0, "high": 2.0}, "mi_marginal": None,
        "perplexity": {"ppl_iw": {"value": 100.0, "low": 90.0, "high": 110.0}}, "card": {"points": 10, "device": "cpu"},
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
        (1, [5.0], "the ordering holds (one seed)"),
        (1, [0.5], "the ordering does not hold (one seed)"),
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


def test_values_at_the_ceiling_order_nothing():
    plain, skip = Cell(9.21, 4.0, None, 1), Cell(9.20, 5.0, None, 1)
    assert "order nothing" in reproduction._ordering("4 layers", "mi", plain, skip)


def test_results_are_read_back_and_an_older_entry_gives_way(tmp_path):
    table = load_table("table4")
    first, second = entry(table.runs[1]), entry(table.runs[0])
    write_results(tmp_path / "new" / "table4.json", table, [first, second])
    assert read_results(tmp_path / "new" / "table4.json") == [second, first]  # in the order of the table
    newer = copy.deepcopy(first) | {"seconds": 2.0}
    assert reproduction.added([first, second], newer) == [second, newer]
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="bad.json, which cannot be read"):
        read_results(tmp_path / "bad.json")


def test_the_command_prints_what_is_done_without_training(tmp_path):
    table = load_table("table4")
    write_results(tmp_path / "results" / "table4.json", table, [entry(run) for run in table.runs])
    done = skipvae("reproduce", "table4", cwd=tmp_path)
    assert done.returncode == 0 and "61.60" in done.stdout and "ours" in done.stdout and not done.stderr
    assert not (tmp_path / "runs").exists()
    found = json.loads(skipvae("reproduce", "table4", "--json", cwd=tmp_path).stdout)
    assert found["cells"]["PTB, amortized, 32"]["plain"]["elbo"]["published"] == -330.1
    assert len(found["entries"]) == len(table.runs)
    assert "\n| --- | --- |" in skipvae("reproduce", "table4", "--markdown", cwd=tmp_path).stdout


def test_the_command_says_what_there_is(tmp_path):
    done = skipvae("reproduce", cwd=tmp_path)
    assert done.returncode == 2 and "table4" in done.stderr
    done = skipvae("reproduce", "tabel4", cwd=tmp_path)
    assert done.returncode == 2 and "unknown table 'tabel4'" in done.stderr


def test_missing_runs_are_trained_and_recognised(tmp_path):
    few = ("--epochs", 1, "--limit-train", 40, "--limit-eval", 20, "--report-budget", 1, "--jobs", 2)
    table = load_table("semi-amortized-images", epochs=1, limit_train=40, limit_eval=20)
    kept = [run for run in table.runs if run.row == "digits, amortized"]
    write_results(tmp_path / "results" / f"{table.name}.json", table, [entry(r) for r in table.runs if r not in kept])
    done = skipvae("reproduce", "semi-amortized-images", *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "training 2 into" in done.stderr and done.stdout.count("scaled down: epochs 1") == 8
    entries = read_results(tmp_path / "results" / f"{table.name}.json")
    assert all(entry_for(run, entries)["report"]["card"]["settings"]["epochs"] == 1 for run in kept)
    assert "training" not in skipvae("reproduce", "semi-amortized-images", *few, cwd=tmp_path).stderr
