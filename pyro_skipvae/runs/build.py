"""Config -> objects. The one file in which names become constructors."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import pyro.optim
import torch

from pyro_skipvae import guides, likelihoods, objectives, priors, schedules
from pyro_skipvae.blocks import Standardise, latent_shape, mean_and_scale
from pyro_skipvae.data import DATASETS, Batches, Data, load_data
from pyro_skipvae.data.on_disk import OnDisk
from pyro_skipvae.decoders import (
    CodesDecoder,
    ConvolutionalDecoder,
    DilatedCNNDecoder,
    IdentifiableMLPDecoder,
    LSTMDecoder,
    MLPDecoder,
    PixelCNNDecoder,
    TransformerDecoder,
)
from pyro_skipvae.decoders.pixelcnn import kernels_within
from pyro_skipvae.encoders import (
    LSTMEncoder,
    LSTMSequenceEncoder,
    MLPEncoder,
    NoEncoder,
    PixelCNNEncoder,
    ResNetEncoder,
    TransformerEncoder,
)
from pyro_skipvae.guides.codes import WIDTH, codebook_loss
from pyro_skipvae.guides.semi_amortized import VARIANTS, SemiAmortized, beside
from pyro_skipvae.model import VAE
from pyro_skipvae.modules import device_of
from pyro_skipvae.schedules import Halving, RateControl, Schedule
from pyro_skipvae.skip import parameter_count, parameter_matched
from pyro_skipvae.text.vocabulary import PAD
from pyro_skipvae.training.adversarial import (
    Critic,
    adversarial_autoencoder_step,
    adversarial_variational_bayes_step,
)
from pyro_skipvae.training.hamiltonian import hamiltonian_step
from pyro_skipvae.training.initialisation import data_dependent_, he_normal_
from pyro_skipvae.training.lagging import lagging_step
from pyro_skipvae.training.pretraining import pretrained_step
from pyro_skipvae.training.ranks import Ranks
from pyro_skipvae.training.step import SVIStep, svi_step

from .config import CODES, FLOWS, INJECTIVE, RATED, TEXT_DECODERS, TEXT_ENCODERS, WITHOUT_LATENTS, Config, ConfigError
from .correlations import correlations

TEXT = ("embedding", "dropout", "word_dropout")
# name -> (constructor, its layers by default, the field and argument that widens it, further fields it takes)
DECODERS = {
    "pixelcnn": (PixelCNNDecoder, 9, "maps", ("kernel", "receptive_field", "attention_layers", "heads")),
    "mlp": (MLPDecoder, 4, "width", ()),
    "identifiable-mlp": (IdentifiableMLPDecoder, 2, "width", ()),
    "convolutional": (ConvolutionalDecoder, 3, "maps", ()),
    "lstm": (LSTMDecoder, 1, "width", TEXT),
    "dilated-cnn": (DilatedCNNDecoder, 10, "width", TEXT),
    "transformer": (TransformerDecoder, 4, "width", (*TEXT, "heads")),
}
MLPS = ("mlp", "identifiable-mlp")  # decoders of items of any shape
LINEARISED = ("mlp", "convolutional")  # decoders whose derivative in z a guide may take
AUTOREGRESSIVE = ("pixelcnn", *TEXT_DECODERS)
ENCODERS = {
    "resnet": ResNetEncoder,
    "pixelcnn": PixelCNNEncoder,
    "mlp": MLPEncoder,
    "lstm": LSTMEncoder,
    "transformer": TransformerEncoder,
}
DIRECTED = {"pixelcnn": PixelCNNEncoder, "lstm": LSTMSequenceEncoder}  # of a sequence z whose steps see a part of x each
GUIDES = {
    "diagonal-normal": guides.DiagonalNormal,
    "full-covariance-normal": guides.FullCovarianceNormal,
    "inverse-autoregressive-flow": guides.InverseAutoregressiveFlow,
    "planar-flow": guides.PlanarFlow,
    "minimum-rate": guides.MinimumRateNormal,
    "von-mises-fisher": guides.VonMisesFisherPosterior,
    "batch-normalised": guides.BatchNormalisedNormal,
    "semi-implicit": guides.SemiImplicitNormal,
    "variational-laplace": guides.DiagonalNormal,  # whose mean is where the steps start
    "categorical": guides.CategoricalPosterior,
    "codebook": guides.CodebookPosterior,
}
PRIORS = {
    "standard-normal": lambda config, encoder, data: priors.StandardNormal(config.latent_dim),
    "mixture-of-normals": lambda config, encoder, data: priors.MixtureOfNormals(
        config.latent_dim, components=config.components
    ),
    "vamp": lambda config, encoder, data: priors.VampPrior(
        encoder, _pseudo_inputs(data, config.components), inputs=_inputs(config, data)
    ),
    "normalizing-flow": lambda config, encoder, data: priors.NormalizingFlow(config.latent_dim),
    "uniform-sphere": lambda config, encoder, data: priors.UniformSphere(config.latent_dim),
    "uniform-categorical": lambda config, encoder, data: priors.UniformCategorical(config.latent_dim, config.classes),
    "ar1": lambda config, encoder, data: priors.AR1(*latent_dim(config, data), correlation=_correlations(config, data)),
}
TOTALS = 1000  # of the training data, evenly spread over their order, from which a multinomial draws its own
LIKELIHOODS = {  # of the data, and whether in their units
    "bernoulli": lambda data, scaled: likelihoods.bernoulli,
    "categorical": lambda data, scaled: likelihoods.categorical(_levels(data)),
    "colour-logistics": lambda data, scaled: likelihoods.colour_logistics(_levels(data)),
    "discretised-logistic": lambda data, scaled: likelihoods.discretised_logistic(_levels(data)),
    "multinomial": lambda data, scaled: likelihoods.multinomial_about(*_shares(data)),
    "normal": lambda data, scaled: (
        likelihoods.normal_in_units(*mean_and_scale(statistics_items(data.train))) if scaled else likelihoods.normal
    ),
    "normal-shared-scale": lambda data, scaled: likelihoods.normal_shared_scale(
        *(mean_and_scale(statistics_items(data.train)) if scaled else ())
    ),
    "poisson": lambda data, scaled: likelihoods.poisson_about(*_counts(data)) if scaled else likelihoods.poisson,
}
USUAL_LIKELIHOOD = {
    "binary": "bernoulli",
    "grey": "normal-shared-scale",
    "real": "normal-shared-scale",
    "count": "poisson",
    "text": "categorical",
}
USUAL_SCALING = {"grey": "standard", "real": "standard", "count": "log", "binary": "none", "text": "none"}
SCALED = {"standard": ("grey", "real", "count"), "log": ("count",)}  # the values that a scaling is for; none is for all
KINDS = {  # the values that each likelihood is a distribution over
    "bernoulli": ("binary",),
    "categorical": ("grey", "binary", "text"),
    "colour-logistics": ("grey",),
    "discretised-logistic": ("grey",),
    "multinomial": ("count", "binary"),
    "normal": ("grey", "real"),
    "normal-shared-scale": ("grey", "real"),
    "poisson": ("count", "binary"),
}
USUAL_CLASSES = {"categorical": 10, "codebook": 128}
USUAL_LR = {"adam": 1e-3, "sgd": 1.0}
# fused: one kernel for the whole update; on a CPU it takes about a third of the time of torch's default loop.
OPTIMIZERS = {"adam": (torch.optim.Adam, {"fused": True}), "sgd": (torch.optim.SGD, {"fused": True})}
CRITIC_WORDS = 128  # dimensions of a word for the critic of a text
LAGGING_POINTS = 1000  # of the validation data, for the mutual information that ends lagging inference
STATISTICS_BYTES = 2**26  # of items of a large file, as float32, that mean and deviation are counted on
STATISTICS_ITEMS = 512  # of the training data, for the data-dependent start
OBJECTIVES = {  # of the numbers in their brackets
    "elbo": lambda: objectives.elbo,
    "analytic-elbo": lambda: objectives.analytic_elbo,
    "iwae": objectives.iwae,
    "free-bits-per-group": objectives.free_bits_per_group,
    "free-bits-per-dimension": objectives.free_bits_per_dimension,
    "free-bits-total": objectives.free_bits_total,
    "kl-balancing": lambda: objectives.kl_balancing,
    "kl-balancing-prior": objectives.kl_balancing_prior,
    "mmd": objectives.mmd,
    "target-rate": objectives.target_rate,
    "autoencoder": lambda: objectives.autoencoder,
    "batch-prior": lambda: objectives.batch_prior,
    "bag-of-words": lambda weight: partial(objectives.BagOfWords, weight=weight),  # to be made for z and a vocabulary
    "mutual-divergence": objectives.mutual_divergence,
}


def build_data(config: Config, progress: Callable[[str, int, int], object] | None = None) -> Data:
    """Loads the data of a config, with its limits; progress: called as (what, done, total) while a large file is examined.

    Raises ConfigError for settings that do not suit the data, and what `load_data` does.
    """
    usual = DATASETS[config.dataset].binarisation if config.dataset in DATASETS else None
    if config.text and config.binarisation:
        raise ConfigError(f"expected no --binarisation for text, got --binarisation {config.binarisation}")
    given = [name for name in ("vocabulary_size", "max_words") if getattr(config, name) is not None]
    if given and not config.text:
        named = " and ".join("--" + name.replace("_", "-") for name in given)
        raise ConfigError(f"expected --dataset with text for {named} (--preset text-small sets both), got {config.dataset}")
    binarisation = config.binarisation or ("none" if usual in (None, "given") else usual)
    data = load_data(
        config.dataset,
        root=config.data_dir,
        binarisation=binarisation,
        download=config.download,
        vocabulary_size=config.vocabulary_size,
        max_words=config.max_words,
        progress=progress,
    )
    if len(data.test) < 2:
        raise ConfigError(f"expected at least 2 test items to report on, got {len(data.test)} in {data.name}")
    return data.limit(train=config.limit_train, eval=config.limit_eval)


def resolve(config: Config, data: Data) -> Config:
    """The config with a value for every setting that was None. Raises ConfigError for one that does not suit the data."""
    found = settled(config, data)
    _check_refinement(found)
    _check_decoder(found, data)
    _check_receptive_field(found, data)
    _check_laplace(found, data)
    _check_encoder(found, data)
    _check_values(found, data)
    _check_sequence(found, data)
    _check_injective(found, data)
    check_objective(found, data)
    if config.prior == "vamp" and (config.guide in FLOWS or data.kind == "text"):
        raise ConfigError(
            "expected inputs that can be learned for --prior vamp, got words"
            if data.kind == "text"
            else "expected a guide whose density is known at any z for --prior vamp, got --guide " + config.guide
        )
    if config.initialisation != "torch" and data.kind == "text":
        raise ConfigError(f"expected no --initialisation for text models, which have their own, got {config.initialisation}")
    if config.guide in FLOWS and config.inference != "amortized":
        raise ConfigError(f"expected a --guide with local parameters for --inference {config.inference}, got {config.guide}")
    return found


def settled(config, data):
    """The config with everything chosen that was left open, whether or not it suits the data: nothing is refused here."""
    text = data.kind == "text"
    decoder = config.decoder or ("lstm" if text else "pixelcnn" if _images(data) else "mlp")
    small = decoder in MLPS or not _fit_resnet(data)
    sequence = config.prior == "ar1"
    committed = sequence and config.correlation is None or config.guide in ("minimum-rate", "batch-normalised")
    network = _usual_encoder(decoder, sequence) if text else "mlp" if small else "pixelcnn" if sequence else "resnet"
    encoder = config.encoder or (None if config.model in WITHOUT_LATENTS else network)
    return replace(
        config,
        decoder=decoder,
        encoder=encoder,
        likelihood=config.likelihood or _usual_likelihood(decoder, data),
        scaling=config.scaling or USUAL_SCALING[data.kind],
        layers=config.layers or DECODERS[decoder][1],
        width=config.width or (1024 if text and decoder != "transformer" else 512),
        dropout=(0.1 if decoder == "transformer" else 0.5) if config.dropout is None and text else config.dropout,
        rate=config.rate or (10.0 if committed else None),
        chunk=config.chunk or (None if not sequence else 8 if text else 1),
        encoder_direction=config.encoder_direction or (_usual_direction(encoder) if sequence else None),
        classes=config.classes or USUAL_CLASSES.get(config.guide),
        latent_dim=_latent_dim(config, text) if config.latent_dim is None else config.latent_dim,
        binarisation=config.binarisation if data.binarisation == "given" else data.binarisation,
        svi_lr=config.svi_lr or (1.0 if config.svi_gradient == "authors" else 1 / 32),
        lr=config.lr or USUAL_LR[config.optimizer],
        # An autoregressive decoder learns to do without z in the first epochs unless the KL term starts low.
        procedure=config.whole_procedure,
        beta_schedule=config.beta_schedule or _usual_schedule(config, decoder),
        warmup_epochs=_warmup(config, text) if config.warmup_epochs is None else config.warmup_epochs,
    )


FILLED_IN = ("width", "warmup_epochs", "svi_lr", "beta_schedule")  # a resolved config has one, given or not


def without_effect(config, given=()):
    """{flag: what it needs to have an effect} of settings of a resolved config that do nothing, and are not the usual ones.

    Those that `resolve` fills in count where their names are in `given`.
    """
    text, prior = "--decoder " + " or ".join(TEXT_DECODERS), "--prior mixture-of-normals or vamp"
    fixed = config.guide == "codebook" or (config.guide == "von-mises-fisher" and config.rate is not None)
    by_rate = "a guide whose rate can change"
    needs = {
        **dict.fromkeys(TEXT, (config.decoder in TEXT_DECODERS, text)),
        "attention_layers": (config.decoder == "pixelcnn", "--decoder pixelcnn"),
        "heads": (
            "transformer" in (config.decoder, config.encoder) or config.attention_layers > 0,
            "--decoder or --encoder transformer, or --attention-layers",
        ),
        "kernel": (config.decoder == "pixelcnn", "--decoder pixelcnn"),
        "maps": (
            config.decoder in ("pixelcnn", "convolutional") or config.encoder == "pixelcnn",
            "--decoder pixelcnn or convolutional",
        ),
        "encoder_width": (config.encoder == "mlp", "--encoder mlp"),
        "components": (config.prior in ("mixture-of-normals", "vamp"), prior),
        "width": (config.decoder not in ("pixelcnn", "convolutional"), "another --decoder; this one has --maps"),
        **dict.fromkeys(
            ("svi_steps", "svi_lr", "svi_momentum"), (config.inference != "amortized", "--inference, or --model sa-vae")
        ),
        **dict.fromkeys(("encoder", "prior", "guide", "objective"), (config.latent_dim != 0, "latent variables")),
        "halving_epoch": (config.lr_schedule == "halving", "--lr-schedule halving"),
        "cycles": (config.beta_schedule == "cyclical", "--beta-schedule cyclical"),
        **dict.fromkeys(
            ("beta_start", "warmup_epochs"),
            (config.beta_schedule in ("linear", "cyclical"), "--beta-schedule linear or cyclical"),
        ),
        "beta": (
            config.bound != "autoencoder" and config.rate_target is None and config.latent_dim != 0 and not fixed,
            by_rate if fixed else "another --objective or --beta-schedule" if config.latent_dim else "latent variables",
        ),
        "beta_schedule": (
            config.beta_schedule == "constant" or (config.bound != "autoencoder" and not fixed),
            by_rate if fixed else "another --objective",
        ),
    }
    usual = {name: Config.__dataclass_fields__[name].default for name in needs}
    chosen = {name for name in needs if (name in given if name in FILLED_IN else getattr(config, name) != usual[name])}
    return {f"--{name.replace('_', '-')}": wanted for name, (used, wanted) in needs.items() if name in chosen and not used}


def _images(data):
    return len(data.event_shape) in (2, 3)


def _fit_resnet(data):
    return _images(data) and min(data.event_shape[-2:]) >= 8


def _check_decoder(config, data):
    text, decoder = data.kind == "text", config.decoder
    if text != (decoder in TEXT_DECODERS):
        wanted = " or ".join(TEXT_DECODERS) if text else "pixelcnn, mlp, identifiable-mlp or convolutional"
        raise ConfigError(f"expected --decoder {wanted} for {data.kind} data ({data.name}), got --decoder {decoder}")
    if config.model == "lm" and not text:
        raise ConfigError(f"expected text for --model lm, got {data.name}; use --model autoregressive")
    if decoder not in (*MLPS, *TEXT_DECODERS) and not _images(data):
        raise ConfigError(f"expected images for --decoder {decoder}, got items of shape {data.event_shape}; use --decoder mlp")
    if config.latent_dim == 0 and decoder not in AUTOREGRESSIVE:
        if not _images(data):
            raise ConfigError(
                f"expected images or text for --model {config.model}, got items of shape {data.event_shape}; use --model vae"
            )
        raise ConfigError(f"expected --decoder pixelcnn for a model without z, got --decoder {decoder}")


def _check_injective(config, data):
    if config.decoder != INJECTIVE:
        return
    read, features = math.prod(latent_shape(_read(config, data))), math.prod(data.event_shape)
    if read > features:
        raise ConfigError(
            f"expected a z of at most the {features} values of an item for --decoder {INJECTIVE}, got {read}; use a smaller "
            "--latent-dim"
        )


def _check_laplace(config, data):
    if config.guide != "variational-laplace":
        return
    if data.kind == "text":  # whose decoders cannot be linearised
        raise ConfigError(f"expected images or numbers for --guide {config.guide}, got text ({data.name})")
    for name, wanted in {"decoder": LINEARISED, "likelihood": ("bernoulli", "normal", "normal-shared-scale")}.items():
        if getattr(config, name) not in wanted:
            raise ConfigError(
                f"expected --{name} {' or '.join(wanted)} for --guide {config.guide}, got --{name} {getattr(config, name)}"
            )


def _check_receptive_field(config, data):
    if config.receptive_field is None:
        return
    if data.kind == "text":
        raise ConfigError(f"expected images for --receptive-field, got text ({data.name}); use --decoder dilated-cnn there")
    if config.decoder != "pixelcnn":
        raise ConfigError(f"expected --decoder pixelcnn for --receptive-field, got --decoder {config.decoder}")
    if config.attention_layers:
        raise ConfigError("expected no --attention-layers with --receptive-field, for attention sees all pixels before")
    try:
        kernels_within(config.receptive_field, config.layers, config.kernel)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _usual_likelihood(decoder, data):
    """A PixelCNN of colours is told their levels, so that its bits per dimension can be compared."""
    colours = decoder == "pixelcnn" and data.kind == "grey" and data.levels and _is_colour(data)
    return "colour-logistics" if colours else USUAL_LIKELIHOOD[data.kind]


def _is_colour(data):
    return len(data.event_shape) == 3 and data.event_shape[0] == 3


def _usual_encoder(decoder, sequence):
    return "transformer" if decoder == "transformer" and not sequence else "lstm"


def _usual_direction(encoder):
    return "anti-causal" if encoder in DIRECTED else "full"


def _latent_dim(config, text):
    if config.guide == "codebook" and config.model not in WITHOUT_LATENTS:
        return 16
    return 0 if config.model in WITHOUT_LATENTS else 8 if config.prior == "ar1" else 32 if text else 50


def latent_dim(config, data):
    """The `latent_dim` of components: D, or, with an AR(1) prior, (steps, channels), a step for each chunk of x."""
    if config.prior != "ar1":
        return config.latent_dim
    places = data.event_shape[0 if data.vocabulary else -2]  # an exported model has no other data
    return (-(-places // config.chunk), config.latent_dim)


def _read(config, data):
    """The `latent_dim` of what a decoder reads: z, or the rows or vectors of its codes, one after the other."""
    width = {"categorical": config.classes, "codebook": WIDTH}.get(config.guide)
    return width * config.latent_dim if width and config.latent_dim else latent_dim(config, data)


def _correlations(config, data):
    steps, channels = latent_dim(config, data)
    if config.correlation is not None:
        return correlations(config.correlation, channels)
    return [priors.correlation_for(config.rate, steps, channels)] * channels


def _check_sequence(config, data):
    """Raises ConfigError where an AR(1) prior, or its encoder, has no place in these data."""
    if config.prior != "ar1":
        if config.encoder == "pixelcnn" and config.latent_dim:
            raise ConfigError("expected --prior ar1 for --encoder pixelcnn, which makes a sequence z; use --encoder resnet")
        return
    if data.kind != "text" and not _images(data):
        raise ConfigError(f"expected images or text for --prior ar1, whose steps are rows or words, got {data.event_shape}")
    if data.kind != "text" and data.event_shape[-2] % config.chunk:
        raise ConfigError(f"expected --chunk to divide the {data.event_shape[-2]} rows of {data.name}, got {config.chunk}")
    if config.encoder_direction != "full" and config.encoder not in DIRECTED:
        wanted = "lstm" if data.kind == "text" else "pixelcnn"
        raise ConfigError(
            f"expected --encoder {wanted} for --encoder-direction {config.encoder_direction}, got --encoder {config.encoder}, "
            "which sees all at once"
        )
    try:
        PRIORS["ar1"](config, None, data)
    except ValueError as error:  # a rate or correlation that these sequences cannot have
        raise ConfigError(str(error)) from None


def _check_refinement(config):
    """Raises ConfigError for what older runs may be of, and none is to be made of any more."""
    got = f"--procedure {config.procedure}"
    if config.inference != "amortized" and config.model in WITHOUT_LATENTS:
        raise ConfigError(
            f"expected --inference amortized for --model {config.model}, which has no z to refine, got {config.inference}"
        )
    if config.pretraining is not None and config.inference != "amortized":
        raise ConfigError(f"expected --inference amortized for {got}, got {config.inference}, which refines by the ELBO")
    if config.pretraining is not None and config.prior == "vamp":
        raise ConfigError(f"expected --prior other than vamp for {got}, got vamp: fitting it would train the encoder")


def _check_encoder(config, data):
    encoder = config.encoder
    if config.latent_dim == 0:  # it is not built
        return
    if (encoder in TEXT_ENCODERS) != (data.kind == "text"):
        wanted = "lstm or transformer" if data.kind == "text" else "mlp or resnet"
        raise ConfigError(f"expected --encoder {wanted} for {data.kind} data ({data.name}), got --encoder {encoder}")
    if encoder == "resnet" and not _fit_resnet(data):
        raise ConfigError(f"expected images of at least 8x8 for --encoder resnet, got {data.event_shape}; use --encoder mlp")


def _check_values(config, data):
    """Raises ConfigError where likelihood or scaling are not for values of this kind."""
    likelihood, scaling = config.likelihood, config.scaling
    what = f"{data.kind} values (dataset {data.name}, binarisation {data.binarisation})"
    if data.kind not in KINDS[likelihood]:
        suits = " or ".join(f"--likelihood {name}" for name, kinds in KINDS.items() if data.kind in kinds)
        raise ConfigError(
            f"expected {' or '.join(KINDS[likelihood])} values for --likelihood {likelihood}, got {what}; "
            f"for these there is {suits}"
        )
    if likelihood == "colour-logistics" and not _is_colour(data):
        raise ConfigError(
            f"expected colour images (3, H, W) for --likelihood colour-logistics, got items of shape {data.event_shape}; "
            "use --likelihood discretised-logistic"
        )
    if likelihood in ("categorical", "discretised-logistic", "colour-logistics") and data.kind == "grey" and not data.levels:
        raise ConfigError(
            f"expected grey levels of 8 bits (uint8) for --likelihood {likelihood}, got real numbers from 0 to 1; use "
            f"--likelihood {USUAL_LIKELIHOOD[data.kind]}"
        )
    if likelihood == "multinomial" and len(data.event_shape) > 1:
        raise ConfigError(
            f"expected vectors of counts for --likelihood multinomial, got items of shape {data.event_shape}; "
            f"use --likelihood {USUAL_LIKELIHOOD[data.kind]}"
        )
    if scaling != "none" and data.kind not in SCALED[scaling]:
        wanted, usual = " or ".join(SCALED[scaling]), USUAL_SCALING[data.kind]
        raise ConfigError(f"expected {wanted} values for --scaling {scaling}, got {what}; use --scaling {usual}")


def _usual_schedule(config, decoder):
    """Without a rate, or with a price of its own for one, there is nothing to be lenient with at first."""
    if config.bound in ("autoencoder", "target-rate") or config.guide == "codebook":
        return "constant"
    lenient = config.bound == "kl-balancing" or config.pretraining is not None
    return "linear" if decoder in AUTOREGRESSIVE or lenient else "constant"


def check_objective(config, data):
    """Raises ConfigError where an objective could not do its work in this run."""
    if config.bound == "bag-of-words" and data.kind != "text":
        raise ConfigError(f"expected text for --objective {config.objective}, got {data.kind} values ({data.name})")
    count, size = len(data.train), config.batch_size
    if config.bound in ("mmd", "mutual-divergence") and _least_rows(count, size) == 1:
        larger = next((found for found in range(size + 1, count + 1) if _least_rows(count, found) > 1), None)
        raise ConfigError(
            f"expected at least 2 rows in each batch for --objective {config.objective}, got 1 in the last: {count} "
            f"training items in batches of {size}; use {f'--batch-size {larger}' if larger else 'more items'}"
        )
    if config.bound == "kl-balancing" and config.beta_schedule == "constant" and config.beta >= 1:
        raise ConfigError(
            f"expected a --beta-schedule that starts below 1 for --objective kl-balancing, which acts while beta is, got "
            f"--beta-schedule constant --beta {config.beta:g}; use --beta-schedule linear"
        )
    target = config.numbers[0] if config.bound == "target-rate" else config.rate_target
    if config.guide == "batch-normalised" and config.batch_size == 1:
        raise ConfigError("expected --batch-size of at least 2 for --guide batch-normalised, got 1: one row has no variance")
    free = _floor(config)
    committed = _committed_rate(config, data)
    for what, nats in (("a target", target), ("free bits", free)) if committed else ():
        if nats is not None and nats <= committed * (1 + 1e-9):  # a correlation is found by bisection
            by = f"--{'correlation' if config.correlation else 'rate'}"
            raise ConfigError(f"expected {what} above the {committed:.4g} nats that {by} commits, got {nats:g}")


def _floor(config):
    """The nats of all dimensions below which free bits leave the rate alone, where a committed rate can make that idle."""
    if config.bound == "free-bits-total" and config.guide != "batch-normalised":  # which commits for a batch, not for each x
        return config.numbers[0]
    idle = {"free-bits-per-dimension": ("minimum-rate",), "free-bits-per-group": ("minimum-rate", "batch-normalised")}
    return config.numbers[0] * config.latent_dim if config.guide in idle.get(config.bound, ()) else None


def _committed_rate(config, data):
    """The nats below which no posterior of a resolved config is, of a batch on average; 0 where there is no such bound."""
    if config.prior == "ar1":
        return priors.committed_rate(latent_dim(config, data)[0], _correlations(config, data))
    return config.rate if config.guide in RATED and config.rate else 0.0


def _least_rows(count, size):
    """The rows of the smallest batch of an epoch."""
    return min(size, count % size or size)


def _warmup(config, text):
    """Epochs of KL warm-up, after a pretraining: the authors' text code has 10 of 30; for images nobody has any.

    There we found a third to do.
    """
    epochs = config.epochs - (config.pretraining or 0)
    return min(epochs / 2, 10.0) if text else min(epochs / 3, 20.0)


def build_vae(config: Config, data: Data) -> VAE:
    """The VAE of a resolved config: prior, decoder, encoder, and a guide that refines q(z|x) where the config has one."""
    if config.latent_dim == 0:
        return VAE(priors.StandardNormal(0), build_decoder(config, data), NoEncoder())
    encoder = _encoder(config, data)
    decoder = build_decoder(config, data)
    if config.guide in CODES:
        decoder = CodesDecoder(decoder, encoder.posterior if config.guide == "codebook" else None)
    vae = VAE(PRIORS[config.prior](config, encoder, data), decoder, encoder)
    if config.initialisation == "he":
        he_normal_(vae)
    elif config.initialisation == "data-dependent":
        data_dependent_(vae, data.first("train", STATISTICS_ITEMS))
    if config.guide == "variational-laplace":
        vae.guide = guides.VariationalLaplace(vae)
    if config.inference != "amortized":
        loop = {
            "steps": config.svi_steps,
            "lr": config.svi_lr,
            "momentum": config.svi_momentum,
            "gradient": config.svi_gradient,
            "batch_size": config.batch_size,
        }
        vae.guide = SemiAmortized(vae.model, vae.guide, **loop | VARIANTS[config.inference][0])
    return vae


def build_blank(config, about):
    """The VAE of a resolved config, by a `DataDescription` alone: its weights and statistics have yet to be loaded."""
    known = {name: getattr(about, name) for name in ("name", "event_shape", "kind", "levels", "binarisation", "vocabulary")}
    # What starts from training data (pseudo-inputs, statistics) starts from zeros. Another start of the weights costs time.
    data = SimpleNamespace(**known, train=torch.zeros(config.components, *about.event_shape))
    return build_vae(replace(config, initialisation="torch"), data)


def _encoder(config, data):
    posterior, size = GUIDES[config.guide], latent_dim(config, data)
    if config.guide in RATED:
        posterior = partial(posterior, rate=config.rate)
    elif config.guide in CODES:
        if config.guide == "codebook" and find_spec("vector_quantize_pytorch") is None:
            package = "vector-quantize-pytorch"
            raise ConfigError(f"expected the package {package} for --guide codebook: pip install {package}")
        posterior = partial(posterior, classes=config.classes)
        posterior = partial(posterior, batch_size=config.batch_size) if config.guide == "codebook" else posterior
    if config.prior == "ar1" and config.encoder in DIRECTED:
        return _sequence_encoder(config, data, size, posterior)
    if config.encoder in TEXT_ENCODERS:
        sizes = {"embedding": config.embedding, "width": config.width}
        if config.encoder == "transformer":
            sizes |= {"layers": config.layers, "heads": config.heads, "dropout": config.dropout}
        return ENCODERS[config.encoder](len(data.vocabulary), size, **sizes, posterior=posterior)
    sizes = {"hidden": (config.encoder_width,) * 2} if config.encoder_width and config.encoder == "mlp" else {}
    return ENCODERS[config.encoder](data.event_shape, size, **sizes, posterior=posterior, inputs=_inputs(config, data))


def _sequence_encoder(config, data, size, posterior):
    make = partial(DIRECTED[config.encoder], direction=config.encoder_direction, posterior=posterior)
    if data.vocabulary:
        sizes = {"embedding": config.embedding, "width": config.width, "max_length": data.event_shape[0]}
        return make(len(data.vocabulary), size, **sizes)
    return make(data.event_shape, size, maps=config.maps, inputs=_inputs(config, data))


def _scaled(config):
    return config.scaling not in (None, "none")  # None is of a config of before there was a scaling


def _inputs(config, data):
    """What x passes before a network reads it, by the statistics of the training data; None where it is read as it is."""
    return Standardise.of(statistics_items(data.train), log=config.scaling == "log") if _scaled(config) else None


def statistics_items(items):
    """The training items that mean and deviation are counted on: all; of a large file as many as take 64 MiB, evenly spread."""
    if not isinstance(items, OnDisk):
        return items
    most = max(2, STATISTICS_BYTES // (4 * items.shape[1:].numel()))
    if most >= len(items):
        return items[:]
    # On the CPU, where the items are: the size of a model is told by building it on the meta device.
    return items[torch.arange(most, device="cpu") * len(items) // most]


def _counts(data):
    """Mean and deviation of the counts of each feature or channel; half a count more than there is, so that no mean is 0."""
    mean, deviation = mean_and_scale(statistics_items(data.train))
    return mean + 0.5 / len(data.train), deviation


def _shares(data):
    """The part of all counts that falls on each feature, none of them 0, and totals of rows, as many for any data."""
    items = getattr(data.train, "probabilities", None)  # of an item that is drawn anew at each reading
    items = statistics_items(data.train if items is None else items)
    totals = items.sum(-1).sort().values
    each = items.mean(0) + 0.5 / len(items)
    return each / each.sum(), totals[torch.arange(TOTALS, device="cpu") * len(totals) // TOTALS]


def build_decoder(config, data):
    """The decoder of a resolved config; `parameter-matched` widens a plain one to the size of its skip counterpart."""
    make, _, width, further = DECODERS[config.decoder]
    if config.decoder in TEXT_DECODERS:
        make = partial(make, len(data.vocabulary), _read(config, data), max_length=data.event_shape[0])
    else:
        likelihood = LIKELIHOODS[config.likelihood](data, _scaled(config))
        make = partial(make, _read(config, data), data.event_shape, likelihood=likelihood)
    if config.decoder == "pixelcnn":
        make = partial(make, inputs=_inputs(config, data))
    make = partial(make, layers=config.layers, **{name: getattr(config, name) for name in further})
    if config.skip != "parameter-matched":
        return make(**{width: getattr(config, width)}, skip=_skip(config.skip))
    with torch.device("meta"):
        target = parameter_count(make(**{width: getattr(config, width)}, skip="all"))
    each = config.heads if config.decoder == "transformer" or config.attention_layers else 1  # heads divide a width
    matched = parameter_matched(lambda units: make(**{width: each * units}, skip="none"), target)
    return make(**{width: each * matched}, skip="none")


def build_step(
    config: Config,
    vae: VAE,
    steps: int,
    halving: Halving | None = None,
    ranks: Ranks | None = None,
    beta: Schedule | RateControl | None = None,
    *,
    data: Data | None = None,
    batches: Batches | None = None,
) -> SVIStep:
    """The training step of a resolved config, for a run of `steps` steps: (x, beta) -> loss in nats per datapoint.

    halving: the `Halving` that the learning rate follows, where the config asks for one. ranks: the processes that train
    together, if there are several. beta: what `build_beta` returned; a `RateControl` is told the rate of each step. data,
    batches: the data and training batches, which the procedures lagging, pretrain and adversarial-variational-bayes and the
    objective bag-of-words need.
    """
    objective = OBJECTIVES[config.bound](*config.numbers)
    if config.bound == "bag-of-words":
        objective = objective(_latent_size(vae), len(data.vocabulary)).to(device_of(vae))
    encoder_loss = VARIANTS[config.inference][1] if config.inference != "amortized" else None
    objective = beside(encoder_loss, objective) if encoder_loss else objective
    objective = codebook_loss(vae) if config.guide == "codebook" else objective
    torch_optimizer, arguments = OPTIMIZERS[config.optimizer]
    arguments = {"lr": config.lr, **arguments}
    halving = halving or Halving()
    courses = {
        "constant": lambda step: 1.0,
        "cosine": partial(_cosine, steps=max(steps, 1)),
        # Not the object itself: torch would keep its fields in the scheduler's state, and put them back at a resume.
        "halving": lambda step: halving(step),
    }
    schedule = {"optimizer": torch_optimizer, "optim_args": arguments, "lr_lambda": courses[config.lr_schedule]}
    how = {"max_norm": config.max_norm, "ranks": ranks, "compile": config.compile, "precision": config.precision}
    how["control"] = beta if isinstance(beta, RateControl) else None
    made = PROCEDURES[config.procedure.partition("(")[0]](config, vae, data, batches)
    parts = (vae.model, vae.guide) if config.is_adversarial else (vae.model, vae.guide, objective)
    return made(*parts, pyro.optim.LambdaLR(schedule), **how)


def _lagging(config, vae, data, batches):
    """As in the authors' code: texts are asked less often whether to go on, by token, and one worse epoch ends the phase."""
    text = data.kind == "text"
    device = device_of(vae)
    valid = data.first("valid", min(len(data.valid), LAGGING_POINTS)).to(device)
    rule = {"every": 15, "patience": 1, "size": _tokens} if text else {"every": 10, "patience": 5}
    return partial(lagging_step, draw=batches.drawn, valid=valid, **rule)


