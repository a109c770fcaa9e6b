"""The local parameters of a posterior as unconstrained tensors, and draws from fixed noise.

`local_parameters(q)` takes q(z|x) apart; what it returns puts together the q of any other values. Diagonal normals have
(loc, log scale^2), as in the paper; multivariate normals (loc, scale_tril with the logarithm of its diagonal). Every other
family has the arguments that it is made of, each through torch's bijection from the real numbers to its constraint. It needs
a density and draws that can be differentiated twice in these arguments.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Independent,
    Transform,
    TransformedDistribution,
    biject_to,
    constraints,
    transform_to,
)

from pyro_skipvae.modules import nodes
from pyro_skipvae.random_numbers import forked

from .standard_gamma import QuantileGammas, log_standard_gamma

Values = tuple[Tensor, ...]
STRAIGHT_THROUGH = (dist.RelaxedBernoulliStraightThrough, dist.RelaxedOneHotCategoricalStraightThrough)


@dataclass(frozen=True)
class LocalParameters:
    """Unconstrained values, one row per datapoint, and the family that they belong to.

    `distribution(values)` is q; `draw(values, noise)` is z ~ q, differentiable twice in the values; `noise()` is what a
    draw uses up, from the global generator, of `noise_shape`: as z, or () for a seed. Of several sites
    (`joint_parameters`) the values are one tuple, and each of the others is a dict by site.
    """

    values: Values
    distribution: Callable[[Values], Any]
    draw: Callable[[Values, Any], Any]
    noise: Callable[[], Any]
    noise_shape: Any


def local_parameters(q: Any) -> LocalParameters:
    """The `LocalParameters` of a distribution. Raises ValueError, with the reason, for one that cannot be refined."""
    if isinstance(q, Independent):
        return _wrapped(local_parameters(q.base_dist), lambda base: base.to_event(q.reinterpreted_batch_ndims))
    if isinstance(q, MaskedDistribution):
        return _wrapped(local_parameters(q.base_dist), lambda base: base.mask(q._mask))
    if isinstance(q, ExpandedDistribution):
        return local_parameters(_expanded(q))
    if isinstance(q, torch.distributions.Normal):
        return _normal(q)
    if isinstance(q, torch.distributions.MultivariateNormal):
        return _multivariate_normal(q)
    if type(q) in (TransformedDistribution, dist.TransformedDistribution):
        return _transformed(q)
    if isinstance(q, dist.Delta):
        raise _refusal(q, "a point without a density")
    if isinstance(q, STRAIGHT_THROUGH):
        raise _refusal(q, "whose draws are discrete: their gradient is that of a relaxation")
    if not q.has_rsample:
        raise _refusal(q, "a family without reparameterised draws")
    family = _by_quantiles(q) if _is_made_of_all_arguments(q) and _has_quantiles(q) else _by_arguments(q)
    _check_derivatives(q, family)
    return family


def joint_parameters(families: Mapping[str, LocalParameters]) -> LocalParameters:
    """The local parameters of several sites as one: its values are those of all sites, one after the other."""
    sizes = [len(family.values) for family in families.values()]

    def split(values: Values) -> Iterator[tuple[str, LocalParameters, Values]]:
        ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
        for (name, family), size, end in zip(families.items(), sizes, ends, strict=True):
            yield name, family, values[end - size : end]

    return LocalParameters(
        tuple(value for family in families.values() for value in family.values),
        lambda values: {name: family.distribution(own) for name, family, own in split(values)},
        lambda values, noise: {name: family.draw(own, noise[name]) for name, family, own in split(values)},
        lambda: {name: family.noise() for name, family in families.items()},
        {name: family.noise_shape for name, family in families.items()},
    )


def _wrapped(family: LocalParameters, wrap: Callable[[Any], Any]) -> LocalParameters:
    return replace(family, distribution=lambda values: wrap(family.distribution(values)))


def _expanded(q: Any) -> Any:
    """The base of an expanded distribution with arguments of the expanded shape: each row has parameters of its own."""
    family = local_parameters(q.base_dist)
    old, new = q.base_dist.batch_shape, q.batch_shape
    return family.distribution(tuple(value.expand(new + value.shape[len(old) :]) for value in family.values))


def _normal(base: Any) -> LocalParameters:
    def distribution(values: Values) -> Any:
        loc, log_variance = values
        return dist.Normal(loc, (log_variance / 2).exp(), validate_args=False)

    def draw(values: Values, noise: Tensor) -> Tensor:
        loc, log_variance = values
        return loc + (log_variance / 2).exp() * noise

    values = (base.loc, 2 * base.scale.log())
    return LocalParameters(values, distribution, draw, lambda: torch.randn_like(base.loc), base.loc.shape)


def _multivariate_normal(base: Any) -> LocalParameters:
    lower = transform_to(constraints.lower_cholesky)  # the logarithm on the diagonal

    def distribution(values: Values) -> Any:
        loc, below = values
        return dist.MultivariateNormal(loc, scale_tril=lower(below), validate_args=False)

    def draw(values: Values, noise: Tensor) -> Tensor:
        loc, below = values
        z: Tensor = loc + (lower(below) @ noise.unsqueeze(-1)).squeeze(-1)
        return z

    values = (base.loc, lower.inv(base.scale_tril))
    return LocalParameters(values, distribution, draw, lambda: torch.randn_like(base.loc), base.loc.shape)


def _transformed(q: Any) -> LocalParameters:
    """Of the base, and of affine transforms with a row for each datapoint; other transforms stay as they are.

    Those may hold no network and nothing computed from x.
    """
    rows = [isinstance(part, AffineTransform) and _has_rows(part, q) for part in q.transforms]
    if not all(own or _is_fixed(part) for own, part in zip(rows, q.transforms, strict=True)):
        raise _refusal(q, "a flow: a transform that is a network, or is computed from x, has no local parameters")
    base = _fixed_base(q.base_dist) if any(rows) else local_parameters(q.base_dist)
    count, shape = len(base.values), q.shape()

    def transforms(values: Values) -> list[Transform]:
        pairs = iter(zip(values[count::2], values[count + 1 :: 2], strict=True))
        return [_moved(part, *next(pairs)) if own else kept for own, part, kept in zip(rows, q.transforms, others, strict=True)]

    def distribution(values: Values) -> Any:
        return dist.TransformedDistribution(base.distribution(values[:count]), transforms(values), validate_args=False)

    def draw(values: Values, noise: Any) -> Any:
        return _through(transforms(values), base.draw(values[:count], noise))

    others = [_remembering(part) for part in q.transforms]
    affine = [torch.as_tensor(end) for own, part in zip(rows, q.transforms, strict=True) if own for end in _ends(part)]
    values = (*base.values, *(end.expand(shape) for end in affine))
    return LocalParameters(values, distribution, draw, base.noise, base.noise_shape)


def _has_rows(transform: AffineTransform, q: Any) -> bool:
    ends = [end for end in (transform.loc, transform.scale) if isinstance(end, Tensor)]
    return any(end.dim() == len(q.shape()) and end.dim() and len(end) == q.shape()[0] for end in ends)


def _ends(transform: AffineTransform) -> tuple[Any, Any]:
    return transform.loc, torch.as_tensor(transform.scale).abs().log()


def _moved(transform: AffineTransform, loc: Tensor, log_scale: Tensor) -> AffineTransform:
    sign = torch.as_tensor(transform.scale).detach().sign()
    return AffineTransform(loc, sign * log_scale.exp(), event_dim=transform.event_dim, cache_size=1)


def _fixed_base(base: Any) -> LocalParameters:
    """The local parameters of a base, or, of a standard one that has none such as Uniform(0, 1), no values at all."""
    try:
        return local_parameters(base)
    except ValueError:
        if not base.has_rsample or not _is_fixed(base):
            raise

    def draw(values: Values, seed: Tensor) -> Any:
        with forked([], int(seed)):
            return base.rsample()

    return LocalParameters((), lambda values: base, draw, lambda: torch.randint(2**62, ()), torch.Size())


def _through(transforms: Sequence[Transform], z: Tensor) -> Tensor:
    for transform in transforms:
        z = transform(z)
    return z


def _is_fixed(part: Any) -> bool:
    """Whether a transform, or a distribution, holds no network and nothing that was computed with a gradient."""
    if isinstance(part, list | tuple):
        return all(map(_is_fixed, part))
    if isinstance(part, Tensor):
        return part.grad_fn is None
    if isinstance(part, Transform | torch.distributions.Distribution) and not isinstance(part, torch.nn.Module):
        return all(_is_fixed(value) for name, value in vars(part).items() if name not in ("_inv", "_cached_x_y"))
    return not callable(part)


def _remembering(transform: Transform) -> Transform:
    """The transform with the inverse of its last value kept: where it saturates, the inverse cannot be computed."""
    try:
        remembering: Transform = transform if transform._cache_size else transform.with_cache(1)
    except NotImplementedError:
        return transform
    return remembering


def _by_quantiles(base: Any) -> LocalParameters:
    values, make = _arguments(base)

    def noise() -> Tensor:
        u = torch.rand(base.shape(), dtype=values[0].dtype, device=values[0].device)
        return u.clamp(1e-6, 1 - 1e-6)  # a quantile at 0 is infinite

    def draw(values: Values, u: Tensor) -> Any:
        return make(values).icdf(u)

    return LocalParameters(values, make, draw, noise, base.shape())


def _by_arguments(base: Any) -> LocalParameters:
    """Draws are the family's own, from a seed; those that begin with a gamma distribution have quantiles of it."""
    values, make = _arguments(base)

    def draw(values: Values, seed: Tensor) -> Any:
        with forked([values[0].device], int(seed)), QuantileGammas():
            return _reparameterised(make(values))

    return LocalParameters(values, make, draw, lambda: torch.randint(2**62, ()), torch.Size())


