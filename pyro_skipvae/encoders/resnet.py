"""The residual network of the paper, for images."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from pyro.distributions import Distribution
from torch import Tensor, nn

from pyro_skipvae.blocks import LatentDim, ResidualBlock, check_image, check_sizes
from pyro_skipvae.guides.families import DiagonalNormal


class ResNetEncoder(nn.Module):
    """A residual network: x (B, H, W) or (B, C, H, W) -> q(z|x), batch (B,), event (D,) or `latent_dim` (T, C).

    `layers` residual blocks of `maps` feature maps each halve height and width. The authors' code has batch normalisation in
    each block; here there is none, so that a posterior depends on its own datapoint alone. posterior: the family of q
    (`pyro_skipvae.guides`); inputs: a module that x passes first (`pyro_skipvae.blocks.Standardise`). Raises ValueError for
    images of fewer than 2^layers pixels a side.

    Reference: Dieng et al. 2019, section 4.1 (3 layers, 3x3, 64 maps).
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: LatentDim,
        *,
        layers: int = 3,
        maps: int = 64,
        posterior: Callable[[int, Any], nn.Module] = DiagonalNormal,
        inputs: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_image(event_shape)
        check_sizes(0, layers=layers)
        check_sizes(maps=maps)
        *channels, height, width = event_shape
        if min(height, width) < 2**layers:
            raise ValueError(f"expected an image of at least {2**layers} pixels a side, got {height}x{width}")
        self.inputs = inputs
        self.image_shape = (math.prod(channels), height, width)
        self.blocks = nn.Sequential(*(ResidualBlock(maps if l else self.image_shape[0], maps) for l in range(layers)))
        self.posterior = posterior(maps * (height // 2**layers) * (width // 2**layers), latent_dim)

    def forward(self, x: Tensor) -> Distribution:
        x = x if self.inputs is None else self.inputs(x)
        return self.posterior(self.blocks(x.reshape(-1, *self.image_shape)).flatten(1))
