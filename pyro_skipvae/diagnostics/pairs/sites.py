"""Sample sites of a Pyro trace, read per datapoint."""

from pyro.distributions import Distribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor


def sample_sites(trace) -> dict:
    """The sample sites of a trace in order: without subsampling and `pyro.deterministic`."""
    return {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node) and not node["infer"].get("_deterministic")
    }


def latent_sites(trace) -> list[str]:
    """The names of the latent sites of a trace, without a guide's auxiliary ones."""
    sites = sample_sites(trace).items()
    return [name for name, node in sites if not node["is_observed"] and not node["infer"].get("is_auxiliary")]


def observed_sites(trace) -> list[str]:
    """The names of the observed sites of a trace; ValueError where there are none."""
    names = [name for name, node in sample_sites(trace).items() if node["is_observed"]]
    if not names:
        raise ValueError("expected a model with an observed site, got none: write pyro.sample(..., obs=x)")
    return names


def data_dim(node, rows: int) -> int:
    """The (negative) batch dimension of a site's data plate; ValueError where the rows are not in a plate."""
    shape = node["fn"].batch_shape
    frames = [frame for frame in node["cond_indep_stack"] if frame.vectorized]
    dims = [frame.dim for frame in frames if -frame.dim <= len(shape) and shape[frame.dim] == rows]
    site = f"site {node['name']!r} inside one data plate of {rows} rows"
    got = f"batch shape {tuple(shape)} and event shape {tuple(node['fn'].event_shape)}"
    if not frames:
        raise ValueError(
            f"expected {site}, got {got} without a plate: a `to_event` over the rows, or a latent that all rows "
            "share, has no value per datapoint. Write `with pyro.plate('data', len(x)):` around it"
        )
    if not dims or len(shape) > -min(dims):
        plates = ", ".join(f"{frame.name!r} of size {frame.size}" for frame in frames)
        raise ValueError(
            f"expected {site}, got {got} in the plates {plates}: the data plate has to be the leftmost (dim=-2 where "
            "another one is inside it), and a plate that subsamples inside the model or does not follow its input "
            "hides the rows. Pass the rows as x and use `pyro.plate('data', len(x))`, or "
            "`pyro.plate('data', N, subsample_size=len(x))` for the scale N/B"
        )
    return min(dims)


def by_row(node, rows: int) -> Distribution:
    """A site's distribution with batch (rows,): plates to the right of the data plate become event dimensions."""
    return node["fn"].to_event(-data_dim(node, rows) - 1) if data_dim(node, rows) < -1 else node["fn"]


def log_prob_by_row(node, rows: int) -> Tensor:
    """log p of a site's value per datapoint, (rows,): the plate's scale left out, a mask kept."""
    log_prob = scale_and_mask(node["fn"].log_prob(node["value"]), 1.0, node["mask"])
    if log_prob.dim() != -data_dim(node, rows) or len(log_prob) != rows:
        raise ValueError(f"expected log p of site {node['name']!r} for {rows} rows, got {tuple(log_prob.shape)}")
    return log_prob.reshape(rows, -1).sum(1)


def posterior_at(trace, site: str, rows: int) -> Distribution:
    """q(z|x) from a guide's trace, batch (rows,)."""
    node = trace.nodes[site]
    if node["mask"] is not None:
        raise ValueError(f"expected the latent site {site!r} without poutine.mask, got a masked one")
    return by_row(node, rows)
