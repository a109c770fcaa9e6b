"""Draw docs/pictures/committed_rate.png: python docs/pictures/committed_rate.py."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from pyro_skipvae.priors import committed_rate
from pyro_skipvae.priors.ar1 import CEILING
from pyro_skipvae.reports.figures import save_png


def main():
    correlations, lengths = np.linspace(0, 0.99, 200), np.unique(np.geomspace(2, 256, 60).astype(int))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for length in (2, 8, 28, 64):
        left.plot(correlations, [committed_rate(length, a) for a in correlations], label=f"{length} steps")
    left.plot([0.5, 0.8, 0.95], [0.14, 0.51, 1.17], "kx", label="2 steps, as published")
    left.set(xlabel="correlation of neighbouring steps", ylabel="committed rate (nats a channel)", ylim=(0, 12))
    left.legend(frameon=False)
    for a in (0.3, 0.5, 0.8, 0.95, 0.99):
        right.plot(lengths, [committed_rate(int(n), a) / n for n in lengths], label=f"correlation {a}")
    right.axhline(CEILING, color="black", linestyle="--", linewidth=1)
    right.text(256, CEILING, "(ln 2)/2", ha="right", va="bottom", fontsize=9)
    right.set(xlabel="steps", ylabel="nats a step and channel", xscale="log", ylim=(0, None))
    right.legend(frameon=False)
    save_png(figure, Path(__file__).with_name("committed_rate.png"))


if __name__ == "__main__":
    main()
