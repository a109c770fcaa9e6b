"""Whether numbers per row are finite, and which rows are to blame where they are not."""

from torch import Tensor

from .rows import named_rows
from .unavailable import Unavailable

ENOUGH = 4  # draws of a float that are equal by chance are rarer than one in 10^15 from here on


def finite(values: Tensor, what: str) -> Tensor:
    """The values (N,), one per row; raises Unavailable, with the rows, where one is infinite or no number."""
    bad = ~values.isfinite()
    if bad.any():
        kinds = sorted({str(value) for value in values[bad].tolist()})
        raise Unavailable(f"{what} is {' or '.join(kinds)} at {named_rows(bad)}")
    return values


def check_values(z: Tensor) -> None:
    """Raises Unavailable, with the rows, where a draw of z (S, N, *event) is not finite."""
    bad = ~_flat(z).isfinite().all(2).all(0)
    if bad.any():
        raise Unavailable(f"draws from q(z|x) are not finite at {named_rows(bad)}: its parameters there are not")


def check_draws(z: Tensor, log_q: Tensor) -> None:
    """Raises Unavailable, with the rows, where z (S, N, *event) or log q(z|x) (S, N) is not finite, or z does not vary."""
    check_densities(z, log_q)
    flat = _flat(z)
    fixed = (flat == flat[:1]).all(0).any(1)
    if len(z) >= ENOUGH and fixed.any():
        raise Unavailable(
            f"all draws from q(z|x) are the same at {named_rows(fixed)}: "
            f"q(z|x) there is narrower than {str(z.dtype).removeprefix('torch.')} can tell"
        )


def check_densities(z: Tensor, log_q: Tensor) -> None:
    """Raises Unavailable, with the rows, where z (S, N, *event) or log q(z|x) (S, N) is not finite."""
    check_values(z)
    bad = ~log_q.isfinite().all(0)
    if bad.any():
        raise Unavailable(
            f"log q(z|x) of its own draws is not finite at {named_rows(bad)}: "
            f"q(z|x) there is no density, or too narrow for {str(z.dtype).removeprefix('torch.')}"
        )


def _flat(z: Tensor) -> Tensor:
    return z.flatten(2) if z.dim() > 2 else z[..., None]
