"""The rows of x: a tensor, or a tuple of tensors that share their first dimension."""

from torch import Tensor


def as_tuple(x) -> tuple:
    """x as the tuple of arguments that the model and the guide take; a lazy view of a tensor is read whole."""
    x = tuple(map(_read, x if isinstance(x, tuple) else (x,)))
    if not (x and isinstance(x[0], Tensor) and x[0].dim() > 0 and len(x[0]) > 0):
        raise ValueError(f"expected x to be a tensor with rows, or a tuple that starts with one, got {_kind(x)}")
    uneven = [tuple(item.shape) for item in x if _has_rows(item) and len(item) != len(x[0])]
    if uneven:
        raise ValueError(f"expected tensors of {len(x[0])} rows in x, got the shapes {uneven}")
    return x


def count_rows(x: tuple) -> int:
    """The number of rows of x."""
    return len(x[0])


def select_rows(x: tuple, index) -> tuple:
    """The rows at a slice or an index tensor; what is not a tensor with rows is passed on as it is."""
    return tuple(item[index] if _has_rows(item) else item for item in x)


def _read(item):
    lazy = hasattr(item, "shape") and not isinstance(item, Tensor) and isinstance(item[:], Tensor)
    return item[:] if lazy else item


def _has_rows(item) -> bool:
    return isinstance(item, Tensor) and item.dim() > 0


def _kind(x: tuple) -> str:
    if not x:
        return "an empty tuple"
    return f"a tensor of shape {tuple(x[0].shape)}" if isinstance(x[0], Tensor) else f"a {type(x[0]).__name__}"
