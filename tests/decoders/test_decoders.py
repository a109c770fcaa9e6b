"""One contract for all decoders: z -> an honest distribution over x; and what is particular to the PixelCNN."""

import itertools
import math

import pytest
import torch
from pyro.infer import Predictive

from pyro_skipvae import VAE, likelihoods
from pyro_skipvae.blocks import Standardise, mean_and_scale
from pyro_skipvae.decoders import ConvolutionalDecoder, IdentifiableMLPDecoder, MLPDecoder, PixelCNNDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.priors import StandardNormal

DECODERS = {
    "mlp": lambda **over: MLPDecoder(3, (2, 3), layers=2, width=8, **over),
    "mlp plain": lambda **over: MLPDecoder(3, (2, 3), layers=2, width=8, skip="none", **over),
    "identifiable": lambda **over: IdentifiableMLPDecoder(3, (2, 3), width=8, **over),
    "pixelcnn": lambda **over: PixelCNNDecoder(3, (2, 3), layers=3, maps=4, **over),
    "pixelcnn plain": lambda **over: PixelCNNDecoder(3, (2, 3), layers=2, maps=4, skip="none", **over),
    "pixelcnn kernel 5": lambda **over: PixelCNNDecoder(3, (2, 3), layers=2, maps=4, kernel=5, skip=[2], **over),
    "pixelcnn receptive field": lambda **over: PixelCNNDecoder(3, (2, 3), layers=3, maps=4, receptive_field=2, **over),
    "pixelcnn attention": lambda **over: PixelCNNDecoder(
        3, (2, 3), layers=3, maps=4, attention_layers=2, heads=2, **over
    ),
    "pixelcnn channels": lambda **over: PixelCNNDecoder(3, (2, 1, 3), layers=2, maps=4, **over),
    "convolutional": lambda **over: ConvolutionalDecoder(3, (2, 3), layers=2, maps=4, **over),
    "convolutional colour": lambda **over: ConvolutionalDecoder(3, (2, 3, 1), layers=1, maps=4, **over),
}


@pytest.fixture(params=DECODERS)
def decoder(request, float64):
    return DECODERS[request.param]()


def all_events(event_shape):
    values = itertools.product([0.0, 1.0], repeat=math.prod(event_shape))
    return torch.tensor(list(values)).reshape(-1, *event_shape)


def test_probabilities_of_all_x_sum_to_one(decoder):
    x, z = all_events(decoder.event_shape), torch.randn(4, 3)
    log_prob = decoder(z).log_prob(x[:, None])  # (64, 4)
    torch.testing.assert_close(log_prob.logsumexp(0), torch.zeros(4), rtol=0, atol=1e-10)


def test_shapes_and_leading_dimensions(decoder):
    z = torch.randn(5, 4, 3)
    p = decoder(z)
    assert p.batch_shape == (5, 4) and p.event_shape == decoder.event_shape
    x = p.sample((2,))
    assert x.shape == (2, 5, 4, *decoder.event_shape) and ((x == 0) | (x == 1)).all()
    one = decoder(z[2, 3]).log_prob(x[1, 2, 3])
    torch.testing.assert_close(p.log_prob(x)[1, 2, 3], one, rtol=0, atol=1e-12)


def test_expand_keeps_the_density(decoder):
    z = torch.randn(4, 3)
    x = decoder(z).sample()
    torch.testing.assert_close(decoder(z).expand((2, 4)).log_prob(x), decoder(z).log_prob(x).expand(2, 4))


def test_frequencies_of_samples_are_the_probabilities(decoder):
    N, events = 20_000, all_events(decoder.event_shape)
    z = torch.randn(3)
    place = 2 ** torch.arange(math.prod(decoder.event_shape))
    drawn = decoder(z.expand(N, 3)).sample().reshape(N, -1).long() @ place
    expected = decoder(z).log_prob(events).exp()[(events.reshape(len(events), -1).long() @ place).argsort()]
    observed = torch.bincount(drawn, minlength=len(events)) / N
    # chi-square with 63 degrees of freedom stays below 130 with probability 1 - 1e-6
    assert (N * (observed - expected) ** 2 / expected).sum() < 130


