"""Draw the pictures of the README from results/table3.json: python docs/pictures/draw.py [RUN, for reconstructions.png]."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from pyro_skipvae import load_run
from pyro_skipvae.reports import figures
from pyro_skipvae.reports.model_pictures import draw_reconstructions
from pyro_skipvae.reproduction.page import curve
from pyro_skipvae.reproduction.tables import cells, entry_for, load_table, read_results

HERE = Path(__file__).parent
ROW = "4 layers"


def main(run=None):
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
    if run:
        figures.save_png(draw_reconstructions(*load_run(run)[:2]), HERE / "reconstructions.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
