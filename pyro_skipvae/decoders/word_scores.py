"""The output layer of a text decoder with its softmax: log-probabilities of words, twice differentiable by hand.

Everything of size M x V costs more than all the rest of a text model. Here each pass is its matrix products and as few sweeps
as can be, over pieces that stay in the cache; of the softmax no more than so many bytes are kept for the backward pass, what
is beyond is made anew.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pyro_skipvae.blocks import can_look, in_full
from pyro_skipvae.guides.recurrence import SECOND_DERIVATIVE

PIECE = 320  # places: smaller pieces lose to the sums of the weights' gradients, larger ones leave the cache
KEPT = 160 * 2**20
KEPT_IN_A_REFINEMENT = 32 * 2**20  # each of its steps keeps that much


def word_scores(features: Tensor, weight: Tensor, bias: Tensor, words: Tensor) -> Tensor:
    """log p(word) = logit_word - log sum_v exp(logit_v), logits = features weight' + bias, at each of M places.

    features (M, F), weight (V, F), bias (V,) with -inf for words that cannot be, words (M,) -> (M,). Differentiable twice.
    """
    features = in_full(features)  # the softmax is a density
    with torch.autocast(features.device.type, enabled=False):
        return _word_scores(features, weight, bias, words)


def _word_scores(features: Tensor, weight: Tensor, bias: Tensor, words: Tensor) -> Tensor:
    refining = SECOND_DERIVATIVE.get() is not None
    most = KEPT_IN_A_REFINEMENT if refining else KEPT
    scores, kept = _forward(features, weight, bias, words, most if torch.is_grad_enabled() else 0)
    if not torch.is_grad_enabled():
        return scores
    tensors = (features, weight, bias, words, *kept)
    if refining or not (features.requires_grad and weight.requires_grad):
        # Two nodes, each an edge to its own inputs alone: where only the gradient on the features is asked for, as in the
        # steps of a refinement, that of the weights is not made.
        return _ByFeatures.apply(features, scores, tensors) + _ByWeight.apply(weight, bias, tensors)
    return _ByBoth.apply(features, weight, bias, scores, tensors)  # and one, which makes each softmax anew but once


@torch.no_grad()
def _forward(features: Tensor, weight: Tensor, bias: Tensor, words: Tensor, most: int) -> Any:
    """log p(word) (M,), and the softmax of the first pieces, `most` bytes of it."""
    scores = features.new_empty(len(features))
    kept: list[Tensor] = []
    for number, piece in enumerate(_pieces(words)):
        if can_look(words):
            p, scores[piece] = _softmax_and_scores(features[piece], weight, bias, words[piece])
        else:
            p, scores[piece] = _softmax_and_scores_unseen(features[piece], weight, bias, words[piece])
        if len(kept) == number and p.nbytes * (number + 1) <= most:
            kept.append(p)
    return scores, kept


def _softmax_and_scores(features: Tensor, weight: Tensor, bias: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    p = _softmax(features, weight, bias)
    named = p.gather(1, words[:, None])[:, 0]
    if not (named < torch.finfo(p.dtype).tiny).any():
        return p, named.log()
    logits = torch.addmm(bias, features, weight.T)  # underflow: the logarithm has to come first
    return p, logits.log_softmax(-1).gather(1, words[:, None])[:, 0]


def _softmax_and_scores_unseen(features: Tensor, weight: Tensor, bias: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """The same without a look at what underflows."""
    logits = torch.addmm(bias, features, weight.T)
    total = logits.logsumexp(-1, keepdim=True)
    scores = (logits.gather(1, words[:, None]) - total)[:, 0]
    return logits.sub_(total).exp_(), scores


class _ByFeatures(Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, scores: Tensor, tensors: Any) -> Any:
        ctx.save_for_backward(*tensors)
        return scores.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _OnFeatures.apply(g, *ctx.saved_tensors), None, None


class _ByWeight(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, tensors: Any) -> Any:
        ctx.save_for_backward(*tensors)
        return weight.new_zeros(len(tensors[0]))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return *_OnWeight.apply(g, *ctx.saved_tensors), None


class _ByBoth(Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, scores: Tensor, tensors: Any) -> Any:
        ctx.save_for_backward(*tensors)
        return scores.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return *_OnBoth.apply(g, *ctx.saved_tensors), None, None


class _OnFeatures(Function):
    """The gradient D weight on the features, D = g (onehot - p), (M, V); and its derivative."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, features: Tensor, weight: Tensor, bias: Tensor, words: Tensor, *kept: Tensor) -> Any:
        ctx.save_for_backward(g, features, weight, bias, words, *kept)
        found = torch.empty_like(features)
        for piece, p in _softmaxes(features, weight, bias, words, kept):
            torch.sub(weight[words[piece]], p @ weight, out=found[piece])
        return found.mul_(g[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, a: Tensor) -> Any:
        return _derivative(*ctx.saved_tensors, a_features=a)


class _OnWeight(Function):
    """The gradients D' features on the weight and, as the column sums of D, on the bias; and their derivative."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, features: Tensor, weight: Tensor, bias: Tensor, words: Tensor, *kept: Tensor) -> Any:
        ctx.save_for_backward(g, features, weight, bias, words, *kept)
        on_weight, on_bias, scaled = torch.zeros_like(weight), torch.zeros_like(bias), features * g[:, None]
        for piece, p in _softmaxes(features, weight, bias, words, kept):
            on_weight.addmm_(p.T, scaled[piece], alpha=-1)
            on_bias.addmv_(p.T, g[piece], alpha=-1)
        return on_weight.index_add_(0, words, scaled), on_bias.index_add_(0, words, g)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, a_weight: Tensor, a_bias: Tensor) -> Any:
        return _derivative(*ctx.saved_tensors, a_weight=a_weight, a_bias=a_bias)


class _OnBoth(Function):
    """The gradients of both at once; and their derivative."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, features: Tensor, weight: Tensor, bias: Tensor, words: Tensor, *kept: Tensor) -> Any:
        ctx.save_for_backward(g, features, weight, bias, words, *kept)
        on_features, scaled = torch.empty_like(features), features * g[:, None]
        on_weight, on_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for piece, p in _softmaxes(features, weight, bias, words, kept):
            torch.sub(weight[words[piece]], p @ weight, out=on_features[piece])
            on_weight.addmm_(p.T, scaled[piece], alpha=-1)
            on_bias.addmv_(p.T, g[piece], alpha=-1)
        return on_features.mul_(g[:, None]), on_weight.index_add_(0, words, scaled), on_bias.index_add_(0, words, g)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, a_features: Tensor, a_weight: Tensor, a_bias: Tensor) -> Any:
        parts = _derivative(*ctx.saved_tensors, a_features=a_features)
        others = _derivative(*ctx.saved_tensors, a_weight=a_weight, a_bias=a_bias)
        return *(a + b for a, b in zip(parts[:4], others[:4], strict=True)), *parts[4:]


