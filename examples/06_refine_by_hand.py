"""Semi-amortized inference written out as a nested SVI loop over each datapoint's own parameters, and the traps of doing so.

    python examples/06_refine_by_hand.py [SEED] [--smoke]

`SemiAmortized` does the same functionally, without these traps and with the exact gradient (example 07).
"""

import sys

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import nn

from pyro_skipvae import load_data

pyro.set_rng_seed(next((int(given) for given in sys.argv[1:] if given.isdigit()), 0))
D = 10
encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.Tanh(), nn.Linear(200, 2 * D))
decoder = nn.Sequential(nn.Linear(D, 200), nn.Tanh(), nn.Linear(200, 64))


def model(x):  # Trap: with pyro.module("decoder", decoder) here, every inner step would train the decoder as well.
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x.flatten(1))


def sample_z(x, loc, log_variance):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, (log_variance / 2).exp()).to_event(1))


def refine(x, loc, log_variance, steps):
    """The parameters (B, D) of each datapoint's own posterior after `steps` of SVI from the given ones on."""
    # Trap: the store would start from the last batch's locals, and raise at a smaller last batch. So it is emptied.
    pyro.clear_param_store()

    def local_guide(x):
        # Trap: the store holds detached copies. Without the line in capitals below, the encoder would never learn.
        locals_ = pyro.param("loc", loc.detach().clone()), pyro.param("log_variance", log_variance.detach().clone())
        sample_z(x, *locals_)

    inner = SVI(model, local_guide, pyro.optim.SGD({"lr": 1 / 32, "momentum": 0.5}), TraceMeanField_ELBO())
    for _ in range(steps):
        inner.step(x)
    decoder.zero_grad()  # Trap: each inner step left a gradient on the decoder; the outer step would add them to its own.
    return pyro.param("loc").detach(), pyro.param("log_variance").detach()


data, elbo = load_data("digits"), TraceMeanField_ELBO()
optim = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
for _ in range(1 if "--smoke" in sys.argv else 30):
    for x in data.batches("train", 64, seed=0):
        start = encoder(x).chunk(2, dim=-1)
        refined = refine(x, *start, steps=10)
        through = [s + (r - s).detach() for s, r in zip(start, refined, strict=True)]  # THE LINE: d refined / d start = 1
        loss = elbo.differentiable_loss(model, lambda x, through=through: sample_z(x, *through), x) / len(x)
        optim.zero_grad()
        loss.backward()
        optim.step()

x = data.test[:]
start = encoder(x).chunk(2, dim=-1)
for name, q in {"amortized": start, "refined": refine(x, *start, steps=10)}.items():
    print(f"{name}: ELBO {-elbo.loss(model, lambda x, q=q: sample_z(x, *q), x) / len(x):.2f} nats per image")
