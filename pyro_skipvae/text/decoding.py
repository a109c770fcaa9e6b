"""The one text that stands for a z: greedy and beam decoding; and the way from one z to another.

Each reads the decoder as it is: in training mode there is dropout, so call `decoder.eval()` before.
"""

import torch
from pyro.distributions import constraints
from torch.nn.functional import normalize

from .vocabulary import BOS, EOS, PAD


def greedy(decoder, z):
    """The most probable next word, again and again: z (N, D) -> x (N, max_length), PAD after EOS."""
    with torch.no_grad():
        p = decoder(z)
        return p.network.generate(p.z, choose=lambda logits: logits.argmax(-1))[0]


@torch.no_grad()
def beam(decoder, z, *, width=5):
    """The most probable text found by keeping the `width` best beginnings: z (N, D) -> x (N, max_length), PAD after EOS.

    A beginning counts by its plain log-probability, without a correction for length, so short texts are favoured; one that
    has ended keeps its place until `width` others are better. Width 1 is `greedy`, a width of all beginnings is exact.
    Raises ValueError for a width below 1.
    """
    if width < 1:
        raise ValueError(f"expected a beam of at least 1, got width={width}")
    p = decoder(z)
    network, z, N = p.network, p.z, len(z)
    z = z.repeat_interleave(width, 0)  # (N * width, D): the beams of one z are neighbours
    first = torch.arange(N, device=z.device)[:, None] * width
    memory, word = network.start(z), torch.full((N * width,), BOS, device=z.device)
    x = word.new_full((N * width, network.max_length), PAD)
    score = z.new_full((N, width), -torch.inf)
    score[:, 0] = 0  # all beams of one z are alike before the first word: one of them counts
    ended = torch.zeros_like(word, dtype=torch.bool)
    for t in range(network.max_length):
        logits, memory = network.next_word(word, network.latent_at(z, t), memory)
        score, best = _best(score, _extended(logits, ended), width)
        rows, word = (first + best // logits.shape[-1]).flatten(), (best % logits.shape[-1]).flatten()
        x, ended, memory = x[rows], ended[rows] | (word == EOS), [part[rows] for part in memory]
        x[:, t] = word
        if ended.all():
            break
    return x.unflatten(0, (N, width))[torch.arange(N, device=z.device), score.argmax(1)]


def _extended(logits, ended):
    """log p of each next word (N * width, V); after the end only PAD, which is certain."""
    log_prob = logits.log_softmax(-1).masked_fill(ended[:, None], -torch.inf)
    log_prob[:, PAD] = torch.where(ended, 0.0, log_prob[:, PAD])
    return log_prob


def _best(score, log_prob, width):
    """The `width` best continuations of all beams of one z: their scores (N, width) and places beam * V + word."""
    candidates = score[..., None] + log_prob.unflatten(0, score.shape)  # (N, width, V)
    return candidates.flatten(1).topk(width, 1)


def on_support(prior, z):
    """z (..., D), or of a prior on the unit sphere its directions: a decoder has seen no other z."""
    return normalize(z, dim=-1) if prior().support is constraints.sphere else z


def interpolate(z_a, z_b, points):
    """`points` latents on the straight line from z_a to z_b, both included: (..., D) twice -> (points, ..., D).

    Reference: Bowman et al. 2016, section 5.3.
    """
    weight = torch.linspace(0, 1, points, dtype=z_a.dtype, device=z_a.device).reshape(-1, *[1] * z_a.dim())
    return torch.lerp(z_a, z_b, weight)
