"""p(x|z) of an autoregressive decoder, as an honest distribution."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import Distribution, TorchDistribution
from torch import Tensor


class Autoregressive(TorchDistribution):
    """p(x|z) = prod_i p(x_i | x_<i, z) of an autoregressive network: `log_prob` is one teacher-forced pass, `sample` ancestral.

    network: has `log_prob(x, z) -> (N,)` for x (N, *event_shape) and z (N, D), `generate(z) -> (x, ...)`, which draws x element
    by element, and `support`. z: (*batch_shape, D), or (*batch_shape, T, C) with `latent_dims=2`. There is no mean in closed
    form. For text, `event_shape` is the largest length, and what a shorter x lacks is padding. For an x that it does not take
    the network raises ValueError.
    """

    arg_constraints = {}
    has_rsample = False

    def __init__(self, network: Any, z: Tensor, event_shape: Sequence[int], *, latent_dims: int = 1) -> None:
        self.network, self.z, self.latent_dims = network, z, latent_dims
        super().__init__(z.shape[: z.dim() - latent_dims], torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> Any:
        return self.network.support

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Distribution:
        z = self.z.expand(*batch_shape, *self._latent_shape)
        return Autoregressive(self.network, z, self.event_shape, latent_dims=self.latent_dims)

    def log_prob(self, value: Any) -> Tensor:
        event_dims = len(self.event_shape)
        batch_shape = torch.broadcast_shapes(value.shape[: value.dim() - event_dims], self.batch_shape)
        event_shape = value.shape[value.dim() - event_dims :]
        x = value.expand(batch_shape + event_shape).reshape(math.prod(batch_shape), *event_shape)
        return self.network.log_prob(x, self._rows(batch_shape)).reshape(batch_shape)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        batch_shape = torch.Size(sample_shape) + self.batch_shape
        x, _ = self.network.generate(self._rows(batch_shape))
        return x.reshape(batch_shape + self.event_shape)

    @property
    def _latent_shape(self) -> torch.Size:
        return self.z.shape[self.z.dim() - self.latent_dims :]

    def _rows(self, batch_shape: torch.Size) -> Tensor:
        return self.z.expand(*batch_shape, *self._latent_shape).reshape(math.prod(batch_shape), *self._latent_shape)
