"""On average, and the more the deeper, skips do raise the information of a network at its start; and why.

    python examples/09_random_networks_and_theorem_1.py [--smoke]

The same random weights without and with skips; I_p(x; z) by quadrature over z, so that nothing is estimated but the mean.
"""

import sys

import matplotlib

from pyro_skipvae.reproduction.theorem import random_networks

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  after the choice of its backend

smoke = "--smoke" in sys.argv
depths = (1, 3) if smoke else (1, 3, 9)
figure, panels = pyplot.subplots(1, 2, figsize=(7, 3), sharey=True, layout="constrained")
for panel, (activation, gain, skip_gain) in zip(panels, (("tanh", 1.0, 1.0), ("relu", 1.4, 0.3)), strict=True):
    found = [random_networks(activation, layers=L, gain=gain, skip_gain=skip_gain, networks=5 if smoke else 40) for L in depths]
    for layers, nets in zip(depths, found, strict=True):
        difference, error = nets.difference.mean(), nets.difference.std() / len(nets.plain) ** 0.5
        print(
            f"{activation}, {layers} layers: {nets.plain.mean():.2f} nats without skips, {difference:+.2f} ± {error:.2f} with; "
            f"less with them in {nets.violating:.0%} of the networks; "
            f"{(nets.rescaled - nets.plain).mean():+.2f} by louder outputs alone"
        )
    for name in ("plain", "rescaled", "skip"):
        panel.plot(depths, [getattr(nets, name).mean() for nets in found], "o-", label=name)
    panel.set(title=activation, xlabel="hidden layers", xticks=depths)
panels[0].set_ylabel("I_p(x; z) in nats")
panels[0].legend(frameon=False)
figure.savefig("random-networks.png", dpi=150)
