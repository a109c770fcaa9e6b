"""The page of a run: whole in one file, the same bytes for the same run, and honest about what was not measured."""

import copy
import fnmatch
import json
import math
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import skipvae
from page_text import Tags, plain
from small_runs import tiny_run, train

from pyro_skipvae import load_run
from pyro_skipvae.reports import run_page
from pyro_skipvae.reports.comparison import estimates_of, read_record
from pyro_skipvae.reports.decoder_use import layers_moved
from pyro_skipvae.reports.rendering import duration, nats, signed
from pyro_skipvae.runs.config import Config
from pyro_skipvae.runs.folder import RunError

ROOT = Path(__file__).parents[2]
@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return shutil.copytree(tiny_run(), tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def html(trained):
    vae, data, _ = load_run(trained)
    return run_page.write_page(trained, vae=vae, data=data).read_text()


@pytest.fixture
def record(trained):
    return copy.deepcopy(read_record(trained))


def test_a_page_is_one_file_without_scripts_or_network(html):
    tags = Tags(html).tags
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in html and "@import" not in html and len(html) < 5e6


def test_every_picture_has_an_alternative_text_and_a_size(html):
    pictures = [attributes for tag, attributes in Tags(html).tags if tag == "img"]
    assert len(pictures) == 12
    for attributes in pictures:
        assert len(attributes["alt"]) > 20 and int(attributes["width"]) > 100 and int(attributes["height"]) > 50


def test_the_card_holds_what_the_page_shows_of_the_layers(record, trained):
    vae, data, _ = load_run(trained)
    found = record.report["card"]["decoder_layers"]
    assert [layer["layer"] for layer in found] == ["1", "output"] and found == layers_moved(vae, data)


def test_the_verdict_comes_first_and_every_estimate_is_printed(html, record):
    text = plain(html)
    finding = record.report["verdict"]["sentence"].rpartition(":")[0]
    assert text.index(finding) < text.index("Estimates") < text.index("Pictures") < text.index("Settings that differ")
    for name, estimate in estimates_of(record.report).items():
        assert nats(estimate.value) in text, name
        if estimate.low is not None:
            assert f"{nats(estimate.low)} to {nats(estimate.high)}" in text, name


def test_equal_runs_give_equal_bytes_wherever_they_lie(html, trained, tmp_path):
    moved = tmp_path / "elsewhere" / "run"
    shutil.copytree(trained, moved)
    before = {file: file.read_bytes() for file in moved.rglob("*") if file.is_file()}
    vae, data, _ = load_run(moved)
    assert run_page.write_page(moved, vae=vae, data=data, out=tmp_path / "drawn.html").read_text() == html
    assert run_page.write_page(moved, out=tmp_path / "found.html").read_text() == html  # with the pictures of the folder
    assert before == {file: file.read_bytes() for file in moved.rglob("*") if file.is_file()}
    assert str(tmp_path) not in html


def test_the_command_repeats_the_run(record, tmp_path):
    command = run_page.train_command(record.config, run_page.changed_settings(record.config, record.report))
    done = skipvae(*shlex.split(command)[1:], "--print-config", cwd=tmp_path)
    assert Config.from_toml(done.stdout) == record.config
    assert "--seed" not in command and "--encoder" not in command and "--latent-dim 4" in command
    assert run_page.train_command(record.config, {"compile": (True, False), "lr": (0.1, 0.001)}) == (
        "skipvae-pyro train --compile --lr 0.1"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"saturated": True}, "The lower bound on I_q(x; z) is saturated: with N = 60 points"),
        (
            {"mi_upper": None, "card.unavailable": {"mi_upper": "no density"}},
            "Not available: I_q(x; z), upper bound. The reason: no density.",
        ),
        (
            {"effective_sample_size": {"median": 3.25, "min": 1.0}},
            "log p(x) rests on 3.2 effective samples of 200 (median over points; 10 are wanted): it is a lower bound",
        ),
        ({"card.beyond_budget": ["importance sampling: about 9 s"]}, "Left out for want of time: importance sampling"),
        ({"card.log_likelihood_points": 50}, "The log-likelihood is measured on the first 50 of 60 test points."),
        ({"card.elbo_points": 50}, "are measured on the first 50 of 60 test points."),
        ({"log_likelihood": -20.0, "log_likelihood_tenth": -30.0}, "The true value is higher."),
        ({"verdict": "0 of 4 units active: collapsed."}, "Collapsed. 0 of 4 units active"),
        ({"verdict": "2 of 4 units active; not told from 0: undecided."}, "Undecided. 2 of 4 units active; not told from 0"),
        ({"verdict": "2 of 4 units active: it does better, so the encoder does not fit it."}, "Undecided. 2 of 4 units"),
        ({"verdict": "2 of 4 units active: partly collapsed."}, "Not collapsed. 2 of 4 units active"),
        ({"verdict": {"kind": "weakly used", "sentence": "z says 1 nat: weak.", "amounts": {}}}, "Weakly used. z says 1 nat"),
        (
            {"verdict": {"kind": "not collapsed", "sentence": "z says 9 nats: used.", "amounts": {}}, "active_units": 2},
            "have posterior means that hardly vary. That alone is no defect: the data may not need them, or the training",
        ),
        (
            {"verdict": {"kind": "undecided", "sentence": "s.", "amounts": {"loss": {"value": -3, "low": -4, "high": -2}}}},
            "The decoder does better with the z of other points. More test points do not change that.",
        ),
        (
            {"verdict": {"kind": "undecided", "sentence": "s.", "amounts": {"loss": dict.fromkeys(("value", "low", "high"))}}},
            "What the decoder loses when z is shuffled is not known: the evaluation card below says why.",
        ),
        (
            {"verdict": {"kind": "collapsed", "sentence": "s.", "amounts": {"information": {"low": None, "high": 5.0}}}},
            "The decoder does not use z. What the encoder puts into z has no bound here that would be small.",
        ),
        ({"log_likelihood": None}, "not available"),
        ({"card.epoch": 2, "card.checkpoint": "best"}, "epoch 2, the best on validation data"),
        ({"card.epoch": 2, "card.checkpoint": "last"}, "epoch 2, the last one: none was selected by validation"),
    ],
)
def test_what_was_not_measured_is_said(record, change, sentence, monkeypatch):
    monkeypatch.setattr(run_page, "_pictures", lambda *_: [])
    for name, value in change.items():
        place = record.report["card"] if name.startswith("card.") else record.report
        place[name.removeprefix("card.")] = value
    assert sentence in plain(run_page.run_page(record))


