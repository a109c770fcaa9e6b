"""Config: one flat frozen record of a run. Imports the standard library only, so that `--help` stays instant."""

import difflib
import json
import re
import tomllib
from dataclasses import asdict, dataclass, field, fields
from types import NoneType
from typing import get_args

DATASETS = ("digits", "mnist", "fashion-mnist", "kmnist", "omniglot", "omniglot-burda", "frey-faces")
# A model is a preset of other settings; a flag that contradicts it is refused.
MODELS = {
    "skip-vae": {},
    "vae": {"skip": "none"},
    "autoregressive": {"skip": "none", "latent_dim": 0, "decoder": "pixelcnn"},
}
DECODERS = ("pixelcnn", "mlp", "convolutional")
ENCODERS = ("resnet", "mlp")
LIKELIHOODS = ("bernoulli", "categorical", "discretised-logistic", "normal", "poisson")
BINARISATIONS = ("dynamic", "static", "threshold", "none")
PRIORS = ("standard-normal", "mixture-of-normals", "vamp")
GUIDES = ("diagonal-normal", "full-covariance-normal", "inverse-autoregressive-flow")
OBJECTIVES = ("elbo", "analytic-elbo", "iwae")
SKIPS = ("all", "none", "first", "last", "parameter-matched")
SCHEDULES = ("constant", "linear", "cyclical")
LR_SCHEDULES = ("cosine", "constant")


OPEN = ("dataset", "skip", "objective")  # these take more than the names listed for them


class ConfigError(ValueError):
    """A setting that is wrong: the user's mistake."""


