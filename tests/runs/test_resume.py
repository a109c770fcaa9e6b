"""A run that was killed goes on to the same end, bit for bit; what it is asked that it cannot do, it refuses."""

import fcntl
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torture
from command_line import skipvae
from small_runs import tiny_run

from pyro_skipvae import load_run
from pyro_skipvae.reports.comparison import compare, read_record
from pyro_skipvae.reports.export import export_run, load_exported
from pyro_skipvae.reproduction.tables import is_finished
from pyro_skipvae.runs import checkpoint
from pyro_skipvae.runs.build import build_data, build_vae, resolve
from pyro_skipvae.runs.checkpoint import CheckpointError
from pyro_skipvae.runs.config import Config
from pyro_skipvae.runs.folder import EPOCH, Run, RunError

QUICK = (("no_report",),)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """model -> (outcome, seconds) of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    return {model: torture.reference(folder / model, model, hooks=QUICK) for model in ("mlp", "pixelcnn")}


@pytest.mark.parametrize(("model", "minutes"), [("mlp", 0), ("mlp", 10), ("pixelcnn", 0)])
def test_a_killed_run_ends_as_if_it_had_not_been(model, minutes, whole, tmp_path):
    expected, seconds = whole[model]
    more = ("--checkpoint-minutes", minutes)
    codes = torture.killed_until_done(
        tmp_path / "run", model, seconds, random.Random(f"{model}{minutes}"), kills=2, more=more, hooks=QUICK
    )
    assert codes[-1] == 0, (tmp_path / "run.log").read_text()
    assert torture.same(torture.outcome(tmp_path / "run"), expected)


@pytest.mark.parametrize("step", [1, 10, 25])  # the first, the last of an epoch, one in the middle
def test_a_stop_in_an_epoch_changes_nothing(step, whole, tmp_path):
    stopped = torture.train(tmp_path / "run", "mlp", hooks=(*QUICK, ("signal_at", step, signal.SIGTERM)))
    assert stopped.end() == 143
    assert Run(tmp_path / "run").latest()[0]["step"]["steps"] == step
    assert torture.train(tmp_path / "run", "mlp", hooks=QUICK).end() == 0
    assert torture.same(torture.outcome(tmp_path / "run"), whole["mlp"][0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder with a report."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert torture.train(folder, "mlp", hooks=(("no_pictures",),)).end() == 0, folder.with_suffix(".log").read_text()
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it that may be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def resumed(run, *more, hooks=QUICK):
    """(exit code, output) of going on with it."""
    started = torture.train(run, "mlp", *more, hooks=hooks)
    return started.end(), started.log.read_text()


def test_a_finished_run_says_so_and_shows_its_report(run):
    before = (run / "report.json").read_bytes()
    code, said = resumed(run, "--epochs", 6, hooks=(("no_pictures",),))
    assert code == 0 and "is finished: 6 epochs of 6" in said and "active" in said
    assert (run / "report.json").read_bytes() == before and not (run / ".lock").exists()


@pytest.mark.parametrize("content", ["", "{}", '{"elbo": 1', "[]"])
def test_a_report_that_is_not_whole_is_made_again(run, content):
    (run / "report.json").write_text(content)
    code, said = resumed(run, hooks=(("no_pictures",),))
    assert code == 0 and "is not a whole report" in said and "Traceback" not in said
    assert "verdict" in (run / "report.json").read_text()


def test_a_report_that_is_missing_is_made(run):
    (run / "report.json").unlink()
    code, said = resumed(run, hooks=(("no_pictures",),))
    assert code == 0 and "Reporting on epoch" in said and (run / "report.json").exists()


def test_more_epochs_go_on_from_the_end(run):
    lines = (run / "metrics.jsonl").read_text()
    code, said = resumed(run, "--epochs", 7)
    assert code == 0 and "at epoch 7, batch 1" in said
    assert (run / "metrics.jsonl").read_text().startswith(lines) and Run(run).config().epochs == 7


@pytest.mark.parametrize(
    ("flags", "named"), [(("--lr", 0.1), "lr 0.1 (there 0.001)"), (("--layers", 3), "layers 3 (there 2)")]
)
def test_other_settings_are_refused_by_name(flags, named, run):
    code, said = resumed(run, *flags)
    assert code == 2 and named in said and said.startswith("Error: expected the settings of")


@pytest.mark.parametrize("epochs", [0, 5])
def test_fewer_epochs_than_are_done_are_refused_and_nothing_is_written(epochs, run):
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    code, said = resumed(run, "--epochs", epochs)
    assert code == 2 and f"expected --epochs of at least 6, the epochs that {run} has begun, got {epochs}" in said
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_the_checkpoint_before_a_damaged_one_is_taken_with_a_note(run, whole):
    last = run / "checkpoints" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    code, said = resumed(run)
    assert code == 0 and "Warning" in said and "last.safetensors" in said and "at epoch 6, batch 1" in said
    assert torture.same(torture.outcome(run), whole["mlp"][0])
    assert checkpoint.load(run / "checkpoints" / "prev.safetensors")["epoch"] == 5  # not the damaged one


def test_two_damaged_checkpoints_are_refused(run):
    for name in ("last", "prev"):
        (run / "checkpoints" / f"{name}.safetensors").write_bytes(b"")
    code, said = resumed(run)
    assert code == 4 and "last.safetensors" in said and "Traceback" not in said


def test_a_checkpoint_of_another_model_is_refused(run, tmp_path):
    checkpoint.save(run / "checkpoints" / "last.safetensors", {"vae": {}, "epoch": 1})
    code, said = resumed(run)
    assert code == 4 and "expected a checkpoint of this run" in said


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    started = torture.Started("train", "--resume", tmp_path, log=tmp_path / "log")
    assert started.end() == 4 and "expected a run folder with a config.toml" in started.log.read_text()


def test_lines_of_lost_epochs_are_cut_off_and_so_is_a_torn_one(tmp_path):
    run, names = Run(tmp_path), [name for name in EPOCH if name != "epoch"]
    for epoch in (1, 2, 3):
        run.log(epoch=epoch, **dict.fromkeys(names, 0.1 + epoch) | {"valid_rate": float("nan")})
    file = tmp_path / "metrics.jsonl"
    before = file.read_text()
    file.write_text(before + '{"epoch": 4, "lo')
    run.cut_metrics(2)
    assert file.read_text() == before[: before.index('{"epoch": 3')] and '"valid_rate": null, "active_units": 2.1' in before


@pytest.fixture
def tiny(tmp_path):
    """A run with a data-dependent start and three checkpoints, each with weights of a value of its own."""
    config = Config.from_flags(
        {
            "dataset": "digits",
            "decoder": "mlp",
            "layers": 1,
            "width": 4,
            "latent_dim": 2,
            "limit_train": 50,
            "limit_eval": 10,
            "initialisation": "data-dependent",
        }
    )
    data = build_data(config)
    config, run = resolve(config, data), Run(tmp_path / "tiny")
    vae = build_vae(config, data)
    with run.locked():
        run.begin(config)
        for name, value in (("last", 1.0), ("last", 2.0), ("best", 3.0)):
            weights = {key: torch.full_like(tensor, value) for key, tensor in vae.state_dict().items()}
            run.save(name, {"vae": weights, "data": data.checksum})
    return run


def loaded(run, which):
    """The value of the weights that were read, and the name of their checkpoint."""
    found = load_run(run.path, which=which)
    return found.vae.encoder.network[0].weight[0, 0].item(), found.checkpoint


def test_the_checkpoint_that_is_read_has_a_name(tiny):
    folder = tiny.path / "checkpoints"
    assert loaded(tiny, "best") == (3.0, "best") and loaded(tiny, "last") == (2.0, "last")
    with pytest.raises(ValueError, match="expected the checkpoint best or last, got 'bests'"):
        load_run(tiny.path, which="bests")
    (folder / "best.safetensors").unlink()
    assert loaded(tiny, "best") == (2.0, "last")
    whole = (folder / "last.safetensors").read_bytes()
    (folder / "last.safetensors").write_bytes(whole[:-3])
    for which in ("best", "last"):  # not that of another step without a word
        with pytest.raises(CheckpointError, match="last.safetensors"):
            load_run(tiny.path, which=which)
    (folder / "last.safetensors").unlink()  # as where a save was killed between two renames
    assert loaded(tiny, "last") == (1.0, "prev")
    (folder / "prev.safetensors").unlink()
    with pytest.raises(CheckpointError, match="expected a checkpoint in .*, got none"):
        load_run(tiny.path)


def test_weights_that_are_read_need_no_start_by_the_data(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_skipvae.runs.build.data_dependent_", None)
    _, _, config = load_run(tiny.path)
    assert config == tiny.config() and config.initialisation == "data-dependent"
    monkeypatch.setattr("pyro_skipvae.reports.export.model_card", lambda *_: "")  # it is made of a report
    export_run(tiny.path, tmp_path / "exported")
    vae, config = load_exported(tmp_path / "exported")
    assert config == tiny.config() and vae.encoder.network[0].weight.eq(3).all()


def test_a_run_folder_is_held_without_what_windows_lacks(tmp_path, monkeypatch):
    for lacking in ("pread", "pwrite"):
        monkeypatch.delattr(os, lacking)
    with Run(tmp_path).locked(), pytest.raises(RunError, match=f"process {os.getpid()} on "):
        with Run(tmp_path).locked():
            pass
    monkeypatch.setattr("pyro_skipvae.runs.folder.fcntl", None)
    with Run(tmp_path).locked():
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".lock").exists()


def test_a_refusal_names_the_run_that_holds_the_folder_not_the_one_that_was_killed(tmp_path):
    """A run that takes a killed one's folder writes its number a moment after it locks; the refused one waits for it."""
    ended = multiprocessing.get_context("spawn").Process()
    ended.start()
    ended.join()
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"pid": ended.pid, "host": socket.gethostname()}))
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ours = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        threading.Timer(0.2, lock.write_text, [ours]).start()
        with pytest.raises(RunError, match=f"process {os.getpid()} on "), Run(tmp_path).locked():
            pass


