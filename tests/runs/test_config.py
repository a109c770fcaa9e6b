"""Config: names, ranges, contradictions, the file it becomes; and what the command line makes of it."""

import dataclasses
import json
import tomllib
from importlib import resources

import pytest
from click.testing import CliRunner

from pyro_skipvae import encoders
from pyro_skipvae.data import DATASETS as KNOWN
from pyro_skipvae.guides import refinement, semi_amortized
from pyro_skipvae.runs import build
from pyro_skipvae.runs.config import DATASETS, MODELS, OBJECTIVES, PRESETS, TEXTS, Config, ConfigError
from pyro_skipvae_cli.commands import train


def test_tables_of_names_agree():
    metadata = {entry.name: entry.metadata["choices"] for entry in dataclasses.fields(Config)}
    assert set(metadata["decoder"]) == set(build.DECODERS) and set(metadata["encoder"]) == set(build.ENCODERS)
    assert set(metadata["likelihood"]) == set(build.LIKELIHOODS) == set(build.KINDS)
    assert set(metadata["prior"]) == set(build.PRIORS) and set(metadata["guide"]) == set(build.GUIDES)
    assert metadata["encoder_direction"] == encoders.DIRECTIONS
    assert set(OBJECTIVES) == set(build.OBJECTIVES) and set(DATASETS) == set(KNOWN)
    assert set(TEXTS) == {name for name, about in KNOWN.items() if about.event_shape == (201,)}
    assert set(metadata["initialisation"]) == {"torch", "he", "data-dependent"}
    assert set(metadata["optimizer"]) == set(build.OPTIMIZERS) == set(build.USUAL_LR)
    assert set(metadata["inference"]) == {"amortized", *semi_amortized.VARIANTS}
    assert set(metadata["svi_gradient"]) == set(refinement.GRADIENTS)


def test_presets_are_settings_that_exist_and_every_file_has_its_name():
    folder = resources.files("pyro_skipvae") / "runs" / "presets"
    assert sorted(PRESETS) == sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.is_file())
    for name in PRESETS:
        settings = tomllib.loads((folder / f"{name}.toml").read_text())
        usual = dataclasses.asdict(Config())
        assert settings == {key: getattr(Config.from_flags(settings), key) for key in settings}
        assert all(value != usual[key] for key, value in settings.items() if key not in ("latent_dim",)), "differences only"


def test_the_preset_of_each_model_is_a_config():
    for name, settings in MODELS.items():
        config = Config.from_flags({"model": name})
        assert config.model == name and all(getattr(config, key) == value for key, value in settings.items())


def test_skip_alone_names_the_model():
    assert Config.from_flags({"skip": "none"}).model == "vae"
    assert Config.from_flags({"skip": "parameter-matched"}).model == "vae"
    assert Config.from_flags({"inference": "sa"}).model == "skip-sa-vae"
    assert Config.from_flags({"inference": "sa", "skip": "none"}).model == "sa-vae"
    assert Config.from_flags({"skip": "1,3,output"}).model == Config.from_flags({}).model == "skip-vae"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model": "vae", "skip": "all"}, "expected --skip none with --model vae, got --skip all"),
        ({"model": "skip-vae", "skip": "none"}, "expected --skip with entries"),
        ({"model": "autoregressive", "latent_dim": 5}, "expected --latent-dim 0"),
        ({"model": "autoregressive", "skip": "parameter-matched"}, "expected --skip none"),
        ({"model": "vea"}, "did you mean vae?"),
        ({"latent_dim": 0}, "use --model autoregressive"),
        ({"model": "vae", "inference": "sa"}, "use --model sa-vae"),
        ({"model": "skip-vae", "inference": "sa"}, "use --model skip-sa-vae"),
        ({"model": "skip-sa-vae", "skip": "none"}, "use --model sa-vae"),
        ({"model": "sa-vae", "inference": "svi"}, "expected --inference sa with --model sa-vae"),
        ({"inference": "svi", "objective": "iwae(5)"}, "expected --objective elbo"),
        ({"model": "lm", "latent_dim": 3}, "expected --latent-dim 0"),
        ({"inference": "svi", "svi_gradient": "first-order"}, "semi-amortized models only"),
        ({"svi_momentum": 1.0}, "expected --svi-momentum"),
        ({"svi_gradient": "exatc"}, "did you mean exact?"),
        ({"vocabulary_size": 4}, "expected --vocabulary-size of at least 5"),
        ({"dataset": "mnits"}, "did you mean mnist?"),
        ({"skip": "al"}, "did you mean all?"),
        ({"prior": "vampire"}, "did you mean vamp?"),
        ({"objective": "iwae(0)"}, "K of at least 1"),
        ({"objective": "iwae(" + "9" * 5000 + ")"}, "unknown objective"),
        ({"objective": "mmd(-1)"}, "'mmd(-1)': expected mmd(WEIGHT) or mmd(WEIGHT,ALPHA), with numbers such as 3 or 0.5"),
        ({"objective": "mmd(١٠)"}, "unknown objective"),
        ({"objective": "target-rate(nan)"}, "'target-rate(nan)': expected target-rate(NATS), with numbers"),
        ({"objective": "autoencoder(1)"}, "'autoencoder(1)': expected autoencoder"),
        ({"procedure": "hmc(1.5)"}, "'hmc(1.5)': expected hmc(MOVES), with a whole number such as 3"),
        ({"procedure": "lagging("}, "'lagging(': expected lagging"),
        ({"procedure": "pretrain(0)", "epochs": 1}, "from 1 to 1 EPOCHS of the 1"),
        ({"beta_schedule": "control(-5)"}, "'control(-5)': expected control(NATS), with numbers such as 3 or 0.5"),
        ({"skip": "١"}, "unknown skip"),
        ({"guide": "batch-normalised", "rate": 1e30}, "expected --rate of at least 0.0 and below 1,000,000, got 1e+30"),
        ({"model": "autoregressive", "guide": "codebook"}, "expected a model with latent variables for --guide codebook"),
        ({"model": "lm", "guide": "categorical"}, "expected a model with latent variables for --guide categorical"),
        ({"model": ["vae"]}, "unknown model"),
        ({"objective": "elob"}, "did you mean elbo?"),
        ({"layers": 0}, "expected --layers of at least 1"),
        ({"lr": float("nan")}, "expected --lr of at least"),
        ({"lr": float("inf")}, "expected --lr of at least"),
        ({"lr": 0.0}, "expected --lr above 0"),
        ({"beta": -1.0}, "expected --beta of at least"),
        ({"epochs": 1.5}, "expected --epochs to be a whole number"),
        ({"kernel": 4}, "expected --kernel odd"),
        ({"laeyrs": 3}, "did you mean layers?"),
        ({"dataset": None}, "expected --dataset to be a name"),
    ],
)
def test_mistakes_are_named(flags, message):
    with pytest.raises(ConfigError) as caught:
        Config.from_flags(flags)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"dataset": 'odd "name" \\ here.npz', "skip": "1,output", "lr": 3e-05, "beta": 0.1 + 0.2},
        {"model": "autoregressive", "limit_train": 7, "objective": "iwae(12)"},
        {"dataset": "line\nbreak\x7f\x01é😀.npz"},
    ],
)
def test_a_config_survives_its_file(flags):
    config = Config.from_flags(flags)
    assert Config.from_toml(config.to_toml()) == config


