"""Any decoder network takes skips, or is refused by the name of the layer: networks in the form of public VAE decoders.

`TAKEN` says for each what its layers give: the entries, the features of each, and the axis on which they lie.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from pyro_skipvae.skip import SkipSequential, parameter_count

D = 4


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, channels, 1))

    def forward(self, h):
        return h + self.body(h)


class UpBlock(nn.Module):
    """A ResNet decoder's: the shortcut, registered last, is not what gives the size."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.convolution, self.shortcut = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(inputs, outputs, 1)

    def forward(self, h):
        h = nn.functional.interpolate(h, scale_factor=2)
        return self.shortcut(h) + torch.relu(self.convolution(h))


class Gated(nn.Module):
    def __init__(self, layer, axis):
        super().__init__()
        self.layer, self.axis = layer, axis

    def forward(self, h):
        return nn.functional.glu(self.layer(h), self.axis)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, convolution=None):
        super().__init__()
        self.convolution = convolution or nn.Identity()
        self.squeeze = nn.Sequential(nn.Linear(channels, 2), nn.ReLU(), nn.Linear(2, channels), nn.Sigmoid())

    def forward(self, h):
        h = self.convolution(h)
        return h * self.squeeze(h.flatten(2).mean(2)).reshape(*h.shape[:2], *[1] * (h.dim() - 2))


class ConvNeXt(nn.Module):
    """A depthwise convolution, then linear maps of features that are last for a while."""

    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm, self.one, self.two = nn.LayerNorm(channels), nn.Linear(channels, 8), nn.Linear(8, channels)

    def forward(self, h):
        inner = self.norm(self.depthwise(h).movedim(1, -1))
        return h + self.two(torch.relu(self.one(inner))).movedim(-1, 1)


class ConvolutionalFeedForward(nn.Module):
    """Features last, with convolutions over time inside, and a linear map at the end."""

    def __init__(self, width):
        super().__init__()
        self.output, self.convolution = nn.Linear(6, width), nn.Conv1d(width, 6, 3, padding=1)

    def forward(self, h):
        return h + self.output(self.convolution(h.movedim(-1, 1)).movedim(1, -1))


class EqualLinear(nn.Module):
    """StyleGAN's, with weights of its own and none of torch's layers."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, h):
        return h @ (self.weight / self.weight.shape[1] ** 0.5).T + self.bias


class EqualConvolution(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))

    def forward(self, h):
        return nn.functional.conv2d(h, 0.3 * self.weight, padding=1)


class Noise(nn.Module):
    """StyleGAN's noise, in every pass: no layer."""

    def __init__(self, channels):
        super().__init__()
        self.strength = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, h):
        return h + self.strength * torch.randn_like(h)


class Positions(nn.Module):
    """A matrix that is added, not multiplied: no layer."""

    def __init__(self, *shape):
        super().__init__()
        self.table = nn.Parameter(torch.randn(*shape))

    def forward(self, h):
        return h + self.table


class Reshape(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, h):
        return h.reshape(len(h), *self.shape)


class Project(nn.Module):
    """A linear map and the reshape to an image, or a sequence, in one."""

    def __init__(self, *shape):
        super().__init__()
        self.shape, self.linear = shape, nn.Linear(D, torch.Size(shape).numel())

    def forward(self, z):
        return self.linear(z).reshape(-1, *self.shape)


class WithOwnForward(nn.Sequential):
    def forward(self, h):
        return super().forward(h) + h


class States(nn.Module):
    """A recurrent layer as it can take skips: its states alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, h):
        return self.layer(h)[0]


class SelfAttention(nn.Module):
    """SAGAN's."""

    def __init__(self, channels):
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(channels, size, 1) for size in (2, 2, channels))

    def forward(self, h):
        query, key, value = (part(h).flatten(2) for part in (self.query, self.key, self.value))
        return h + (value @ (query.transpose(1, 2) @ key).softmax(-1).transpose(1, 2)).reshape_as(h)


class SubPixel(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.convolution, self.shuffle = nn.Conv2d(inputs, 4 * outputs, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, h):
        return self.shuffle(self.convolution(h))


class UNet(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 2, stride=2), nn.ConvTranspose2d(4, channels, 2, stride=2)
        self.join = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, h):
        return self.join(torch.cat([h, self.up(torch.relu(self.down(h)))], 1))


