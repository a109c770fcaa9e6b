"""Remedies as runs: how names become settings, what is refused, and what a comparison says."""

import copy
import dataclasses
import functools
import json
import re
from pathlib import Path

import pytest
from command_line import skipvae
from test_tables import entry

from pyro_skipvae.reproduction import remedies, remedy_words
from pyro_skipvae.reproduction.remedies import REMEDIES, comparison_of, remedies_of, settings_of
from pyro_skipvae.reproduction.remedy_page import remedies_page
from pyro_skipvae.reproduction.tables import agrees, entry_for, run_folder, write_results
from pyro_skipvae.runs.build import build_data, settled
from pyro_skipvae.runs.config import Config, ConfigError
from pyro_skipvae_cli.remedies import _committed, _of_the_data_as_they_are

IMAGES = {"dataset": "digits", "decoder": "mlp"}


@pytest.mark.parametrize("name", REMEDIES)
def test_every_remedy_is_a_config_of_its_own(name):
    flags = {"dataset": "pydoc"} if name == "word-dropout" else IMAGES
    base, run = (comparison_of([each], seeds=1, **flags).runs[0] for each in ("vae", name))
    assert (run.config == base.config) == (name == "vae") and run.config.seed == 0
    assert all((REMEDIES[name].part, REMEDIES[name].what, REMEDIES[name].reference))


@functools.cache
def synthetic_text():
    return build_data(Config(dataset="synthetic-text", limit_train=24, limit_eval=12))


@pytest.mark.parametrize("name", REMEDIES)
def test_a_trained_run_is_known_by_the_settings_that_it_was_planned_with(name):
    """What a run records is the config with everything chosen that was left open, such as the epochs of a pretraining."""
    data = synthetic_text()
    config = Config.from_flags({"dataset": "synthetic-text", "epochs": 9, **settings_of(name)})
    assert agrees(config, dataclasses.asdict(settled(config, data)))
    assert not agrees(config, dataclasses.asdict(settled(dataclasses.replace(config, epochs=3), data)))


def test_the_page_on_remedies_has_a_row_for_each():
    page = (Path(__file__).parents[2] / "docs/remedies.md").read_text()
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for cell in cells for name in re.findall("`([a-z-]+)`", cell)} == set(REMEDIES)


def test_names_are_taken_together_and_take_numbers():
    assert settings_of("skip+free-bits(4)") == {"skip": "all", "objective": "free-bits-total(4)"}
    assert settings_of("vmf") == {"prior": "uniform-sphere", "guide": "von-mises-fisher"}
    assert settings_of("vmf(15)")["rate"] == 15 and settings_of("beta(0.2)") == {"beta": 0.2}
    assert remedies_of("skip, skip+sa,skip") == ["vae", "skip", "skip+sa"]
    run = comparison_of(["skip+delta(8)"], seeds=1, latent_dim=50, **IMAGES).runs[0]
    assert run.config.model == "skip-delta-vae" and run.config.rate == 8
    assert run.config.latent_dim == remedies.DELTA_CHANNELS  # of each step, where others have 50 in all


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("skp", "unknown remedy 'skp'.*did you mean skip"),
        ("skip+", "unknown remedy ''"),
        ("iaf+vmf", "got iaf and vmf: both set --guide"),
        ("skip(3)", "expected no number for the remedy skip"),
        ("free-bits(x)", "unknown remedy"),
        ("beta(0)", "expected --beta above 0"),
    ],
)
def test_names_that_make_no_sense_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        comparison_of(remedies_of(name), seeds=1, **IMAGES)


@pytest.mark.parametrize(
    ("names", "flags", "message"),
    [
        ("vamp", {"prior": "mixture-of-normals"}, "expected no --prior beside --remedies, which set it, as vamp does"),
        ("skip", {"skip": "first"}, "expected no --skip beside --remedies"),
        ("skip", {"model": "vae"}, "expected no --model beside --remedies"),
        ("delta+bn", {}, "both set --rate"),
        ("sa+iwae", {}, r"sa\+iwae: expected --objective elbo with --inference sa"),
    ],
)
def test_flags_that_contradict_a_remedy_are_refused(names, flags, message):
    with pytest.raises(ConfigError, match=message):
        comparison_of(remedies_of(names), seeds=1, **{**IMAGES, **flags})


def results(seeds=2):
    """A table of three remedies and entries whose numbers are known: skip is 1 nat better, in twice the time."""
    table = comparison_of(["vae", "skip", "beta"], seeds=seeds, **IMAGES)
    found = []
    for run in table.runs:
        better = {"vae": 0.0, "skip": 1.0, "beta": -2.0}[run.arm]
        own = copy.deepcopy(entry(run, elbo=-80.0 + better + 0.1 * run.seed, rate=1.0 + better / 4))
        own["report"] |= {"distortion": 79.0 - better, "shuffled_latent_loss": 3.0}
        own["elbo_per_point"] = [-80.0 + better + noise for noise in (0.0, 1.0, -1.0, 0.5)]
        found.append(own | {"cpu_seconds": 20.0 if run.arm == "skip" else 10.0})
    return table, found


def test_a_comparison_says_differences_intervals_and_time():
    table, entries = results()
    rows = {row.name: row for row in remedy_words.rows_of(table, entries)}
    assert rows["skip"].times == 2.0 and rows["vae"].times == 1.0 and rows["vae"].on_points is None
    skip = rows["skip"].on_points
    assert (skip.value, skip.low, skip.high) == pytest.approx((1.0, 1.0, 1.0))  # each of the points is better by as much
    assert rows["beta"].over_seeds.value == pytest.approx(-2.0) and rows["beta"].over_seeds.sign == -1
    assert rows["skip"].numbers["elbo"].ours == pytest.approx(-78.95)


def test_differences_are_of_seeds_that_both_have():
    table, entries = results()
    (first,) = (e for e in entries if e["arm"] == "vae" and e["seed"] == 1)
    first["elbo_per_point"] = [0.0, 0.0, 0.0, 0.0]
    left = [e for e in entries if not (e["arm"] == "skip" and e["seed"] == 1)]
    row = next(row for row in remedy_words.rows_of(table, left) if row.name == "skip")
    assert row.on_points.value == pytest.approx(1.0) and row.seeds == 1 and row.over_seeds is None
    assert "1 of 6 runs are missing" in remedy_words.sentences(table, left)[0]


