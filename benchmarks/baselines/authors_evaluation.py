"""Mutual information and importance sampling in the structure of the paper's authors: a port of the structure, not of the text.

The information is a loop over draws of z, each against all posteriors at once; importance sampling decodes all K draws of an
image in one pass.
"""

import math

import torch
from torch.nn import functional as F

from .authors_pixelcnn import natural_parameters


def log_aggregate(z, loc, log_variance):
    """log 1/N sum_j q(z_i | x_j), (M,), at z (M, D) for posteriors of means and log-variances (N, D)."""
    found = []
    for row in z:
        squares = (row - loc).square() / log_variance.exp()
        log_q = -0.5 * squares.sum(1) - 0.5 * (loc.shape[1] * math.log(2 * math.pi) + log_variance.sum(1))
        found.append(log_q.logsumexp(0) - math.log(len(loc)))
    return torch.stack(found)


def log_weights(decoder, x, z, loc, scale):
    """log p(x, z_k) - log q(z_k | x), (K,), of one image x (H, W) and K draws z (K, D), with a posterior (D,)."""
    image = x.expand(len(z), *x.shape)
    eta = natural_parameters(decoder, image, z)[:, 0]
    log_x = -F.binary_cross_entropy_with_logits(eta, image, reduction="none").flatten(1).sum(1)
    log_p = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    log_q = -0.5 * (((z - loc) / scale).square() + math.log(2 * math.pi)).sum(1) - scale.log().sum()
    return log_x + log_p - log_q
