"""Sizes, shares and norms that nothing can be made of are refused where they are given, by name."""

import math

import pyro.optim
import pytest
import torch

from pyro_skipvae import VAE, collapse_report, svi_step
from pyro_skipvae.decoders import ConvolutionalDecoder, LSTMDecoder, MLPDecoder, PixelCNNDecoder, TransformerDecoder
from pyro_skipvae.distributions import DiscretisedLogistic, GreyLevels, OneHot
from pyro_skipvae.encoders import MLPEncoder, PixelCNNEncoder, ResNetEncoder
from pyro_skipvae.guides import SemiImplicitNormal
from pyro_skipvae.likelihoods import categorical, colour_logistics, discretised_logistic
from pyro_skipvae.objectives import elbo, iwae
from pyro_skipvae.priors import MixtureOfNormals, StandardNormal, VampPrior
from pyro_skipvae.schedules import cyclical, linear
from pyro_skipvae.training import evaluate_loss, fit, hamiltonian_draws, lagging_step, pretrained_step

X = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
PAIR = VAE(StandardNormal(2), MLPDecoder(2, (3,), layers=1, width=4), MLPEncoder((3,), 2, hidden=(4,)))
BOTH = PAIR.model, PAIR.guide


def adam():
    return pyro.optim.Adam({"lr": 0.1})


CASES = {
    "cycles": (lambda: cyclical(0.1, 1.0, 10, cycles=0), "at least 1 cycle"),
    "a share of a cycle": (lambda: cyclical(0.1, 1.0, 10, rising=2), "a share above 0 and at most 1, got 4 and 2"),
    "steps of a schedule": (lambda: linear(0.1, 1.0, -5), "at least 0 steps, got -5"),
    "an end of a schedule": (lambda: linear(0.1, math.nan, 5), "a positive weight beta .* got nan"),
    "particles": (lambda: iwae(0), "particles to be a whole number of at least 1, got 0"),
    "layers": (lambda: MLPDecoder(2, (3,), layers=-1), "layers to be a whole number of at least 0, got -1"),
    "width": (lambda: MLPDecoder(2, (3,), width=0), "width to be a whole number of at least 1, got 0"),
    "layers of texts": (lambda: LSTMDecoder(9, 2, layers=0), "layers to be .* at least 1, got 0"),
    "heads": (lambda: TransformerDecoder(9, 2, heads=0), "heads to be .* at least 1, got 0"),
    "maps": (lambda: ConvolutionalDecoder(2, (8, 8), maps=2.5), "maps to be a whole number .* got 2.5"),
    "rows for images": (lambda: PixelCNNDecoder(2, (8,)), r"images \(H, W\) or \(C, H, W\), got items of shape \(8,\)"),
    "rows to encode": (lambda: ResNetEncoder((8,), 2), r"images .* got items of shape \(8,\)"),
    "rows for steps": (lambda: PixelCNNEncoder((8,), (2, 2)), r"images .* got items of shape \(8,\)"),
    "no hidden layer": (lambda: MLPEncoder((3,), 2, hidden=()), r"at least one hidden layer, got hidden=\(\)"),
    "dimensions": (lambda: StandardNormal(-1), "latent_dim to be a number of dimensions"),
    "components": (lambda: MixtureOfNormals(2, components=0), "components to be .* at least 1, got 0"),
    "components of a guide": (lambda: SemiImplicitNormal(4, 2, components=0), "components to be .* at least 1, got 0"),
    "pseudo-inputs": (lambda: VampPrior(PAIR.encoder, X[:0]), "at least one pseudo-input"),
    "levels": (lambda: categorical(1), "levels to be .* at least 2, got 1"),
    "levels of a logistic": (lambda: discretised_logistic(1), "levels to be .* at least 2, got 1"),
    "one grey level": (lambda: GreyLevels(torch.zeros(3, 1)), "levels to be .* at least 2, got 1"),
    "one level of a logistic": (lambda: DiscretisedLogistic(torch.zeros(3), torch.ones(3), 1), "levels to be .* at least 2"),
    "logistics": (lambda: colour_logistics(256, 0), "components to be .* at least 1, got 0"),
    "temperature": (lambda: OneHot(torch.zeros(3), temperature=0.0), "a temperature above 0, got 0.0"),
    "max_norm": (lambda: svi_step(*BOTH, elbo, adam(), max_norm=-1.0), "max_norm to be above 0, or None, got -1.0"),
    "every": (lambda: lagging_step(*BOTH, elbo, adam(), draw=lambda n: X, valid=X, every=0), "every to be .* at least 1"),
    "pretraining": (lambda: pretrained_step(*BOTH, elbo, adam(), decoder=PAIR.decoder, steps=-1), "steps to be .* at least 0"),
    "moves": (lambda: hamiltonian_draws(*BOTH, X, moves=-1), "moves to be .* at least 0, got -1"),
    "step_size": (lambda: hamiltonian_draws(*BOTH, X, step_size=-0.1), "a step_size above 0, got -0.1"),
    "no batches": (lambda: evaluate_loss(svi_step(*BOTH, elbo, adam()), []), "at least one batch to evaluate"),
    "an empty epoch": (
        lambda: list(fit(lambda x, beta: 0.0, iter([]), epochs=1)),
        "batches in epoch 1, got none; they are iterated anew",
    ),
    "rows at a time": (lambda: collapse_report(*BOTH, X, rows=0), "rows to be 1 or more, got 0"),
    "budget": (lambda: collapse_report(*BOTH, X, budget=-1.0), "a budget of at least 0 seconds, got -1.0"),
    "levels of a report": (lambda: collapse_report(*BOTH, X, levels=0), "at least 2 levels of a value, got 0"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_meant_is_refused(case):
    make, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        make()