def test_pyro_predicts_from_the_model(decoder):
    event_shape = decoder.event_shape
    vae = VAE(StandardNormal(3), decoder, MLPEncoder(event_shape, 3, hidden=(4,)))
    x = torch.zeros(5, *event_shape)
    draws = Predictive(vae.model, num_samples=2)(x)
    assert draws["z"].shape == (2, 5, 3) or draws["z"].shape == (2, 1, 5, 3)


PIXELCNN = [name for name in DECODERS if name.startswith("pixelcnn")]


@pytest.mark.parametrize("name", PIXELCNN)
def test_a_pixel_sees_those_before_it_only(float64, name):
    decoder = DECODERS[name]()
    pixels = math.prod(decoder.event_shape[-2:])
    x = torch.rand(1, *decoder.event_shape, requires_grad=True)
    eta = decoder.natural_parameters(x, torch.randn(1, 3)).reshape(-1, pixels)
    for i in range(pixels):
        (sees,) = torch.autograd.grad(eta[:, i].sum(), x, retain_graph=True)
        sees = sees.reshape(-1, pixels).abs().sum(0)
        assert (sees[i:] == 0).all() and (i == 0 or sees[:i].any())


def test_the_receptive_field_has_no_blind_spot(float64):
    decoder = PixelCNNDecoder(3, (6, 7), layers=6, maps=4)
    x = torch.rand(1, 6, 7, requires_grad=True)
    eta = decoder.natural_parameters(x, torch.randn(1, 3)).reshape(-1)
    (sees,) = torch.autograd.grad(eta[4 * 7 + 3], x)
    before = torch.arange(42) < 4 * 7 + 3
    assert ((sees.reshape(-1) != 0) == before).all()


@pytest.mark.parametrize(("N", "kernel"), [(1, 3), (2, 3), (3, 3), (3, 5)])
def test_a_small_receptive_field_sees_all_near_pixels_before_and_no_others(float64, N, kernel):
    decoder = PixelCNNDecoder(3, (9, 11), layers=4, maps=4, kernel=kernel, receptive_field=N)
    x = torch.rand(1, 9, 11)
    z = torch.randn(1, 3)
    eta = decoder.natural_parameters(x, z)[0, 0, 5, 5]
    changed = torch.zeros(9, 11, dtype=torch.bool)
    for row, column in itertools.product(range(9), range(11)):
        other = x.clone()
        other[0, row, column] += 1
        changed[row, column] = decoder.natural_parameters(other, z)[0, 0, 5, 5] != eta
    rows, columns = (place - 5 for place in torch.meshgrid(torch.arange(9), torch.arange(11), indexing="ij"))
    above = (rows < 0) & (rows >= -N) & (columns.abs() <= N - 1)
    left = (rows == 0) & (columns < 0) & (columns >= -N)
    near = (rows <= 0) & (rows >= -N) & (columns.abs() <= N)
    assert (changed & ~near).sum() == 0 and changed[above | left].all()


REFUSED = [({"receptive_field": 6}, "1, 2, 3"), ({"receptive_field": 2, "kernel": 5}, "1, 3, 5")]


@pytest.mark.parametrize(("over", "possible"), REFUSED)
def test_receptive_fields_that_no_layers_have_are_refused(over, possible):
    with pytest.raises(ValueError, match=f"expected a receptive field out of {possible} for 2 layers"):
        PixelCNNDecoder(3, (4, 4), layers=2, maps=4, **over)
    with pytest.raises(ValueError, match="expected no attention with a receptive field"):
        PixelCNNDecoder(3, (4, 4), layers=2, maps=8, receptive_field=2, attention_layers=1)


@pytest.mark.parametrize("name", PIXELCNN)
def test_every_pixel_sees_z(float64, name):
    decoder = DECODERS[name]()
    z = torch.randn(1, 3, requires_grad=True)
    eta = decoder.natural_parameters(torch.zeros(1, *decoder.event_shape), z).reshape(-1)
    assert all(torch.autograd.grad(value, z, retain_graph=True)[0].any() for value in eta)


@pytest.mark.parametrize("name", PIXELCNN)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_cached_sampling_equals_the_full_pass_logit_by_logit(name, dtype, tolerance):
    decoder = DECODERS[name]().to(dtype)
    z = torch.randn(8, 3, dtype=dtype)
    with torch.no_grad():
        x, eta = decoder.generate(z)
        full = decoder.natural_parameters(x, z)
    torch.testing.assert_close(eta, full, rtol=0, atol=tolerance)


