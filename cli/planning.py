"""`predict`: which directions of data a latent variable can carry, before anything is trained."""

import json

import click

from .commands import JSON, examples
from .echo import echo
from .errors import UserError, user_errors
from .options import Grouped, settings, some_config_options

LIKELIHOODS = {"binary": "bernoulli", "count": "poisson"}  # kind of the values -> what is usual for them, else normal


@click.command(
    cls=Grouped,
    epilog=examples(
        "predict --dataset digits",
        "predict --dataset digits --binarisation none --sigma 0.2 --beta 4",
        "predict --dataset mnist --limit-train 10000 --json",
    ),
)
@some_config_options("dataset", "data_dir", "download", "binarisation", "limit_train", "latent_dim")
@click.option(
    "--sigma",
    type=float,
    help="standard deviation of p(x|z) in units of the data  [default: learned; of 0 and 1 and of counts, that at their mean]",
)
@click.option("--beta", type=float, default=1.0, show_default=True, help="weight of the KL term")
@JSON
def predict(sigma, beta, as_json, **options):
    """Predict, before training, which directions of the data z can encode at a noise and a beta, and where they collapse.

    This is exact for linear models, by the variances of the training data along their principal directions; for other networks
    it is a guide. For the beta of a loss that is made of sums and means see pyro_skipvae.diagnostics.effective_beta.
    """
    with user_errors():
        flags = settings(None, None, options)
    from pyro_skipvae.diagnostics import predict_collapse

    from .job import make_config

    config, data = make_config(flags, resume=None)
    if data.kind == "text":
        raise UserError(f"expected images or rows of numbers, got the text {config.dataset}: words have no variances")
    likelihood = "normal" if sigma is not None else LIKELIHOODS.get(data.kind, "normal")
    with user_errors():
        found = predict_collapse(data.train, sigma, beta, latent_dim=config.latent_dim, likelihood=likelihood)
    echo(json.dumps({"schema": 1, "dataset": config.dataset, **found.to_dict()}) if as_json else str(found))
