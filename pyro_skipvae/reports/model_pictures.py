"""What a trained model shows: samples, reconstructions, traversals, interpolations, posterior means; and its texts."""

from dataclasses import dataclass

import numpy as np
import torch

from pyro_skipvae.diagnostics.estimates.moments import posterior_moments
from pyro_skipvae.modules import device_of
from pyro_skipvae.priors import AR1, UniformCategorical
from pyro_skipvae.random_numbers import forked
from pyro_skipvae.reports import figures
from pyro_skipvae.text import generation as texts
from pyro_skipvae.text.decoding import interpolate, on_support
from pyro_skipvae.text.printable import printable

from .captions import DIMENSIONS, EMBEDDED_POINTS
from .decoder_use import layers_moved, losses_of

WHOLE = ("uniform-categorical", "uniform-sphere")  # priors of z without dimensions of their own: codes, places on a sphere
FEWEST_POINTS = 20  # fewer have no neighbourhoods to speak of
DECODED = 500  # images that are decoded together
STEPS = (-3, -2, -1, 0, 1, 2, 3)  # of a traversal


def draw_pictures(record, vae, data):
    """What the model shows, as far as its data and latent variables admit: {file name: PNG, or lines of a text model}."""
    images, latent, drawn = figures.can_draw(data.event_shape), record.config.latent_dim > 0, {}
    if images:
        drawn["samples.png"] = draw_samples(vae, data.kind)
    if images and latent:
        drawn["reconstructions.png"] = draw_reconstructions(vae, data)
    if images and latent and record.config.prior != "uniform-categorical":  # between two codes there is nothing
        drawn["traversals.png"] = draw_traversals(vae, data, rates=record.report.get("rate_per_dimension"))
    if latent:
        known = record.report.get("card", {}).get("decoder_layers")
        drawn["layers.png"] = figures.layer_sensitivities(known or layers_moved(vae, data))
        if record.config.prior not in WHOLE:
            drawn["dimensions.png"] = draw_dimension_losses(vae, data, rates=record.report.get("rate_per_dimension"))
    if "test" in data.labels and record.config.latent_dim > 1 and len(data.test) >= FEWEST_POINTS:
        drawn |= {f"{name}.png": figure for name, figure in draw_posterior_means(vae, data).items()}
    said = write_texts(vae, data, latent=latent) if data.kind == "text" else {}
    return {**{name: figures.png(figure) for name, figure in drawn.items()}, **said}


def draw_dimension_losses(vae, data, *, rates=None):
    """What the decoder loses for each of the dimensions of the largest rate, or, where that is not known, variance."""
    _, ranked, _ = start_of(vae, data, rates, 0, 0)
    chosen = ranked.argsort(descending=True, stable=True)[:DIMENSIONS].tolist()
    losses = [(loss.value, loss.low, loss.high) for loss in losses_of(vae, data, chosen)]
    return figures.dimension_losses(losses, [place(dimension, vae.prior().event_shape) for dimension in chosen])


def write_texts(vae, data, *, latent=True):
    """Samples, reconstructions and an interpolation of a text model, {file name: lines}, columns between tabs."""
    vocabulary, x = data.vocabulary, data.test[:8]
    rows = {"samples.txt": [(text,) for text in texts.samples(vae, vocabulary)]}
    if latent:
        rows["reconstructions.txt"] = texts.reconstructions(vae, vocabulary, x)
    if latent and not isinstance(vae.prior, UniformCategorical):  # between two codes there is nothing
        between = texts.interpolation(vae, vocabulary, x[:1], x[1:2])
        rows["interpolation.txt"] = [(f"{weight:.2f}", text) for weight, text in between]
    return {name: "".join("\t".join(map(printable, row)) + "\n" for row in found) for name, found in rows.items()}


@dataclass(frozen=True)
class Draws:
    """z (N, D) from the prior; x (N, *event_shape) drawn from p(x|z); the means of p(x|z), or None where it has none."""

    z: torch.Tensor
    x: torch.Tensor
    means: torch.Tensor | None


