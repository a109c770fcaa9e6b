"""`train --compile` and `--precision bf16`: kept by a run, told, exact on resume, and never in a report."""

import json
import tomllib

import pytest
from command_line import skipvae
from small_runs import train

from pyro_skipvae.training import graphs

SMALL = ("--decoder", "mlp", "--width", "16", "--lr-schedule", "constant", "--batch-size", "50")
FAST = ("--compile", "--precision", "bf16")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """The traced graph as it is: what the compiler makes of it has a test of its own."""
    monkeypatch.setattr(graphs, "_compiled", lambda graph, tensors: graph)


def losses(run):
    return [json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_keeps_how_it_trains_and_goes_on_exactly(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = train(tmp_path / "whole", *SMALL, *FAST, "--epochs", "2")
    settings = tomllib.loads((whole / "config.toml").read_text())
    assert settings["compile"] is True and settings["precision"] == "bf16"
    parts = train(tmp_path / "parts", *SMALL, *FAST, "--epochs", "1")
    done = skipvae("train", "--resume", parts, "--epochs", "2", cwd=tmp_path)
    assert "The step is compiled for batches of 1 size" in done.stderr
    assert losses(parts) == losses(whole)
    assert (parts / "report.json").exists()
    refused = skipvae("train", "--resume", whole, "--precision", "float32", cwd=tmp_path)
    assert refused.returncode == 2 and "precision 'float32' (there 'bf16')" in refused.stderr


def test_reports_are_in_float32(tmp_path):
    run = train(tmp_path, *SMALL, "--precision", "bf16")
    said = json.loads((run / "report.json").read_text())
    config = run / "config.toml"
    config.write_text(config.read_text().replace('"bf16"', '"float32"'))
    again = json.loads(skipvae("evaluate", run, "--json", "--report-budget", "5", cwd=tmp_path).stdout)
    assert again["elbo"] == said["elbo"]


def test_a_step_that_cannot_be_compiled_is_told_in_one_line(tmp_path):
    done = skipvae(
        *("train", "--model", "skip-sa-vae", *SMALL, "--compile", "--svi-steps", "1", "--epochs", "1", "--layers", "1"),
        *("--limit-train", "50", "--limit-eval", "20", "--latent-dim", "2", "--report-budget", "2", "--out", "run"),
        cwd=tmp_path,
    )
    assert done.returncode == 0
    told = [line for line in done.stderr.splitlines() if "not compiled" in line]
    assert len(told) == 1 and told[0].startswith("Warning: The step is not compiled, since it looks at values"), told


def test_a_refinement_in_bfloat16_is_refused(tmp_path):
    done = skipvae("train", "--model", "sa-vae", "--precision", "bf16", cwd=tmp_path)
    assert done.returncode == 2 and "expected --precision float32 with --inference sa, got bf16" in done.stderr
