"""Adversarial training: a second network tells draws of the posterior from others, and stands for the KL term."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.distributions import Independent, Normal, constraints
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.distributions.wrapped import innermost_support
from pyro_skipvae.objectives import Batch, as_arguments
from pyro_skipvae.objectives.aggregate import fitted_prior
from pyro_skipvae.objectives.terms import log_prob, plate_scale, sites, terms

from .step import SVIStep


class Critic(nn.Module):
    """The log-odds T(z) or T(x, z) that z (B, *event) is a draw of the posterior, (B,); 0 for every z at first.

    latent_size: the number of elements of one z; features: a module of x with outputs (B, feature_size), which the critic then
    reads too; width: the units of each of its two hidden layers (leaky relu).
    """

    def __init__(self, latent_size: int, *, features: nn.Module | None = None, feature_size: int = 0, width: int = 256) -> None:
        super().__init__()
        check_sizes(latent_size=latent_size, width=width)
        check_sizes(0, feature_size=feature_size)
        self.features = features
        self.network = nn.Sequential(
            *(nn.Linear(latent_size + feature_size, width), nn.LeakyReLU(0.2)),
            *(nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)),
        )
        last: Any = self.network[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, z: Tensor, x: Batch) -> Tensor:
        flat = z.reshape(len(z), -1)
        read = [] if self.features is None else [self.features(*as_arguments(x)).to(flat.dtype)]
        return self.network(torch.cat([flat, *read], -1)).squeeze(-1).to(flat.dtype)


def adversarial_autoencoder_step(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    optim: PyroOptim,
    *,
    prior: Callable[[], Any],
    critic: nn.Module,
    weight: float = 10.0,
    lr: float = 1e-3,
    **how: Any,
) -> "AdversarialStep":
    """Makes a training step of an adversarial autoencoder: a critic draws q(z) to the prior, in place of the rate.

        critic minimises       mean[softplus(-T(z)) + softplus(T(y))],   z ~ q(z|x), y ~ p(z)
        all others minimise    -E log p(x|z) + beta weight softplus(T(z))

    The step is called as that of `svi_step`, (x, beta=1.0) -> loss in nats per datapoint. It first updates the critic by Adam
    at `lr`, then all other parameters by `optim`. prior: () -> p(z) of the model, batch (); critic: (z, x) -> T, (B,), such as
    `Critic`; how: the other arguments of `svi_step`. A learned prior is fitted to the z by maximum likelihood. The loss is not
    a bound: report the plain ELBO. Raises ValueError for a weight that is not above 0; the step raises it unless there is
    exactly one latent site.

    Reference: Makhzani et al. 2016, "Adversarial Autoencoders"; Tolstikhin et al. 2018, whose weight is 10.
    """
    if not 0 < weight < math.inf:
        raise ValueError(f"expected a weight above 0 for the game on q(z), got {weight}")
    return AdversarialStep(model, guide, optim, prior, critic, _Aggregated(weight), lr, **how)


def adversarial_variational_bayes_step(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    optim: PyroOptim,
    *,
    prior: Callable[[], Any],
    critic: nn.Module,
    lr: float = 1e-3,
    **how: Any,
) -> "AdversarialStep":
    """Makes a training step of adversarial variational Bayes: a critic estimates the KL of a q(z|x) whose density is not used.

        KL(q(z|x) || p(z)) = E_q[T(x, (z - m) / s) + log r(z|x) - log p(z)],   r = N(m, s^2), independent

    m and s are the mean and standard deviation of q(z|x), without gradient; of a `SemiImplicitNormal` at its fixed noise, since
    they have to be functions of x. The critic learns T = log q - log r by telling
    (z - m) / s from draws of N(0, 1), with the loss of `adversarial_autoencoder_step`; for a posterior without these moments it
    learns T = log q - log p from draws of the prior. Bias: the estimate of the KL is as good as the critic, so neither it nor
    the loss is a bound. Call, arguments and the rest are those of `adversarial_autoencoder_step`.

    Reference: Mescheder, Nowozin, Geiger 2017, "Adversarial Variational Bayes", sections 3 and 4 (adaptive contrast).
    """
    return AdversarialStep(model, guide, optim, prior, critic, _Ratio(), lr, **how)


class AdversarialStep(SVIStep):
    """What both return; its state also holds the critic and its optimizer."""

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: PyroOptim,
        prior: Callable[[], Any],
        critic: nn.Module,
        game: Any,
        lr: float,
        *,
        max_norm: float | None = None,
        **how: Any,
    ) -> None:
        super().__init__(model, guide, self._objective, optim, max_norm, **how)
        self.prior, self.game = prior, game
        self.critic = critic.requires_grad_(False)  # but for its own updates
        self.adversary = torch.optim.Adam(critic.parameters(), lr=lr, betas=(0.5, 0.999))

    def _objective(self, model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float = 1.0) -> Tensor:
        found = terms(model, guide, x, "a game on its draws", beta)
        cost = self.game.cost(self.critic, found.q, found.p, x)
        fitted = fitted_prior(found.q, found.p) if self.game.fits_prior(found.q) else 0.0
        return beta * plate_scale(found.q) * cost.sum() + fitted - found.fit

    def __call__(self, x: Batch, beta: float | None = None) -> Tensor:
        if self.ranks is not None and not self._checked:
            self.ranks.same_start(self.critic.state_dict().values())
        self._train_critic(x)
        return super().__call__(x, beta)

    def _train_critic(self, x: Batch) -> None:
        """One step of the critic; none where its loss is not finite."""
        parameters = list(self.critic.requires_grad_(True).parameters())
        try:
            with self._own_rows(x) as rows:
                with torch.no_grad():
                    own, other = self.game.draws(self._posterior(rows), self.prior())
                loss = F.softplus(-self.critic(own, rows)).mean() + F.softplus(self.critic(other, rows)).mean()
                loss.backward()
            loss = self._summed(loss.detach(), parameters, x)
            norm = clip_grad_norm_(parameters, float("inf") if self.max_norm is None else self.max_norm)
            if torch.isfinite(loss + norm):
                self.adversary.step()
        finally:
            self.adversary.zero_grad()
            self.critic.requires_grad_(False)

    def _posterior(self, x: Batch) -> Any:
        """The latent site of the guide; `_objective` tells where there are others."""
        trace = poutine.trace(self.svi.guide).get_trace(*as_arguments(x))
        return next(site for _, site in sites(trace))

    def _summed(self, loss: Tensor, parameters: list[nn.Parameter], x: Batch) -> Tensor:
        if self.ranks is None:
            return loss
        return self.ranks.add_gradients(parameters, loss, self.ranks.weight(len(as_arguments(x)[0])))

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "adversary": {"critic": self.critic.state_dict(), "optimizer": self.adversary.state_dict()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        adversary = copy.deepcopy(state["adversary"])
        for number, parameter in enumerate(self.critic.parameters()):
            for name, moment in adversary["optimizer"]["state"].get(number, {}).items():
                if isinstance(moment, Tensor) and name != "step" and moment.shape != parameter.shape:
                    raise ValueError(f"adversary.optimizer has {name} of the shape {tuple(moment.shape)}")
        super().load_state_dict(state)
        self.critic.load_state_dict(adversary["critic"])
        self.adversary.load_state_dict(adversary["optimizer"])


class _Aggregated:
    """The game on q(z), whatever x."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def fits_prior(self, q: Any) -> bool:
        return True

    def cost(self, critic: nn.Module, q: Any, p: Any, x: Batch) -> Tensor:
        return self.weight * F.softplus(critic(q["value"], x))

    def draws(self, q: Any, p: Any) -> tuple[Tensor, Tensor]:
        return q["value"], p.expand((len(q["value"]),)).sample()