def _reparameterised(q: Any) -> Tensor:
    """q.rsample(), without torch's Dirichlet, which can be differentiated once."""
    if isinstance(q, torch.distributions.Dirichlet):
        return log_standard_gamma(q.concentration).softmax(-1)
    if isinstance(q, torch.distributions.Beta):
        first, second = log_standard_gamma(torch.stack([q.concentration1, q.concentration0]))
        return torch.sigmoid(first - second)
    if isinstance(q, Independent):
        return _reparameterised(q.base_dist)
    if isinstance(q, TransformedDistribution):
        return _through(q.transforms, _reparameterised(q.base_dist))
    z: Tensor = q.rsample()
    return z


def _arguments(base: Any) -> tuple[Values, Callable[[Values], Any]]:
    """The arguments that a family is made of as unconstrained values, and the family of other values."""
    bounds, free, fixed = type(base).arg_constraints, {}, {}
    if not isinstance(bounds, dict):
        raise _refusal(base, "a family without local parameters of their own limits: one argument limits another")
    for name in _names_of_arguments(type(base)):
        value, bound = getattr(base, name, getattr(base, f"_{name}", None)), bounds.get(name)
        if bound is None or not isinstance(value, Tensor):
            fixed[name] = value
        elif bound.is_discrete or (bijection := _bijection(bound)) is None:
            raise _refusal(base, f"a family without local parameters: its {name} has no bijection from the real numbers")
        else:
            last = max(bound.event_dim, value.dim() - len(base.batch_shape))
            free[name] = (bijection, value.expand(base.batch_shape + value.shape[value.dim() - last :]))
    if not free:
        raise _refusal(base, "a family without local parameters")

    unchecked = {"validate_args": False} if "validate_args" in signature(type(base)).parameters else {}

    def make(values: Values) -> Any:
        moved = {name: to(value) for (name, (to, _)), value in zip(free.items(), values, strict=True)}
        return type(base)(**moved, **fixed, **unchecked)

    return tuple(to.inv(value) for to, value in free.values()), make


