"""The blocks that encoders and decoders share."""

import math

import pytest
import torch

from pyro_skipvae.blocks import Standardise, gate, mean_and_scale, places


@pytest.mark.parametrize("shape", [(3, 8), (3, 8, 5), (3, 8, 5, 6)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_gate_is_tanh_times_sigmoid_and_can_be_differentiated_twice(shape, memory_format, float64):
    features = torch.randn(shape, requires_grad=True)
    if len(shape) == 4:
        features = features.detach().contiguous(memory_format=memory_format).requires_grad_()
    a, b = features[:, :4], features[:, 4:]
    weights = torch.randn_like(a)
    assert torch.allclose(gate(features), a.tanh() * b.sigmoid())
    ours, plain = (torch.autograd.grad((f * weights).sum(), features)[0] for f in (gate(features), a.tanh() * b.sigmoid()))
    assert torch.allclose(ours, plain)
    assert torch.autograd.gradcheck(gate, features) and torch.autograd.gradgradcheck(gate, features)


def test_the_gate_leaves_its_input_alone_and_keeps_its_dtype():
    features = torch.full((2, 4), 20.0)
    assert torch.equal(gate(features), torch.ones(2, 2)) and torch.equal(features, torch.full((2, 4), 20.0))
    assert gate(features.bfloat16()).dtype == torch.bfloat16


def test_values_are_standardised_by_feature_or_by_channel(float64):
    x = torch.randn(2000, 3) * torch.tensor([1.0, 300.0, 0.0]) + torch.tensor([5.0, 5000.0, 7.0])
    seen = Standardise.of(x)(x)
    torch.testing.assert_close(Standardise.of(x).inverse(seen), x)
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), rtol=0, atol=1e-9)
    torch.testing.assert_close(seen.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]))
    images = torch.rand(50, 2, 4, 4) * torch.tensor([1.0, 255.0])[:, None, None]
    images[:, :, 0, 0] = 0  # a pixel that never varies
    seen = Standardise.of(images)(images)
    torch.testing.assert_close(seen.std((0, 2, 3), correction=0), torch.ones(2))
    assert Standardise.of(images).loc.shape == (2, 1, 1)


def test_counts_are_standardised_on_a_log_scale(float64):
    x = torch.poisson(torch.tensor([3.0, 300.0]).expand(500, 2))
    torch.testing.assert_close(Standardise.of(x, log=True)(x), Standardise.of(x.log1p())(x.log1p()))
    torch.testing.assert_close(Standardise.of(x, log=True).inverse(Standardise.of(x, log=True)(x)), x)


def test_a_mean_far_above_the_deviation_does_not_spoil_it():
    x = 5000 + torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
    loc, scale = mean_and_scale(x)
    assert loc.dtype == torch.float32
    torch.testing.assert_close(scale, x.double().std(0, correction=0).float())


def test_units_that_float32_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="change the unit"):
        mean_and_scale(torch.tensor([[0.0], [1e20]]))


def test_places_are_sines_and_cosines_of_falling_frequency():
    found = places(3, 2, torch.zeros(1, 4, dtype=torch.float64))
    expected = [[f(p / w) for w in (1, 100) for f in (math.sin, math.cos)] for p in (3, 4)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
