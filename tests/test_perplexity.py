"""Perplexity: what is divided by what, and its interval."""

import math

import pytest
import torch

from pyro_skipvae.diagnostics.perplexity import perplexities, perplexity


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
    assert found["tokens"] == 8 and found["importance_samples"] == 200 and "unknown" in found["counted"]