class _Ratio:
    """The ratio of q(z|x) and a normal of its moments, or the prior where it has none."""

    def fits_prior(self, q: Any) -> bool:
        """Whether the cost leaves that to be done: with a contrast log p(z) is in it."""
        return _contrast(q["fn"]) is None

    def cost(self, critic: nn.Module, q: Any, p: Any, x: Batch) -> Tensor:
        z, contrast = q["value"], _contrast(q["fn"])
        if contrast is None:
            return critic(z, x)
        log_p = log_prob({**p, "scale": 1.0})
        return critic(_standard(z, contrast), x) + contrast.log_prob(z) - log_p

    def draws(self, q: Any, p: Any) -> tuple[Tensor, Tensor]:
        contrast = _contrast(q["fn"])
        if contrast is None:
            return q["value"], p.expand((len(q["value"]),)).sample()
        z = _standard(q["value"], contrast)
        return z, torch.randn_like(z)


def _contrast(q: Any) -> Any:
    """Independent normals with moments of q that are functions of x, held; None without these, or where z is not real."""
    if innermost_support(q.support) is not constraints.real:
        return None
    try:
        with torch.no_grad():
            q = q.at_fixed_noise() if getattr(q, "at_fixed_noise", None) else q
            loc, variance = q.mean.detach(), q.variance.detach()
    except NotImplementedError:
        return None
    return Independent(Normal(loc, variance.sqrt()), len(q.event_shape))


def _standard(z: Tensor, contrast: Any) -> Any:
    return (z - contrast.base_dist.loc) / contrast.base_dist.scale
