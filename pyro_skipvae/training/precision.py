"""The precision of a step: networks that multiply in bfloat16, with draws, densities and divergences in float32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_skipvae.objectives import Batch, as_arguments

PRECISIONS = ("float32", "bf16")


def in_precision(precision: str, x: Batch) -> AbstractContextManager[Any]:
    """Inside, Pyro models and guides compute on x as asked: see `svi_step`."""
    if precision == "float32":
        return nullcontext()
    return _NetworksInBfloat16(next(part for part in as_arguments(x) if isinstance(part, Tensor)).device.type)


class _NetworksInBfloat16(Messenger):
    """torch's autocast around all but the sample statements.

    What a network gives a distribution is to be float32: raises ValueError for a site whose draws are not.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.autocast = device, torch.autocast(device, torch.bfloat16)

    def __enter__(self) -> Any:
        self.autocast.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        left = super().__exit__(*error)
        self.autocast.__exit__(*error)
        return left

    def _pyro_sample(self, message: Any) -> None:
        torch.set_autocast_enabled(self.device, False)

    def _pyro_post_sample(self, message: Any) -> None:
        torch.set_autocast_enabled(self.device, True)
        value = message["value"]
        if not poutine.util.site_is_subsample(message) and getattr(value, "dtype", None) == torch.bfloat16:
            raise ValueError(
                f"expected draws of {message['name']!r} in float32, got bfloat16: with precision bf16 call .float() on what a "
                "network gives to a distribution"
            )