def _tokens(x: torch.Tensor) -> int:
    """How many words a batch of texts has, without the padding."""
    return int((x != PAD).sum())


def _adversarial_autoencoder(config, vae, data, batches):
    critic = Critic(_latent_size(vae)).to(device_of(vae))
    return partial(adversarial_autoencoder_step, prior=vae.prior, critic=critic, weight=config.game_weight)


def _adversarial_bayes(config, vae, data, batches):
    """A critic that reads x, too: its values in the units of the networks; of a text the mean of embeddings of its words."""
    if data.kind == "text":
        size = CRITIC_WORDS
        features = torch.nn.EmbeddingBag(len(data.vocabulary), size, mode="mean", padding_idx=PAD)
    else:
        size = math.prod(data.event_shape)
        features = torch.nn.Sequential(_inputs(config, data) or torch.nn.Identity(), torch.nn.Flatten())
    critic = Critic(_latent_size(vae), features=features, feature_size=size).to(device_of(vae))
    return partial(adversarial_variational_bayes_step, prior=vae.prior, critic=critic)


def _latent_size(vae):
    return math.prod(vae.prior().event_shape)


PROCEDURES = {  # of (config, vae, data, batches): what makes a step of model, guide, objective and optimizer
    "joint": lambda config, vae, data, batches: svi_step,
    "lagging": _lagging,
    "hmc": lambda config, vae, data, batches: partial(hamiltonian_step, moves=config.moves),
    "adversarial-autoencoder": _adversarial_autoencoder,
    "adversarial-variational-bayes": _adversarial_bayes,
    "pretrain": lambda config, vae, data, batches: partial(
        pretrained_step, decoder=vae.decoder, steps=config.pretraining * len(batches)
    ),
}


