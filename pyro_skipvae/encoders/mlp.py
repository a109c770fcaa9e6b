"""A multilayer perceptron for items of any shape."""

import math
from collections.abc import Callable, Sequence

from pyro.distributions import Distribution
from torch import Tensor, nn

from pyro_skipvae.blocks import perceptron
from pyro_skipvae.guides.families import DiagonalNormal


class MLPEncoder(nn.Module):
    """A multilayer perceptron: x (B, *event_shape) -> q(z|x) with batch (B,), event (D,).

    `inputs` is what x passes first (`pyro_skipvae.blocks.Standardise`).

    Reference: Dieng et al. 2019, Table 3 (two layers of 512).
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        hidden: Sequence[int] = (512, 512),
        posterior: Callable[[int, int], nn.Module] = DiagonalNormal,
        inputs: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.event_dims = len(event_shape)
        self.inputs = inputs
        self.network = nn.Sequential(*perceptron([math.prod(event_shape), *hidden]), nn.ReLU())
        self.posterior = posterior(hidden[-1], latent_dim)

    def forward(self, x: Tensor) -> Distribution:
        x = x if self.inputs is None else self.inputs(x)
        return self.posterior(self.network(x.flatten(-self.event_dims)))
