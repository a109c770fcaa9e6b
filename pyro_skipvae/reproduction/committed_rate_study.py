"""What `reproduce delta-vae-figure1` says: the rate that an AR(1) prior commits, computed; there is nothing to train."""

import numpy as np

from pyro_skipvae.priors import committed_rate
from pyro_skipvae.priors.ar1 import CEILING
from pyro_skipvae.reports import figures

PUBLISHED = {0.0: 0.0, 0.5: 0.14, 0.8: 0.51, 0.95: 1.17}  # of 2 steps, by correlation
LENGTHS, CORRELATIONS = (2, 8, 28, 64), (0.3, 0.5, 0.8, 0.95, 0.99)
FORMULA = """\
Nats of one channel, 1/2 [(T - 2) ln(1 + a^2) - ln(1 - a^2)] for T steps of correlation a. Published for 2 steps; the caption
there calls a the squared correlation, and the numbers are those of the correlation itself. 1.17 is 1.164 rounded up."""
PAPER = """\
The paper's two rates on CIFAR-10, one step for each of 32 rows: {low:.2f} bits of 8 channels with correlations evenly from
0.5 to 0.95 (published 79.44), and {high:.1f} bits of 64 channels from 0.5 to 0.99 (published 666.6)."""


def premise() -> list[str]:
    """The committed rates beside the published ones, as Markdown."""
    names = ["correlation", "published, 2 steps", *(f"{length} steps" for length in LENGTHS)]
    lines = [names, ["---"] * len(names)]
    for a, published in PUBLISHED.items():
        lines.append([f"{a:g}", f"{published:g}", *(f"{committed_rate(length, a):.3f}" for length in LENGTHS)])
    bits = {
        name: committed_rate(32, np.linspace(*ends, channels)) / np.log(2)
        for name, ends, channels in (("low", (0.5, 0.95), 8), ("high", (0.5, 0.99), 64))
    }
    return [FORMULA, "\n".join("| " + " | ".join(line) + " |" for line in lines), PAPER.format(**bits)]


def findings(table, entries) -> list[str]:
    """Nothing: no run decides it."""
    return []


def rates_figure():
    """The committed rate against correlation and length."""
    correlations, lengths = np.linspace(0, 0.99, 200), np.unique(np.geomspace(2, 256, 60).astype(int))
    by_correlation = {f"{n} steps": (correlations, [committed_rate(n, a) for a in correlations]) for n in LENGTHS}
    by_length = {f"correlation {a:g}": (lengths, [committed_rate(int(n), a) / n for n in lengths]) for a in CORRELATIONS}
    return figures.committed_rates(by_correlation, by_length, published=list(PUBLISHED.items()), ceiling=CEILING)


def contours_figure():
    """The prior of two steps, and the independent posterior that is nearest to it: mean 0, variances 1 - a^2."""
    panels = [
        (f"correlation {a:g}: {committed_rate(2, a):.2f} nats", [[1, a], [a, 1]], (1 - a * a) * np.eye(2)) for a in PUBLISHED
    ]
    return figures.normal_contours(panels)
