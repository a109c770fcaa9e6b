"""Evaluating a model and a guide without leaving a trace: modes, random numbers and stores stay as found."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from numbers import Integral
from typing import Any

import pyro
import torch
from pyro.contrib.easyguide import EasyGuide
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_skipvae.modules import modules_behind
from pyro_skipvae.random_numbers import forked

from .rows import Inputs, Rows, as_rows, check_cut, count_rows, read_part, values


@contextmanager
def evaluation_mode(*callables: Callable[..., Any]) -> Iterator[None]:
    """Every module that runs inside, runs in evaluation mode; the flags are restored afterwards, also on an exception.

    A global hook switches a module before its first forward, so not even one batch updates a BatchNorm statistic.
    The modules behind the given callables are switched at once: a method may read `self.training`, and a transform may
    be a module, without a forward of its own.
    """
    switched = []

    def switch(module: nn.Module, _inputs: Any = None) -> None:
        # Only `training` is set: an overridden train() or eval() may do more, which could not be undone.
        training = [part for part in module.modules() if part.training] if module.training else []
        switched.extend(training)
        for part in training:
            part.training = False

    for module in _modules(*callables):
        switch(module)
    hook = register_module_forward_pre_hook(switch)
    try:
        yield
    finally:
        hook.remove()
        for part in switched:
            part.training = True


def forked_random(x: Rows, seed: int, *callables: Callable[..., Any]) -> AbstractContextManager[None]:
    """The random numbers of the CPU, and of the devices of x and of the callables' modules, start at `seed` inside.

    They continue as found afterwards.
    """
    tensors = [item for item in values(x) if isinstance(item, Tensor)]
    tensors += [parameter for module in _modules(*callables) for parameter in module.parameters()]
    return forked({tensor.device for tensor in tensors}, seed)


def _modules(*callables: Callable[..., Any]) -> list[nn.Module]:
    """The modules behind some callables, and behind the owners of those that are methods, or stand for one."""
    found = [module for function in callables for each in (function, _owner(function)) for module in modules_behind(each)]
    return list(dict.fromkeys(found))


def parameters_of(*callables: Callable[..., Any]) -> list[nn.Parameter]:
    """The parameters of the modules that the callables are, or are methods of."""
    return [p for owner in map(_owner, callables) if isinstance(owner, nn.Module) for p in owner.parameters()]


def precision_of(*callables: Callable[..., Any]) -> Tensor | None:
    """A parameter in whose precision, and on whose device, the callables compute; None where they have none."""
    return next((parameter for parameter in parameters_of(*callables) if parameter.is_floating_point()), None)


@contextmanager
def kept_prototypes(*callables: Callable[..., Any]) -> Iterator[None]:
    """An EasyGuide that has not run yet is new again afterwards: its first run sets it up for the rows of that run."""
    fresh = [guide for guide in map(_owner, callables) if isinstance(guide, EasyGuide) and guide.prototype_trace is None]
    known = [set(guide._pyro_params) for guide in fresh]
    try:
        yield
    finally:
        for guide, names in zip(fresh, known, strict=True):
            guide.prototype_trace = None
            for name in set(guide._pyro_params) - names:  # its estimates, as long as those rows
                delattr(guide, name)
            for found in (guide.frames, guide.groups, guide.plates):
                found.clear()


def _owner(function: Any) -> Any:
    return getattr(function, "__self__", function)


@contextmanager
def kept_param_store() -> Iterator[None]:
    """Parameters that a run adds to Pyro's store are taken out again."""
    store = pyro.get_param_store()
    # Not by `del`: a tensor that two modules share has two names there, and Pyro can delete only one of them.
    with store.scope(store.get_state()):
        yield


@contextmanager
def as_found(
    *callables: Callable[..., Any], x: Inputs, seed: int, samples: tuple[int, ...], first: int | None = None
) -> Iterator[Rows]:
    """Evaluation mode, no gradients, random numbers from `seed`; the caller's state is as found afterwards.

    Yields the rows of x, or the `first` of them; they are read inside, since a lazy view may draw what it returns. `samples`
    are the numbers of draws asked for. Raises ValueError for one that is not 1, 2, ..., or fewer than 2 rows: a mean over one
    has no error, and the information of one and its units no meaning.
    """
    if not all(isinstance(number, Integral) and number >= 1 for number in samples):
        raise ValueError(f"expected whole numbers of samples, at least 1, got {' and '.join(map(str, samples))}")
    given = tuple(x.values()) if isinstance(x, Mapping) else tuple(x) if isinstance(x, tuple | list) else (x,)
    with (
        evaluation_mode(*callables),
        forked_random(given, seed, *callables),
        kept_param_store(),
        kept_prototypes(*callables),
        torch.no_grad(),
    ):
        like = precision_of(*callables)
        rows = as_rows(x, like) if first is None else read_part(x, slice(0, first), like)
        check_cut(x, rows)
        if count_rows(rows) < 2:
            raise ValueError(f"expected at least 2 rows of x, got {count_rows(rows)}")
        yield rows
