"""What is made of a finished run: pictures, codes, an exported model, TensorBoard files; and what doctor says."""

import ast
import errno
import json
import re
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
import torch
from command_line import skipvae
from small_runs import tiny_run, train
from tensorboardX.proto.event_pb2 import Event, SessionLog

from pyro_skipvae import load_run
from pyro_skipvae.diagnostics.estimates.moments import posterior_moments
from pyro_skipvae.diagnostics.report.sizes import sizes_of
from pyro_skipvae.reports.comparison import read_record
from pyro_skipvae.reports.export import load_exported
from pyro_skipvae.reports.model_pictures import draw_traversals
from pyro_skipvae.reports.rendering import nats
from pyro_skipvae.reports.run_page import notes
from pyro_skipvae.reports.tensorboard import TensorBoard, grid
from pyro_skipvae.runs.checkpoint import CheckpointError
from pyro_skipvae_cli.evaluation import with_points
from pyro_skipvae_cli.models import moved

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("reporting")
    shutil.copytree(tiny_run(), place / "run")
    return place


@pytest.mark.parametrize("command", ["reconstruct", "traverse"])
def test_pictures_are_written_where_asked_and_are_the_same_each_time(folder, command):
    for name in ("a.png", "b.png"):
        done = skipvae(command, "run", "--out", name, cwd=folder)
        assert (done.returncode, done.stdout) == (0, f"{name}\n"), done.stderr
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()
    assert matplotlib.image.imread(folder / "a.png").std() > 0.1
    assert skipvae(command, "run", cwd=folder).stdout.strip().startswith("run/")


def test_a_traversal_changes_one_dimension_through_the_prior(folder, monkeypatch):
    vae, data, _ = load_run(folder / "run")
    seen, decoder = [], vae.decoder.forward
    monkeypatch.setattr(vae.decoder, "forward", lambda z: seen.append(z) or decoder(z))
    draw_traversals(vae, data, rates=[0.1, 0.4, 0.2, 0.3], dimensions=2, values=(-1, 0, 2))
    z, mean = torch.stack(seen, 1), posterior_moments(vae.encoder(data.test[:1]))[0][0]
    for row, dimension in enumerate((1, 3)):
        assert z[row, :, dimension].tolist() == [-1, 0, 2]
        others = [d for d in range(4) if d != dimension]
        assert torch.allclose(z[row][:, others], mean[others].expand(3, 3))


def test_a_traversal_by_samples_keeps_its_noise_where_the_decoder_ignores_z(folder, monkeypatch):
    vae, data, _ = load_run(folder / "run")
    blind = torch.distributions.Bernoulli(torch.full((2, 8, 8), 0.5))
    monkeypatch.setattr(vae.decoder, "forward", lambda z: SimpleNamespace(sample=blind.sample, mean=blind.mean))
    monkeypatch.setattr("pyro_skipvae.reports.model_pictures.mean_of", lambda decoded: None)
    monkeypatch.setattr("pyro_skipvae.reports.figures.latent_traversals", lambda images, **_: images)
    images = draw_traversals(vae, data, dimensions=2, values=(-1, 0, 2))
    assert images.shape == (2, 3, 8, 8) and images[:, 0].equal(images[:, 1]) and images[:, 0].equal(images[:, 2])


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"elbo_points": 30, "log_likelihood_points": 20}, (30, 20)),
        ({"elbo_points": 30}, (30, 30)),
        ({"log_likelihood_points": 20}, (60, 20)),
        ({"elbo_points": 10_000}, (60, 60)),
    ],
)
def test_a_report_stands_on_the_points_that_are_asked_for(asked, found, folder):
    flags = [word for name, number in asked.items() for word in (f"--{name.replace('_', '-')}", number)]
    few = ("--importance-samples", 2, "--posterior-samples", 2)
    card = json.loads(skipvae("evaluate", "run", *flags, *few, "--json", cwd=folder).stdout)["card"]
    assert (card["elbo_points"], card["log_likelihood_points"]) == found and card["points"] == 60


