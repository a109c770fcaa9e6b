"""Hamiltonian Monte Carlo from draws of the guide: z of the posterior itself, of which the decoder learns."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.ops.integrator import velocity_verlet
from pyro.optim import PyroOptim
from torch import Tensor
from torch.distributions import constraints

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.diagnostics.pairs.evaluation import evaluation_mode
from pyro_skipvae.distributions.wrapped import innermost_support
from pyro_skipvae.objectives import Batch, Objective, as_arguments, plate_scale, weighted
from pyro_skipvae.objectives.terms import sites

from .lagging import parameters_of_sites
from .step import SVIStep, batch_size


class HamiltonianDraws(NamedTuple):
    """One draw z (B, *event) for each row at the latent site `name`, and the share of its moves that were accepted, (B,)."""

    name: str
    z: Tensor
    accepted: Tensor


def hamiltonian_draws(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Batch,
    beta: float = 1.0,
    *,
    moves: int = 3,
    leapfrog: int = 5,
    step_size: float = 0.2,
) -> HamiltonianDraws:
    """Draws from near p(z|x): draws of the guide, moved by Hamiltonian Monte Carlo, whose moves leave p(z|x) invariant.

        H(z, r) = -log p(x|z) / beta - log p(z) + |s r|^2 / 2,   r ~ N(0, 1 / s^2),   s: standard deviations of q(z|x)

    At a beta other than 1 that is the posterior p(z) p(x|z)^(1 / beta), at which the ELBO with weight beta is largest. Each of
    the `moves` makes `leapfrog` steps (Pyro's `velocity_verlet`) of size `step_size`, in units of s. Each row of x is accepted
    on its own, with probability min(1, exp(-change of H)); Pyro's kernel `HMC` accepts all rows or none. Bias: after finitely
    many moves the draws are still influenced by the guide. They have no density, so no ELBO or rate is known for them. Modules
    run in evaluation mode, and there is no gradient. Cost: moves (leapfrog + 1) passes of the model and its gradient.

    Raises ValueError unless there is exactly one latent site, for a q(z|x) without a standard deviation or with a z that is not
    real, and for a model whose log p(x, z) is not one number per row.

    Reference: Neal 2011, "MCMC using Hamiltonian dynamics"; Hoffman 2017, "Learning Deep Latent Gaussian Models with MCMC".
    """
    _check_chain(moves, leapfrog, step_size)
    model, guide = weighted(model, guide, beta)
    with evaluation_mode(model, guide), torch.enable_grad():
        name, z, scale = _start(guide, x)
        accepted = torch.zeros(len(z), dtype=z.dtype, device=z.device)
        for _ in range(moves):
            z, moved = _move(lambda at: -_log_joint(model, x, name, at) / beta, z, scale, leapfrog, step_size)
            accepted += moved
    return HamiltonianDraws(name, z, accepted / max(moves, 1))


def _check_chain(moves: int, leapfrog: int, step_size: float) -> None:
    check_sizes(0, moves=moves)
    check_sizes(leapfrog=leapfrog)
    if not 0 < step_size < math.inf:
        raise ValueError(f"expected a step_size above 0, got {step_size}")


def _start(guide: Callable[..., Any], x: Batch) -> tuple[str, Tensor, Tensor]:
    """The name of the latent site, a draw of it, and its deviations, (B, *event) each."""
    with torch.no_grad():
        found = dict(sites(poutine.trace(guide).get_trace(*as_arguments(x))))
        if len(found) != 1:
            raise ValueError(f"expected one latent site for Hamiltonian Monte Carlo, got {list(found)}")
        ((name, site),) = found.items()
        q = site["fn"]
        try:
            scale = q.stddev
        except NotImplementedError:
            scale = None
        if scale is None or innermost_support(q.support) is not constraints.real:
            raise ValueError(
                f"expected a guide of real z with a deviation for Hamiltonian Monte Carlo, got {type(q).__name__} at {name}"
            )
        return name, site["value"].detach(), scale.expand(site["value"].shape)


def _log_joint(model: Callable[..., Any], x: Batch, name: str, z: Tensor) -> Tensor:
    """log p(x, z) of each row, (B,), whatever a plate makes of it."""
    trace = poutine.trace(poutine.condition(model, data={name: z})).get_trace(*as_arguments(x))
    trace.compute_log_prob()
    total: Any = 0
    for other, site in sites(trace):
        if not site["is_observed"] or site["log_prob"].shape != (len(z),):
            raise ValueError(f"expected {name} alone to be unknown, with a log p for each row, got the site {other}")
        total = total + site["log_prob"] / plate_scale(site)
    return total


def _move(
    energy: Callable[[Tensor], Tensor], z: Tensor, scale: Tensor, leapfrog: int, step_size: float
) -> tuple[Tensor, Tensor]:
    """z after one move, and which rows were accepted, (B,)."""
    energies: list[Tensor] = []  # of each place on the way

    def potential(at: dict[str, Tensor]) -> Tensor:
        energies.append(energy(at["z"]))
        return energies[-1].sum()

    def kinetic(r: Tensor) -> Tensor:
        return (scale * r).square().flatten(1).sum(1) / 2

    r = torch.randn_like(z) / scale
    velocity = lambda at: {"z": scale.square() * at["z"]}  # noqa: E731
    end, r_end, _, _ = velocity_verlet({"z": z}, {"z": r}, potential, velocity, step_size, leapfrog)
    change = (energies[-1] + kinetic(r_end["z"]) - energies[0] - kinetic(r)).detach()
    # A uniform number from a normal one: that is the noise which several processes deal out by rows.
    moved = torch.special.log_ndtr(torch.randn_like(change)) < -change  # not where it is nan
    return torch.where(moved.reshape(-1, *[1] * (z.dim() - 1)), end["z"], z).detach(), moved


def hamiltonian_step(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    objective: Objective | ELBO,
    optim: PyroOptim,
    *,
    moves: int = 3,
    leapfrog: int = 5,
    step_size: float = 0.2,
    **how: Any,
) -> "HamiltonianStep":
    """Makes a training step that trains the decoder on z' of `hamiltonian_draws`, and the encoder by the objective.

        parameters of the guide, and of an objective that is a module:  gradient of the objective
        all others:  gradient of -mean_x [log p(x|z') + beta log p(z')]

    The step is called as that of `svi_step`. Its loss is that of the objective at the guide, which the draws start from. moves,
    leapfrog, step_size: see `hamiltonian_draws`; how: the other arguments of `svi_step`. Raises ValueError for a control,
    `compile` or bfloat16 among them; the step raises what `hamiltonian_draws` does.

    Reference: Hoffman 2017, algorithm 1.
    """
    for name, usual in {"compile": False, "precision": "float32", "control": None}.items():
        if how.get(name, usual) != usual:
            raise ValueError(f"expected no {name} for a step with Hamiltonian Monte Carlo, got {how[name]}")
    _check_chain(moves, leapfrog, step_size)
    chain = {"moves": moves, "leapfrog": leapfrog, "step_size": step_size}
    return HamiltonianStep(model, guide, objective, optim, chain, **how)


class HamiltonianStep(SVIStep):
    """What `hamiltonian_step` returns; `accepted` is the part of moves of the last step that was accepted, a tensor ()."""

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        objective: Objective | ELBO,
        optim: PyroOptim,
        chain: dict[str, Any],
        *,
        max_norm: float | None = None,
        **how: Any,
    ) -> None:
        super().__init__(model, guide, objective, optim, max_norm, **how)
        self.chain, self.accepted = chain, torch.ones(())
        self._encoder: list[Tensor] = []
        self._others: list[Tensor] = []

    def __call__(self, x: Batch, beta: float | None = None) -> Tensor:
        if not self._encoder:
            self._encoder = parameters_of_sites(self.svi.guide, x)
            known = set(map(id, self._encoder))
            self._others = [other for other in parameters_of_sites(self.svi.model, x) if id(other) not in known]
        return super().__call__(x, beta)

    def _mean_loss_and_grads(self, x: Batch, beta: Any) -> Tensor:
        loss = super()._mean_loss_and_grads(x, beta)
        for other in self._others:
            other.grad = None
        model, guide = self.svi.model, self.svi.guide
        drawn = hamiltonian_draws(model, guide, x, beta, **self.chain)
        self.accepted = drawn.accepted.mean()
        log_joint = _log_joint(weighted(model, guide, beta)[0], x, drawn.name, drawn.z)
        (-log_joint.sum() / batch_size(x)).backward(inputs=self._others)
        return loss
