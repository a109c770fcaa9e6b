"""Draw the PixelCNNs trained on all of MNIST.

    python docs/pictures/pixelcnn.py               # pixelcnn.png, ELBO, rate and units by epoch of 9 layers, from
                                                   # results/table2-arms.json; pixelcnn_depth.png, by the number of layers, from
                                                   # results/; pixelcnn_tsne.png, posterior means, from results/figure2.json
    python docs/pictures/pixelcnn.py PLAIN SKIP    # pixelcnn_digits.png, draws of p(x|z), of two run folders
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from draw import save_rows

from pyro_skipvae import load_run
from pyro_skipvae.reports.figures import by_depth, posterior_means, runs_by_epoch, save_png
from pyro_skipvae.reproduction import load_table
from pyro_skipvae.reproduction.page import curve
from pyro_skipvae.reproduction.tables import CEILING, cells, read_results, results_of_others, validated

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "results"
ARMS = ("plain", "skip")
DRAWS = 2


def draw_epochs():
    """ELBO, rate and active units of the validation images by epoch."""
    entries = read_results(RESULTS / "table2-arms.json")
    of_row = {"KL warm-up": "", "no KL warm-up": ", no KL warm-up"}
    found = {(e["row"], e["arm"]): validated(e) for e in entries if e["seed"] == 0}
    runs = {arm + end: found[row, arm] for row, end in of_row.items() for arm in ARMS}
    save_png(runs_by_epoch(runs), HERE / "pixelcnn.png")


def draw_depth():
    """Figure 1 of the paper: rate and mutual information against the number of layers."""
    table = load_table("figure1", full_data=True)
    found = cells(table, results_of_others(table, RESULTS))
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    for (column, quantity), ax in zip({"kl": "KL (nats)", "mi": "MI (nats)"}.items(), axes, strict=True):
        curves = [curve(found, "PixelCNN", arm, column) for arm in ARMS]
        by_depth(curves, quantity=quantity, ax=ax, ceilings=[CEILING] if column == "mi" else ())
    axes[1].get_legend().remove()
    save_png(figure, HERE / "pixelcnn_depth.png")


def draw_tsne():
    """Figure 2 of the paper: posterior means of 2,000 test images by t-SNE."""
    entries = [entry for entry in read_results(RESULTS / "figure2.json") if entry["settings"].get("epochs") == 30]
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.1), layout="constrained")
    for arm, ax in zip(ARMS, axes, strict=True):
        numbers = next(entry for entry in entries if entry["arm"] == arm)["analysis"]["clusters"]
        plane = torch.tensor([numbers["x"], numbers["y"]]).T
        title = f"{arm}: {numbers['test_neighbours']:.1f} % among their class"
        posterior_means(plane, numbers["classes"], ax=ax, title=title)
        ax.get_legend().remove()
    save_png(figure, HERE / "pixelcnn_tsne.png")


@torch.no_grad()
def draw_digits(plain, skip):
    """The fourth test image of each digit, and draws of p(x|z) at its posterior mean, without skips and with them."""
    torch.manual_seed(0)
    (vae, data, _), (skip_vae, _, _) = load_run(plain), load_run(skip)
    images = data.test[[int((data.labels["test"] == digit).nonzero()[3]) for digit in range(10)]]
    rows = [("test image", images)]
    for name, model in (("VAE", vae), ("Skip-VAE", skip_vae)):
        z = model.posterior(images).mean
        rows += [(name if not draw else "", model.decoder(z).sample()) for draw in range(DRAWS)]
    save_rows(rows, HERE / "pixelcnn_digits.png", height=4.1)


if __name__ == "__main__":
    if sys.argv[1:]:
        draw_digits(*sys.argv[1:])
    else:
        draw_epochs()
        draw_depth()
        draw_tsne()
