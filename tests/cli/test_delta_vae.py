"""delta-VAEs through the command line: what they commit is told, held in every epoch, and kept with the run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import skipvae
from page_text import plain

from pyro_skipvae.priors import committed_rate
from pyro_skipvae.runs.auxiliary import load as load_auxiliary
from pyro_skipvae_cli.errors import UserError
from pyro_skipvae_cli.training import _check_committed

SMALL = "--epochs 3 --decoder mlp --width 8 --layers 1 --limit-train 80 --limit-eval 40 --report-budget 2".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("delta")
    done = skipvae("train", "--model", "skip-delta-vae", "--rate", 7, *SMALL, "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "The prior commits 7.000 nats (10.10 bits) for each datapoint" in done.stderr
    assert re.search(r"committed +│ +7\.000", done.stdout)
    return folder / "run"


def test_every_epoch_has_a_rate_above_the_committed_one(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all(line["valid_rate"] >= line["committed_rate"] == pytest.approx(7) for line in lines)


def test_a_rate_below_the_committed_one_is_a_fault():
    _check_committed({"valid_rate": 6.9999, "committed_rate": 7.0})  # rounding
    _check_committed({"valid_rate": 0.0})
    with pytest.raises(RuntimeError, match="at least the committed 7.0 nats, got 6.9"):
        _check_committed({"valid_rate": 6.9, "committed_rate": 7.0})


def test_card_and_page_say_what_is_committed(run):
    card = json.loads((run / "report.json").read_text())["card"]
    assert card["latent_shape"] == [8, 8] and card["committed_rate"] == pytest.approx(7, rel=1e-5)
    assert committed_rate(8, card["correlation"]) == pytest.approx(card["committed_rate"])
    text = plain((run / "report.html").read_text())
    assert "Rate against the auxiliary prior" in text
    assert "Committed rate" in text and "8 channels of a sequence z" in text


@pytest.mark.parametrize("command", ["sample", "reconstruct", "interpolate", "traverse", "evaluate --report-budget 2"])
def test_commands_on_a_finished_run(run, command):
    done = skipvae(*command.split()[:1], str(run), *command.split()[1:], cwd=run)
    assert done.returncode == 0, done.stderr


def test_the_auxiliary_prior_is_kept_with_the_run_and_sampled(run):
    card = json.loads((run / "report.json").read_text())["card"]
    found = card["auxiliary_prior"]
    assert found["rate"]["low"] <= found["rate"]["value"] <= found["rate"]["high"] and found["points"] == 40
    again = json.loads(skipvae("evaluate", str(run), "--report-budget", 1, "--json", cwd=run).stdout)
    assert again["card"]["auxiliary_prior"]["rate"] == pytest.approx(found["rate"])
    assert again["card"]["auxiliary_prior"]["elbo"] == pytest.approx(-again["distortion"] - found["rate"]["value"])
    draws = {}
    for prior in ("model", "auxiliary"):
        done = skipvae("sample", str(run), "--prior", prior, "--count", 5, "--out", f"{prior}.npz", cwd=run)
        assert done.returncode == 0, done.stderr
        draws[prior] = np.load(run / f"{prior}.npz")["z"]
    assert draws["model"].shape == draws["auxiliary"].shape == (5, 8, 8) and (draws["model"] != draws["auxiliary"]).any()


def test_training_that_goes_on_leaves_no_auxiliary_prior_of_the_weights_before(run, tmp_path, monkeypatch):
    longer = shutil.copytree(run, tmp_path / "longer")
    (longer / "auxiliary.safetensors").write_text("of the weights before")

    def stopped(*_):
        raise UserError("stopped")

    monkeypatch.setattr("pyro_skipvae_cli.training._announce", stopped)
    assert "stopped" in skipvae("train", "--resume", "longer", "--epochs", 9, cwd=tmp_path).stderr
    assert not (longer / "auxiliary.safetensors").exists()


def test_a_run_without_an_auxiliary_prior_says_so(tmp_path):
    plain = skipvae("train", *SMALL, "--epochs", 0, "--out", "run", cwd=tmp_path)
    done = skipvae("sample", "run", "--prior", "auxiliary", cwd=tmp_path)
    assert plain.returncode == 0 and done.returncode == 4 and "which a delta-VAE has after training" in done.stderr


def test_a_guide_may_commit_a_rate_too(tmp_path):
    done = skipvae("train", "--guide", "minimum-rate", "--rate", 6, *SMALL, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0 and "The guide commits 6.000 nats" in done.stderr, done.stderr
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["rate"] >= 6 - 1e-4 and report["card"]["committed_rate"] == 6
    assert "minimum-rate" in (tmp_path / "run/config.toml").read_text()


def test_an_exported_model_of_sequences_is_read_back(run, tmp_path):
    from pyro_skipvae.reports import load_exported

    assert skipvae("export", str(run), "model", cwd=tmp_path).returncode == 0
    vae = load_exported(tmp_path / "model")[0]
    assert vae.prior.committed_rate() == pytest.approx(7, rel=1e-5)
    assert 'prior="auxiliary"' in (tmp_path / "model/README.md").read_text()
    auxiliary = load_exported(tmp_path / "model", prior="auxiliary")[0]
    torch.manual_seed(0)
    z = auxiliary.prior().sample((3,))
    assert z.shape == (3, 8, 8) and auxiliary.decoder(z).sample().shape == (3, 8, 8)
    kept = load_auxiliary(run)
    assert torch.equal(kept().log_prob(z), auxiliary.prior().log_prob(z))
    (tmp_path / "model/auxiliary.safetensors").unlink()
    with pytest.raises(ValueError, match="with auxiliary.safetensors for prior 'auxiliary'"):
        load_exported(tmp_path / "model", prior="auxiliary")


def test_codes_keep_steps_and_channels_and_are_the_same_at_each_call(run, tmp_path):
    for name in ("one.npz", "two.npz"):
        done = skipvae("encode", str(run), "--out", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (np.load(tmp_path / name) for name in ("one.npz", "two.npz"))
    assert one["test_loc"].shape == one["test_scale"].shape == (40, 8, 8) and (one["test_scale"] > 0).all()
    assert all((one[name] == two[name]).all() for name in one.files) and set(one["test_labels"]) <= set(range(10))


def test_the_rate_of_each_step_adds_up_to_the_rate(run):
    report = json.loads((run / "report.json").read_text())
    rates = report["rate_per_dimension"]
    assert len(rates) == 64 and min(rates) >= 0 and sum(rates) == pytest.approx(report["rate"], rel=1e-5)
    assert "given the step before" in plain((run / "report.html").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "shape"),
    [
        ("--model delta-vae --decoder pixelcnn --maps 4 --correlation 0.3:0.6 --chunk 2 --latent-dim 3", [4, 3]),
        ("--prior ar1 --decoder pixelcnn --maps 4 --encoder-direction causal", [8, 8]),
        ("--prior ar1 --decoder mlp --width 8 --inference sa --svi-steps 2", [8, 8]),
        ("--model skip-delta-vae --dataset pydoc --preset text-small --width 8 --embedding 4 --max-words 15", [2, 8]),
        ("--model delta-vae --dataset pydoc --preset text-small --decoder transformer --width 8 --embedding 4 --heads 2 "
         "--max-words 15 --chunk 2", [8, 8]),
    ],
)  # fmt: skip
def test_models_of_images_and_text(flags, shape, tmp_path):
    small = "--epochs 1 --layers 1 --limit-train 40 --limit-eval 20 --report-budget 1".split()
    done = skipvae("train", *flags.split(), *small, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    card = json.loads(Path(tmp_path / "run/report.json").read_text())["card"]
    assert card["latent_shape"] == shape and card["estimators"]["rate"] == "closed form"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--model delta-vae --rate 1000", "at most 41.47 nats"),
        ("--model delta-vae --rate 0", "--rate above 0"),
        ("--model delta-vae --correlation 1.5", "between 0 and 1, or LOW:HIGH"),
        ("--model delta-vae --correlation 0", "between 0 and 1, or LOW:HIGH"),
        ("--model delta-vae --correlation 0.5 --rate 3", "got both"),
        ("--model delta-vae --chunk 3", "--chunk to divide the 8 rows of digits, got 3"),
        ("--model delta-vae --chunk 8", "length of at least 2 steps"),
        ("--model delta-vae --guide full-covariance-normal", "--guide diagonal-normal for --prior ar1"),
        ("--model delta-vae --prior vamp", "--prior ar1 with --model delta-vae, got --prior vamp"),
        ("--model vae --prior ar1", "use --model delta-vae"),
        ("--model skip-vae --prior ar1", "use --model skip-delta-vae"),
        ("--model sa-vae --prior ar1", "--prior other than ar1 with --model sa-vae"),
        ("--model skip-delta-vae --skip none", "use --model delta-vae"),
        ("--model vae --rate 3", "--prior ar1 (--model delta-vae) for --rate, got --prior standard-normal"),
        ("--model delta-vae --encoder mlp --encoder-direction causal", "--encoder pixelcnn for --encoder-direction causal"),
        ("--guide minimum-rate --prior vamp", "--prior standard-normal for --guide minimum-rate, got --prior vamp"),
        ("--guide minimum-rate --inference svi", "--inference amortized for --guide minimum-rate"),
        ("--guide minimum-rate --chunk 2", "--prior ar1 (--model delta-vae) for --chunk"),
        ("--guide von-mises-fisher", "--prior uniform-sphere for --guide von-mises-fisher, got --prior standard-normal"),
        ("--prior uniform-sphere", "--guide von-mises-fisher for --prior uniform-sphere, got --guide diagonal-normal"),
        ("--model vae --encoder pixelcnn", "--prior ar1 for --encoder pixelcnn"),
        ("--model delta-vae --correlation 0.99999999", "a correlation that torch.float32 can tell from 1"),
        ("--model delta-vae --correlation 0.9 --objective target-rate(4)", "above the 20.88 nats that --correlation commits"),
        ("--model delta-vae --rate 10 --beta-schedule control(10)", "a target above the 10 nats that --rate commits, got 10"),
        ("--model delta-vae --rate 10 --objective free-bits-total(8)", "free bits above the 10 nats that --rate commits"),
        ("--guide minimum-rate --objective free-bits-total(8)", "free bits above the 10 nats that --rate commits, got 8"),
        ("--guide minimum-rate --objective free-bits-per-dimension(0.1)", "free bits above the 10 nats that --rate commits"),
        ("--guide batch-normalised --objective free-bits-per-group(0.2)", "free bits above the 10 nats that --rate commits"),
        ("--guide batch-normalised --batch-size 1", "--batch-size of at least 2 for --guide batch-normalised"),
        ("--guide batch-normalised --objective target-rate(4)", "a target above the 10 nats that --rate commits, got 4"),
        ("--model delta-vae --encoder-direction sideways", "unknown encoder-direction 'sideways'"),
    ],
)
def test_settings_that_contradict_each_other(flags, said, tmp_path):
    done = skipvae("train", *flags.split(), "--print-config", cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_no_free_bits_and_no_target_are_refused_where_nothing_is_committed(tmp_path):
    for objective in ("free-bits-total(0)", "target-rate(0)"):
        done = skipvae("train", "--objective", objective, "--decoder", "mlp", "--print-config", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