def test_too_little_space_is_found_at_the_start(tmp_path):
    with pytest.raises(RunError, match="expected .* for 3 of the three checkpoints free at"):
        Run(tmp_path).check_space(10**18)


def test_a_run_goes_on_where_there_is_room_for_one_checkpoint_more(tmp_path, monkeypatch):
    run = shutil.copytree(tiny_run(), tmp_path / "run")
    for name in ("best", "last", "prev"):
        (run / "checkpoints" / f"{name}.safetensors").touch()
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    Run(run).check_space(1000)
    with pytest.raises(RunError, match="for 1 of the three checkpoints"):
        Run(run).check_space(1001)


def test_a_folder_that_cannot_be_made_is_one_plain_line(tmp_path):
    (tmp_path / "file").write_text("")
    started = torture.Started("train", "--out", tmp_path / "file" / "run", *torture.SMALL, *torture.MLP, log=tmp_path / "log")
    assert started.end() == 4 and "expected a run folder that can be written" in started.log.read_text()


def test_a_full_disk_leaves_the_old_checkpoint_and_can_be_resumed(whole, tmp_path):
    full = torture.train(tmp_path / "run", "mlp", hooks=(*QUICK, ("full_disk", 3)))
    assert full.end() == 4 and "File too large" in full.log.read_text()
    assert Run(tmp_path / "run").latest()[0]["epoch"] == 2
    assert torture.train(tmp_path / "run", "mlp", hooks=QUICK).end() == 0
    assert torture.same(torture.outcome(tmp_path / "run"), whole["mlp"][0])


