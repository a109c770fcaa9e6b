"""Objectives that treat each dimension of the rate on its own: free bits, and the balancing of dimensions."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_skipvae.distributions.ar1 import AR1, normal_factors, rate_per_step
from pyro_skipvae.distributions.wrapped import innermost

from .terms import Batch, Objective, by_row, plate_scale, terms


def free_bits_per_group(nats: float) -> Objective:
    """Free bits on the mean over the batch, as an objective: each dimension costs at least `nats` on average.

        -E_q log p(x|z) summed over the batch + B beta sum_d max(nats, 1/B sum_x KL_xd)

    KL_xd is the KL of dimension d at x; for a sequence, what a step and channel adds to it. Its gradient is 0 below the floor.
    The value is not a bound: report the plain ELBO. Raises ValueError for a floor that is below 0 or not finite; the objective
    raises it unless there is exactly one latent site with a KL per dimension in closed form.

    Reference: Kingma et al. 2016 (inverse autoregressive flow), on free bits; here each dimension is a group.
    """
    return _free_bits(nats, lambda kl: len(kl) * kl.mean(0).clamp(min=nats).sum())


def free_bits_per_dimension(nats: float) -> Objective:
    """Free bits of each datapoint and dimension, as an objective: each costs at least `nats`.

        -E_q log p(x|z) summed over the batch + beta sum_xd max(nats, KL_xd)

    The rest is as in `free_bits_per_group`. Reference: Li et al. 2019, whose code leaves out KL_xd below the floor: the same
    gradient, a smaller value.
    """
    return _free_bits(nats, lambda kl: kl.clamp(min=nats).sum())


def free_bits_total(nats: float) -> Objective:
    """Free bits of each datapoint over all dimensions together, as an objective: each x costs at least `nats`.

        -E_q log p(x|z) summed over the batch + beta sum_x max(nats, sum_d KL_xd)

    The rest is as in `free_bits_per_group`.
    """
    return _free_bits(nats, lambda kl: kl.sum(1).clamp(min=nats).sum())


def _free_bits(nats: float, floored: Callable[[Tensor], Tensor]) -> Objective:
    if not 0 <= nats < math.inf:
        raise ValueError(f"expected free bits of at least 0 nats, got {nats}")
    return _per_dimension("free bits", lambda kl, beta: beta * floored(kl))


def kl_balancing(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
    """The negative ELBO with the KL balanced between dimensions while beta is below 1, in nats summed over the batch.

        -E_q log p(x|z) + beta sum_xd gamma_d KL_xd,    gamma_d = D (k_d + 0.01) / sum_e (k_e + 0.01),  k_d = 1/B sum_x KL_xd

    gamma_d has no gradient, and is 1 from beta = 1 on. A dimension with little KL pays little for it, so that it is not given
    up while beta rises: use a schedule that starts low. Each dimension is a group here (of a sequence, each step and channel).
    Raises what the objective of `free_bits_per_group` does.

    Reference: Vahdat and Kautz 2020, "NVAE", appendix A, whose groups are the levels of a hierarchy; 0.01 is of their code.
    """
    return _per_dimension("KL balancing", _balanced)(model, guide, x, beta)


def _balanced(kl: Tensor, beta: float | Tensor) -> Tensor:
    share = kl.detach().mean(0).abs() + 0.01
    weight = torch.where(torch.as_tensor(beta, device=kl.device) < 1, share / share.mean(), 1.0)
    return beta * (kl * weight).sum()


def _per_dimension(what: str, cost: Callable[[Tensor, Any], Tensor]) -> Objective:
    """The objective -E_q log p(x|z) + cost(KL (B, D), beta)."""

    def objective(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
        found = terms(model, guide, x, what, beta)
        if any(site["mask"] is not None for site in (found.q, found.p)):
            raise ValueError(f"expected latent sites without a mask for {what}; give only the rows that count, or use elbo")
        kl = _rate_per_dimension(found.q["fn"], found.p["fn"], what)
        return plate_scale(found.q) * cost(by_row(kl, found.q, x), beta) - found.fit

    return objective


def _rate_per_dimension(q: Any, p: Any, what: str) -> Tensor:
    """KL of each element of the batch and dimension, (*batch_shape, *). Raises ValueError where that has no closed form."""
    if isinstance(p, AR1) and (found := normal_factors(q)):
        return rate_per_step(*found, p)
    q, p = innermost(q), innermost(p)
    if not q.event_shape and not p.event_shape and q.batch_shape:
        try:
            return kl_divergence(q, p).expand(q.batch_shape)[..., None]
        except NotImplementedError:
            pass
    names = f"{type(q).__name__} and {type(p).__name__}"
    raise ValueError(f"expected q(z|x) and p(z) with a KL for each dimension in closed form for {what}, got {names}")
