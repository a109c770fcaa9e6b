"""Objectives that hold the rate at a target, or move prior and posterior at paces of their own."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .terms import Batch, Objective, as_arguments, kl_sum, log_prob, plate_scale, terms


def target_rate(nats: float) -> Objective:
    """The distortion, and a price for a rate that is not `nats` on the mean of the batch; nats summed over the batch.

        -E_q log p(x|z) summed over the batch + B beta |R - nats|,    R = 1/B sum_x KL(q(z|x) || p(z))

    Where beta is above the slope -dD/dR of the best distortion at that rate, the rate is held there: 1 is enough for a rate
    above that of the ELBO, one below needs more. R is in closed form where Pyro has one, else from the draw of each row. The
    value is no bound: report the plain ELBO. The objective raises ValueError for other than one latent site; a
    target below 0, or not finite, is refused here.

    Reference: Alemi et al. 2018, "Fixing a Broken ELBO", section 4; Burgess et al. 2018 let the target rise.
    """
    if not 0 <= nats < math.inf:
        raise ValueError(f"expected a target rate of at least 0 nats, got {nats}")

    def objective(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
        found = terms(model, guide, x, "a target rate")
        wanted = nats * len(as_arguments(x)[0]) * plate_scale(found.q)
        return beta * (kl_sum(found.q, found.p) - wanted).abs() - found.fit

    return objective


def kl_balancing_prior(share: float) -> Objective:
    """The negative ELBO, whose KL moves the prior by the part `share` of its gradient, and the posterior by the rest.

        -E_q log p(x|z) + beta [share KL(stop(q) || p) + (1 - share) KL(q || stop(p))]

    The value is that of `elbo`, by the draw of each row; stop() has no gradient. A learned prior then moves to the posteriors
    sooner than these move to it. For a prior without parameters the gradient is that of the ELBO at (1 - share) beta. The
    objective raises ValueError for other than one latent site; a share outside [0, 1) is refused here.

    Reference: Hafner et al. 2021, "Mastering Atari with Discrete World Models", algorithm 2 (share 0.8).
    """
    if not 0 <= share < 1:
        raise ValueError(f"expected the prior's share of the gradient from 0 to below 1, got {share}")

    def objective(model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
        found = terms(model, guide, x, "KL balancing")
        kl = (log_prob(found.q) - log_prob(found.p)).sum()
        prior = log_prob(found.p, found.p["value"].detach()).sum()  # its gradient is that of the prior's parameters alone
        posterior = kl + prior - prior.detach()
        return beta * ((1 - share) * posterior + share * (kl.detach() - prior + prior.detach())) - found.fit

    return objective
