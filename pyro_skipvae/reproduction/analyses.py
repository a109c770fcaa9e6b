"""What a table asks of a trained model beyond its report: plain numbers, kept in its results.

An analysis is a function (vae, data, config) -> {name: number, or list of numbers}. Accuracies are in percent, each with its
standard error over test items under NAME_error.
"""

import torch

from pyro_skipvae.diagnostics.estimates import probes
from pyro_skipvae.diagnostics.estimates.moments import posterior_moments
from pyro_skipvae.modules import device_of
from pyro_skipvae.random_numbers import forked
from pyro_skipvae.reports.figures import neighbour_accuracy, tsne
from pyro_skipvae.runs import auxiliary
from pyro_skipvae.runs.build import build_vae, choose_device
from pyro_skipvae.runs.folder import load_run

CHUNK = 1000
EMBEDDED_POINTS = 2000  # t-SNE of these takes half a minute
ROWS, COLUMNS = 6, 8  # of a grid of images


def analyse(name, path, *, device="cpu"):
    """The numbers of an analysis of a finished run. Raises ValueError for a name that does not exist."""
    if name in OF_A_RUN:
        return OF_A_RUN[name](path, device=choose_device(device))
    if name not in ANALYSES:
        raise ValueError(f"unknown analysis {name!r}: expected {', '.join((*ANALYSES, *OF_A_RUN))}")
    return ANALYSES[name](*load_run(path, device=choose_device(device)))


def classification(vae, data, config):
    """What probes read out of posterior means, and out of those of the encoder as it was before training.

    They learn from the training split, of which one draw is encoded where it is binarised afresh, and are asked about the test
    split; the silhouette is that of its items. The random encoder is that of the run's own seed.
    """
    _check_classes(data)
    found = {}
    for prefix, model in (("", vae), ("random_", _untrained(config, data).to(device_of(vae)))):
        train, test = (posterior_means(model, getattr(data, split)) for split in ("train", "test"))
        items = (train, data.labels["train"], test, data.labels["test"])
        accuracies = {"mlp_probe": probes.mlp_probe(*items), "linear_probe": probes.linear_probe(*items)}
        if not prefix:
            accuracies["neighbours"] = probes.nearest_neighbours(*items)
            found["silhouette"] = round(probes.silhouette(test, data.labels["test"]), 4)
        for name, accuracy in accuracies.items():
            found[prefix + name] = round(100 * accuracy.value, 4)
            found[f"{prefix}{name}_error"] = round(100 * accuracy.standard_error, 4)
    return found


def linear_probe(vae, data, config):
    """What a linear probe reads out of posterior means of the test items, learned from those of the training items."""
    _check_classes(data)
    if config.latent_dim == 0:
        return {}
    train, test = (posterior_means(vae, getattr(data, split)) for split in ("train", "test"))
    accuracy = probes.linear_probe(train, data.labels["train"], test, data.labels["test"])
    return {"linear_probe": round(100 * accuracy.value, 4), "linear_probe_error": round(100 * accuracy.standard_error, 4)}


def auxiliary_draws(run, *, device="cpu", seed=0):
    """Images from the auxiliary prior of a run, as `draws_by_latent` has them, black and white: a whole number for each row.

    Its bits, from the highest, are the pixels from the left. `same` holds ROWS times COLUMNS images, a row for each z;
    `different` as many, each from a z of its own.
    """
    found = load_run(run, device=device)
    if found.about.kind != "binary":
        raise ValueError(f"expected black and white images, got {found.about.kind} values")
    prior = auxiliary.load(run, device)
    drawn = draws_by_latent(prior(), found.vae.decoder, rows=ROWS, columns=COLUMNS, seed=seed, device=device)
    packed = {name: _packed(images) for name, images in zip(("same", "different"), drawn, strict=True)}
    return {"rows": ROWS, "columns": COLUMNS, "width": found.about.event_shape[-1], **packed}


@torch.no_grad()
def draws_by_latent(prior, decoder, *, rows, columns, seed=0, device="cpu"):
    """`columns` draws of x for each of `rows` draws of z, and one of x for each of rows * columns others, both (N, *event).

    Random numbers of the caller stay as they were. Reference: Razavi et al. 2019, figure 3.
    """
    with forked([torch.device(device)], seed):
        same = decoder(prior.sample((rows,)).repeat_interleave(columns, 0)).sample()
        return same, decoder(prior.sample((rows * columns,))).sample()


def unpacked(packed, width):
    """Images (N, height, width) of 0 and 1 from the whole numbers of all their rows; images are square."""
    rows = torch.tensor(packed, dtype=torch.int64)[:, None]
    return (rows >> torch.arange(width - 1, -1, -1) & 1).view(-1, width, width)


def _packed(images):
    width = images.shape[-1]
    return (images.cpu().long() << torch.arange(width - 1, -1, -1)).sum(-1).flatten().tolist()


def clusters(vae, data, config):
    """Posterior means of the first 2,000 test items by t-SNE, with their classes; scores of all test items in the latent space.

    The share of items whose class is the commonest among their 10 nearest others, in percent, and the silhouette: what lies
    apart in the plane of t-SNE need not do so in the latent space, nor the other way round.
    """
    _check_classes(data)
    means, classes = posterior_means(vae, data.test), data.labels["test"]
    plane = tsne(means[:EMBEDDED_POINTS])
    share = neighbour_accuracy(means, classes)
    return {
        "test_neighbours": round(100 * share, 4),
        "test_neighbours_error": round(100 * (share * (1 - share) / len(means)) ** 0.5, 4),
        "silhouette": round(probes.silhouette(means, classes), 4),
        **{name: [round(float(value), 1) for value in values] for name, values in zip("xy", plane.T, strict=True)},
        "classes": classes[:EMBEDDED_POINTS].tolist(),
    }


ANALYSES = {"classification": classification, "clusters": clusters, "linear-probe": linear_probe}
OF_A_RUN = {"auxiliary-draws": auxiliary_draws}  # these read more of the folder than its model


def posterior_means(vae, items, *, seed=0):
    """E_q[z|x] of each item, (N, D) on the CPU; what is drawn, pixels or a refinement's noise, is drawn from the seed."""
    device = device_of(vae)
    with forked([device], seed), torch.no_grad():
        parts = [items[first : first + CHUNK].to(device) for first in range(0, len(items), CHUNK)]
        return torch.cat([posterior_moments(vae.posterior(x))[0].flatten(1).cpu() for x in parts])


def _untrained(config, data):
    """The model as it was before its first step."""
    with forked([torch.device("cpu")], config.seed):
        return build_vae(config, data).eval()


def _check_classes(data):
    if "test" not in data.labels:
        raise ValueError(f"expected data with classes, got {data.name}, which has none")
