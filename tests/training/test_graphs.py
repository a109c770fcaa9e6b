"""Compiled steps: the same losses, gradients and draws as plain ones; and what cannot be compiled is told."""

import copy
import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.optim import Adam
from torch import nn

from pyro_skipvae import VAE, svi_step
from pyro_skipvae.decoders import LSTMDecoder, MLPDecoder, PixelCNNDecoder, TransformerDecoder
from pyro_skipvae.encoders import LSTMEncoder, MLPEncoder, TransformerEncoder
from pyro_skipvae.objectives import BagOfWords, analytic_elbo, elbo, free_bits_total, iwae, mmd, mutual_divergence, target_rate
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.training import graphs

SIZES = (6, 6, 4)  # of batches: the last is smaller


@pytest.fixture
def interpreted(monkeypatch):
    """The traced graph as it is, without the seconds of a C++ compiler."""
    monkeypatch.setattr(graphs, "_compiled", lambda graph, tensors: graph)


def small_mlp():
    return MLPDecoder(2, (3, 3), layers=1, width=4)


def small_pixelcnn():
    return PixelCNNDecoder(2, (3, 3), layers=1, maps=2)


def make_vae(decoder=small_mlp):
    pyro.clear_param_store()
    torch.manual_seed(0)
    return VAE(StandardNormal(2), decoder(), MLPEncoder((3, 3), 2, hidden=(4,)))


def batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(size, 3, 3, generator=generator).gt(0.5).float() for size in SIZES]


def steps_of(vae, objective=elbo, **options):
    return svi_step(vae.model, vae.guide, objective, Adam({"lr": 0.01, "fused": True}), max_norm=1.0, **options)


def trained(vae, step):
    """Losses, parameters, buffers, and what the generator gives next."""
    torch.manual_seed(1)
    losses = torch.stack([step(x, 0.3 + 0.2 * number) for number, x in enumerate(batches())])
    return losses, {name: value.clone() for name, value in vae.state_dict().items()}, torch.rand(3)


