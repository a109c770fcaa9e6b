"""The multinomial distribution of counts whose total is given with them."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution, TorchDistribution, constraints
from torch import Tensor


class MultinomialGivenTotal(TorchDistribution):
    """The multinomial distribution of counts x given their total n, which is not modelled: batch (...), event (D,).

        log p(x | n) = ln n! - sum_d ln x_d! + sum_d x_d log softmax(logits)_d,   n = sum_d x_d

    logits: (..., D). The probabilities sum to 1 over all x of a total; a row without counts has probability 1. A draw takes its
    total from `totals` (N,), uniformly; without them `sample` and `mean` raise NotImplementedError. torch's `Multinomial` has
    the same density, but requires one total for all rows.

    Reference: Liang, Krishnan, Hoffman, Jebara 2018, "Variational Autoencoders for Collaborative Filtering", equation 2.
    """

    arg_constraints = {"logits": constraints.real_vector}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, logits: Tensor, totals: Tensor | None = None, validate_args: bool | None = None) -> None:
        self.logits, self.totals = logits, totals
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Distribution:
        new = self._get_checked_instance(MultinomialGivenTotal, _instance)
        new.logits, new.totals = self.logits.expand(*batch_shape, *self.event_shape), self.totals
        super(MultinomialGivenTotal, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Any) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        found: Tensor = dist.Multinomial(logits=self.logits, validate_args=False).log_prob(value)
        return found

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        totals, shape = self._known_totals(), self._extended_shape(sample_shape)
        drawn = totals[torch.randint(len(totals), shape[:-1], device=totals.device)]
        most = int(drawn.max()) if drawn.numel() else 0
        if not most:
            return self.logits.new_zeros(shape)
        words = dist.Categorical(logits=self.logits.expand(shape)).sample((most,)).movedim(0, -1)
        counted = torch.arange(most, device=totals.device) < drawn[..., None]
        return self.logits.new_zeros(shape).scatter_add_(-1, words, counted.to(self.logits.dtype))

    @property
    def mean(self) -> Tensor:
        return self._known_totals().mean(dtype=self.logits.dtype) * self.logits.softmax(-1)

    def _known_totals(self) -> Tensor:
        if self.totals is None:
            raise NotImplementedError("expected totals for draws and means of a multinomial, got none")
        return self.totals
