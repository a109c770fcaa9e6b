"""What a text model says, as strings: samples, reconstructions, the way between two texts, and what a dimension does.

All take the VAE in evaluation mode and the vocabulary of its text, and leave torch's random numbers as they were.
`decoding` is how a text is chosen out of p(x|z): "sample" draws it, "greedy" and "beam" look for the most probable one.
"""

import torch

from pyro_skipvae.diagnostics.estimates.moments import posterior_moments
from pyro_skipvae.modules import device_of
from pyro_skipvae.random_numbers import forked

from .decoding import beam, greedy, interpolate, on_support
from .vocabulary import MARKS, UNK, UNKNOWN

ROWS = 256  # texts that are decoded together
ENCODED = 500  # and encoded


def decoded(vae, vocabulary, z, *, decoding="greedy", beam_width=5, seed=0):
    """A text for each z (N, D), as strings. Raises ValueError for another way to decode, or a beam below 1."""
    choices = {
        "sample": lambda z: vae.decoder(z).sample(),
        "greedy": lambda z: greedy(vae.decoder, z),
        "beam": lambda z: beam(vae.decoder, z, width=beam_width),
    }
    if decoding not in choices:
        raise ValueError(f"expected decoding to be one of {', '.join(choices)}, got {decoding!r}")
    rows = max(1, ROWS // max(1, beam_width)) if decoding == "beam" else ROWS
    with forked([z.device], seed), torch.no_grad():
        return [vocabulary.decode(row) for part in z.split(rows) for row in choices[decoding](part).tolist()]


def samples(vae, vocabulary, *, count=8, decoding="sample", beam_width=5, seed=0):
    """`count` texts from the model: z from the prior, x from the decoder."""
    with forked([device_of(vae)], seed), torch.no_grad():
        z = vae.prior().sample((count,))
        # x goes on in numbers of its own: with those of z it would depend on z by more than the decoder.
        seed = int(torch.randint(2**62, ()))
    return decoded(vae, vocabulary, z, decoding=decoding, beam_width=beam_width, seed=seed)


def reconstructions(vae, vocabulary, x, *, decoding="greedy", beam_width=5, seed=0):
    """(text, what the model makes of it) for each row of x (N, T): x from the decoder at the mean of q(z|x)."""
    made = decoded(vae, vocabulary, posterior_means(vae, x, seed), decoding=decoding, beam_width=beam_width, seed=seed)
    return list(zip(map(vocabulary.decode, x.tolist()), made, strict=True))


def interpolation(vae, vocabulary, x_a, x_b, *, points=7, decoding="greedy", beam_width=5, seed=0):
    """(weight of the second text, text): along the straight line between the means of q(z|x_a) and q(z|x_b).

    x_a (1, T), x_b (1, T). Raises ValueError for fewer than two points. Reference: Bowman et al. 2016, section 5.3.
    """
    if points < 2:
        raise ValueError(f"expected at least 2 points, the two ends, got {points}")
    z = on_support(vae.prior, interpolate(*(posterior_means(vae, x, seed)[0] for x in (x_a, x_b)), points))  # (points, D)
    weights = torch.linspace(0, 1, points).tolist()
    return list(zip(weights, decoded(vae, vocabulary, z, decoding=decoding, beam_width=beam_width, seed=seed), strict=True))


def posterior_means(vae, x, seed=0):
    """The means of q(z|x), (N, D), on a sphere their directions; refinement, or the family, draws from the seed."""
    device = device_of(vae)
    with forked([device], seed), torch.no_grad():
        means = [posterior_moments(vae.posterior(part.to(device)))[0] for part in x.split(ENCODED)]
    return on_support(vae.prior, torch.cat(means))


def read_text(text, vocabulary, max_length):
    """(x (1, T), its words that the vocabulary lacks) of a text, its words between blanks.

    Raises ValueError for a text that is empty, longer than the model reads, has no word that the model knows, or has marks of
    begin, end or padding.
    """
    words = text.split()
    if mark := next((word for word in words if word in MARKS[:UNK]), None):
        raise ValueError(f"expected a text without marks of begin, end or padding, got {mark}")
    row, unknown = vocabulary.encode(words), [word for word in words if _is_unknown(word, vocabulary)]
    if not words:
        raise ValueError("expected a text with words in it, got an empty one")
    if len(row) > max_length:
        raise ValueError(f"expected a text of at most {max_length - 1} words, got {len(words)}")
    if len(unknown) == len(words):
        raise ValueError(f"expected at least one word of the model's vocabulary, got unknown words only: {text!r}")
    return torch.tensor([row]), unknown


def _is_unknown(word, vocabulary):
    return word not in UNKNOWN and vocabulary.encode([word])[0] == UNK
