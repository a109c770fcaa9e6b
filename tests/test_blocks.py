"""The blocks that encoders and decoders share."""

import pytest
import torch

from pyro_skipvae.blocks import gate


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
