"""Mean and standard deviation of a posterior."""

from typing import Any

from torch import Tensor


def posterior_moments(q: Any, *, draws: int = 100) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z|x), each (B, D); of draws where the family has neither in closed form."""
    try:
        return q.mean, q.stddev
    except NotImplementedError:
        z = q.sample((draws,))
        return z.mean(0), z.std(0)
