"""A run that was killed goes on to the same end, bit for bit; what it is asked that it cannot do, it refuses."""

import random
import shutil
import signal

import pytest
import torture

from pyro_skipvae import checkpoint
from pyro_skipvae.run import Run, RunError

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
    run = Run(tmp_path)
    for epoch in (1, 2, 3):
        run.log(epoch=epoch, loss=0.1 + epoch, rate=float("nan"))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "lo')
    run.cut_metrics(2)
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"epoch": 1, "loss": 1.1, "rate": null}\n{"epoch": 2, "loss": 2.1, "rate": null}\n'
    )


def test_too_little_space_is_found_at_the_start(tmp_path):
    with pytest.raises(RunError, match="for three checkpoints free at"):
        Run(tmp_path).check_space(10**18)


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
