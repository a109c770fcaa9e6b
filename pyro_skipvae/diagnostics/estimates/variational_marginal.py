"""A held-out upper bound on the mutual information by a fitted marginal r(z); it has no ceiling."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_skipvae.distributions.wrapped import innermost_support

from ..pairs.conditions import drawn
from ..pairs.evaluation import precision_of
from ..pairs.interval import Interval, mean_interval
from ..pairs.pair import Pair
from ..pairs.rows import Inputs, as_rows, check_cut, count_rows, select_rows
from ..pairs.unavailable import Refused, Unavailable
from .pairwise import flat

# (components, covariance) of the mixtures tried: the diagonal one has few enough parameters for few points of many dimensions.
MIXTURES = ((1, "diag"), (1, "full"), (10, "full"), (30, "full"))
LARGEST_FIT = 10_000
# Nats a point that a further step of EM must gain. Of 30 components with full covariance in 50 dimensions and 10,000 points it
# takes 10 steps; with sklearn's 0.001 it takes 41, and scores 0.1 nats worse on other points.
LEAST_GAIN = 0.01
CLEARLY = 0.1  # nats between two bounds that contradict each other, beside their errors
WIDEST_MIXTURE = 64  # a full-covariance mixture beyond this is slow to fit and rarely the better one


@dataclass(frozen=True)
class Marginal:
    """A Gaussian mixture over standardised z."""

    mixture: Any
    loc: Tensor
    scale: Tensor
    reference: str

    def log_prob(self, z: Tensor) -> Tensor:
        """log r(z) (R,) at z (R, D), float64."""
        standard = (z - self.loc) / self.scale
        scores = [torch.from_numpy(self.mixture.score_samples(part.numpy())) for part in standard.split(10_000)]
        return torch.cat(scores) - self.scale.log().sum()


def fit_marginal(pair: Pair, z: Tensor, fit_on: Inputs | None, seed: int) -> tuple[Marginal, Tensor]:
    """r(z), and the indices of x at which it may be evaluated; z (N, *event) is one draw per x.

    Fitted to one draw per row of `fit_on`, of 10,000 random rows at most, or, without it, to those of a random half of x,
    evaluated on the other.
    """
    if fit_on is None:
        order = random_order(len(z), seed)
        fitted, held_out, source = z[order[: len(z) // 2]], order[len(z) // 2 :], "a random half of x"
    else:
        fitted, held_out, source = drawn_on(pair, fit_on, seed), torch.arange(len(z), device="cpu"), "fit_on"
    return fitted_to(pair, fitted, source, seed), held_out


def fitted_to(pair: Pair, z: Tensor, source: str, seed: int) -> Marginal:
    """r(z), fitted to draws z (M, *event), one for each x, of `source`."""
    if _is_surface(pair.support()):
        raise Unavailable("z lies on a simplex or a sphere, where a density in all of space bounds nothing")
    z = flat(z).double().cpu()[:LARGEST_FIT]
    if z.shape[1] == 0:
        raise Unavailable("z has no dimensions")
    return _fit(z, f"{len(z)} points of {source}", seed)


def drawn_on(pair: Pair, fit_on: Inputs, seed: int) -> Tensor:
    """One draw of z at each of other rows, 10,000 random ones at most, (M, *event)."""
    rows = as_rows(fit_on, precision_of(pair.model, pair.guide))
    check_cut(fit_on, rows)
    # In a random order, since a part of them chooses the mixture: they may be sorted by class.
    rows = select_rows(rows, random_order(count_rows(rows), seed)[:LARGEST_FIT])
    try:
        other = Pair(pair.model, pair.guide, rows, site=pair.site, rows=pair.rows_given)
        fitted = torch.cat([drawn(chunk.q) for chunk in other.chunks()])
    except Refused as error:
        raise Refused(f"fit_on: {error}") from error
    if not fitted.isfinite().all():
        raise Unavailable("draws from q(z|x) are not finite at rows of fit_on")
    return fitted


def random_order(rows: int, seed: int) -> Tensor:
    """The numbers 0 to rows - 1 in an order that the seed fixes."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed), device="cpu")


def marginal_bound(marginal: Marginal, z: Tensor, log_q: Tensor) -> Interval:
    """I(x; z) <= E[log q(z|x) - log r(z)], averaged over the draws z (S, n, *event) of points r was not fitted to.

    Its bias is KL(q(z) || r(z)). Reference: Barber and Agakov 2003; Poole et al. 2019, equation 1.
    """
    return mean_interval(marginal_terms(marginal, z, log_q))


def marginal_terms(marginal: Marginal, z: Tensor, log_q: Tensor) -> Tensor:
    """log q(z|x) - log r(z) of each point, averaged over its draws, (n,)."""
    log_r = marginal.log_prob(flat(z, 2).flatten(0, 1).double().cpu()).view(log_q.shape)
    return (log_q.double().cpu() - log_r).mean(0)


def check_marginal(marginal: Interval, lower: Interval | None) -> Interval:
    """The bound by r(z), unless it lies far below what the information is at least: then r(z) is no density where z lies."""
    least = max(0.0, lower.low) if lower else 0.0
    if marginal.high < least - CLEARLY:
        raise Unavailable(
            f"the upper bound by r(z), {marginal.value:.3g}, lies below {'the lower one' if lower else '0'}: z may lie on a "
            "surface, where a density in all of space bounds nothing"
        )
    return marginal


def _is_surface(support: Any) -> bool:
    return innermost_support(support) in (constraints.simplex, constraints.sphere)


def _fit(z: Tensor, source: str, seed: int) -> Marginal:
    """The mixture that scores best on a fifth of z, refitted to all of it."""
    if len(z) < 20:
        raise Unavailable(f"a marginal r(z) cannot be fitted to {len(z)} points")
    loc, scale = z.mean(0), z.std(0).clamp(min=1e-12)  # a constant dimension keeps a finite scale
    standard, last = ((z - loc) / scale).numpy(), len(z) // 5
    wide = z.shape[1] > WIDEST_MIXTURE
    candidates = [mixture for mixture in MIXTURES if mixture[0] == 1 or (mixture[0] < last and not wide)]
    if wide and z.shape[1] >= len(z):  # a covariance of more dimensions than points is never the better one, and slow
        candidates = [MIXTURES[0]]
    best = max(candidates, key=lambda mixture: _mixture(standard[last:], mixture, seed).score(standard[:last]))
    reference = f"mixture of {best[0]} normals, {best[1]} covariance, fitted to {source}"
    return Marginal(_mixture(standard, best, seed), loc, scale, reference)


def _mixture(z: Any, kind: tuple[int, str], seed: int) -> Any:
    from sklearn.mixture import GaussianMixture  # a second of import that only this bound needs

    components, covariance = kind
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one that has not converged is a valid r(z) all the same
        return GaussianMixture(components, covariance_type=covariance, tol=LEAST_GAIN, random_state=seed % 2**32).fit(z)
