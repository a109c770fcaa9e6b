"""How weights start: variances of layers, and what the data-dependent start promises of the batch that it saw."""

import pyro
import pytest
import torch
from torch import nn

from pyro_skipvae import VAE
from pyro_skipvae.blocks import perceptron
from pyro_skipvae.decoders import ConvolutionalDecoder, MLPDecoder, PixelCNNDecoder
from pyro_skipvae.encoders import MLPEncoder, ResNetEncoder
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.skip import SkipSequential
from pyro_skipvae.training.initialisation import data_dependent_, he_normal_


def test_he_normal_keeps_the_variance_of_every_layer_plain_or_with_skips():
    torch.manual_seed(0)
    z = torch.randn(2000, 50)
    for skip in ("none", "all"):
        network = SkipSequential(nn.Sequential(*perceptron([50, 512, 512, 512, 400])), 50, skip=skip)
        he_normal_(network)
        # He: E[h^2] = 2 / fan_in * fan_in * E[relu^2] stays 2 E[z^2] / 2; at the output (no relu after it) the variance is 2.
        assert network(z).var().item() == pytest.approx(2.0, rel=0.15), skip
        assert not any(bias.any() for name, bias in network.named_parameters() if name.endswith("bias"))


def test_he_normal_leaves_convolutions_as_torch_starts_them():
    decoder = ConvolutionalDecoder(3, (8, 8), layers=2, maps=4)
    before = {name: parameter.clone() for name, parameter in decoder.named_parameters()}
    he_normal_(decoder)
    same = {name: parameter.equal(before[name]) for name, parameter in decoder.named_parameters()}
    assert same == {name: "skips" not in name for name in before}


@pytest.mark.parametrize("skip", ["none", "all"])
@pytest.mark.parametrize("make", [MLPDecoder, PixelCNNDecoder, ConvolutionalDecoder])
def test_data_dependent_start_gives_every_unit_mean_0_and_variance_1_over_the_batch(make, skip):
    torch.manual_seed(0)
    encoder = MLPEncoder((8, 8), 3, hidden=(16,)) if make is MLPDecoder else ResNetEncoder((8, 8), 3, layers=2, maps=4)
    vae = VAE(StandardNormal(3), make(3, (8, 8), layers=2, skip=skip), encoder)
    x = torch.rand(64, 8, 8).gt(0.5).float()
    torch.manual_seed(1)
    data_dependent_(vae, x)
    seen = {}
    maps = {part: name for name, part in vae.named_modules() if hasattr(part, "weight")}
    for part in maps:
        part.register_forward_hook(lambda part, _, output: seen.update({maps[part]: (part, output.detach())}))
    torch.manual_seed(1)
    elbo(vae.model, vae.guide, x)
    assert len(seen) == len(maps)
    for name, (part, output) in seen.items():
        units = output.movedim(1, -1) if output.dim() == 4 else output
        units = units.reshape(-1, units.shape[-1])
        varies = units.std(0) > 1e-3
        assert varies.float().mean() > 0.9, name
        torch.testing.assert_close(units.std(0)[varies], torch.ones(int(varies.sum())), rtol=0, atol=1e-3, msg=name)
        if part.bias is not None:
            assert units.mean(0).abs().max() < 1e-4, name


def test_data_dependent_start_leaves_a_unit_that_does_not_vary():
    vae = VAE(StandardNormal(2), MLPDecoder(2, (4,), layers=1, width=5), MLPEncoder((4,), 2, hidden=(3,)))
    with torch.no_grad():
        vae.encoder.network[0].weight[0] = 0
    data_dependent_(vae, torch.rand(32, 4).gt(0.5).float())
    assert not list(pyro.get_param_store())
    assert all(parameter.isfinite().all() for parameter in vae.parameters())
    assert not vae.encoder.network[0].weight[0].any() and vae.encoder.network[0].bias[0] == 0