def test_steps_left_out_and_a_foreign_report_are_noticed(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "nonfinite.json").write_text(json.dumps({"steps": 1200}))
    assert "since not finite: 1,200 steps." in run_page.notes(read_record(run))[0]
    report = json.loads((run / "report.json").read_text())
    changes = {"card": 3}, {"elbo": "-24"}, {"rate": math.inf}, {"mi_upper": {}}
    foreign = {"elbo": 1}, *(report | change for change in changes)
    for text in ("{", "[]", *map(json.dumps, foreign)):
        (run / "report.json").write_text(text)
        with pytest.raises(RunError, match="report.json"):
            read_record(run)


def test_limits_are_said(html):
    assert "Trained on 100 items only." in html and "Measured on the first 60 test items only." in html


def test_a_run_that_was_stopped_has_a_page(trained, tmp_path):
    stopped = tmp_path / "run"
    shutil.copytree(trained, stopped)
    for file in [stopped / "report.json", *stopped.glob("*.png")]:
        file.unlink()
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text(lines[0])
    text = plain(run_page.write_page(stopped).read_text())
    assert "Not measured. Run `skipvae-pyro evaluate RUN --save`" in text
    assert "Training stopped after epoch 1 of 2." in text and "Latent traversals" not in text
    (stopped / "metrics.jsonl").write_text("")
    assert "0 of 2 epochs" in plain(run_page.write_page(stopped).read_text())


def test_names_are_escaped(record, monkeypatch):
    monkeypatch.setattr(run_page, "_pictures", lambda *_: [])
    assert "&lt;b&gt;R&amp;D" in run_page.run_page(replace(record, name="<b>R&D"))


def test_a_decoder_without_means_and_a_model_without_latent_variables_have_pages(tmp_path):
    run = train(tmp_path, "--model", "autoregressive", "--maps", "4", "--latent-dim", "0", "--epochs", "0")
    vae, data, _ = load_run(run)
    text = plain(run_page.write_page(run, vae=vae, data=data).read_text())
    assert "No latent variables. There is nothing to collapse." in text and "Latent traversals" not in text
    assert "Draws: x from the decoder" in text and "Not available" not in text


def test_every_template_is_installed():
    setup = (ROOT / "setup.py").read_text()
    patterns = re.findall(r'"(reports/templates/[^"]+)"', setup)
    files = [f"reports/templates/{file.name}" for file in (ROOT / "pyro_skipvae/reports/templates").iterdir()]
    assert files and all(any(fnmatch.fnmatch(file, pattern) for pattern in patterns) for file in files)


def test_numbers_are_written_as_they_are_read():
    assert nats(-1234.5) == "\N{MINUS SIGN}1,234.50" and nats(0.0123) == "0.012" and nats(3) == "3"
    assert signed(1.0) == "+1.00" and duration(3725) == "1 h 2 min" and duration(59.6) == "1 min 0 s"
    assert json.dumps(nats(None)) == '"\\u2013"'
