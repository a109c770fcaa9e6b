"""Config: one flat frozen record of a run. Imports the standard library only, so that `--help` stays instant."""

import difflib
import json
import os
import re
import tomllib
from dataclasses import asdict, dataclass, field, fields
from types import NoneType
from typing import get_args

from .correlations import correlation_range

IMAGES = ("digits", "mnist", "fashion-mnist", "kmnist", "omniglot", "omniglot-burda", "frey-faces", "cifar10", "mnist-static")
COUNTS = ("newsgroups20", "synthetic-ratings")
TEXTS = ("pydoc", "synthetic-text", "ptb", "yahoo", "yahoo-small", "lm1b", "short-yelp", "brown")
DATASETS = (*IMAGES, *COUNTS, *TEXTS)
TEXT_FILES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")  # of a user's own texts; every other path is read as numbers
# A model is a preset of other settings; a flag that contradicts it is refused.
MODELS = {
    "skip-vae": {},
    "vae": {"skip": "none"},
    "skip-sa-vae": {"inference": "sa"},
    "sa-vae": {"skip": "none", "inference": "sa"},
    "skip-delta-vae": {"prior": "ar1"},
    "delta-vae": {"skip": "none", "prior": "ar1"},
    "autoregressive": {"skip": "none", "latent_dim": 0},
    "lm": {"skip": "none", "latent_dim": 0},
}
WITHOUT_LATENTS = ("autoregressive", "lm")
PRESETS = ("text-small",)
DECODERS = ("pixelcnn", "mlp", "identifiable-mlp", "convolutional", "lstm", "dilated-cnn", "transformer")
INJECTIVE = "identifiable-mlp"  # a decoder that skips would make another one
TEXT_DECODERS = ("lstm", "dilated-cnn", "transformer")
ENCODERS = ("resnet", "pixelcnn", "mlp", "lstm", "transformer")
TEXT_ENCODERS = ("lstm", "transformer")
INFERENCES = ("amortized", "svi", "vae+svi", "vae+svi+kl", "sa")
GRADIENTS = ("exact", "exact-rebuilt", "finite-difference", "first-order", "authors")
INITIALISATIONS = ("torch", "he", "data-dependent")
OPTIMIZERS = ("adam", "sgd")
LIKELIHOODS = (
    *("bernoulli", "categorical", "colour-logistics", "discretised-logistic"),
    *("multinomial", "normal", "normal-shared-scale", "poisson"),
)
SCALINGS = ("none", "standard", "log")
BINARISATIONS = ("dynamic", "static", "threshold", "none")
PRIORS = ("standard-normal", "mixture-of-normals", "vamp", "ar1", "uniform-sphere", "normalizing-flow", "uniform-categorical")
SEQUENCE = ("rate", "correlation", "chunk", "encoder_direction")  # settings of a sequence z, which an AR(1) prior is of
DIRECTIONS = ("anti-causal", "causal", "full")
RATED = ("minimum-rate", "von-mises-fisher", "batch-normalised")  # guides that take a rate
CODES = ("categorical", "codebook")  # guides of discrete z
PRIOR_OF = {  # guides that go with one prior alone
    "minimum-rate": "standard-normal",
    "von-mises-fisher": "uniform-sphere",
    "batch-normalised": "standard-normal",
    **dict.fromkeys(CODES, "uniform-categorical"),
    "variational-laplace": "standard-normal",
}
GUIDE_OF = {"uniform-sphere": ("von-mises-fisher",), "uniform-categorical": CODES}  # priors that go with these guides alone
FLOWS = ("inverse-autoregressive-flow", "planar-flow")  # guides without local parameters
IMPLICIT = "semi-implicit"  # nor has this one
GUIDES = ("diagonal-normal", "full-covariance-normal", *FLOWS, IMPLICIT, *PRIOR_OF)
MOVED = ("diagonal-normal", "full-covariance-normal")  # guides whose draws may be moved: they have scales, and commit no rate
GUIDES_SET = {  # what a discrete z needs besides its guide
    "categorical": {"prior": "uniform-categorical", "objective": "analytic-elbo"},
    "codebook": {"prior": "uniform-categorical"},
}
OF_CODES = {"categorical": ("batch-prior", "bag-of-words"), "codebook": ()}  # further objectives
FREE_BITS = ("free-bits-per-group", "free-bits-per-dimension", "free-bits-total")
NUMBERS = {  # objective -> the numbers in its brackets: what each is where it is left out, or None
    **{"elbo": (), "analytic-elbo": (), "iwae": (5,)},
    **dict.fromkeys(FREE_BITS, (None,)),
    **{"kl-balancing": (), "kl-balancing-prior": (0.8,), "mmd": (10.0, 1.0), "target-rate": (None,), "autoencoder": ()},
    **{"batch-prior": (), "bag-of-words": (1.0,), "mutual-divergence": (1.0, 0.0)},
}
OBJECTIVES = tuple(NUMBERS)
WRITTEN = (
    *("elbo", "analytic-elbo", "iwae(K)", *(f"{name}(NATS)" for name in FREE_BITS)),
    *("kl-balancing", "kl-balancing-prior(SHARE)", "mmd(WEIGHT)", "mmd(WEIGHT,ALPHA)", "target-rate(NATS)", "autoencoder"),
    *("batch-prior", "bag-of-words(WEIGHT)", "mutual-divergence(DIVERSITY)", "mutual-divergence(DIVERSITY,SMOOTHNESS)"),
)
BOUNDS = ("elbo", "analytic-elbo")  # linear in beta, and in every form of inference
PER_DIMENSION = (*FREE_BITS, "kl-balancing")  # need a KL for each dimension in closed form: these guides with these priors
INDEPENDENT = ("diagonal-normal", "minimum-rate", "batch-normalised"), ("standard-normal", "ar1")
LEARNED = ("mixture-of-normals", "vamp", "normalizing-flow")  # priors with parameters
ADVERSARIAL = ("adversarial-autoencoder", "adversarial-variational-bayes")
PROCEDURES = (
    *("joint", "lagging", "hmc(MOVES)", "pretrain(EPOCHS)"),
    *("adversarial-autoencoder(WEIGHT)", "adversarial-variational-bayes"),
)
SKIPS = ("all", "none", "first", "last", "parameter-matched")
SCHEDULES = ("constant", "linear", "cyclical", "control(NATS)")
WHOLE, NUMBER = r"[0-9]{1,9}", r"[0-9]{1,9}(?:\.[0-9]{1,9})?"  # in the brackets of a name
LARGEST = 2**31  # of whole numbers; sizes beyond it do not fit into any memory
PRECISIONS = ("float32", "bf16")
MATMULS = ("highest", "medium")
LR_SCHEDULES = ("cosine", "constant", "halving")


