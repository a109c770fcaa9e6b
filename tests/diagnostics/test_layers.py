"""How much each layer of a decoder depends on z: linear layers against closed forms, and all our decoders."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_skipvae import VAE
from pyro_skipvae.decoders import (
    CodesDecoder,
    ConvolutionalDecoder,
    DilatedCNNDecoder,
    IdentifiableMLPDecoder,
    LSTMDecoder,
    MLPDecoder,
    PixelCNNDecoder,
    TransformerDecoder,
    layers_of,
)
from pyro_skipvae.diagnostics import layer_sensitivities
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import CategoricalPosterior
from pyro_skipvae.priors import StandardNormal, UniformCategorical

N = 2000
X = torch.randn(N, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SCALES = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)  # of z, whose mean is the first three values of x


class Linear(nn.Module):
    """h = W z + V u + b, of z and of two values u of x that are not z."""

    def __init__(self, *, reads):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(3 + 2 * reads, 4, dtype=torch.float64)
        self.reads = reads

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            h = self.layer(torch.cat([z, x[:, 3:]], 1) if self.reads else z)
            pyro.sample("x", dist.Normal(h, 1.0).to_event(1), obs=x[:, :4])

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(1 + SCALES * x[:, :3], 0.1).to_event(1))


@pytest.mark.parametrize("reads", [False, True])
def test_a_linear_layer_has_the_parts_of_its_covariances(reads):
    decoder = Linear(reads=reads)
    (found,) = layer_sensitivities(decoder.model, decoder.guide, X, decoder, points=N)
    W, V = decoder.layer.weight[:, :3].detach(), decoder.layer.weight[:, 3:].detach()
    C = W @ torch.diag(SCALES**2 + 0.01) @ W.T
    b = W.sum(1) + decoder.layer.bias.detach()
    total = C.trace() + V.square().sum() + b.square().sum()
    assert found.layer == "layer" and found.z.low < C.trace() / total < found.z.high and found.z.high - found.z.low < 0.1
    assert found.constant == pytest.approx((b.square().sum() / total).item(), abs=0.03)
    assert found.others == pytest.approx((V.square().sum() / total).item(), abs=0.03) and (found.others > 0.05) == reads
    assert found.z.value + found.others + found.constant == pytest.approx(1)
    assert found.directions == pytest.approx((C.trace() ** 2 / C.square().sum()).item(), rel=0.05)


def test_a_layer_that_z_does_not_reach_has_no_part_of_it_and_nothing_is_left_behind():
    decoder = Linear(reads=True).train()
    with torch.no_grad():
        decoder.layer.weight[:, :3] = 0
    before = torch.get_rng_state()
    (found,) = layer_sensitivities(decoder.model, decoder.guide, X, {"deaf": decoder.layer}, points=100)
    assert (found.layer, found.z.low, found.z.value, found.z.high, found.directions) == ("deaf", 0, 0, 0, 0)
    assert found.others > 0.1 and before.equal(torch.get_rng_state())
    assert decoder.training and not decoder.layer._forward_hooks
    with torch.no_grad():
        decoder.layer.weight.zero_(), decoder.layer.bias.zero_()
    (found,) = layer_sensitivities(decoder.model, decoder.guide, X, decoder)
    assert (found.z.value, found.others, found.constant) == (0, 0, 1)


def test_what_is_asked_wrongly_is_told():
    decoder = Linear(reads=False)
    pair = decoder.model, decoder.guide, X[:64]
    for layers, words in (
        (nn.ReLU(), "at least one module with weights"),
        ({"idle": nn.Linear(1, 1)}, "expected layer 'idle' to run with the model"),
    ):
        with pytest.raises(ValueError, match=words):
            layer_sensitivities(*pair, layers)
    with pytest.raises(ValueError, match="points to be 2 or more"):
        layer_sensitivities(*pair, decoder, points=1)
    decoder.layer = nn.Sequential(decoder.layer, Shifted())
    with pytest.raises(ValueError, match="layer 'mean' to return a tensor with a row for each of 64 datapoints"):
        layer_sensitivities(*pair, {"mean": decoder.layer[1].mean})


class Mean(nn.Module):
    def forward(self, h):
        return h.mean()


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = Mean()

    def forward(self, h):
        return h + 0 * self.mean(h)


D, IMAGE, WORDS = 3, (8, 8), 12
DECODERS = {
    "mlp": (lambda skip: MLPDecoder(D, IMAGE, layers=3, width=8, skip=skip), ("1", "2", "3", "output")),
    "convolutional": (lambda skip: ConvolutionalDecoder(D, IMAGE, layers=2, maps=4, skip=skip), ("1", "2", "output")),
    "pixelcnn": (lambda skip: PixelCNNDecoder(D, IMAGE, layers=2, maps=4, skip=skip), ("1", "2", "output")),
    "lstm": (lambda skip: LSTMDecoder(9, D, max_length=WORDS, layers=2, embedding=4, width=6, skip=skip), ("1", "2")),
    "dilated-cnn": (
        lambda skip: DilatedCNNDecoder(9, D, max_length=WORDS, layers=2, embedding=4, width=6, skip=skip),
        ("1", "2"),
    ),
    "transformer": (
        lambda skip: TransformerDecoder(9, D, max_length=WORDS, layers=2, embedding=4, width=6, heads=2, skip=skip),
        ("1", "2"),
    ),
}


def inputs(name, rows=40):
    torch.manual_seed(2)
    if DECODERS[name][1][-1] == "output":
        return torch.rand(rows, *IMAGE).round()
    x = torch.randint(4, 9, (rows, WORDS))
    x[:, 7:] = 0
    x[:, 6] = 2  # the end mark
    return x


def guide(x):
    """Draws of z that are independent of x."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1).expand((len(x),)))


