"""Config -> objects. The one file in which names become constructors."""

import math
from dataclasses import replace
from functools import partial

import pyro.optim
import torch

from pyro_skipvae import guides, likelihoods, objectives, priors
from pyro_skipvae.config import ConfigError
from pyro_skipvae.data import DATASETS, load_data
from pyro_skipvae.decoders import ConvolutionalDecoder, MLPDecoder, PixelCNNDecoder
from pyro_skipvae.encoders import MLPEncoder, NoEncoder, ResNetEncoder
from pyro_skipvae.model import VAE
from pyro_skipvae.skip import parameter_count, parameter_matched
from pyro_skipvae.train import svi_step

# name -> (constructor, its layers by default, the field and argument that widens it, further fields it takes)
DECODERS = {
    "pixelcnn": (PixelCNNDecoder, 9, "maps", ("kernel",)),
    "mlp": (MLPDecoder, 4, "width", ()),
    "convolutional": (ConvolutionalDecoder, 3, "maps", ()),
}
ENCODERS = {"resnet": ResNetEncoder, "mlp": MLPEncoder}
GUIDES = {
    "diagonal-normal": guides.DiagonalNormal,
    "full-covariance-normal": guides.FullCovarianceNormal,
    "inverse-autoregressive-flow": guides.InverseAutoregressiveFlow,
}
PRIORS = {
    "standard-normal": lambda config, encoder, data: priors.StandardNormal(config.latent_dim),
    "mixture-of-normals": lambda config, encoder, data: priors.MixtureOfNormals(
        config.latent_dim, components=config.components
    ),
    "vamp": lambda config, encoder, data: priors.VampPrior(encoder, _pseudo_inputs(data, config.components)),
}
LIKELIHOODS = {
    "bernoulli": lambda data: likelihoods.bernoulli,
    "categorical": lambda data: likelihoods.categorical(_levels(data)),
    "discretised-logistic": lambda data: likelihoods.discretised_logistic(_levels(data)),
    "normal": lambda data: likelihoods.normal,
    "poisson": lambda data: likelihoods.poisson,
}
USUAL_LIKELIHOOD = {"binary": "bernoulli", "grey": "normal", "real": "normal", "count": "poisson"}
KINDS = {  # the values that each likelihood is a distribution over
    "bernoulli": ("binary",),
    "categorical": ("grey", "binary"),
    "discretised-logistic": ("grey",),
    "normal": ("grey", "real"),
    "poisson": ("count", "binary"),
}
OBJECTIVES = {
    "elbo": lambda particles: objectives.elbo,
    "analytic-elbo": lambda particles: objectives.analytic_elbo,
    "iwae": objectives.iwae,
}


def build_data(config):
    """The data of a config, limited as it says."""
    usual = DATASETS[config.dataset].binarisation if config.dataset in DATASETS else None
    binarisation = config.binarisation or usual or "none"
    data = load_data(config.dataset, root=config.data_dir, binarisation=binarisation, download=config.download)
    return data.limit(train=config.limit_train, eval=config.limit_eval)


def resolve(config, data):
    """The config with everything chosen that was left open. Raises ConfigError where it does not suit the data."""
    decoder = config.decoder or ("pixelcnn" if len(data.event_shape) in (2, 3) else "mlp")
    if decoder != "mlp" and len(data.event_shape) not in (2, 3):
        raise ConfigError(f"expected images for --decoder {decoder}, got items of shape {data.event_shape}; use --decoder mlp")
    encoder = config.encoder or ("mlp" if decoder == "mlp" else "resnet")
    if encoder == "resnet" and (len(data.event_shape) not in (2, 3) or min(data.event_shape[-2:]) < 8):
        raise ConfigError(f"expected images of at least 8x8 for --encoder resnet, got {data.event_shape}; use --encoder mlp")
    likelihood = config.likelihood or USUAL_LIKELIHOOD[data.kind]
    if data.kind not in KINDS[likelihood]:
        raise ConfigError(
            f"expected {' or '.join(KINDS[likelihood])} values for --likelihood {likelihood}, got {data.kind} values "
            f"(dataset {data.name}, binarisation {data.binarisation})"
        )
    if config.prior == "vamp" and config.guide == "inverse-autoregressive-flow":
        raise ConfigError("expected a guide whose density is known at any z for --prior vamp, got --guide " + config.guide)
    return replace(
        config,
        decoder=decoder,
        encoder=encoder,
        likelihood=likelihood,
        layers=config.layers or DECODERS[decoder][1],
        binarisation=config.binarisation if data.binarisation == "given" else data.binarisation,
        # An autoregressive decoder learns to do without z in the first epochs unless the KL term starts low.
        beta_schedule=config.beta_schedule or ("linear" if decoder == "pixelcnn" else "constant"),
        warmup_epochs=min(config.epochs / 3, 20.0) if config.warmup_epochs is None else config.warmup_epochs,
    )


def build_vae(config, data):
    """The VAE of a resolved config: prior, decoder and encoder."""
    if config.latent_dim == 0:
        encoder, prior = NoEncoder(), priors.StandardNormal(0)
    else:
        make = ENCODERS[config.encoder]
        encoder = make(data.event_shape, config.latent_dim, posterior=GUIDES[config.guide])
        prior = PRIORS[config.prior](config, encoder, data)
    return VAE(prior, build_decoder(config, data), encoder)


def build_decoder(config, data):
    """The decoder of a resolved config; `parameter-matched` widens a plain one to the size of its skip counterpart."""
    make, _, width, further = DECODERS[config.decoder]
    make = partial(
        make,
        config.latent_dim,
        data.event_shape,
        layers=config.layers,
        likelihood=LIKELIHOODS[config.likelihood](data),
        **{name: getattr(config, name) for name in further},
    )
    if config.skip != "parameter-matched":
        return make(**{width: getattr(config, width)}, skip=_skip(config.skip))
    with torch.device("meta"):
        target = parameter_count(make(**{width: getattr(config, width)}, skip="all"))
    return make(**{width: parameter_matched(lambda units: make(**{width: units}, skip="none"), target)}, skip="none")


def build_step(config, vae, steps):
    """The SVI step of a config, for a run of `steps` steps."""
    objective = OBJECTIVES[config.objective.partition("(")[0]](config.particles)
    # fused: one kernel for the whole update; on a CPU it takes about a third of the time of torch's default loop.
    adam = {"lr": config.lr, "fused": True}
    if config.lr_schedule == "constant":
        optim = pyro.optim.Adam(adam)
    else:
        schedule = {"optimizer": torch.optim.Adam, "optim_args": adam, "lr_lambda": partial(_cosine, steps=max(steps, 1))}
        optim = pyro.optim.LambdaLR(schedule)
    return svi_step(vae.model, vae.guide, objective, optim, max_norm=config.max_norm)


def build_beta(config, steps_per_epoch):
    """The schedule of the weight of the KL term of a config."""
    steps = math.ceil(config.warmup_epochs * steps_per_epoch)
    schedules = {
        "constant": lambda: objectives.constant(config.beta),
        "linear": lambda: objectives.linear(config.beta_start, config.beta, steps),
        "cyclical": lambda: objectives.cyclical(config.beta_start, config.beta, steps, cycles=config.cycles),
    }
    return schedules[config.beta_schedule]()


def choose_device(name):
    """The torch device of `auto` (CUDA, else MPS, else the CPU) or of a name. Raises ConfigError for one that is absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"expected a device that this machine has, got {name!r}: {str(error).splitlines()[0]}") from None


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
