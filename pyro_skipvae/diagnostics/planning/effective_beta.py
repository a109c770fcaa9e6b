"""What a sum, a mean and a weight in a loss really mean: the beta of the bound that it is."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
REDUCTIONS = ("sum", "batchmean", "mean")
SQUARED, NATS = "squared error", "nats"
RECONSTRUCTIONS = (NATS, SQUARED)
SHARE = 1e-3  # how far the ratios of gradients may lie apart: float32 and a mean of a million terms stay below


@dataclass(frozen=True)
class EffectiveBeta:
    """The beta with which a loss is a multiple of -E_q log p(x|z) + beta KL(q(z|x) || p(z)), up to a constant.

        loss = sum over the batch of  reconstruction_scale * (-log p(x|z), or squared error) + kl_scale * KL

    form: what the reconstruction term was said or found to be. For a squared error p(x|z) is Normal(x_hat, sigma), and the loss
    determines beta sigma^2 alone: `beta` is that at `sigma`, and with the noise `sigma_at_beta_1` the same loss is the ELBO.
    Both sigmas are None otherwise.
    """

    beta: float
    kl_scale: float
    reconstruction_scale: float
    form: str
    sigma: float | None
    sigma_at_beta_1: float | None

    def __str__(self) -> str:
        if self.sigma_at_beta_1 is None:
            return f"beta is {self.beta:.4g}: {_said(self.beta)}."
        return (
            f"beta is {self.beta:.4g} if the noise of x is sigma = {self.sigma:.4g}: {_said(self.beta)}; "
            f"the same loss is the ELBO itself (beta 1) with sigma = {self.sigma_at_beta_1:.4g}."
        )

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict of plain values."""
        return dataclasses.asdict(self)