def test_asking_for_more_points_gives_each_estimate_as_many():
    usual = sizes_of("refined autoregressive image", 784)
    more = with_points(usual, log_likelihood_points=5000)
    assert (more.points, more.elbo_points, more.log_likelihood_points) == (5000, 5000, 5000)
    assert with_points(usual) == usual and with_points(usual, elbo_points=10).points == usual.points


def test_codes_are_the_posteriors_and_need_no_pickle(folder):
    assert skipvae("encode", "run", "--out", "z.npz", cwd=folder).stdout == "z.npz\n"
    vae, data, _ = load_run(folder / "run")
    with np.load(folder / "z.npz", allow_pickle=False) as codes, torch.no_grad():
        assert sorted(codes) == sorted(f"{s}_{what}" for s in ("train", "valid", "test") for what in ("loc", "scale", "labels"))
        q = vae.encoder(data.test)
        assert np.allclose(codes["test_loc"], q.mean, atol=1e-6) and np.allclose(codes["test_scale"], q.stddev, atol=1e-6)
        assert codes["train_loc"].shape == (100, 4) and np.array_equal(codes["train_labels"], data.labels["train"])
    first = (folder / "z.npz").read_bytes()
    skipvae("encode", "run", "--out", "z.npz", cwd=folder)
    assert (folder / "z.npz").read_bytes() == first


