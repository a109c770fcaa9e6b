"""Perplexity: what is divided by what, and its interval."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_skipvae import collapse_report
from pyro_skipvae.callables import as_pair
from pyro_skipvae.diagnostics.estimates.perplexity import perplexities, perplexity, perplexity_difference
from pyro_skipvae.distributions.multinomial import MultinomialGivenTotal


def test_sums_are_divided_not_averages():
    nats, tokens = torch.tensor([10.0, 2.0]), torch.tensor([5, 2])
    assert perplexity(nats, tokens).value == pytest.approx(math.exp(12 / 7), rel=1e-12)


def test_a_uniform_guess_has_the_size_of_the_vocabulary_and_no_error():
    tokens = torch.tensor([3, 7, 12, 1])
    found = perplexity(tokens.double() * math.log(50), tokens)
    assert (found.value, found.low, found.high) == pytest.approx((50, 50, 50), rel=1e-9)


def test_the_interval_covers_the_ratio_of_the_means():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 40, (400, 500), generator=generator)
    nats = 4.0 * tokens + torch.randn(400, 500, generator=generator) * tokens.double().sqrt()
    found = [perplexity(*row) for row in zip(nats, tokens, strict=True)]
    assert sum(f.low < math.exp(4.0) < f.high for f in found) / 400 == pytest.approx(0.95, abs=0.035)  # 3 sd of 400 trials


def test_each_bound_stands_on_its_own_points():
    fields = {"elbo": torch.tensor([-4.0, -6.0, -8.0]), "log_likelihood": torch.tensor([-3.0, -5.0])}
    found = perplexities(fields, torch.tensor([2, 2, 4]), 200)
    assert found["ppl_elbo"]["value"] == pytest.approx(math.exp(18 / 8))
    assert found["ppl_iw"]["value"] == pytest.approx(math.exp(8 / 4))
    assert [found[name][what] for name in ("ppl_elbo", "ppl_iw") for what in ("texts", "tokens")] == [3, 8, 2, 4]
    assert found["tokens"] == 8 and found["importance_samples"] == 200 and "unknown" in found["counted"]


def test_a_paired_difference_leaves_out_what_is_hard_for_both():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 40, (400, 500), generator=generator)
    hard = torch.randn(400, 500, generator=generator) * 10
    first, second = (rate * tokens + hard + torch.randn(400, 500, generator=generator) for rate in (3.0, 2.9))
    found = [perplexity_difference(*row) for row in zip(first, second, tokens, strict=True)]
    for one, other, row in zip(first[:3], second[:3], tokens[:3], strict=True):
        apart = perplexity(one, row).value - perplexity(other, row).value
        assert perplexity_difference(one, other, row).value == pytest.approx(apart)
    truth = math.exp(3.0) - math.exp(2.9)
    assert sum(f.low < truth < f.high for f in found) / 400 == pytest.approx(0.95, abs=0.035)  # 3 sd of 400 trials
    apart = perplexity(first[0], tokens[0])
    assert found[0].high - found[0].low < (apart.high - apart.low) / 4


@pytest.mark.parametrize("counted", [MultinomialGivenTotal, lambda logits: dist.Multinomial(6, logits=logits)])
def test_counts_have_the_perplexity_of_their_words_in_an_order(counted):
    """Words that are all as probable have that of their number, whatever the coefficient of the multinomial."""
    torch.manual_seed(0)
    docs = torch.distributions.Multinomial(6, logits=torch.zeros(30)).sample((400,))
    model, guide = as_pair(lambda x: (x[:, :2] * 0, x[:, :2] * 0 + 1), lambda z: z.new_zeros(len(z), 30), likelihood=counted)
    found = collapse_report(model, guide, docs, tokens=docs.sum(1), importance_samples=3).perplexity
    for name in ("ppl_iw", "ppl_elbo"):
        assert found[name]["value"] == pytest.approx(30, rel=1e-4) and found[name]["tokens"] == 2400
