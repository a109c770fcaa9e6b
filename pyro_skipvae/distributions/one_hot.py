"""Categorical distributions over one-hot rows: codes, and their relaxed draws."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn import functional as F


class _Rows(type(constraints.simplex)):  # type: ignore[misc]  # torch exports the instance alone
    """One-hot rows, and in training those between: their sum is 1 up to the rounding of so many classes."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        """Whether each row lies on the simplex."""
        allowed = max(1e-6, torch.finfo(value.dtype).eps * value.shape[-1])
        inside: Tensor = (value >= 0).all(-1) & ((value.sum(-1) - 1).abs() < allowed)
        return inside


ROWS: Any = _Rows()


class OneHot(dist.OneHotCategorical):
    """A categorical distribution over K classes as one-hot rows, batch (...), event (K,); a `temperature` relaxes its draws.

        log p(z) = sum_k z_k log p_k,   a relaxed draw: z = softmax((log p + Gumbel noise) / temperature)

    Probabilities, log p at one-hot rows, KL and entropy are exactly those of the categorical distribution. Relaxed draws lie
    between one-hot rows, where log p is an extension of the formula and no density: train through them with a KL in closed
    form. logits: (..., K); -inf is a class of probability 0. Raises
    ValueError for a temperature that is not above 0; `rsample` raises NotImplementedError without one.

    Reference: Jang, Gu, Poole 2017, "Categorical Reparameterization with Gumbel-Softmax", equation 2; Maddison et al. 2017.
    """

    support: Any = ROWS

    def __init__(self, logits: Tensor, *, temperature: float | None = None, validate_args: bool | None = None) -> None:
        if temperature is not None and not temperature > 0:
            raise ValueError(f"expected a temperature above 0, got {temperature}")
        self.temperature = temperature
        super().__init__(logits=logits, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        """Whether draws are relaxed."""
        return self.temperature is not None

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        """The same distribution over more of the batch."""
        new = self._get_checked_instance(OneHot, _instance)
        new.temperature = self.temperature
        expand: Any = super().expand
        return expand(batch_shape, _instance=new)

    def log_prob(self, value: Any) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return (value * self.logits.masked_fill(value == 0, 0)).sum(-1)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        if self.temperature is None:
            raise NotImplementedError("expected a temperature for relaxed draws, got none")
        logits = self.logits.expand(self._extended_shape(sample_shape))
        noise = -(-torch.rand_like(logits).clamp(min=torch.finfo(logits.dtype).tiny).log()).log()
        return ((logits + noise) / self.temperature).softmax(-1)


def codes_of(classes: Tensor, size: int, like: Tensor) -> OneHot:
    """The distribution that is certain of the classes (...), of so many: logits 0 and -inf."""
    chosen = F.one_hot(classes, size).bool()
    return OneHot(torch.zeros(chosen.shape, dtype=like.dtype, device=like.device).masked_fill(~chosen, -torch.inf))
