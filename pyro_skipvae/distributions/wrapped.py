"""What lies inside of distributions and supports that plates, events and masks wrap."""

from typing import Any

from pyro.distributions import ExpandedDistribution, MaskedDistribution
from torch.distributions import Independent


def innermost(distribution: Any, *, masks: bool = False) -> Any:
    """A distribution without the events and expansions around it, and with `masks` without masks."""
    kinds = (Independent, ExpandedDistribution, MaskedDistribution) if masks else (Independent, ExpandedDistribution)
    while isinstance(distribution, kinds):
        distribution = distribution.base_dist
    return distribution


def innermost_support(support: Any) -> Any:
    """The constraint of the single elements: torch wraps it for independent ones, and for the parts of a mixture."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support
