"""Blocks that encoders and decoders share."""

import math
import numbers
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

LatentDim = int | Sequence[int]
TRACED: ContextVar[bool] = ContextVar("traced", default=False)  # whether a graph is being made of what runs, to be compiled


def can_look(x: Tensor, *, training: bool = True) -> bool:
    """Whether a number may be made of x to save work.

    A CPU has it at hand; a step on another device would wait for it, and a graph that is compiled has no values.
    """
    if TRACED.get() or torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" or not training


def check_sizes(least: int = 1, **sizes: int) -> None:
    """Raises ValueError, with its name, for a size that is not a whole number of at least `least`."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < least:
            raise ValueError(f"expected {name} to be a whole number of at least {least}, got {size!r}")


def check_shares(**shares: float) -> None:
    """Raises ValueError, with its name, for a share that is not from 0 to 1."""
    for name, share in shares.items():
        if not isinstance(share, numbers.Real) or not 0 <= share <= 1:
            raise ValueError(f"expected {name} to be a number from 0 to 1, got {share!r}")


def check_event(event_shape: Sequence[int]) -> None:
    """Raises ValueError for items of a shape with a size below 1."""
    check_sizes(**{f"event_shape[{place}]": size for place, size in enumerate(event_shape)})


def with_weights(module: nn.Module) -> dict[str, nn.Module]:
    """The submodules that hold weights themselves, by name; the module itself where it has no others."""
    found = {name or type(module).__name__: part for name, part in module.named_modules()}
    return {name: part for name, part in found.items() if next(part.parameters(recurse=False), None) is not None}


def check_image(event_shape: Sequence[int]) -> None:
    """Raises ValueError unless items of this shape are images, (H, W) or (C, H, W)."""
    if len(event_shape) not in (2, 3):
        raise ValueError(f"expected images (H, W) or (C, H, W), got items of shape {tuple(event_shape)}")
    check_event(event_shape)


def latent_shape(latent_dim: int | Sequence[int]) -> tuple[int, ...]:
    """The event shape of z: (D,) of a number of dimensions, (T, C) of a sequence of T steps of C channels.

    Raises ValueError for anything else.
    """
    shape = tuple(latent_dim) if isinstance(latent_dim, tuple | list | torch.Size) else (latent_dim,)
    if len(shape) not in (1, 2) or any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in shape):
        raise ValueError(f"expected latent_dim to be a number of dimensions, or (steps, channels), got {latent_dim!r}")
    return shape


def sequence_shape(latent_dim: Sequence[int]) -> tuple[int, int]:
    """(steps, channels) of a sequence z. Raises ValueError for one vector."""
    shape = latent_shape(latent_dim)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"expected latent_dim as (steps, channels), got {latent_dim!r}")
    return shape


def places_per_step(places: int, steps: int, what: str, *, last_shorter: bool = False) -> int:
    """How many places, rows of an image or words of a text, each of `steps` latent vectors stands for.

    Raises ValueError, with possible numbers of steps, where it is not the same for all (with `last_shorter`, for all but the
    last).
    """
    each = -(-places // max(steps, 1))
    if steps < 1 or (-(-places // each) != steps if last_shorter else each * steps != places):
        sizes = range(1, places // 2 + 1)
        possible = sorted({-(-places // k) for k in sizes if last_shorter or places % k == 0})
        nearest = sorted(sorted(possible, key=lambda count: abs(count - steps))[:3])
        raise ValueError(
            f"expected a number of steps among which {places} {what} can be divided evenly, got {steps}; possible are "
            f"{_listed(nearest)}"
        )
    return each


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + " and " * (len(numbers) > 1) + str(numbers[-1])


class Standardise(nn.Module):
    """x in the units of its data: (x - loc) / scale, or with `log` (log(1 + x) - loc) / scale.

    loc, scale: statistics of the training data (`Standardise.of`) that broadcast to x (..., *event_shape), kept as buffers, and
    so stored with the model. Encoders, and decoders that read x, take a `Standardise` as `inputs`.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, *, log: bool = False) -> None:
        super().__init__()
        self.log = log
        self.register_buffer("loc", torch.as_tensor(loc))
        self.register_buffer("scale", torch.as_tensor(scale))

    @classmethod
    def of(cls, x: Tensor, *, log: bool = False) -> "Standardise":
        """With the statistics of training data x (N, *event_shape) (`mean_and_scale`)."""
        return cls(*mean_and_scale(x.log1p() if log else x), log=log)

    def forward(self, x: Tensor) -> Tensor:
        return ((x.log1p() if self.log else x) - self.loc) / self.scale

    def inverse(self, y: Tensor) -> Tensor:
        """The x that becomes y."""
        x = self.loc + self.scale * y
        return x.expm1() if self.log else x