OPEN = ("dataset", "skip", "objective", "beta_schedule", "procedure")  # these take more than the names listed for them


class ConfigError(ValueError):
    """A setting is wrong or does not go with the others or the data."""


def option(default, help, choices=None, *, usual=None, least=None, below=None):
    """A field with what the command line says of it; `usual` says what None becomes; `least` <= value < `below`."""
    about = {"help": help, "choices": choices, "usual": usual, "least": least, "below": below}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Config:
    """All settings of a run, those of `skipvae-pyro train` by the same names; `skipvae-pyro train --help` explains each.

    None means chosen from the data and the decoder, by `resolve`. Raises ConfigError for an unknown name, a number out of
    range, and settings that contradict each other.
    """

    # data
    dataset: str = option("digits", "what to train on, or the path of your own data", (*DATASETS, "FILE", "FOLDER"))
    data_dir: str | None = option(None, "folder to look in first", usual="$SKIPVAE_DATA, then ~/.cache/pyro-skipvae")
    download: str = option("auto", "whether to fetch data that are not found", ("auto", "never"))
    binarisation: str | None = option(
        None, "how grey becomes 0 and 1", BINARISATIONS, usual="dynamic; none for frey-faces and cifar10"
    )
    max_words: int | None = option(
        None, "leave out sentences with more words", usual="200; longer lines of a file of your own are refused", least=1
    )
    vocabulary_size: int | None = option(
        None,
        "words to keep, the most frequent ones, four marks included",
        usual="20001, pydoc 1501, ptb all; in a file of your own, without the words that occur once",
        least=5,
    )
    limit_train: int | None = option(None, "train on this many items only", usual="all", least=1)
    limit_eval: int | None = option(None, "validate and report on at most this many items", usual="all", least=2)
    # model
    model: str = option("skip-vae", "preset of skip and latent variables", tuple(MODELS))
    decoder: str | None = option(None, "p(x|z)", DECODERS, usual="pixelcnn for images, lstm for text, else mlp")
    layers: int | None = option(
        None,
        "layers of the decoder",
        usual="pixelcnn 9, mlp 4, identifiable-mlp 2, convolutional 3, lstm 1, dilated-cnn 10, transformer 4",
        least=1,
    )
    width: int | None = option(
        None, "units in each hidden layer of an MLP decoder or of a text model", usual="512; lstm and dilated-cnn 1024", least=1
    )
    embedding: int = option(512, "dimensions of a word", least=1)
    attention_layers: int = option(0, "blocks of masked self-attention in a PixelCNN decoder", least=0)
    heads: int = option(8, "attention heads of a transformer, or of a PixelCNN's attention", least=1)
    dropout: float | None = option(
        None, "dropout of a text decoder, on words and before the output", usual="0.5; transformer 0.1", least=0.0, below=1.0
    )
    word_dropout: float = option(0.0, "share of the input words of a text decoder that become unknown", least=0.0, below=1.0)
    maps: int = option(32, "feature maps of a PixelCNN or convolutional decoder", least=1)
    kernel: int = option(3, "kernel size of a PixelCNN decoder, odd", least=1)
    receptive_field: int | None = option(
        None,
        "rows above and columns aside that a pixel of a PixelCNN decoder sees; the rest has to come through z",
        usual="1 + layers * (kernel // 2)",
        least=1,
    )
    skip: str = option("all", "layers of the decoder that z enters by skips", (*SKIPS, "1,3,output"))
    latent_dim: int | None = option(
        None,
        "dimensions of z; of each step with prior ar1; variables of guide categorical, codes of guide codebook",
        usual="50; text 32; ar1 8; codebook 16",
        least=0,
    )
    classes: int | None = option(
        None, "classes of each discrete variable, codes in a codebook", usual="categorical 10, codebook 128", least=2
    )
    encoder: str | None = option(
        None,
        "network of q(z|x)",
        ENCODERS,
        usual="for text lstm, with a transformer decoder transformer; mlp for an mlp decoder or images below 8x8, else resnet; "
        "with prior ar1 lstm for text, else mlp for an mlp decoder, pixelcnn for the others",
    )
    encoder_width: int | None = option(None, "units in each of the two hidden layers of an MLP encoder", usual="512", least=1)
    likelihood: str | None = option(
        None,
        "family of p(x|z)",
        LIKELIHOODS,
        usual="bernoulli; normal-shared-scale for grey or real values, colour-logistics for a pixelcnn of colours, "
        "poisson for counts, categorical for text",
    )
    scaling: str | None = option(
        None,
        "units in which the networks see values: those of the file, standard deviations, or those of log(1 + x)",
        SCALINGS,
        usual="standard for grey and real values, log for counts, else none",
    )
    initialisation: str = option("torch", "initialisation of the weights; text models have their own", INITIALISATIONS)
    prior: str = option("standard-normal", "p(z)", PRIORS)
    rate: float | None = option(
        None,
        "nats that prior ar1 or guide minimum-rate commit as the lowest rate, that guide von-mises-fisher has as its rate, or "
        "that guide batch-normalised commits for the mean of a training batch",
        usual="10; von-mises-fisher learns its concentration",
        least=0.0,
        below=10**6,
    )
    correlation: str | None = option(
        None, "correlation of neighbouring steps of prior ar1: a number, or LOW:HIGH over the channels", usual="by the rate"
    )
    chunk: int | None = option(
        None, "rows of an image, or words of a text at most, for each step of prior ar1", usual="1; for text 8", least=1
    )
    encoder_direction: str | None = option(
        None,
        "what a step of z depends on with prior ar1: its rows (and 5 more) or words and those after, those before, or both",
        DIRECTIONS,
        usual="anti-causal; full for encoders that see all at once",
    )
    components: int = option(10, "components of a mixture prior, pseudo-inputs of a VampPrior", least=1)
    guide: str = option("diagonal-normal", "family of q(z|x)", GUIDES)
    # inference
    objective: str = option("elbo", "what is trained, in place of the ELBO", WRITTEN)
    procedure: str = option(
        "joint",
        "how encoder and decoder are trained: together (joint); at first the encoder to convergence before each step of the "
        "decoder (lagging); the decoder on z moved by Hamiltonian Monte Carlo (hmc); first as an autoencoder, then with a new "
        "decoder (pretrain); or against a critic in place of the KL term (adversarial)",
        PROCEDURES,
    )
    inference: str = option("amortized", "how q(z|x) is found: by the encoder, or refined by SVI steps", INFERENCES)
    svi_steps: int = option(10, "steps of a refinement", least=0)
    svi_lr: float | None = option(
        None, "step size of a refinement, per datapoint", usual="1/32; with gradient authors 1.0, per batch", least=0.0
    )
    svi_momentum: float = option(0.5, "momentum of a refinement", least=0.0, below=1.0)
    svi_gradient: str = option("exact", "gradient through a refinement", GRADIENTS)
    epochs: int = option(50, "passes over the training data", least=0)
    batch_size: int = option(64, "datapoints in a step", least=1)
    optimizer: str = option("adam", "optimizer", OPTIMIZERS)
    lr: float | None = option(None, "learning rate", usual="adam 0.001, sgd 1.0", least=0.0)
    lr_schedule: str = option("cosine", "course of the learning rate over the run", LR_SCHEDULES)
    halving_epoch: int = option(15, "first epoch whose validation may start the halving of the learning rate", least=0)
    patience: int | None = option(
        None, "stop after this many epochs without a better validation, once beta is final", usual="never stop early", least=1
    )
    max_norm: float = option(5.0, "norm to which the whole gradient is clipped", least=0.0)
    beta: float = option(1.0, "final weight of the KL term", least=0.0)
    beta_schedule: str | None = option(
        None,
        "course of the KL weight; control(NATS) holds the rate at NATS (ControlVAE)",
        SCHEDULES,
        usual="linear for a pixelcnn, text, pretraining or kl-balancing, else, or without a free rate, constant",
    )
    beta_start: float = option(0.1, "where a linear or cyclical schedule starts", least=0.0)
    warmup_epochs: float | None = option(
        None,
        "epochs until a linear or cyclical schedule ends",
        usual="a third of the run, at most 20; for text half of it, at most 10",
        least=0.0,
    )
    cycles: int = option(4, "cycles of a cyclical schedule", least=1)
    compile: bool = option(False, "compile the training step, into one graph for each size of batch")
    precision: str = option("float32", "precision of the networks in training; reports use float32", PRECISIONS)
    matmul: str = option("highest", "torch's float32 matrix products in training; doctor says what medium brings", MATMULS)
    seed: int = option(0, "seed of initialisation, data order and all draws", least=0, below=2**32)

    def __post_init__(self):
        for entry in fields(self):
            _check(entry, getattr(self, entry.name))
        if self.dataset not in DATASETS and not is_path(self.dataset):
            raise ConfigError(_unknown("dataset", self.dataset, DATASETS, " or the path of a file or folder"))
        for name in ("beta", "beta_start", "lr", "max_norm", "svi_lr", "rate"):
            if getattr(self, name) == 0:
                raise ConfigError(f"expected {_flag(name)} above 0, got 0")
        if self.kernel % 2 == 0:
            raise ConfigError(f"expected --kernel odd, got {self.kernel}")
        self._check_objective()
        self._check_skip()
        self._check_model()
        self._check_sequence()

    def _check_skip(self):
        named = SKIPS
        if self.skip not in named and not re.fullmatch(r"([0-9]+|output)(,([0-9]+|output))*", self.skip):
            raise ConfigError(_unknown("skip", self.skip, named, " or entries like 1,3,output"))

        if self.decoder == INJECTIVE and self.skip != "none":
            raise ConfigError(f"expected --skip none (--model vae) for --decoder {INJECTIVE}, got --skip {self.skip}")

    def _check_model(self):
        for name, value in MODELS[self.model].items():
            got = getattr(self, name)
            control = name == "skip" and got == "parameter-matched" and self.model in ("vae", "sa-vae", "delta-vae")
            if got not in (None, value) and not control:
                raise ConfigError(f"expected {_flag(name)} {value} with --model {self.model}, got {_flag(name)} {got}")
        if self.model.startswith("skip-") and self.skip in ("none", "parameter-matched"):
            plain = self.model.removeprefix("skip-")
            raise ConfigError(
                f"expected --skip with entries with --model {self.model}, got --skip {self.skip}; use --model {plain}"
            )
        if self.inference == "sa" and not any(name in self.model for name in ("sa-vae", "delta-vae")):
            named = "skip-sa-vae" if self.model == "skip-vae" else "sa-vae"
            raise ConfigError(f"expected --inference other than sa with --model {self.model}; use --model {named}")
        if self.latent_dim == 0 and self.model not in WITHOUT_LATENTS:
            raise ConfigError("expected --latent-dim of at least 1, got 0; use --model autoregressive for a model without z")
        if self.inference != "amortized" and self.guide == IMPLICIT:
            raise ConfigError(
                f"expected --inference amortized for --guide {IMPLICIT}, which has no local parameters to refine, got "
                f"--inference {self.inference}"
            )
        if self.inference != "sa" and self.svi_gradient != "exact":
            raise ConfigError(
                f"expected --svi-gradient with semi-amortized models only, got it with --inference {self.inference}"
            )
        if self.inference != "amortized" and self.precision != "float32":
            raise ConfigError(f"expected --precision float32 with --inference {self.inference}, got {self.precision}")
        if self.inference != "amortized" and self.bound not in BOUNDS:
            raise ConfigError(f"expected --objective elbo with --inference {self.inference}, got {self.objective}")

    def _check_sequence(self):
        given = [name for name in SEQUENCE if getattr(self, name) is not None]
        if self.guide in PRIOR_OF:
            given = [name for name in given if name != "rate" or self.guide not in RATED]
            for name, wanted in {"prior": PRIOR_OF[self.guide], "inference": "amortized"}.items():
                if getattr(self, name) != wanted:
                    got = f"{_flag(name)} {getattr(self, name)}"
                    raise ConfigError(f"expected {_flag(name)} {wanted} for --guide {self.guide}, got {got}")
        elif self.prior in GUIDE_OF:
            wanted = " or ".join(GUIDE_OF[self.prior])
            raise ConfigError(f"expected --guide {wanted} for --prior {self.prior}, got --guide {self.guide}")
        self._check_codes()
        self._check_laplace()
        if self.prior != "ar1":
            if given:
                raise ConfigError(f"expected --prior ar1 (--model delta-vae) for {_flag(given[0])}, got --prior {self.prior}")
            return
        if "delta-vae" not in self.model:
            named = "delta-vae" if self.skip in ("none", "parameter-matched") else "skip-delta-vae"
            raise ConfigError(f"expected --prior other than ar1 with --model {self.model}; use --model {named}")
        if self.guide != "diagonal-normal":
            raise ConfigError(
                f"expected --guide diagonal-normal for --prior ar1, got {self.guide}: the prior commits a rate for guides that "
                "are independent over the steps alone"
            )
        if self.rate is not None and self.correlation is not None:
            raise ConfigError("expected --rate or --correlation, since each determines the other, got both")
        if self.correlation is not None:
            try:
                correlation_range(self.correlation)
            except ValueError as error:
                raise ConfigError(str(error)) from None

    def _check_laplace(self):
        if self.guide != "variational-laplace":
            return
        for name, wanted in {"procedure": "joint", "precision": "float32", "compile": False}.items():
            if getattr(self, name) != wanted:
                flag = "no --compile" if name == "compile" else f"{_flag(name)} {wanted}"
                raise ConfigError(f"expected {flag} for --guide {self.guide}, got {_flag(name)} {getattr(self, name)}")

    def _check_codes(self):
        guide = f"--guide {self.guide}"
        if self.guide not in CODES:
            if self.classes is not None:
                raise ConfigError(f"expected --guide {' or '.join(CODES)} for --classes, got {guide}")
            return
        if self.model in WITHOUT_LATENTS:
            raise ConfigError(f"expected a model with latent variables for {guide}, got --model {self.model}")
        wanted = "analytic-elbo" if self.guide == "categorical" else "elbo"
        allowed = (wanted, *OF_CODES[self.guide])
        if self.bound not in allowed:
            raise ConfigError(f"expected --objective {' or '.join(allowed)} for {guide}, got {self.objective}")
        for name in ("beta", "beta_schedule") if self.guide == "codebook" else ():
            if getattr(self, name) not in (None, 1, "constant"):
                raise ConfigError(
                    f"expected no {_flag(name)} for {guide}, whose rate is fixed by --latent-dim and --classes, got "
                    f"{getattr(self, name)}"
                )
        if self.procedure != "joint":
            raise ConfigError(f"expected --procedure joint for {guide}, got {self.procedure}")
        if self.guide == "codebook" and self.compile:
            raise ConfigError(f"expected no --compile for {guide}, whose codebook moves in each step by no gradient")
        if self.initialisation == "data-dependent":
            raise ConfigError(f"expected --initialisation torch or he for {guide}, got {self.initialisation}")

    def _check_fitted_prior(self):
        free = "procedure" if self.is_adversarial else "objective" if self.bound in ("mmd", "autoencoder") else None
        if free and self.prior == "vamp":
            raise ConfigError(
                f"expected --prior other than vamp for {_flag(free)} {getattr(self, free)}, got vamp: its parts are "
                "posteriors, so fitting it to the draws would train the encoder; use --prior mixture-of-normals"
            )

    def _check_objective(self):
        name, numbers, got = self.bound, self.numbers, f"--objective {self.objective}"
        if name == "iwae" and numbers[0] < 1:
            raise ConfigError(f"expected --objective iwae(K) with K of at least 1, got {self.objective}")
        if name == "kl-balancing-prior" and not 0 <= numbers[0] < 1:
            raise ConfigError(f"expected --objective kl-balancing-prior(SHARE) with a SHARE from 0 to below 1, got {got}")
        if name == "mmd" and not (numbers[1] <= 1 and numbers[0] >= 1 - numbers[1]):
            raise ConfigError(
                f"expected --objective mmd(WEIGHT,ALPHA) with ALPHA of at most 1 and WEIGHT of at least 1 - ALPHA, got {got}"
            )
        if name not in BOUNDS and name != "iwae" and self.model in WITHOUT_LATENTS:
            raise ConfigError(f"expected --objective elbo for --model {self.model}, which has no z, got {got}")
        if name in PER_DIMENSION and (self.guide not in INDEPENDENT[0] or self.prior not in INDEPENDENT[1]):
            raise ConfigError(
                f"expected a guide and a prior of independent dimensions for {got}, which needs the KL of each ("
                f"--guide {', '.join(INDEPENDENT[0])}, --prior {', '.join(INDEPENDENT[1])}), got --guide {self.guide} --prior "
                f"{self.prior}; 'target-rate(NATS)' takes any"
            )
        if name == "bag-of-words" and numbers[0] == 0:
            raise ConfigError(f"expected --objective bag-of-words(WEIGHT) with a WEIGHT above 0, got {got}")
        if name == "mutual-divergence" and not any(numbers):
            raise ConfigError(f"expected --objective {WRITTEN[-1]} with one of the two above 0, got {got}")
        if name == "mutual-divergence" and self.guide not in INDEPENDENT[0]:
            wanted = ", ".join(INDEPENDENT[0])
            raise ConfigError(f"expected a guide of independent normals for {got} (--guide {wanted}), got --guide {self.guide}")
        if name == "batch-prior" and self.guide != "categorical":
            raise ConfigError(f"expected --guide categorical for {got}, which is of categorical variables, got {self.guide}")
        if name == "kl-balancing-prior" and self.prior not in LEARNED:
            raise ConfigError(
                f"expected --prior {' or '.join(LEARNED)} for {got}, got --prior {self.prior}, which has nothing to learn: "
                f"with it that is --objective elbo --beta {1 - numbers[0]:g}"
            )
        self._check_control()
        self._check_procedure()
        self._check_fitted_prior()

    def _check_procedure(self):
        got = f"--procedure {self.procedure}"
        if self.procedure not in ("joint", "lagging", ADVERSARIAL[1]) and self.pretraining is None and self.moves is None:
            self.game_weight  # noqa: B018  raises for what is no procedure at all
        if self.is_adversarial and (self.objective != "elbo" or self.rate_target is not None):
            raise ConfigError(
                f"expected --objective elbo without a control of the rate for {got}, whose critic stands for the KL term, got "
                f"--objective {self.objective}" + f" --beta-schedule {self.beta_schedule}" * (self.rate_target is not None)
            )
        if self.is_adversarial and self.inference != "amortized":
            raise ConfigError(f"expected --inference amortized for {got}, got {self.inference}, which refines by the ELBO")
        if self.procedure != "joint" and self.model in WITHOUT_LATENTS:
            raise ConfigError(f"expected --procedure joint for --model {self.model}, which has no encoder, got {got}")
        if self.procedure == "lagging" and self.inference != "amortized":
            raise ConfigError(
                f"expected --inference amortized for {got}, got {self.inference}: each makes up for a slow encoder"
            )
        if self.procedure == "lagging" and self.guide in FLOWS:
            raise ConfigError(
                f"expected a --guide whose density is known at any z for {got}, which ends by the mutual information, got "
                f"--guide {self.guide}; use --guide full-covariance-normal"
            )
        self._check_moves(got)
        if self.pretraining is not None and self.inference in ("svi", "vae+svi", "vae+svi+kl"):
            raise ConfigError(f"expected --inference amortized for {got}, got {self.inference}, which refines by the ELBO")
        most = max(self.epochs, 2) - 1
        if self.pretraining is not None and not 0 < self.pretraining <= most:
            raise ConfigError(
                f"expected --procedure pretrain(EPOCHS) with from 1 to {most} EPOCHS of the {self.epochs}, got {got}"
            )
        if self.pretraining is not None and self.bound == "autoencoder":
            raise ConfigError(f"expected another objective after {got}, got --objective autoencoder; use 'free-bits-total(8)'")

    def _check_moves(self, got):
        if self.moves is None:
            return
        wanted = {
            "guide": MOVED,
            "objective": BOUNDS,
            "inference": ("amortized",),
            "precision": ("float32",),
            "compile": (False,),
        }
        for name, allowed in wanted.items():
            if getattr(self, name) not in allowed:
                flag = "no --compile" if name == "compile" else f"{_flag(name)} {' or '.join(allowed)}"
                raise ConfigError(f"expected {flag} for {got}, got {_flag(name)} {getattr(self, name)}")
        if self.moves == 0:
            raise ConfigError(f"expected at least 1 of the MOVES of --procedure hmc(MOVES), got {got}")
        if self.rate_target is not None:
            raise ConfigError(
                f"expected no control of the rate for {got}, whose draws have none, got --beta-schedule {self.beta_schedule}"
            )

    def _check_control(self):
        target, got = self.rate_target, f"--beta-schedule {self.beta_schedule}"
        if self.beta_schedule not in (None, *SCHEDULES[:-1]) and target is None:
            raise ConfigError(_unknown("beta-schedule", self.beta_schedule, SCHEDULES))
        if target is not None and self.bound not in BOUNDS:
            raise ConfigError(
                f"expected --objective {' or '.join(BOUNDS)} with {got}, which sets the weight of their rate, got "
                f"--objective {self.objective}"
            )
        if target is not None and self.model in WITHOUT_LATENTS:
            raise ConfigError(f"expected a model with latent variables for {got}, got --model {self.model}")
        wanted = self.numbers[0] if self.bound == "target-rate" else target
        if target == 0:
            raise ConfigError(f"expected NATS above 0 in --beta-schedule control(NATS), got {got}; use a larger --beta instead")
        if wanted is not None and self.guide == "von-mises-fisher" and self.rate is not None:
            raise ConfigError(f"expected no --rate for a target of {wanted:g} nats, got {self.rate:g}, which fixes the rate")

    @property
    def bound(self):
        """The name of the objective, without the numbers in its brackets."""
        return self.objective.partition("(")[0]

    @property
    def numbers(self):
        """The numbers in the brackets of the objective, those left out as they usually are. Raises ConfigError for others."""
        match = re.fullmatch(rf"([a-z-]+)(?:\(({NUMBER}(?:,-?{NUMBER})*)\))?", self.objective)
        usual = NUMBERS.get(match[1]) if match else None
        given = match[2].split(",") if match and match[2] else []
        if usual is None or len(given) > len(usual) or None in usual[len(given) :]:
            raise ConfigError(_unknown("objective", self.objective, WRITTEN))
        if match[1] == "iwae" and any("." in number for number in given):
            raise ConfigError(_unknown("objective", self.objective, WRITTEN))
        return tuple(type(left_out or 0.0)(word) for word, left_out in zip(given, usual, strict=False)) + usual[len(given) :]

    @property
    def is_adversarial(self):
        """Whether the procedure has a critic, in place of an objective of its own."""
        return self.procedure.partition("(")[0] in ADVERSARIAL

    @property
    def game_weight(self):
        """WEIGHT of the procedure adversarial-autoencoder(WEIGHT). Raises ConfigError for what is no procedure with one."""
        match = re.fullmatch(rf"adversarial-autoencoder(?:\(({NUMBER})\))?", self.procedure)
        if match is None or match[1] and float(match[1]) == 0:
            raise ConfigError(_unknown("procedure", self.procedure, PROCEDURES))
        return float(match[1] or 10)

    @property
    def pretraining(self):
        """EPOCHS of the procedure pretrain(EPOCHS), a third of the run where none are given; None for the others."""
        match = re.fullmatch(rf"pretrain(?:\(({WHOLE})\))?", self.procedure)
        return (int(match[1]) if match[1] else max(1, round(self.epochs / 3))) if match else None

    @property
    def whole_procedure(self):
        """The procedure with the epochs of its pretraining, where they were left out."""
        return self.procedure if self.pretraining is None else f"pretrain({self.pretraining})"

    @property
    def moves(self):
        """MOVES of the procedure hmc(MOVES), 3 where none are given; None for the others."""
        match = re.fullmatch(rf"hmc(?:\(({WHOLE})\))?", self.procedure)
        return int(match[1] or 3) if match else None

    @property
    def particles(self):
        """K of iwae(K); 1 for the other objectives."""
        return self.numbers[0] if self.bound == "iwae" else 1

    @property
    def rate_target(self):
        """NATS of the schedule control(NATS); None for the others."""
        match = re.fullmatch(rf"control\(({NUMBER})\)", self.beta_schedule or "")
        return float(match[1]) if match else None

    @classmethod
    def from_flags(cls, flags):
        """The config of flags: defaults < what model and guide preset < the flags. `--skip none` alone means a VAE."""
        check_names(flags)
        refined = "delta-" if flags.get("prior") == "ar1" else "sa-" if flags.get("inference") == "sa" else ""
        plain = flags.get("skip") in ("none", "parameter-matched") or "skip" not in flags and flags.get("decoder") == INJECTIVE
        skips = "" if plain else "skip-"
        model = flags.get("model", f"{skips}{refined}vae")
        if flags.get("procedure") == ADVERSARIAL[1]:  # made for what has no density
            flags = {"guide": IMPLICIT, **flags}
        if not isinstance(model, str) or model not in MODELS:
            raise ConfigError(_unknown("model", model, MODELS))
        if not isinstance(flags.get("guide", ""), str):
            raise ConfigError(_unknown("guide", flags["guide"], GUIDES))
        if isinstance(flags.get("correlation"), float):  # in a file of settings it may be a number
            flags = {**flags, "correlation": repr(flags["correlation"])}
        return cls(**{**MODELS[model], **GUIDES_SET.get(flags.get("guide"), {}), "model": model, **flags})

    @classmethod
    def from_toml(cls, text):
        """The config that `to_toml` wrote; a misspelt key fails by name."""
        try:
            content = tomllib.loads(text)
        except RecursionError:
            raise ConfigError("it is nested too deep") from None
        return cls.from_flags(content)

    @property
    def text(self):
        """Whether the data set is one of text, as far as its name tells."""
        return self.dataset in TEXTS or is_path(self.dataset) and self.dataset.lower().endswith(TEXT_FILES)

    def to_toml(self):
        """One line for each setting that is not None."""
        return "".join(f"{name} = {_toml(value)}\n" for name, value in asdict(self).items() if value is not None)