def test_particles():
    assert [Config(objective=o).particles for o in ("elbo", "iwae", "iwae(12)")] == [1, 5, 12]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "settings.toml").write_text('epochs = 3\nlr = 0.5\nbeta_schedule = "linear"\n')
    return tmp_path / "settings.toml"


def printed(*words, tmp_path):
    """(exit code, config or message) of `train --print-config`."""
    outcome = CliRunner().invoke(train, ["--print-config", "--download", "never", *map(str, words)], standalone_mode=False)
    if outcome.exception:
        return outcome.exception.exit_code, outcome.exception.format_message()
    assert not list(tmp_path.glob("runs"))
    return 0, Config.from_toml(outcome.stdout)


def test_a_flag_goes_before_a_variable_before_a_file_before_the_default(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKIPVAE_EPOCHS", "4")
    monkeypatch.setenv("SKIPVAE_SEED", "8")
    code, config = printed("--config", file, "--seed", 9, tmp_path=tmp_path)
    assert code == 0 and (config.epochs, config.seed, config.lr, config.batch_size) == (4, 9, 0.5, 64)
    assert config.warmup_epochs == pytest.approx(4 / 3) and config.layers == 9  # resolved against the data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epohcs = 3", "did you mean epochs?"),
        ("epochs = '3'", "expected --epochs to be a whole number, got '3'"),
        ("model = 3", "unknown model 3"),
        ("epochs = ", "settings.toml, which cannot be read: Invalid value"),
        ("dataset = 'dig\xe9ts'", "settings.toml, which cannot be read: 'utf-8' codec"),
    ],
)
def test_a_file_with_a_mistake_is_refused(content, message, file, tmp_path):
    file.write_text(content, encoding="latin-1")
    code, said = printed("--config", file, tmp_path=tmp_path)
    assert code == 2 and message in said


def test_a_misspelt_or_malformed_variable_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIPVAE_EPOCH", "4")
    assert "in the environment 'epoch'" in printed(tmp_path=tmp_path)[1]
    monkeypatch.delenv("SKIPVAE_EPOCH")
    monkeypatch.setenv("SKIPVAE_EPOCHS", "many")
    code, said = printed(tmp_path=tmp_path)
    assert code == 2 and "not a valid integer" in said


def test_a_dry_run_measures_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--dry-run", "--json", "--decoder", "mlp", "--width", "8", "--limit-train", "100", "--epochs", "2"]
    outcome = CliRunner().invoke(train, words, standalone_mode=False)
    costs = json.loads(outcome.stdout)
    assert costs["steps_per_epoch"] == 2 and costs["seconds"] == pytest.approx(2 * costs["seconds_per_epoch"])
    assert costs["parameters"] > 1000 and costs["memory_bytes"] > 1e8 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "message"), [(["--on-nan", "skip"], "skip:N"), (["--resume", "a", "--out", "b"], "both")])
def test_options_that_are_no_settings_are_checked_too(words, message, tmp_path):
    code, said = printed(*words, tmp_path=tmp_path)
    assert code == 2 and message in said


def test_generated_settings_round_trip_or_are_refused(tmp_path):
    pytest.importorskip("hypothesis")
    from torture import configs

    count, failed = configs.unit(tmp_path, 0)
    assert count >= 100 and not failed
