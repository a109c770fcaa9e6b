"""The loss of a text model in the structure of the paper's authors: all logits, log-softmax, a loop over the words."""

from torch.nn import functional as F


def cross_entropy(logits, words):
    """- sum log p(word) of logits (B, T, V) at words (B, T)."""
    log_p = logits.log_softmax(-1)
    return sum(F.nll_loss(log_p[:, t], words[:, t], reduction="sum") for t in range(words.shape[1]))
