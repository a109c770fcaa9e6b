"""A skip that lowers the information of x and z: theorem 1 of the Skip-VAE paper does not hold for all weights.

    python examples/08_counter_example_to_theorem_1.py [--smoke]

x = (2 + c) z + noise, where c is the weight of the skip; I_p(x; z) in closed form and between Monte Carlo bounds.
"""

import sys

import matplotlib
import pyro
import torch

from pyro_skipvae.diagnostics import model_mutual_information
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.reproduction.theorem import CounterExampleDecoder, counter_example

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  after the choice of its backend


def pair_of(c):
    """p(z) p(x|z) in Pyro; without c the decoder is the one without the skip."""
    prior, decoder = StandardNormal(2), CounterExampleDecoder(c)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", decoder(z), obs=x)

    return model


samples = 300 if "--smoke" in sys.argv else 3000
weights = (-4.0, -3.0, -2.0, -1.9, -1.0, 0.0, 1.0)
bounds = [model_mutual_information(pair_of(c), torch.zeros(samples, 2), samples=samples) for c in weights]
plain = counter_example(0.0)
for c, found in zip(weights, bounds, strict=True):
    exact, told = counter_example(c), "less than without the skip" if counter_example(c) < plain else ""
    print(f"c = {c:4.1f}   I_p {exact:.3f} nats, Monte Carlo [{found.lower.low:.3f}, {found.upper.high:.3f}]   {told}")

fine = torch.linspace(-5, 2, 400).tolist()
figure, axes = pyplot.subplots(figsize=(5, 3), layout="constrained")
axes.plot(fine, [counter_example(c) for c in fine], label="closed form")
axes.vlines(
    weights, [b.lower.low for b in bounds], [b.upper.high for b in bounds], color="C1", lw=3, label="Monte Carlo bounds"
)
axes.axhline(plain, color="grey", ls=":", label="without the skip")
axes.set(xlabel="weight c of the skip", ylabel="I_p(x; z) in nats")
axes.legend(frameon=False)
figure.savefig("counter-example.png", dpi=150)
