"""Sample sites of a Pyro trace, read per datapoint."""

import copy
import math
from typing import Any

import torch
from pyro.distributions import Delta, Distribution, ExpandedDistribution, MaskedDistribution, Unit
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent

from pyro_skipvae.distributions.wrapped import innermost

from .unavailable import Refused, Unavailable, told

SHORT = (torch.bfloat16, torch.float16)


def sample_sites(trace: Any) -> dict[str, Any]:
    """The sample sites of a trace in order: without subsampling and `pyro.deterministic`."""
    return {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node) and not node["infer"].get("_deterministic")
    }


def latent_sites(trace: Any) -> list[str]:
    """The names of the latent sites of a trace, without a guide's auxiliary ones."""
    sites = sample_sites(trace).items()
    return [name for name, node in sites if not node["is_observed"] and not node["infer"].get("is_auxiliary")]


def auxiliary_sites(trace: Any) -> list[str]:
    """The names of a guide's auxiliary latent sites: the model does not have them."""
    sites = sample_sites(trace).items()
    return [name for name, node in sites if not node["is_observed"] and node["infer"].get("is_auxiliary")]


def imputed_sites(trace: Any) -> list[str]:
    """The latent sites of `pyro.sample(name, ..., obs=x, obs_mask=mask)`: they stand for the values that are missing."""
    names = [name.removesuffix("_unobserved") for name in latent_sites(trace) if name.endswith("_unobserved")]
    return [f"{name}_unobserved" for name in names if f"{name}_observed" in trace.nodes and name in trace.nodes]


def observed_sites(trace: Any) -> list[str]:
    """The names of the observed sites of a trace, factors too."""
    return [name for name, node in sample_sites(trace).items() if node["is_observed"]]


def factor_sites(trace: Any) -> list[str]:
    """The names of the factors of a trace."""
    return [name for name in observed_sites(trace) if isinstance(innermost(trace.nodes[name]["fn"], masks=True), Unit)]


def likelihood_sites(trace: Any) -> list[str]:
    """The names of a model's observed sites, which make up log p(x|z); ValueError where there are none."""
    names = observed_sites(trace)
    if not names:
        raise Refused("expected a model with an observed site, got none: write pyro.sample(..., obs=x)")
    return names


def data_dim(node: Any, rows: int) -> int:
    """The (negative) batch dimension of a site's data plate; ValueError where the rows are not in a plate."""
    shape = node["fn"].batch_shape
    frames = [frame for frame in node["cond_indep_stack"] if frame.vectorized]
    dims = [frame.dim for frame in frames if -frame.dim <= len(shape) and shape[frame.dim] == rows]
    site = f"site {node['name']!r} inside one data plate of {rows} rows"
    got = f"batch shape {tuple(shape)} and event shape {tuple(node['fn'].event_shape)}"
    if not frames:
        raise Refused(
            f"expected {site}, got {got} without a plate: a `to_event` over the rows, or a latent that all rows "
            "share, has no value per datapoint. Write `with pyro.plate('data', len(x)):` around it"
        )
    if not dims or len(shape) > -min(dims):
        plates = ", ".join(f"{frame.name!r} of size {frame.size}" for frame in frames)
        raise Refused(
            f"expected {site}, got {got} in the plates {plates}: the data plate has to be the leftmost (dim=-2 where "
            "another one is inside it), and a plate that subsamples inside the model or does not follow its input "
            "hides the rows. Pass the rows as x and use `pyro.plate('data', len(x))`, or "
            "`pyro.plate('data', N, subsample_size=len(x))` for the scale N/B"
        )
    return min(dims)


def posterior_node(trace: Any, site: str) -> Any:
    """The node that draws a latent site of a guide: its own, or the auxiliary one whose value an EasyGuide hands on."""
    node, auxiliary = trace.nodes[site], auxiliary_sites(trace)
    if isinstance(node["fn"], Delta) and len(auxiliary) == 1:
        drawn = trace.nodes[auxiliary[0]]
        if torch.equal(drawn["value"], node["value"]) and not node["fn"].log_density.any():
            return drawn
    return node


def posterior_at(trace: Any, site: str, rows: int, *, masked: bool = False) -> Distribution:
    """q(z|x) from a guide's trace, batch (rows,); ValueError where a mask leaves out some of it, unless it may be `masked`."""
    node = posterior_node(trace, site)
    q = _without_full_masks(node)
    if is_masked(q) and not masked:
        raise Refused(f"expected q({site}|x) without a mask, got one that leaves out entries: z then has no density")
    return _by_row(node, q, rows)


def prior_at(node: Any, rows: int) -> Distribution:
    """p(z) from its node in the model, batch (rows,); both spellings of a mask, on the site or in its distribution, count."""
    return _by_row(node, _without_full_masks(node), rows)


def likelihood_at(node: Any, rows: int) -> Distribution:
    """p(x|z) from its node in the model, batch (rows,), without masks and scales around it."""
    return _by_row(node, node["fn"], rows)


