"""Pyro's parameter store: whether it holds a pair's own tensors."""

from collections.abc import Mapping
from typing import Any


def check_store_tensors(sites: Mapping[str, Any]) -> None:
    """Raise if a parameter that `pyro.module` offered is not the tensor that the store returned for its name.

    `sites` are parameter sites as Pyro traced them, by name. The store keeps the first tensor of a name: a second model then
    runs with tensors of its own while whoever reads the store, an optimizer or a gradient, gets those of the first.
    """
    for name, site in sites.items():
        offered = site["args"][1] if "$$$" in name else None
        if offered is not None and site["value"].unconstrained() is not offered:
            reason = "is not contiguous" if not offered.is_contiguous() else "belongs to another model"
            raise ValueError(
                f"expected Pyro's parameter store to hold this model's own tensors, but its {name.replace('$$$', '.')} "
                f"{reason}; call pyro.clear_param_store() before building a second model"
            )
