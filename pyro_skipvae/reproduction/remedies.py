"""Remedies against collapse: what each changes of a plain VAE, how they go together, and the runs of a comparison.

A remedy is a line of `REMEDIES`: a function that gives the settings in which it differs from the plain VAE, perhaps of a
number, as in free-bits(4). Names joined by + are taken together, as in skip+delta.
"""

import difflib
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyro_skipvae.runs.config import ConfigError, is_path

from .tables import Planned, Table

PLAIN = {"skip": "none", "beta_schedule": "constant"}  # a VAE without any remedy; autoregressive decoders anneal by default
BASE = "vae"  # what all others are compared with
OWN = ("latent_dim", "decoder")  # settings that a remedy has of its own, whatever all others are given
DELTA_CHANNELS = 8  # of each step of a sequence z
CODES = 16  # of each datapoint, out of one codebook
COLUMNS = ("elbo", "log_likelihood", "kl", "mi_lower", "au", "shuffled_latent_loss")


@dataclass(frozen=True)
class Remedy:
    """`settings`, of a number or of nothing, are what it changes; `part` says where, `what` how; then its reference."""

    settings: Callable[..., dict]
    part: str
    what: str
    reference: str

    @property
    def takes_number(self):
        """Whether its name may be followed by a number in brackets."""
        return bool(inspect.signature(self.settings).parameters)


def _given(**settings):
    """The settings that are not None."""
    return {name: value for name, value in settings.items() if value is not None}