def test_a_run_is_read_with_the_data_that_it_was_trained_on(tmp_path):
    rows = np.random.default_rng(0).integers(0, 2, (60, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "own.npz", train=rows)
    tiny = ("--decoder", "mlp", "--layers", 1, "--width", 8, "--latent-dim", 2, "--epochs", 1, "--report-budget", 0)
    done = skipvae("train", "--dataset", tmp_path / "own.npz", *tiny, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_run(tmp_path / "run").data.test.shape[1:] == (4, 4)
    rows[0, 0, 0] = 1 - rows[0, 0, 0]
    np.savez(tmp_path / "own.npz", train=rows)
    with pytest.raises(RunError, match="expected the data that .*run was trained on .checksum .*got other contents of own.npz"):
        _, _, _ = load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("garbage\n", "metrics.jsonl, line 1"),
        ('{"epoch": "one"}\n', "metrics.jsonl, line 1: it.epoch is 'one'"),
        ('{"epoch": 1}\n', "metrics.jsonl, line 1: it lacks train_loss"),
        ("[]\n", "metrics.jsonl, line 1: it is '[]'"),
    ],
)
def test_metrics_that_are_none_are_told_with_their_line(text, said, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(RunError, match=re.escape(said)):
        Run(tmp_path).metrics()


def test_settings_of_which_parts_are_lost_are_refused(tmp_path):
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(RunError, match="got some without a decoder: parts of it are lost"):
        Run(tmp_path).config()


def test_a_run_whose_state_is_gone_is_not_begun_anew(run):
    """The best epoch is left, as in a run that was trimmed, and in a copy of one that comes with the package."""
    for name in ("last", "prev"):
        (run / "checkpoints" / f"{name}.safetensors").unlink()
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    code, said = resumed(run, "--epochs", 7)
    assert code == 4 and "from which a training goes on, got neither: put one back, or train anew with --config" in said
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_training_that_ended_before_its_last_epoch_keeps_its_epochs(tmp_path):
    size = "--decoder mlp --layers 1 --width 8 --encoder-width 8 --limit-train 60 --limit-eval 60 --report-budget 1"
    ended = "--epochs 500 --patience 1 --lr 0.01 --beta-schedule constant"
    done = skipvae("train", *size.split(), *ended.split(), "--out", "run", cwd=tmp_path)
    run = Run(tmp_path / "run")
    assert done.returncode == 0 and len(run.metrics()) < 500 and run.unfinished() is None
    for epochs in (str(len(run.metrics()) + 1), "600"):
        done = skipvae("train", "--resume", "run", "--epochs", epochs, cwd=tmp_path)
        assert done.returncode == 2 and "no better validation for" in done.stderr and f"got {epochs}: train anew" in done.stderr
        assert run.config().epochs == 500
    assert skipvae("train", "--resume", "run", cwd=tmp_path).returncode == 0


def test_a_report_on_a_training_that_has_not_ended_is_not_its_last(tmp_path):
    run = Path(shutil.copytree(tiny_run(), tmp_path / "run"))
    settings = (run / "config.toml").read_text()
    (run / "config.toml").write_text(settings.replace("epochs = 2", "epochs = 60", 1))
    assert is_finished(run) and Run(run).unfinished() == "2 of 60 epochs"
    done = skipvae("evaluate", "run", "--save", "--importance-samples", "2", cwd=tmp_path)
    assert done.returncode == 0 and "The training of run is not finished: 2 of 60 epochs." in done.stderr
    assert not is_finished(run) and read_record(run).report["card"]["unfinished"] == "2 of 60 epochs"
    shutil.copytree(run, tmp_path / "other")
    found = compare([read_record(run), read_record(tmp_path / "other")])
    assert any("was not finished: 2 of 60 epochs" in note for note in found.notes)
    (run / "config.toml").write_text(settings)
    assert skipvae("train", "--resume", "run", "--report-budget", "1", cwd=tmp_path).returncode == 0
    assert is_finished(run) and "unfinished" not in read_record(run).report["card"]


def test_a_folder_that_another_process_writes_to_is_known(tmp_path):
    with Run(tmp_path / "run").locked():
        assert Run(tmp_path / "run").is_held()
    assert not Run(tmp_path / "run").is_held()
