"""The LSTM that can be differentiated twice, against torch's and against finite differences."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from pyro_skipvae.guides.recurrence import differentiable_recurrence, recurrence, run_lstm


@pytest.mark.parametrize("T", [1, 4])
def test_both_derivatives_against_finite_differences(T):
    generator = torch.Generator().manual_seed(0)
    shapes = (T, 2, 12), (2, 3), (2, 3), (12, 3)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    assert gradcheck(recurrence, inputs) and gradgradcheck(recurrence, inputs)


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_torchs_lstm_and_so_are_its_derivatives(bias):
    torch.manual_seed(0)
    layer = nn.LSTM(5, 7, batch_first=True, bias=bias).double()
    inputs, h, c = torch.randn(3, 6, 5).double(), torch.randn(3, 7).double(), torch.randn(3, 7).double()
    found = []
    for twice in (False, True):
        leaves = [part.clone().requires_grad_() for part in (inputs, h, c)]
        with differentiable_recurrence(inputs.device, twice=twice):
            states, last = run_lstm(layer, leaves[0], leaves[1:])
        value = sum((part**3).sum() for part in (states, *last))
        first = torch.autograd.grad(value, leaves, create_graph=True)
        second = torch.autograd.grad(sum((part**2).sum() for part in first), [*leaves, *layer.parameters()])
        found.append([states, *last, *first, *second])
    assert len(found[0]) == 3 + 3 + 3 + (4 if bias else 2)
    for torchs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-10, atol=1e-10)


def test_the_switch_ends_with_its_block():
    layer, inputs, state = nn.LSTM(2, 3, batch_first=True), torch.randn(1, 2, 2), (torch.zeros(1, 3), torch.zeros(1, 3))
    names = []
    for twice in (True, False):
        with pytest.raises(RuntimeError, match="stop"), differentiable_recurrence(inputs.device, twice=twice):
            names.append(run_lstm(layer, inputs, state)[1][1].grad_fn.name())
            raise RuntimeError("stop")
    names.append(run_lstm(layer, inputs, state)[1][1].grad_fn.name())
    assert "_Recurrence" in names[0] and names[1] == names[2] and "_Recurrence" not in names[1]
