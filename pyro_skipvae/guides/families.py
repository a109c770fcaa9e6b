"""Families of posteriors q(z|x).

A family is a module `features (B, F) -> Distribution` with batch (B,) and event (D,), given to an encoder as `posterior=`.
For a sequence z, `latent_dim` (T, C), its event is (T, C); only the families of independent normals have those.
"""

import math
import warnings
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import conditional_affine_autoregressive, conditional_planar
from torch import Tensor, nn

from pyro_skipvae.blocks import LatentDim, check_sizes, in_full, latent_shape
from pyro_skipvae.distributions.even_mixture import even_mixture
from pyro_skipvae.distributions.von_mises_fisher import VonMisesFisher, check_dimensions, concentration_for


class DiagonalNormal(nn.Module):
    """q(z|x) = N(loc, diag(scale^2)), loc and log scale^2 linear in features (B, F): batch (B,), event (D,) or (T, C)."""

    def __init__(self, features: int, latent_dim: int | Sequence[int]) -> None:
        super().__init__()
        check_sizes(features=features)
        self.event_shape = latent_shape(latent_dim)
        self.parameters_of = nn.Linear(features, 2 * math.prod(self.event_shape))

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        halves = in_full(self.parameters_of(features)).chunk(2, dim=-1)
        loc, log_variance = (half.unflatten(-1, self.event_shape) for half in halves)
        return dist.Normal(loc, (log_variance / 2).exp()).to_event(len(self.event_shape))


class MinimumRateNormal(nn.Module):
    """Independent normals q(z|x) whose KL from N(0, 1) is at least `rate` / D nats in each of D dimensions.

        v = scale^2 between the two roots of v - ln v - 1 = 2 delta,   delta = rate / D
        loc = r + sign(r) sqrt(2 delta + 1 + ln v - v)

    r, and the logit of v's position between the roots, are linear in features (B, F); batch (B,), event (D,) or (T, C). The
    sign of each mean is that of r, and so learned: means on one side of 0 would be a weaker family. The bound holds for the
    standard normal prior, and for the rate, not the mutual information. Raises ValueError for a rate of 0 or less.

    Reference: Razavi, van den Oord, Poole, Vinyals 2019, on independent dimensions; the sign is ours.
    """

    def __init__(self, features: int, latent_dim: LatentDim, *, rate: float) -> None:
        super().__init__()
        self.event_shape = latent_shape(latent_dim)
        D = math.prod(self.event_shape)
        check_sizes(features=features, latent_dim=D)
        if not 0 < rate < math.inf:
            raise ValueError(f"expected a rate above 0 nats, got {rate}")
        self.rate, self.delta = rate, rate / D
        self.variances = variances_within(self.delta)
        self.parameters_of = nn.Linear(features, 2 * D)

    def forward(self, features: Tensor) -> dist.Distribution:
        halves = in_full(self.parameters_of(features)).chunk(2, dim=-1)
        free, place = (half.unflatten(-1, self.event_shape) for half in halves)
        low, high = self.variances
        variance = low + (high - low) * place.sigmoid()
        # At the two ends the least mean is 0, where a square root has no derivative.
        least = (2 * self.delta + 1 + variance.log() - variance).clamp(min=1e-8).sqrt()
        loc = free + torch.where(free < 0, -least, least)
        return dist.Normal(loc, variance.sqrt()).to_event(len(self.event_shape))


def variances_within(delta: float) -> tuple[float, float]:
    """The two variances v at which N(0, v) has a KL of `delta` nats from N(0, 1): (low, high), by bisection."""

    def bisect(inside: float, outside: float) -> float:
        while (middle := (inside + outside) / 2) not in (inside, outside):
            near = (middle - math.log(middle) - 1) / 2 < delta
            inside, outside = (middle, outside) if near else (inside, middle)
        return inside

    return bisect(1.0, math.exp(-2 * delta - 2)), bisect(1.0, 4 * delta + 4)


LEAST_VARIANCE = 1e-12  # of batch-normalised means before they are put to one