def log_prob_by_row(node: Any, rows: int) -> Tensor:
    """log p of a site's value per datapoint, (rows,): scaled as plates inside the data plate ask for, masks kept."""
    try:
        log_prob = scale_and_mask(log_density(node["fn"], node["value"]), 1.0, node["mask"])
    except ValueError as error:
        raise Unavailable(f"log p of site {node['name']!r}: {told(error)}") from error
    if log_prob.dim() != -data_dim(node, rows) or len(log_prob) != rows:
        raise Refused(f"expected log p of site {node['name']!r} for {rows} rows, got {tuple(log_prob.shape)}")
    return log_prob.reshape(rows, -1).sum(1) * plate_scale(node, rows)


def log_density(distribution: Distribution, value: Tensor) -> Tensor:
    """log p of values; in float64 where it was computed in 16 bits, whose sum over an image would be rounded by nats."""
    found = distribution.log_prob(value)
    if found.dtype not in SHORT:
        return found
    if isinstance(distribution, MaskedDistribution):
        return scale_and_mask(log_density(distribution.base_dist, value), mask=distribution._mask)
    if isinstance(distribution, Independent):
        return sum_rightmost(log_density(distribution.base_dist, value), distribution.reinterpreted_batch_ndims)
    return found.double()


def widened(distribution: Any) -> Any:
    """The distribution with its parameters of 16 bits, and of the distributions in it, in float64; itself without any."""
    wide: dict[str, Any] = {}
    for name, part in vars(distribution).items():
        if isinstance(part, Tensor) and part.dtype in SHORT:
            wide[name] = part.double()
        elif isinstance(part, Distribution | torch.distributions.Distribution) and (inner := widened(part)) is not part:
            wide[name] = inner
    if not wide:
        return distribution
    found = copy.copy(distribution)
    vars(found).update(wide)
    return found


def without_masks(node: Any) -> Any:
    """The node with its value, and a distribution of which no mask leaves anything out."""
    return {**node, "fn": _unmasked(node["fn"]), "mask": None}


def plate_scale(node: Any, rows: int) -> float:
    """The scale of a site by plates inside the data plate: size / subsample size, where they draw or take a part."""
    dim = data_dim(node, rows)
    return math.prod(_stands_for(frame) for frame in node["cond_indep_stack"] if frame.dim != dim)


def own_scale(node: Any, rows: int) -> Tensor:
    """The scale of a site by `poutine.scale`, without those of its plates: (), or one per element of its batch."""
    scale = torch.as_tensor(node["scale"], dtype=torch.float64, device="cpu")
    return scale / math.prod(_stands_for(frame) for frame in node["cond_indep_stack"])


def is_masked(distribution: Distribution) -> bool:
    """Whether a mask leaves out some of a distribution."""
    while isinstance(distribution, Independent | ExpandedDistribution | MaskedDistribution):
        if isinstance(distribution, MaskedDistribution) and not torch.as_tensor(distribution._mask).all():
            return True
        distribution = distribution.base_dist
    return False


def counted(node: Any, rows: int) -> Tensor:
    """Which entries of a site no mask leaves out, (rows, E): one for each element of the batch to which the masks belong."""
    distribution = node["fn"] if node["mask"] is None else node["fn"].mask(node["mask"])
    kept = torch.ones(rows, 1, dtype=torch.bool, device=node["value"].device)
    while isinstance(distribution, Independent | ExpandedDistribution | MaskedDistribution):
        if isinstance(distribution, MaskedDistribution):
            mask = torch.as_tensor(distribution._mask, device=kept.device).expand(distribution.batch_shape).reshape(rows, -1)
            kept = kept.repeat_interleave(mask.shape[1] // kept.shape[1], 1) & mask
        distribution = distribution.base_dist
    return kept


def _stands_for(frame: Any) -> float:
    return (frame.full_size or frame.size) / frame.size


def _by_row(node: Any, distribution: Distribution, rows: int) -> Distribution:
    """Plates to the right of the data plate become event dimensions."""
    dim = data_dim(node, rows)
    if distribution.batch_shape != node["fn"].batch_shape:
        got = f"{tuple(node['fn'].batch_shape)} and {tuple(distribution.batch_shape)}"
        raise Refused(f"expected a mask of site {node['name']!r} of its batch shape, got {got}")
    return distribution.to_event(-dim - 1) if dim < -1 else distribution


def _without_full_masks(node: Any) -> Distribution:
    """The distribution of a site under all its masks; those that leave nothing out are taken off: they hide closed forms."""
    masked = node["fn"] if node["mask"] is None else node["fn"].mask(node["mask"])
    return masked if is_masked(masked) else _unmasked(masked)


def _unmasked(distribution: Distribution) -> Distribution:
    if isinstance(distribution, MaskedDistribution):
        return _unmasked(distribution.base_dist)
    if not isinstance(distribution, Independent | ExpandedDistribution):
        return distribution
    base = _unmasked(distribution.base_dist)
    if base is distribution.base_dist:
        return distribution
    if isinstance(distribution, Independent):
        return base.to_event(distribution.reinterpreted_batch_ndims)
    return base.expand(distribution.batch_shape)
