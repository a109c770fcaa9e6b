"""The modules and loose parameters that a callable works with: found, so that they can be trained and switched."""

import dis
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

LIBRARIES = ("torch", "pyro", "numpy")  # their functions know no module of a user's
DEPTH = 5  # functions that call functions; who nests deeper passes the module itself


def modules_behind(function: Callable[..., Any]) -> list[nn.Module]:
    """The modules that a callable is, is a method of, was given, encloses or names; each once, in the order they are found."""
    return [found for found in _behind(function) if isinstance(found, nn.Module)]


def parameters_behind(function: Callable[..., Any]) -> list[Tensor]:
    """The tensors with a gradient of their own, outside of modules, that a callable was given, encloses or names."""
    return [found for found in _behind(function) if isinstance(found, Tensor)]


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters of a module are."""
    return next(module.parameters()).device


def nodes(tensor: Tensor) -> Iterator[Any]:
    """The nodes of autograd's graph behind a tensor, each once, in its order."""
    seen: set[Any] = set()
    waiting: list[Any] = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [following for following, _ in reversed(node.next_functions)]


def parameters_below(loss: Tensor) -> list[nn.Parameter]:
    """The parameters to which the gradient of a loss flows."""
    leaves = (getattr(node, "variable", None) for node in nodes(loss))
    return [leaf for leaf in leaves if isinstance(leaf, nn.Parameter)]


def roots(modules: list[nn.Module]) -> list[nn.Module]:
    """The modules that are no part of another one of them."""
    parts = {id(part) for module in modules for part in module.modules() if part is not module}
    return [module for module in modules if id(module) not in parts]


def _behind(function: Any) -> list[nn.Module | Tensor]:
    found = list(_search(function, DEPTH, set()))
    return list({id(item): item for item in found}.values())


def _search(item: Any, depth: int, seen: set[int]) -> Iterator[nn.Module | Tensor]:
    if id(item) in seen or depth < 0:
        return
    seen.add(id(item))
    if isinstance(item, nn.Module) or isinstance(item, Tensor) and item.requires_grad and item.is_leaf:
        yield item
        return
    for part in _parts(item):
        yield from _search(part, depth - 1, seen)


def _parts(item: Any) -> list[Any]:
    """What a callable, or a container, holds. Of another object it is what its attributes are, not what those hold."""
    if isinstance(item, MethodType):
        return [item.__self__, item.__func__]
    if isinstance(item, partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, FunctionType):
        if (item.__module__ or "").partition(".")[0] in LIBRARIES:
            return []
        cells = [cell.cell_contents for cell in item.__closure__ or () if _is_filled(cell)]
        given = [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
        return [*cells, *given, *(item.__globals__[name] for name in _names(item.__code__) if name in item.__globals__)]
    if isinstance(item, list | tuple):
        return list(item[:100])
    if isinstance(item, dict):
        return list(item.values())[:100]
    if isinstance(item, type | ModuleType) or not hasattr(item, "__dict__"):
        return []
    held = [value for value in vars(item).values() if isinstance(value, nn.Module | Tensor | MethodType | FunctionType)]
    return [*held, type(item).__call__] if callable(item) else held


def _names(code: CodeType) -> Iterator[str]:
    """The globals that a function, or one that it defines, names."""
    for step in dis.get_instructions(code):
        if step.opname == "LOAD_GLOBAL":
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # a variable that has no value yet
        return False
    return True
