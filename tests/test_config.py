"""Config: names, ranges, contradictions, the file it becomes; and what the command line makes of it."""

import dataclasses

import pytest

from pyro_skipvae import build
from pyro_skipvae.config import DATASETS, MODELS, OBJECTIVES, Config, ConfigError
from pyro_skipvae.data import DATASETS as KNOWN


def test_tables_of_names_agree():
    metadata = {entry.name: entry.metadata["choices"] for entry in dataclasses.fields(Config)}
    assert set(metadata["decoder"]) == set(build.DECODERS) and set(metadata["encoder"]) == set(build.ENCODERS)
    assert set(metadata["likelihood"]) == set(build.LIKELIHOODS) == set(build.KINDS)
    assert set(metadata["prior"]) == set(build.PRIORS) and set(metadata["guide"]) == set(build.GUIDES)
    assert set(OBJECTIVES) == set(build.OBJECTIVES) and set(DATASETS) == set(KNOWN)


def test_the_preset_of_each_model_is_a_config():
    for name, settings in MODELS.items():
        config = Config.from_flags({"model": name})
        assert config.model == name and all(getattr(config, key) == value for key, value in settings.items())


def test_skip_alone_names_the_model():
    assert Config.from_flags({"skip": "none"}).model == "vae"
    assert Config.from_flags({"skip": "parameter-matched"}).model == "vae"
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
        ({"dataset": "mnits"}, "did you mean mnist?"),
        ({"skip": "al"}, "did you mean all?"),
        ({"prior": "vampire"}, "did you mean vamp?"),
        ({"objective": "iwae(0)"}, "K of at least 1"),
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
    ],
)
def test_a_config_survives_its_file(flags):
    config = Config.from_flags(flags)
    assert Config.from_toml(config.to_toml()) == config


def test_particles():
    assert [Config(objective=o).particles for o in ("elbo", "iwae", "iwae(12)")] == [1, 5, 12]
