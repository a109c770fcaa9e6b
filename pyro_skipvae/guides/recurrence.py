"""An LSTM that can be differentiated twice at the price of its own passes, and when torch's recurrent layers cannot.

torch's fused layers have no second derivative of their own: autograd takes them to pieces, a dozen nodes for each gate and
place. Here the derivative of the backward pass is written out. It is what changes in the two passes when their inputs
change: one more pass forward, one more backward.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

# None outside of `differentiable_recurrence`, that is of a refinement
SECOND_DERIVATIVE: ContextVar[bool | None] = ContextVar("twice", default=None)


def run_lstm(layer: nn.LSTM, inputs: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One layer of `nn.LSTM` (batch first): inputs (N, T, F), state (h, c) (N, H) each -> states (N, T, H), (h, c).

    torch's own, or, inside `differentiable_recurrence(twice=True)`, the one that can be differentiated twice.
    """
    if not SECOND_DERIVATIVE.get():
        states, last = layer(inputs, tuple(part[None].contiguous() for part in state))
        return states, [part[0] for part in last]
    bias = layer.bias_ih_l0 + layer.bias_hh_l0 if layer.bias else None
    from_inputs = F.linear(inputs.transpose(0, 1), layer.weight_ih_l0, bias)
    states, c = recurrence(from_inputs, state[0], state[1], layer.weight_hh_l0)
    return states.transpose(0, 1), [states[-1], c]


def recurrence(from_inputs: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The states of an LSTM from what its inputs add to its gates: (T, N, 4H), (N, H), (N, H), (4H, H) -> (T, N, H), (N, H).

        i, f, g, o = a_t + weight h_(t-1),   c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)

    The second result is the last c. Differentiable twice.
    """
    states_and_cell: tuple[Tensor, Tensor] = _Recurrence.apply(from_inputs, h, c, weight)
    return states_and_cell


class _Recurrence(Function):
    @staticmethod
    def forward(ctx: Any, from_inputs: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        T, N, _ = from_inputs.shape
        gates, turned = from_inputs.clone(memory_format=torch.contiguous_format), weight.T
        states, cells = (part.new_empty(T + 1, *part.shape) for part in (h, c))
        states[0], cells[0] = h, c
        squashed = h.new_empty(T, *h.shape)
        i, f, g, o = gates.unflatten(-1, (4, -1)).unbind(2)
        for t in range(T):
            gates[t].addmm_(states[t], turned)
            gates[t, :, : 2 * h.shape[1]].sigmoid_()
            g[t].tanh_()
            o[t].sigmoid_()
            torch.mul(i[t], g[t], out=cells[t + 1]).addcmul_(f[t], cells[t])
            torch.tanh(cells[t + 1], out=squashed[t])
            torch.mul(o[t], squashed[t], out=states[t + 1])
        ctx.save_for_backward(from_inputs, h, c, weight, gates, states, cells, squashed)
        return states[1:].clone(), cells[T].clone()

    @staticmethod
    def backward(ctx: Any, on_states: Tensor, on_cell: Tensor) -> Any:
        return _RecurrenceBackward.apply(on_states, on_cell, *ctx.saved_tensors)


class _RecurrenceBackward(Function):
    """The backward pass, and its derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        on_states: Tensor,
        on_cell: Tensor,
        from_inputs: Tensor,
        h: Tensor,
        c: Tensor,
        weight: Tensor,
        gates: Tensor,
        states: Tensor,
        cells: Tensor,
        squashed: Tensor,
    ) -> tuple[Tensor, ...]:
        i, f, g, o = gates.unflatten(-1, (4, -1)).unbind(2)
        # What a change of the gates before their nonlinearity does to c_t (the first three) and directly to h_t (the last),
        # and what one of c_t does to h_t.
        slopes = torch.stack([g * i * (1 - i), cells[:-1] * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o)], 2)
        through = o * (1 - squashed * squashed)
        on_gates, on_h, on_c = torch.empty_like(slopes), torch.empty_like(squashed), torch.empty_like(squashed)
        carried, below = on_cell, None
        for t in reversed(range(len(f))):
            on_h[t] = on_states[t] if below is None else torch.addmm(on_states[t], below, weight)
            torch.addcmul(carried, on_h[t], through[t], out=on_c[t])
            torch.mul(slopes[t, :, :3], on_c[t, :, None], out=on_gates[t, :, :3])
            torch.mul(slopes[t, :, 3], on_h[t], out=on_gates[t, :, 3])
            carried, below = on_c[t] * f[t], on_gates[t].flatten(1)
        on_gates = on_gates.flatten(2)
        ctx.save_for_backward(weight, gates, states, cells, squashed, slopes, through, on_gates, on_h, on_c)
        ctx.set_materialize_grads(False)
        return on_gates.clone(), below @ weight, carried, on_gates.flatten(0, 1).T @ states[:-1].flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_gates: Any, d_h: Any, d_c: Any, d_weight: Any) -> tuple[Any, ...]:
        """With d the change of what the forward pass takes: its states' change, and that of the gradients found above."""
        weight, gates, states, cells, squashed, slopes, through, on_gates, on_h, on_c = ctx.saved_tensors
        T, N, H = squashed.shape
        i, f, g, o = gates.unflatten(-1, (4, -1)).unbind(2)
        d_gates = gates.new_zeros(gates.shape) if d_gates is None else d_gates.clone(memory_format=torch.contiguous_format)
        if d_weight is not None:
            d_gates += states[:-1] @ d_weight.T
        d_states, d_cells = torch.empty_like(states), torch.empty_like(cells)
        d_states[0], d_cells[0] = (0.0 if part is None else part for part in (d_h, d_c))
        turned, parts = weight.T, d_gates.unflatten(-1, (4, -1))
        for t in range(T):
            d_gates[t].addmm_(d_states[t], turned)
            moved = parts[t] * slopes[t]
            torch.sum(moved[:, :3], 1, out=d_cells[t + 1]).addcmul_(f[t], d_cells[t])
            torch.addcmul(moved[:, 3], through[t], d_cells[t + 1], out=d_states[t + 1])
        flat = 1 - squashed * squashed
        d_i, d_f, d_g, d_o = (d * slope for d, slope in zip(parts.unbind(2), _derivatives(i, f, g, o), strict=True))
        d_squashed = flat * d_cells[1:]
        d_through = d_o * flat - 2 * o * squashed * d_squashed
        change = torch.stack(
            [
                (d_g * i * (1 - i) + g * (1 - 2 * i) * d_i) * on_c,
                (d_cells[:-1] * f * (1 - f) + cells[:-1] * (1 - 2 * f) * d_f) * on_c,
                (d_i * (1 - g * g) - 2 * i * g * d_g) * on_c,
                (d_squashed * o * (1 - o) + squashed * (1 - 2 * o) * d_o) * on_h,
            ],
            2,
        )
        leaking, from_weight = on_c * d_f, None if d_weight is None else on_gates @ d_weight
        d_on_c, carried, below = on_h * d_through, None, None
        for t in reversed(range(T)):
            d_on_h = below @ weight if below is not None else torch.zeros_like(on_h[t])
            if from_weight is not None and t + 1 < T:
                d_on_h += from_weight[t + 1]
            d_on_c[t].addcmul_(d_on_h, through[t])
            if carried is not None:
                d_on_c[t] += carried
            change[t, :, :3].addcmul_(slopes[t, :, :3], d_on_c[t, :, None])
            change[t, :, 3].addcmul_(slopes[t, :, 3], d_on_h)
            carried, below = torch.addcmul(leaking[t], d_on_c[t], f[t]), change[t].flatten(1)
        change = change.flatten(2)
        on_first = below @ weight + (0.0 if from_weight is None else from_weight[0])
        on_weight = change.flatten(0, 1).T @ states[:-1].flatten(0, 1)
        on_weight.addmm_(on_gates.flatten(0, 1).T, d_states[:-1].flatten(0, 1))
        return d_states[1:], d_cells[T], change, on_first, carried, on_weight, None, None, None, None