@pytest.mark.parametrize("name", DECODERS)
def test_every_layer_of_our_decoders_is_measured_with_its_skip(name):
    make, names = DECODERS[name]
    torch.manual_seed(0)
    vae = VAE(StandardNormal(D), make("all"), nn.Identity())
    found = layer_sensitivities(vae.model, guide, inputs(name), layers_of(vae.decoder))
    assert tuple(layer.layer for layer in found) == names
    assert all(0 < layer.z.value < 1 and 0 < layer.directions for layer in found)


@pytest.mark.parametrize("name", ["lstm", "dilated-cnn", "transformer"])
def test_places_after_the_end_of_a_text_do_not_count(name):
    """Texts of 3 words, then one of them longer, which makes the decoder run over places after the end of the others."""
    torch.manual_seed(0)
    vae = VAE(StandardNormal(D), DECODERS[name][0]("all"), nn.Identity())
    short = torch.randint(4, 9, (40, WORDS))
    short[:, 3], short[:, 4:] = 2, 0
    longer = short.clone()
    longer[-1, 3:9], longer[-1, 9] = 4, 2
    ends = torch.full((40,), 4)
    found, again = (layer_sensitivities(vae.model, guide, x, layers_of(vae.decoder), lengths=ends) for x in (short, longer))
    for one, other in zip(found, again, strict=True):
        assert one.z.value == pytest.approx(other.z.value, rel=1e-4) and one.others == pytest.approx(other.others, abs=1e-4)
    (whole, *_) = layer_sensitivities(vae.model, guide, longer, layers_of(vae.decoder))
    assert whole.z.value != pytest.approx(found[0].z.value, rel=1e-3)


def test_a_skip_brings_z_to_a_layer_whose_input_has_none():
    parts = {}
    for skip in ("none", "last", "all"):
        torch.manual_seed(0)
        vae = VAE(StandardNormal(D), MLPDecoder(D, IMAGE, layers=3, width=8, skip=skip), nn.Identity())
        with torch.no_grad():
            vae.decoder.network.network[2].weight.zero_()  # the second layer reads nothing from below
        found = layer_sensitivities(vae.model, guide, inputs("mlp"), layers_of(vae.decoder))
        parts[skip] = [layer.z.value > 0 for layer in found]
    assert parts == {"none": [True, False, False, False], "last": [True, False, False, True], "all": [True] * 4}


def test_what_comes_after_a_layer_may_work_in_place():
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(D, 8), nn.ReLU(inplace=inplace), nn.Linear(8, 64), nn.Unflatten(1, IMAGE))
        vae = VAE(StandardNormal(D), Bernoulli(network), nn.Identity())
        found.append(layer_sensitivities(vae.model, guide, inputs("mlp"), network))
    assert found[0] == found[1] and [layer.layer for layer in found[0]] == ["0", "2"]


class Bernoulli(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z):
        return dist.Bernoulli(logits=self.network(z)).to_event(2)


def test_what_a_pixelcnn_reads_of_x_is_no_part_of_z():
    torch.manual_seed(0)
    vae = VAE(StandardNormal(D), PixelCNNDecoder(D, IMAGE, layers=2, maps=4), nn.Identity())
    with torch.no_grad():
        vae.decoder.latent_maps.stacked.weight.zero_()
    found = layer_sensitivities(vae.model, guide, inputs("pixelcnn"), layers_of(vae.decoder))
    assert all(layer.z.value == layer.directions == 0 for layer in found) and found[0].others > 0.05


def test_codes_and_decoders_of_others_are_measured_too():
    torch.manual_seed(0)
    pyro.clear_param_store()
    encoder = MLPEncoder(IMAGE, 2, hidden=(8,), posterior=lambda *sizes: CategoricalPosterior(*sizes, classes=3))
    vae = VAE(UniformCategorical(2, 3), CodesDecoder(MLPDecoder(6, IMAGE, layers=1, width=8)), encoder)
    found = layer_sensitivities(vae.model, vae.guide, inputs("mlp"), layers_of(vae.decoder))
    assert [layer.layer for layer in found] == ["1", "output"] and all(layer.z.value > 0 for layer in found)
    identifiable = IdentifiableMLPDecoder(D, IMAGE, layers=2, width=8)
    assert list(layers_of(identifiable)) == ["1", "2", "output"]
    assert list(layers_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)))) == ["0", "2"]