def mean_and_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x (N, *event_shape): of each feature of vectors, of each channel of images.

    Images have two dimensions or more, and get the shape (..., 1, 1): a pixel that is nearly constant would be blown up by a
    scale of its own. What does not vary has scale 1. Raises ValueError for standard deviations outside of 1e-15 to 1e15, whose
    square float32 cannot hold.
    """
    pooled = (0, -2, -1) if x.dim() > 2 else (0,)
    parts = x.split(1024)  # in float64, since a mean may be thousands of times the deviation
    count = x.numel() // x.sum(pooled, keepdim=True).numel()
    loc = sum(part.double().sum(pooled, keepdim=True) for part in parts) / count
    variance = sum((part.double() - loc).square().sum(pooled, keepdim=True) for part in parts) / count
    constant = x.amax(pooled, keepdim=True) == x.amin(pooled, keepdim=True)
    scale = torch.where(constant, 1.0, variance.sqrt())
    for extreme in scale[~((scale > 1e-15) & (scale < 1e15))][:1].tolist():
        raise ValueError(f"expected standard deviations of 1e-15 to 1e15, got {extreme:.0e}: change the unit of the values")
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return loc[0].to(dtype), scale[0].to(dtype)


def perceptron(sizes: Sequence[int]) -> list[nn.Module]:
    """Linear layers between consecutive sizes with relu between them: a list of modules for an `nn.Sequential`."""
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]


def in_full(values: Tensor) -> Tensor:
    """What a network gives to a distribution: in float32 where torch's autocast has made it shorter, else as it is."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def gate(features: Tensor) -> Tensor:
    """tanh(a) * sigmoid(b) of the two halves of `features` along dimension 1 (van den Oord et al. 2016, equation 2)."""
    if TRACED.get() or torch.compiler.is_compiling():  # the compiler fuses the plain form by itself
        return _gate(features)
    return _Gate.apply(features)


def _gate(features: Tensor) -> Tensor:
    a, b = features.chunk(2, 1)
    # 2 sigmoid(2a) - 1 is tanh(a); on a CPU torch's sigmoid takes a fifth of the time of its tanh.
    return (2 * torch.sigmoid(2 * a) - 1) * torch.sigmoid(b)


class _Gate(Function):
    """The gate with few passes over memory: a third of the time of a PixelCNN's step on a CPU goes into its plain form."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        halves = features.clone()
        t, s = halves.chunk(2, 1)
        t.mul_(2)
        halves.sigmoid_()
        t.mul_(2).sub_(1)
        ctx.save_for_backward(features, halves)
        return t * s

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        features, halves = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates twice: in terms of the input, which has a history
            return torch.autograd.grad(_gate(features), features, grad, create_graph=True)[0]
        t, s = halves.chunk(2, 1)
        out = torch.empty_like(halves)
        a, b = out.chunk(2, 1)
        through = grad * s
        torch.addcmul(through, through * t, t, value=-1, out=a)  # grad s (1 - t^2)
        through.mul_(t)
        torch.addcmul(through, through, s, value=-1, out=b)  # grad t s (1 - s)
        return out


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, then a 2x2 convolution of stride 2: (B, C, H, W) -> (B, maps, H/2, W/2)."""

    def __init__(self, channels: int, maps: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, maps, 3, padding=1)
        self.second = nn.Conv2d(maps, maps, 3, padding=1)
        self.shortcut = nn.Identity() if channels == maps else nn.Conv2d(channels, maps, 1)
        self.down = nn.Conv2d(maps, maps, 2, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        residual = self.second(F.relu(self.first(image)))
        return self.down(F.relu(self.shortcut(image) + residual))


class AttentionBlock(nn.Module):
    """A Transformer block with normalisation first; `joined` numbers of a latent join the input of its attention.

        h' = h + W attention(Q u, K u, V u),  u = (norm(h), z)        h'' = h' + W_2 gelu(W_1 norm(h'))

    Reference: Vaswani et al. 2017; Xiong et al. 2020 (normalisation first).
    """

    def __init__(self, width: int, heads: int, *, joined: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        check_sizes(width=width, heads=heads)
        check_shares(dropout=dropout)
        if width % heads:
            raise ValueError(f"expected a width that the number of heads divides, got width {width} and {heads} heads")
        self.heads = heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width + joined, 3 * width)
        self.mix = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, h: Tensor, latent: Sequence[Tensor] = (), *, before: Sequence[Tensor] = (), mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """h (N, T, width) -> h'' and the keys and values (N, heads, S, d) of all places so far.

        `before` are the keys and values of the places that were read already. `mask` (..., T, S) is True where a place is seen.
        """
        u = torch.cat([self.first_norm(h), *latent], -1)
        query, key, value = self.query_key_value(u).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if before:
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        h = h + self.dropout(self.mix(seen.transpose(1, 2).flatten(2)))
        return h + self.dropout(self.narrow(F.gelu(self.widen(self.second_norm(h))))), key, value


def places(start: int, length: int, like: Tensor) -> Tensor:
    """Sines and cosines of the places start..start + length - 1: (length, width), with the width, dtype and device of `like`.

    Reference: Vaswani et al. 2017, section 3.5.
    """
    width = like.shape[-1]
    place = torch.arange(start, start + length, device=like.device, dtype=like.dtype)
    frequency = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=like.dtype) * (-math.log(10_000.0) / width))
    angle = place[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width]
