"""The rows of x, as arguments of a model and a guide: a tuple for `*x`, or a dict for `**x`, of tensors of equal length."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset

from .annotated import counts_of, is_annotated

Rows = tuple[Any, ...] | dict[str, Any]
FEW = 32  # rows that are no part of their own


class View(Protocol):
    """An array that is read when it is sliced."""

    @property
    def shape(self) -> Any: ...

    def __getitem__(self, index: Any, /) -> Any: ...


Inputs = Tensor | numpy.ndarray[Any, Any] | View | list[Any] | Rows  # what `as_rows` takes


def as_rows(x: Inputs, like: Tensor | None = None) -> Rows:
    """x as the arguments that the model and the guide take: a tensor or a list as a tuple; lazy views are read whole.

    A NumPy array, or the counts of an AnnData, becomes a tensor where `like` is, floating-point numbers in its precision, or in
    torch's default one.
    Raises ValueError for what has no rows, or tensors of different numbers of rows.
    """
    rows: Rows
    leading: Any
    if isinstance(x, Mapping):
        rows = {name: _read(item, like) for name, item in x.items()}
        leading, named = next(filter(_has_rows, rows.values()), None), all(isinstance(name, str) for name in rows)
    else:
        several: Any = x if _is_several(x) else (x,)
        rows = tuple(_read(item, like) for item in several)
        leading, named = next(iter(rows), None), True
    if not (named and _has_rows(leading) and len(leading) > 0):
        raise ValueError(
            "expected x to be a tensor with rows, a tuple or list that starts with one, or a dict of them by name, "
            f"got {_kind(x, leading)}{'; join what it gives first, by torch.cat or torch.stack' if _is_read_in_turn(x) else ''}"
        )
    uneven = [tuple(item.shape) for item in values(rows) if _has_rows(item) and len(item) != len(leading)]
    if uneven:
        raise ValueError(f"expected tensors of {len(leading)} rows in x, got the shapes {uneven}")
    return rows


def check_cut(x: Inputs, rows: Rows) -> None:
    """Raises ValueError for values of each row of x that are no tensor in `rows`, what was read of x: all of it or a part."""
    read = list(zip(_items(x), values(rows), strict=True))
    of = next(_length(item) for item, part in read if _has_rows(part))
    for item, part in read:
        if not isinstance(part, Tensor) and of is not None and of > 1 and _is_uncut(item, of):
            raise ValueError(
                f"expected what each of the {of} rows of x has of its own in a tensor, whose rows are read part by part, got a "
                f"{type(item).__name__}: pass torch.tensor(...), or texts as numbers. Bind what is no value of a row by "
                "functools.partial"
            )


def length(x: Inputs) -> int:
    """The number of rows of inputs that are not read yet."""
    found = next((int(shape[0]) for item in _items(x) if (shape := _shape(item))), 0)
    if not found:
        as_rows(x)  # says what is wrong with it
    return found


def read_part(x: Inputs, part: slice, like: Tensor | None = None) -> Rows:
    """The rows of x at a slice, as arguments like those of `as_rows`, of inputs that may be too large to be read whole.

    They are on the device of `like`.
    """

    def cut(item: Any) -> Any:
        return item[part] if _shape(item) else item

    def moved(item: Any) -> Any:
        return item.to(like.device) if isinstance(item, Tensor) and like is not None else item

    parts = {n: cut(item) for n, item in x.items()} if isinstance(x, Mapping) else tuple(map(cut, _items(x)))
    read = as_rows(parts, like)
    return {n: moved(item) for n, item in read.items()} if isinstance(read, dict) else tuple(map(moved, read))


def parts_of(rows: int, size: int, fewest: int) -> list[tuple[int, int]]:
    """(start, stop) of parts of `size` rows; a last one of less than `fewest` joins its neighbour.

    Many networks squeeze away a batch of one.
    """
    starts = list(range(0, rows, size))
    if len(starts) > 1 and rows - starts[-1] < fewest:
        starts.pop()
    return list(zip(starts, [*starts[1:], rows], strict=True))


def even_parts(rows: int, most: int) -> tuple[Tensor, ...]:
    """The numbers of the rows in parts of at most `most`, as even as can be: a last part of one is a trap, as above."""
    return torch.arange(rows, device="cpu").tensor_split(-(-rows // most))


def join_rows(parts: list[Rows]) -> Rows:
    """Rows of several parts, one after another; what is not a tensor with rows is that of the first."""
    joined = [torch.cat(items) if _has_rows(items[0]) else items[0] for items in zip(*map(values, parts), strict=True)]
    return dict(zip(parts[0], joined, strict=True)) if isinstance(parts[0], dict) else tuple(joined)


def values(rows: Rows) -> tuple[Any, ...]:
    """What is in the rows, without names."""
    return tuple(rows.values()) if isinstance(rows, dict) else rows


def leading(rows: Rows) -> Tensor:
    """The first tensor with rows."""
    return next(filter(_has_rows, values(rows)))


def count_rows(rows: Rows) -> int:
    """The number of rows of x."""
    return len(leading(rows))


def select_rows(rows: Rows, index: slice | Tensor) -> Rows:
    """The rows at a slice or an index tensor; what is not a tensor with rows is passed on as it is."""
    if isinstance(rows, dict):
        return {name: item[index] if _has_rows(item) else item for name, item in rows.items()}
    return tuple(item[index] if _has_rows(item) else item for item in rows)


def call(function: Any, rows: Rows, run: Any = None) -> Any:
    """function(*rows), or function(**rows): a dict is passed whole where the function has no arguments of these names.

    `run` is called in its place, a handler of the function that hides its arguments.
    """
    run = run or function
    if isinstance(rows, tuple):
        return run(*rows)
    return run(**rows) if _has_arguments(function, rows) else run(rows)


def traced(function: Any, rows: Rows) -> Any:
    """The trace of a model or a guide at these rows."""
    return call(function, rows, poutine.trace(function).get_trace)


def named_rows(bad: Tensor, *, start: int = 0, whole: bool = True) -> str:
    """The rows where `bad` (N,) is true, by index from `start`: the first five of them. whole: these are all rows of x."""
    found = (bad.nonzero().flatten() + start).tolist()
    shown = ", ".join(map(str, found[:5]))
    if whole and len(found) == len(bad):
        return f"all {len(bad)} rows of x"
    return f"row {shown} of x" if len(found) == 1 else f"rows {shown}{', ...' * (len(found) > 5)} of x ({len(found)} rows)"


def _has_arguments(function: Any, rows: dict[str, Any]) -> bool:
    function = inspect.unwrap(function)
    try:
        inspect.signature(function.forward if isinstance(function, nn.Module) else function).bind(**rows)
    except TypeError:
        return False
    return True


def _items(x: Any) -> tuple[Any, ...]:
    return tuple(x.values() if isinstance(x, Mapping) else x if _is_several(x) else (x,))


def _is_several(x: Any) -> bool:
    if isinstance(x, list):
        return len(x) > 0 and hasattr(x[0], "shape")
    return isinstance(x, tuple) and not isinstance(x, PackedSequence)


def _read(item: Any, like: Tensor | None) -> Any:
    if is_annotated(item):
        item = counts_of(item)[0].astype(numpy.float32)
    if isinstance(item, numpy.ndarray | numpy.generic) and item.dtype.kind in "biuf":
        tensor = torch.from_numpy(numpy.array(item))
        tensor = tensor if like is None else tensor.to(like.device)
        precision = torch.get_default_dtype() if like is None else like.dtype
        return tensor.to(precision) if tensor.is_floating_point() else tensor
    if isinstance(item, Tensor) and (item.layout is not torch.strided or item.is_nested):
        kind, advice = ("nested", "x.to_padded_tensor(0.0)") if item.is_nested else ("sparse", "x.to_dense()")
        raise ValueError(f"expected dense tensors in x, got a {kind} one: pass {advice}")
    if isinstance(item, PackedSequence):
        raise ValueError("expected padded tensors in x, got a PackedSequence: pass (padded, lengths), pack them in the guide")
    lazy = hasattr(item, "shape") and not isinstance(item, Tensor | numpy.ndarray) and _is_sliced_to_tensor(item)
    return item[:] if lazy else item


def _is_sliced_to_tensor(item: Any) -> bool:
    try:
        return isinstance(item[:], Tensor)
    except (TypeError, KeyError, IndexError, ValueError):  # a table, which is not sliced by rows
        return False


def _is_uncut(item: Any, rows: int) -> bool:
    """Whether something holds a value for each row, and is no tensor: every part of the rows would get the whole of it."""
    if isinstance(item, Tensor | str | bytes | nn.Module | type):
        return False
    if not isinstance(item, Mapping | list | tuple):
        return _length(item) == rows
    held = list(item.values() if isinstance(item, Mapping) else item)
    within = any(_has_rows(each) and len(each) == rows or _is_uncut(each, rows) for each in held)
    return within or len(held) == rows and not isinstance(item, Mapping)


def _shape(item: Any) -> Any:
    """The shape of what has rows, else (): of a distribution it is a method."""
    shape = getattr(item, "shape", ())
    return () if callable(shape) else shape


def _length(item: Any) -> int | None:
    if shape := _shape(item):
        return int(shape[0])
    try:
        return len(item)
    except TypeError:  # of a number, or an array without dimensions
        return None


def _is_read_in_turn(x: Any) -> bool:
    """Whether x is a loader, a data set of torch or an iterator."""
    return isinstance(x, DataLoader | Dataset | Iterator)


def _has_rows(item: Any) -> bool:
    return isinstance(item, Tensor) and item.dim() > 0


def _kind(x: Any, leading: Any) -> str:
    if isinstance(x, Mapping):
        return f"a dict of {', '.join(f'{name!r}: {_kind(item, item)}' for name, item in x.items())}" if x else "an empty dict"
    if isinstance(x, tuple) and not x:
        return "an empty tuple"
    if isinstance(leading, Tensor):
        return f"a tensor of shape {tuple(leading.shape)}"
    if isinstance(leading, numpy.ndarray):
        return f"an array of {leading.dtype}"
    return f"a {type(x if leading is None else leading).__name__}"
