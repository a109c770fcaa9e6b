"""The encoder of a delta-VAE for images: a sequence z, one step for each row or each few of them."""

import math
from collections.abc import Callable, Sequence

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_skipvae.blocks import check_image, check_sizes, places_per_step, sequence_shape
from pyro_skipvae.decoders.pixelcnn import GatedLayer
from pyro_skipvae.guides.families import DiagonalNormal

from .directions import readings


class PixelCNNEncoder(nn.Module):
    """A gated PixelCNN for sequences z: x (B, H, W) or (B, C, H, W) -> q(z|x), batch (B,), event `latent_dim` = (T, channels).

    `layers` causal layers of `maps` feature maps read the image; the average over the H / T rows of a step gives its posterior.
    `direction` says what z_t depends on: "anti-causal", its own rows and those below, as far as the layers reach (the image is
    reversed first); "causal", its own rows and those above; "full", both, by a network each way. `posterior` is the family of q
    (`pyro_skipvae.guides`), `inputs` a module that x passes first (`pyro_skipvae.blocks.Standardise`). Raises ValueError where
    T does not divide H, and for another direction.

    The paper also pads a row, for its masks; here rows are shifted, and a column is enough.
    Reference: Razavi, van den Oord, Poole, Vinyals 2019, figure 5.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: tuple[int, int],
        *,
        layers: int = 4,
        maps: int = 32,
        kernel: int = 3,
        direction: str = "anti-causal",
        posterior: Callable[[int, int], nn.Module] = DiagonalNormal,
        inputs: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_image(event_shape)
        check_sizes(layers=layers, maps=maps, kernel=kernel)
        if kernel % 2 == 0:
            raise ValueError(f"expected an odd kernel, got {kernel}")
        self.inputs = inputs
        *channels, height, width = event_shape
        self.image_shape = (math.prod(channels), height, width)
        self.steps, latent_channels = sequence_shape(latent_dim)
        places_per_step(height, self.steps, "rows")
        self.reversed = readings(direction)
        self.networks = nn.ModuleList(CausalRows(self.image_shape[0], layers, maps, kernel) for _ in self.reversed)
        self.posterior = posterior(maps * len(self.networks), latent_channels)

    def forward(self, x: Tensor) -> Distribution:
        image = (x if self.inputs is None else self.inputs(x)).reshape(-1, *self.image_shape)
        each = zip(self.networks, self.reversed, strict=True)
        rows = torch.cat([network(image, reverse=reverse) for network, reverse in each], 1)  # (B, F, H)
        features = rows.unflatten(-1, (self.steps, -1)).mean(-1).transpose(1, 2)  # (B, T, F)
        return self.posterior(features).to_event(1)


class CausalRows(nn.Module):
    """Gated layers over an image (B, C, H, W) -> features of each row, (B, maps, H), of that row and those above it.

    With `reverse`, of that row and those below it.
    """

    def __init__(self, channels: int, layers: int, maps: int, kernel: int) -> None:
        super().__init__()
        sizes = [channels, *[maps] * (layers - 1)]
        self.layers = nn.ModuleList(GatedLayer(size, maps, kernel, False) for size in sizes)

    def forward(self, image: Tensor, *, reverse: bool) -> Tensor:
        image = image.flip(-2, -1) if reverse else image
        # A pixel sees those before it alone: in one column more, and without the first, it sees itself too.
        image = F.pad(image, (0, 1)).contiguous(memory_format=torch.channels_last)
        vertical, horizontal = F.pad(image, (0, 0, 1, -1)), F.pad(image, (1, -1))
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal, top=layer is self.layers[-1])
        rows = horizontal[..., 1:].mean(-1)
        return rows.flip(-1) if reverse else rows
