"""Tables of the paper: what is planned, what is known as done, what the words say of an ordering, and the command."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_cli import skipvae

from pyro_skipvae import analyses, reproduction, reproduction_page, side_claims
from pyro_skipvae.config import Config, ConfigError
from pyro_skipvae.reproduction import Cell, Planned, Table, cells, entry_for, load_table, orderings, read_results, write_results
from pyro_skipvae.run import load_run
from pyro_skipvae_cli.job import make_config, make_job
from pyro_skipvae_cli.reproduction import Costs

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
    assert "scaled down: epochs 1, limit_train 64" in reproduction.label(scaled, row, arm)
    assert reproduction.label(whole, row, arm) == "" and not load_table("table4", epochs=20).runs[0].scaled


def test_tables_for_a_gpu_are_scaled_down_unless_in_full():
    table, full = load_table("classification"), load_table("classification", full=True)
    assert {run.row for run in table.runs if run.scaled} == {"PixelCNN, 9 layers"} and not any(run.scaled for run in full.runs)
    assert {run.config.epochs for run in full.runs} == {100} and load_table("table1", epochs=2).runs[0].config.epochs == 2
    assert load_table("figure1").runs[0].scaled == load_table("table2-mnist").runs[0].scaled != {}
    table1 = load_table("table1")
    entries = [entry(run) for run in table1.runs]
    assert "(scaled down)" in orderings(table1, entries)[0]
    assert any("--full" in note for note in reproduction.notes(table1, entries))
    assert not any("--full" in note for note in reproduction.notes(load_table("table3"), []))


def entry(run, elbo=-80.0, rate=1.0, units=3):
    report = {
        "elbo": elbo, "rate": rate, "active_units": units, "mi_ceiling": math.log(1929), "standard_errors": {},
        "mi_dieng_2019": {"value": rate / 2}, "mi_upper": {"value": rate, "low": 0.0, "high": 2.0}, "mi_marginal": None,
        "perplexity": {"ppl_iw": {"value": 100.0, "low": 90.0, "high": 110.0}}, "card": {"points": 10, "device": "cpu"},
        "active_unit_variances": [1e-4, 0.05, 0.5, 0.9], "active_units_0_02": 3,
    }  # fmt: skip
    about = {"row": run.row, "arm": run.arm, "seed": run.seed, "scaled": run.scaled, "protocol": run.protocol}
    about |= {"epochs": 1, "seconds": 1.0}
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


def test_arms_are_compared_on_the_same_test_points():
    table = load_table("table3", seeds=1)
    runs = {run.arm: run for run in table.runs if run.row == "3 layers"}
    points = {"plain": [-90.0, -100.0, -80.0], "skip": [-89.0, -98.0, -77.0], "last layer only": [-91.0, -100.0, -79.0]}
    entries = [entry(runs[arm], elbo=sum(own) / 3) | {"elbo_per_point": own} for arm, own in points.items()]
    entries.append(entry(runs["parameter-matched"]))  # made without values for each point
    pairs = reproduction.paired_difference(table, entries, "3 layers", "skip")
    assert (pairs.value, pairs.points) == (2.0, 3) and pairs.high - 2.0 == pytest.approx(1.96 / 3**0.5)
    told = [sentence for sentence in orderings(table, entries) if "ELBO" in sentence]
    assert len(told) == 2 and "+0.87 to +3.13 over the first 3 test points, paired" in told[0]
    assert told[0].endswith("+1.21 published: the ordering holds (one seed).")
    assert told[1].startswith("3 layers, ELBO: last layer only - plain is +0.00 (")
    entries[1]["elbo_per_point"] = [-91.0, -99.0, -79.0]
    assert "not shown over test points (one seed)" in orderings(table, entries)[0]


def test_values_at_the_ceiling_order_nothing():
    plain, skip = Cell(9.21, 4.0, None, 1), Cell(9.20, 5.0, None, 1)
    assert "ceiling ln 10,000" in reproduction._ordering("4 layers", "mi", plain, skip)
    equal = Cell(20, 19.0, 0.1, 3), Cell(20, 20.0, 0.1, 3)
    assert "(standard error 0.08); the published values are equal" in reproduction._ordering("1 layer", "au", *equal)


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
    with pytest.raises(ValueError, match="bad.json, but entries lack arm, epochs, protocol, report, scaled, seconds, seed"):
        read_results(tmp_path / "bad.json")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "results").glob("*.json")), ids=lambda path: path.stem)
def test_what_is_kept_can_be_read(path):
    if path.stem in reproduction.table_names():
        table, entries = load_table(path.stem), read_results(path)
        assert entries and all(any(entry_for(run, [e]) for run in table.runs) for e in entries), "expected no run of no row"


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


def tiny_table(name, analysis=None, **about):
    """A table of two runs on digits, scaled down to seconds of training."""
    models = {"plain": "vae", "skip": "skip-vae"}
    runs = [Planned("digits", arm, {**TINY, "model": model}, 0, FEW, analysis) for arm, model in models.items()]
    published = {("digits", "plain"): {}, ("digits", "skip"): {}}
    return Table(name, "Digits", about.pop("columns", ["elbo", "kl"]), published, runs, **about)


@pytest.fixture(scope="module")
def two_tables(tmp_path_factory):
    """A folder in which a table was made, and then another of the same runs that puts them to an analysis; what each said."""
    folder = tmp_path_factory.mktemp("tables")
    tables = {
        "first": tiny_table("first"),
        "second": tiny_table("second", "clusters", columns=["neighbours", "silhouette"], pictures=["planes"]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduction, "load_table", lambda name, **which: tables[name])
        patch.setattr(reproduction, "table_names", lambda: list(tables))
        said = {
            name: skipvae("reproduce", name, "--jobs", 2, "--report-budget", 1, "--device", "cpu", cwd=folder)
            for name in tables
        }
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
    assert [e["report"] for e in first] == [e["report"] for e in second]
    numbers = second[0]["analysis"]["clusters"]
    assert 0 <= numbers["neighbours"] <= 100 and -1 <= numbers["silhouette"] <= 1
    assert len(numbers["x"]) == len(numbers["y"]) == len(numbers["classes"]) == 60
    assert f"{numbers['neighbours']:.2f}" in said["second"].stdout


def test_show_trains_nothing_and_the_page_holds_its_pictures(two_tables):
    folder, said, shown, _ = two_tables
    assert shown.stdout == said["second"].stdout and not shown.stderr
    page = (folder / "page.html").read_text()
    assert page == (folder / "results" / "second.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "<script" not in page and "http" not in page
    assert page.count("Evaluation card:") == 2 and "skipvae-pyro train --limit-train 200" in page and "silhouette" in page


def test_the_list_says_what_is_done(two_tables):
    *_, listed = two_tables
    rows = [line.split() for line in listed.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == ["first", "second"] and all(row[-4:] == ["2", "of", "2", "-"] for row in rows)


def test_the_list_measures_a_cell_once_and_says_which_data_are_absent(tmp_path, monkeypatch):
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
    costs = Costs()
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
    assert reproduction.run_folder(planned, tmp_path) == tmp_path / "a/x"
    (tmp_path / "b/y/report.json").write_text("{}")
    assert reproduction.run_folder(planned, tmp_path) == tmp_path / "b/y"  # a finished one rather than one that was begun
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
    assert "at most 0.14" in reproduction.notes(table, entries)[-1]


def test_figures_take_their_runs_from_tables(tmp_path):
    table = load_table("figure1")
    write_results(tmp_path / "table3.json", load_table("table3"), [entry(run) for run in load_table("table3").runs])
    others = reproduction.results_of_others("figure1", tmp_path)
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
    assert "Protocol: paper" in reproduction.notes(paper, entries)[0] and "default" in reproduction.notes(usual, [])[0]
    pixelcnn = next(run for run in load_table("figure2", protocol="paper").runs if "PixelCNN" in run.row)
    assert pixelcnn.config.beta_schedule == "constant" and pixelcnn.config.lr_schedule == "constant"


def test_units_between_the_two_kinds():
    table = load_table("active-units")
    entries = [entry(run) for run in table.runs]  # variances 1e-4, 0.05, 0.5 and 0.9
    found = cells(table, entries)["MLP, 2 layers", "plain"]
    assert found["units_between"].ours == 25.0 and found["au"].ours == 3
    (sentence,) = [note for note in reproduction.notes(table, entries) if note.startswith("MLP")]
    assert "25.0 % vary by less than 0.003, 50.0 % by more than 0.1, and 25.0 % lie between; 0.0 % are active" in sentence


@pytest.mark.parametrize("name", reproduction.table_names())
def test_every_reproduction_has_a_page_with_and_without_results(name, monkeypatch):
    monkeypatch.setattr(reproduction_page, "premise", lambda table: ["What is claimed."])  # its own takes a while
    table = load_table(name, seeds=1)
    planar = {"clusters": {"neighbours": 90.0, "silhouette": 0.1, "x": [0.0, 1.0], "y": [1.0, 0.0], "classes": [0, 1]}}
    entries = [entry(run) | {"analysis": {"classification": {"mlp_probe": 97.0}, **planar}} for run in table.runs]
    empty, full = (reproduction_page.page_of(table, found) for found in ([], entries))
    assert "0 of" in empty and f"{len(table.runs)} of {len(table.runs)}" in full
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
        ("4 layers, 2 dimensions", "plain"): (5.0, -130.0, 79.0),
    }
    found = {place: {c: Cell(None, None, None, 0) for c in table.columns} for place in table.published}
    for place, numbers in told.items():
        found[place] = {c: Cell(None, v, None, 1) for c, v in zip(("kl", "elbo", "neighbours"), numbers, strict=True)}
    size, start, dimensions = side_claims.findings(found)
    assert "9.00, 8.00, 2.00; it falls with every step" in size
    assert "plain: ELBO +0.50 against He's start; it is better" in start
    assert "79.0 %" in dimensions and dimensions.endswith("against 81.0 %; not more.")
    assert orderings(table, []) == ["The claims wait for their runs."]


def test_a_number_on_fewer_points_is_told():
    table = load_table("table4")
    whole, part = entry(table.runs[0]), entry(table.runs[1])
    part["report"]["card"] = {"points": 1000, "log_likelihood_points": 200}
    (sentence,) = [s for s in reproduction.notes(table, [whole, part]) if "the first" in s]
    assert sentence == f"PPL of {part['row']}, {part['arm']}, seed 0: the first 200 of 1,000 points."