class BatchNormalisedNormal(nn.Module):
    """Independent normals q(z|x) whose means have a fixed variance over a batch, so that no dimension can collapse.

        loc = gamma (m - mean(m)) / std(m) + shift,   gamma = sqrt(2 rate / D)

    m and the log variance are linear in features (B, F), the shift is learned; batch (B,), event (D,) or (T, C). In training
    the mean over the batch of KL(q || N(0, I)) is at least D gamma^2 / 2 = `rate` nats. The constant that is added to the
    variance is 1e-12: with the usual 1e-5 an encoder can shrink m below it, and collapse all the same. In evaluation, and for a
    batch of one row, which has no variance, running statistics are used instead: each row then depends on itself alone, and the
    bound is only approximate. Raises ValueError for a rate of 0 or less.

    Reference: Zhu, Bi, Liu, Ma, Li, Wu 2020, "A Batch Normalized Inference Network Keeps the KL Vanishing Away", equation 8.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, features: int, latent_dim: LatentDim, *, rate: float) -> None:
        super().__init__()
        self.event_shape = latent_shape(latent_dim)
        D = math.prod(self.event_shape)
        check_sizes(features=features, latent_dim=D)
        if not 0 < rate < math.inf:
            raise ValueError(f"expected a rate above 0 nats, got {rate}")
        self.gamma = math.sqrt(2 * rate / D)
        self.parameters_of = nn.Linear(features, 2 * D)
        self.shift = nn.Parameter(torch.zeros(D))
        self.register_buffer("running_mean", torch.zeros(D))
        self.register_buffer("running_variance", torch.ones(D))

    def forward(self, features: Tensor) -> dist.Distribution:
        if features.dim() != 2:
            raise ValueError(f"expected features (B, F) to put to a variance over B, got {tuple(features.shape)}")
        means, log_variance = in_full(self.parameters_of(features)).chunk(2, dim=-1)
        batch = self.training and len(means) > 1
        mean, variance = self.running_mean, self.running_variance
        new = (mean.clone(), variance.clone()) if batch else (mean, variance)
        means = nn.functional.batch_norm(means, new[0], new[1], training=batch, eps=LEAST_VARIANCE)
        if batch:  # one that is not finite would spoil them for good
            mean.copy_(torch.where(new[0].isfinite(), new[0], mean))
            variance.copy_(torch.where(new[1].isfinite(), new[1], variance))
        loc = self.gamma * means + self.shift
        halves = (half.unflatten(-1, self.event_shape) for half in (loc, (log_variance / 2).exp()))
        return dist.Normal(*halves).to_event(len(self.event_shape))


class VonMisesFisherPosterior(nn.Module):
    """q(z|x) = `VonMisesFisher` on the unit sphere in D dimensions, for the prior `UniformSphere`: batch (B,), event (D,).

    loc is linear in features (B, F), scaled to length 1. With `rate` the concentration is a constant, with which
    KL(q || uniform) is that many nats for every x. Without it the concentration is 1e-3 + softplus of a further linear map.
    Raises ValueError for a sequence z, fewer than 2 dimensions or a rate of 0 or less.

    Reference: Xu and Durrett 2018, "Spherical Latent Spaces for Stable Variational Autoencoders" (a fixed concentration);
    Davidson et al. 2018, "Hyperspherical Variational Auto-Encoders" (a learned one).
    """

    def __init__(self, features: int, latent_dim: int, *, rate: float | None = None) -> None:
        super().__init__()
        _check_one_vector(latent_dim, "VonMisesFisherPosterior")
        check_sizes(features=features)
        self.latent_dim, self.rate = check_dimensions(latent_dim), rate
        self.concentration = None if rate is None else concentration_for(rate, latent_dim)
        self.parameters_of = nn.Linear(features, latent_dim + (rate is None))

    def forward(self, features: Tensor) -> dist.Distribution:
        parameters = in_full(self.parameters_of(features))
        loc = nn.functional.normalize(parameters[..., : self.latent_dim], dim=-1)
        if self.concentration is not None:
            return VonMisesFisher(loc, self.concentration)
        return VonMisesFisher(loc, 1e-3 + nn.functional.softplus(parameters[..., -1]))  # at 0 there is no direction left


class SemiImplicitNormal(nn.Module):
    """A mixture q(z|x) = 1/K sum_k N(loc(x, e_k), diag(scale(x, e_k)^2)) over noise e_k: batch (B,), event (D,).

    It approximates the implicit q(z|x) = E_e N(loc(x, e), diag(scale(x, e)^2)), e ~ N(0, I), whose density is not known. In
    training each row has K = `components` new e_k in each step. In evaluation a fixed set of K = `evaluated` serves all x, so
    that q(z|x) depends on x alone. Bias: on average its KL from a prior is no smaller than that of the implicit q, and tends to
    it as K grows. The noise (`noise` numbers) joins the features (B, F) before a hidden layer. `at_fixed_noise()` of what it
    gives is that of evaluation. Raises ValueError for a sequence z, and for a size below 1.

    Reference: Yin and Zhou 2018, "Semi-Implicit Variational Inference"; a posterior for adversarial variational Bayes.
    """

    fixed: Tensor

    def __init__(
        self,
        features: int,
        latent_dim: int,
        *,
        noise: int = 16,
        hidden: int = 128,
        components: int = 8,
        evaluated: int = 64,
    ) -> None:
        super().__init__()
        _check_one_vector(latent_dim, "SemiImplicitNormal")
        check_sizes(features=features, noise=noise, hidden=hidden, components=components, evaluated=evaluated)
        self.noise, self.components = noise, components
        self.of_features = nn.Linear(features, hidden)
        self.of_noise = nn.Linear(noise, hidden, bias=False)
        self.parameters_of = nn.Linear(hidden, 2 * latent_dim)
        self.register_buffer("fixed", torch.randn(evaluated, noise))

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        like = self.fixed
        if not self.training:
            return self._mixture(features, like.expand(len(features), *like.shape))
        found = self._mixture(
            features, torch.randn(len(features), self.components, self.noise, dtype=like.dtype, device=like.device)
        )
        found.at_fixed_noise = lambda: self._mixture(features.detach(), like.expand(len(features), *like.shape))
        return found

    def _mixture(self, features: Tensor, noise: Tensor) -> dist.TorchDistribution:
        """Of features (B, F) and noise (B, K, noise)."""
        hidden = nn.functional.relu(self.of_features(features)[:, None] + self.of_noise(noise))
        loc, log_variance = in_full(self.parameters_of(hidden)).chunk(2, dim=-1)  # (B, K, D)
        return even_mixture(dist.Normal(loc, (log_variance / 2).exp()).to_event(1))


class FullCovarianceNormal(nn.Module):
    """q(z|x) = N(loc, L L') with L lower triangular: features (B, F) -> batch (B,), event (D,).

    The D (D + 3) / 2 numbers per datapoint, loc, L below the diagonal and the logarithm of its squared diagonal, are linear in
    the features. Raises ValueError for a sequence z.
    """

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        _check_one_vector(latent_dim, "FullCovarianceNormal")
        check_sizes(features=features)
        self.latent_dim = latent_dim
        self.parameters_of = nn.Linear(features, latent_dim * (latent_dim + 3) // 2)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        D = self.latent_dim
        loc, log_variance, below = in_full(self.parameters_of(features)).split([D, D, D * (D - 1) // 2], dim=-1)
        scale_tril = torch.diag_embed((log_variance / 2).exp())  # (B, D, D)
        rows, columns = torch.tril_indices(D, D, offset=-1)
        scale_tril[..., rows, columns] = below
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class InverseAutoregressiveFlow(nn.Module):
    """q(z|x): a diagonal normal transformed by Pyro's inverse autoregressive flows, each of which reads the features.

    features (B, F) -> batch (B,), event (D,). One dimension alone is shifted and scaled, and stays normal. The density of its
    own draw costs one pass (Pyro caches the inverse); that of any other z costs D passes. Raises ValueError for a sequence z.

    Reference: Kingma et al. 2016, "Improving Variational Inference with Inverse Autoregressive Flow".
    """

    def __init__(self, features: int, latent_dim: int, *, flows: int = 2, hidden: int = 128) -> None:
        super().__init__()
        _check_one_vector(latent_dim, "InverseAutoregressiveFlow")
        check_sizes(features=features, hidden=hidden)
        check_sizes(0, flows=flows)
        self.base = DiagonalNormal(features, latent_dim)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "ConditionalAutoRegressiveNN input_dim = 1")
            self.flows = nn.ModuleList(
                conditional_affine_autoregressive(latent_dim, features, hidden_dims=[hidden], stable=True) for _ in range(flows)
            )

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        flows = [flow.condition(features) for flow in self.flows]
        return dist.TransformedDistribution(self.base(features), flows)


class PlanarFlow(nn.Module):
    """q(z|x): a diagonal normal transformed by Pyro's planar flows, whose parameters are computed from the features.

        z <- z + u tanh(<w, z> + b)

    features (B, F) -> batch (B,), event (D,). Its density is known at its own draws alone, since a planar flow has no inverse
    in closed form: a report then has no bounds on I(x; z) that compare posteriors of different x. Raises ValueError for a
    sequence z.

    Reference: Rezende and Mohamed 2015, "Variational Inference with Normalizing Flows", equation 10.
    """

    def __init__(self, features: int, latent_dim: int, *, flows: int = 8, hidden: int = 128) -> None:
        super().__init__()
        _check_one_vector(latent_dim, "PlanarFlow")
        check_sizes(features=features, hidden=hidden)
        check_sizes(0, flows=flows)
        self.base = DiagonalNormal(features, latent_dim)
        self.flows = nn.ModuleList(conditional_planar(latent_dim, features, hidden_dims=[hidden]) for _ in range(flows))

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        return dist.TransformedDistribution(self.base(features), [flow.condition(features) for flow in self.flows])


def _check_one_vector(latent_dim: int | Sequence[int], family: str) -> None:
    if len(latent_shape(latent_dim)) > 1:
        raise ValueError(
            f"expected a number of dimensions for {family}, got the sequence {tuple(latent_dim)}: against an AR(1) prior only "
            "steps that are independent commit a rate; use DiagonalNormal"
        )
