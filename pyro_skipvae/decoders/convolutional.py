"""A plain convolutional decoder z -> p(x|z), for colour and larger images, with additive skips."""

import math
from collections.abc import Sequence

from pyro.distributions import Distribution
from torch import Tensor, nn

from pyro_skipvae.blocks import LatentDim, check_image, check_sizes, latent_shape
from pyro_skipvae.likelihoods import Likelihood, bernoulli
from pyro_skipvae.skip import Skip, SkipSequential


class ConvolutionalDecoder(nn.Module):
    """Transposed convolutions that double the size `layers` times: z (..., D) -> p(x|z) over (H, W) or (C, H, W), batch (...).

    Hidden layer 1 maps z to a small image of `maps` feature maps, and layers 2..L and the output are the convolutions, with L =
    `layers`. With skips each of them also receives U_l z, one number per feature map (`skip`: see `skip.skip_entries`). Pixels
    are independent given z. A sequence z (..., T, C), with `latent_dim` (T, C), is read as one vector of T C dimensions.
    Raises ValueError for items that are no images, an unknown skip or latent_dim, and sizes below 1.
    """

    def __init__(
        self,
        latent_dim: LatentDim,
        event_shape: Sequence[int],
        *,
        layers: int = 3,
        maps: int = 64,
        skip: Skip = "all",
        likelihood: Likelihood = bernoulli,
    ) -> None:
        super().__init__()
        check_image(event_shape)
        check_sizes(layers=layers, maps=maps)
        self.event_shape, self.likelihood = tuple(event_shape), likelihood
        self.latent_shape = latent_shape(latent_dim)
        latent_dim = math.prod(self.latent_shape)
        self.observation = likelihood.module
        *channels, height, width = event_shape
        sizes = [(math.ceil(height / 2**k), math.ceil(width / 2**k)) for k in range(layers, -1, -1)]
        outputs = [maps] * (layers - 1) + [math.prod(channels) * likelihood.parameters]
        network = [nn.Unflatten(1, (latent_dim, 1, 1)), nn.ConvTranspose2d(latent_dim, maps, sizes[0]), nn.ReLU()]
        for small, large, channels_out in zip(sizes, sizes[1:], outputs, strict=False):
            network += [_doubling(maps, channels_out, small, large), nn.ReLU()]
        self.network = SkipSequential(nn.Sequential(*network[:-1]), latent_dim, skip=skip)

    def forward(self, z: Tensor) -> Distribution:
        z = z.flatten(-len(self.latent_shape))
        eta = self.network(z.reshape(-1, z.shape[-1]))  # (N, C * parameters, H, W)
        eta = eta.unflatten(1, (-1, self.likelihood.parameters)).movedim(2, -1)
        eta = eta.reshape(*z.shape[:-1], *self.event_shape, self.likelihood.parameters)
        return self.likelihood(eta, len(self.event_shape))


def _doubling(inputs: int, outputs: int, small: tuple[int, int], large: tuple[int, int]) -> nn.ConvTranspose2d:
    """A 4x4 transposed convolution of stride 2 from images of size `small` to `large`, cut by a pixel where odd."""
    padding = [2 - (wanted % 2 == 0) for wanted in large]
    extra = [wanted - (2 * (size - 1) + 4 - 2 * pad) for size, wanted, pad in zip(small, large, padding, strict=True)]
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=padding, output_padding=extra)
