"""The output layer of text by hand: its value and both derivatives against autograd's, kept or made anew, in any pieces."""

from contextvars import ContextVar

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from pyro_skipvae.decoders import word_scores as module
from pyro_skipvae.decoders.word_scores import word_scores
from pyro_skipvae.guides.recurrence import differentiable_recurrence

M, D, V = 7, 5, 11


@pytest.fixture(params=[(2**20, 400), (2**20, 2), (0, 2), (5 * V * 8, 2)], ids=["whole", "pieces", "anew", "partly anew"])
def _sizes(request, monkeypatch):
    monkeypatch.setattr(module, "KEPT", request.param[0])
    monkeypatch.setattr(module, "KEPT_IN_A_REFINEMENT", request.param[0])
    monkeypatch.setattr(module, "PIECE", request.param[1])


def inputs():
    generator = torch.Generator().manual_seed(0)
    features, weight, bias = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((M, D), (V, D), (V,)))
    return *(part.requires_grad_() for part in (features, weight, bias)), torch.randint(2, V, (M,), generator=generator)


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("twice", [None, True], ids=["outside", "in a refinement"])
def test_value_and_derivatives(twice, monkeypatch):
    monkeypatch.setattr(module, "SECOND_DERIVATIVE", ContextVar("twice", default=twice))
    *parts, words = inputs()
    features, weight, bias = parts
    expected = -F.cross_entropy(features @ weight.T + bias, words, reduction="none")
    torch.testing.assert_close(word_scores(*parts, words), expected)
    assert gradcheck(word_scores, (*parts, words)) and gradgradcheck(word_scores, (*parts, words))
    impossible = torch.zeros(V, dtype=torch.float64).index_fill(0, torch.tensor([0, 1]), -torch.inf)
    assert gradgradcheck(lambda f, w, b: word_scores(f, w, b + impossible, words), parts)


def test_a_word_whose_probability_underflows_has_its_logarithm():
    features, weight = torch.tensor([[1.0]]), torch.tensor([[300.0], [0.0]])
    assert word_scores(features, weight, torch.zeros(2), torch.tensor([1])).item() == -300.0


def test_the_gradient_of_the_weights_is_made_only_where_it_is_asked_for(monkeypatch):
    made, on_weight = [], module._OnWeight.apply
    monkeypatch.setattr(module._OnWeight, "apply", lambda *arguments: made.append(1) or on_weight(*arguments))
    *parts, words = inputs()
    for twice in (False, True):
        with differentiable_recurrence(words.device, twice=twice):
            torch.autograd.grad(word_scores(*parts, words).sum(), parts[0])
            assert not made
    with differentiable_recurrence(words.device):
        torch.autograd.grad(word_scores(*parts, words).sum(), parts)
    assert made


def test_a_softmax_that_is_not_kept_is_made_anew_once_for_all_gradients(monkeypatch):
    made, softmax = [], module._softmax
    monkeypatch.setattr(module, "KEPT", 0)
    monkeypatch.setattr(module, "_softmax", lambda *arguments: made.append(1) or softmax(*arguments))
    *parts, words = inputs()
    torch.autograd.grad(word_scores(*parts, words).sum(), parts)
    assert len(made) == 2


def test_no_places():
    *parts, words = inputs()
    scores = word_scores(parts[0][:0], *parts[1:], words[:0])
    assert scores.shape == (0,) and not torch.autograd.grad(scores.sum(), parts[1])[0].any()
