"""Which directions of the data a latent variable can carry at a noise and a beta, before anything is trained."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_skipvae.stored import finite_or_none

from ..pairs.rows import Inputs
from .spectrum import spectrum

SHOWN = 12  # directions in the text; all are in `to_json`
LIKELIHOODS = ("normal", "bernoulli", "poisson")
OTHERS = "a network that is not linear may carry more than these directions, or less: for it this is a guide"
STABILITY = (
    "for a {} likelihood: which directions can grow out of a collapsed solution of a linear decoder (exact); "
    "their rates are those of a normal likelihood of the same variances, a guide"
)


@dataclass(frozen=True)
class Direction:
    """A principal direction of the data, and whether the optimal linear VAE encodes it.

    variance: its variance, divided by that of the noise; active: whether z encodes it; rate: its nats; left: the variance that
    the reconstruction leaves, in the unit of `variance`. dies_at_beta: the beta from which on it is not encoded (a learned
    noise is learned anew at each beta); dies_at_sigma: the same for the noise, None where that differs between elements.
    """

    variance: float
    active: bool
    rate: float
    left: float
    dies_at_beta: float
    dies_at_sigma: float | None


@dataclass(frozen=True)
class CollapsePrediction:
    """The result of `predict_collapse`: what the optimal linear VAE encodes of the data, in nats per datapoint.

    active: the number of directions that are encoded; rate: their nats together; explained_variance: the share of the variance
    that is reconstructed. elbo: the bound with beta 1, at the optimum for the given beta; None unless the likelihood is normal.
    collapses_at_beta, collapses_at_sigma: from where on no direction is encoded. sigma: the noise, given or learned; None, as
    is collapses_at_sigma, where it differs between elements. directions: see `Direction`, the largest variance first.
    """

    beta: float
    sigma: float | None
    sigma_learned: bool
    likelihood: str
    latent_dim: int | None
    points: int
    elements: int
    active: int
    rate: float
    elbo: float | None
    explained_variance: float
    collapses_at_beta: float
    collapses_at_sigma: float | None
    directions: list[Direction]
    notes: list[str]

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        if not self.active:
            return (
                f"All directions collapse: the largest variance of the data is {self.directions[0].variance:.3g} times that of "
                f"the noise, and beta is {self.beta:.3g}."
            )
        noise = "" if self.collapses_at_sigma is None else f", or sigma {self.collapses_at_sigma:.3g}"
        return (
            f"{self.active} of {self.elements} directions can be active, with {self.rate:.2f} nats; all collapse from beta "
            f"{self.collapses_at_beta:.3g}{noise} on."
        )

    def to_dict(self) -> dict[str, Any]:
        """The attributes and the sentence as a dict of plain values."""
        return dataclasses.asdict(self) | {"sentence": self.sentence}

    def to_json(self) -> str:
        """What `to_dict` returns, as JSON; numbers that are not finite become null."""
        return json.dumps(finite_or_none(self.to_dict()), indent=2, allow_nan=False)

    def table(self) -> str:
        """The first directions as aligned text, with the sentence and the notes."""
        head = f"{'direction':>9}  {'variance / noise':>16}  {'rate, nats':>10}  {'dies at beta':>12}  {'dies at sigma':>13}"
        lines = [head, *(_line(number, found, self.beta) for number, found in enumerate(self.directions[:SHOWN], 1))]
        if len(self.directions) > SHOWN:
            lines.append(f"{'...':>9}  {len(self.directions) - SHOWN} more")
        noise = "differs by element" if self.sigma is None else f"{self.sigma:.4g}{', learned' * self.sigma_learned}"
        about = f"beta {self.beta:.4g}, sigma {noise}; {self.explained_variance:.1%} of the variance reconstructed"
        return "\n".join([*lines, about, self.sentence, *(f"Note: {note}." for note in self.notes)])

    def __str__(self) -> str:
        return self.table()


def predict_collapse(
    x: Inputs,
    sigma: float | Tensor | None = None,
    beta: float = 1.0,
    *,
    latent_dim: int | None = None,
    likelihood: str = "normal",
) -> CollapsePrediction:
    """Predicts before training which principal directions of x the latent variables can encode, at a noise and a beta.

        direction i is active where v_i > beta sigma^2            v_i: eigenvalues of the covariance of x, divisor N
        its rate is 1/2 ln(v_i / (beta sigma^2))                  the reconstruction leaves min(v_i, beta sigma^2)

    Exact for the global optimum of -E_q log p(x|z) + beta KL(q(z|x) || p(z)) over linear encoders and decoders with bias and a
    standard normal prior (reverse water-filling, the rate-distortion function of a Gaussian). Where a direction is not active
    the exact posterior collapses: no encoder, guide or schedule brings it back, only a smaller sigma or beta. For other
    networks the result is a guide.

    x: N rows of n elements in any shape: a tensor, an array or a view that is read in parts. sigma: the standard deviation of
    p(x|z) in units of x, one number or one per element; None where it is learned: sigma^2 (n - q beta) is then the sum of the
    variances of the directions that are not active, with q active ones. latent_dim: D, the most directions that can be active.

    likelihood: "normal", or "bernoulli" or "poisson" without sigma: the variance of the noise of each element is then that at
    its mean, p (1 - p) or the rate. A collapsed solution with a linear decoder of logits, or of log rates, is unstable in
    exactly the active directions.

    Cost: one pass over x, and N n^2 + n^3 operations (N^2 n + N^3 where there are fewer rows than elements). Raises ValueError
    for a sigma, beta or latent_dim that is not positive, values of x that are not finite or do not suit the likelihood, fewer
    than 2 rows, more than 16,384 of both rows and elements, and data whose noise cannot be learned.
    Reference: Tipping and Bishop 1999; Lucas et al. 2019, "Don't blame the ELBO!".
    """
    _check(sigma, beta, latent_dim, likelihood)
    scale, notes = _noise_by_element(sigma, likelihood), [OTHERS if likelihood == "normal" else STABILITY.format(likelihood)]
    eigenvalues, mean, points = spectrum(x, scale)
    if points <= len(mean):
        notes.append(f"{points:,} rows vary in {points - 1:,} directions at most, and overstate the largest variances")
    limit = len(mean) if latent_dim is None else min(latent_dim, len(mean))
    learned = scale is None and sigma is None
    noise = _learned_variance(eigenvalues, beta, limit) if learned else 1.0 if sigma is None or scale else float(sigma) ** 2
    directions = _directions(eigenvalues, noise, beta, limit, learned=learned, one_noise=scale is None)
    log_noise = len(mean) * math.log(noise) / 2 if scale is None else scale(mean).log().sum().item()
    left, rate = sum(found.left for found in directions), sum(found.rate for found in directions)
    elbo = -(len(mean) * math.log(2 * math.pi) + left) / 2 - log_noise - rate
    total = sum(found.variance for found in directions)
    return CollapsePrediction(
        beta=float(beta),
        sigma=noise**0.5 if scale is None else None,
        sigma_learned=learned,
        likelihood=likelihood,
        latent_dim=latent_dim,
        points=points,
        elements=len(mean),
        active=sum(found.active for found in directions),
        rate=rate,
        elbo=elbo if likelihood == "normal" else None,
        explained_variance=(total - left) / total if total else 0.0,
        collapses_at_beta=directions[0].dies_at_beta,
        collapses_at_sigma=directions[0].dies_at_sigma,
        directions=directions,
        notes=notes,
    )


def _directions(
    eigenvalues: Tensor, noise: float, beta: float, limit: int, *, learned: bool, one_noise: bool
) -> list[Direction]:
    """Reverse water-filling at the level beta, in units of the noise; the first `limit` directions may be carried."""
    ratio = eigenvalues / noise
    active = (ratio > beta) & (torch.arange(len(ratio), device="cpu") < limit)
    rate = torch.where(active, (ratio / beta).log() / 2, 0.0)
    left = torch.where(active, beta, ratio)
    last_beta = _last_betas(eigenvalues) if learned else ratio
    last_sigma = (eigenvalues / beta).sqrt().tolist() if one_noise else [None] * len(ratio)
    columns = (column.tolist() for column in (ratio, active, rate, left, last_beta))
    return [Direction(*row) for row in zip(*columns, last_sigma, strict=True)]


def _learned_variance(eigenvalues: Tensor, beta: float, limit: int) -> float:
    """sigma^2 at the optimum: sigma^2 (n - q beta) is the variance that the q active directions leave out.

    In other words sum_i min(beta, v_i / sigma^2) over i <= D, plus the other v_i / sigma^2, is n: a sum that falls with
    sigma^2, so that there is one solution. Raises ValueError where it is below n for all: the likelihood then grows without a
    bound.
    """
    rest = [*_rest(eigenvalues).tolist(), 0.0]
    for active in range(limit + 1):
        free = len(eigenvalues) - active * beta
        noise = rest[active] / free if free > 0 else math.inf
        # The solution is the first q whose next direction is not active at its own noise.
        if 0 < noise < math.inf and (active == limit or eigenvalues[active] <= beta * noise):
            return noise
    raise ValueError(
        "expected data whose noise can be learned, got variances that the latent dimensions explain in full: the likelihood "
        "then grows without a bound as sigma falls. Give sigma, or a latent_dim below the number of directions that vary"
    )


def _last_betas(eigenvalues: Tensor) -> Tensor:
    """The beta from which on a direction is not active when sigma is learned at each beta: n v_i / (rest_i + (i - 1) v_i)."""
    before = torch.arange(len(eigenvalues), dtype=eigenvalues.dtype, device="cpu")
    found = len(eigenvalues) * eigenvalues / (_rest(eigenvalues) + before * eigenvalues)
    return torch.where(eigenvalues > 0, found, 0.0)


def _rest(eigenvalues: Tensor) -> Tensor:
    """The sum of each eigenvalue and all smaller ones, (n,)."""
    return eigenvalues.flip(0).cumsum(0).flip(0)


def _noise_by_element(sigma: Any, likelihood: str) -> Callable[[Tensor], Tensor] | None:
    """A function of the mean (n,) that gives the standard deviation of the noise of each element; None where all have one."""
    if likelihood != "normal":
        return partial(_at_mean, likelihood=likelihood)
    given = None if sigma is None else torch.as_tensor(sigma)
    return None if given is None or given.dim() == 0 else partial(_given, sigma=given.detach().flatten().double().cpu())


def _at_mean(mean: Tensor, likelihood: str) -> Tensor:
    """sqrt(p (1 - p)), or the square root of the rate; 1 for elements without variance, which have no direction."""
    variance = mean * (1 - mean) if likelihood == "bernoulli" else mean
    if (variance < 0).any():
        expected = "values from 0 to 1" if likelihood == "bernoulli" else "counts, from 0 on,"
        worst = mean[variance.argmin()].item()
        raise ValueError(f"expected {expected} for a {likelihood} likelihood, got elements with a mean of {worst:.3g}")
    return torch.where(variance > 0, variance, 1.0).sqrt()


def _given(mean: Tensor, sigma: Tensor) -> Tensor:
    if len(sigma) != len(mean):
        raise ValueError(f"expected sigma to be one number, or one for each of the {len(mean)} elements, got {len(sigma)}")
    return sigma


def _check(sigma: Any, beta: float, latent_dim: int | None, likelihood: str) -> None:
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"expected likelihood to be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
    if likelihood != "normal" and sigma is not None:
        raise ValueError(f"expected no sigma for a {likelihood} likelihood, whose noise follows from its mean, got {sigma}")
    for name, value in {"sigma": sigma, "beta": beta}.items():
        if value is not None and not _is_positive(value):
            raise ValueError(f"expected {name} to be a number above 0, got {value}")
    if latent_dim is not None and latent_dim < 1:
        raise ValueError(f"expected latent_dim to be 1 or more, got {latent_dim}")


def _is_positive(value: Any) -> bool:
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return bool((found.isfinite() & (found > 0)).all())


def _line(number: int, found: Direction, beta: float) -> str:
    sigma = "-" if found.dies_at_sigma is None else f"{found.dies_at_sigma:.4g}"
    rate = f"{found.rate:.3f}" if found.active else "no z left" if found.variance > beta else "collapsed"
    return f"{number:>9}  {found.variance:>16.4g}  {rate:>10}  {found.dies_at_beta:>12.4g}  {sigma:>13}"
