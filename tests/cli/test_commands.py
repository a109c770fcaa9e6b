"""The command line, run as a user runs it: results on stdout, notes on stderr, one plain line for a mistake."""

import json
import re
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import SCRIPT, skipvae

from pyro_skipvae import load_run
from pyro_skipvae.runs.folder import Run
from pyro_skipvae_cli import cli, errors
from pyro_skipvae_cli.errors import report_errors
from pyro_skipvae_cli.terminal import table

TINY = ("--epochs", "2", "--layers", "2", "--maps", "8", "--latent-dim", "4", "--limit-train", "200", "--limit-eval", "60")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    done = skipvae("train", *TINY, "--out", "run", "--report-budget", "5", "--tensorboard", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", done


def test_help_answers_at_once(tmp_path):
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([SCRIPT, "train", "--help"], cwd=tmp_path, capture_output=True, text=True)
        times.append(time.perf_counter() - start)
    # 0.1 s on a free machine; importing torch and pyro alone takes several seconds.
    assert done.returncode == 0 and "--layers" in done.stdout and min(times) < 1.0


def test_the_script_reports_mistakes_by_its_exit_code(tmp_path):
    done = subprocess.run([SCRIPT, "train", "--skip", "al"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("Error: unknown skip") and not done.stdout


def test_the_run_folder_holds_what_it_should(trained):
    run, _ = trained
    for name in ("config.toml", "metrics.jsonl", "report.json", "report.html", "samples.png", "reconstructions.png"):
        assert (run / name).stat().st_size > 0, name
    assert len(list((run / "tensorboard").iterdir())) == 1
    metrics = Run(run).metrics()
    assert [line["epoch"] for line in metrics] == [1, 2]
    assert {"train_loss", "beta", "valid_elbo", "valid_rate", "active_units", "seconds"} <= set(metrics[0])
    assert Run(run).config().limit_train == 200


def test_the_report_is_on_stdout_as_json_and_in_the_folder(trained):
    run, done = trained
    report, stored = json.loads(done.stdout), json.loads((run / "report.json").read_text())
    names = ["elbo", "rate", "rate_per_dimension", "log_likelihood", "mi_lower", "mi_upper", "mi_marginal", "mi_ceiling"]
    names += ["saturated", "aggregate_kl", "active_units", "active_unit_variances", "shuffled_latent_loss", "verdict", "card"]
    assert set(names) <= set(stored) and stored["verdict"] == report["verdict"]
    assert report["elbo"] <= report["log_likelihood"] + 0.5 and len(report["rate_per_dimension"]) == 4
    data = stored["card"]["data"]
    assert data["name"] == "digits" and data["binarisation"] == "dynamic" and data["limits"] == {
        "train": 200,
        "valid": 60,
        "test": 60,
    }
    assert "An epoch takes about" in done.stderr and "epoch 2/2" in done.stderr


def test_a_run_is_loaded_back_as_it_was(trained):
    run, _ = trained
    vae, data, config = load_run(run)
    assert config.layers == 2 and len(data.test) == 60 and not vae.training
    x = data.test[:5]
    torch.manual_seed(0)
    first = vae.decoder(vae.encoder(x).mean).log_prob(x)
    again, _, _ = load_run(run)
    assert first.equal(again.decoder(again.encoder(x).mean).log_prob(x))


def test_evaluate_needs_the_run_alone(trained, tmp_path):
    run, done = trained
    evaluated = skipvae("evaluate", run, "--report-budget", "5", "--json", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    report = json.loads(evaluated.stdout)
    assert report["rate"] == pytest.approx(json.loads(done.stdout)["rate"], rel=1e-5)
    text = skipvae("evaluate", run, "--importance-samples", "20", "--limit-eval", "50", "--report-budget", "5", cwd=tmp_path)
    assert "active" in text.stdout and "collapsed" in text.stdout and text.returncode == 0


def test_the_card_of_evaluate_names_the_checkpoint_that_was_read(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    (run / "checkpoints" / "best.safetensors").unlink()
    flags = ("--importance-samples", "2", "--posterior-samples", "1", "--report-budget", "0", "--save")
    done = skipvae("evaluate", run, *flags, cwd=tmp_path)
    assert done.returncode == 0 and "has no best checkpoint; evaluating last" in done.stderr
    assert json.loads((run / "report.json").read_text())["card"]["checkpoint"] == "last"
    (run / "checkpoints" / "last.safetensors").write_bytes(b"")
    done = skipvae("evaluate", run, *flags, cwd=tmp_path)
    assert done.returncode == 4 and "last.safetensors" in done.stderr and len(done.stderr.splitlines()) == 1


def test_sample_writes_a_picture_and_the_same_seed_the_same_one(trained, tmp_path):
    run, _ = trained
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        assert skipvae("sample", run, "--count", 9, "--seed", seed, "--out", name, cwd=tmp_path).returncode == 0
    pictures = [(tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png")]
    assert pictures[0][:8] == b"\x89PNG\r\n\x1a\n" and pictures[0] == pictures[1] != pictures[2]


def test_datasets_says_what_there_is_and_where_it_looked(tmp_path):
    table = skipvae("datasets", cwd=tmp_path).stdout
    assert skipvae("datasets", "--data-dir", "mine", cwd=tmp_path).returncode == 2
    (tmp_path / "mine").mkdir()
    records = json.loads(skipvae("datasets", "--json", "--data-dir", tmp_path / "mine", cwd=tmp_path).stdout)["datasets"]
    assert "digits" in table and "Looked at" in table
    assert {record["name"] for record in records} >= {"digits", "mnist", "omniglot", "frey-faces"}
    mnist = next(record for record in records if record["name"] == "mnist")
    assert any("mine" in place for place in mnist["looked_at"])


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "compare", "report", "datasets"])
def test_help_names_the_default_of_every_option(command, tmp_path):
    text = " ".join(skipvae(command, "--help", cwd=tmp_path).stdout.split())
    flags = ["--help", "--json", "--quiet", "--verbose", "--dry-run", "--print-config", "--tensorboard", "--save", "--compile"]
    for option in cli.commands[command].params:
        if option.param_type_name == "option" and not option.hidden and not set(option.opts) & set(flags):
            described = text.split(option.opts[0] + " ", 1)[1].split(" --", 1)[0]
            assert "[default:" in described or option.opts[0] in ("--config", "--resume"), option.opts


def test_the_first_example_makes_the_run_of_the_others(tmp_path):
    texts = {name: skipvae(name, "--help", cwd=tmp_path).stdout.split("Examples:\n")[1] for name in ("train", "evaluate")}
    assert texts["train"].splitlines()[0].strip() == "skipvae-pyro train --out runs/digits"
    assert texts["evaluate"].splitlines()[0].strip() == "skipvae-pyro evaluate runs/digits"


def test_quiet_leaves_the_result_alone(trained, tmp_path):
    run, _ = trained
    said = [skipvae("train", "--resume", run, *flags, cwd=tmp_path) for flags in ([], ["-q"])]
    assert "is finished" in said[0].stderr and said[1].stderr == "" and said[0].stdout == said[1].stdout
    assert skipvae("sample", "nowhere", "-q", cwd=tmp_path).stderr.startswith("Error")


MISTAKES = [
    (["train", "--dataset", "mnits"], 2, "did you mean mnist?"),
    (["train", "--model", "vae", "--skip", "all"], 2, "expected --skip none with --model vae"),
    (["train", "--layers", "0"], 2, "expected --layers of at least 1"),
    (["train", "--layers", "many"], 2, "not a valid integer"),
    (["train", "--skip", "1,99"], 2, "expected skip to be"),
    (["train", "--report-budget", "-5"], 2, "-5.0 is not in the range x>=0"),
    (["train", "--report-budget", "nan"], 2, "expected a number of at least 0, got nan"),
    (["train", "--report-budget", "5", "--elbo-points", "9"], 2, "expected --report-budget or --elbo-points, got both"),
    (["train", "--elbo-points", "1"], 2, "expected a whole number from 2 to 2147483647, got 1"),
    (["train", "--elbo-points", "9", "--log-likelihood-points", "10"], 2, "at most the --elbo-points, 9, got 10"),
    (["train", "--checkpoint-minutes", "nan"], 2, "expected a number of at least 0, got nan"),
    (["evaluate", "nowhere", "--report-budget", "-5"], 2, "-5.0 is not in the range x>=0"),
    (["evaluate", "nowhere", "--report-budget", "nan"], 2, "expected a number of at least 0, got nan"),
    (["compare", "nowhere", "--budget", "nan"], 2, "expected a number of at least 0, got nan"),
    (["train", "--likelihood", "normal"], 2, "expected grey or real values for --likelihood normal"),
    (["train", "--device", "cuda:77"], 2, "expected a device that this machine has"),
    (["train", "--device", "meta"], 2, "expected a device that this machine has"),
    (["train", "--batch-size", "99999999999999999999"], 2, "expected --batch-size below 2,147,483,648"),
    (["train", "--decoder", "mlp", "--width", "2000000000"], 2, "expected a model and batches that fit into memory"),
    (["train", "--device", "mps"], 2, "expected a device with the float64 of the reports"),
    (["train", "--prior", "vamp", "--guide", "inverse-autoregressive-flow"], 2, "expected a guide whose density"),
    (["train", "--prior", "vamp", "--components", "5000"], 2, "expected --components of at most 1257"),
    (["train", "--dataset", "synthetic-text", "--guide", "variational-laplace"], 2, "expected images or numbers for --guide"),
    (["train", "--dataset", "synthetic-text", "--receptive-field", "3"], 2, "use --decoder dilated-cnn there"),
    (["train", "--dataset", "absent.npz"], 3, "absent.npz"),
    (["train", "--dataset", "kmnist", "--download", "never"], 3, "kmnist"),
    (["train", "--dataset", "bad.npz"], 2, "bad.npz"),
    (["train", "--dataset", "flat.npz", "--decoder", "pixelcnn"], 2, "use --decoder mlp"),
    (["evaluate", "nowhere"], 4, "expected a run folder"),
    (["sample", "nowhere"], 4, "expected a run folder"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES, ids=[" ".join(mistake[0]) for mistake in MISTAKES])
def test_a_mistake_is_one_plain_line(arguments, code, message, tmp_path):
    np.savez(tmp_path / "bad.npz", images=np.zeros((4, 2)))
    np.savez(tmp_path / "flat.npz", train=np.random.default_rng(0).integers(0, 2, (50, 6)).astype(np.uint8))
    done = skipvae(*arguments, cwd=tmp_path)
    assert done.returncode == code and done.stdout == "", done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error")]) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--model", "autoregressive", "--layers", "2"],
        "--decoder mlp --skip parameter-matched --prior mixture-of-normals --guide full-covariance-normal".split(),
        ["--decoder", "convolutional", "--objective", "iwae(3)", "--guide", "inverse-autoregressive-flow"],
        ["--decoder", "mlp", "--prior", "vamp", "--binarisation", "none", "--likelihood", "categorical"],
        ["--decoder", "mlp", "--dataset", "own.npz", "--beta-schedule", "cyclical", "--objective", "analytic-elbo"],
    ],
    ids=lambda flags: " ".join(flags),
)
def test_every_combination_trains_to_its_report(flags, tmp_path):
    np.savez(tmp_path / "own.npz", train=np.random.default_rng(0).normal(size=(80, 7)).astype(np.float32))
    size = ["--epochs", "1", "--limit-train", "128", "--limit-eval", "50", "--width", "16", "--maps", "8"]
    latent = [] if "autoregressive" in flags else ["--latent-dim", "3"]
    done = skipvae("train", *size, *latent, *flags, "--out", "run", "--report-budget", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert np.isfinite(report["elbo"]) and report["verdict"]


def test_a_training_does_not_compute_with_denormal_numbers(tmp_path, monkeypatch):
    seen = []

    def smallest():
        return torch.full((1000,), 1e-40).mul(1.0).sum().item()

    run = SimpleNamespace(path="run")
    monkeypatch.setattr("pyro_skipvae_cli.training.train_run", lambda *_, **__: seen.append(smallest()) or (run, {}))
    skipvae("train", "--decoder", "mlp", "--epochs", 1, cwd=tmp_path)
    assert seen == [0.0] and smallest() > 0  # and the caller's numbers are as they were


def test_names_in_brackets_are_shown_as_they_are():
    assert "old [run] :smile:" in table(("name [bold]",), [["old [run] :smile:"]])


def test_more_memory_than_there_is(capsys):
    with pytest.raises(SystemExit) as left, report_errors():
        torch.empty(10**15)
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.startswith("Error: expected a model and batches that fit into memory")
    with pytest.raises(RuntimeError, match="another"), report_errors():
        raise RuntimeError("another")


@pytest.mark.parametrize(
    ("flags", "ours"),
    [
        ("train --learning-rate 0.1", "--lr"),
        ("train --num_epochs 3", "--epochs"),
        ("train --z-dim 2", "--latent-dim"),
        ("train --hidden-size 2", "--width"),
        ("train --output here", "--out"),
        ("train --epoch 3", "--epochs"),
        ("train --kl-weight 3", "--beta"),
        ("train --lattent-dim 3", "--latent-dim"),  # a slip, not another name
    ],
)
def test_names_from_elsewhere_lead_to_ours(flags, ours, tmp_path):
    done = skipvae(*flags.split(), cwd=tmp_path)
    assert done.returncode == 2 and re.search(rf"Did you mean .*{ours}'", done.stderr), done.stderr


def test_every_name_from_elsewhere_leads_to_an_option_that_there_is():
    options = {name for command in cli.commands.values() for param in command.params for name in param.opts}
    assert {f"--{ours}" for ours in errors.ELSEWHERE} <= options


def test_words_may_be_written_with_underscores(tmp_path):
    said = skipvae("train", "--batch_size", 7, "--beta_schedule", "constant", "--print_config", cwd=tmp_path).stdout
    assert "batch_size = 7\n" in said and 'beta_schedule = "constant"' in said


def test_the_help_of_train_has_headings_with_every_option_under_one(tmp_path):
    said = skipvae("train", "--help", cwd=tmp_path).stdout
    assert re.findall(r"^([A-Z][a-z ]+):$", said, re.M) == [
        "Data", "Model", "Inference and training", "Run and output"
    ]  # fmt: skip
    for name, heading in {"--dataset": "Data", "--skip": "Model", "--epochs": "Inference", "--out": "Run and"}.items():
        assert said.rindex(heading, 0, said.index(f"  {name} ")) == max(
            said.rfind(f"\n{other}", 0, said.index(f"  {name} ")) + 1 for other in ("Data:", "Model:", "Inference", "Run and")
        )
    assert all(name in said for param in cli.commands["train"].params for name in param.opts)


def test_a_run_that_is_not_there_is_told_before_torch_is_imported(tmp_path):
    code = (
        "import sys; from pyro_skipvae_cli import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    for command in ("evaluate", "sample", "report", "encode --out z.npz", "train --resume"):
        arguments = [*command.split(), "nowhere"]
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout == "4 False\n" and "expected a run folder with a config.toml, got nowhere" in done.stderr
