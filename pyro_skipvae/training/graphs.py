"""Loss and gradients of a step as one compiled graph for each shape of a batch, traced through Pyro.

Pyro's Python runs once for each shape, and is gone from the graph. The random numbers are those that the plain step would
draw: torch draws them, in the same order.
"""

import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_skipvae.blocks import TRACED
from pyro_skipvae.objectives import Batch, as_arguments
from pyro_skipvae.random_numbers import forked

MOST = 16  # graphs: a compilation takes longer than many steps
Loss = Callable[[Batch, Any], Tensor]


@dataclass
class Compilation:
    """What was compiled: how many graphs, in how many seconds, and why the plain step runs instead, or None."""

    graphs: int = 0
    seconds: float = 0.0
    refused: str | None = None


class Graphs:
    """(x, beta) -> the loss, with its gradients on the parameters, by a graph for each shape of x.

    `loss(x, beta)` is what a step differentiates, `parameters` are all that it reads and that are trained. A graph is made
    anew for another shape or type of x, for modules in another mode, and for other parameters that want a gradient. Anything
    else that `loss` reads stays as it was when the graph was made: beta and parameters do not, nor do the values of buffers.
    Without `weighs`, `loss` takes no other beta than a number, and there is a graph for each.
    """

    def __init__(
        self,
        loss: Loss,
        parameters: Sequence[Tensor],
        modules: Sequence[nn.Module],
        compilation: Compilation,
        *,
        rate: bool = False,
        weighs: bool = True,
    ) -> None:
        self.loss, self.parameters, self.modules, self.compilation = loss, list(parameters), list(modules), compilation
        self.rate, self.weight = rate, torch.ones(())  # beta of the last call, and whether it is to have a gradient
        self.weighs, self.told = weighs, False  # that further shapes run without a graph
        self.made: dict[Any, Callable[..., Any]] = {}
        # Buffers, and weights that are not trained, go into a graph as the parameters do: a compiler keeps constants.
        known = set(map(id, self.parameters))
        held: list[dict[str, Any]] = [held for module in modules for held in (module._parameters, module._buffers)]
        places = [(each, name) for each in held for name in each]
        self.places = [(each, name) for each, name in places if each[name] is not None and id(each[name]) not in known]

    def __call__(self, x: Batch, beta: float) -> Tensor | None:
        """The loss of x, its gradients left on the parameters; None where it could not be compiled, nothing changed then."""
        parts = as_arguments(x)
        key = self._key(parts), None if self.weighs else beta
        like = self.parameters[0]
        self.weight = weight = torch.full((), beta, dtype=like.dtype, device=like.device, requires_grad=self.rate)
        others = [held[name] for held, name in self.places]
        tensors = [*self.parameters, *others, weight, *(part for part in parts if isinstance(part, Tensor))]
        if key not in self.made and (self._has_enough() or not self._make(key, x, beta, tensors)):
            return None
        with torch.no_grad():
            loss, *gradients = self.made[key](*tensors)
        trained = [tensor for tensor in (*self.parameters, weight) if tensor.requires_grad]
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        return loss

    def _key(self, parts: Sequence[Any]) -> Any:
        shapes = tuple((part.shape, part.dtype, part.device) if isinstance(part, Tensor) else _constant(part) for part in parts)
        flags = tuple(parameter.requires_grad for parameter in self.parameters)
        like = self.parameters[0]
        return shapes, flags, like.dtype, like.device, tuple(module.training for module in self.modules)

    def _has_enough(self) -> bool:
        """Whether there are as many graphs as there may be; told once."""
        if len(self.made) < MOST:
            return False
        if not self.told:
            warnings.warn(f"batches have more than {MOST} shapes: those that came later run without a graph", stacklevel=6)
            self.told = True
        return True

    def _make(self, key: Any, x: Batch, beta: float, tensors: list[Tensor]) -> bool:
        start = time.perf_counter()
        try:
            made = _compiled(self._traced(x, beta, tensors), tensors)
            self._tried(made, x, tensors)
            self.made[key] = made
        except Exception as error:  # whatever torch raises: the plain step does without, and it is told
            self.compilation.refused = _reason(error)
        self.compilation.seconds += time.perf_counter() - start
        self.compilation.graphs = len(self.made)
        return self.compilation.refused is None

    def _tried(self, made: Callable[..., Any], x: Batch, tensors: list[Tensor]) -> None:
        """Run a graph once, and leave no trace of it: what a compiler accepts may fail when it runs."""
        kept = [(held[name], held[name].clone()) for held, name in self.places]
        try:
            with _forked(x), torch.no_grad():
                made(*tensors)
        finally:
            _restore(kept)

    def _traced(self, x: Batch, beta: float, tensors: list[Tensor]) -> Any:
        """The graph of (parameters, other tensors, beta, tensors of x) -> loss and gradients.

        It is made by running the step on these very tensors: a tensor is known wherever it is used.
        """
        from torch.fx.experimental.proxy_tensor import make_fx

        def loss_and_gradients(*tensors: Tensor) -> list[Tensor]:
            weight, rest = tensors[count], iter(tensors[count + 1 :])
            parts = tuple(next(rest) if isinstance(part, Tensor) else part for part in as_arguments(x))
            mean = self.loss(parts if isinstance(x, tuple | list) else parts[0], weight if self.weighs else beta)
            trained = [tensor for tensor in (*self.parameters, weight) if tensor.requires_grad]
            return [mean.detach(), *torch.autograd.grad(mean, trained, allow_unused=True)]

        count = len(self.parameters) + len(self.places)
        kept = [(held[name], held[name].clone()) for held, name in self.places]
        token = TRACED.set(True)
        try:
            # Pyro's checks look at values, which a graph has none of; run_once has made them.
            with _forked(x), pyro.validation_enabled(False):
                graph = make_fx(loss_and_gradients)(*tensors)
        finally:
            TRACED.reset(token)
            _restore(kept)
        for node in graph.graph.nodes:
            if "rnn" in str(node.target):
                raise NotCompiled("torch's recurrent layers cannot be in a graph")
            if node.op == "get_attr" and isinstance(getattr(graph, node.target, None), nn.Parameter):
                raise NotCompiled("it uses a parameter that neither Pyro nor a module was told of")
        return graph