REMEDIES = {
    BASE: Remedy(dict, "nothing", "the plain VAE, without annealing", "Kingma and Welling 2014"),
    "skip": Remedy(lambda: {"skip": "all"}, "decoder", "z enters every layer again", "Dieng et al. 2019"),
    "matched": Remedy(
        lambda: {"skip": "parameter-matched"}, "decoder", "no skips, but as many parameters as with them", "a control"
    ),
    "identifiable": Remedy(
        lambda: {"decoder": "identifiable-mlp"}, "decoder", "an MLP in which no two z give the same p(x|z)", "Wang et al. 2021"
    ),
    "word-dropout": Remedy(
        lambda part=0.25: {"word_dropout": part}, "decoder", "a part of the words it reads become unknown", "Bowman et al. 2016"
    ),
    "receptive-field": Remedy(
        lambda pixels=2: {"receptive_field": pixels},
        *("decoder", "a PixelCNN sees its nearest pixels alone", "Gulrajani et al. 2017; Chen et al. 2017"),
    ),
    "mixture": Remedy(
        lambda components=10: {"prior": "mixture-of-normals", "components": components},
        *("prior", "a learned mixture of normals", "Dilokthanakul et al. 2016"),
    ),
    "vamp": Remedy(
        lambda components=100: {"prior": "vamp", "components": components},
        *("prior", "a mixture of posteriors of learned inputs", "Tomczak and Welling 2018"),
    ),
    "flow": Remedy(lambda: {"prior": "normalizing-flow"}, "prior", "a learned normalizing flow", "Chen et al. 2017"),
    "delta": Remedy(
        lambda nats=10: {"prior": "ar1", "rate": nats, "latent_dim": DELTA_CHANNELS},
        *("prior", "AR(1) over a sequence z: a committed rate", "Razavi et al. 2019"),
    ),
    "full-covariance": Remedy(
        lambda: {"guide": "full-covariance-normal"}, "posterior", "a normal with a full covariance", "Kingma and Welling 2019"
    ),
    "planar": Remedy(lambda: {"guide": "planar-flow"}, "posterior", "a planar flow", "Rezende and Mohamed 2015"),
    "iaf": Remedy(
        lambda: {"guide": "inverse-autoregressive-flow"}, "posterior", "an inverse autoregressive flow", "Kingma et al. 2016"
    ),
    "vmf": Remedy(
        lambda nats=None: {"prior": "uniform-sphere", "guide": "von-mises-fisher"} | _given(rate=nats),
        *("posterior", "von Mises-Fisher, and a uniform prior on the sphere", "Davidson et al. 2018; Xu and Durrett 2018"),
    ),
    "bn": Remedy(
        lambda nats=10: {"guide": "batch-normalised", "rate": nats},
        *("posterior", "means normalised over the batch", "Zhu et al. 2020"),
    ),
    "minimum-rate": Remedy(
        lambda nats=10: {"guide": "minimum-rate", "rate": nats},
        *("posterior", "each dimension has a least rate", "Razavi et al. 2019"),
    ),
    "laplace": Remedy(
        lambda: {"guide": "variational-laplace"},
        *("posterior", "a normal at the mode of the posterior, with the curvature there", "Park et al. 2019"),
    ),
    "categorical": Remedy(
        lambda: {"guide": "categorical"}, "posterior", "categorical variables in place of real ones", "Jang et al. 2017"
    ),
    "di-vae": Remedy(
        lambda: {"guide": "categorical", "objective": "batch-prior"},
        *("posterior", "the same, held to the prior over a batch alone", "Zhao et al. 2018"),
    ),
    "codebook": Remedy(
        lambda codes=CODES: {"guide": "codebook", "latent_dim": codes},
        *("posterior", "the nearest codes of a codebook: a fixed rate", "van den Oord et al. 2017"),
    ),
    "sa": Remedy(lambda: {"inference": "sa"}, "inference", "q(z|x) refined by gradient steps", "Kim et al. 2018"),
    "lagging": Remedy(
        lambda: {"procedure": "lagging"},
        *("procedure", "the encoder is trained to its end before each step of the decoder", "He et al. 2019"),
    ),
    "hmc": Remedy(
        lambda moves=3: {"procedure": f"hmc({moves})"},
        *("procedure", "the decoder learns of draws that Hamiltonian Monte Carlo has moved", "Hoffman 2017"),
    ),
    "pretrain": Remedy(
        lambda epochs=None: {"procedure": "pretrain" if epochs is None else f"pretrain({epochs})"},
        *("procedure", "first an autoencoder, whose decoder then starts anew", "Li et al. 2019"),
    ),
    "aae": Remedy(
        lambda weight=10: {"procedure": f"adversarial-autoencoder({weight:g})"},
        *("procedure", "a critic holds the aggregated posterior to the prior", "Makhzani et al. 2016"),
    ),
    "avb": Remedy(
        lambda: {"procedure": "adversarial-variational-bayes", "guide": "semi-implicit"},
        *("procedure", "a critic estimates the KL term of a posterior without a density", "Mescheder et al. 2017"),
    ),
    "anneal": Remedy(
        lambda epochs=None: {"beta_schedule": "linear"} | _given(warmup_epochs=epochs),
        *("objective", "the weight of the KL term rises to 1", "Bowman et al. 2016"),
    ),
    "cyclic": Remedy(
        lambda cycles=4: {"beta_schedule": "cyclical", "cycles": cycles},
        *("objective", "the weight of the KL term rises several times", "Fu et al. 2019"),
    ),
    "beta": Remedy(
        lambda weight=0.4: {"beta": weight}, "objective", "the KL term counts less", "Higgins et al. 2017; Alemi et al. 2018"
    ),
    "free-bits": Remedy(
        lambda nats=8: {"objective": f"free-bits-total({nats:g})"},
        *("objective", "each datapoint has nats that cost the same, used or not", "Kingma et al. 2016"),
    ),
    "free-bits-each": Remedy(
        lambda nats=0.25: {"objective": f"free-bits-per-dimension({nats:g})"},
        *("objective", "the same, for each dimension of each datapoint", "Li et al. 2019"),
    ),
    "control": Remedy(
        lambda nats=10: {"beta_schedule": f"control({nats:g})"},
        *("objective", "the weight of the KL term is controlled so that the rate comes to a target", "Shao et al. 2020"),
    ),
    "target-rate": Remedy(
        lambda nats=10: {"objective": f"target-rate({nats:g})"},
        *("objective", "the distance of the rate from a target takes its place", "Alemi et al. 2018"),
    ),
    "kl-balancing": Remedy(
        lambda: {"objective": "kl-balancing", "beta_schedule": "linear"},
        *("objective", "annealing, by which dimensions with a high rate pay first", "Vahdat and Kautz 2020"),
    ),
    "mmd": Remedy(
        lambda weight=10: {"objective": f"mmd({weight:g})"},
        *("objective", "only the aggregated posterior is held to the prior", "Zhao et al. 2019"),
    ),
    "bag-of-words": Remedy(
        lambda weight=1: {"objective": f"bag-of-words({weight:g})"},
        *("objective", "z has to tell the words, too, whatever their order", "Zhao et al. 2017"),
    ),
    "mutual-divergence": Remedy(
        lambda weight=1: {"objective": f"mutual-divergence({weight:g})"},
        *("objective", "the posteriors of a batch are to differ", "Ma et al. 2019"),
    ),
    "autoencoder": Remedy(
        lambda: {"objective": "autoencoder"}, "objective", "no KL term at all: what is lost without one", "Dieng et al. 2019"
    ),
    "iwae": Remedy(
        lambda particles=5: {"objective": f"iwae({particles})"},
        *("objective", "a tighter bound by several z", "Burda et al. 2016"),
    ),
}  # fmt: skip


