"""Distributions over the grey levels 0, 1/(K-1), ..., 1 of an image."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution, TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from pyro_skipvae.blocks import check_sizes

GREY = type(constraints.unit_interval)(0.0, 1.0)
GREY.is_discrete = True  # probabilities of levels, whose nats do not depend on a unit as those of a density do


class GreyLevels(TorchDistribution):
    """A categorical distribution over K grey levels: logits (..., K), batch (...), event (), values k/(K-1) in [0, 1].

    A value between two levels counts as the nearest. Raises ValueError for fewer than 2 levels.
    """

    arg_constraints = {"logits": constraints.real_vector}
    support = GREY

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits - logits.logsumexp(-1, keepdim=True)  # once: pairwise diagnostics ask for many log_prob
        self.levels = logits.shape[-1]
        check_sizes(2, levels=self.levels)
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Distribution:
        new = self._get_checked_instance(GreyLevels, _instance)
        new.logits, new.levels = self.logits.expand(*batch_shape, self.levels), self.levels
        super(GreyLevels, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        level = dist.Categorical(logits=self.logits).sample(sample_shape)
        return level.to(self.logits.dtype) / (self.levels - 1)

    def log_prob(self, value: Any) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        level = (value * (self.levels - 1)).round().long()
        level, logits = torch.broadcast_tensors(level[..., None], self.logits)
        return logits.gather(-1, level[..., :1])[..., 0]

    @property
    def mean(self) -> Tensor:
        return self.logits.softmax(-1) @ torch.linspace(0, 1, self.levels).to(self.logits)


class DiscretisedLogistic(TorchDistribution):
    """A logistic distribution binned to K = `levels` grey levels 0, 1/(K-1), ..., 1: loc and scale (...), batch (...).

        P(x) = sigmoid((x + h - loc) / scale) - sigmoid((x - h - loc) / scale),  h = 1 / (2 (K - 1))

    The outermost bins take the tails, so that the probabilities of the levels sum to 1. A value between two levels is not
    rounded: the bin around it counts. Raises ValueError for fewer than 2 levels.

    Reference: Kingma et al. 2016 (inverse autoregressive flow), appendix on the likelihood.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = GREY

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        check_sizes(2, levels=levels)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Distribution:
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return DiscretisedLogistic(loc, scale, self.levels, validate_args=self._validate_args)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        uniform = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        value = self.loc + self.scale * torch.logit(uniform)
        return (value.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)

    def log_prob(self, value: Any) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (self.levels - 1)
        upper, lower = (value + half - self.loc) / self.scale, (value - half - self.loc) / self.scale
        # log(sigmoid(u) - sigmoid(l)) = logsigmoid(u) + logsigmoid(-l) + log(1 - exp(l - u)): no difference of two
        # numbers near 1, which would be zero for a bin far from loc. l - u is the same for every bin.
        inside = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-2 * half / self.scale))
        log_prob = torch.where(value < half, logsigmoid(upper), inside)
        return torch.where(value > 1 - half, logsigmoid(-lower), log_prob)

    @property
    def mean(self) -> Tensor:
        levels = torch.linspace(0, 1, self.levels).to(self.loc)
        shape = (self.levels,) + (1,) * self.loc.dim()
        return (self.log_prob(levels.reshape(shape)).exp() * levels.reshape(shape)).sum(0)