def _constant(part: Any) -> Any:
    """What tells an argument that is in the graph as it is from another one; the text of a long array leaves numbers out."""
    return (part.shape, part.dtype.str, part.tobytes()) if isinstance(part, np.ndarray) else repr(part)


class NotCompiled(Exception):
    """Why a step is not compiled, in words."""


def run_once(loss: Loss, x: Batch, beta: float | Tensor) -> list[nn.Module]:
    """The modules that run in `loss`; it leaves no trace in buffers and random numbers."""
    found: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def remember(module: nn.Module, _: Any) -> None:
        if module not in found:
            found[module] = [(buffer, buffer.clone()) for buffer in module.buffers(recurse=False)]

    hook = register_module_forward_pre_hook(remember)
    try:
        with _forked(x):
            loss(x, beta)
    finally:
        hook.remove()
        _restore(pair for kept in found.values() for pair in kept)
    return list(found)


def _compiled(graph: Any, tensors: list[Tensor]) -> Callable[..., Any]:
    import torch._inductor

    with torch.no_grad():
        # fallback_random: torch's own generator, as in the plain step, and not one that inductor makes up.
        return torch._inductor.compile(graph, [*tensors], options={"fallback_random": True})


def _reason(error: Exception) -> str:
    if isinstance(error, NotCompiled):
        return str(error)
    said = " ".join(str(error).split())
    if "trying to get value out of a tracing tensor" in said or "dynamic shape" in said.lower():
        return f"it looks at values while it computes{_place(error)}"
    if "compiler" in said.lower() and "Cxx" in type(error).__name__ + said:
        return "there is no C++ compiler here that works; install g++"
    return f"{type(error).__name__} {said[:200]}{_place(error)}"


def _place(error: Exception) -> str:
    """Where in the code that is neither torch's nor Pyro's."""
    foreign = [str(Path(str(package.__file__)).parent) for package in (torch, pyro)]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(tuple(foreign))]
    if not frames:
        return ""
    return f", in {frames[-1].name} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def _forked(x: Batch) -> Any:
    return forked({part.device for part in as_arguments(x) if isinstance(part, Tensor)})


@torch.no_grad()
def _restore(pairs: Any) -> None:
    for buffer, value in pairs:
        buffer.copy_(value)
