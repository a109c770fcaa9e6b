"""Bits per dimension: nats per image, in bits, for each value of the image."""

import math
from typing import Any

from torch import Tensor

from ..pairs.interval import Interval, mean_interval

BOUNDS = {"bits_iw": "log_likelihood", "bits_elbo": "elbo", "bits_rate": "rate"}


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """nats / (D ln 2) of an image of D values: of -log p(x) of probabilities, of a bound on it, or of a rate."""
    return nats / (dimensions * math.log(2))


def bits(fields: dict[str, Any], dimensions: int, levels: int) -> dict[str, Any]:
    """-log p(x) by importance sampling and by the ELBO, and the rate, from nats per point (n,), as plain values.

    Each with its 95 % interval and the images that it stands on, the first ones; None where the bound is.
    """
    found: dict[str, Any] = {name: _of(fields[of], of, dimensions) for name, of in BOUNDS.items()}
    return {**found, "dimensions": dimensions, "levels": levels}


def _of(values: Tensor | None, name: str, dimensions: int) -> dict[str, Any] | None:
    if values is None:  # its reason is that of the bound
        return None
    nats: Interval = mean_interval(values if name == "rate" else -values)
    ends = {end: bits_per_dimension(number, dimensions) for end, number in vars(nats).items()}
    return {**ends, "images": len(values)}
