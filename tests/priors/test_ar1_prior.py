"""What an AR(1) prior commits: the published values, the bound, and what it does not bound."""

import math

import pyro.distributions as dist
import pytest
import torch
from command_line import skipvae
from torch.distributions import kl_divergence

from pyro_skipvae import VAE, collapse_report
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.priors import AR1, committed_rate, correlation_for
from pyro_skipvae.priors.ar1 import evenly_spaced


@pytest.mark.parametrize(
    ("high", "channels", "bits", "published"), [(0.95, 8, 79.447, 79.44), (0.99, 64, 666.629, 666.6)], ids=["low", "high"]
)
def test_the_two_rates_of_the_paper(high, channels, bits, published):
    found = committed_rate(32, evenly_spaced(0.5, high, channels)) / math.log(2)
    assert found == pytest.approx(bits, abs=5e-4) and found == pytest.approx(published, abs=0.05)


def test_rates_of_two_steps():
    assert [round(committed_rate(2, a), 3) for a in (0.0, 0.5, 0.8, 0.95)] == [0.0, 0.144, 0.511, 1.164]


@pytest.mark.parametrize(("length", "correlation", "nats"), [(8, 0.9, 2.610), (16, 0.99, 6.741), (64, 0.5, 7.061)])
def test_rates_of_longer_sequences(length, correlation, nats):
    assert committed_rate(length, correlation) == pytest.approx(nats, abs=5e-4)
    assert committed_rate(length, [correlation] * 3) == pytest.approx(3 * committed_rate(length, correlation))


@pytest.mark.parametrize("length", [2, 3, 7])
def test_no_factorised_posterior_gets_below(length, float64):
    torch.manual_seed(0)
    a = [0.3, 0.6, 0.9]
    prior = AR1(length, 3, correlation=a)
    near = torch.rand(10_000, 1, 1) * 2  # from far away to next to the minimiser
    minimum = minimiser(length, torch.tensor(a))
    loc, log_scale = near * torch.randn(2, 10_000, length, 3)
    kl = kl_divergence(dist.Normal(loc, minimum * log_scale.exp()).to_event(2), prior())
    least = committed_rate(length, a)
    assert kl.min() >= least - 1e-9 and prior.committed_rate() == pytest.approx(least)
    attained = kl_divergence(dist.Normal(torch.zeros(length, 3), minimum).to_event(2), prior())
    assert attained.item() == pytest.approx(least, abs=1e-6)


def minimiser(length, a):
    """Standard deviations (length, channels) of the nearest factorised posterior."""
    variance = ((1 - a**2) / (1 + a**2)).expand(length, -1).clone()
    variance[0] = variance[-1] = 1 - a**2
    return variance.sqrt()


def test_the_bound_is_on_the_rate_and_not_on_the_information():
    class Ignorant(torch.nn.Module):
        def forward(self, x):
            scale = minimiser(6, prior.correlation).expand(len(x), -1, -1)
            return dist.Normal(torch.zeros_like(scale), scale).to_event(2)

    torch.manual_seed(0)
    prior = AR1(6, 2, correlation=0.8)
    vae = VAE(prior, MLPDecoder((6, 2), (4,), layers=1, width=8), Ignorant())
    report = collapse_report(vae.model, vae.guide, torch.rand(64, 4).bernoulli(), importance_samples=5)
    assert report.rate == pytest.approx(prior.committed_rate(), rel=1e-5) and report.rate > 3
    assert report.mi_lower.high < 1e-3 and report.active_units == 0
    assert report.collapse_thresholds is None and min(report.rate_per_dimension) > 0.1  # committed, and so no use of z
    assert report.card["latent_shape"] == [6, 2] and len(report.active_unit_variances) == 12