def build_beta(config: Config, steps_per_epoch: int) -> Schedule | RateControl:
    """The weight beta of the KL term of a resolved config, as a function of the step."""
    steps = math.ceil(config.warmup_epochs * steps_per_epoch)
    courses = {
        "constant": lambda: schedules.constant(config.beta),
        "linear": lambda: schedules.linear(config.beta_start, config.beta, steps),
        "cyclical": lambda: schedules.cyclical(config.beta_start, config.beta, steps, cycles=config.cycles),
    }
    if config.rate_target is not None:
        return RateControl(config.rate_target)
    return schedules.delayed(courses[config.beta_schedule](), (config.pretraining or 0) * steps_per_epoch)


def choose_device(name: str) -> torch.device:
    """The torch device of a name; "auto" is CUDA where there is one, else the CPU.

    Raises ConfigError for a device that this machine does not have, and for MPS, which lacks the float64 of the reports.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if str(name).startswith("mps"):
        raise ConfigError(f"expected a device with the float64 of the reports, got {name!r}, which has none; use cpu")
    try:
        found = torch.zeros(1, device=name)
        found.item()  # a meta tensor holds nothing
        return found.device
    except (RuntimeError, AssertionError, ImportError, AttributeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"expected a device that this machine has, got {name!r}: {reason}") from None


def _cosine(step, *, steps):
    """Half a cosine from 1 to 0: a closed form of the step, so that a run may be resumed for another number of epochs."""
    return (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2


def _skip(text):
    """The skip argument of a decoder: a name, or a list of entries."""
    if text in ("all", "none", "first", "last"):
        return text
    return [entry if entry == "output" else int(entry) for entry in text.split(",")]


def _levels(data):
    return data.levels or 256


def _pseudo_inputs(data, components):
    """The first items of training data in an order of their own, so that they do not depend on the seed of the run."""
    if components > len(data.train):
        raise ConfigError(f"expected --components of at most {len(data.train)} (the training items), got {components}")
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:components]
    return data.train.probabilities[order] if hasattr(data.train, "probabilities") else data.train[order]