def test_cached_sampling_of_a_full_size_skip_model():
    decoder = PixelCNNDecoder(20, (28, 28), layers=3)
    z = torch.randn(4, 20)
    with torch.no_grad():
        x, eta = decoder.generate(z)
        torch.testing.assert_close(eta, decoder.natural_parameters(x, z), rtol=0, atol=1e-5)
    assert 0.2 < x.mean() < 0.8


def test_cached_sampling_of_grey_levels(float64):
    decoder = PixelCNNDecoder(3, (4, 4), layers=2, maps=4, likelihood=likelihoods.discretised_logistic(17))
    z = torch.randn(3, 3)
    with torch.no_grad():
        x, eta = decoder.generate(z)
        torch.testing.assert_close(eta, decoder.natural_parameters(x, z), rtol=0, atol=1e-12)
    torch.testing.assert_close(x * 16, (x * 16).round())


@pytest.mark.parametrize("event_shape", [(4, 3), (2, 4, 3)])
def test_cached_sampling_of_values_in_units_of_their_own(float64, event_shape):
    x = torch.randn(50, *event_shape) * 300 + 5000
    likelihood = likelihoods.normal_shared_scale(*mean_and_scale(x))
    decoder = PixelCNNDecoder(3, event_shape, layers=2, maps=4, likelihood=likelihood, inputs=Standardise.of(x))
    z = torch.randn(3, 3)
    with torch.no_grad():
        x, eta = decoder.generate(z)
        torch.testing.assert_close(eta, decoder.natural_parameters(x, z), rtol=0, atol=1e-10)
    assert (x - 5000).abs().max() < 3000 and eta.abs().max() < 100
    assert any("sigma" in name for name, _ in decoder.named_parameters())


def test_a_pixelcnn_without_latent_variables(float64):
    decoder = PixelCNNDecoder(0, (2, 3), layers=2, maps=4, skip="none")
    p = decoder(torch.zeros(5, 0))
    log_prob = p.log_prob(all_events((2, 3))[:, None])
    torch.testing.assert_close(log_prob.logsumexp(0), torch.zeros(5), rtol=0, atol=1e-10)
    assert p.sample().shape == (5, 2, 3)
    assert not any("latent" in name for name, _ in decoder.named_parameters())


@pytest.mark.parametrize("event_shape", [(28, 28), (28, 20), (7, 9), (3, 32, 32), (1, 13, 64)])
def test_the_convolutional_decoder_fits_any_size(event_shape):
    assert ConvolutionalDecoder(4, event_shape)(torch.randn(2, 4)).sample().shape == (2, *event_shape)


@pytest.mark.parametrize("over", [{"kernel": 4}, {"layers": 0}])
def test_impossible_pixelcnns_are_refused(over):
    with pytest.raises(ValueError, match="expected an odd kernel and at least 1 layer"):
        PixelCNNDecoder(3, (4, 4), **over)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"expected images of \(2, 3\), got \(3, 2\)"):
        PixelCNNDecoder(0, (2, 3), layers=1, maps=4)(torch.zeros(1, 0)).log_prob(torch.zeros(1, 3, 2))


def test_with_attention_a_pixel_sees_all_pixels_before_it(float64):
    decoder = PixelCNNDecoder(0, (9, 9), layers=1, maps=4, attention_layers=1, heads=2)
    x, z = torch.zeros(1, 9, 9), torch.zeros(1, 0)
    x.requires_grad_()
    (seen,) = torch.autograd.grad(decoder.natural_parameters(x, z)[0, 0, 8, 4], x)
    flat = (seen.flatten() != 0).tolist()
    # But the last pixel of the row above: only pixels further on read that one.
    assert all(flat[:71]) and not flat[71] and all(flat[72:76]) and not any(flat[76:])


def test_more_attention_than_layers_and_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="at most 2 attention layers, one a layer, got 3"):
        PixelCNNDecoder(3, (4, 4), layers=2, attention_layers=3)
    with pytest.raises(ValueError, match="got width 6 and 4 heads"):
        PixelCNNDecoder(3, (4, 4), layers=2, maps=6, attention_layers=1, heads=4)
