"""Files and folders that a run did not make stay as they are, and what is in the way is told in one sentence."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from command_line import skipvae
from small_runs import TINY, tiny_run

from pyro_skipvae.reports.comparison import compare, read_record
from pyro_skipvae.reports.export import export_run, load_exported
from pyro_skipvae.reports.run_page import notes
from pyro_skipvae.runs import checkpoint
from pyro_skipvae.runs.checkpoint import temporary_name, write_whole
from pyro_skipvae.runs.config import Config
from pyro_skipvae.runs.description import stored
from pyro_skipvae.runs.folder import Run, RunError

FAST = (*TINY, "--decoder", "mlp", "--width", "8")
REPORT = SimpleNamespace(to_json=lambda: "{}")
HOLDER = json.dumps({"pid": 2**22 - 3, "host": socket.gethostname()})  # no process has so large a number


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(tiny_run(), tmp_path / "run")


def content(folder):
    """Every file, link and folder below a folder, and what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        plain = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(folder))] = path.read_bytes() if plain else os.readlink(path) if path.is_symlink() else None
    return found


def refused(code, *arguments, cwd, saying=""):
    done = skipvae(*arguments, cwd=cwd)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1 and saying in errors[0], done.stderr
    return done.stderr


def dead():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def of(pid, host=checkpoint.HOST):
    return f".skipvae-{host}-{pid}-0123abcd.tmp"


FOREIGN = (
    *("notes.txt", ".hidden.tmp", ".thesis.tex.1234.tmp", "report.json", "metrics.jsonl", "report.html", "samples.png"),
    *("vocabulary.txt", "data.json", "nonfinite.json", "checkpoints/mine.pt", "checkpoints/last.safetensors", "sub/file"),
    *(of(1), of(2**22 - 3, "another-host"), "checkpoints/.last.safetensors.12.tmp"),
)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_with_files_of_others_is_refused_before_anything_is_touched(name, tmp_path):
    file = tmp_path / "theirs" / name
    file.parent.mkdir(parents=True)
    file.write_text("theirs")
    before = content(tmp_path)
    refused(4, "train", *FAST, "--out", "theirs", cwd=tmp_path, saying="expected a new or empty folder for the run")
    assert content(tmp_path) == before


LOCKS = (
    *("theirs", "[]", "{}", '{"pid": "x", "host": 3}', '{"pid": 1}', '{"pid": ' + "9" * 5000 + ', "host": "a"}', "null"),
    *("[" * 900, "[" * 100_000, b"\xff\xfe", '{"pid": 1, "host": "' + "a" * 2000 + '"}'),
)


@pytest.mark.parametrize("text", LOCKS)
@pytest.mark.parametrize("resume", [True, False])
def test_a_lock_that_is_none_of_ours_is_left_and_told(text, resume, run, tmp_path):
    folder = run if resume else tmp_path / "new"
    folder.mkdir(exist_ok=True)
    (folder / ".lock").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = content(folder)
    with pytest.raises(RunError, match="expected the lock of a run at"), Run(folder).locked(new=not resume):
        pass
    assert content(folder) == before


@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe", "socket"])
def test_a_lock_that_is_no_file_is_left_and_told(kind, tmp_path):
    folder, target = tmp_path / "run", tmp_path / "precious"
    folder.mkdir()
    target.write_text("precious")
    made = _make(folder / ".lock", kind, target)
    with made, pytest.raises(RunError, match="expected the lock of a run at"), Run(folder).locked():
        pass
    assert target.read_text() == "precious" and os.path.lexists(folder / ".lock") and not (tmp_path / "absent").exists()


def _make(path, kind, target):
    """Something that is no file at a path."""
    if kind == "link":
        path.symlink_to(target)
    elif kind == "dangling":
        path.symlink_to(target.parent / "absent")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        bound = socket.socket(socket.AF_UNIX)
        with contextlib.chdir(path.parent):  # a socket's path is short
            bound.bind(path.name)
        return bound
    return contextlib.nullcontext()


@pytest.mark.parametrize("left", ["", '{"pid"', '{"pid": 12, "ho', HOLDER, "\0" * 40])
def test_what_a_killed_start_left_is_taken_over(left, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / ".lock").write_text(left)
    for name in ("vocabulary.txt", "data.json", of(dead()), f"checkpoints/{of(dead())}"):
        (folder / name).write_text("half")
    with Run(folder).locked(new=True) as held:
        assert not list(folder.rglob("*.tmp")) and json.loads((folder / ".lock").read_text())["pid"] == os.getpid()
        held.write("config.toml", "")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_start_that_is_stopped_leaves_a_new_folder_or_a_run(number, tmp_path, monkeypatch):
    """Stopped after the vocabulary, after what is known of the data, and after the settings, with which it is a run."""
    folder, written = tmp_path / "run", []
    data = SimpleNamespace(vocabulary=SimpleNamespace(text=lambda: "a"), describe=dict)

    def write(path, text):
        write_whole(path, text)
        written.append(path.name)
        if len(written) == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_whole", write)
    with pytest.raises(KeyboardInterrupt), Run(folder).locked(new=True) as begun:
        begun.begin(Config(), data)
    assert {path.name for path in folder.iterdir()} == {"checkpoints", *(written if number == 3 else ())}
    with pytest.raises(RunError, match="holds one") if number == 3 else contextlib.nullcontext():
        with Run(folder).locked(new=True):
            pass