def _derivative(
    g: Tensor,
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    words: Tensor,
    *kept: Tensor,
    a_features: Tensor | None = None,
    a_weight: Tensor | None = None,
    a_bias: Tensor | None = None,
) -> Any:
    """Of a_features . (D weight), or of a_weight . (D' features) + a_bias . (D' 1), on g, features, weight and bias.

    With T = a_features weight', or features a_weight' + a_bias, which D multiplies: g gets T_word - p T, the logits
    -g p (T - p T); what stands beside D gets D' a_features, or D a_weight.
    """
    on_g, on_features = torch.empty_like(g), torch.zeros_like(features)
    on_weight, on_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    scaled = features * g[:, None]
    for piece, p in _softmaxes(features, weight, bias, words, kept):
        if a_features is not None:
            beside = a_features[piece] * g[piece, None]
            T = a_features[piece] @ weight.T
            on_weight.addmm_(p.T, beside, alpha=-1).index_add_(0, words[piece], beside)
        else:
            T = torch.addmm(a_bias, features[piece], a_weight.T)
            on_features[piece] = a_weight[words[piece]] - p @ a_weight
        named = T.gather(1, words[piece, None])
        mean = T.mul_(p).sum(-1, keepdim=True)
        on_g[piece] = (named - mean)[:, 0]
        T.addcmul_(p, mean, value=-1)
        on_features[piece] -= T @ weight
        on_weight.addmm_(T.T, scaled[piece], alpha=-1)
        on_bias.addmv_(T.T, g[piece], alpha=-1)
    return on_g, on_features.mul_(g[:, None]), on_weight, on_bias, None, *(None for _ in kept)


def _softmaxes(features: Tensor, weight: Tensor, bias: Tensor, words: Tensor, kept: Tensor) -> Any:
    """(piece, p) one after the other, kept or made anew."""
    for number, piece in enumerate(_pieces(words)):
        fresh = number >= len(kept)
        yield piece, _softmax(features[piece], weight, bias) if fresh else kept[number]


def _softmax(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    logits = torch.addmm(bias, features, weight.T)
    return torch.softmax(logits, -1, out=logits)  # in place: new memory costs as much as a sweep


def _pieces(words: Tensor) -> Any:
    return [slice(start, start + PIECE) for start in range(0, len(words), PIECE)]
