"""What a table asks of a trained model beyond its report: plain numbers, kept in its results.

An analysis is a function (vae, data, config) -> {name: number, or list of numbers}. Accuracies are in percent, each with its
standard error over test items under NAME_error.
"""

import torch

from pyro_skipvae.diagnostics.estimates import probes
from pyro_skipvae.diagnostics.estimates.moments import posterior_moments
from pyro_skipvae.reports.figures import neighbour_accuracy, tsne
from pyro_skipvae.runs.build import build_vae, choose_device
from pyro_skipvae.runs.folder import load_run

CHUNK = 1000
EMBEDDED_POINTS = 2000  # t-SNE of these takes half a minute


def analyse(name, path, *, device="cpu"):
    """The numbers of an analysis of a finished run. Raises ValueError for a name that does not exist."""
    if name not in ANALYSES:
        raise ValueError(f"unknown analysis {name!r}: expected {', '.join(ANALYSES)}")
    return ANALYSES[name](*load_run(path, device=choose_device(device)))


def classification(vae, data, config):
    """What probes read out of posterior means, and out of those of the encoder as it was before training.

    They learn from the training split, of which one draw is encoded where it is binarised afresh, and are asked about the test
    split; the silhouette is that of its items. The random encoder is that of the run's own seed.
    """
    _check_classes(data)
    found = {}
    for prefix, model in (("", vae), ("random_", _untrained(config, data).to(_device(vae)))):
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


ANALYSES = {"classification": classification, "clusters": clusters}


def posterior_means(vae, items, *, seed=0):
    """E_q[z|x] of each item, (N, D) on the CPU; what is drawn, pixels or a refinement's noise, is drawn from the seed."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        parts = [items[first : first + CHUNK].to(_device(vae)) for first in range(0, len(items), CHUNK)]
        return torch.cat([posterior_moments(vae.posterior(x))[0].flatten(1).cpu() for x in parts])


def _untrained(config, data):
    """The model as it was before its first step."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return build_vae(config, data).eval()


def _check_classes(data):
    if "test" not in data.labels:
        raise ValueError(f"expected data with classes, got {data.name}, which has none")


def _device(vae):
    return next(vae.parameters()).device