def _derivatives(i: Tensor, f: Tensor, g: Tensor, o: Tensor) -> tuple[Tensor, ...]:
    """Of the nonlinearities of the gates, from their values."""
    return i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o)


@contextmanager
def differentiable_recurrence(device: torch.device, *, twice: bool = False) -> Iterator[None]:
    """Inside, recurrent layers can be differentiated in evaluation mode too, and, with `twice`, a second time.

    `run_lstm` then takes the LSTM of this module, and attention is torch's plain form: the fused one has no second derivative.
    cuDNN's layers have no derivative in evaluation mode and never a second one: modules that call them run without it.
    Nothing else does, so convolutions keep their speed.
    """
    enabled, token = torch.backends.cudnn.enabled, SECOND_DERIVATIVE.set(twice)
    hooks: list[Any] = []

    def switch_off(module: nn.Module, _inputs: Any) -> None:
        if isinstance(module, nn.RNNBase) and (twice or not module.training):
            torch.backends.cudnn.enabled = False

    def restore(module: nn.Module, _inputs: Any, _output: Any) -> None:
        if isinstance(module, nn.RNNBase):
            torch.backends.cudnn.enabled = enabled

    if device.type == "cuda":
        hooks = [register_module_forward_pre_hook(switch_off), register_module_forward_hook(restore, always_call=True)]
    try:
        with sdpa_kernel(SDPBackend.MATH) if twice else nullcontext():
            yield
    finally:
        SECOND_DERIVATIVE.reset(token)
        for hook in hooks:
            hook.remove()
