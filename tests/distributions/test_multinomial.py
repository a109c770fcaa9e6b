"""Counts given their total: the probabilities, their gradient, draws and means; and the ranking of items held out."""

import math
from itertools import product
from types import SimpleNamespace

import pyro.distributions as dist
import pytest
import torch

from pyro_skipvae import likelihoods
from pyro_skipvae.diagnostics.estimates.ranking import ndcg_at_k, ranking, recall_at_k
from pyro_skipvae.distributions import MultinomialGivenTotal


def test_the_counts_of_each_total_sum_to_one_and_torch_agrees_on_one_total(float64):
    logits = torch.randn(2, 3)
    p = MultinomialGivenTotal(logits, validate_args=True)
    for total in range(4):
        x = torch.tensor([row for row in product(range(total + 1), repeat=3) if sum(row) == total], dtype=logits.dtype)
        torch.testing.assert_close(p.log_prob(x[:, None]).logsumexp(0), torch.zeros(2), rtol=0, atol=1e-12)
        torch.testing.assert_close(p.log_prob(x[:, None]), dist.Multinomial(total, logits=logits).log_prob(x[:, None]))
    with pytest.raises(ValueError, match="within the support"):
        p.log_prob(torch.tensor([1.0, 0.5, 0.0]))


def test_the_gradient_is_the_counts_less_their_expectation(float64):
    logits = torch.randn(4, 5, requires_grad=True)
    x = torch.tensor([[0, 0, 0, 0, 0], [1, 0, 3, 0, 0], [2, 2, 2, 2, 2], [9, 0, 0, 0, 1]]).double()
    (found,) = torch.autograd.grad(MultinomialGivenTotal(logits).log_prob(x).sum(), logits)
    torch.testing.assert_close(found, x - x.sum(1, keepdim=True) * logits.detach().softmax(1))


def test_draws_have_the_totals_and_the_mean():
    torch.manual_seed(0)
    totals = torch.tensor([0.0, 2.0, 7.0])
    p = likelihoods.multinomial_about(torch.tensor([0.2, 0.3, 0.5]), totals)(torch.zeros(6, 3, 1), 1).expand((2, 6))
    x = p.sample((3000,))
    assert x.shape == (3000, 2, 6, 3) and set(x.sum(-1).unique().tolist()) == set(totals.tolist())
    torch.testing.assert_close(p.mean[0, 0], torch.tensor([0.6, 0.9, 1.5]))
    assert (((x.mean(0) - p.mean) / (x.std(0) / 3000**0.5)).abs() < 5).all()
    with pytest.raises(NotImplementedError, match="expected totals"):
        likelihoods.multinomial(torch.zeros(3, 1), 1).sample()
    with pytest.raises(ValueError, match="shares above 0"):
        likelihoods.multinomial_about(torch.tensor([0.0, 1.0]), totals)
    with pytest.raises(ValueError, match="totals of at least 0"):
        likelihoods.multinomial_about(torch.tensor([0.5, 0.5]), totals[:0])


def test_recall_and_ndcg_of_a_known_order():
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]]).expand(3, 5)
    held_out = torch.tensor([[1, 0, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1.0]])
    torch.testing.assert_close(recall_at_k(scores, held_out, 2), torch.tensor([0.5, 1.0, 0.0]).double())
    best = 1 + 1 / math.log2(3)
    torch.testing.assert_close(ndcg_at_k(scores, held_out, 3), torch.tensor([1 / best, 1.0, 0.0]).double())
    torch.testing.assert_close(ndcg_at_k(scores, held_out, 9)[2], torch.tensor(1 / math.log2(6)).double())
    assert recall_at_k(scores, torch.zeros(3, 5), 2).isnan().all()
    with pytest.raises(ValueError, match="expected k of at least 1"):
        recall_at_k(scores, held_out, 0)


def test_a_model_that_knows_the_users_ranks_all_they_chose_first():
    torch.manual_seed(0)
    group = torch.arange(40) % 2
    x = torch.zeros(40, 60)
    x[:, :10], x[:, 10:20] = (group == 0).float()[:, None], (group == 1).float()[:, None]
    knows = SimpleNamespace(
        posterior=lambda seen: dist.Normal(seen[:, :10].mean(1, keepdim=True) - seen[:, 10:20].mean(1, keepdim=True), 0.1),
        decoder=lambda z: dist.Normal(torch.cat([z.expand(-1, 10), -z.expand(-1, 10), -9 + 0 * z.expand(-1, 40)], 1), 1.0),
    )
    found = ranking(knows, torch.cat([x, torch.eye(60)[:1]]))
    assert found["users"] == 40 and found["recall@20"]["value"] == found["recall@50"]["value"] == 1
    knows.decoder = lambda z: dist.Normal(torch.cat([0 * z.expand(-1, 20) - 9, z.expand(-1, 40)], 1), 1.0)
    assert ranking(knows, x)["recall@20"]["value"] == 0
    with pytest.raises(ValueError, match="at least two users"):
        ranking(knows, torch.eye(60))


def half_bought():
    """40 rows that hold the first 30 of 100 items once each."""
    x = torch.zeros(40, 100)
    x[:, :30] = 1
    return x


def test_the_ranking_does_not_read_the_items_that_are_held_out():
    given = []

    def posterior(seen):
        given.append(seen)
        return dist.Normal(seen, 0.1)

    scores = SimpleNamespace(posterior=posterior, decoder=lambda z: dist.Normal(z + 0.5 * (torch.arange(100) >= 30), 1.0))
    assert ranking(scores, half_bought())["recall@20"]["value"] == 0  # it copies what it was given, and no more
    assert (given[0].sum(1) == 24).all()  # a fifth of the 30 is hidden


def test_items_that_were_seen_take_no_place_in_the_ranking():
    likes = SimpleNamespace(
        posterior=lambda seen: dist.Normal(seen, 0.1), decoder=lambda z: dist.Normal(z + (torch.arange(100) < 30), 1.0)
    )
    assert ranking(likes, half_bought())["recall@20"]["value"] == 1