OBJECTIVES = [elbo, analytic_elbo, iwae(3), free_bits_total(0.5), mmd(2.0), target_rate(0.1), mutual_divergence(1.0, 1.0)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_graph_makes_the_step_that_pyro_makes(interpreted, objective):
    vae = make_vae()
    plain = trained(vae, steps_of(vae, objective))
    vae = make_vae()
    step = steps_of(vae, objective, compile=True)
    torch.testing.assert_close(trained(vae, step), plain, rtol=1e-6, atol=1e-7)
    assert step.compilation.graphs == 2 and step.compilation.refused is None  # one a size; none for another beta


def test_a_pair_without_an_argument_beta_is_compiled_too(interpreted):
    x, losses = next(iter(batches())), []
    for compile in (False, True):
        step = steps_of(make_vae(), compile=compile)
        step.svi.model, step.svi.guide = (lambda x, each=each: each(x) for each in (step.svi.model, step.svi.guide))
        torch.manual_seed(1)
        losses.append([step(x).item() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1]) and losses[0][0] != losses[0][1]
    assert step.compilation.graphs == 1 and step.compilation.refused is None
    with pytest.warns(UserWarning, match="not compiled"), pytest.raises(ValueError, match="argument beta each to use beta=0.5"):
        step(x, 0.5)


def test_another_array_is_another_graph(interpreted):
    """Also one so long that its text shows only its ends."""
    vae = make_vae()

    def model(x, weights):
        return vae.model(x * weights[1000].item())

    step = svi_step(model, lambda x, weights: vae.guide(x), elbo, Adam({"lr": 1e-2}), compile=True)
    weights = np.ones(2000, np.float32)
    for middle in (1, 0):
        weights[1000] = middle
        step((batches()[0], weights.copy()))
    assert step.compilation.graphs == 2


class Normed(nn.Module):
    """A decoder with batch normalisation and dropout."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 9))

    def forward(self, z):
        return dist.Bernoulli(logits=self.network(z).unflatten(-1, (3, 3)), validate_args=False).to_event(2)


def test_a_norm_dropout_and_frozen_weights_are_in_the_graph(interpreted):
    def make():
        vae = make_vae(Normed)
        vae.encoder.posterior.parameters_of.bias.requires_grad_(False)
        return vae

    vae = make()
    plain = trained(vae, steps_of(vae))
    vae = make()
    step = steps_of(vae, compile=True)
    torch.testing.assert_close(trained(vae, step), plain, rtol=1e-5, atol=1e-6)
    assert step.compilation.graphs == 2


def text_pair(decoder, encoder):
    pyro.clear_param_store()
    torch.manual_seed(0)
    sizes = {"embedding": 4, "width": 8}
    return VAE(StandardNormal(2), decoder(12, 2, max_length=5, dropout=0.0, **sizes), encoder(12, 2, **sizes))


TEXTS = [torch.tensor([[5, 6, 7, 2, 0], [4, 2, 0, 0, 0], [8, 9, 5, 4, 2]]), torch.tensor([[5, 2], [2, 0]])]


def test_text_without_recurrent_layers_is_compiled_and_with_them_it_is_told(interpreted):
    found = []
    for compile in (False, True):
        vae = text_pair(partial(TransformerDecoder, layers=1), partial(TransformerEncoder, layers=1, dropout=0.0))
        objective = BagOfWords(2, 12, width=3)
        step = steps_of(vae, objective, compile=compile)
        found.append([step(x) for x in TEXTS] + [*vae.parameters(), *objective.parameters()])
    assert step.compilation.graphs == 2 and step.compilation.refused is None
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    step = steps_of(text_pair(LSTMDecoder, LSTMEncoder), compile=True)
    with pytest.warns(UserWarning, match="recurrent layers cannot be in a graph"):
        step(TEXTS[0])


def test_a_graph_that_compiles_but_does_not_run_is_told(monkeypatch):
    def broken(*tensors):
        raise TypeError("expected something else")

    monkeypatch.setattr(graphs, "_compiled", lambda graph, tensors: broken)
    vae = make_vae()
    plain = trained(vae, steps_of(vae))
    vae = make_vae()
    with pytest.warns(UserWarning, match="not compiled .*expected something else"):
        compiled = trained(vae, steps_of(vae, compile=True))
    torch.testing.assert_close(compiled, plain, rtol=0, atol=0)


@pytest.mark.slow  # half a minute of a C++ compiler
def test_the_compiler_keeps_losses_and_draws_and_a_resumed_run_is_the_same_bit_for_bit():
    vae = make_vae(small_pixelcnn)
    plain = trained(vae, steps_of(vae))
    vae = make_vae(small_pixelcnn)
    step, first = steps_of(vae, compile=True), batches()[0]
    compiled = trained(vae, step)
    assert step.compilation.graphs == 2 and step.compilation.seconds > 0
    torch.testing.assert_close(compiled, plain, rtol=1e-6, atol=1e-6)
    state, weights = copy.deepcopy(step.state_dict()), copy.deepcopy(vae.state_dict())
    torch.manual_seed(2)
    whole = step(first), vae.state_dict()

    vae = make_vae(small_pixelcnn)
    vae.load_state_dict(weights)
    other = steps_of(vae, compile=True)
    other.load_state_dict(state)
    torch.manual_seed(2)
    resumed = other(first), vae.state_dict()
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


class LooksAtValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 9))

    def forward(self, z):
        sign = 1.0 if z.sum() > 0 else -1.0
        return dist.Bernoulli(logits=(sign * z @ self.weight).unflatten(-1, (3, 3))).to_event(2)


@pytest.mark.parametrize(
    ("decoder", "objective", "reason"),
    [
        (LooksAtValues, elbo, r"looks at values .* in forward \(test_graphs.py"),
        (small_mlp, Trace_ELBO(), "numbers of its sums"),
    ],
)
def test_what_cannot_be_compiled_is_told_and_trained_as_without(decoder, objective, reason):
    vae = make_vae(decoder)
    plain = trained(vae, steps_of(vae, objective))
    vae = make_vae(decoder)
    step = steps_of(vae, objective, compile=True)
    with pytest.warns(UserWarning, match=f"the step is not compiled .*{reason}"):
        compiled = trained(vae, step)
    torch.testing.assert_close(compiled, plain, rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(batches()[0])  # told once


def test_more_shapes_than_are_worth_a_graph_are_told(interpreted, monkeypatch):
    monkeypatch.setattr(graphs, "MOST", 1)
    vae = make_vae()
    step = steps_of(vae, compile=True)
    with pytest.warns(UserWarning, match="more than 1 shape"):
        trained(vae, step)
