"""Sizes, shares and norms that nothing can be made of are refused where they are given, by name."""

import math

import pyro.optim
import pytest
import torch

from pyro_skipvae import VAE, collapse_report, svi_step
from pyro_skipvae.data import Batches
from pyro_skipvae.decoders import ConvolutionalDecoder, LSTMDecoder, MLPDecoder, PixelCNNDecoder, TransformerDecoder
from pyro_skipvae.diagnostics import active_units
from pyro_skipvae.distributions import DiscretisedLogistic, GreyLevels, OneHot
from pyro_skipvae.encoders import (
    LSTMEncoder,
    LSTMSequenceEncoder,
    MLPEncoder,
    PixelCNNEncoder,
    ResNetEncoder,
    TransformerEncoder,
)
from pyro_skipvae.guides import (
    CategoricalPosterior,
    DiagonalNormal,
    MinimumRateNormal,
    PlanarFlow,
    SemiImplicitNormal,
    VariationalLaplace,
)
from pyro_skipvae.likelihoods import (
    categorical,
    colour_logistics,
    discretised_logistic,
    normal_in_units,
    normal_shared_scale,
    poisson_about,
)
from pyro_skipvae.objectives import elbo, iwae
from pyro_skipvae.priors import MixtureOfNormals, NormalizingFlow, StandardNormal, UniformSphere, VampPrior
from pyro_skipvae.schedules import Halving, cyclical, delayed, linear
from pyro_skipvae.training import (
    Critic,
    evaluate_loss,
    fit,
    hamiltonian_draws,
    hamiltonian_step,
    lagging_step,
    pretrained_step,
)

X = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
PAIR = VAE(StandardNormal(2), MLPDecoder(2, (3,), layers=1, width=4), MLPEncoder((3,), 2, hidden=(4,)))
BOTH = PAIR.model, PAIR.guide


def adam():
    return pyro.optim.Adam({"lr": 0.1})


CASES = {
    "cycles": (lambda: cyclical(0.1, 1.0, 10, cycles=0), "cycles to be .* at least 1, got 0"),
    "a share of a cycle": (lambda: cyclical(0.1, 1.0, 10, rising=2), "a share above 0 and at most 1 of it, got 2"),
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
    "a sequence z for a flow": (lambda: NormalizingFlow((4, 2)), r"latent_dim of coupling layers .* got \(4, 2\)"),
    "half a dimension of a sphere": (lambda: UniformSphere(2.5), "dimensions of a sphere to be .* at least 2, got 2.5"),
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
    "rows at a time": (lambda: collapse_report(*BOTH, X, rows=0), "rows to be .* at least 1, got 0"),
    "budget": (lambda: collapse_report(*BOTH, X, budget=-1.0), "a budget of at least 0 seconds, got -1.0"),
    "levels of a report": (lambda: collapse_report(*BOTH, X, levels=0), "levels to be .* at least 2, got 0"),
    "dropout": (lambda: LSTMDecoder(9, 2, dropout=math.nan), "dropout to be a number from 0 to 1, got nan"),
    "word dropout": (lambda: TransformerDecoder(9, 2, word_dropout=1.5), "word_dropout to be .* 0 to 1, got 1.5"),
    "no attention layers": (lambda: PixelCNNDecoder(2, (8, 8), attention_layers=-1), "attention_layers to be .* 0, got -1"),
    "heads of an encoder": (lambda: TransformerEncoder(9, 2, heads=0), "heads to be .* at least 1, got 0"),
    "words of an encoder": (lambda: LSTMEncoder(0, 2), "vocabulary_size to be .* at least 1, got 0"),
    "words of steps": (lambda: LSTMSequenceEncoder(9, (2, 2), max_length=0), "max_length to be .* at least 1, got 0"),
    "an even kernel": (lambda: PixelCNNEncoder((8, 8), (2, 2), kernel=2), "an odd kernel, got 2"),
    "an empty image": (lambda: ResNetEncoder((0, 8), 2, layers=0), r"event_shape\[0\] to be .* at least 1, got 0"),
    "an empty item": (lambda: MLPDecoder(2, (3, 0)), r"event_shape\[1\] to be .* at least 1, got 0"),
    "an item of no dimension": (lambda: MLPEncoder((), 2), r"at least one dimension, got event_shape=\(\)"),
    "features": (lambda: DiagonalNormal(0, 2), "features to be .* at least 1, got 0"),
    "a rate of no dimension": (lambda: MinimumRateNormal(4, 0, rate=1.0), "latent_dim to be .* at least 1, got 0"),
    "flows": (lambda: PlanarFlow(4, 2, flows=-1), "flows to be .* at least 0, got -1"),
    "flows of a prior": (lambda: NormalizingFlow(2, hidden=0), "hidden to be .* at least 1, got 0"),
    "one class": (lambda: CategoricalPosterior(4, 2, classes=1), "classes to be .* at least 2, got 1"),
    "steps to the mode": (lambda: VariationalLaplace(PAIR, steps=2.5), "steps to be .* at least 1, got 2.5"),
    "a critic": (lambda: Critic(0), "latent_size to be .* at least 1, got 0"),
    "parts of a cycle": (lambda: cyclical(0.1, 1.0, 10, cycles=2.5), "cycles to be .* at least 1, got 2.5"),
    "a delay": (lambda: delayed(linear(0.1, 1.0, 5), -1), "at least 0 steps, got -1"),
    "a floor": (lambda: Halving(floor=math.nan), "floor to be a number from 0 to 1, got nan"),
    "a scale": (lambda: normal_shared_scale(0.0, 0.0), "scales above 0"),
    "a scale of each value": (lambda: normal_in_units(torch.zeros(2), torch.tensor([1.0, math.nan])), "scales above 0"),
    "an infinite mean": (lambda: poisson_about(torch.tensor(math.inf), torch.tensor(1.0)), "means and deviations above 0"),
    "rows of a batch": (lambda: Batches(X, 2.5, seed=0, shuffle=True), "size to be .* at least 1, got 2.5"),
    "epochs": (lambda: list(fit(svi_step(*BOTH, elbo, adam()), [X], epochs=math.nan)), "epochs to be .* at least 0, got nan"),
    "a step's moves": (lambda: hamiltonian_step(*BOTH, elbo, adam(), leapfrog=0), "leapfrog to be .* at least 1, got 0"),
    "samples": (lambda: collapse_report(*BOTH, X, importance_samples=2.5), "samples, at least 1, got 10 and 2.5"),
    "a threshold": (lambda: active_units(*BOTH, X, threshold=math.nan), "a threshold of at least 0 for a variance, got nan"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_meant_is_refused(case):
    make, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        make()
