"""What users chose, 0 or 1 for each of 200 items: drawn from known tastes, so that no file is needed.

    taste z ~ N(0, I_4),   n ~ 5 + Geometric(1/15), at most 60,   the n items of the largest 1.5 W z + b + Gumbel noise

that is, n items without replacement, each with the chance softmax(1.5 W z + b) among those left. W has rows of length one; b
makes some items popular, b_i = -ln(1 + i) / 2. All numbers come from a stream that NumPy freezes.
"""

import os
from pathlib import Path

import numpy as np

from .contents import Contents

SIZES = {"train": 4_000, "valid": 500, "test": 500}
ITEMS, TASTES, SEED, MOST = 200, 4, 2018, 60


def find(name: str, root: str | os.PathLike[str] | None = None) -> tuple[str, list[Path]]:
    """Return ("made when asked for", []): there is no file."""
    return "made when asked for", []


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Contents:
    """Return the `Contents`, a row of (200,) zeros and ones for each of 4,000 / 500 / 500 users."""
    random, users = np.random.RandomState(SEED), sum(SIZES.values())
    weights = random.normal(size=(TASTES, ITEMS))
    weights /= np.linalg.norm(weights, axis=0)
    scores = 1.5 * random.normal(size=(users, TASTES)) @ weights - np.log1p(np.arange(ITEMS)) / 2
    noisy = scores + random.gumbel(size=scores.shape)
    count = np.minimum(4 + random.geometric(1 / 15, size=(users, 1)), MOST)
    rank = (-noisy).argsort(1).argsort(1)
    train, valid, test = np.split((rank < count).astype(np.uint8), np.cumsum([*SIZES.values()])[:2])
    split = "4,000 / 500 / 500 users of one model, seeded"
    return Contents(name, train, valid, test, split, kind="binary", levels=2)