def option(default, help, choices=None, *, usual=None, least=None, below=None):
    """A field with what the command line says of it; `usual` says what None becomes; `least` <= value < `below`."""
    about = {"help": help, "choices": choices, "usual": usual, "least": least, "below": below}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes. None means: chosen from the data and the decoder (`resolve`).

    Raises ConfigError for a name that does not exist, a number out of range, or settings that contradict each other.
    """

    # data
    dataset: str = option("digits", "what to train on, or the path of a .npz file", (*DATASETS, "FILE.npz"))
    data_dir: str | None = option(None, "folder to look in first", usual="$SKIPVAE_DATA, then ~/.cache/pyro-skipvae")
    download: str = option("auto", "whether to fetch data that are not found", ("auto", "never"))
    binarisation: str | None = option(None, "how grey becomes 0 and 1", BINARISATIONS, usual="dynamic; none for frey-faces")
    limit_train: int | None = option(None, "train on this many items only", usual="all", least=1)
    limit_eval: int | None = option(None, "validate and report on at most this many items", usual="all", least=2)
    # model
    model: str = option("skip-vae", "preset of skip and latent variables", tuple(MODELS))
    decoder: str | None = option(None, "p(x|z)", DECODERS, usual="pixelcnn for images, else mlp")
    layers: int | None = option(None, "layers of the decoder", usual="pixelcnn 9, mlp 4, convolutional 3", least=1)
    width: int = option(512, "units in each hidden layer of an MLP decoder", least=1)
    maps: int = option(32, "feature maps of a PixelCNN or convolutional decoder", least=1)
    kernel: int = option(3, "kernel size of a PixelCNN decoder, odd", least=1)
    skip: str = option("all", "where z enters again", (*SKIPS, "1,3,output"))
    latent_dim: int = option(50, "dimensions of z", least=0)
    encoder: str | None = option(None, "network of q(z|x)", ENCODERS, usual="mlp for an mlp decoder, else resnet")
    likelihood: str | None = option(None, "family of p(x|z)", LIKELIHOODS, usual="bernoulli; normal for grey or real values")
    prior: str = option("standard-normal", "p(z)", PRIORS)
    components: int = option(10, "components of a mixture prior, pseudo-inputs of a VampPrior", least=1)
    guide: str = option("diagonal-normal", "family of q(z|x)", GUIDES)
    # inference
    objective: str = option("elbo", "what is maximised", ("elbo", "analytic-elbo", "iwae(K)"))
    epochs: int = option(50, "passes over the training data", least=0)
    batch_size: int = option(64, "datapoints in a step", least=1)
    lr: float = option(1e-3, "Adam's learning rate", least=0.0)
    lr_schedule: str = option("cosine", "course of the learning rate over the run", LR_SCHEDULES)
    max_norm: float = option(5.0, "norm to which the whole gradient is clipped", least=0.0)
    beta: float = option(1.0, "final weight of the KL term", least=0.0)
    beta_schedule: str | None = option(None, "course of the KL weight", SCHEDULES, usual="linear for a pixelcnn, else constant")
    beta_start: float = option(0.1, "where a linear or cyclical schedule starts", least=0.0)
    warmup_epochs: float | None = option(
        None, "epochs until a linear or cyclical schedule ends", usual="a third of the run, at most 20", least=0.0
    )
    cycles: int = option(4, "cycles of a cyclical schedule", least=1)
    seed: int = option(0, "seed of initialisation, data order and all draws", least=0, below=2**32)

    def __post_init__(self):
        for entry in fields(self):
            _check(entry, getattr(self, entry.name))
        if self.dataset not in DATASETS and not self.dataset.endswith(".npz"):
            raise ConfigError(_unknown("dataset", self.dataset, DATASETS, " or a path to a .npz file"))
        if self.beta == 0 or self.beta_start == 0 or self.lr == 0 or self.max_norm == 0:
            zero = next(name for name in ("beta", "beta_start", "lr", "max_norm") if getattr(self, name) == 0)
            raise ConfigError(f"expected {_flag(zero)} above 0, got 0")
        if self.kernel % 2 == 0:
            raise ConfigError(f"expected --kernel odd, got {self.kernel}")
        self.particles  # noqa: B018  raises for a malformed objective
        self._check_skip()
        self._check_model()

    def _check_skip(self):
        named = SKIPS
        if self.skip not in named and not re.fullmatch(r"(\d+|output)(,(\d+|output))*", self.skip):
            raise ConfigError(_unknown("skip", self.skip, named, " or entries like 1,3,output"))

    def _check_model(self):
        for name, value in MODELS[self.model].items():
            got = getattr(self, name)
            control = (self.model, got) == ("vae", "parameter-matched")
            if got not in (None, value) and not control:
                raise ConfigError(f"expected {_flag(name)} {value} with --model {self.model}, got {_flag(name)} {got}")
        if self.model == "skip-vae" and self.skip in ("none", "parameter-matched"):
            raise ConfigError(f"expected --skip with entries with --model skip-vae, got --skip {self.skip}; use --model vae")
        if self.latent_dim == 0 and self.model != "autoregressive":
            raise ConfigError("expected --latent-dim of at least 1, got 0; use --model autoregressive for a model without z")

    @property
    def particles(self):
        """K of iwae(K); 1 for the other objectives."""
        match = re.fullmatch(r"iwae(?:\((\d{1,9})\))?", self.objective)
        if match is None and self.objective not in OBJECTIVES:
            raise ConfigError(_unknown("objective", self.objective, ("elbo", "analytic-elbo", "iwae(5)")))
        particles = int(match[1] or 5) if match else 1
        if particles < 1:
            raise ConfigError(f"expected --objective iwae(K) with K of at least 1, got {self.objective}")
        return particles

    @classmethod
    def from_flags(cls, flags):
        """The config of the flags given: defaults < what the model presets < flags. `--skip none` alone means a VAE."""
        check_names(flags)
        inferred = "vae" if flags.get("skip") in ("none", "parameter-matched") else "skip-vae"
        model = flags.get("model", inferred)
        if not isinstance(model, str) or model not in MODELS:
            raise ConfigError(_unknown("model", model, MODELS))
        return cls(**{**MODELS[model], "model": model, **flags})

    @classmethod
    def from_toml(cls, text):
        """The config that `to_toml` wrote; a misspelt key fails by name."""
        return cls.from_flags(tomllib.loads(text))

    def to_toml(self):
        """One line for each setting that is not None."""
        return "".join(f"{name} = {_toml(value)}\n" for name, value in asdict(self).items() if value is not None)


def check_names(names, where=""):
    """Raise ConfigError if a name is not that of a setting."""
    known = [entry.name for entry in fields(Config)]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ConfigError(_unknown(f"setting{where}", unknown[0], known))


def _check(entry, value):
    meta, flag, kinds = entry.metadata, _flag(entry.name), get_args(entry.type) or (entry.type,)
    if value is None and NoneType in kinds:
        return
    kind = (int, float) if float in kinds else kinds[0]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ConfigError(f"expected {flag} to be {_kind_name(kind)}, got {value!r}")
    if meta["choices"] and entry.name not in OPEN and value not in meta["choices"]:
        raise ConfigError(_unknown(flag.removeprefix("--"), value, meta["choices"]))
    if meta["least"] is not None and not meta["least"] <= value < (meta["below"] or float("inf")):
        raise ConfigError(f"expected {flag} of at least {meta['least']} and finite, got {value}")


def _kind_name(kind):
    return {int: "a whole number", str: "a name"}.get(kind, "a number")


def _flag(name):
    return "--" + name.replace("_", "-")


def _unknown(what, got, names, rest=""):
    near = difflib.get_close_matches(str(got), list(names), 1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown {what} {got!r}: expected {', '.join(names)}{rest}{hint}"


def _toml(value):
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's strings are JSON's, but for DEL
    return repr(value)