def is_path(dataset):
    """Whether the value of --dataset is meant as a path of the user's: it has a separator or a dot, or is there."""
    return bool(dataset) and dataset not in DATASETS and (any(mark in dataset for mark in "/.~\\") or os.path.lexists(dataset))


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
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise ConfigError(f"expected {flag} to be {_kind_name(kind)}, got {value!r}")
    if isinstance(value, str) and not is_unicode(value):
        raise ConfigError(f"expected {flag} as text of Unicode, got {value!r}: rename it, for settings are kept as UTF-8")
    if meta["choices"] and entry.name not in OPEN and value not in meta["choices"]:
        raise ConfigError(_unknown(flag.removeprefix("--"), value, meta["choices"]))
    if meta["least"] is not None and not meta["least"] <= value < (meta["below"] or float("inf")):
        upper = f"below {meta['below']:,}" if meta["below"] else "finite"
        raise ConfigError(f"expected {flag} of at least {meta['least']} and {upper}, got {value}")
    if kind is int and not meta["below"] and value >= LARGEST:
        raise ConfigError(f"expected {flag} below {LARGEST:,}, got {value:,}")


def is_unicode(text):
    """Whether a text can be written down; a file name that is not UTF-8 comes with halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind_name(kind):
    return {int: "a whole number", str: "a name", bool: "true or false"}.get(kind, "a number")


def _flag(name):
    return "--" + name.replace("_", "-")


def _unknown(what, got, names, rest=""):
    forms = [name for name in names if "(" in str(got) and name.partition("(")[0] == str(got).partition("(")[0]]
    if forms:  # the name is right, and what follows it is not
        number = "a whole number such as 3" if re.search(r"\((K|EPOCHS|MOVES)\)", forms[0]) else "numbers such as 3 or 0.5"
        return f"unknown {what} {got!r}: expected {' or '.join(forms)}" + f", with {number}" * ("(" in forms[0])
    near = difflib.get_close_matches(str(got), list(names), 1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown {what} {got!r}: expected {', '.join(names)}{rest}{hint}"


def _toml(value):
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's strings are JSON's, but for DEL
    return str(value).lower() if isinstance(value, bool) else repr(value)