def effective_beta(
    loss: Loss | None = None,
    *,
    event_size: int | tuple[int, ...],
    latent_dim: int | None = None,
    batch_size: int | None = None,
    reconstruction: str = "sum",
    kl: str = "sum",
    weight: float = 1.0,
    form: str = "nats",
    sigma: float = 1.0,
) -> EffectiveBeta:
    """Finds which beta of a beta-VAE a loss amounts to, from its reductions or from its gradients.

        loss = reduce(reconstruction) + weight * reduce(kl)          beta = weight * kl_scale / reconstruction_scale

        reduction     scale of a datapoint's sum          in torch
        "sum"         1                                   reduction="sum"
        "batchmean"   1 / B                               .sum(1).mean()
        "mean"        1 / (B n), of the KL 1 / (B D)      reduction="mean", .mean()

    event_size: n, the number of elements of one x, or its shape; latent_dim: D, needed where the KL is a "mean"; batch_size: B,
    needed where one term is a sum over the batch and the other a mean. form: "nats" for a -log p(x|z) such as
    binary_cross_entropy, or "squared error" for (x_hat - x)^2 without a factor; beta is then divided by 2 sigma^2.

    loss: instead of the reductions, a function loss(x_hat, x, loc, log_variance) that returns the scalar to be minimised, of
    the decoder's output x_hat and x (B, *event) and the posterior's parameters (B, D). Its gradients at random arguments are
    compared with those of KL(N(loc, exp log_variance) || N(0, 1)), and with those of a squared error and of binary
    cross-entropies of logits and of probabilities; a scale is their ratio, where that is the same for all elements. This needs
    latent_dim, batch_size, and an event_size with the shape that the loss expects. The arguments do not depend on the caller's
    random numbers and leave them as they are.

    Raises ValueError for missing or unknown arguments, and for a loss that is not such a sum, with the reason.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"expected sigma to be a number above 0, got {sigma}")
    event = (event_size,) if isinstance(event_size, int) else tuple(event_size)
    for name, value in {"event_size": math.prod(event), "latent_dim": latent_dim, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise ValueError(f"expected {name} to be 1 or more, got {value}")
    if loss is not None:
        if (reconstruction, kl, weight, form) != ("sum", "sum", 1.0, NATS):
            raise ValueError("expected a loss, or reconstruction, kl, weight and form, got both: a loss is probed for them")
        return _probed(loss, event, latent_dim, batch_size, sigma)
    if form not in RECONSTRUCTIONS:
        raise ValueError(f"expected form to be one of {', '.join(map(repr, RECONSTRUCTIONS))}, got {form!r}")
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"expected weight to be a number of at least 0, got {weight}")
    batch = batch_size
    if batch is None:
        if (reconstruction == "sum") != (kl == "sum"):
            raise ValueError("expected batch_size=, since one term is a sum over the batch and the other a mean")
        batch = 1  # it cancels
    if kl == "mean" and latent_dim is None:
        raise ValueError('expected latent_dim=, since kl="mean" is divided by it')
    of_x = _scale("reconstruction", reconstruction, batch, math.prod(event))
    of_z = weight * _scale("kl", kl, batch, latent_dim or 1)
    return _beta(of_x, of_z, form, sigma)


def _scale(term: str, reduction: str, batch: int, elements: int) -> float:
    scales = {"sum": 1.0, "batchmean": 1 / batch, "mean": 1 / (batch * elements)}
    if reduction not in scales:
        raise ValueError(f"expected {term} to be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")
    return scales[reduction]


def _beta(of_x: float, of_z: float, form: str, sigma: float) -> EffectiveBeta:
    ratio = of_z / of_x
    if form != SQUARED:
        return EffectiveBeta(ratio, of_z, of_x, form, None, None)
    return EffectiveBeta(ratio / (2 * sigma**2), of_z, of_x, form, sigma, (ratio / 2) ** 0.5)


def _said(beta: float) -> str:
    if abs(beta - 1) < 1e-6:
        return "the ELBO itself"
    return "the KL term weighs more than in the ELBO" if beta > 1 else "the KL term weighs less than in the ELBO"


def _probed(loss: Loss, event: tuple[int, ...], latent_dim: int | None, batch: int | None, sigma: float) -> EffectiveBeta:
    if latent_dim is None or batch is None:
        raise ValueError("expected latent_dim= and batch_size= for a loss that is probed, since it is called with such tensors")
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    # Outputs between 0 and 1, so that a loss may read them as probabilities too; values of x that are 0 or 1.
    x_hat = (0.05 + 0.9 * torch.rand((batch, *event), generator=generator)).requires_grad_()
    x = (torch.rand((batch, *event), generator=generator) < 0.5).float()
    # Next to each other a quarter of the usual scale and three times it: a loss with free bits or a clamp differs at one of
    # them.
    spread = torch.where(torch.arange(batch * latent_dim) % 2 == 0, 0.25, 3.0).view(batch, latent_dim)
    loc = (spread * normal(batch, latent_dim)).requires_grad_()
    log_variance = (spread / 3 * normal(batch, latent_dim)).requires_grad_()
    with torch.enable_grad():
        value = loss(x_hat, x, loc, log_variance)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"expected loss(x_hat, x, loc, log_variance) to give one number, got {got}")
        found = torch.autograd.grad(value.sum(), (x_hat, loc, log_variance), allow_unused=True)
    of_output, of_loc, of_log_variance = found
    if of_output is None or of_loc is None or of_log_variance is None:
        raise ValueError("expected a loss of x_hat, loc and log_variance, got one that leaves one of them out, or detaches it")
    with torch.no_grad():
        of_z = _one_ratio(torch.cat([of_loc, of_log_variance], 1), torch.cat([loc, (log_variance.exp() - 1) / 2], 1))
        if of_z is None:
            raise ValueError(
                "expected a loss with a multiple of KL(N(loc, variance) || N(0, 1)), got other gradients at loc and "
                "log_variance: the KL is another one, has free bits or a clamp, or log_variance is read as something else"
            )
        form, of_x = _reconstruction(of_output, x_hat, x)
    return _beta(of_x, of_z, form, sigma)


def _reconstruction(gradient: Tensor, x_hat: Tensor, x: Tensor) -> tuple[str, float]:
    """What the reconstruction term is, and its scale."""
    candidates = {
        SQUARED: 2 * (x_hat - x),
        "binary cross-entropy of logits": x_hat.sigmoid() - x,
        "binary cross-entropy of probabilities": (x_hat - x) / (x_hat * (1 - x_hat)),
    }
    for form, expected in candidates.items():
        scale = _one_ratio(gradient, expected)
        if scale is not None and scale > 0:
            return form, scale
    raise ValueError(
        f"expected a reconstruction term that is a multiple of {', '.join(candidates)}, got another gradient at x_hat: give "
        'its reductions instead, such as effective_beta(reconstruction="sum", kl="sum", event_size=784)'
    )


def _one_ratio(gradient: Tensor, expected: Tensor) -> float | None:
    """The number by which `expected` is to be multiplied to give the gradient everywhere; None where there is none."""
    ratio = (gradient * expected).sum() / expected.square().sum()
    apart = (gradient - ratio * expected).abs()
    return ratio.item() if (apart <= SHARE * (ratio * expected).abs() + 1e-12).all() else None