def settings_of(name):
    """The settings in which a remedy, or several joined by +, differ from the plain VAE.

    Raises ConfigError for an unknown one, for a number where none is taken, and for two that set the same thing.
    """
    found, owner = {}, {}
    for part in name.split("+"):
        for setting, value in _settings(part).items():
            if setting in owner:
                flag = f"--{setting.replace('_', '-')}"
                raise ConfigError(f"expected remedies that go together, got {owner[setting]} and {part}: both set {flag}")
            found[setting], owner[setting] = value, part
    return found


def _settings(part):
    match = re.fullmatch(r"([a-z-]+)(?:\((\d{1,9}(?:\.\d{1,9})?)\))?", part)
    name, number = match.groups() if match else (part, None)
    if name not in REMEDIES:
        near = difflib.get_close_matches(name, REMEDIES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"unknown remedy {part!r}: expected {', '.join(REMEDIES)}, or some joined by +{hint}")
    if number is None:
        return REMEDIES[name].settings()
    if not REMEDIES[name].takes_number:
        raise ConfigError(f"expected no number for the remedy {name}, got {part}")
    return REMEDIES[name].settings(float(number) if "." in number else int(number))


def remedies_of(text):
    """The remedies that a list names, the plain VAE first, whether it is named or not. Raises ConfigError as `settings_of`."""
    names = [BASE, *dict.fromkeys(name.strip() for name in text.split(",") if name.strip() != BASE)]
    for name in names:
        settings_of(name)
    return names


def comparison_of(names, *, seeds, **flags):
    """The runs of a comparison as a `Table`: remedies by `seeds` seeds, all of a seed before the next; `flags` are for all.

    Raises ConfigError where the flags and a remedy contradict each other.
    """
    dataset = str(flags.get("dataset", "digits"))
    if is_path(dataset):  # as the runs have it in their settings
        flags["dataset"] = str(Path(os.path.expanduser(dataset)).absolute())
    runs = [Planned(dataset, name, _flags(name, flags), seed) for seed in range(seeds) for name in names]
    for run in runs[: len(names)]:
        _checked(run)
    published = {(dataset, name): {} for name in names}
    return Table(f"remedies-{_stem(dataset)}", f"Remedies on {dataset}", list(COLUMNS), published, runs)


def _flags(name, given):
    own = settings_of(name)
    for setting in given:
        if setting == "model" or setting == "skip" or setting in own and setting not in OWN:
            flag = f"--{setting.replace('_', '-')}"
            by = "" if setting in ("model", "skip") else f", as {name} does"
            raise ConfigError(f"expected no {flag} beside --remedies, which set it{by}")
    return {**PLAIN, **given, **own}


def _checked(run):
    try:
        return run.config
    except ConfigError as error:
        raise ConfigError(f"{run.arm}: {error}") from None


def _stem(dataset):
    words = re.sub(r"[^a-z0-9]+", "-", dataset.lower().rsplit("/", 1)[-1]).strip("-")
    return words or "data"