class TwoHeads(nn.Module):
    def __init__(self, width, pack=tuple):
        super().__init__()
        self.loc, self.scale, self.pack = nn.Linear(width, 3), nn.Linear(width, 3), pack

    def forward(self, h):
        return self.pack([self.loc(h), self.scale(h).exp()])


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Mapped(Function):
    """A linear map and what a function makes of it."""

    def __init__(self, width, function):
        super().__init__(function)
        self.linear = nn.Linear(width, 3)

    def forward(self, h):
        return self.function(self.linear(h))


def image(channels=8, side=2):
    """The bottom of an image decoder."""
    return nn.Linear(D, channels * side * side), nn.ReLU(), nn.Unflatten(1, (channels, side, side))


def sequence(length=5, width=6):
    return nn.Linear(D, length * width), nn.Unflatten(1, (length, width))


def doubling(inputs, outputs):
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)


def shared():
    layer = nn.Linear(6, 6)
    return nn.Linear(D, 6), nn.Tanh(), layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(6, 9)


FIRST, LAST = 1, -1
# name: (children, [(features, axis) of each layer from the bottom, the output's last])
TAKEN = {
    "MLP": (lambda: (nn.Linear(D, 6), nn.ReLU(), nn.Linear(6, 9)), [(6, LAST), (9, LAST)]),
    "one layer": (lambda: (nn.Linear(D, 9),), [(9, LAST)]),
    "MLP with BatchNorm and Dropout": (
        lambda: (nn.Linear(D, 6), nn.BatchNorm1d(6), nn.LeakyReLU(0.1), nn.Dropout(0.5), nn.Linear(6, 9)),
        [(6, LAST), (9, LAST)],
    ),
    "MLP with LayerNorm": (lambda: (nn.Linear(D, 6), nn.LayerNorm(6), nn.PReLU(6), nn.Linear(6, 9)), [(6, LAST), (9, LAST)]),
    "BatchNorm without statistics": (
        lambda: (nn.Linear(D, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 9)),
        [(6, LAST), (9, LAST)],
    ),
    "activations in place, the first too": (
        lambda: (nn.ReLU(inplace=True), nn.Linear(D, 6), nn.ReLU(inplace=True), nn.Linear(6, 9), nn.Sigmoid()),
        [(6, LAST), (9, LAST)],
    ),
    "lazy linear maps": (lambda: (nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(9)), [(6, LAST), (9, LAST)]),
    "lazy convolutions": (
        lambda: (*image(), nn.LazyBatchNorm2d(), nn.LazyConv2d(3, 1)),
        [(32, LAST), (3, FIRST)],
    ),
    "weight norm": (
        lambda: (weight_norm(nn.Linear(D, 6)), nn.ReLU(), weight_norm(nn.Linear(6, 9))),
        [(6, LAST), (9, LAST)],
    ),
    "spectral norm": (
        lambda: (spectral_norm(nn.Linear(D, 6)), nn.ReLU(), spectral_norm(nn.Linear(6, 9))),
        [(6, LAST), (9, LAST)],
    ),
    "gated linear units": (
        lambda: (Gated(nn.Linear(D, 12), -1), Gated(nn.Linear(6, 12), -1), nn.Linear(6, 9)),
        [(6, LAST), (6, LAST), (9, LAST)],
    ),
    "a layer used twice": (shared, [(6, LAST), (6, LAST), (6, LAST), (9, LAST)]),
    "a Sequential with a forward of its own": (
        lambda: (nn.Linear(D, 6), WithOwnForward(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 9)),
        [(6, LAST), (6, LAST), (9, LAST)],
    ),
    "StyleGAN's mapping": (
        lambda: (EqualLinear(D, 6), nn.LeakyReLU(0.2), EqualLinear(6, 7), nn.LeakyReLU(0.2), EqualLinear(7, 9)),
        [(6, LAST), (7, LAST), (9, LAST)],
    ),
    "StyleGAN's synthesis": (
        lambda: (
            *image(),
            EqualConvolution(8, 6),
            Noise(6),
            nn.InstanceNorm2d(6),
            nn.Upsample(scale_factor=2),
            EqualConvolution(6, 3),
        ),
        [(32, LAST), (6, FIRST), (3, FIRST)],
    ),
    "no parameters between": (
        lambda: (nn.Linear(D, 6), Function(torch.sin), nn.Linear(6, 8), Reshape(2, 4), nn.Linear(4, 3)),
        [(6, LAST), (8, LAST), (3, LAST)],
    ),
    "DCGAN": (
        lambda: (
            nn.Unflatten(1, (D, 1, 1)),
            nn.ConvTranspose2d(D, 8, 4, 1, 0, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(True),
            nn.ConvTranspose2d(8, 6, 4, 2, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(True),
            nn.ConvTranspose2d(6, 3, 4, 2, 1),
        ),
        [(8, FIRST), (6, FIRST), (3, FIRST)],
    ),
    "linear, then transposed convolutions": (
        lambda: (*image(), doubling(8, 6), nn.ReLU(), doubling(6, 3), nn.Sigmoid()),
        [(32, LAST), (6, FIRST), (3, FIRST)],
    ),
    "upsampling and convolutions": (
        lambda: (*image(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 6, 3, padding=1), nn.ELU(), nn.Conv2d(6, 3, 1)),
        [(32, LAST), (6, FIRST), (3, FIRST)],
    ),
    "PixelShuffle beside the convolution": (
        lambda: (*image(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(3, 3, 1)),
        [(32, LAST), (12, FIRST), (3, FIRST)],
    ),
    "PixelShuffle in the layer": (
        lambda: (*image(), Gated(nn.Conv2d(8, 24, 3, padding=1), 1), Residual(12), SubPixel(12, 3)),
        [(32, LAST), (12, FIRST), (12, FIRST), (3, FIRST)],
    ),
    "residual blocks": (
        lambda: (*image(), Residual(8), nn.ReLU(), Residual(8), nn.Conv2d(8, 3, 1)),
        [(32, LAST), (8, FIRST), (8, FIRST), (3, FIRST)],
    ),
    "ResNet decoder": (
        lambda: (*image(), UpBlock(8, 6), nn.GroupNorm(2, 6), nn.SiLU(), UpBlock(6, 5), nn.Conv2d(5, 3, 1)),
        [(32, LAST), (6, FIRST), (5, FIRST), (3, FIRST)],
    ),
    "gated convolutions": (
        lambda: (*image(), Gated(nn.Conv2d(8, 12, 3, padding=1), 1), Gated(doubling(6, 10), 1), nn.Conv2d(5, 3, 1)),
        [(32, LAST), (6, FIRST), (5, FIRST), (3, FIRST)],
    ),
    "squeeze-excitation after the convolution": (
        lambda: (*image(), SqueezeExcitation(6, nn.Conv2d(8, 6, 3, padding=1)), nn.Conv2d(6, 3, 1)),
        [(32, LAST), (6, FIRST), (3, FIRST)],
    ),
    "squeeze-excitation alone": (
        lambda: (*image(), nn.Conv2d(8, 8, 1), SqueezeExcitation(8), nn.Conv2d(8, 3, 1)),
        [(32, LAST), (8, FIRST), (8, FIRST), (3, FIRST)],
    ),
    "squeeze-excitation at the bottom, and as many pixels as maps": (
        lambda: (*image(2, 2), SqueezeExcitation(2), nn.Conv2d(2, 3, 1)),
        [(8, LAST), (2, FIRST), (3, FIRST)],
    ),
    "squeeze-excitation at the end": (
        lambda: (*image(), nn.Conv2d(8, 3, 1), SqueezeExcitation(3)),
        [(32, LAST), (3, FIRST), (3, FIRST)],
    ),
    "squeeze-excitation of a signal": (
        lambda: (nn.Linear(D, 24), nn.Unflatten(1, (6, 4)), SqueezeExcitation(6), nn.Conv1d(6, 5, 1), SqueezeExcitation(5)),
        [(24, LAST), (6, FIRST), (5, FIRST), (5, FIRST)],
    ),
    "ConvNeXt": (lambda: (*image(), ConvNeXt(8), nn.Conv2d(8, 3, 1)), [(32, LAST), (8, FIRST), (3, FIRST)]),
    "ConvNeXt, as many pixels as maps": (
        lambda: (*image(4, 4), ConvNeXt(4), nn.Conv2d(4, 3, 1)),
        [(64, LAST), (4, FIRST), (3, FIRST)],
    ),
    "self-attention of an image": (
        lambda: (*image(), SelfAttention(8), nn.Conv2d(8, 3, 1)),
        [(32, LAST), (8, FIRST), (3, FIRST)],
    ),
    "a piece of a U-Net": (lambda: (*image(8, 4), UNet(8), nn.Conv2d(8, 3, 1)), [(128, LAST), (8, FIRST), (3, FIRST)]),
    "a projection that reshapes": (
        lambda: (Project(8, 2, 2), nn.ReLU(), doubling(8, 3)),
        [(8, FIRST), (3, FIRST)],
    ),
    "a projection to a sequence": (lambda: (Project(5, 6), nn.ReLU(), nn.Linear(6, 3)), [(6, LAST), (3, LAST)]),
    "a projection to a signal": (lambda: (Project(6, 5), nn.ReLU(), nn.Conv1d(6, 3, 1)), [(6, FIRST), (3, FIRST)]),
    "WaveNet's transposed convolutions": (
        lambda: (nn.Unflatten(1, (1, D)), nn.ConvTranspose1d(1, 6, 4, 2, 1), nn.ReLU(), nn.Conv1d(6, 2, 3, padding=1)),
        [(6, FIRST), (2, FIRST)],
    ),
    "volumes": (
        lambda: (
            nn.Linear(D, 16),
            nn.Unflatten(1, (2, 2, 2, 2)),
            nn.ConvTranspose3d(2, 5, 2, 2),
            nn.ReLU(),
            nn.Conv3d(5, 1, 1),
        ),
        [(16, LAST), (5, FIRST), (1, FIRST)],
    ),
    "convolutions, then a linear map of pixels": (
        lambda: (*image(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 9)),
        [(32, LAST), (6, FIRST), (9, LAST)],
    ),
    "linear maps of a sequence": (
        lambda: (*sequence(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 9)),
        [(30, LAST), (7, LAST), (9, LAST)],
    ),
    "a transformer": (
        lambda: (
            *sequence(),
            Positions(1, 5, 6),
            nn.TransformerEncoderLayer(6, 2, 8, batch_first=True),
            nn.Linear(6, 9),
        ),
        [(30, LAST), (6, LAST), (9, LAST)],
    ),
    "convolutions in a transformer": (
        lambda: (*sequence(), ConvolutionalFeedForward(6), nn.Linear(6, 9)),
        [(30, LAST), (6, LAST), (9, LAST)],
    ),
    "a GRU's states": (
        lambda: (*sequence(), States(nn.GRU(6, 7, batch_first=True)), nn.Linear(7, 9)),
        [(30, LAST), (7, LAST), (9, LAST)],
    ),
    "an LSTM's states, twice": (
        lambda: (*sequence(), States(nn.LSTM(6, 7, batch_first=True)), States(nn.LSTM(7, 3, batch_first=True))),
        [(30, LAST), (7, LAST), (3, LAST)],
    ),
    "features last in an image": (
        lambda: (nn.Linear(D, 24), nn.Unflatten(1, (2, 2, 6)), nn.Linear(6, 5), nn.ReLU(), EqualLinear(5, 3)),
        [(24, LAST), (5, LAST), (3, LAST)],
    ),
}


def made(name):
    torch.manual_seed(0)
    return nn.Sequential(*TAKEN[name][0]())


@pytest.mark.parametrize("name", TAKEN)
def test_each_layer_receives_u_z_at_each_of_its_features(name):
    """U_l z by hooks on the plain network, of the widths and on the axes that the table states."""
    network, features = made(name), TAKEN[name][1]
    skip = SkipSequential(network, D).eval()
    entries = [*range(1, len(features)), "output"]
    assert skip.skips.sizes == {entry: width for entry, (width, _) in zip(entries, features, strict=True)}
    z = torch.randn(3, D)
    u, plain = skip.skips(z), copy.deepcopy(skip.network)
    for index, entry in skip.entry_at.items():
        axis, found = features[entries.index(entry)][1], u[entry]
        plain[index] = Function(lambda h, layer=plain[index], found=found, axis=axis: _plus(layer(h), found, axis))
    torch.manual_seed(1)
    expected = plain(z.clone())
    torch.manual_seed(1)
    torch.testing.assert_close(skip(z), expected)
    with torch.no_grad():
        skip.skips.stacked.weight.zero_()
    torch.manual_seed(1)
    expected = network.eval()(z.clone())
    torch.manual_seed(1)
    torch.testing.assert_close(skip(z), expected)


def _plus(h, u, axis):
    shape = [1] * h.dim()
    shape[0], shape[axis] = u.shape
    return h + u.reshape(shape)


@pytest.mark.parametrize("name", TAKEN)
def test_measuring_leaves_no_trace(name):
    network = made(name)
    for index, child in enumerate(network):
        child.train(index % 2 == 0)
    before = [module.training for module in network.modules()]
    lazy = "lazy" in name
    state = {} if lazy else copy.deepcopy(network.state_dict())
    torch.manual_seed(2)
    skip = SkipSequential(network, D, skip=["output"])
    after = torch.rand(5)
    assert [module.training for module in network.modules()] == before
    assert all(parameter.grad is None for parameter in skip.parameters())
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in state.items())
    if not lazy:
        torch.manual_seed(2)
        nn.Linear(D, TAKEN[name][1][-1][0], bias=False)
        assert torch.equal(after, torch.rand(5))


@pytest.mark.parametrize("name", TAKEN)
def test_skips_train(name):
    skip = SkipSequential(made(name), D)
    z = torch.randn(3, D).mul(1.0).requires_grad_().mul(2.0)  # as a reparameterised draw: no leaf
    skip(z).square().sum().backward()
    gradients = skip.skips.stacked.weight.grad.split(list(skip.skips.sizes.values()))
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", sorted(set(TAKEN) - {"lazy linear maps", "lazy convolutions"}))
def test_device_and_dtype_are_the_networks(name):
    double = SkipSequential(made(name).double(), D)
    assert double.skips.stacked.weight.dtype == torch.float64
    assert double(torch.randn(3, D, dtype=torch.float64)).dtype == torch.float64
    meta = SkipSequential(made(name).to("meta"), D)
    assert meta.skips.stacked.weight.is_meta and meta.skips.sizes == double.skips.sizes
    assert meta(torch.randn(3, D, device="meta")).is_meta


# name: (children, entries that are skipped, what the refusal says)
REFUSED = {
    "two heads": (
        lambda: (nn.Linear(D, 6), nn.ReLU(), nn.Linear(6, 6), TwoHeads(6)),
        "all",
        r"layer '3' \(TwoHeads\) returns a tuple, expected one tensor",
    ),
    "heads in a dictionary": (
        lambda: (nn.Linear(D, 6), TwoHeads(6, lambda heads: {"loc": heads[0]})),
        "last",
        r"layer '1' \(TwoHeads\) returns a dict",
    ),
    "heads in the middle": (
        lambda: (nn.Linear(D, 6), TwoHeads(6), nn.Linear(3, 2)),
        "all",
        r"layer '2' \(Linear\) does not take what layer '1' \(TwoHeads\) gives, a tuple",
    ),
    "LSTM": (lambda: (*sequence(), nn.LSTM(6, 7)), "all", r"layer '2' \(LSTM\) returns a tuple"),
    "GRU before a map": (
        lambda: (*sequence(), nn.GRU(6, 7), nn.Linear(7, 2)),
        "first",
        r"layer '3' \(Linear\) does not take what layer '2' \(GRU\) gives, a tuple",
    ),
    "time first": (
        lambda: (*sequence(), Function(lambda h: h.movedim(1, 0)), nn.Linear(6, 7)),
        "all",
        r"layer '3' \(Linear\) returns \(5, 2, 7\) for two z, expected a row of features for each",
    ),
    "a mean over the batch": (
        lambda: (nn.Linear(D, 6), Mapped(6, lambda h: h.mean(0))),
        "all",
        r"layer '1' \(Mapped\) returns \(3,\) for two z",
    ),
    "one number for each z": (
        lambda: (nn.Linear(D, 6), Mapped(6, lambda h: h.sum(-1))),
        "all",
        r"layer '1' \(Mapped\) returns \(2,\) for two z",
    ),
    "whole numbers": (
        lambda: (nn.Linear(D, 6), Mapped(6, lambda h: h.argmax(-1, keepdim=True))),
        "all",
        r"layer '1' \(Mapped\) returns numbers of torch.int64",
    ),
    "embedding": (lambda: (nn.Embedding(9, 3), nn.Linear(3, 2)), "all", r"layer '0' \(Embedding\) does not take z"),
    "another latent_dim": (
        lambda: (nn.Linear(D + 3, 6), nn.Linear(6, 2)),
        "all",
        r"layer '0' \(Linear\) does not take z, .*\(2, 4\).*7x6.*The latent_dim given is 4",
    ),
    "DCGAN without a reshape": (
        lambda: (nn.ConvTranspose2d(D, 8, 4), nn.ReLU()),
        "all",
        r"layer '0' \(ConvTranspose2d\) does not take z.*Put nn.Unflatten\(1, \(4, 1, 1\)\) before it",
    ),
    "a constant at the bottom": (
        lambda: (Mapped(D, lambda h: torch.ones(1, 8, 4, 4)), nn.Conv2d(8, 3, 1)),
        "all",
        r"layer '0' \(Mapped\) returns \(1, 8, 4, 4\) for two z",
    ),
    "a network of nothing": (
        lambda: (Function(lambda: torch.ones(2, 3)), nn.Linear(3, 2)),
        "all",
        r"layer '0' \(Function\) does not take z",
    ),
    "a decoder layer with a memory": (
        lambda: (*sequence(), nn.TransformerDecoderLayer(6, 2, 8)),
        "all",
        r"layer '2' \(TransformerDecoderLayer\) does not take .*missing 1 required positional argument: 'memory'",
    ),
    "a list of modules": (
        lambda: (nn.Linear(D, 6), nn.ModuleList([nn.Linear(6, 2)])),
        "all",
        r"layer '1' \(ModuleList\) does not take .*forward",
    ),
    "widths that do not fit, in a nested part": (
        lambda: (nn.Linear(D, 6), nn.Sequential(nn.ReLU(), nn.Linear(5, 2))),
        "all",
        r"layer '1.1' \(Linear\) does not take what layer '1.0' \(ReLU\) gives, a tensor of shape \(2, 6\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_skipped_is_refused_by_the_name_of_its_layer(name):
    children, skip, message = REFUSED[name]
    network = nn.Sequential(*children())
    before = [module.training for module in network.modules()]
    with pytest.raises(ValueError, match=message):
        SkipSequential(network, D, skip=skip)
    assert [module.training for module in network.modules()] == before
    SkipSequential(network, D, skip="none")  # the plain network is taken as it is


def test_what_a_refusal_advises_works():
    own = nn.Linear(D, 6), nn.ReLU(), nn.Linear(6, 6), TwoHeads(6)
    loc, scale = SkipSequential(nn.Sequential(*own), D, skip=[1, 2])(torch.randn(3, D))
    assert loc.shape == scale.shape == (3, 3)
    joined = SkipSequential(nn.Sequential(*own[:3], TwoHeads(6, lambda heads: torch.cat(heads, -1))), D)
    assert joined.skips.sizes == {1: 6, 2: 6, "output": 6} and joined(torch.randn(3, D)).shape == (3, 6)
    dcgan = nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.ConvTranspose2d(D, 8, 4))
    assert SkipSequential(dcgan, D)(torch.randn(3, D)).shape == (3, 8, 4, 4)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(D, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, z):
        return self.layers(z)


@pytest.mark.parametrize(
    "network",
    [Decoder(), WithOwnForward(nn.Linear(D, D)), nn.ModuleList([nn.Linear(D, 2)]), [nn.Linear(D, 2)], nn.Linear(D, 2)],
)
def test_a_network_whose_layers_cannot_be_told_apart_is_refused(network):
    with pytest.raises(
        ValueError, match=rf"expected an nn.Sequential of layers, got {type(network).__name__}.*nn.Sequential\(network\)"
    ):
        SkipSequential(network, D)


def test_the_output_alone_of_such_a_network():
    network, z = Decoder(), torch.randn(3, D)
    skip = SkipSequential(nn.Sequential(network), D)
    torch.testing.assert_close(skip(z), network(z) + skip.skips(z)["output"])


@pytest.mark.parametrize("latent_dim", [(4, 2), 4.0, None, -1])
def test_a_size_of_z_that_is_no_whole_number_is_refused(latent_dim):
    with pytest.raises(ValueError, match="expected latent_dim to be a whole number"):
        SkipSequential(nn.Sequential(nn.Linear(D, 2)), latent_dim)


def test_a_layer_that_gives_other_rows_than_z_has_is_refused_where_it_is_called():
    projected, z = SkipSequential(made("a projection that reshapes"), D), torch.randn(1, 8, D)
    with pytest.raises(
        ValueError,
        match=r"layer '0' \(Project\) gives a tensor of shape \(8, 8, 2, 2\), expected one with the rows of z, \(1, 8\)",
    ):
        projected(z)


def test_a_layer_that_returns_more_in_training_is_refused_by_name_there():
    class Auxiliary(nn.Linear):
        def forward(self, h):
            return (super().forward(h), h) if self.training else super().forward(h)

    skip = SkipSequential(nn.Sequential(nn.Linear(D, 6), Auxiliary(6, 2)), D)
    with pytest.raises(ValueError, match=r"layer '1' \(Auxiliary\) gives a tuple"):
        skip(torch.randn(3, D))
    assert skip.eval()(torch.randn(3, D)).shape == (3, 2)


def test_z_is_not_changed_by_a_first_activation_in_place():
    skip, z = SkipSequential(made("activations in place, the first too"), D), torch.randn(3, D)
    kept = z.clone()
    skip(z)
    assert torch.equal(z, kept)


def test_lazy_maps_and_their_skips_do_not_begin_alike():
    torch.manual_seed(0)
    skip = SkipSequential(nn.Sequential(nn.LazyLinear(6, bias=False)), D)
    assert type(skip.network[0]) is nn.Linear
    assert not torch.isclose(skip.network[0].weight, skip.skips.stacked.weight).any()


def test_where_a_start_is_shared():
    """Linear maps share their fan-in with U_l, one that is used twice once; what is gated or convolutional does not."""
    ratio = (6 / (6 + D)) ** 0.5
    skip = SkipSequential(made("a layer used twice"), D)
    before, skips = skip.network[2].weight.clone(), skip.skips.stacked.weight.clone()
    skip.share_fan_in_()
    torch.testing.assert_close(skip.network[2].weight, before * ratio)
    torch.testing.assert_close(skip.skips.stacked.weight[6:12], skips[6:12] * (D / (6 + D)) ** 0.5)
    for name in ("gated convolutions", "squeeze-excitation alone", "gated linear units"):
        skip = SkipSequential(made(name), D, skip=[2])
        before = copy.deepcopy(skip.state_dict())
        skip.share_fan_in_()
        assert all(torch.equal(before[key], tensor) for key, tensor in skip.state_dict().items()), name


def test_names_in_a_checkpoint_are_the_flattened_ones():
    nested = nn.Sequential(nn.Sequential(nn.Linear(D, 6), nn.ReLU()), nn.Sequential(nn.Linear(6, 2)))
    assert list(SkipSequential(nested, D).state_dict()) == [
        "network.0.weight",
        "network.0.bias",
        "network.2.weight",
        "network.2.bias",
        "skips.stacked.weight",
    ]
    assert parameter_count(SkipSequential(nested, D)) == parameter_count(nested) + D * (6 + 2)


def test_a_failure_of_the_machine_is_not_taken_for_one_of_the_network():
    class Failing(nn.Linear):
        def forward(self, x):
            raise FileNotFoundError(2, "No usable temporary directory found")

    with pytest.raises(FileNotFoundError, match="temporary directory"):
        SkipSequential(nn.Sequential(Failing(2, 3), nn.ReLU(), nn.Linear(3, 2)), 2)