@torch.no_grad()
def draws_of(vae, *, count, seed=0):
    """`Draws` from a model, on the CPU. The random numbers of the caller stay as they were."""
    with forked([device_of(vae)], seed):
        z = vae.prior().sample((count,))
        parts = [(p.sample().cpu(), mean_of(p)) for p in map(vae.decoder, z.split(DECODED))]
    means = None if parts[0][1] is None else torch.cat([mean for _, mean in parts])
    return Draws(z.cpu(), torch.cat([x for x, _ in parts]), means)


def draw_samples(vae, kind="grey", *, count=None, mean=False, seed=0):
    """A grid of images from the model: z from the prior, means of p(x|z) above draws from it; of `count` z, or 64 images.

    `kind` is that of the data. With `mean` there are means alone; an autoregressive decoder has draws alone. Raises ValueError
    for means that the decoder does not have.
    """
    drawn = draws_of(vae, count=count or 64, seed=seed)
    if mean:
        return figures.prior_samples(as_grey(means_of(drawn), kind))
    if drawn.means is None:
        return figures.prior_samples(as_grey(drawn.x, kind))
    shown = count or 32
    return figures.samples(as_grey(drawn.means[:shown], kind, like=drawn.x), as_grey(drawn.x[:shown], kind, like=drawn.x))


def means_of(drawn):
    """The means of some draws. Raises ValueError where the decoder has none."""
    if drawn.means is None:
        raise ValueError("expected a decoder whose p(x|z) has a mean in closed form for --mean, got an autoregressive one; "
                         "leave --mean out to draw from it")  # fmt: skip
    return drawn.means


def as_grey(images, kind, *, like=None):
    """Images as greys in [0, 1]. Real values and counts have no black and white of their own: 1st to 99th percentile of `like`.

    `like` is the images themselves by default.
    """
    if kind not in ("real", "count"):
        return images
    values = np.asarray(images if like is None else like, dtype=float)
    low, high = np.percentile(values, (1, 99))
    return (torch.as_tensor(images, dtype=torch.float64) - low) / ((high - low) or 1.0)


@torch.no_grad()
def draw_reconstructions(vae, data, *, count=16, seed=0):
    """The first test images, the means of p(x|z) (absent for an autoregressive decoder) and samples of it."""
    x = data.test[:count].to(device_of(vae))
    with forked([x.device], seed):
        decoded = vae.decoder(vae.posterior(x).sample())
        drawn = decoded.sample().cpu()
    rows = [None if row is None else as_grey(row, data.kind, like=x.cpu()) for row in (x.cpu(), mean_of(decoded), drawn)]
    return figures.reconstructions(*rows)


def draw_traversals(vae, data, *, rates=None, dimensions=10, item=0, values=STEPS, seed=0, kind=None):
    """One test image, its posterior mean moved along one dimension of z at a time; see `traversed`, also for no `data`.

    `kind` is that of the data, for where these are absent. Means of p(x|z), or samples with the same noise in every column
    where an autoregressive decoder has none.
    """
    z, labels = traversed(vae, data, rates=rates, dimensions=dimensions, item=item, values=values, seed=seed)
    images = torch.stack([mean_or_sample(vae.decoder, column, seed) for column in z.unbind(1)], 1)
    images = as_grey(images, data.kind if data is not None else kind)
    return figures.latent_traversals(images, values=values, labels=labels)


@torch.no_grad()
def traversed(vae, data, *, rates=None, dimensions=10, item=0, values=STEPS, seed=0):
    """The posterior mean of a test item moved along one dimension at a time, z (rows, values, D), and labels of the rows.

    Of a sequence z each step and channel is a dimension, and z is (rows, values, T, C). `values` in standard deviations of
    the prior; rows by decreasing rate (D,), or variance of the posterior mean (see `start_of`). Where `data` is None, a draw
    from the prior is moved instead. Raises ValueError for an item that is not there.
    """
    if isinstance(vae.prior, UniformCategorical):
        raise ValueError("expected latent variables that can be moved for a traversal, got codes")
    start, ranked, by = start_of(vae, data, rates, item, seed)
    rows = ranked.argsort(descending=True, stable=True)[:dimensions].tolist()
    prior = vae.prior()
    mean, deviation = prior_moments(prior, start.device, seed)
    shape = prior.event_shape
    z = start.repeat(len(rows), len(values), 1)  # (rows, values, D)
    for row, dimension in enumerate(rows):
        steps = torch.tensor(values, dtype=z.dtype, device=z.device)
        z[row, :, dimension] = mean[dimension] + deviation[dimension] * steps
    labels = [f"z {place(d, shape)}, {by} {ranked[d]:.2f}" if by else f"z {place(d, shape)}" for d in rows]
    return on_support(vae.prior, z.unflatten(-1, shape)), labels