@pytest.mark.parametrize(
    ("length", "channels", "rate", "correlation"), [(28, 8, 10, 0.311), (16, 64, 20, 0.206), (64, 4, 10, 0.287)]
)
def test_the_correlation_of_a_rate(length, channels, rate, correlation):
    found = correlation_for(rate, length, channels)
    assert found == pytest.approx(correlation, abs=5e-4)
    assert committed_rate(length, [found] * channels) == pytest.approx(rate, rel=1e-12)


def test_the_prior_is_fixed_or_learned_within_bounds():
    fixed = AR1(5, 2, correlation=[0.3, 0.9])
    assert not list(fixed.parameters()) and fixed().event_shape == (5, 2) and fixed().batch_shape == ()
    assert fixed.double()().sample().dtype == torch.float64
    learned = AR1(5, 2, correlation=0.5, learn=True, bounds=(0.4, 0.9))
    torch.testing.assert_close(learned.correlation, torch.tensor([0.5, 0.5]))
    for sign, end in ((1, 0.9), (-1, 0.4)):
        learned.logits.data.fill_(sign * 100.0)
        assert learned.correlation.allclose(torch.tensor(end)) and learned.committed_rate() == pytest.approx(
            committed_rate(5, [end, end]), rel=1e-5
        )
    learned.logits.data.fill_(0.0)
    learned().log_prob(torch.ones(5, 2)).backward()
    assert learned.logits.grad.all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AR1(4, 2, correlation=0.0), "strictly between 0 and 1, got 0"),
        (lambda: AR1(4, 2, correlation=1.0), "strictly between 0 and 1, got 1"),
        (lambda: AR1(4, 2, correlation=-0.5), "strictly between 0 and 1, got -0.5"),
        (lambda: AR1(4, 2, correlation="high"), "a correlation as a number, or one for each channel, got .high."),
        (lambda: AR1(4, 2, correlation=[0.1, 0.2, 0.3]), "one for each of 2 channels, got 3"),
        (lambda: AR1(1, 2, correlation=0.5), "length of at least 2 steps"),
        (lambda: AR1(4, 0, correlation=0.5), "channels to be a whole number of at least 1, got 0"),
        (lambda: AR1(4, 2, correlation=0.5, learn=True, bounds=(0.6, 0.9)), "to learn it within these bounds"),
        (lambda: committed_rate(1, 0.5), "length of at least 2 steps"),
        (lambda: committed_rate(4, 1.0), "at least 0 and below 1, got 1"),
        (lambda: committed_rate(4, -0.5), "at least 0 and below 1, got -0.5"),
        (lambda: correlation_for(1000.0, 28, 8), r"at most 96.84 nats, .*got 1000; .*\(ln 2\)/2 = 0.347 nats"),
        (lambda: correlation_for(0.0, 28, 8), "above 0 nats, got 0"),
        (lambda: correlation_for(math.nan, 28, 8), "above 0 nats, got nan"),
        (lambda: correlation_for(1.0, 28, 0), "channels to be a whole number of at least 1, got 0"),
    ],
)
def test_what_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_target_rate_both_ways(tmp_path):
    import json

    there = json.loads(skipvae("target-rate", "--rate", 10, "--length", 28, "--channels", 8, "--json", cwd=tmp_path).stdout)
    assert there["correlation"] == [pytest.approx(0.310859, abs=1e-6)] * 8 and there["bits"] == pytest.approx(10 / math.log(2))
    back = skipvae("target-rate", "--correlation", "0.5:0.95", "--length", 32, "--channels", 8, cwd=tmp_path).stdout
    assert "79.4472 bits" in back and "0.3466 nats, (ln 2)/2" in back and "0.5 to 0.95" in back


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--rate 1000", "at most 96.84 nats"),
        ("--correlation 1.2", "between 0 and 1, or LOW:HIGH"),
        ("--correlation x", "between 0 and 1, or LOW:HIGH"),
        ("--rate 3 --correlation 0.5", "got both"),
        ("", "got neither"),
    ],
)
def test_target_rate_refuses(flags, said, tmp_path):
    done = skipvae("target-rate", *flags.split(), "--length", 28, "--channels", 8, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr
