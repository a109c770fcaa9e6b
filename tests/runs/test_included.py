"""The runs that come with the package: opened by name from anywhere, never written to, and small."""

import shutil

import pytest
from command_line import skipvae

from pyro_skipvae import load_run
from pyro_skipvae.data import folder, locate
from pyro_skipvae.diagnostics import rate
from pyro_skipvae.hub import from_pretrained, save_pretrained
from pyro_skipvae.objectives import elbo
from pyro_skipvae.reports.comparison import read_record
from pyro_skipvae.reports.run_page import write_page
from pyro_skipvae.runs.folder import RunError
from pyro_skipvae.runs.included import FOLDER, INCLUDED


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder without data, and without a network to fetch them from."""

    def refused(*_):
        raise folder.DataError("no network")

    monkeypatch.setattr(folder, "fetch", refused)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKIPVAE_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    before = contents()
    yield tmp_path
    assert contents() == before


def contents():
    return {file: file.stat().st_mtime_ns for file in FOLDER.rglob("*")}


@pytest.mark.parametrize("name", INCLUDED)
def test_it_is_opened_by_name_and_holds_weights_alone(name, elsewhere):
    run = load_run(name)
    assert not run.vae.training and run.vae.decoder(run.vae.prior().sample((2,))).sample().shape == (2, 28, 28)
    assert run.config.dataset == "mnist" and run.config.width <= 192 and run.config.layers >= 6
    assert {file.name for file in (FOLDER / name / "checkpoints").iterdir()} == {"best.safetensors"}
    weights = 4 * sum(tensor.numel() for tensor in run.vae.state_dict().values())
    assert (FOLDER / name / "checkpoints" / "best.safetensors").stat().st_size < weights + 20_000
    record = read_record(name)
    assert not record.stale and record.report["card"]["elbo_points"] == 10_000
    card = (FOLDER / name / "README.md").read_text()
    told = (f'load_run("{name}")', "skipvae-pyro train --dataset mnist", f"{record.report['rate']:.2f}")
    assert all(words in card for words in told)


def test_both_are_small_and_the_plain_one_is_collapsed():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= 6 * 10**6
    plain, skip = (read_record(name).report for name in INCLUDED)
    assert plain["active_units"] < skip["active_units"] and plain["elbo"] < skip["elbo"] - 10


def test_a_folder_of_the_same_name_comes_first(elsewhere):
    (elsewhere / "mnist-pair" / "skip").mkdir(parents=True)
    with pytest.raises(RunError, match="with the package come mnist-pair/plain and mnist-pair/skip"):
        load_run("mnist-pair/skip")
    shutil.rmtree(elsewhere / "mnist-pair")
    with pytest.raises(RunError, match="with the package come"):
        load_run("mnist-pair/skp")


def test_what_is_made_of_it_lies_in_the_working_folder(elsewhere):
    explore = "explore --dimensions 2 --steps 3"
    for command, made in (("sample", "samples.png"), (explore, "explore.html"), ("report", "report.html")):
        done = skipvae(*command.split(), "mnist-pair/skip", cwd=elsewhere)
        assert done.returncode == 0 and (elsewhere / made).exists(), done.stderr
    done = skipvae("compare", *INCLUDED, "--budget", "0", cwd=elsewhere)
    assert done.returncode == 0 and "active units" in done.stdout, done.stderr
    done = skipvae("evaluate", "mnist-pair/skip", cwd=elsewhere)
    assert done.returncode == 3 and "if they were moved, set the variable SKIPVAE_DATA to their folder" in done.stderr
    with pytest.raises(ValueError, match="expected a file to write to"):
        write_page("mnist-pair/skip")


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("evaluate mnist-pair/skip --save", 2, "expected a run of your own for --save"),
        ("evaluate mnist-pair/skp", 4, "with the package come mnist-pair/plain and mnist-pair/skip"),
        ("train --resume mnist-pair/skip", 2, "expected a run of your own to go on with"),
        (f"train --resume {FOLDER / 'mnist-pair/skip'}", 2, "without the state of its training; train it anew with --config"),
    ],
)
def test_mistakes(command, code, told, elsewhere):
    done = skipvae(*command.split(), cwd=elsewhere)
    assert done.returncode == code and told in done.stderr and done.stderr.count("\n") <= 3, done.stderr


@pytest.mark.real_data
@pytest.mark.skipif(locate("mnist")[0] is None, reason="needs MNIST")
def test_it_has_the_numbers_of_its_report_on_its_data():
    run, report = load_run("mnist-pair/plain"), read_record("mnist-pair/plain").report
    x = run.data.test[:500]
    assert rate(run.vae.model, run.vae.guide, x).value == pytest.approx(report["rate"], abs=0.3)
    assert elbo(run.vae.model, run.vae.guide, x).item() / -500 == pytest.approx(report["elbo"], abs=10)


def test_it_is_handed_on(tmp_path):
    save_pretrained("mnist-pair/skip", tmp_path / "model")
    assert from_pretrained(tmp_path / "model")[1] == load_run("mnist-pair/skip").config
