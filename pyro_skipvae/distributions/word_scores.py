"""The output layer of a text decoder with its softmax: log-probabilities of words, twice differentiable by hand.

Logits, their gradient and its derivative are M x V, larger than all else in a text model. Written out, each pass is one
matrix product and few sweeps, and none of them is kept where the logits of all M places are large.
"""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

KEPT = 64 * 2**20  # bytes: larger softmaxes are made anew in each pass, in pieces of half that size


def word_scores(features, weight, bias, words):
    """log p(word) = logit_word - log sum_v exp(logit_v), logits = features weight' + bias, at each of M places.

    features (M, F), weight (V, F), bias (V,) with -inf for words that cannot be, words (M,) -> (M,). Differentiable twice;
    the memory of logits is at most `KEPT` bytes, however many places there are.
    """
    return _Scores.apply(features, weight, bias, words)


class _Scores(Function):
    @staticmethod
    def forward(ctx, features, weight, bias, words):
        scores, kept = [], _fits(features, bias)
        for piece in _pieces(features, bias):
            logits = torch.addmm(bias, features[piece], weight.T)
            named = logits.gather(1, words[piece, None])[:, 0]
            p = logits.softmax(-1)
            scores.append(named - logits.amax(-1) + p.amax(-1).log())  # log sum exp, from the likeliest word: no underflow
        ctx.save_for_backward(features, weight, bias, words, p if kept else None)
        return torch.cat(scores)

    @staticmethod
    def backward(ctx, g):
        return *_Gradient.apply(g, *ctx.saved_tensors, *ctx.needs_input_grad[1:3]), None


class _Gradient(Function):
    """D = g (onehot - p), (M, V):  to features D weight, to weight D' features, to bias the column sums of D."""

    @staticmethod
    def forward(ctx, g, features, weight, bias, words, p, to_weight, to_bias):
        ctx.save_for_backward(g, features, weight, bias, words, p)
        ctx.set_materialize_grads(False)
        on_features = torch.empty_like(features)
        on_weight = torch.zeros_like(weight) if to_weight else None
        on_bias = torch.zeros_like(bias) if to_bias else None
        for piece in _pieces(features, bias):
            D = _softmax(features, weight, bias, p, piece).mul(-g[piece, None])
            D.scatter_add_(1, words[piece, None], g[piece, None])
            torch.mm(D, weight, out=on_features[piece])
            if to_weight:
                on_weight.addmm_(D.T, features[piece])
            if to_bias:
                on_bias += D.sum(0)
        return on_features, on_weight, on_bias

    @staticmethod
    @once_differentiable
    def backward(ctx, a_features, a_weight, a_bias):
        """With T = a_features weight' + features a_weight' + a_bias: g gets T_word - p T, the logits -g p (T - p T)."""
        g, features, weight, bias, words, p = ctx.saved_tensors
        to_g, to_features, to_weight, to_bias = ctx.needs_input_grad[:4]
        on_g, on_features = torch.empty_like(g), torch.zeros_like(features)
        on_weight, on_bias = torch.zeros_like(weight) if to_weight else None, torch.zeros_like(bias) if to_bias else None
        for piece in _pieces(features, bias):
            P, f, slope, word = _softmax(features, weight, bias, p, piece), features[piece], g[piece, None], words[piece, None]
            a = None if a_features is None else a_features[piece]
            T = _tangent(a, a_weight, a_bias, f, weight)
            named, PT = T.gather(1, word), T.mul_(P)
            mean = PT.sum(-1, keepdim=True)
            on_g[piece] = (named - mean)[:, 0]
            on_logits = PT.addcmul_(P, mean, value=-1).mul_(-slope)
            if to_features:
                on_features[piece] = on_logits @ weight
            if to_weight:
                on_weight.addmm_(on_logits.T, f)
            if to_bias:
                on_bias += on_logits.sum(0)
            D = P.mul(-slope).scatter_add_(1, word, slope) if a_weight is not None or (to_weight and a is not None) else None
            if to_features and a_weight is not None:
                on_features[piece] += D @ a_weight
            if to_weight and a is not None:
                on_weight.addmm_(D.T, a)
        found = (on_g if to_g else None, on_features if to_features else None, on_weight, on_bias)
        return *found, None, None, None, None


def _tangent(a_features, a_weight, a_bias, features, weight):
    parts = [
        part @ other.T for part, other in ((a_features, weight), (features, a_weight)) if part is not None and other is not None
    ]
    T = parts[0] + parts[1] if len(parts) == 2 else parts[0] if parts else features.new_zeros(len(features), len(weight))
    return T if a_bias is None else T + a_bias


def _softmax(features, weight, bias, p, piece):
    return p[piece] if p is not None else torch.addmm(bias, features[piece], weight.T).softmax(-1)


def _fits(features, bias):
    return len(features) * len(bias) * features.element_size() <= KEPT


def _pieces(features, bias):
    """Slices of the M places: one, or pieces of half the memory that may be kept."""
    size = len(features) if _fits(features, bias) else max(1, KEPT // (2 * len(bias) * features.element_size()))
    return [slice(start, start + size) for start in range(0, max(len(features), 1), max(size, 1))]
