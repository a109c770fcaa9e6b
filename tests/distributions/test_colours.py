"""The mixture of logistics over colours: probabilities, draws, channels that see each other."""

import itertools

import pytest
import torch

from pyro_skipvae.decoders import PixelCNNDecoder
from pyro_skipvae.distributions import ColourLogistics
from pyro_skipvae.likelihoods import colour_logistics


def pixel(K=3, levels=4, batch=()):
    return ColourLogistics(torch.randn(*batch, 3, 1, 1, 4 * K), levels)


def all_values(levels):
    grid = torch.linspace(0, 1, levels)
    return torch.tensor(list(itertools.product(grid.tolist(), repeat=3)))[..., None, None]


def test_the_probabilities_of_all_values_of_a_pixel_sum_to_one(float64):
    torch.testing.assert_close(pixel(batch=(5,)).log_prob(all_values(4)[:, None]).logsumexp(0), torch.zeros(5))


@pytest.mark.slow
def test_they_sum_to_one_by_channel_at_256_levels(float64):
    eta, grid = torch.randn(3, 1, 1, 8), torch.linspace(0, 1, 256)

    def log_prob(r, g, b):
        return ColourLogistics(eta).log_prob(torch.stack(torch.broadcast_tensors(r, g, b), -1)[..., None, None])

    r, g = torch.tensor(17 / 255), torch.tensor(200 / 255)
    of_blue = log_prob(r, g, grid).exp().sum()
    of_green = log_prob(r, grid[:, None], grid).exp().sum(1)
    torch.testing.assert_close(of_green[200], of_blue)
    whole = torch.stack([log_prob(red, grid[:, None], grid).exp().sum() for red in grid])
    torch.testing.assert_close(of_green.sum(), whole[17])
    torch.testing.assert_close(whole.sum(), torch.tensor(1.0))


def test_one_component_is_three_logistics_each_given_those_before(float64):
    means, scales, coefficients = torch.randn(3, 3).unbind()
    eta = torch.stack([torch.randn(3), means, scales, coefficients], -1)[:, None, None]
    x, scale, c = torch.tensor([1.0, 0.0, 2.0]) / 3, torch.nn.functional.softplus(scales) + 0.001, coefficients.tanh()
    loc = means + torch.stack([c[0] * 0, c[0] * (x[0] - 0.5), c[1] * (x[0] - 0.5) + c[2] * (x[1] - 0.5)])
    logistic = torch.distributions.TransformedDistribution(
        torch.distributions.Uniform(torch.zeros(3), torch.ones(3)),
        [torch.distributions.SigmoidTransform().inv, torch.distributions.AffineTransform(loc, scale)],
    )
    low = torch.where(x == 0, 0.0, logistic.cdf(x - 1 / 6))
    high = torch.where(x == 1, 1.0, logistic.cdf(x + 1 / 6))
    torch.testing.assert_close(ColourLogistics(eta, 4).log_prob(x[:, None, None]), (high - low).log().sum())


def test_frequencies_of_draws_are_the_probabilities(float64):
    p, N, values = pixel(levels=3), 40_000, all_values(3)
    place = 3 ** torch.arange(3).flip(0)
    drawn = (p.sample((N,))[..., 0, 0] * 2).round().long() @ place
    expected = N * p.log_prob(values).exp()
    # chi-square with 26 degrees of freedom stays below 73 with probability 1 - 3e-6
    assert ((torch.bincount(drawn, minlength=27) - expected) ** 2 / expected).sum() < 73


def test_gradients(float64):
    value, eta = all_values(4)[[1, 30, 63]], torch.randn(3, 1, 1, 8, requires_grad=True)
    assert torch.autograd.gradcheck(lambda eta: ColourLogistics(eta, 4).log_prob(value), eta)


def test_shapes_and_refusals():
    p = ColourLogistics(torch.randn(5, 3, 4, 6, 8))
    assert p.sample((2,)).shape == (2, 5, 3, 4, 6) and p.log_prob(p.sample((2,))).shape == (2, 5)
    assert p.expand((7, 5)).log_prob(p.sample()).shape == (7, 5) and p.support.check(p.sample()).all()
    with pytest.raises(ValueError, match=r"colour images, got \(1, 4, 4, 8\)"):
        ColourLogistics(torch.randn(1, 4, 4, 8))


def test_a_pixelcnn_over_colours_is_a_distribution_whose_cached_draws_are_its_own(float64):
    decoder = PixelCNNDecoder(2, (3, 1, 2), layers=2, maps=4, likelihood=colour_logistics(levels=2, components=2))
    z, values = torch.randn(2), torch.tensor(list(itertools.product((0.0, 1.0), repeat=6))).reshape(-1, 3, 1, 2)
    log_prob = decoder(z).log_prob(values)
    torch.testing.assert_close(log_prob.logsumexp(0), torch.tensor(0.0))
    x, eta = decoder.generate(z.expand(3, 2))
    torch.testing.assert_close(decoder.natural_parameters(x, z.expand(3, 2)), eta)
