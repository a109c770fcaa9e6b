"""Distributions as Pyro takes them: torch's own made Pyro's, with a batch of the rows of x, or of particles of them."""

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_skipvae.diagnostics.pairs.unavailable import Refused


def as_pyro(distribution: Any) -> Any:
    """The same distribution as one of Pyro's, which adds what `pyro.sample` calls; those of torch know nothing of it."""
    if not isinstance(distribution, torch.distributions.Distribution) or isinstance(distribution, TorchDistributionMixin):
        return distribution
    kind = type(distribution)
    named = getattr(dist, kind.__name__, None)
    known = isinstance(named, type) and issubclass(named, kind)
    expands = kind.expand is not torch.distributions.Distribution.expand
    own: Any = {"expand": _expanded(kind) if expands else _expand}
    target: Any = named if known else type(kind.__name__, (kind, TorchDistributionMixin), own)
    made = target.__new__(target)
    made.__dict__.update({name: as_pyro(value) for name, value in vars(distribution).items()})
    if not known and not made.batch_shape and not made.event_shape:  # of scvi-tools: they do not tell their shape
        made._batch_shape = torch.as_tensor(made.mean).shape
    return made


def _expand(distribution: Any, batch_shape: torch.Size, _instance: Any = None) -> Any:
    same = torch.Size(batch_shape) == distribution.batch_shape
    return distribution if same else TorchDistributionMixin.expand(distribution, batch_shape)


def _expanded(kind: Any) -> Any:
    """The expand of a distribution of torch, whose result may be made by its constructor, as one of Pyro's."""

    def expand(distribution: Any, batch_shape: torch.Size, _instance: Any = None) -> Any:
        return as_pyro(kind.expand(distribution, batch_shape, _instance))

    return expand


def by_row(distribution: Any, rows: int, what: str) -> Any:
    """A distribution with batch (rows,): its further batch dimensions become event dimensions. Raises Refused for others."""
    batch, event = tuple(distribution.batch_shape), tuple(distribution.event_shape)
    if not batch or batch[0] != rows:
        hint = ""
        if not batch and event and event[0] == rows:
            hint = "; leave the rows out of Independent, or of to_event"
        elif rows in batch:
            hint = "; the rows come first"
        raise Refused(
            f"expected {what} to give a distribution with a batch of {rows}, one for each row, got batch shape {batch} and "
            f"event shape {event}{hint}"
        )
    return distribution.to_event(len(batch) - 1)


class Particles(TorchDistribution):
    """p(x|z) of K particles of B rows, batch (K, B), from what a decoder made of all K B rows at once, batch (K B,)."""

    arg_constraints = {}

    def __init__(self, flat: Any, batch_shape: Sequence[int]) -> None:
        self.flat = flat
        super().__init__(torch.Size(batch_shape), flat.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.flat.has_rsample

    @property
    def support(self) -> Any:
        return self.flat.support

    def log_prob(self, value: Tensor) -> Tensor:
        event = value.shape[value.dim() - self.event_dim :]
        rows = value.expand(self.batch_shape + event).reshape(math.prod(self.batch_shape), *event)
        return self.flat.log_prob(rows).reshape(self.batch_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._unflattened(self.flat.rsample(torch.Size(sample_shape)), sample_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._unflattened(self.flat.sample(torch.Size(sample_shape)), sample_shape)

    @property
    def mean(self) -> Tensor:
        return self._unflattened(self.flat.mean, ())

    def _unflattened(self, value: Tensor, sample_shape: Any) -> Tensor:
        return value.reshape(*sample_shape, *self.batch_shape, *self.event_shape)
