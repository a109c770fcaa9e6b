"""Draw docs/pictures/counter_example.png and gradients.png: python docs/pictures/tried.py."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from pyro_skipvae.reports.figures import PALETTE, save_png
from pyro_skipvae.reproduction.theorem import counter_example

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "results"


def draw_counter_example():
    weights = np.linspace(-5, 2, 400)
    figure, axes = plt.subplots(figsize=(6.4, 3), layout="constrained")
    axes.plot(weights, [counter_example(c) for c in weights], color=PALETTE[0], lw=2)
    axes.axhline(counter_example(0.0), color="#6b6b6b", ls=":", lw=1)
    axes.set(xlabel="weight c of the skip", ylabel="I_p(x; z) in nats", ylim=(0, None))
    save_png(figure, HERE / "counter_example.png")


def draw_gradients():
    files = {"MLP with ReLU, 8x8 digits": "gradients-digits.json", "LSTM, text": "gradients-pydoc.json"}
    figure, axes = plt.subplots(figsize=(6.4, 3), layout="constrained")
    for place, (name, file) in enumerate(files.items()):
        rows = json.loads((RESULTS / file).read_text())["gradients"]
        heights = [row["encoder_cosine"] for row in rows]
        axes.bar(np.arange(len(rows)) + 0.4 * place - 0.2, heights, 0.38, color=PALETTE[place], label=name)
    axes.set_xticks(range(len(rows)), [row["gradient"] for row in rows])
    axes.set(ylabel="cosine to the exact gradient", ylim=(0, 1.05))
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=2)
    save_png(figure, HERE / "gradients.png")


if __name__ == "__main__":
    draw_counter_example()
    draw_gradients()
