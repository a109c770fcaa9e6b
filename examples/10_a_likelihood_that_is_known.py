"""How good is importance sampling? Sentences of a model whose likelihood is known, scored by its own parameters.

The proposal is a posterior that knows nothing (the prior), then the same refined by SVI steps: the truth stays, the error
falls. Both estimates are lower bounds on average.

    python examples/10_a_likelihood_that_is_known.py [--smoke]
"""

import sys

import torch
from pyro.distributions import Normal
from torch import nn

from pyro_skipvae import VAE, load_data
from pyro_skipvae.data.synthetic import synthetic_oracle, true_log_likelihood
from pyro_skipvae.diagnostics import log_likelihood
from pyro_skipvae.guides import SemiAmortized
from pyro_skipvae.priors import StandardNormal


class PriorAsEncoder(nn.Module):
    """q(z|x) = p(z): the start of stochastic variational inference, in which no encoder has a part."""

    def forward(self, x):
        return Normal(torch.zeros(len(x), 2), 1.0).to_event(1)


smoke = "--smoke" in sys.argv
x = load_data("synthetic-text").test[: 2 if smoke else 100]
truth = true_log_likelihood(x).mean()  # by quadrature over the two latent numbers
print(f"{len(x)} sentences, truth {truth:.4f} nats each\n\nK      proposal   estimate    error, with its deviation over seeds")

vae = VAE(StandardNormal(2), synthetic_oracle().eval(), PriorAsEncoder())
proposals = {"prior": vae.guide, "refined": SemiAmortized(vae.model, vae.guide, steps=20)}
for samples in (20,) if smoke else (20, 200, 1000):
    for name, guide in proposals.items():
        values = [log_likelihood(vae.model, guide, x, importance_samples=samples, seed=seed).value for seed in range(3)]
        mean, deviation = torch.tensor(values).mean(), torch.tensor(values).std()
        print(f"{samples:<6} {name:9}  {mean:9.4f}   {mean - truth:+.4f} +- {deviation:.4f}")
