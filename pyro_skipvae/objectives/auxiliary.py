"""The negative ELBO with an auxiliary loss beside it, which z can lower only by telling the datapoints apart."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.distributions.ar1 import normal_factors

from .terms import Batch, Objective, as_arguments, by_row, kl_sum, plate_scale, terms

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class BagOfWords(nn.Module):
    """The negative ELBO and the loss of telling the words of x from z alone, whatever their order, as an objective.

        -ELBO - weight sum_t log softmax(f(z))_(x_t),    f(z) = W_2 tanh(W_1 z + b_1) + b_2

    in nats summed over the batch. x (B, T) holds the indices of `vocabulary_size` words, `padding_idx` left out; z has
    `latent_size` elements, f `width` hidden units. Each call registers f as the module "objective", so that SVI trains it. The
    value is not a bound: report the plain ELBO. Raises ValueError for a weight that is not above 0, a size below 1 and a
    padding that is no word; the call raises it unless there is exactly one latent site of this size and x holds indices, a row
    for each z.

    Reference: Zhao, Zhao, Eskenazi 2017, "Learning Discourse-level Diversity for Neural Dialog Models using Conditional
    Variational Autoencoders", section 3.3 and its code (weight 1, 400 units, the end mark a word like others).
    """

    def __init__(
        self, latent_size: int, vocabulary_size: int, *, weight: float = 1.0, width: int = 400, padding_idx: int = 0
    ) -> None:
        super().__init__()
        if not 0 < weight < math.inf:
            raise ValueError(f"expected a weight above 0 for the bag of words, got {weight}")
        check_sizes(latent_size=latent_size, vocabulary_size=vocabulary_size, width=width)
        if padding_idx not in range(vocabulary_size):
            raise ValueError(f"expected a padding_idx from 0 to {vocabulary_size - 1}, got {padding_idx}")
        self.weight, self.padding_idx = weight, padding_idx
        self.words = nn.Sequential(nn.Linear(latent_size, width), nn.Tanh(), nn.Linear(width, vocabulary_size))

    def forward(self, model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
        pyro.module("objective", self)  # SVI trains what is in the parameter store
        found = terms(model, guide, x, "a bag of words", beta)
        z, words = by_row(found.q["value"], found.q, x), as_arguments(x)[0]
        self._check(z, words)
        log_p = self.words(z).log_softmax(-1).gather(1, words.long())
        told = log_p.masked_fill(words == self.padding_idx, 0.0).sum()
        loss: Tensor = beta * kl_sum(found.q, found.p) - found.fit - self.weight * plate_scale(found.q) * told
        return loss

    def _check(self, z: Tensor, words: Tensor) -> None:
        if words.dtype not in INTEGERS or words.dim() != 2 or len(words) != len(z):
            raise ValueError(
                f"expected x of whole numbers (B, T), the words of {len(z)} rows, for a bag of words, got "
                f"{tuple(words.shape)} of {words.dtype}"
            )
        if z.shape[1] != self.words[0].in_features:
            raise ValueError(f"expected z of {self.words[0].in_features} elements for this bag of words, got {z.shape[1]}")


def mutual_divergence(diversity: float, smoothness: float = 0.0) -> Objective:
    """Mutual posterior-divergence regularisation as an objective: the posteriors of a batch are to differ, evenly.

        -ELBO + B [diversity sum_d softplus(-mean_xy KL_xyd) + smoothness std_xy(sum_d KL_xyd)]

    in nats summed over the batch of B rows. KL_xyd is KL(q(z_d|x) || q(z_d|y)), over the B (B - 1) pairs of different rows. The
    first term is at most ln 2 for each dimension, where all posteriors are the same; the second draws all pairs to one
    distance. The value is not a bound: report the plain ELBO. Raises ValueError for a weight below 0; the objective raises it
    unless there is exactly one latent site with independent normals in the guide, and for a batch of one row.

    Reference: Ma, Zhou, Hovy 2019, "MAE: Mutual Posterior-Divergence Regularization for Variational AutoEncoders".
    """
    for name, weight in {"diversity": diversity, "smoothness": smoothness}.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"expected a {name} of at least 0, got {weight}")

    def objective(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
        found = terms(model, guide, x, "a mutual divergence", beta)
        kl = _between_rows(found.q, x)
        pairs = len(kl) * (len(kl) - 1)
        cost = diversity * F.softplus(-kl.sum((0, 1)) / pairs).sum()
        cost = cost + smoothness * _deviation(kl.sum(2), pairs) if smoothness else cost
        rows = len(kl) * plate_scale(found.q)
        return beta * kl_sum(found.q, found.p) - found.fit + rows * cost

    return objective


def _between_rows(site: dict[str, Any], x: Batch) -> Tensor:
    """KL of each dimension between all pairs of rows, (B, B, D): 0 on the diagonal."""
    factors = normal_factors(site["fn"])
    if factors is None:
        raise ValueError(f"expected independent normals q(z|x) for a mutual divergence, got {type(site['fn']).__name__}")
    loc, scale = (by_row(each, site, x) for each in factors)
    if len(loc) < 2:
        raise ValueError("expected at least 2 rows in a batch for a mutual divergence, got 1")
    kl: Tensor = kl_divergence(Normal(loc[:, None], scale[:, None]), Normal(loc, scale))
    return kl


def _deviation(values: Tensor, pairs: int) -> Tensor:
    """The standard deviation of a square of values without its diagonal; where all are the same, 0 with a gradient of 0."""
    diagonal = torch.eye(len(values), dtype=torch.bool, device=values.device)
    squares = (values - values.sum() / pairs).square().masked_fill(diagonal, 0.0)
    return (squares.sum() / (pairs - 1)).clamp(min=torch.finfo(values.dtype).tiny).sqrt()
