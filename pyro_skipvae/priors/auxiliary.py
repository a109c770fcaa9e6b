"""Auxiliary priors, fitted to the aggregated posterior after training: of a delta-VAE, so that its rate may fall below what its
prior commits, and of codes, whose prior in training is uniform."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from pyro_skipvae.blocks import sequence_shape
from pyro_skipvae.distributions.autoregressive import Autoregressive
from pyro_skipvae.distributions.one_hot import OneHot

SMALLEST_SCALE = 1e-3  # without a floor the density of a channel that stands still has no bound


class AuxiliaryPrior(nn.Module):
    """An autoregressive prior r(z) = prod_t r(z_t | z_<t) over sequences z, fitted after training: batch (), event (T, C).

    An LSTM of `width` units reads z_<t and gives a mixture of `components` diagonal normals for z_t. On data that r was not
    fitted to, E_x E_q[log q(z|x) - log r(z)] = I(x; z) + KL(q(z) || r(z)) is an upper bound on the mutual information, and the
    rate of the model with this prior. Raises ValueError unless latent_dim is (T, C).

    Reference: Razavi, van den Oord, Poole, Vinyals 2019, on the auxiliary prior.
    """

    nothing: Tensor

    def __init__(self, latent_dim: tuple[int, int], *, width: int = 64, components: int = 8) -> None:
        super().__init__()
        self.event_shape = sequence_shape(latent_dim)
        self.network = MixtureLSTM(self.event_shape, width, components)
        self.register_buffer("nothing", torch.zeros(0))

    def forward(self) -> Autoregressive:
        return Autoregressive(self.network, self.nothing, self.event_shape)


class MixtureLSTM(nn.Module):
    """The network that `Autoregressive` reads; it is told nothing but the sequence itself."""

    support = constraints.independent(constraints.real, 2)

    def __init__(self, event_shape: tuple[int, int], width: int, components: int) -> None:
        super().__init__()
        self.length, channels = event_shape
        self.sizes = [components, components * channels, components * channels]
        self.lstm = nn.LSTM(channels, width, batch_first=True)
        self.output = nn.Linear(width, sum(self.sizes))

    def log_prob(self, z: Tensor, told: Tensor) -> Tensor:
        """z (N, T, C) -> (N,) nats."""
        states, _ = self.lstm(F.pad(z[:, :-1], (0, 0, 1, 0)))
        return self._mixture(states).log_prob(z).sum(1)

    def generate(self, told: Tensor) -> tuple[Tensor, None]:
        """A sequence for each row of `told`: (N, T, C); and None."""
        step, memory, steps = told.new_zeros(len(told), 1, self.lstm.input_size), None, []
        for _ in range(self.length):
            states, memory = self.lstm(step, memory)
            step = self._mixture(states).sample()
            steps.append(step)
        return torch.cat(steps, 1), None

    def _mixture(self, states: Tensor) -> dist.Distribution:
        logits, *rest = self.output(states).split(self.sizes, -1)
        loc, scale = (part.unflatten(-1, (self.sizes[0], -1)) for part in rest)
        normals = dist.Normal(loc, F.softplus(scale) + SMALLEST_SCALE).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), normals)


class CodesPrior(nn.Module):
    """An autoregressive prior r(z) = prod_m r(z_m | z_<m) over M one-hot rows of K classes: batch (), event (M, K).

    An LSTM of `width` units reads the rows before. The rest is as in `AuxiliaryPrior`, with `fit_to_draws`.

    Reference: van den Oord, Vinyals, Kavukcuoglu 2017, section 3.3.
    """

    nothing: Tensor

    def __init__(self, latent_dim: tuple[int, int], *, width: int = 64) -> None:
        super().__init__()
        self.event_shape = sequence_shape(latent_dim)
        self.network = CodesLSTM(self.event_shape, width)
        self.register_buffer("nothing", torch.zeros(0))

    def forward(self) -> Autoregressive:
        return Autoregressive(self.network, self.nothing, self.event_shape)


class CodesLSTM(nn.Module):
    """The network that `Autoregressive` reads, for one-hot rows."""

    support = constraints.independent(constraints.simplex, 1)

    def __init__(self, event_shape: tuple[int, int], width: int) -> None:
        super().__init__()
        self.length, classes = event_shape
        self.lstm = nn.LSTM(classes, width, batch_first=True)
        self.output = nn.Linear(width, classes)

    def log_prob(self, z: Tensor, told: Tensor) -> Tensor:
        """z (N, M, K) -> (N,) nats."""
        states, _ = self.lstm(F.pad(z[:, :-1], (0, 0, 1, 0)))
        return OneHot(self.output(states)).log_prob(z).sum(1)

    def generate(self, told: Tensor) -> tuple[Tensor, None]:
        """Rows for each row of `told`: (N, M, K); and None."""
        row, memory, rows = told.new_zeros(len(told), 1, self.lstm.input_size), None, []
        for _ in range(self.length):
            states, memory = self.lstm(row, memory)
            row = OneHot(self.output(states)).sample()
            rows.append(row)
        return torch.cat(rows, 1), None


def fit_auxiliary(
    prior: AuxiliaryPrior, loc: Tensor, scale: Tensor, *, steps: int = 500, batch_size: int = 128, lr: float = 3e-3
) -> float:
    """Fits an auxiliary prior by maximum likelihood (Adam) to posteriors N(loc, scale^2), loc and scale (N, T, C).

        max_r E_x E_q(z|x)[log r(z)]

    Each step draws `batch_size` rows and their z from torch's generator. Returns the last loss, -mean log r(z) in nats. Raises
    ValueError for posteriors of another shape.
    """
    if loc.shape[1:] != prior.event_shape or scale.shape != loc.shape:
        got = f"loc {tuple(loc.shape)} and scale {tuple(scale.shape)}"
        raise ValueError(f"expected posteriors over {tuple(prior.event_shape)}, loc and scale of each, got {got}")


    def draw() -> Tensor:
        rows = torch.randint(len(loc), (batch_size,), device=loc.device)
        return torch.normal(loc[rows], scale[rows])

    return fit_to_draws(prior, draw, steps=steps, lr=lr)


def fit_to_draws(prior: nn.Module, draw: Callable[[], Tensor], *, steps: int = 500, lr: float = 3e-3) -> float:
    """Fits an auxiliary prior by maximum likelihood (Adam) to z (n, *event) that `draw()` gives anew in each step.

    `draw` runs without a gradient: what z comes from stays as it is. Returns the last loss, -mean log r(z) in nats.
    """
    optimizer, loss = Adam(prior.parameters(), lr=lr), torch.zeros(())
    for _ in range(steps):
        with torch.no_grad():
            z = draw()
        loss = -prior().log_prob(z).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(prior.parameters(), 5.0)
        optimizer.step()
    return loss.item()