def test_the_page_and_the_words_are_made_of_results(tmp_path):
    table, entries = results()
    page = remedies_page(table, entries)
    assert "× 2.00" in page and "6 of 6 runs are done" in page and page.count("<details>") == 6
    assert "Rate and distortion" in page and remedies_page(table, entries) == page
    assert "0 of 6 runs are done" in remedies_page(table, [])
    write_results(tmp_path / "results" / f"{table.name}.json", table, entries)
    flags = ("compare", "--remedies", "skip,beta", "--seeds", "2", "--dataset", "digits", "--decoder", "mlp")
    done = skipvae(*flags, "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    assert not done.returncode and [row["name"] for row in told["rows"]] == ["vae", "skip", "beta"]
    assert told["remedies"]["skip"]["reference"] == "Dieng et al. 2019"
    assert (tmp_path / "results" / f"{table.name}.html").exists() and "x 2.00" in skipvae(*flags, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare",), "expected the folders of runs to compare, or --remedies"),
        (("compare", "--epochs", "3"), "expected --remedies with --epochs"),
        (("compare", "--jobs", "2"), "expected --remedies with --jobs"),
        (("compare", "--remedies", "skip", "--budget", "3"), "expected no --budget beside --remedies"),
        (("compare", "--remedies", "skip", "--posterior-samples", "1"), "expected no --posterior-samples beside --remedies"),
        (("compare", "--runs", "elsewhere"), "expected --remedies with --runs"),
        (("compare", "--preset", "text-small"), "expected --remedies with --preset"),
        (("compare", "--remedies", "nothing"), "unknown remedy 'nothing'"),
        (("compare", "--remedies", "vamp", "--dataset", "pydoc"), "vamp: expected inputs that can be learned"),
        (("compare", "--remedies", "sa+iaf", "--decoder", "mlp"), r"sa+iaf: expected a --guide with local parameters"),
        (("compare", "--remedies", "word-dropout"), "word-dropout: its --word-dropout does nothing here, since it needs"),
        (("compare", "--remedies", "skip", "--runs", "/dev/null/no"), "expected a folder that can be written"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, message, tmp_path):
    done = skipvae(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in " ".join(done.stderr.split())


def test_runs_on_what_a_file_was_before_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["a,b"] + [f"{i % 7}.5,{i % 3}" for i in range(60)]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    table = remedies.comparison_of(["vae", "skip"], seeds=1, dataset="mine.csv", decoder="mlp")
    old, now = ({"report": {"card": {"data": {"checksum": word}}}, "settings": {"dataset": str(tmp_path / "mine.csv")}}
                for word in ("old", build_data(table.runs[0].config).checksum))  # fmt: skip
    other = old | {"settings": {"dataset": "mnist"}}
    checksum, is_now = _of_the_data_as_they_are(table)
    assert is_now([old, now, other]) == [now, other]
    longer = copy.deepcopy(old)
    longer["settings"]["max_words"] = 9  # of which nothing is known now
    assert is_now([longer]) == [longer]
    place = tmp_path / "runs/table/run"
    place.mkdir(parents=True)
    place.with_suffix(".toml").write_text(table.runs[0].config.to_toml())
    about = {"name": "", "event_shape": [2], "kind": "real", "levels": None, "binarisation": "none", "checksum": "old"}
    (place / "data.json").write_text(json.dumps(about))
    assert run_folder(table.runs[0], tmp_path / "runs") == place
    assert run_folder(table.runs[0], tmp_path / "runs", checksum) is None
    of_a_name = remedies.comparison_of(["vae"], seeds=1, dataset="digits", decoder="mlp")
    checksum, is_now = _of_the_data_as_they_are(of_a_name)
    assert checksum is None and is_now([old, now, other]) == [old, now, other]


def test_the_comparisons_that_come_with_the_package_are_all_found():
    sizes = {"decoder": "mlp", "layers": 5, "width": 256, "latent_dim": 50, "batch_size": 128, "epochs": 20, "svi_steps": 5}
    table = remedies.comparison_of(
        ["vae", "skip"], seeds=3, dataset="mnist", limit_train=20000, limit_eval=5000, initialisation="he", **sizes
    )
    assert all(entry_for(run, _committed()) for run in table.runs)


@pytest.mark.slow
def test_what_is_missing_is_trained_and_known_afterwards(tmp_path):
    flags = ("compare", "--remedies", "skip", "--decoder", "mlp", "--width", "8", "--epochs", "1", "--limit-train", "64")
    flags += ("--limit-eval", "50", "--report-budget", "1", "--jobs", "2")
    first = skipvae(*flags, cwd=tmp_path)
    assert first.returncode == 0 and "Done: digits, skip, seed 0" in first.stderr
    again = skipvae(*flags, cwd=tmp_path)
    assert again.stdout == first.stdout and "Started" not in again.stderr


def test_a_file_of_ones_own_is_known_by_its_full_path(tmp_path, monkeypatch):
    """The settings of a run have it so: those of another path would be other settings, and the run would never be found."""
    monkeypatch.chdir(tmp_path)
    table = remedies.comparison_of(["vae", "skip"], seeds=1, dataset="mine.csv", epochs=1)
    assert {run.flags["dataset"] for run in table.runs} == {str(tmp_path / "mine.csv")} and table.name == "remedies-mine-csv"
