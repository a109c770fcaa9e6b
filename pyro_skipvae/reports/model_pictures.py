"""What a trained model shows: samples, reconstructions, traversals, interpolations, posterior means; and its texts."""

import torch

from pyro_skipvae.diagnostics.estimates.moments import posterior_moments
from pyro_skipvae.reports import figures
from pyro_skipvae.text import generation as texts
from pyro_skipvae.text.decoding import interpolate

from .captions import EMBEDDED_POINTS

FEWEST_POINTS = 20  # fewer have no neighbourhoods to speak of
STEPS = (-3, -2, -1, 0, 1, 2, 3)  # of a traversal


def draw_pictures(record, vae, data):
    """What the model shows, as far as its data and latent variables admit: {file name: PNG, or lines of a text model}."""
    images, latent, drawn = figures.can_draw(data.event_shape), record.config.latent_dim > 0, {}
    if images:
        drawn["samples.png"] = draw_samples(vae)
    if images and latent:
        drawn["reconstructions.png"] = draw_reconstructions(vae, data)
        drawn["traversals.png"] = draw_traversals(vae, data, rates=record.report.get("rate_per_dimension"))
    if "test" in data.labels and record.config.latent_dim > 1 and len(data.test) >= FEWEST_POINTS:
        drawn |= {f"{name}.png": figure for name, figure in draw_posterior_means(vae, data).items()}
    said = write_texts(vae, data, latent=latent) if data.kind == "text" else {}
    return {**{name: figures.png(figure) for name, figure in drawn.items()}, **said}


def write_texts(vae, data, *, latent=True):
    """Samples, reconstructions and an interpolation of a text model, {file name: lines}, columns between tabs."""
    vocabulary, x = data.vocabulary, data.test[:8]
    rows = {"samples.txt": [(text,) for text in texts.samples(vae, vocabulary)]}
    if latent:
        rows["reconstructions.txt"] = texts.reconstructions(vae, vocabulary, x)
        between = texts.interpolation(vae, vocabulary, x[:1], x[1:2])
        rows["interpolation.txt"] = [(f"{weight:.2f}", text) for weight, text in between]
    return {name: "".join("\t".join(row) + "\n" for row in found) for name, found in rows.items()}


@torch.no_grad()
def draw_samples(vae, *, count=64, seed=0):
    """A grid of images from the model: z from the prior, x from the decoder."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return figures.prior_samples(vae.decoder(vae.prior().sample((count,))).sample().cpu())


@torch.no_grad()
def draw_reconstructions(vae, data, *, count=16, seed=0):
    """The first test images, the means of p(x|z) (absent for an autoregressive decoder) and samples of it."""
    x = data.test[:count].to(_device(vae))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoded = vae.decoder(vae.posterior(x).sample())
        drawn = decoded.sample().cpu()
    return figures.reconstructions(x.cpu(), _mean(decoded), drawn)


def draw_traversals(vae, data, *, rates=None, dimensions=10, item=0, values=STEPS, seed=0):
    """One test image, its posterior mean moved along one dimension of z at a time; see `traversed`.

    Means of p(x|z), or samples with the same noise in every column where an autoregressive decoder has none.
    """
    z, labels = traversed(vae, data, rates=rates, dimensions=dimensions, item=item, values=values, seed=seed)
    with torch.random.fork_rng(), torch.no_grad():
        images = torch.stack([_mean_or_sample(vae.decoder(column), seed) for column in z.unbind(1)], 1)
    return figures.latent_traversals(images, values=values, labels=labels)


@torch.no_grad()
def traversed(vae, data, *, rates=None, dimensions=10, item=0, values=STEPS, seed=0):
    """The posterior mean of a test item moved along one dimension at a time, z (rows, values, D), and labels of the rows.

    `values` in standard deviations of the prior; rows by decreasing rate (D,), or where that is not known by the variance
    of the posterior mean. Raises ValueError for an item that is not there.
    """
    x, points = item_of(data, item), 0 if rates else EMBEDDED_POINTS
    means = texts.posterior_means(vae, torch.cat([x, data.test[:points]]), seed)
    what = "rate" if rates else "variance"
    ranked = torch.tensor(rates) if rates else means[1:].var(0)
    rows = ranked.argsort(descending=True)[:dimensions].tolist()
    prior = vae.prior()
    z = means[0].repeat(len(rows), len(values), 1)  # (rows, values, D)
    for row, dimension in enumerate(rows):
        steps = torch.tensor(values, dtype=z.dtype, device=z.device)
        z[row, :, dimension] = prior.mean[dimension] + prior.stddev[dimension] * steps
    return z, [f"z {dimension}, {what} {ranked[dimension]:.2f}" for dimension in rows]


@torch.no_grad()
def draw_interpolation(vae, x_a, x_b, *, points=7, seed=0):
    """A row of images along the straight line between the posterior means of x_a and x_b, each (1, *event_shape)."""
    z = interpolate(*(texts.posterior_means(vae, x, seed)[0] for x in (x_a, x_b)), points)
    with torch.random.fork_rng():
        images = torch.cat([_mean_or_sample(vae.decoder(step), seed) for step in z.split(1)])
    weights = [round(weight, 2) for weight in torch.linspace(0, 1, points).tolist()]
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
    """Posterior means of the first test items coloured by class, {"tsne": figure, "pca": figure}."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        means = posterior_moments(vae.posterior(data.test[:points].to(_device(vae))))[0].cpu()
    classes = data.labels["test"][:points]
    accuracy = figures.neighbour_accuracy(means, classes, k=min(10, len(means) - 1))
    drawn = {"tsne": figures.tsne(means, seed=seed), "pca": figures.pca(means)}
    names = {"tsne": "t-SNE", "pca": "PCA"}
    return {
        name: figures.posterior_means(
            plane, classes, accuracy=accuracy, title=f"{names[name]} of {len(means):,} posterior means"
        )
        for name, plane in drawn.items()
    }


def _mean(decoded):
    """The mean of p(x|z); None for an autoregressive decoder, which has none in closed form."""
    try:
        return decoded.mean.cpu()
    except NotImplementedError:
        return None


def _mean_or_sample(decoded, seed):
    mean = _mean(decoded)
    if mean is None:
        torch.manual_seed(seed)
        mean = decoded.sample().cpu()
    return mean


def _device(vae):
    return next(vae.parameters()).device
