"""Objectives on the aggregated posterior q(z) = E_x q(z|x): the distance of its draws from the prior's, or no word on it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.distributions import OneHotCategorical, kl_divergence

from pyro_skipvae.distributions.wrapped import innermost
from pyro_skipvae.modules import parameters_below

from .terms import Batch, Objective, by_row, kl_sum, log_prob, plate_scale, terms


def autoencoder(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
    """The distortion alone, -E_q log p(x|z), in nats summed over the batch: the limit beta -> 0 of the negative ELBO.

    Nothing draws q(z) to the prior: q(z|x) becomes as narrow as the decoder likes, the rate grows without bound, and draws of
    the prior fall where the decoder was never trained. `beta` has no effect. A learned prior is fitted to the draws by maximum
    likelihood, which changes neither the value nor the gradients of encoder and decoder. The value is not a bound: report the
    plain ELBO. Raises ValueError unless there is exactly one latent site, and for a prior with parameters of the encoder
    (VampPrior).

    Reference: Dieng et al. 2019, section 2, on maximising the mutual information alone; Li et al. 2019 start from one.
    """
    found = terms(model, guide, x, "an autoencoder", beta)
    return fitted_prior(found.q, found.p) - found.fit


def mmd(weight: float, alpha: float = 1.0) -> Objective:
    """InfoVAE as an objective: the squared maximum mean discrepancy of q(z) and p(z) replaces the share `alpha` of the rate.

        -E_q log p(x|z) + beta [(1 - alpha) KL(q(z|x) || p(z)) + (alpha + weight - 1) MMD^2(q(z), p(z))]

    in nats summed over the batch. MMD^2 is `squared_mmd` of the batch's z and as many draws of the prior, whose kernel width w
    is the mean squared distance of two draws of the prior (2 D for a standard normal). A learned prior is fitted to the z by
    maximum likelihood, with weight alpha, since its draws need not have a gradient. The value is not a bound: report the plain
    ELBO. Raises ValueError for a negative weight of a term; the objective raises it unless there is exactly one latent site,
    for a batch of one row, and for a prior with parameters of the encoder (VampPrior).

    Reference: Zhao, Song, Ermon 2019, "InfoVAE", equation 6, at alpha = 1 their MMD-VAE; Gretton et al. 2012 (MMD).
    """
    if not (alpha <= 1 and 0 <= alpha + weight - 1 < math.inf):
        raise ValueError(f"expected alpha of at most 1 and a weight of at least 1 - alpha, got alpha {alpha}, weight {weight}")

    def objective(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
        found = terms(model, guide, x, "an MMD", beta)
        z, prior = (by_row(draws, found.q, x) for draws in (found.q["value"], found.p["fn"].sample()))
        with torch.autocast(z.device.type, enabled=False):
            width = _pairs(_squared_distances(prior, prior)).detach()
            distance = squared_mmd(z, prior, width=width.clamp(min=torch.finfo(width.dtype).eps))  # draws may all be one
        cost = (alpha + weight - 1) * len(z) * plate_scale(found.q) * distance
        cost = cost + (1 - alpha) * kl_sum(found.q, found.p) if alpha < 1 else cost
        cost = cost + alpha * fitted_prior(found.q, found.p) if alpha else cost
        return beta * cost - found.fit

    return objective


def batch_prior(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
    """Batch prior regularisation for categorical z: the KL of the batch's mean posterior in place of the mean KL.

        -E_q log p(x|z) + beta B sum_m KL(q_B(z_m) || p(z_m)),   q_B(z_m) = 1/B sum_x q(z_m|x)

    in nats summed over the batch of B rows; where p(z|c) depends on a context, p(z_m) is its mean over them. What it leaves out
    of the rate of each variable is I_B(x; z_m) = mean_x KL(q(z_m|x) || q_B), the information about which row of the batch x
    is. The value is not a bound: report the plain ELBO. Raises ValueError unless there is exactly one latent site, which is
    one-hot categorical.

    Reference: Zhao, Lee, Eskenazi 2018, "Unsupervised Discrete Sentence Representation Learning", equations 5 and 6 (DI-VAE).
    """
    found = terms(model, guide, x, "a batch prior", beta)
    q, p = (innermost(site["fn"]) for site in (found.q, found.p))
    if not all(isinstance(part, OneHotCategorical) for part in (q, p)):
        raise ValueError(f"expected one-hot categorical z for a batch prior, got {type(q).__name__} and {type(p).__name__}")
    rows = [by_row(each.expand_as(q.probs), found.q, x).unflatten(1, (-1, q.probs.shape[-1])) for each in (q.probs, p.probs)]
    kl = kl_divergence(*(OneHotCategorical(probs=each.mean(0)) for each in rows))
    return beta * len(rows[0]) * plate_scale(found.q) * kl.sum() - found.fit


def squared_mmd(z: Tensor, other: Tensor, *, width: float | Tensor) -> Tensor:
    """An unbiased estimate of MMD^2 between the distributions that draws z (N, D) and y (M, D) are from, a tensor ().

        E k(z, z') + E k(y, y') - 2 E k(z, y),    k(z, y) = exp(-|z - y|^2 / width)

    over pairs of different draws; y is `other`. Since it is unbiased it may be below 0. Raises ValueError for fewer than 2
    draws of either.

    Reference: Gretton et al. 2012, lemma 6.
    """
    if min(len(z), len(other)) < 2:
        raise ValueError(f"expected at least 2 draws of each distribution for an MMD, got {len(z)} and {len(other)}")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-_squared_distances(a, b) / width).exp()

    return _pairs(kernel(z, z)) + _pairs(kernel(other, other)) - 2 * kernel(z, other).mean()


def fitted_prior(q: dict[str, Any], p: dict[str, Any]) -> Tensor:
    """Zero, with the gradient of -log p(z) in the prior's parameters at draws that are held: maximum likelihood for it.

    Raises ValueError, while Pyro validates inference, for a prior with parameters of the encoder, such as a VampPrior: this
    would make q(z|x) ever narrower at its pseudo-inputs.
    """
    cost = -log_prob(p, p["value"].detach()).sum()
    if is_validation_enabled() and set(map(id, parameters_below(cost))) & set(map(id, parameters_below(q["value"]))):
        raise ValueError(
            f"expected a prior of {p['name']} without parameters of the encoder for this objective, which fits the prior by "
            "itself; a VampPrior needs one that has the KL term"
        )
    return cost - cost.detach()


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    # By differences: |a|^2 + |b|^2 - 2 a.b loses the digits of draws that lie close together.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def _pairs(values: Tensor) -> Tensor:
    """The mean of a square of values (N, N) without its diagonal."""
    return (values.sum() - values.diagonal().sum()) / (len(values) * (len(values) - 1))
