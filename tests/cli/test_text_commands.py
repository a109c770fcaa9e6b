"""Runs on text: what a model says, on the command line, on the page and as an exported model."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from command_line import skipvae
from page_text import Tags, plain
from small_runs import tiny_run

from pyro_skipvae import load_run
from pyro_skipvae.guides.gradient_check import GRADIENTS
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.reports import rendering
from pyro_skipvae.reports.comparison import estimates_of, read_record
from pyro_skipvae.reports.export import load_exported
from pyro_skipvae.reproduction.tables import Planned, entry_of
from pyro_skipvae.runs.checkpoint import CheckpointError
from pyro_skipvae.runs.folder import Run
from pyro_skipvae.text import generation as texts
from pyro_skipvae.text.vocabulary import EOS, PAD, UNK, Vocabulary

TINY = (
    "--model", "skip-sa-vae", "--latent-dim", "3", "--width", "8", "--embedding", "6", "--max-words", "7", "--svi-steps", "2",
    "--epochs", "1", "--batch-size", "16", "--report-budget", "2",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("text")
    subjects, verbs = ("cats", "dogs", "birds", "fish"), ("see", "hear", "follow", "like")
    lines = [f"{a} {verb} {'many ' * (i % 3)}{b}" for a in subjects for verb in verbs for i, b in enumerate(subjects)]
    lines = [f"{line} number{n}" if n % 2 else line for n, line in enumerate(lines)]  # unknown: each is there once
    (place / "own.txt").write_text("\n".join(lines) + "\n")
    done = skipvae("train", "--dataset", place / "own.txt", *TINY, "--out", "run", cwd=place)
    assert done.returncode == 0, done.stderr
    return place


def said(folder, *arguments):
    done = skipvae(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Echo:
    """A model of one number z that says "low" below 1/2 and "high high" from there on, and whose encoder sees which."""

    vocabulary = Vocabulary(["low", "high"])
    rows = torch.tensor([[4, EOS, PAD], [5, 5, EOS]])

    def __init__(self):
        self.network = SimpleNamespace(generate=lambda z, choose: (self.rows[(z[:, 0] >= 0.5).long()], None))
        self.decoder, self.prior = self, StandardNormal(1)

    def parameters(self):
        yield torch.zeros(0)

    def __call__(self, z):
        return SimpleNamespace(network=self.network, z=z)

    def posterior(self, x):
        return torch.distributions.Normal((x[:, :1] == 5).double(), 1.0)


def test_reconstructions_are_decoded_from_the_posterior_mean():
    pairs = texts.reconstructions(Echo(), Echo.vocabulary, torch.tensor([[5, UNK, EOS], [4, EOS, PAD]]))
    assert pairs == [("high <unk>", "high high"), ("low", "low")]


def test_an_interpolation_goes_straight_from_the_first_text_to_the_second():
    way = texts.interpolation(Echo(), Echo.vocabulary, torch.tensor([[4, EOS]]), torch.tensor([[5, EOS]]), points=5)
    assert way == [(0.0, "low"), (0.25, "low"), (0.5, "high high"), (0.75, "high high"), (1.0, "high high")]
    with pytest.raises(ValueError, match="expected at least 2 points"):
        texts.interpolation(Echo(), Echo.vocabulary, torch.tensor([[4, EOS]]), torch.tensor([[5, EOS]]), points=1)


def test_a_text_of_ones_own_is_read_and_its_unknown_words_are_named():
    x, unknown = texts.read_text("high  Low <unk>", Echo.vocabulary, 4)
    assert x.tolist() == [[5, UNK, UNK, EOS]] and unknown == ["Low"]
    for text, reason in (
        (" ", "an empty one"),
        ("low low low low", "at most 3 words, got 4"),
        ("what is", "unknown words only"),
    ):
        with pytest.raises(ValueError, match=reason):
            texts.read_text(text, Echo.vocabulary, 4)


def test_decodings_are_the_same_each_time_and_leave_the_random_numbers_alone(folder):
    vae, data, _ = load_run(folder / "run")
    state = torch.get_rng_state()
    drawn = {
        way: texts.samples(vae, data.vocabulary, count=6, decoding=way, beam_width=1) for way in ("sample", "greedy", "beam")
    }
    assert drawn["greedy"] == drawn["beam"] != drawn["sample"]
    assert all(
        texts.samples(vae, data.vocabulary, count=6, decoding=way, beam_width=1) == found for way, found in drawn.items()
    )
    assert texts.samples(vae, data.vocabulary, count=6, seed=1) != drawn["sample"]
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="expected decoding to be one of sample, greedy, beam, got 'best'"):
        texts.samples(vae, data.vocabulary, decoding="best")


def test_samples_are_printed_one_a_line_or_written(folder):
    printed = said(folder, "sample", "run", "--count", "5")
    assert len(printed.splitlines()) == 5 and "see" in said(folder, "sample", "run", "--count", "40")
    found = json.loads(said(folder, "sample", "run", "--count", "5", "--json"))
    assert found["texts"] == printed.splitlines() and (found["schema"], found["decoding"], found["seed"]) == (1, "sample", 0)
    assert said(folder, "sample", "run", "--count", "5", "--out", "five.txt") == "five.txt\n"
    assert (folder / "five.txt").read_text() == printed
    beams = said(folder, "sample", "run", "--count", "2", "--decoding", "beam", "--beam-width", "2")
    assert len(beams.splitlines()) == 2


def test_reconstructions_are_printed_in_pairs(folder):
    _, data, _ = load_run(folder / "run")
    lines = said(folder, "reconstruct", "run", "--count", "3").splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines if line] == ["text", "reconstruction"] * 3
    assert lines[0].removeprefix("text").strip() == data.vocabulary.decode(data.test[0])
    found = json.loads(said(folder, "reconstruct", "run", "--count", "3", "--json"))["pairs"]
    assert [pair["text"] for pair in found] == [data.vocabulary.decode(row) for row in data.test[:3]]
    done = skipvae("reconstruct", "run", "--text", "cats see Rome", cwd=folder)
    assert "text            cats see <unk>\n" in done.stdout and "read as <unk>: Rome." in done.stderr


def test_an_interpolation_ends_at_the_reconstructions(folder):
    ends = [json.loads(said(folder, "reconstruct", "run", "--text", text, "--json"))["pairs"][0]["reconstruction"]
            for text in ("cats see dogs", "fish like many birds")]  # fmt: skip
    flags = ("--from", "cats see dogs", "--to", "fish like many birds", "--points", "3")
    found = json.loads(said(folder, "interpolate", "run", *flags, "--json"))["points"]
    assert [found[0]["text"], found[-1]["text"]] == ends and [point["weight"] for point in found] == [0, 0.5, 1]
    lines = said(folder, "interpolate", "run", "--from-item", "2", "--points", "4").splitlines()
    assert [line.split()[0] for line in lines] == ["0.00", "0.33", "0.67", "1.00"]


def test_a_traversal_of_a_text_says_what_each_value_of_a_dimension_gives(folder):
    lines = said(folder, "traverse", "run", "--dimensions", "2").splitlines()
    rates = read_record(folder / "run").report["rate_per_dimension"]
    first = max(range(3), key=rates.__getitem__)
    assert lines[0] == f"z {first}, rate {rates[first]:.2f}" and len(lines) == 17
    assert [line.split()[0] for line in lines[1:8]] == ["-3", "-2", "-1", "+0", "+1", "+2", "+3"]


def test_gradients_are_checked_on_runs_of_text_and_of_images(folder):
    found = json.loads(said(folder, "check-gradients", "run", "--batch", "2", "--json"))
    assert [check["gradient"] for check in found["gradients"]] == list(GRADIENTS) and (found["batch"], found["steps"]) == (2, 2)
    checks = {check["gradient"]: check for check in found["gradients"]}
    assert checks["exact"]["encoder_error"] == 0 and checks["exact-rebuilt"]["encoder_error"] < 1e-4  # float32
    assert checks["exact-rebuilt"]["decoder_error"] < 1e-4 < checks["first-order"]["encoder_error"]
    shutil.copytree(tiny_run(), folder / "digits")
    done = skipvae("check-gradients", "digits", "--batch", "3", "--steps", "1", cwd=folder)
    assert done.stdout.startswith("gradient") and "amortized" in done.stdout and "3 test items, 1 steps" in done.stderr
    assert json.loads(said(folder, "interpolate", "digits", "--points", "2", "--json"))["file"] == "digits/interpolation.png"
    for command in ("sample", "reconstruct", "interpolate"):
        done = skipvae(command, "digits", "--decoding", "greedy", cwd=folder)
        assert (done.returncode, done.stderr) == (2, "Error: expected a run on text for --decoding, got one on digits\n")


def test_every_token_of_a_report_counts(folder):
    told = json.loads((folder / "run/report.json").read_text())["perplexity"]
    _, data, _ = load_run(folder / "run")
    words = [len(data.vocabulary.decode(row).split()) for row in data.test]
    assert (data.test == UNK).any()
    assert told["tokens"] == told["ppl_iw"]["tokens"] == told["ppl_elbo"]["tokens"] == sum(words) + len(words)  # and their ends


def test_a_run_is_evaluated_without_its_refinement(folder):
    evaluated = ("evaluate", "run", "--json", "--report-budget", "2")
    told = [json.loads(said(folder, *evaluated, *more)) for more in ([], ["--svi-steps", "0"])]
    assert told[0]["amortized"]["steps"] == 2 and told[1]["amortized"] is None and told[1]["card"]["svi_steps"] == 0


def test_what_a_user_may_not_expect_is_told(folder):
    options = ("--dataset", folder / "own.txt", *TINY, "--limit-eval", "4", "--kernel", "5")
    done = skipvae("train", *options, "--out", "few", cwd=folder)
    assert done.returncode == 0 and "--kernel does nothing here: it needs --decoder pixelcnn." in done.stderr
    dry = ("--dataset", "digits", "--decoder", "mlp", "--dry-run", "--beta-schedule", "constant")
    told = skipvae("train", *dry, "--kernel", "5", "--warmup-epochs", "3", cwd=folder).stderr
    assert "--kernel does nothing here" in told and "--warmup-epochs does nothing here" in told
    done = skipvae("evaluate", "few", "--limit-eval", "5", "--report-budget", "0", cwd=folder)
    assert "few was made with --limit-eval 4: evaluating those." in done.stderr
    for content in (b"\xff", None):
        (folder / "few/vocabulary.txt").write_bytes(content) if content else (folder / "few/vocabulary.txt").unlink()
        done = skipvae("evaluate", "few", cwd=folder)
        assert done.returncode == 4 and done.stderr.startswith("Error: expected a vocabulary, one word a line, in few/")
        assert done.stderr.endswith("; put back the file of this run, or train it anew\n")


def test_steps_that_diverge_in_a_training_are_steps_that_are_not_finite(folder):
    options = ("--dataset", folder / "own.txt", *TINY, "--svi-lr", "1e12")
    done = skipvae("train", *options, "--out", "far", cwd=folder)
    assert done.returncode == 5 and "lower --lr or --svi-lr" in done.stderr and "Traceback" not in done.stderr
    done = skipvae("train", *options, "--out", "further", "--on-nan", "skip:1000", cwd=folder)
    assert done.returncode in (0, 5) and "Traceback" not in done.stderr


def test_a_run_with_the_authors_gradient_is_evaluated_with_their_steps(folder):
    said(folder, "train", "--dataset", folder / "own.txt", *TINY, "--svi-gradient", "authors", "--out", "theirs")
    reports = [json.loads(said(folder, "evaluate", "theirs", "--json", "--report-budget", "2", *more))
               for more in ([], ["--svi-steps", "2"])]  # fmt: skip
    assert reports[0]["elbo"] == reports[1]["elbo"] and reports[1]["card"]["settings"]["svi_lr"] == 1.0
    found = json.loads(said(folder, "check-gradients", "theirs", "--batch", "4", "--json"))
    assert found["lr"] == 1 / 16  # per datapoint, of a batch of 16


def test_the_page_of_a_text_run_has_texts_and_perplexities(folder):
    html, record = (folder / "run/report.html").read_text(), read_record(folder / "run")
    Tags(html)
    seen = plain(html)
    for name in ("samples", "reconstructions", "interpolation"):
        for line in (folder / f"run/{name}.txt").read_text().splitlines():
            assert all((part or "(nothing)") in html for part in line.replace("<unk>", "&lt;unk&gt;").split("\t")), line
    for name in ("ppl_iw", "ppl_elbo"):
        estimate = estimates_of(record.report)[name]
        assert f"{rendering.nats(estimate.value)} {rendering.nats(estimate.low)} to {rendering.nats(estimate.high)}" in seen
    assert record.report["perplexity"]["counted"] in seen and "vocabulary of 13" in seen and "Latent traversals" not in seen
    for name in ("elbo", "amortization_gap", "approximation_gap"):
        assert rendering.nats(record.report["amortized"][name]["value"]) in seen and "Amortization gap" in seen
    again = said(folder, "report", "run", "--out", "again.html").strip()
    assert (folder / again).read_text() == html


def test_a_page_without_the_data_shows_the_texts_of_the_folder(folder, monkeypatch):
    from pyro_skipvae.data.folder import DataError

    def missing(*_, **__):
        raise DataError("own.txt was not found")

    monkeypatch.setattr("pyro_skipvae.runs.build.load_data", missing)
    said(folder, "report", "run", "--out", "without.html")
    assert (folder / "without.html").read_text() == (folder / "run/report.html").read_text()


def test_runs_on_text_are_compared_on_one_page(folder, tmp_path):
    shutil.copytree(folder / "run", folder / "twin", dirs_exist_ok=True)
    said(folder, "report", "run", "twin", "--budget", "0", "--out", "both.html")
    seen = plain((folder / "both.html").read_text())
    assert "perplexity, importance-weighted" in seen and "perplexities per token" in seen and "From one text to another" in seen


def test_the_results_of_a_text_run_keep_what_perplexities_are_compared_by(folder):
    settings = {"dataset": str(folder / "own.txt"), "model": "skip-sa-vae", "latent_dim": 3, "width": 8, "embedding": 6}
    settings |= {"max_words": 7, "svi_steps": 2, "epochs": 1, "batch_size": 16}
    made = entry_of(Planned("own", "skip", settings, 0), folder / "run")
    test = load_run(folder / "run")[1].test
    assert made["tokens_per_point"] == (test != PAD).sum(1).tolist() and sum(made["tokens_per_point"]) > len(test)
    mean = sum(made["log_likelihood_per_point"]) / len(test)
    assert mean == pytest.approx(made["report"]["log_likelihood"], abs=0.05)  # other draws, and two decimals


def test_an_exported_text_model_brings_its_words(folder, monkeypatch, capsys):
    said(folder, "export", "run", "model")
    vae, data, _ = load_run(folder / "run")
    monkeypatch.setattr("pyro_skipvae.runs.build.load_data", None)
    monkeypatch.chdir(folder / "model")
    card = (folder / "model/README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.S)[1]
    assert code.startswith("from pathlib import Path\n\nfrom pyro_skipvae.reports import load_exported")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == texts.samples(vae, data.vocabulary)
    report = read_record(folder / "run").report
    assert rendering.nats(report["perplexity"]["ppl_iw"]["value"]) in card and data.vocabulary.checksum in card
    for words, reason in (
        (Vocabulary(["other"]).text(), "got those of another one"),
        (None, "expected a vocabulary, one word a line, in vocabulary.txt"),
    ):
        file = folder / "model/vocabulary.txt"
        file.unlink() if words is None else file.write_text(words)
        with pytest.raises(CheckpointError, match=reason):
            load_exported(".")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("reconstruct", "run", "--text", "Rome is"), "expected at least one word of the model's vocabulary"),
        (("reconstruct", "run", "--text", "cats", "--count", "2"), "expected --text or --count, got both"),
        (("reconstruct", "run", "--text", "cats " * 9), "expected a text of at most 7 words, got 9"),
        (("interpolate", "run", "--from", "cats", "--from-item", "1"), "expected --from or --from-item, got both"),
        (("interpolate", "run", "--to-item", "999"), "expected a test item in 0.."),
        (("sample", "run", "--beam-width", "3"), "expected --beam-width with --decoding beam, got --decoding sample"),
        (("sample", "run", "--out", "no/such.txt"), "expected a file that can be written, got no/such.txt"),
    ],
)
def test_mistakes_are_one_line_each(folder, arguments, reason):
    done = skipvae(*arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "") and reason in done.stderr and done.stderr.count("\n") == 1


def test_a_language_model_has_samples_and_nothing_to_reconstruct(folder):
    said(folder, "train", "--dataset", "own.txt", *TINY, "--model", "lm", "--latent-dim", "0", "--epochs", "0", "--out", "lm")
    assert (folder / "lm/samples.txt").exists() and not (folder / "lm/reconstructions.txt").exists()
    assert "Samples from the model" in (folder / "lm/report.html").read_text()
    for command in ("reconstruct", "interpolate", "traverse", "check-gradients"):
        done = skipvae(command, "lm", cwd=folder)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "expected a model with latent variables" in done.stderr


def test_a_guide_that_cannot_be_refined_is_one_line(folder, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("expected another guide\nTrace Shapes:\n Param Sites:")

    monkeypatch.setattr("pyro_skipvae.guides.gradient_check.compare_gradients", refuse)
    done = skipvae("check-gradients", "run", cwd=folder)
    assert (done.returncode, done.stderr) == (2, "Error: expected another guide\n")


def test_a_sample_of_x_does_not_use_the_random_numbers_of_z_again():
    drawn = {}

    def distribution(name, rows):
        return SimpleNamespace(sample=lambda shape=(): drawn.setdefault(name, torch.rand(6))[:, None].expand(6, rows).long())

    parts = {"prior": lambda: distribution("z", 1), "decoder": lambda z: distribution("x", 2)}
    vae = SimpleNamespace(**parts, parameters=Echo().parameters)
    texts.samples(vae, Echo.vocabulary, count=6)
    assert not drawn["z"].equal(drawn["x"])


def test_words_that_a_terminal_lacks_are_no_reason_to_fail():
    code = (
        "import sys, click, pyro_skipvae_cli as c; c.cli.add_command(click.Command('say', callback=lambda: click.echo('Ж'))); "
        "sys.argv = ['skipvae-pyro', 'say']; c.main()"
    )
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "\\u0416\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arm", [("--model", "skip-sa-vae"), ("--model", "vae", "--skip", "parameter-matched")])
def test_a_transformer_trains_goes_on_and_speaks(folder, tmp_path, arm):
    about, run = ("--decoder", "transformer", "--heads", "2", "--layers", "2", *arm), tmp_path / "run"
    settings = TINY[2:] if "vae" in arm else TINY
    said(folder, "train", "--dataset", folder / "own.txt", *settings, *about, "--out", run)
    found = Run(run).config()
    assert (found.encoder, found.dropout, found.heads) == ("transformer", 0.1, 2)
    said(folder, "train", "--resume", run, "--epochs", "2")
    assert said(folder, "sample", run, "--count", "2", "--decoding", "beam").count("\n") >= 2