def test_an_exported_model_is_the_model_and_needs_no_data(folder, monkeypatch):
    done = skipvae("export", "run", "model", cwd=folder)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done.stderr
    vae, data, config = load_run(folder / "run")
    monkeypatch.setattr("pyro_skipvae.runs.build.load_data", None)
    again, same = load_exported(folder / "model")
    assert same == config and not again.training
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in vae.state_dict().items())
    done = skipvae("export", "run", "model", cwd=folder)
    assert done.returncode == 2 and "expected a new or empty folder" in done.stderr


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("model.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1]), "its checksum differs: it is damaged"),
        ("model.safetensors", lambda content: content[: len(content) // 2], "which cannot be read"),
        ("config.toml", lambda content: b"\xff", "which cannot be read"),
        ("config.toml", lambda content: content.replace(b"latent_dim = 4", b"latent_dim = 5"), "got another: prior.loc"),
        ("config.toml", lambda content: content.replace(b"latent_dim", b"latent_size"), "unknown setting"),
    ],
)
def test_a_damaged_export_is_told(file, spoil, said, folder, tmp_path):
    skipvae("export", "run", tmp_path / "model", cwd=folder)
    content = (tmp_path / "model" / file).read_bytes()
    assert spoil(content) != content
    (tmp_path / "model" / file).write_bytes(spoil(content))
    with pytest.raises(CheckpointError, match=said):
        load_exported(tmp_path / "model")


def test_a_run_without_a_report_is_exported_too(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run/report.json").unlink()
    done = skipvae("export", "run", "model", cwd=tmp_path)
    assert done.returncode == 0 and "## Evaluation" not in (tmp_path / "model/README.md").read_text(), done.stderr


def test_every_number_of_a_model_card_is_read_from_the_run(folder):
    skipvae("export", "run", "card", cwd=folder)
    card, report = (folder / "card/README.md").read_text(), read_record(folder / "run").report
    for name in ("elbo", "rate", "distortion", "log_likelihood", "shuffled_latent_loss"):
        assert f"| {nats(report[name])} | {nats(report['standard_errors'][name])} |" in card
    assert report["verdict"]["sentence"] in card and report["card"]["data"]["checksum"] in card
    template = (ROOT / "pyro_skipvae/reports/templates/README.md.j2").read_text()
    text = re.sub(r"\{[{%].*?[%}]\}", "", template)
    assert re.findall(r"\d+", text.replace("SHA-256", "").replace("AR(1)", "")) == ["2019"]  # the year of the paper


def test_the_snippet_of_a_model_card_runs(folder):
    skipvae("export", "run", "snippet", cwd=folder)
    code = re.search(r"```python\n(.*?)```", (folder / "snippet/README.md").read_text(), re.S)[1]
    assert ast.parse(code) and 'load_exported(".")' in code
    vae, config = load_exported(folder / "snippet")
    assert vae.decoder(vae.prior().sample((config.batch_size,))).sample().shape == (64, 8, 8)


def test_doctor_says_what_is_here(folder):
    found = json.loads(skipvae("doctor", "--json", cwd=folder).stdout)
    assert found["schema"] == 1 and found["versions"]["torch"] == torch.__version__ and "pyro-ppl" in found["versions"]
    assert "missing" not in found["versions"].values() and "threads" in found["devices"]["cpu"]
    assert found["data"]["digits"].endswith("digits.csv.gz") and found["torchvision"]["state"]


def test_doctor_explains_files_and_runs(folder):
    found = json.loads(skipvae("doctor", "run", "--json", cwd=folder).stdout)
    assert found["run"]["epochs"] == "2 of 2" and all("whole" in text for text in found["checkpoints"].values())
    found = json.loads(skipvae("doctor", "run/checkpoints/best.safetensors", "--json", cwd=folder).stdout)
    vae, _, _ = load_run(folder / "run")
    assert found["checkpoint"]["parameters of the model"] == sum(t.numel() for t in vae.state_dict().values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04", "torch.save"),
        (b"\x80\x02}", "torch.save"),
        (b"", "cannot be read"),
        (None, "damaged"),
        ("export", "export"),
    ],
)
def test_doctor_explains_what_is_no_checkpoint(folder, content, reason):
    file = folder / "odd.safetensors"
    whole = (folder / "run/checkpoints/best.safetensors").read_bytes()
    if content == "export":
        shutil.rmtree(folder / "doctored", ignore_errors=True)
        skipvae("export", "run", "doctored", cwd=folder)
        content = (folder / "doctored/model.safetensors").read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if content is None else content)
    done = skipvae("doctor", file.name, cwd=folder)
    assert done.returncode == 4 and reason in done.stderr and done.stderr.count("\n") == 1


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of the run that may be damaged."""
    return shutil.copytree(folder / "run", tmp_path / "run")


READERS = [f"{name} run" for name in ("evaluate", "sample", "report", "train --resume")] + ["export run exported"]


@pytest.mark.parametrize("content", [b"epochs = 2\nlayers = ", b'dataset = "dig', b"\xff\xfe", b"layer = 2"])
def test_a_damaged_config_is_one_line_that_names_it(copied, content):
    (copied / "config.toml").write_bytes(content)
    for words in ("doctor run", "compare run run", *READERS):
        done = skipvae(*words.split(), cwd=copied.parent)
        assert done.returncode == 4 and done.stderr.count("\n") == 1, words
        assert done.stderr.startswith("Error: expected the settings of a run in run/config.toml, which cannot be read: ")


def test_weights_of_other_settings_are_refused(copied):
    text = (copied / "config.toml").read_text()
    (copied / "config.toml").write_text(text.replace("layers = 1", "layers = 2"))
    with pytest.raises(CheckpointError, match="last.safetensors is not of the settings"):
        load_run(copied, which="last")
    for words in READERS:
        done = skipvae(*words.split(), cwd=copied.parent)
        assert done.returncode == 4 and done.stderr.startswith("Error: expected a checkpoint of this run"), words
        assert done.stderr.count("\n") == 1, words
        assert words.startswith("train") or "best.safetensors is not of the settings in config.toml" in done.stderr


def test_a_damaged_report_is_named_and_can_be_made_anew(copied):
    (copied / "report.json").write_text((copied / "report.json").read_text()[:500])
    for words in ("doctor run", "report run", "compare run run"):
        done = skipvae(*words.split(), cwd=copied.parent)
        assert done.returncode == 4 and done.stderr.count("\n") == 1, words
        assert done.stderr.startswith("Error: expected a collapse report in run/report.json, which cannot be read: "), words
        assert done.stderr.endswith("; write it anew by evaluate run --save\n"), words
    shutil.copytree(copied, copied.parent / "my run")
    assert "; write it anew by evaluate 'my run' --save" in skipvae("report", "my run", cwd=copied.parent).stderr
    assert skipvae("evaluate", "run", "--save", cwd=copied.parent).returncode == 0
    assert skipvae("report", "run", cwd=copied.parent).returncode == 0


def lines_of(run):
    return (run / "metrics.jsonl").read_text().splitlines(keepends=True)


def test_epochs_that_were_lost_are_told_and_those_out_of_order_refused(copied):
    first, second = lines_of(copied)
    (copied / "metrics.jsonl").write_text(second)
    assert skipvae("report", "run", cwd=copied.parent).returncode == 0
    assert "metrics.jsonl lacks 1 of 2 epochs, the first of them epoch 1." in (copied / "report.html").read_text()
    (copied / "metrics.jsonl").unlink()
    assert "or metrics.jsonl, which has the numbers of its epochs, is gone." in notes(read_record(copied))[0]
    for lines, reason in (
        ([first, second, first], "line 3, epoch 1, comes after epoch 2; remove what is there twice"),
        ([first, "x\n"], "line 2: Expecting value: line 1 column 1 (char 0); mend or remove the line"),
    ):
        (copied / "metrics.jsonl").write_text("".join(lines))
        for words in ("report run", "train --resume run --epochs 3"):
            done = skipvae(*words.split(), cwd=copied.parent)
            assert done.returncode == 4 and done.stderr.endswith(reason + "\n"), words
        assert lines_of(copied) == lines


def test_doctor_tells_what_a_run_can_still_do(copied):
    def told(returncode):
        done = skipvae("doctor", "run", "--json", cwd=copied.parent)
        assert done.returncode == returncode
        return json.loads(done.stdout)

    assert told(0)["run"]["data"] == "digits, items of shape (8, 8)"
    (copied / "report.json").unlink()
    assert told(0)["run"]["verdict"] == "no report; make one with evaluate run --save"
    (copied / "checkpoints/best.safetensors").write_bytes(b"")
    assert told(0)["run"]["verdict"] == "no report; make one with evaluate run --checkpoint last --save"
    done = skipvae("sample", "run", cwd=copied.parent)
    assert done.returncode == 4 and done.stderr.endswith("; remove it, and that of the last epoch is read\n")
    (copied / "checkpoints/best.safetensors").unlink()
    assert skipvae("sample", "run", cwd=copied.parent).returncode == 0
    (copied / "checkpoints/last.safetensors").write_bytes(b"")
    assert told(4)["run"]["trouble"] == "no checkpoint can be read"
    shutil.rmtree(copied / "checkpoints")
    assert told(4)["run"]["verdict"] == "no report, and no checkpoint to make one from"
    done = skipvae("doctor", ".", cwd=copied.parent)
    assert done.returncode == 4 and done.stderr.endswith("a folder of runs; name one, such as run\n")


def test_an_exported_model_is_no_run(folder, tmp_path):
    exported = tmp_path / "exported"
    assert skipvae("export", "run", exported, cwd=folder).returncode == 0
    found = json.loads(skipvae("doctor", exported, "--json", cwd=folder).stdout)["exported model"]
    assert found["state"].startswith("whole") and found["read it with"].endswith(f"load_exported({str(exported)!r})")
    before = {file.name: file.read_bytes() for file in exported.iterdir()}
    for words in (["evaluate"], ["report"], ["sample"], ["train", "--resume"], ["compare", "run"]):
        done = skipvae(*words, exported, cwd=folder)
        assert done.returncode == 4 and "an exported model; use pyro_skipvae.reports.load_exported" in done.stderr, words
    assert {file.name: file.read_bytes() for file in exported.iterdir()} == before


def test_a_folder_in_the_place_of_a_checkpoint_is_told(copied):
    best = copied / "checkpoints/best.safetensors"
    best.unlink()
    best.mkdir()
    done = skipvae("doctor", "run", "--json", cwd=copied.parent)
    assert done.returncode == 0 and "cannot be read" in json.loads(done.stdout)["checkpoints"][best.name]
    done = skipvae("sample", "run", cwd=copied.parent)
    assert done.returncode == 4 and "best.safetensors" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_that_of_the_installed_script(folder, shell):
    done = skipvae("completion", shell, cwd=folder)
    assert done.returncode == 0 and "_SKIPVAE_PYRO_COMPLETE" in done.stdout


def test_mistakes_are_one_line_each(folder):
    done = skipvae("repor", "run", cwd=folder)
    assert done.returncode == 2 and "'report'" in done.stderr
    for arguments in (("encode", "run", "--out", "z.txt"), ("traverse", "run", "--item", "99999")):
        done = skipvae(*arguments, cwd=folder)
        assert done.returncode == 2 and done.stderr.startswith("Error: expected") and done.stderr.count("\n") == 1
    for command, suffix in (("encode", "npz"), ("traverse", "png"), ("report", "html")):
        done = skipvae(command, "run", "--out", f"no/such/folder.{suffix}", cwd=folder)
        assert done.returncode == 2 and done.stderr.startswith("Error: expected a file that can be written")
    assert skipvae("report", "nowhere", cwd=folder).returncode == 4


def test_a_page_is_made_also_without_the_data(folder, monkeypatch):
    from pyro_skipvae.data.folder import DataError

    def missing(*_, **__):
        raise DataError("digits was not found")

    monkeypatch.setattr("pyro_skipvae.runs.build.load_data", missing)
    done = skipvae("report", "run", "--out", "page.html", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "page.html\n") and "digits was not found" in done.stderr


def events(folder):
    """The events in all files of a folder as TensorBoard reads them: a session that starts at a step voids later ones."""
    kept = []
    for file in sorted(Path(folder).iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            if event.session_log.status == SessionLog.START:
                kept = [old for old in kept if old.step < event.step]
            kept.append(event)
            content = content[16 + length :]
    return kept


def scalars(folder):
    return [(e.step, value.tag) for e in events(folder) for value in e.summary.value if value.HasField("simple_value")]


def test_no_step_appears_twice_after_a_resume(tmp_path):
    def line(epoch):
        return {
            "epoch": epoch,
            "steps": 10 * epoch,
            "valid_elbo": -1.0 * epoch,
            "beta": 1.0,
            "lost": float("nan"),
            "none": None,
        }

    board = TensorBoard(tmp_path)
    for epoch in (1, 2, 3):  # then it is killed; the checkpoint is that of epoch 2
        board.epoch(line(epoch), rate_per_dimension=[0.1, 0.5], images={"samples": torch.rand(5, 8, 8)})
    resumed = TensorBoard(tmp_path, steps=20)
    for epoch in (3, 4):
        resumed.epoch(line(epoch), rate_per_dimension=[0.1, 0.5])
    resumed.epoch({"steps": 50, "beta": 1.0}, rate_per_dimension=[float("nan")])
    resumed.close()
    found = scalars(tmp_path)
    assert len(found) == len(set(found)) and len(list(tmp_path.iterdir())) == 2
    assert [step for step, tag in found if tag == "valid_elbo"] == [10, 20, 30, 40]
    assert [tag for step, tag in found if step == 50] == ["beta"]
    assert {tag for _, tag in found} == {"valid_elbo", "beta", "rate_by_rank/001", "rate_by_rank/002"}
    board.close()


def test_what_tensorboard_is_told_is_in_the_file_or_refused(tmp_path, monkeypatch):
    board = TensorBoard(tmp_path)
    board.epoch({"steps": 10, "beta": 0.5}, images={"samples": torch.rand(5, 8, 8)})
    assert scalars(tmp_path) == [(10, "beta")]  # though the writer was neither flushed by hand nor closed

    def full(event):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(board.writer.file_writer.event_writer, "add_event", full)
    with pytest.raises(OSError, match="No space left") as raised:
        board.epoch({"steps": 20, "beta": 0.5})
    assert raised.value.filename == str(tmp_path)
    board.close()


def test_a_grid_holds_every_image_once():
    images = torch.arange(5.0)[:, None, None].expand(5, 2, 3) / 4
    drawn = grid(images, columns=2)
    assert drawn.shape == (1, 9, 8)
    assert [drawn[0, 3 * (i // 2), 4 * (i % 2)].item() for i in range(5)] == images[:, 0, 0].tolist()
    assert grid(torch.rand(3, 3, 4, 4)).shape == (3, 5, 15)


@pytest.mark.parametrize("name", ["page", "compare", "export", "tensorboard"])
def test_nothing_below_reads_what_is_made_of_runs(name):
    allowed = {"page.py", "export.py", "compare.py", "reproduction.py", "reproduction_page.py", "reproduction_words.py"}
    for path in (ROOT / "pyro_skipvae").rglob("*.py"):
        pattern = rf"from (pyro_skipvae)?\.{name} import|from (pyro_skipvae|\.) import .*\b{name}\b"
        assert path.name in allowed or not re.search(pattern, path.read_text()), path


def test_a_picture_of_another_format_is_refused(folder):
    done = skipvae("sample", "run", "--out", "x.pdf", cwd=folder)
    assert done.returncode == 2 and "expected the name of a .png file, got x.pdf" in done.stderr
    assert not (folder / "x.pdf").exists()


def test_items_that_are_no_images_are_not_drawn(tmp_path):
    np.savez(tmp_path / "two.npz", train=np.random.default_rng(0).integers(0, 2, (60, 2, 8, 8)))
    flags = ("--decoder", "mlp", "--width", 8, "--latent-dim", 2, "--epochs", 1, "--report-budget", 1, "--tensorboard")
    done = skipvae("train", "--dataset", "two.npz", *flags, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "run/report.html").exists(), done.stderr
    assert not (tmp_path / "run/samples.png").exists()
    done = skipvae("sample", "run", "--out", "x.csv", cwd=tmp_path)
    assert done.returncode == 0 and np.loadtxt(tmp_path / "x.csv", delimiter=",", skiprows=1).shape == (64, 128)
    done = skipvae("sample", "run", "--out", "x.png", cwd=tmp_path)
    assert done.returncode == 2 and "expected the name of a .csv or .npz file for items of shape (2, 8, 8)" in done.stderr
    done = skipvae("sample", tmp_path / "run", cwd=tmp_path / "run")  # not where the data were named
    assert done.returncode == 0 and np.load(tmp_path / "run/samples.npz")["x"].shape == (64, 2, 8, 8)


def test_evaluate_with_random_components_says_so(folder):
    done = skipvae("evaluate", "run", "--mi-components", "7", "--importance-samples", "2", "--json", cwd=folder)
    report = json.loads(done.stdout)
    card, points = report["card"], len(load_run(folder / "run").data.test)
    assert (card["mi_points"], card["mi_components"], card["points"]) == (points, 7, points)
    assert report["mi_ceiling"] == pytest.approx(np.log(8))
    assert "7 random rows" in card["estimators"]["mutual_information"]


@pytest.mark.parametrize("guide", ["categorical", "codebook"])
def test_codes_are_trained_and_reported_without_a_budget(guide, tmp_path):
    flags = ("--decoder", "mlp", "--layers", "1", "--width", "16", "--latent-dim", "4", "--limit-train", "100")
    more = ("--limit-eval", "40", "--guide", guide, "--prior", "uniform-categorical", "--epochs", "1")
    done = skipvae("train", *flags, *more, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0 and "The report takes about" in done.stderr, done.stderr


@pytest.mark.parametrize("items", ["2", "3"])
def test_a_run_with_hardly_any_test_items_has_its_report_and_page(items, tmp_path):
    flags = ("--decoder", "mlp", "--layers", "2", "--width", "16", "--latent-dim", "3", "--limit-train", "100", "--epochs", "1")
    done = skipvae("train", *flags, "--limit-eval", items, "--report-budget", "2", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0 and f"a verdict needs 10 points, and these are {items}" in done.stdout, done.stderr
    assert skipvae("report", "run", cwd=tmp_path).returncode == 0


def test_weights_that_are_tied_are_exported(tmp_path):
    train(tmp_path, "--dataset", "pydoc", "--decoder", "transformer", "--width", "8", "--heads", "2", "--embedding", "8")
    done = skipvae("export", "run", "model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    vae, _ = load_exported(tmp_path / "model")
    kept = load_run(tmp_path / "run").vae.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in vae.state_dict().items())


def test_what_a_run_does_not_admit_is_told(tmp_path):
    """Codes that are to be refined, bounds by components on them, sliders; options that one run has no use for."""
    train(tmp_path, "--decoder", "mlp", "--width", "8", "--guide", "categorical", "--classes", "3")
    asked = "evaluate run --svi-steps 2", "evaluate run --mi-components 20", "explore run", "report run --budget 5"
    idle = "train --print-config --json", "compare run run --budget 0 --importance-samples 9"
    for words in (*asked, "interpolate run", *idle):
        done = skipvae(*words.split(), cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr and "expected" in done.stderr, (words, done.stderr)


def test_a_committed_rate_is_not_refined_away(tmp_path):
    train(tmp_path, "--decoder", "mlp", "--width", "8", "--guide", "minimum-rate", "--rate", "4")
    done = skipvae("evaluate", "run", "--svi-steps", "2", cwd=tmp_path)
    assert done.returncode == 2 and "whose family is bound to its encoder: leave it out" in done.stderr


def test_what_is_left_of_a_run_and_what_another_report_is_of_are_told(folder):
    done = skipvae("train", "--resume", "run", "--epochs", "5", "--dry-run", "--json", cwd=folder)
    costs = json.loads(done.stdout)
    assert costs["epochs"] == 5 - len((folder / "run/metrics.jsonl").read_text().splitlines())
    assert costs["seconds"] == pytest.approx(costs["epochs"] * costs["seconds_per_epoch"])
    shutil.copytree(folder / "run", folder / "own")
    done = skipvae("evaluate", ".", "--checkpoint", "last", "--save", cwd=folder / "own")
    card = json.loads((folder / "own/report.json").read_text())["card"]
    assert card["run"] == "own" and card["epoch"] >= 1 and "report . makes its page" in done.stderr


def test_the_data_of_a_set_by_name_are_found_by_the_variable(folder):
    run = SimpleNamespace(path=Path("runs/x"), config=SimpleNamespace(dataset="mnist", data_dir=None))
    assert moved(run) == "set the variable SKIPVAE_DATA to their folder"
    run.config.data_dir = "/data"
    assert moved(run) == "set data_dir in runs/x/config.toml to their folder"
    run.config.dataset = "/tmp/mine.csv"
    assert moved(run) == "set dataset in runs/x/config.toml to their place"


def test_a_prior_without_moments_has_sliders_and_images_become_a_table(tmp_path):
    train(tmp_path, "--decoder", "mlp", "--width", "8", "--prior", "normalizing-flow")
    assert skipvae("explore", "run", "--steps", "3", cwd=tmp_path).returncode == 0
    assert skipvae("sample", "run", "--count", "5", "--out", "x.csv", cwd=tmp_path).returncode == 0
    assert np.loadtxt(tmp_path / "x.csv", delimiter=",", skiprows=1).shape == (5, 64)