def test_a_killed_start_is_gone_after_the_next_whatever_became_of_that(tmp_path):
    folder = tmp_path / "run"
    data = SimpleNamespace(name="d", event_shape=[2], kind="real", levels=None, binarisation="none", checksum="")
    known = SimpleNamespace(vocabulary=None, describe=lambda: vars(data))
    with Run(folder).locked(new=True) as begun:
        begun.write("data.json", stored(known))  # and then it is killed
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "data.json"}  # as where its lock was taken away
    with pytest.raises(KeyboardInterrupt), Run(folder).locked(new=True):
        raise KeyboardInterrupt
    assert {path.name for path in folder.iterdir()} == {"checkpoints"}
    (folder / "data.json").write_text('{"mine": 1}')
    with pytest.raises(RunError, match="holds data.json"), Run(folder).locked(new=True):
        pass


def test_only_our_unfinished_files_of_ended_processes_are_swept(run):
    kept = [of(os.getppid()), of(dead(), "another-host"), ".report.html.12.tmp", ".x.tmp", of(dead()) + "x", "a" + of(dead())]
    swept = [of(dead()), of(os.getpid()), f"checkpoints/{of(dead())}"]
    for name in (*kept, *swept):
        (run / name).write_text("half")
    (run / of(dead()).replace("0123", "dead")).mkdir()
    with Run(run).locked():
        pass
    assert all((run / name).exists() for name in kept) and not any((run / name).exists() for name in swept)


@pytest.mark.parametrize("act", ["log", "write", "save", "remove", "load", "report"])
@pytest.mark.parametrize("other", ["nothing", "run", "held"])
def test_a_folder_put_in_place_of_a_held_one_is_left_alone(act, other, run, tmp_path):
    held, second = Run(run), shutil.copytree(tiny_run(), tmp_path / "second")
    acts = {
        "log": lambda: held.log(epoch=9),
        "write": lambda: held.write("config.toml", "x"),
        "save": lambda: held.save("last", {"epoch": 9}),
        "remove": lambda: held.remove("report.json"),
        "load": lambda: held.load("best"),
        "report": lambda: held.write_report(REPORT),
    }
    with held.locked():
        run.rename(tmp_path / "moved")
        if other != "nothing":
            second.rename(run)
        with Run(run).locked() if other == "held" else contextlib.nullcontext():
            before = content(tmp_path)
            with pytest.raises(RunError, match="the folder was moved"):
                acts[act]()
            assert content(tmp_path) == before
        if other == "held":
            _ = Run(run).path.joinpath(".lock").write_text(HOLDER)
    assert (run / ".lock").exists() == (other == "held") and not (tmp_path / "moved" / "metrics.json").exists()


def test_a_training_whose_folder_is_replaced_ends_with_4(run, tmp_path, monkeypatch):
    log = Run.log

    def moved(self, **metrics):
        log(self, **metrics)
        if metrics["epoch"] == 1:
            self.path.rename(tmp_path / "moved")
            run.rename(self.path)

    monkeypatch.setattr(Run, "log", moved)
    before = content(run)
    refused(4, "train", *FAST, "--out", "new", cwd=tmp_path, saying="the folder was moved")
    assert content(tmp_path / "new") == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "report.json", "config.toml", "checkpoints/last.safetensors"])
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
def test_a_file_of_a_run_that_is_a_link_or_no_file_is_not_written(name, kind, run, tmp_path):
    target = tmp_path / "precious"
    target.write_text("precious")
    (run / name).unlink(missing_ok=True)
    with Run(run).locked() as held:
        _make(run / name, kind, target)
        with pytest.raises(RunError, match="expected a file of the run at"):
            if name.startswith("checkpoints"):
                held.save("last", {"epoch": 1})
            elif name == "metrics.jsonl":
                held.log(epoch=1)
            else:
                held.write(name, "ours")
    assert target.read_text() == "precious" and not (tmp_path / "absent").exists() and os.path.lexists(run / name)


