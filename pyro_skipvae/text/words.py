"""What a row of words is: where it ends, and whether it can be said at all."""

import torch

from .vocabulary import BOS, EOS, PAD


def row_lengths(x):
    """The words of each row up to its first EOS, which counts, or else up to its last word: x (..., T) -> (...)."""
    places = torch.arange(1, x.shape[-1] + 1, device=x.device)
    first_end = torch.where(x == EOS, places, x.shape[-1] + 1).amin(-1)
    last_word = torch.where(x != PAD, places, 0).amax(-1)
    return torch.where(first_end <= x.shape[-1], first_end, last_word)


def is_outcome(x, max_length):
    """Whether each row, padded to `max_length`, is one that a text decoder can draw: x (..., T) -> bool (...).

    It is words, an EOS, and PAD after that; or `max_length` words without EOS. PAD and BOS are never words. A shorter row
    without EOS is the beginning of a text, not a text: its probability is the sum over its continuations, which no row has.
    """
    length = row_lengths(x)
    within = torch.arange(x.shape[-1], device=x.device) < length[..., None]
    well_formed = torch.where(within, (x != PAD) & (x != BOS), x == PAD).all(-1)
    return well_formed & ((x == EOS).any(-1) | (length == max_length))
