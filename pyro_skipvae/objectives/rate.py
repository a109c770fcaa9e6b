"""Objectives that hold the rate at a target, or move prior and posterior at paces of their own."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .terms import Batch, Objective, as_arguments, data_plate, kl_sum, log_prob, terms


def target_rate(nats: float) -> Objective:
    """The distortion plus a penalty on the distance of the batch's mean rate from `nats`, as an objective.

        -E_q log p(x|z) summed over the batch + B beta |R - nats|,    R = 1/B sum_x KL(q(z|x) || p(z))

    The rate is held at the target where beta is above the slope -dD/dR of the best distortion at that rate: beta = 1 is enough
    for a rate above that of the ELBO, a lower one needs more. R is in closed form where Pyro has one, else from one draw per
    row. The value is not a bound: report the plain ELBO. Raises ValueError for a target that is below 0 or not finite; the
    objective raises it unless there is exactly one latent site.

    Reference: Alemi et al. 2018, "Fixing a Broken ELBO", section 4; Burgess et al. 2018 let the target rise.
    """
    if not 0 <= nats < math.inf:
        raise ValueError(f"expected a target rate of at least 0 nats, got {nats}")

    def objective(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
        found = terms(model, guide, x, "a target rate", beta)
        rows = len(as_arguments(x)[0])
        plate = data_plate(found.q, rows)
        points = plate.full_size if plate else rows
        return beta * (kl_sum(found.q, found.p) - nats * points).abs() - found.fit

    return objective


def kl_balancing_prior(share: float) -> Objective:
    """The negative ELBO with the gradient of its KL split between prior (`share`) and posterior (1 - `share`), as an objective.

        -E_q log p(x|z) + beta [share KL(stop(q) || p) + (1 - share) KL(q || stop(p))]

    stop() has no gradient. The value is that of `elbo`, with one draw per row, in nats summed over the batch. With a share
    above 1/2 a learned prior moves to the posteriors faster than they move to it. For a prior without parameters the gradient
    is that of the ELBO at (1 - share) beta. Raises ValueError for a share outside [0, 1); the objective raises it unless there
    is exactly one latent site.

    Reference: Hafner et al. 2021, "Mastering Atari with Discrete World Models", algorithm 2 (share 0.8).
    """
    if not 0 <= share < 1:
        raise ValueError(f"expected the prior's share of the gradient from 0 to below 1, got {share}")

    def objective(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
        found = terms(model, guide, x, "KL balancing", beta)
        kl = (log_prob(found.q) - log_prob(found.p)).sum()
        prior = log_prob(found.p, found.p["value"].detach()).sum()  # its gradient is that of the prior's parameters alone
        posterior = kl + prior - prior.detach()
        return beta * ((1 - share) * posterior + share * (kl.detach() - prior + prior.detach())) - found.fit

    return objective