@pytest.mark.parametrize("command", ["sample", "encode", "report"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device", "link to a pipe"])
def test_an_output_that_is_no_file_is_refused_and_stays(command, kind, run, tmp_path):
    out = tmp_path / "out.npz"
    made = contextlib.nullcontext()
    if kind == "device":
        out.symlink_to("/dev/null")
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        out.symlink_to(tmp_path / "pipe")
    else:
        made = _make(out, kind, None)
    before = os.lstat(out)
    with made:
        refused(2, command, "run", "--out", out, cwd=tmp_path)
    after = os.lstat(out)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)


def test_an_output_through_a_link_is_written_where_the_link_points(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", "one")
    write_whole(tmp_path / "link", "two")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


@pytest.mark.parametrize("kind", ["file", "pipe", "socket", "dangling"])
def test_a_run_folder_that_is_no_folder_is_refused_and_stays(kind, tmp_path):
    if kind == "file":
        (tmp_path / "out").write_text("theirs")
    made = contextlib.nullcontext() if kind == "file" else _make(tmp_path / "out", kind, tmp_path / "x")
    before = os.lstat(tmp_path / "out")
    with made:
        refused(2 if kind == "file" else 4, "train", *FAST, "--out", "out", cwd=tmp_path)
    assert os.lstat(tmp_path / "out").st_ino == before.st_ino and not (tmp_path / "absent").exists()


def test_a_run_folder_may_be_a_link_to_a_folder(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with Run(tmp_path / "out").locked(new=True) as held:
        held.write("config.toml", "")
    assert (tmp_path / "disk" / "config.toml").exists() and (tmp_path / "out").is_symlink()


def test_a_report_is_not_saved_beside_a_training(run, tmp_path):
    before = content(run)
    with Run(run).locked():
        refused(4, "evaluate", "run", "--save", "--report-budget", 0, cwd=tmp_path, saying=f"process {os.getpid()} on")
    assert content(run) == before


def test_a_report_names_its_checkpoint_and_is_not_used_for_another(run, tmp_path):
    card = read_record(run).report["card"]
    assert card["checkpoint_sha256"] == checkpoint.checksum(run / "checkpoints" / "best.safetensors")
    state = checkpoint.load(run / "checkpoints" / "best.safetensors")
    for name in ("best", "last"):
        checkpoint.save(run / "checkpoints" / f"{name}.safetensors", {**state, "best": -1.0})
    record = read_record(run)
    assert record.stale and not record.report
    done = skipvae("report", "run", cwd=tmp_path)
    assert done.returncode == 0 and "a checkpoint that is gone" in (run / "report.html").read_text()
    done = skipvae("train", "--resume", "run", "--report-budget", 0, cwd=tmp_path)
    assert done.returncode == 0 and "is of another checkpoint; making it again" in done.stderr
    assert read_record(run).report["card"]["checkpoint_sha256"] == checkpoint.checksum(run / "checkpoints" / "best.safetensors")


def test_a_report_of_another_model_than_the_one_that_is_loaded_is_told_as_such(run, tmp_path):
    assert read_record(run).other is None
    shutil.copytree(run, other := tmp_path / "other")
    state = checkpoint.load(other / "checkpoints" / "last.safetensors")
    checkpoint.save(other / "checkpoints" / "last.safetensors", {**state, "best": -1.0})
    for options, of in ((["--checkpoint", "last"], "the checkpoint 'last'"), (["--svi-steps", 2], "q(z|x) refined by 2 steps")):
        skipvae("evaluate", "other", "--save", "--report-budget", 0, *options, cwd=tmp_path)
        records = [read_record(run), read_record(other)]
        assert records[1].other == of and f"The report is of {of}, the pictures are not" in "".join(notes(records[1]))
        assert f"The estimates of other are of {of}." in compare(records).notes


def test_an_export_that_was_killed_is_made_anew_and_one_of_others_is_not(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        written = []

        def killed(path, text):
            if written:
                raise KeyboardInterrupt
            written.append(write_whole(path, text))

        patch.setattr("pyro_skipvae.reports.export.write_whole", killed)
        export_run(run, tmp_path / "model")
    assert len(list((tmp_path / "model").iterdir())) == 2  # one file, and the mark that it is not all
    export_run(run, tmp_path / "model")
    load_exported(tmp_path / "model")
    assert not list((tmp_path / "model").glob(".*"))
    before = content(tmp_path / "model")
    refused(2, "export", "run", "model", cwd=tmp_path, saying="expected a new or empty folder")
    (tmp_path / "model" / of(dead())).touch()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    refused(2, "export", "run", "model", cwd=tmp_path, saying="expected a new or empty folder")
    assert before.items() <= content(tmp_path / "model").items()


def test_a_temporary_name_is_short_and_known_again(tmp_path):
    name = temporary_name()
    assert checkpoint.TEMPORARY.fullmatch(name)[1] == str(os.getpid()) and len(name) < 120
    write_whole(tmp_path / ("a" * 250), "x")  # a long name leaves no room for more


def test_a_lock_of_a_killed_process_is_taken_over(tmp_path):
    held = """
import os, sys
from pyro_skipvae.runs.folder import Run
with Run(sys.argv[1]).locked():
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", held, tmp_path]).returncode == -signal.SIGKILL
    assert (tmp_path / ".lock").exists()
    with Run(tmp_path).locked(new=True):
        pass
