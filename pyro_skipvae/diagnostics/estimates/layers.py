"""How much each layer of a decoder depends on z."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_skipvae.blocks import with_weights

from ..pairs.evaluation import as_found
from ..pairs.interval import Interval, cycle_half_width, cycle_standard_error
from ..pairs.pair import Pair
from ..pairs.rows import Inputs
from .elbo import draw_all

ROWS = 64  # at a time: a text decoder sorts more of them by length


@dataclass(frozen=True)
class LayerSensitivity:
    """The shares of a layer's mean squared activation that come from z, from other inputs and from constants; they sum to 1.

    z: the share from z, with its 95 % interval over points.
    others: the share that differs between datapoints whatever z is, such as the elements of x that an autoregressive decoder
    reads. It is 0 for a decoder of z alone, up to noise, and may be below 0 where these elements and z carry the same.
    constant: the share that is the same for all datapoints, such as that of biases.
    directions: roughly the number of directions in which z moves the layer; 0 where z does not move it.
    """

    layer: str
    z: Interval
    others: float
    constant: float
    directions: float


def layer_sensitivities(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Inputs,
    layers: Mapping[str, nn.Module] | nn.Module,
    *,
    points: int = 256,
    site: str | None = None,
    lengths: Tensor | None = None,
    seed: int = 0,
) -> list[LayerSensitivity]:
    """How much the activations h of each layer of a decoder depend on z, from what changes when z is another datapoint's.

        z:        E |h(x, z') - h(x, z)|^2 / (2 E |h(x, z)|^2),   z ~ q(z|x), z' ~ q(z|x'), x' of another row
        constant: |E h(x, z)|^2 / E |h(x, z)|^2                   others: the rest
        directions: (tr M)^2 / tr(M^2),   M = E[d d'], d = h(x, z') - h(x, z): k for k equal ones, fewer for unequal ones

    x is kept, so what an autoregressive decoder reads of x does not change with z. For h = W z + V u + b with independent
    z (mean m, covariance C) and u (mean n, covariance S), the shares are those of tr(W C W') for z, |W m + V n + b|^2 for
    constant, and tr(V S V') for others.

    layers: {name: module} of modules that run with the model, or a decoder, which stands for all its submodules that hold
    weights. The result is in this order. Of several tensors that a module returns, the first with a row for each datapoint
    counts. The first `points` rows of x are used. Of several latent sites all change, or `site` alone. lengths: of sequences,
    how many places each row has (N,), beyond which activations (N, T, ...) do not count.

    Cost: the guide once, the decoder twice. Raises ValueError for no layers, fewer than 2 points, a layer that does not run or
    returns no tensor with a row for each datapoint, and a pair that `collapse_report` refuses.
    Reference: the share of z is Jansen's estimate of a total effect (Saltelli et al. 2010, table 2), relative to the mean
    square of h instead of its variance, which for a decoder of z alone comes from z entirely.
    """
    named = with_weights(layers) if isinstance(layers, nn.Module) else dict(layers)
    if not named:
        raise ValueError("expected layers to have at least one module with weights, got none")
    if points < 2:
        raise ValueError(f"expected points to be 2 or more, got {points}")
    with as_found(model, guide, x=x, seed=seed, samples=(1,), first=points) as x:
        pair = Pair(model, guide, x, site=site, joint=None)
        values, _ = draw_all(pair, list(pair.chunks()), pair.points)
        order = torch.randperm(pair.points, device="cpu")
        moved = pair.latents if pair.joint else [pair.site]
        others = {name: values[name][order.roll(1)] if name in moved else values[name][order] for name in values}
        own = {name: value[order] for name, value in values.items()}
        parts: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in named}
        with _outputs(named) as seen:
            pieces = -(-pair.points // max(2, min(ROWS, pair.rows_at_a_time)))
            ends = None if lengths is None else lengths[: pair.points].cpu()[order]
            for rows in torch.arange(pair.points, device="cpu").tensor_split(pieces):
                before, after = (
                    _run(pair, seen, order[rows], {k: v[rows] for k, v in z.items()}, None if ends is None else ends[rows])
                    for z in (own, others)
                )
                for name in named:
                    parts[name].append(_parts(before[name], after[name]))
    return [_sensitivity(name, *map(torch.cat, zip(*found, strict=True))) for name, found in parts.items()]


@contextmanager
def _outputs(named: Mapping[str, nn.Module]) -> Iterator[dict[str, list[list[Tensor]]]]:
    """{name: the tensors that the module has given, call by call}, while inside; copies, since what follows may change them."""
    seen: dict[str, list[list[Tensor]]] = {name: [] for name in named}

    def keep(name: str, output: Any) -> None:
        given = output if isinstance(output, tuple | list) else [output]
        seen[name].append([part.clone() for part in given if isinstance(part, Tensor)])

    hooks = [
        part.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
        for name, part in named.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _run(
    pair: Pair, seen: dict[str, list[list[Tensor]]], index: Tensor, values: dict[str, Any], ends: Tensor | None
) -> dict[str, Tensor]:
    """The activations of each layer in one run of the model, (n, ...) flattened."""
    for outputs in seen.values():
        outputs.clear()
    pair.log_joint(index, values)
    return {name: _by_row(name, outputs, len(index), ends) for name, outputs in seen.items()}


def _by_row(name: str, outputs: list[list[Tensor]], rows: int, ends: Tensor | None) -> Tensor:
    """Of each call the first tensor with a row for each datapoint."""
    if not any(outputs):
        raise ValueError(f"expected layer {name!r} to run with the model and to return a tensor, and it did not")
    calls = [[part for part in call if part.is_floating_point() and part.shape[:1] == (rows,)][:1] for call in outputs]
    found = [_before(part, ends) for call in calls for part in call]
    if not found:
        raise ValueError(f"expected layer {name!r} to return a tensor with a row for each of {rows} datapoints, got none")
    return torch.cat([part.reshape(rows, -1) for part in found], 1)


def _before(part: Tensor, ends: Tensor | None) -> Tensor:
    """Activations (n, T, ...) with zeros from the end of each row on."""
    if ends is None or part.dim() < 3:
        return part
    kept = torch.arange(part.shape[1], device=part.device) < ends.to(part.device)[:, None]
    return part * kept.reshape(*kept.shape, *[1] * (part.dim() - 2))


def _parts(before: Tensor, after: Tensor) -> tuple[Tensor, ...]:
    """Of each row, (n,): |h|^2, |d|^2 / 2 of its change d, its share of |E h|^2, and the mean of (d_i d_j)^2 over rows j.

    The last two are over other rows, so that no square of a row is in them; rows that are next to each other share a z, and are
    left out of the last.
    """
    rows, change = len(before), after - before
    square, moved = (part.square().sum(1, dtype=torch.double) for part in (before, change))
    shared = (before * (before.sum(0) - before)).sum(1, dtype=torch.double) / (rows - 1)
    number = torch.arange(rows, device="cpu")
    apart = (number[:, None] - number).abs() > 1
    products = (change @ change.T).double().square().cpu() * apart
    return square.cpu(), moved.cpu() / 2, shared.cpu(), products.sum(1) / apart.sum(1).clamp(min=1)


def _sensitivity(layer: str, square: Tensor, moved: Tensor, shared: Tensor, products: Tensor) -> LayerSensitivity:
    total, spread = square.mean().item(), products.mean().item()
    if not total:
        return LayerSensitivity(layer, Interval(0.0, 0.0, 0.0), 0.0, 1.0, 0.0)
    part, constant = moved.mean().item() / total, shared.mean().item() / total
    half = cycle_half_width(cycle_standard_error((moved - part * square) / total), len(moved))  # of a ratio of means
    directions = (2 * moved.mean().item()) ** 2 / spread if spread else 0.0
    return LayerSensitivity(layer, Interval(part, part - half, part + half), 1 - part - constant, constant, directions)
