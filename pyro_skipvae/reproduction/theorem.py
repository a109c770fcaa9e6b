"""Theorem 1 of Dieng et al. 2019 put to the test: a counter-example in closed form, random networks, trained models.

The theorem says that I_p(x; z), the mutual information under p(z) p(x|z), of a decoder with skips is at least that of the
same decoder with the skips taken out. Here x = eta(z) + noise throughout, with z standard normal and noise N(0, NOISE^2 I).
`docs/theorem1.md` tells it in words. Nats per datapoint.
"""

import math
from dataclasses import dataclass

import torch
from pyro.distributions import Normal
from torch import Tensor, nn

from pyro_skipvae.skip import SkipSequential

NOISE = 0.5
LATENT_DIM, WIDTH, OUTPUTS = 2, 16, 8  # of the random networks
REACH = 4.5  # the grid over z spans [-REACH, REACH]; 1.4e-5 of the prior lies outside
ACTIVATIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}


def counter_example(c: float, *, weight: float = 2.0) -> float:
    """I(x; z) of x = (weight + c) z + noise with z in R^2, in closed form.

        I = ln(1 + (weight + c)^2 / NOISE^2)

    c is the weight of the skip, and c = 0 the model without it: any c between -2 weight and 0 has less information.
    """
    return LATENT_DIM / 2 * math.log1p((weight + c) ** 2 / NOISE**2)


class CounterExampleDecoder(nn.Module):
    """p(x|z) = N((weight + c) z, NOISE^2 I) as a relu network with a skip: z (..., 2) -> batch (...), event (2,).

        h = relu((z, -z)),  eta = W_h h + W_z z,  W_h = weight (I, -I),  W_z = c I

    It has all that the theorem asks for (W_h and W_z are not zero), and relu(z) - relu(-z) = z makes it linear.
    """

    def __init__(self, c: float, *, weight: float = 2.0):
        super().__init__()
        plain = [
            nn.Linear(LATENT_DIM, 2 * LATENT_DIM, bias=False),
            nn.ReLU(),
            nn.Linear(2 * LATENT_DIM, LATENT_DIM, bias=False),
        ]
        self.network = SkipSequential(nn.Sequential(*plain), LATENT_DIM, skip="last")
        both, one = torch.cat([torch.eye(LATENT_DIM), -torch.eye(LATENT_DIM)]), torch.eye(LATENT_DIM)
        with torch.no_grad():
            plain[0].weight.copy_(both)
            plain[2].weight.copy_(weight * both.T)
            self.network.skips.stacked.weight.copy_(c * one)

    def forward(self, z):
        return Normal(self.network(z), NOISE).to_event(1)


@dataclass(frozen=True)
class RandomNetworks:
    """I_p of n random networks, each without and with its skips, by the same draws of z and noise; nats, tensors (n,).

    `rescaled` is the plain network with its outputs multiplied until their variance is that of the skip network: what a
    larger last layer alone would give. `errors` are the standard errors of skip - plain within each network.
    """

    plain: Tensor
    skip: Tensor
    rescaled: Tensor
    errors: Tensor

    @property
    def difference(self) -> Tensor:
        return self.skip - self.plain

    @property
    def violating(self) -> float:
        """The share of networks in which the skips lower the information."""
        return (self.difference < 0).double().mean().item()

    @property
    def surely_violating(self) -> float:
        """The share of networks in which they lower it by more than three standard errors."""
        return (self.difference < -3 * self.errors).double().mean().item()


