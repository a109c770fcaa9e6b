"""Where z enters: the entries, the additive skips of any sequential decoder, and the parameter-matched control."""

import pytest
import torch
from torch import nn

from pyro_skipvae.decoders import ConvolutionalDecoder, MLPDecoder, PixelCNNDecoder
from pyro_skipvae.skip import SkipMaps, SkipSequential, parameter_count, parameter_matched, skip_entries


@pytest.mark.parametrize(
    ("skip", "entries"),
    [
        ("all", (1, 2, 3, "output")),
        ("none", ()),
        ("first", (1,)),
        ("last", ("output",)),
        ([3, 1], (1, 3)),
        (["output", 2], (2, "output")),
    ],
)
def test_entries_by_name_or_list(skip, entries):
    assert skip_entries(skip, 3) == entries


@pytest.mark.parametrize("skip", ["al", [4], [0], ["out"], [1, 1], "1,3", 3, None, [1, [2]]])
def test_entries_that_do_not_exist_are_refused(skip):
    with pytest.raises(ValueError, match="expected skip to be"):
        skip_entries(skip, 3)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_mlp_decoder_is_the_formula_of_the_paper(float64, layers):
    decoder = MLPDecoder(3, (2, 4), layers=layers, width=5)
    maps = [module for module in decoder.network.network if isinstance(module, nn.Linear)]
    skips = decoder.network.skips(z := torch.randn(6, 3))
    h = z
    for l, layer in enumerate(maps[:-1], 1):
        h = torch.relu(h @ layer.weight.T + skips[l] + layer.bias)
    eta = h @ maps[-1].weight.T + skips["output"] + maps[-1].bias
    torch.testing.assert_close(decoder(z).base_dist.logits, eta.reshape(6, 2, 4), rtol=0, atol=1e-14)


def test_parameter_counts_of_the_mlp_decoder():
    D, width, layers, outputs = 50, 512, 4, 784
    plain = (D * width + width) + (layers - 1) * (width * width + width) + (width * outputs + outputs)
    assert parameter_count(MLPDecoder(D, (28, 28), layers=layers, width=width, skip="none")) == plain
    assert parameter_count(MLPDecoder(D, (28, 28), layers=layers, width=width)) == plain + layers * D * width + D * outputs
    assert parameter_count(MLPDecoder(D, (28, 28), layers=layers, width=width, skip="first")) == plain + D * width
    assert parameter_count(MLPDecoder(D, (28, 28), layers=layers, width=width, skip="last")) == plain + D * outputs


def test_parameter_counts_of_the_pixelcnn_decoder():
    D, F, layers, pixels = 50, 32, 9, 784
    latent_map = D * pixels + pixels
    first = (2 * F * 2 * 6 + 2 * F) + 2 * F * 2 * 2
    others = (layers - 1) * ((2 * F * F * 6 + 2 * F) + 2 * F * F * 2)
    common = layers * ((2 * F * 2 * F + 2 * F) + (F * F + F))
    plain = first + others + common + (F + 1) + latent_map
    assert parameter_count(PixelCNNDecoder(D, (28, 28), skip="none")) == plain
    joined = layers * 2 * F * (6 + 2) + 1  # weights of the convolutions for the maps of z
    assert parameter_count(PixelCNNDecoder(D, (28, 28))) == plain + (layers + 1) * latent_map + joined


DECODERS = {
    "mlp": lambda skip: MLPDecoder(3, (4, 5), layers=3, width=6, skip=skip),
    "pixelcnn": lambda skip: PixelCNNDecoder(3, (4, 5), layers=3, maps=6, skip=skip),
    "convolutional": lambda skip: ConvolutionalDecoder(3, (4, 5), layers=2, maps=6, skip=skip),
}


@pytest.mark.parametrize("name", DECODERS)
def test_skip_weights_of_zero_give_the_plain_decoder(float64, name):
    skip, plain = DECODERS[name]("all"), DECODERS[name]("none")
    shared = {key: tensor for key, tensor in skip.state_dict().items() if "skips" not in key and "latent_maps" not in key}
    if name == "pixelcnn":  # the joined maps are channels: copy the weights of the others, and of the map at the bottom
        shared = {key: _without_joined(key, tensor, plain) for key, tensor in shared.items()}
        with torch.no_grad():
            skip.latent_maps.stacked.weight[20:] = 0
            skip.latent_maps.stacked.bias[20:] = 0
        shared |= {f"latent_maps.stacked.{key}": skip.latent_maps.stacked.state_dict()[key][:20] for key in ("weight", "bias")}
    else:
        nn.init.zeros_(skip.network.skips.stacked.weight)
    plain.load_state_dict(shared)
    z, x = torch.randn(7, 3), torch.rand(7, 4, 5).bernoulli()
    torch.testing.assert_close(skip(z).log_prob(x), plain(z).log_prob(x), rtol=0, atol=1e-12)


def _without_joined(key, tensor, plain):
    wanted = plain.state_dict()[key]
    return tensor[:, : wanted.shape[1]] if tensor.shape != wanted.shape else tensor


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("skip", ["all", "first", "last", [2]])
def test_every_entry_carries_gradient_and_no_parameter_is_unused(name, skip):
    decoder = DECODERS[name](skip)
    decoder(torch.randn(9, 3)).log_prob(torch.rand(9, 4, 5).bernoulli()).sum().backward()
    unused = [key for key, parameter in decoder.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert unused == []


def test_the_counterpart_of_a_users_own_sequential_decoder(float64):
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    own = nn.Sequential(head, nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 2))
    skip = SkipSequential(own, 4)
    assert skip.skips.sizes == {1: 8, 2: 3, "output": 1}
    z = torch.randn(5, 4)
    u = skip.skips(z)
    h = torch.tanh(own[0][0](z) + u[1]).unflatten(1, (2, 2, 2))
    h = torch.relu(own[3](own[2](h) + u[2][:, :, None, None]))
    torch.testing.assert_close(skip(z), own[5](h) + u["output"][:, :, None, None])
    assert SkipSequential(own, 4, skip="none")(z).equal(own(z))


def test_the_features_of_a_linear_layer_are_the_last_dimension(float64):
    torch.manual_seed(0)
    own = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Unflatten(-1, (4, 4)), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 7))
    skip, z = SkipSequential(own, 2), torch.randn(5, 2)
    u = skip.skips(z)
    h = torch.relu(own[0](z) + u[1]).unflatten(-1, (4, 4))
    h = torch.relu(own[3](h) + u[2][:, None, :])
    torch.testing.assert_close(skip(z), own[5](h) + u["output"][:, None, :])
    torch.testing.assert_close(skip(torch.stack([z, z]))[1], skip(z))  # z (..., D)


def test_a_network_without_layers_is_refused():
    with pytest.raises(ValueError, match="expected a network with linear or convolutional layers"):
        SkipSequential(nn.Sequential(nn.ReLU()), 3)


def test_all_maps_at_once_equal_one_map_each(float64):
    maps = SkipMaps(3, {1: 4, 2: 5})
    z = torch.randn(2, 7, 3)
    torch.testing.assert_close(maps(z)[2], z @ maps.stacked.weight[4:].T)


@pytest.mark.parametrize("target", [1000, 54_321, 1_357_872])
def test_parameter_matched_comes_as_near_as_a_width_can(target):
    def plain(width):
        return MLPDecoder(10, (8, 8), layers=3, width=width, skip="none")

    width = parameter_matched(plain, target)
    miss = [abs(parameter_count(plain(w)) - target) for w in (width - 1, width, width + 1) if w > 0]
    assert min(miss) == abs(parameter_count(plain(width)) - target)
