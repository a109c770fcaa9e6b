"""Odd machines, numbers and names: one sentence and the documented exit code, at the start; no traceback and no hang."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from command_line import skipvae
from small_runs import TINY, tiny_run

FAST = ("--decoder", "mlp", "--width", "4", *TINY, "--epochs", "1", "--report-budget", "0")
GIANTS = (10**19, 10**30, -(10**19), -1, "9" * 4301, "1" + "0" * 5000)


def told(done, *codes):
    """One sentence and one of these exit codes."""
    assert done.returncode in codes and "Traceback" not in done.stderr, done.stderr[-2000:]
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1, done.stderr[-2000:]
    return errors[0]


NUMBERS = ("layers", "width", "latent-dim", "batch-size", "epochs", "seed", "limit-train", "limit-eval", "components", "maps")


@pytest.mark.parametrize("flag", NUMBERS)
@pytest.mark.parametrize("value", GIANTS, ids=lambda value: str(value)[:25])
def test_whole_numbers_beyond_the_machine_are_refused(flag, value, tmp_path):
    told(skipvae("train", *FAST, f"--{flag}={value}", cwd=tmp_path), 2)
    assert not list(tmp_path.iterdir())


OTHERS = (
    *(("evaluate", f"--{flag}") for flag in ("importance-samples", "posterior-samples", "limit-eval", "svi-steps")),
    ("evaluate", "--mi-components"),
    *(("sample", f"--{flag}") for flag in ("count", "seed", "beam-width")),
    *(("reconstruct", "--count"), ("interpolate", "--from-item"), ("interpolate", "--points"), ("traverse", "--item")),
    *(("traverse", "--dimensions"), ("compare", "--posterior-samples"), ("report", "--importance-samples")),
)


@pytest.mark.parametrize(("command", "flag"), OTHERS)
@pytest.mark.parametrize("value", [10**19, -1, "9" * 4301], ids=lambda value: str(value)[:25])
def test_whole_numbers_of_other_commands_are_refused_too(command, flag, value, tmp_path):
    told(skipvae(command, tiny_run(), f"{flag}={value}", cwd=tmp_path), 2)


LARGE = (
    *(("--layers", 2**31 - 1), ("--width", 2**31 - 1), ("--latent-dim", 2**31 - 1), ("--layers", 10**8)),
    *(("--objective", "iwae(999999999)"), ("--width", 10**6)),
)


@pytest.mark.parametrize(("flag", "value"), LARGE)
@pytest.mark.parametrize("decoder", ["mlp", "pixelcnn"])
def test_a_model_that_no_memory_holds_is_refused_with_its_size(flag, value, decoder, tmp_path):
    if (decoder, flag) == ("pixelcnn", "--width"):
        flag = "--maps"
    words = ("--decoder", decoder, "--limit-train", 50, "--limit-eval", 10, "--layers", 2, flag, value)
    assert "fit into memory" in told(skipvae("train", *words, cwd=tmp_path), 2)
    assert not list(tmp_path.iterdir())


def test_a_batch_larger_than_the_data_is_one_batch(tmp_path):
    done = skipvae("train", *FAST, "--batch-size", 2**31 - 1, "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["steps_per_epoch"] == 1


DEVICES = (
    *("hpu", "xla", "vulkan", "cuda:99", "cuda:-1", "mps", "meta", "ipu", "xpu", "mkldnn", "opengl", "opencl", "hip", "ve"),
    *("fpga", "maia", "lazy", "mtia", "privateuseone", "", "cpu:x", "gpu", "tpu", "cuda:" + "9" * 30, "\x1b[31m", "cpu cpu"),
)


@pytest.mark.parametrize("device", DEVICES)
def test_devices_that_are_not_here_are_refused(device, tmp_path):
    said = told(skipvae("train", *FAST, "--device", device, cwd=tmp_path), 2)
    assert "expected a device" in said and not list(tmp_path.iterdir())


FLOATS = ("lr", "beta", "beta-start", "max-norm", "svi-lr", "svi-momentum", "warmup-epochs", "dropout")


@pytest.mark.parametrize("flag", FLOATS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e999", ""])
def test_numbers_that_are_not_finite_are_refused(flag, value, tmp_path):
    told(skipvae("train", *FAST, f"--{flag}={value}", cwd=tmp_path), 2)


PATHS = ("~nouser/x.npz", "", " ", "a" * 300 + ".npz", "/proc/self/mem", "x/" * 3000 + "y.npz", "12", "/dev/null")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path[:20]))
def test_odd_names_of_data_are_refused(path, tmp_path):
    told(skipvae("train", "--dataset", path, cwd=tmp_path), 2, 3)


@pytest.mark.parametrize("command", ["train --resume", "evaluate", "sample", "report", "export", "compare"])
@pytest.mark.parametrize("path", ["~nouser/run", "a" * 300, "x/" * 3000, "\udcff", "\x1b[31m", "a\nb", "", "12"], ids=repr)
def test_odd_names_of_runs_are_refused(command, path, tmp_path):
    more = ("model",) if command == "export" else ()
    said = told(skipvae(*command.split(), path, *more, cwd=tmp_path), 2, 4)
    assert "\x1b" not in said and "a\nb" not in said


@pytest.mark.parametrize("path", ["a" * 300, "x/" * 3000, "/proc/run", "/dev/null/run", ""], ids=lambda path: path[:15])
def test_odd_names_for_a_new_run_are_refused(path, tmp_path):
    told(skipvae("train", *FAST, "--out", path, cwd=tmp_path), 2, 4)


NAMES = ("red\x1b[31m", "two\nlines", "\u202egnp", "<b>&amp;|*`")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_run_of_any_name_is_trained_and_used(name, tmp_path):
    done = skipvae("train", *FAST, "--out", name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for command in ("sample", "report", "evaluate"):
        done = skipvae(command, name, cwd=tmp_path)
        assert done.returncode == 0 and not {"\x1b", "\u202e"} & set(done.stdout + done.stderr), done.stderr
    done = skipvae("export", name, "model", cwd=tmp_path)
    card = (tmp_path / "model" / "README.md").read_text()
    assert done.returncode == 0 and not {"\x1b", "\u202e"} & set(card) and "<b>" not in card and "two\nlines" not in card


def test_a_run_of_a_name_that_is_not_utf_8_is_refused_at_the_start(tmp_path):
    assert "name is UTF-8" in told(skipvae("train", *FAST, "--out", "\udcff\udc80", cwd=tmp_path), 4)
    assert not list(tmp_path.iterdir())


def test_data_of_a_name_that_is_not_utf_8_are_refused(tmp_path):
    import numpy as np

    np.savez(tmp_path / "x.npz", train=np.zeros((20, 4, 4)))
    os.rename(os.fsencode(tmp_path / "x.npz"), os.fsencode(tmp_path) + b"/\xff.npz")
    told(skipvae("train", *FAST, "--dataset", "\udcff.npz", cwd=tmp_path), 2, 3)


def started(*words, cwd, before="", **environment):
    """The command line in a process of its own, after some Python."""
    code = f"import os, sys\n{before}\nsys.argv = ['skipvae-pyro', *sys.argv[1:]]\nfrom pyro_skipvae_cli import main\nmain()"
    known = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    arguments = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(arguments, cwd=cwd, env=known, capture_output=True, text=True, timeout=120)


MACHINES = {  # several at once: each start of a process takes seconds
    "no HOME, C, dumb": ("", {"HOME": None, "TMPDIR": "/nowhere", "LANG": "C", "LC_ALL": "C", "TERM": "dumb", "COLUMNS": "1"}),
    "read-only HOME, clock going back": (
        "import time; now = time.time; time.time = lambda: 4e9 - now(); os.umask(0o077)",
        {"HOME": "/proc"},
    ),
    "all closed": ("os.close(0); os.close(1); os.close(2)", {}),
    "stderr full": ("os.close(0); os.dup2(os.open('/dev/full', os.O_WRONLY), 2)", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_a_training_ends_well_on(machine, tmp_path):
    before, environment = MACHINES[machine]
    done = started("train", *FAST, "--out", "run", cwd=tmp_path, before=before, **environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "run" / "report.html").exists()


FULL = "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
BROKEN = "r, w = os.pipe(); os.close(r); os.dup2(w, 1)"


TRAIN = ("train", *FAST, "--out", "run")
PRINTED = ((FULL, TRAIN), (BROKEN, TRAIN), (FULL, ("datasets",)), (BROKEN, ("datasets",)), (FULL, ("--help",)))


@pytest.mark.slow
@pytest.mark.parametrize(("stdout", "words"), PRINTED)
def test_a_result_that_cannot_be_printed_is_told(stdout, words, tmp_path):
    done = started(*words, cwd=tmp_path, before=stdout)
    assert "stdout, which cannot be written" in told(done, 2) and "Exception ignored" not in done.stderr
    assert words[0] != "train" or (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("words", [("train", *FAST), ("sample", "run"), ("datasets",)], ids=lambda words: words[0])
def test_a_working_folder_that_is_gone_is_told(words, tmp_path):
    done = started(*words, cwd=tmp_path, before="os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')")
    assert "working folder that exists" in told(done, 2)


@pytest.mark.parametrize("error", ["EROFS", "ENOSPC", "EIO", "EDQUOT"])
@pytest.mark.parametrize("at", [1, 9])
def test_a_disk_that_fails_in_a_training_is_told(error, at, tmp_path, monkeypatch):
    import errno

    from pyro_skipvae.runs import checkpoint

    done, sync = [], os.fsync

    def failing(descriptor):
        done.append(descriptor)
        if len(done) >= at:
            raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)))
        return sync(descriptor)

    monkeypatch.setattr(checkpoint.os, "fsync", failing)
    said = told(skipvae("train", *FAST, "--epochs", 3, "--out", "run", cwd=tmp_path), 4)
    assert os.strerror(getattr(errno, error)) in said and not list(tmp_path.rglob("*.tmp"))


ODD = ("", "[" * 100_000, b"\xff\xfe\x00", None)  # None: a folder of that name
SMALL = ("config.toml", "nonfinite.json", "metrics.jsonl", "vocabulary.txt", "data.json")
NUMBERED = '{"epoch": 1, "train_loss": 1%s, "beta": 1, "valid_elbo": 1, "valid_rate": 1, "active_units": 1, "seconds": 1}\n'
ODD_FILES = (
    *((name, content) for name in SMALL for content in ODD),
    *(("report.json", '{"card": 1}'), ("report.json", "1e999"), ("data.json", "null"), ("config.toml", "a = " + "[" * 100_000)),
    *(("metrics.jsonl", NUMBERED % ("0" * 400)), ("metrics.jsonl", NUMBERED % "e999"), ("metrics.jsonl", "[]\n")),
)


@pytest.mark.parametrize(("name", "content"), ODD_FILES, ids=lambda value: repr(value)[:20])
def test_odd_small_files_are_told(name, content, tmp_path):
    run = shutil.copytree(tiny_run(), tmp_path / "run")
    (run / name).unlink(missing_ok=True)
    if content is None:
        (run / name).mkdir()
    else:
        (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    needed = {"config.toml": {"report", "sample", "train", "compare"}, "data.json": {"sample"}}
    if content not in ODD[:2]:  # a last line without an end is one that a crash cut off
        needed["metrics.jsonl"] = {"train"}
    for words in (("report", "run"), ("sample", "run"), ("train", "--resume", "run", "--epochs", 2), ("compare", "run", "run")):
        done = skipvae(*words, cwd=tmp_path)
        refused = done.returncode != 0 and told(done, 2, 3, 4)
        assert refused or words[0] not in needed.get(name, ()), done.stdout


def test_a_home_folder_is_found_and_one_of_nobody_is_told(tmp_path, monkeypatch):
    said = told(skipvae("train", *FAST, "--out", "~nouser/run", cwd=tmp_path), 2)
    assert "write ./~nouser/run for a folder of that name" in said and not list(tmp_path.iterdir())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for out, place in (("~/run", "home/run"), ("./~nouser/run", "~nouser/run")):  # the second is what was advised
        assert skipvae("train", *FAST, "--out", out, cwd=tmp_path).returncode == 0
        assert (tmp_path / place / "config.toml").exists()


def test_a_machine_without_a_folder_for_temporary_files_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/proc/none")
    done = skipvae("train", *FAST, cwd=tmp_path)
    assert done.returncode == 2 and "set the variable TORCHINDUCTOR_CACHE_DIR to one" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_of_data_is_kept_by_its_full_path(tmp_path):
    done = skipvae("train", *FAST, "--data-dir", "mine", "--print-config", cwd=tmp_path)
    assert f'data_dir = "{tmp_path / "mine"}"' in done.stdout
