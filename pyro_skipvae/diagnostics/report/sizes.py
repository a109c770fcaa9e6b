"""How many points and draws a report takes: fixed by the decoder and the size of the data, the same on every machine."""

import math
from dataclasses import dataclass, replace

HELD = 2**28  # numbers of x that are in memory together, 1 GiB: more than 10,000 points of images up to 64x64 in colour


@dataclass(frozen=True)
class Sizes:
    """The most points and draws of a report; smaller data give fewer.

    points: for rate, mutual information and active units; elbo_points, elbo_samples: for ELBO, distortion and the loss when z
    is shuffled; log_likelihood_points: for importance sampling; model_points: joint samples for I_p(x; z).
    """

    points: int
    elbo_points: int
    elbo_samples: int
    log_likelihood_points: int
    model_points: int


# (kind of the decoder, the elements of one x up to which it holds) -> sizes. The cost of a row of the decoder decides:
# on one core about 0.05 ms for an MLP, 1 ms for a PixelCNN of 8x8 pixels and 6 ms for one of 28x28, 0.5 ms for a small LSTM of
# 20 words.
TABLE = {
    ("feed-forward", 1024): Sizes(10_000, 10_000, 10, 1000, 1000),
    ("feed-forward", math.inf): Sizes(10_000, 10_000, 2, 200, 1000),
    ("autoregressive image", 100): Sizes(10_000, 1000, 5, 100, 50),
    ("autoregressive image", math.inf): Sizes(10_000, 1000, 2, 100, 20),
    ("text", 32): Sizes(10_000, 2000, 5, 1000, 50),
    ("text", math.inf): Sizes(10_000, 1000, 2, 200, 20),
    ("refined feed-forward", math.inf): Sizes(10_000, 2000, 2, 200, 1000),
    ("refined autoregressive image", math.inf): Sizes(1000, 1000, 2, 100, 20),
    ("refined text", math.inf): Sizes(2000, 1000, 2, 200, 20),
}


def sizes_of(kind: str, elements: int) -> Sizes:
    """The sizes for a kind of decoder and the number of elements of one x, at most as many points as memory holds at ease.

    Raises ValueError for another kind.
    """
    found = [sizes for (of, most), sizes in TABLE.items() if of == kind and elements <= most]
    if not found:
        raise ValueError(f"expected a kind of decoder out of {', '.join(dict.fromkeys(of for of, _ in TABLE))}, got {kind!r}")
    most = max(2, HELD // elements)
    limited = {name: min(getattr(found[0], name), most) for name in ("points", "elbo_points", "log_likelihood_points")}
    return replace(found[0], **limited)
