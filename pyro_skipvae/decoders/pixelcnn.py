"""A gated PixelCNN z -> p(x|z), with z joined to the input of any of its layers.

Causality is one shift: the vertical stack reads the image one row down, the horizontal stack one pixel to the right. All
layers after that are alike, and the maps made from z are never shifted or masked.
"""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_skipvae.blocks import (
    AttentionBlock,
    LatentDim,
    check_image,
    check_sizes,
    gate,
    latent_shape,
    places,
    places_per_step,
)
from pyro_skipvae.distributions.autoregressive import Autoregressive
from pyro_skipvae.likelihoods import Likelihood, bernoulli
from pyro_skipvae.skip import OUTPUT, Entry, Skip, SkipMaps, skip_entries

BOTTOM = "bottom"


class PixelCNNDecoder(nn.Module):
    """A gated PixelCNN with skips: p(x|z) = prod_i p(x_i | x_<i, z) in raster order, z (..., D) -> batch (...).

    x is (H, W) or (C, H, W); the channels of a pixel are independent given the pixels before it, unless the likelihood joins
    them. `layers` gated layers of `maps` feature maps have a vertical and a horizontal stack. A linear map of z makes an image
    for each entry. It is joined to the image at the bottom and, with skips, to the input of each layer and of the output
    (`skip`: see `pyro_skipvae.skip.skip_entries`).

    latent_dim: D; 0 for the autoregressive baseline without z; (T, C) for a sequence z (..., T, C), whose step t is read by the
    t-th H / T rows of pixels. inputs: a module that x passes before the network reads it, element by element
    (`pyro_skipvae.blocks.Standardise`). attention_layers: blocks of masked self-attention with `heads` heads, after layers at
    equal distances up to the last one; a pixel then reads all pixels before it directly, as in PixelSNAIL. receptive_field: N,
    so that a pixel depends on those before it at most N rows and N columns away and the rest has to come through z; the first
    layers have the kernel, the others kernel 1.

    Differences from the authors' code: z reaches the current pixel in the first layer too (there the mask hides it), and the
    residual of the horizontal stack is the identity, as in van den Oord et al., and not a learned map.

    Raises ValueError for an even kernel, fewer than 1 layer, more attention layers than layers, an unknown skip, rows that the
    steps or maps that the heads do not divide, a receptive field that such layers cannot have, and one with attention.
    Reference: Dieng et al. 2019, section 4.1; van den Oord et al. 2016, figure 2; for sequences Razavi et al. 2019, figure 5;
    for attention Chen, Mishra, Rohaninejad, Abbeel 2018; for small receptive fields Gulrajani et al. 2017 (PixelVAE) and Chen
    et al. 2017 (variational lossy autoencoder).
    """

    def __init__(
        self,
        latent_dim: LatentDim,
        event_shape: Sequence[int],
        *,
        layers: int = 9,
        maps: int = 32,
        kernel: int = 3,
        receptive_field: int | None = None,
        attention_layers: int = 0,
        heads: int = 8,
        skip: Skip = "all",
        likelihood: Likelihood = bernoulli,
        inputs: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_image(event_shape)
        check_sizes(maps=maps, kernel=kernel)
        check_sizes(0, layers=layers, attention_layers=attention_layers)
        if attention_layers > layers:
            raise ValueError(f"expected at most {layers} attention layers, one a layer, got {attention_layers}")
        if kernel % 2 == 0 or layers < 1:
            raise ValueError(f"expected an odd kernel and at least 1 layer, got kernel {kernel} and {layers} layers")
        if receptive_field is not None and attention_layers:
            raise ValueError("expected no attention with a receptive field, got both: attention sees all pixels before")
        kernels = kernels_within(receptive_field, layers, kernel)
        self.event_shape, self.likelihood, self.inputs = tuple(event_shape), likelihood, inputs
        self.observation = likelihood.module
        self.image_shape = (*([1] if len(event_shape) == 2 else []), *event_shape)
        channels, height, width = self.image_shape
        entries = (BOTTOM, *skip_entries(skip, layers)) if latent_dim else ()
        self.latent_shape = latent_shape(latent_dim)
        sequence = len(self.latent_shape) > 1
        self.rows_per_step = places_per_step(height, self.latent_shape[0], "rows") if sequence else None
        pixels = width if sequence else height * width
        self.latent_maps = SkipMaps(self.latent_shape[-1], dict.fromkeys(entries, pixels), bias=True)
        read = [channels + (BOTTOM in entries), *[maps] * (layers - 1)]
        shapes = enumerate(zip(read, kernels, strict=True), 1)
        self.layers = nn.ModuleList(GatedLayer(n, maps, k, l in entries) for l, (n, k) in shapes)
        after = [layers * block // attention_layers for block in range(1, attention_layers + 1)]
        self.attention = nn.ModuleDict({str(l): AttentionBlock(maps, heads, joined=maps) for l in after})
        self.output = nn.Conv2d(maps + (OUTPUT in entries), channels * likelihood.parameters, 1)

    def forward(self, z: Tensor) -> Autoregressive:
        return Autoregressive(self, z, self.event_shape, latent_dims=len(self.latent_shape))

    @property
    def support(self) -> Any:
        nothing = self.output.weight.new_zeros(*self.event_shape, self.likelihood.parameters)
        return self.likelihood(nothing, len(self.event_shape)).support

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """sum_i log p(x_i | x_<i, z) by one pass: x (N, *event_shape), z (N, D) or (N, T, C) -> (N,)."""
        if x.shape[1:] != self.event_shape:
            raise ValueError(f"expected images of {self.event_shape}, got {tuple(x.shape[1:])}")
        return self._distribution(self.natural_parameters(x, z)).log_prob(x)

    def natural_parameters(self, x: Tensor, z: Tensor) -> Tensor:
        """eta (N, C * parameters, H, W) of all conditionals."""
        maps = self._maps(z)
        image = _channels_last(self.seen(x).reshape(-1, *self.image_shape))
        vertical = torch.cat([F.pad(image, (0, 0, 1, -1)), *maps.get(BOTTOM, ())], 1)
        horizontal = torch.cat([F.pad(image, (1, -1)), *maps.get(BOTTOM, ())], 1)
        for l, layer in enumerate(self.layers, 1):
            vertical, horizontal = layer(vertical, horizontal, maps.get(l, ()), top=layer is self.layers[-1])
            if str(l) in self.attention:
                horizontal = self._attended(self.attention[str(l)], horizontal)
        return self.output(torch.cat([horizontal, *maps.get(OUTPUT, ())], 1))

    def generate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Ancestral sampling with cached activations: z (N, D) -> x (N, *event_shape) and its eta, as above.

        Each activation of the network is computed once: the cost is a few teacher-forced passes, not one for each pixel.
        """
        return CachedSampler(self, z).run()

    def seen(self, x: Tensor) -> Tensor:
        """x as the network reads it."""
        return x if self.inputs is None else self.inputs(x)

    def _attended(self, block: AttentionBlock, horizontal: Tensor) -> Tensor:
        """The horizontal stack (N, maps, H, W) after every pixel has read itself and those before it."""
        h = horizontal.flatten(2).transpose(1, 2)  # (N, H * W, maps)
        place = places(0, h.shape[1], h).expand_as(h)
        before = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).tril()
        return block(h, (place,), mask=before)[0].transpose(1, 2).unflatten(2, self.image_shape[1:])

    def _maps(self, z: Tensor) -> dict[Entry, tuple[Tensor]]:
        """The images made from z, (N, 1, H, W), for each entry."""
        _, height, width = self.image_shape
        maps = self.latent_maps(z)
        if self.rows_per_step:
            maps = {entry: u.repeat_interleave(self.rows_per_step, -2).flatten(-2) for entry, u in maps.items()}
        return {entry: (_channels_last(u.unflatten(-1, (1, height, width))),) for entry, u in maps.items()}

    def _distribution(self, eta: Tensor) -> Distribution:
        eta = eta.unflatten(1, (-1, self.likelihood.parameters)).movedim(2, -1)  # (N, C, H, W, parameters)
        return self.likelihood(eta.reshape(-1, *self.event_shape, self.likelihood.parameters), len(self.event_shape))


def kernels_within(receptive_field: int | None, layers: int, kernel: int) -> list[int]:
    """The kernel of each layer: as many have `kernel` as the receptive field allows, from the first on, the others 1.

    The shift of the image reaches 1 pixel, and a layer kernel // 2 further. Raises ValueError for a receptive field that no
    such layers have.
    """
    if receptive_field is None:
        return [kernel] * layers
    check_sizes(receptive_field=receptive_field)
    reach = kernel // 2
    wide, rest = divmod(receptive_field - 1, reach) if reach else (0, receptive_field - 1)
    if rest or wide > layers:
        possible = ", ".join(str(1 + reach * number) for number in range((layers if reach else 0) + 1))
        raise ValueError(
            f"expected a receptive field out of {possible} for {layers} layers of kernel {kernel}, got {receptive_field}"
        )
    return [kernel] * wide + [1] * (layers - wide)


def _channels_last(image: Tensor) -> Tensor:
    """(N, C, H, W) with the channels next to each other in memory, as convolutions on a CPU are fastest.

    torch's own memory format is ambiguous for one channel, and what is joined to one that is not clear is none of it.
    """
    C, W = image.shape[1], image.shape[3]
    return image.permute(0, 2, 3, 1).flatten(2).contiguous().unflatten(2, (W, C)).permute(0, 3, 1, 2)


class GatedLayer(nn.Module):
    """One layer of both stacks; `joined` says whether an image made from z is joined to its inputs.

    vertical:    v' = gate(V * v)                      V (kernel/2 + 1, kernel): this row and those above
    horizontal:  h' = h + 1x1(gate(H * h + 1x1(V * v)))   H (1, kernel/2 + 1): this pixel and those to the left
    """

    def __init__(self, inputs: int, maps: int, kernel: int, joined: int) -> None:
        super().__init__()
        self.reach = kernel // 2
        self.vertical = nn.Conv2d(inputs + joined, 2 * maps, (self.reach + 1, kernel))
        self.horizontal = nn.Conv2d(inputs + joined, 2 * maps, (1, self.reach + 1), bias=False)
        self.down = nn.Conv2d(2 * maps, 2 * maps, 1)
        self.mix = nn.Conv2d(maps, maps, 1)
        self.residual = inputs == maps  # the first layer reads an image, to which nothing can be added

    def forward(
        self, vertical: Tensor, horizontal: Tensor, latent: Sequence[Tensor] = (), *, top: bool = False
    ) -> tuple[Tensor | None, Tensor]:
        """The stacks one layer up; above the `top` layer nobody reads the vertical one: it is None there."""
        reach = self.reach
        v = self.vertical(F.pad(torch.cat([vertical, *latent], 1), (reach, reach, reach, 0)))
        h = self.horizontal(F.pad(torch.cat([horizontal, *latent], 1), (reach, 0)))
        out = self.mix(gate(h + self.down(v)))
        return None if top else gate(v), horizontal + out if self.residual else out


class CachedSampler:
    """Draws an image pixel by pixel, each activation of each layer computed once.

    A row of the vertical stack needs the rows above, a pixel of the horizontal stack the pixels to its left: for each layer
    the last rows and the current row of inputs are kept. `rows[l]` (N, C, reach + 1, W) and `line[l]` (N, W + reach, C).
    """

    def __init__(self, decoder: PixelCNNDecoder, z: Tensor) -> None:
        self.decoder, self.z = decoder, z
        self.maps = {entry: u for entry, (u,) in decoder._maps(z).items()}
        # A horizontal convolution on one pixel is a matrix product with (reach + 1) * C inputs.
        self.weights = [
            (layer.horizontal.weight[:, :, 0].transpose(1, 2).flatten(1).T.contiguous(), layer.mix.weight[:, :, 0, 0].T)
            for layer in decoder.layers
        ]

    def run(self) -> tuple[Tensor, Tensor]:
        decoder, N = self.decoder, len(self.z)
        channels, height, width = decoder.image_shape
        self.image = self.z.new_zeros(N, channels, height, width)
        self.seen = torch.zeros_like(self.image)  # the image as the network reads it
        self.eta = self.z.new_zeros(N, channels * decoder.likelihood.parameters, height, width)
        widths = [layer.vertical.in_channels for layer in decoder.layers]
        self.read: dict[str, list[Tensor]] = {}  # keys and values of the pixels so far, of each attention block
        self.rows = [self.z.new_zeros(N, n, layer.reach + 1, width) for n, layer in zip(widths, decoder.layers, strict=True)]
        for y in range(height):
            biases = self._vertical(y)
            self._horizontal(y, biases)
        return self.image.reshape(N, *decoder.event_shape), self.eta

    def _vertical(self, y: int) -> list[Tensor]:
        """One new row of the vertical stack; what each layer's horizontal stack receives from it (N, W, 2 * maps)."""
        row, received = self.seen[:, :, y - 1] if y else torch.zeros_like(self.seen[:, :, 0]), []
        row = self._join(row, BOTTOM, y)
        for l, layer in enumerate(self.decoder.layers, 1):
            self.rows[l - 1] = torch.cat([self.rows[l - 1][:, :, 1:], self._join(row, l, y)[:, :, None]], 2)
            v = layer.vertical(_channels_last(F.pad(self.rows[l - 1], (layer.reach, layer.reach))))  # (N, 2 * maps, 1, W)
            received.append(F.linear(v[:, :, 0].transpose(1, 2), layer.down.weight[:, :, 0, 0], layer.down.bias))
            row = gate(v)[:, :, 0]
        return received

    def _horizontal(self, y: int, received: list[Tensor]) -> None:
        decoder = self.decoder
        lines = [self._empty_line(l, layer, y) for l, layer in enumerate(decoder.layers, 1)]
        for x in range(decoder.image_shape[2]):
            if x:
                lines[0][:, x + decoder.layers[0].reach, : self.seen.shape[1]] = self.seen[:, :, y, x - 1]
            for l, layer in enumerate(decoder.layers):
                mixing, mix = self.weights[l]
                window = lines[l][:, x : x + layer.reach + 1].flatten(1)
                a, b = torch.addmm(received[l][:, x], window, mixing).chunk(2, 1)
                out = torch.addmm(layer.mix.bias, a.tanh() * b.sigmoid(), mix)  # `gate`, faster on so few numbers
                if layer.residual:
                    out = out + lines[l][:, x + layer.reach, : out.shape[1]]
                if str(l + 1) in decoder.attention:
                    out = self._attended(str(l + 1), out, y * decoder.image_shape[2] + x)
                if l + 1 < len(lines):
                    lines[l + 1][:, x + decoder.layers[l + 1].reach, : out.shape[1]] = out
            self._draw(out, y, x)

    def _attended(self, name: str, features: Tensor, pixel: int) -> Tensor:
        h = features[:, None]
        place = places(pixel, 1, h).expand_as(h)
        h, *self.read[name] = self.decoder.attention[name](h, (place,), before=self.read.get(name, ()))
        return h[:, 0]

    def _draw(self, features: Tensor, y: int, x: int) -> None:
        output = self.decoder.output
        joined = self._join(features[:, :, None], OUTPUT, y, x).flatten(1)
        self.eta[:, :, y, x] = eta = torch.addmm(output.bias, joined, output.weight[:, :, 0, 0].T)
        # An image of one pixel (N, C, 1, 1, parameters): what a likelihood knows of each channel is (C, 1, 1).
        eta = eta.unflatten(1, (-1, self.decoder.likelihood.parameters))[:, :, None, None]
        pixel = self.decoder.likelihood.distribution(eta).sample()
        self.image[:, :, y, x] = pixel[..., 0, 0]
        self.seen[:, :, y, x] = self.decoder.seen(pixel)[..., 0, 0]

    def _join(self, features: Tensor, entry: Entry, y: int, x: int | None = None) -> Tensor:
        """Features (N, C, W), or (N, C, 1) for pixel x, with the map of z for this entry, where there is one."""
        if entry not in self.maps:
            return features
        columns = slice(None) if x is None else slice(x, x + 1)
        return torch.cat([features, self.maps[entry][:, :, y, columns]], 1)

    def _empty_line(self, l: int, layer: GatedLayer, y: int) -> Tensor:
        """The row of inputs of layer l: zeros, but for the maps of z, which are known already."""
        _, _, width = self.decoder.image_shape
        own = layer.horizontal.in_channels - (l in self.maps) - (l == 1 and BOTTOM in self.maps)
        line = self.z.new_zeros(len(self.z), own, width)
        line = self._join(self._join(line, BOTTOM, y) if l == 1 else line, l, y)
        return F.pad(line, (layer.reach, 0)).transpose(1, 2).contiguous()
