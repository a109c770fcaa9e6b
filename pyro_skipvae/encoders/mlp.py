"""A multilayer perceptron for items of any shape."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from pyro.distributions import Distribution
from torch import Tensor, nn

from pyro_skipvae.blocks import LatentDim, check_event, check_sizes, perceptron
from pyro_skipvae.guides.families import DiagonalNormal


class MLPEncoder(nn.Module):
    """A multilayer perceptron with relu: x (B, *event_shape) -> q(z|x), batch (B,), event (D,) or `latent_dim` (T, C).

    hidden: the widths of the hidden layers; posterior: the family of q (`pyro_skipvae.guides`); inputs: a module that x passes
    first (`pyro_skipvae.blocks.Standardise`). Raises ValueError for no hidden layer, or a width below 1.

    Reference: Dieng et al. 2019, Table 3 (two layers of 512).
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: LatentDim,
        *,
        hidden: Sequence[int] = (512, 512),
        posterior: Callable[[int, Any], nn.Module] = DiagonalNormal,
        inputs: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("expected the width of at least one hidden layer, got hidden=()")
        check_sizes(**{f"hidden layer {l}": width for l, width in enumerate(hidden, 1)})
        if not event_shape:
            raise ValueError("expected items of at least one dimension, got event_shape=()")
        check_event(event_shape)
        self.event_dims = len(event_shape)
        self.inputs = inputs
        self.network = nn.Sequential(*perceptron([math.prod(event_shape), *hidden]), nn.ReLU())
        self.posterior = posterior(hidden[-1], latent_dim)

    def forward(self, x: Tensor) -> Distribution:
        x = x if self.inputs is None else self.inputs(x)
        return self.posterior(self.network(x.flatten(-self.event_dims)))
