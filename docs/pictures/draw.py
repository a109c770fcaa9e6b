"""Draw the pictures of README and docs.

    python docs/pictures/draw.py                        # depth.png and rate.png, from results/table3.json
    python docs/pictures/draw.py runs/plain runs/skip   # digits.png, of two runs on MNIST:
        skipvae-pyro train --dataset mnist --decoder mlp --layers 9 --epochs 5 --limit-eval 2000 --model vae --out runs/plain
        skipvae-pyro train --dataset mnist --decoder mlp --layers 9 --epochs 5 --limit-eval 2000 --out runs/skip
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from pyro_skipvae import load_data, load_run
from pyro_skipvae.reports import figures
from pyro_skipvae.reproduction.page import curve
from pyro_skipvae.reproduction.tables import cells, entry_for, load_table, read_results

HERE = Path(__file__).parent
ROW = "4 layers"


def draw_digits(plain, skip):
    """The fourth test image of each digit, and the mean of p(x|z) at its posterior mean, without skips and with them."""
    (vae, data, _), (skip_vae, _, _) = load_run(plain), load_run(skip)
    found = [int((data.labels["test"] == digit).nonzero()[3]) for digit in range(10)]
    rows = {"test image": load_data("mnist", binarisation="none").test[found]}
    for name, model in (("VAE", vae), ("Skip-VAE", skip_vae)):
        with torch.no_grad():
            rows[name] = model.decoder(model.posterior(data.test[found]).mean).mean
    save_rows(list(rows.items()), HERE / "digits.png", height=2.5)


def save_rows(rows, path, *, height):
    """Draw rows of images, [(what stands before the row, images)], dark on white."""
    figure, axes = plt.subplots(len(rows), len(rows[0][1]), figsize=(8, height), gridspec_kw={"wspace": 0.05, "hspace": 0.05})
    for line, (name, images) in zip(axes, rows, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
        for ax, image in zip(line, images, strict=True):
            ax.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def draw_table3():
    """The rate of each dimension of a plain and a skip model, and the KL against the depth."""
    table = load_table("table3")
    entries = read_results(HERE.parents[1] / "results" / "table3.json")
    figure, axes = plt.subplots(2, 1, figsize=(6.4, 5.6), sharey=True, layout="constrained")
    for arm, ax in zip(("plain", "skip"), axes, strict=True):
        planned = next(r for r in table.runs if (r.row, r.arm, r.seed) == (ROW, arm, 0))
        figures.rate_per_dimension(entry_for(planned, entries)["report"]["rate_per_dimension"], ax=ax)
        ax.set_title(f"{ROW}, {arm}: {ax.get_title('left')}", loc="left")
    axes[0].set_xlabel("")
    figures.save_png(figure, HERE / "rate.png")
    found = {(f"MLP, {row}", arm): columns for (row, arm), columns in cells(table, entries).items()}
    curves = [curve(found, "MLP", arm, "kl") for arm in ("plain", "skip")]
    figures.save_png(figures.by_depth(curves, quantity="KL(q(z|x) || p(z)) (nats)"), HERE / "depth.png")


if __name__ == "__main__":
    draw_digits(*sys.argv[1:]) if sys.argv[1:] else draw_table3()