def random_networks(
    activation: str, *, layers: int, gain: float, skip_gain: float, networks: int = 40, samples: int = 400, seed: int = 0
) -> RandomNetworks:
    """I_p of random networks without skips and of the same weights with skips, z in R^2, 8 outputs, `layers` of 16 units.

        h_1 = f(W_0 z),  h_(l+1) = f(W_l h_l + U_l z),  eta = W_L h_L + U_L z,  W ~ N(0, gain^2 / fan-in), U likewise

    No biases. `samples` draws of (z, x) a network, p(x) by quadrature over z; the mean over 40 networks takes seconds.
    Raises ValueError for an activation that is not there.
    Reference: Dieng et al. 2019, section 3, h^(1) and equation of g_W; theorem 1.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"expected an activation among {', '.join(ACTIVATIONS)}, got {activation!r}")
    generator, rows = torch.Generator().manual_seed(seed), []
    grid = prior_grid()
    for _ in range(networks):
        plain, skip = _pair(activation, layers, gain, skip_gain, generator)
        scale = (_variance(skip, *grid) / _variance(plain, *grid)).sqrt()
        z, noise = (_normal(generator, samples, size) for size in (LATENT_DIM, OUTPUTS))
        arms = (plain, skip, lambda z, plain=plain, scale=scale: scale * plain(z))
        pointwise = torch.stack([pointwise_information(arm, z, noise, grid) for arm in arms])
        error = (pointwise[1] - pointwise[0]).std() / samples**0.5
        rows.append(torch.cat([pointwise.mean(1), error[None]]))
    means, skips, rescaled, errors = torch.stack(rows).unbind(1)
    return RandomNetworks(means, skips, rescaled, errors)


def prior_grid(points: int = 64) -> tuple[Tensor, Tensor]:
    """The nodes z (points^2, 2) of the trapezoidal rule on a square, and the logarithms of p(z) times their weights."""
    axis = torch.linspace(-REACH, REACH, points, dtype=torch.float64)  # what skips add may be 1e6 times what a plain net says
    z = torch.cartesian_prod(axis, axis)
    return z, (-z.square().sum(1) / 2).log_softmax(0)


def pointwise_information(network, z: Tensor, noise: Tensor, grid: tuple[Tensor, Tensor]) -> Tensor:
    """log p(x|z) - log p(x) at x = network(z) + NOISE noise, whose mean over draws is I(x; z); (samples,).

        p(x) = sum_g w_g N(x; network(z_g), NOISE^2 I)

    The rule is exact for smooth networks as long as p(z|x) is wider than the mesh of the grid (0.14 at 64 points a side);
    kinks of relu and narrow p(z|x) leave errors of at most some 1e-3 nats in a mean.
    z (samples, 2) and noise (samples, outputs) are standard normal; takes samples x points^2 numbers of memory.
    """
    nodes, log_weights = grid
    means, signal = network(nodes) / NOISE, network(z) / NOISE
    centre = log_weights.exp() @ means  # it says nothing of z, and may be all that rounding sees
    x, means = signal - centre + noise, means - centre
    log_terms = torch.addmm(log_weights - means.square().sum(1) / 2, x, means.T)
    return (x.square() - noise.square()).sum(1) / 2 - log_terms.logsumexp(1)


def _pair(activation, layers, gain, skip_gain, generator):
    """Two functions of z with the same W: without skips and with them."""
    sizes = [LATENT_DIM, *[WIDTH] * layers, OUTPUTS]
    maps = [gain / i**0.5 * _normal(generator, o, i) for i, o in zip(sizes, sizes[1:], strict=False)]
    skips = [skip_gain / LATENT_DIM**0.5 * _normal(generator, o, LATENT_DIM) for o in sizes[2:]]
    nonlinear = ACTIVATIONS[activation]

    def plain(z):
        h = z @ maps[0].T
        for weight in maps[1:]:
            h = nonlinear(h) @ weight.T
        return h

    def skip(z):
        h = z @ maps[0].T
        for weight, u in zip(maps[1:], skips, strict=True):
            h = nonlinear(h) @ weight.T + z @ u.T
        return h

    return plain, skip


def _normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _variance(network, nodes, log_weights):
    """The variance of all outputs together, under p(z)."""
    outputs, weights = network(nodes), log_weights.exp()[:, None]
    return (weights * (outputs - (weights * outputs).sum(0)).square()).sum()
