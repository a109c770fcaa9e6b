"""The local parameters of a posterior as unconstrained tensors, and draws from fixed noise.

`local_parameters(q)` takes q(z|x) apart; what it returns puts together the q of any other values. Supported are diagonal
normals (loc, log scale^2), multivariate normals (loc, scale_tril with the logarithm of its diagonal), and every other
family with a quantile function of its own parameters, such as Laplace, Cauchy, Gumbel or LogNormal.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import ExpandedDistribution
from torch.distributions import Independent, TransformedDistribution, biject_to, transform_to


@dataclass(frozen=True)
class LocalParameters:
    """Unconstrained values, one row per datapoint, and the family that they belong to.

    `distribution(values)` is q; `draw(values, noise)` is z ~ q, differentiable twice in the values; `noise()` is what a
    draw uses up, from the global generator, with the shape of z.
    """

    values: tuple[torch.Tensor, ...]
    distribution: Callable
    draw: Callable
    noise: Callable


def local_parameters(q):
    """The `LocalParameters` of a distribution. Raises ValueError for a family that cannot be refined."""
    base, event_dims = q, 0
    while isinstance(base, Independent | ExpandedDistribution):
        event_dims += base.reinterpreted_batch_ndims if isinstance(base, Independent) else 0
        base = base.base_dist
    if isinstance(base, torch.distributions.Normal):
        return _normal(base, event_dims)
    if isinstance(base, torch.distributions.MultivariateNormal):
        return _multivariate_normal(base, event_dims)
    if _has_own_arguments(base) and base.has_rsample and _has_quantiles(base):
        return _by_quantiles(base, event_dims)
    reason = "a flow" if isinstance(base, TransformedDistribution) else "a family"
    raise ValueError(
        f"expected a posterior that can be refined (Normal, MultivariateNormal, or a reparameterised family with a quantile "
        f"function), got {type(base).__name__}, {reason} without local parameters to differentiate twice: use it amortized"
    )


def _normal(base, event_dims):
    def distribution(values):
        loc, log_variance = values
        return dist.Normal(loc, (log_variance / 2).exp(), validate_args=False).to_event(event_dims)

    def draw(values, noise):
        loc, log_variance = values
        return loc + (log_variance / 2).exp() * noise

    return LocalParameters((base.loc, 2 * base.scale.log()), distribution, draw, lambda: torch.randn_like(base.loc))


def _multivariate_normal(base, event_dims):
    lower = transform_to(torch.distributions.constraints.lower_cholesky)  # the logarithm on the diagonal

    def distribution(values):
        loc, below = values
        return dist.MultivariateNormal(loc, scale_tril=lower(below), validate_args=False).to_event(event_dims)

    def draw(values, noise):
        loc, below = values
        return loc + (lower(below) @ noise.unsqueeze(-1)).squeeze(-1)

    values = (base.loc, lower.inv(base.scale_tril))
    return LocalParameters(values, distribution, draw, lambda: torch.randn_like(base.loc))


def _by_quantiles(base, event_dims):
    family = type(base)
    bijections = {name: biject_to(constraint) for name, constraint in family.arg_constraints.items()}

    def make(values):
        arguments = {name: to(value) for (name, to), value in zip(bijections.items(), values, strict=True)}
        return family(**arguments, validate_args=False)

    def noise():
        shape, like = base.batch_shape + base.event_shape, next(iter(values))
        return torch.rand(shape, dtype=like.dtype, device=like.device).clamp(1e-6, 1 - 1e-6)  # a quantile at 0 is infinite

    values = tuple(to.inv(getattr(base, name)) for name, to in bijections.items())
    return LocalParameters(
        values, lambda values: make(values).to_event(event_dims), lambda values, noise: make(values).icdf(noise), noise
    )


def _has_own_arguments(base):
    """Whether the family is made of all its arguments, each with a constraint that asks nothing of the others.

    That of a Uniform's low is its high; a ContinuousBernoulli takes probs or logits.
    """
    constraints = type(base).arg_constraints
    return isinstance(constraints, dict) and constraints and not {"probs", "logits"} <= set(constraints)


def _has_quantiles(base):
    try:
        with torch.no_grad():
            return base.icdf(torch.full_like(base.sample(), 0.5)).isfinite().all()
    except NotImplementedError:
        return False