def _names_of_arguments(family: type) -> list[str]:
    """What a family is made with; of several forms of one argument the one without limits."""
    names = [name for name in signature(family).parameters if name not in ("validate_args", "args", "kwargs")]
    others = {"logits": ("probs",), "scale_tril": ("covariance_matrix", "precision_matrix")}
    left_out = {other for name in names for other in others.get(name, ())}
    return [name for name in names if name not in left_out]


def _bijection(bound: Any) -> Any:
    """From the real numbers to what a constraint allows; None where torch has none."""
    if bound is constraints.lower_cholesky:
        return transform_to(bound)  # it is one
    try:
        return biject_to(bound)
    except NotImplementedError:
        return None


def _is_made_of_all_arguments(base: Any) -> bool:
    """Whether no argument has two forms, such as probs and logits, and none depends on another, as a Uniform's high does."""
    bounds = type(base).arg_constraints
    return isinstance(bounds, dict) and bool(bounds) and list(bounds) == _names_of_arguments(type(base))


def _has_quantiles(base: Any) -> bool:
    like = getattr(base, next(iter(base.arg_constraints)))
    try:
        with torch.no_grad():
            return bool(base.icdf(like.new_full(base.shape(), 0.5)).isfinite().all())
    except NotImplementedError:
        return False


def _check_derivatives(q: Any, family: LocalParameters) -> None:
    """Raises ValueError unless draws and their density can be differentiated twice; uses up no random numbers."""
    leaves = tuple(value.detach().requires_grad_() for value in family.values)
    try:
        with torch.enable_grad(), forked([leaves[0].device], 0):
            z = family.draw(leaves, family.noise())
            total = z.sum() + family.distribution(leaves).log_prob(z).sum()
            first = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
    except NotImplementedError as error:
        raise _refusal(q, "a family without a density") from error
    except TypeError as error:
        raise _refusal(q, "a family that cannot be made of its arguments") from error
    except RuntimeError as error:
        raise _refusal(q, "whose draws and density cannot be differentiated") from error
    # Autograd does not run these nodes where they lead to no leaf that was asked for: the derivative would lack a part.
    if any(node.name().endswith(("Error", "NotImplemented")) for part in first if part is not None for node in nodes(part)):
        raise _refusal(q, "whose draws cannot be differentiated twice")


def _refusal(q: Any, reason: str) -> ValueError:
    return ValueError(
        f"expected a posterior that can be refined (a density, and draws that can be differentiated twice in arguments of its "
        f"own), got {type(q).__name__}, {reason}: use it amortized"
    )