def prior_moments(prior, device, seed):
    """Mean and standard deviation of each dimension of z, (D,) twice; those of draws where it does not say them."""
    with forked([device], seed):
        return tuple(moment.flatten() for moment in posterior_moments(prior, draws=1000))


def place(dimension, shape):
    """What a dimension of z is called: its number, or step and channel of a sequence."""
    return str(dimension) if len(shape) == 1 else "{}.{}".format(*divmod(dimension, shape[1]))


def start_of(vae, data, rates, item, seed):
    """Where a traversal starts, z (D,), a number for each dimension by which its rows are ranked, and what that is.

    It is the rate or the variance of the posterior mean; "" and zeros where neither is known. By the rate no sequence z is
    ranked, since the part that an AR(1) prior commits is no use that is made of z.
    """
    rates = None if isinstance(vae.prior, AR1) else rates
    if data is None:
        with forked([device_of(vae)], seed):
            start = vae.prior().sample().flatten()
        return (start, torch.tensor(rates), "rate") if rates else (start, torch.zeros(len(start)), "")
    x, points = item_of(data, item), 0 if rates else EMBEDDED_POINTS
    means = texts.posterior_means(vae, torch.cat([x, data.test[:points]]), seed).flatten(1)
    return (means[0], torch.tensor(rates), "rate") if rates else (means[0], means[1:].var(0), "variance")


@torch.no_grad()
def draw_interpolation(vae, x_a, x_b, *, kind="grey", points=7, seed=0):
    """A row of images along the straight line between the posterior means of x_a and x_b, each (1, *event_shape)."""
    z = on_support(vae.prior, interpolate(*(texts.posterior_means(vae, x, seed)[0] for x in (x_a, x_b)), points))
    images = torch.cat([mean_or_sample(vae.decoder, step, seed) for step in z.split(1)])
    weights = [round(weight, 2) for weight in torch.linspace(0, 1, points).tolist()]
    images = as_grey(images, kind, like=torch.cat([x_a, x_b]).cpu())
    figure = figures.latent_traversals(images[None], values=weights, labels=[""])
    figure.axes[0].set_xlabel("weight of the second image")
    return figure


def item_of(data, number):
    """The test item of that number, (1, *event_shape). Raises ValueError where there is none."""
    if not 0 <= number < len(data.test):
        raise ValueError(f"expected a test item in 0..{len(data.test) - 1}, got {number}")
    return data.test[number : number + 1]


@torch.no_grad()
def draw_posterior_means(vae, data, *, points=EMBEDDED_POINTS, seed=0):
    """Posterior means of the first test items coloured by class, {"tsne": figure, "pca": figure}; {} where all are the same."""
    device = device_of(vae)
    with forked([device], seed):
        means = posterior_moments(vae.posterior(data.first("test", points).to(device)))[0].flatten(1).cpu()
    if (means == means[0]).all():  # there is no plane to lay them in
        return {}
    classes = data.labels["test"][data.places("test", points)]
    accuracy = figures.neighbour_accuracy(means, classes, k=min(10, len(means) - 1))
    drawn = {"tsne": figures.tsne(means, seed=seed), "pca": figures.pca(means)}
    names = {"tsne": "t-SNE", "pca": "PCA"}
    about = {"accuracy": accuracy, "class_names": data.class_names}
    return {
        name: figures.posterior_means(plane, classes, title=f"{names[name]} of {len(means):,} posterior means", **about)
        for name, plane in drawn.items()
    }


def mean_of(decoded):
    """The mean of p(x|z); None for an autoregressive decoder, which has none in closed form."""
    try:
        return decoded.mean.cpu()
    except NotImplementedError:
        return None


@torch.no_grad()
def mean_or_sample(decoder, z, seed):
    """The means of p(x|z), or where it has none draws, those of the seed."""
    decoded = decoder(z)
    if (mean := mean_of(decoded)) is not None:
        return mean
    with forked([z.device], seed):
        return decoded.sample().cpu()
