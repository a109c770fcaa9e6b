"""Posteriors that can be evaluated at each other's draws of z."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor
from torch.distributions import TransformedDistribution

from ..pairs.conditions import drawn
from ..pairs.pair import Chunk
from ..pairs.unavailable import FAILURES, Unavailable, told
from .pairwise import Pairs, carries_network, pairwise_log_prob


@dataclass(frozen=True)
class Components:
    """Posteriors that can be evaluated at each other's draws z (S, N, *event): consecutive groups and their pairs."""

    groups: list[Any]  # Distributions, of the same family
    pairs: list[Pairs]
    z: Tensor


def evaluable(chunks: list[Chunk], z: Tensor) -> Components:
    """The posteriors of the chunks, ready to be evaluated at all draws z (S, N, *event).

    An invertible map that is the same for every x leaves the mutual information as it is, so flows without a
    context are replaced by their base distributions, with draws of their own.
    """
    groups: list[Any] = [chunk.q for chunk in chunks]
    if z[0, 0].numel() == 0:
        raise Unavailable("z has no dimensions")
    if _same_map(groups):
        groups = [q.base_dist for q in groups]
        z = torch.stack([torch.cat([drawn(q) for q in groups]) for _ in z])
    if any(carries_network(q) for q in groups):
        raise Unavailable(
            f"q(z|x) is a {type(groups[0]).__name__} that runs a network on x in its density: at the z of other "
            "points it would have to run N^2 times"
        )
    _check_broadcast(groups[0])
    return Components(groups, [pairwise_log_prob(q) for q in groups], z)


def _same_map(groups: list[Any]) -> bool:
    """Whether all posteriors push their base distribution through one map that does not depend on x."""
    if not all(isinstance(q, TransformedDistribution) for q in groups):
        return False
    steps = [[id(step) for step in q.transforms] for q in groups]
    q = groups[0]
    if any(step != steps[0] for step in steps) or not q.base_dist.batch_shape == q.batch_shape:
        return False
    z = drawn(q.base_dist)
    z = z[:1].expand_as(z)
    for step in q.transforms:
        z = step(z)
    return torch.allclose(z, z[:1].expand_as(z), rtol=1e-5, atol=1e-6)


def _check_broadcast(q: Distribution) -> None:
    """Refuses families whose log_prob does not broadcast values (2, 1, *event), or one of a batch of one, against the batch."""
    z = drawn(q)
    expected = q.log_prob(z)[:2]
    try:
        pairs = q.log_prob(z[:2, None])
    except FAILURES as error:
        raise Unavailable(f"{type(q).__name__}.log_prob fails at the z of other points: {told(error)}") from error
    if pairs.shape != (len(expected), len(z)) or not torch.allclose(pairs.diagonal(), expected, rtol=1e-4, atol=1e-4):
        raise Unavailable(f"{type(q).__name__}.log_prob does not broadcast over the z of other points")
