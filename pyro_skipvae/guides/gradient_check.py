"""How the ways to differentiate a refinement compare on one batch: their gradients, their time and their memory."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_skipvae.objectives import as_arguments, elbo
from pyro_skipvae.random_numbers import forked
from pyro_skipvae.training.param_store import check_store_tensors

from .refinement import GRADIENTS
from .semi_amortized import SemiAmortized


@dataclass(frozen=True)
class GradientCheck:
    """One way to differentiate a refinement, compared with "exact" on the same batch and noise.

    encoder_cosine, encoder_error: cosine and relative error of the gradient on the guide's parameters; decoder_cosine,
    decoder_error: the same on the parameters that the model alone has. Both are nan where there is no gradient.
    time_ratio: the time of loss and gradient divided by that with the amortized guide (CPU time; elapsed time on CUDA).
    memory_bytes: on a CPU the peak of what autograd saves besides parameters and data, on CUDA the peak of what is allocated in
    addition; amortized_memory_bytes: the same for the amortized guide.
    """

    gradient: str
    encoder_cosine: float
    encoder_error: float
    decoder_cosine: float
    decoder_error: float
    time_ratio: float
    memory_bytes: int
    amortized_memory_bytes: int


def compare_gradients(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Any,
    *,
    steps: int = 10,
    lr: float = 1 / 32,
    momentum: float = 0.5,
    beta: float = 1.0,
    objective: Callable[..., Tensor] = elbo,
    gradients: Sequence[str] = tuple(GRADIENTS),
    rounds: int = 3,
    seed: int = 0,
) -> list[GradientCheck]:
    """Compares the ways to differentiate a refinement of `guide` on one batch: error, time and memory of the gradients.

    Returns a `GradientCheck` for each of `gradients`, for the objective at `beta` on x, a tensor (B, ...) or a tuple. steps,
    lr, momentum: see `SemiAmortized`; "authors" gets lr times B, so that its steps are those of the others where it does not
    clip. Modules run in the mode they are in. Parameters, their `.grad` and the random numbers stay as found.

    Cost: 2 + `rounds` gradients of each kind. Raises ValueError for a pair that cannot be refined (see `SemiAmortized`), an
    unknown gradient, and where Pyro's parameter store holds the tensors of another model.
    """
    size = len(as_arguments(x)[0])

    def refined(gradient: str) -> SemiAmortized:
        step_size = lr * size if gradient == "authors" else lr
        return SemiAmortized(model, guide, steps=steps, lr=step_size, momentum=momentum, gradient=gradient)

    guides = {name: refined(name) for name in dict.fromkeys(("exact", *gradients))}
    device = as_arguments(x)[0].device
    with forked([device], seed):
        encoder, decoder = _parameters(model, guide, x)

    def run(guide: Callable[..., Any]) -> Sequence[Tensor]:
        with forked([device], seed):
            loss = objective(model, guide, x, beta) / size  # as in a step of training, for the gradients that clip
            return torch.autograd.grad(loss, encoder + decoder, allow_unused=True, materialize_grads=True)

    found = {name: [_flat(part) for part in _split(run(guide), len(encoder))] for name, guide in guides.items()}
    ratios = _time_ratios(run, guide, guides, rounds, device)
    base = _peak_bytes(run, guide, encoder + decoder, x)
    return [
        GradientCheck(
            name,
            *_compared(found[name][0], found["exact"][0]),
            *_compared(found[name][1], found["exact"][1]),
            ratios[name],
            _peak_bytes(run, guides[name], encoder + decoder, x),
            base,
        )
        for name in gradients
    ]


def _parameters(model: Callable[..., Any], guide: Callable[..., Any], x: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The unconstrained parameters of the guide, and those of the model that are not the guide's."""
    traces = []
    for callable_ in (guide, model):
        with poutine.block(), torch.no_grad(), poutine.trace(param_only=True) as capture:
            callable_(*as_arguments(x))
        nodes = capture.trace.nodes
        check_store_tensors(nodes)
        traces.append([value for node in nodes.values() if (value := node["value"].unconstrained()).requires_grad])
    mine = {id(value) for value in traces[0]}
    return traces[0], [value for value in traces[1] if id(value) not in mine]


def _split(gradients: Sequence[Tensor], count: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    return gradients[:count], gradients[count:]


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0), *(part.flatten().cpu() for part in gradients)]).double()


def _compared(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """The cosine and the relative error; nan where there is nothing to compare with."""
    return (found @ exact / (found.norm() * exact.norm())).item(), ((found - exact).norm() / exact.norm()).item()


def _time_ratios(
    run: Callable[..., Any], plain: Callable[..., Any], guides: dict[str, SemiAmortized], rounds: int, device: torch.device
) -> dict[str, float]:
    ratios: dict[str, list[float]] = {name: [] for name in guides}
    for _ in range(rounds):
        amortized = statistics.median(_seconds(run, plain, device) for _ in range(3))
        for name, guide in guides.items():
            ratios[name].append(_seconds(run, guide, device) / amortized)
    return {name: statistics.median(each) for name, each in ratios.items()}


def _seconds(run: Callable[..., Any], guide: Callable[..., Any], device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    run(guide)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def _peak_bytes(run: Callable[..., Any], guide: Callable[..., Any], parameters: list[Tensor], x: Any) -> int:
    device = as_arguments(x)[0].device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run(guide)
        return torch.cuda.max_memory_allocated(device) - before
    saved = _SavedBytes([*parameters, *(part for part in as_arguments(x) if isinstance(part, torch.Tensor))])
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda each: each.tensor):
        run(guide)
    return saved.peak


class _SavedBytes:
    """Counts the bytes of the storages that autograd holds for a backward pass, each once, and their peak."""

    def __init__(self, known: list[Tensor]) -> None:
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.holders: Counter[int] = Counter()
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> "_SavedTensor":
        return _SavedTensor(self, tensor)

    def change(self, storage: torch.UntypedStorage, by: int) -> None:
        pointer = storage.data_ptr()
        if pointer in self.known:
            return
        before = self.holders[pointer] > 0
        self.holders[pointer] += by
        self.now += storage.nbytes() * ((self.holders[pointer] > 0) - before)
        self.peak = max(self.peak, self.now)


class _SavedTensor:
    def __init__(self, total: _SavedBytes, tensor: Tensor) -> None:
        self.total, self.tensor = total, tensor
        total.change(tensor.untyped_storage(), 1)

    def __del__(self) -> None:
        self.total.change(self.tensor.untyped_storage(), -1)
