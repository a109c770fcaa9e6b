"""How many rows run at a time, and that it changes nothing but rounding; draws that serve several estimates."""

import pytest
import torch

from pyro_skipvae import VAE, collapse_report
from pyro_skipvae.decoders import MLPDecoder, PixelCNNDecoder
from pyro_skipvae.diagnostics.estimates.log_likelihood import importance_estimate
from pyro_skipvae.diagnostics.pairs import working_set
from pyro_skipvae.diagnostics.pairs.evaluation import as_found
from pyro_skipvae.diagnostics.pairs.pair import Pair
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.priors import StandardNormal

FIELDS = ("elbo", "distortion", "rate", "log_likelihood", "log_likelihood_tenth", "shuffled_latent_loss")


def images(count, side):
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(0)).bernoulli()


def pixelcnn(side, layers=2, maps=8):
    torch.manual_seed(0)
    decoder = PixelCNNDecoder(3, (side, side), layers=layers, maps=maps)
    return VAE(StandardNormal(3), decoder, MLPEncoder((side, side), 3, hidden=(8,)))


@pytest.mark.parametrize("side, expected", [(28, range(16, 17)), (8, range(50, 100))])
def test_large_convolutions_run_few_rows_at_a_time(side, expected):
    vae = pixelcnn(side, maps=32)
    assert Pair(vae.model, vae.guide, images(8, side)).rows_at_a_time in expected


def test_other_networks_run_many():
    vae = VAE(StandardNormal(3), MLPDecoder(3, (28, 28)), MLPEncoder((28, 28), 3))
    assert Pair(vae.model, vae.guide, images(8, 28)).rows_at_a_time == 256
    assert Pair(vae.model, vae.guide, images(8, 28), rows=7).rows_at_a_time == 7


def test_a_report_is_the_same_however_many_rows_run_at_a_time(monkeypatch):
    vae, x = pixelcnn(4), images(40, 4)
    settings = {"importance_samples": 20, "posterior_samples": 3}
    whole = collapse_report(vae.model, vae.guide, x, **settings)
    monkeypatch.setattr(working_set, "CACHE", 1)
    monkeypatch.setattr(working_set, "FEWEST", 7)
    pieces = collapse_report(vae.model, vae.guide, x, **settings)
    for name in FIELDS:
        assert getattr(pieces, name) == pytest.approx(getattr(whole, name), abs=1e-4)
    assert pieces.mi_lower == whole.mi_lower
    under, other = pieces.model_mutual_information, whole.model_mutual_information
    assert under.lower.value == pytest.approx(other.lower.value, abs=1e-4)


def test_weights_that_are_known_are_the_first_of_k(monkeypatch):
    vae, x = pixelcnn(4), images(10, 4)
    with as_found(vae.model, vae.guide, x=x, seed=0, samples=(1,)) as rows:
        pair = Pair(vae.model, vae.guide, rows)
        chunks, known = list(pair.chunks()), torch.randn(30, 10, dtype=torch.float64)
        some = importance_estimate(pair, chunks, points=4, samples=20, known=known[:7])
        monkeypatch.setattr(pair, "log_joint", None)  # nothing is left to be drawn
        found = importance_estimate(pair, chunks, points=4, samples=20, known=known)
    used = known[:20, :4]
    torch.testing.assert_close(found.log_likelihood, used.logsumexp(0) - torch.tensor(20.0).log())
    torch.testing.assert_close(found.tenth, used.view(10, 2, 4).logsumexp(1).mean(0) - torch.tensor(2.0).log())
    weights = used.softmax(0)
    torch.testing.assert_close(found.effective_samples, 1 / weights.square().sum(0))
    assert torch.all(some.log_likelihood > known[:7, :4].logsumexp(0) - torch.tensor(20.0).log())


def test_the_bound_and_the_likelihood_share_their_draws():
    """With K draws for both, log p_K(x) of one draw is the ELBO's own weight: the two agree exactly."""
    vae, x = pixelcnn(4), images(12, 4)
    report = collapse_report(vae.model, vae.guide, x, importance_samples=1, posterior_samples=1)
    with as_found(vae.model, vae.guide, x=x, seed=0, samples=(1,)) as rows:
        pair = Pair(vae.model, vae.guide, rows)
        (chunk,) = pair.chunks()
        z, log_q = chunk.draws(1)
        log_x, log_p = pair.log_joint(torch.arange(12), {"z": z[0]})
    assert report.distortion == pytest.approx(-log_x.mean().item(), abs=1e-5)
    assert report.log_likelihood == pytest.approx((log_x + log_p["z"] - log_q[0]).mean().item(), abs=1e-5)
