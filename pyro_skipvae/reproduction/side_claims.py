"""What `reproduce side-claims` says after its table: for each claim that the paper makes in passing, what its runs show."""

from functools import partial
from itertools import pairwise

from .intervals import intervals
from .tables import cells

SIZES = ("2 layers", "4 layers", "8 layers")
BASE, SMALL = SIZES[1], "4 layers, 2 dimensions"
STARTED, TORCH = "4 layers, data-dependent start", "4 layers, torch's start"
ARMS = ("plain", "skip")


def premise() -> list[str]:
    """What is said before the table: nothing."""
    return []


def findings(table, entries) -> list[str]:
    """One sentence for each claim and arm whose runs are there, with the 95 % intervals that decide it."""
    found, told = cells(table, entries), []
    for say, column, rows in CLAIMS:
        for arm in ARMS:
            own = [found[row, arm][column] for row in rows]
            if all(cell.seeds for cell in own):
                steps = [intervals(table, entries, column, (a, arm), (b, arm)) for a, b in pairwise(rows)]
                told.append(f"{say(arm, [cell.ours for cell in own], steps)}{_seeds(own)}.")
    return told or ["The claims wait for their runs."]


def _size(arm, kl, steps):
    signs = [_sign(sure) for sure in steps]
    falls = "it falls" if min(signs) > 0 else "it does not fall" if min(signs) < 0 else "it is not shown to fall"
    numbers = ", ".join(f"{value:.2f}" for value in kl)
    said = "Collapse of the plain model grows with its size (section 4.1)" if arm == "plain" else "Beside it, the skip model"
    return f"{said}: KL at 2, 4 and 8 layers {numbers}; {falls} with every step"


def _start(claim, arm, elbos, steps):
    verdict = {1: "it is better", 0: "a difference is not shown", -1: "it is worse"}[_sign(steps[0])]
    said = f"{claim}, {arm}: ELBO {elbos[0] - elbos[1]:+.2f} against He's start"
    return f"{said} ({'; '.join(map(str, steps[0]))}); {verdict}"


def _dimensions(arm, shares, steps):
    verdict = {1: "more", 0: "a difference is not shown", -1: "less"}[_sign(steps[0])]
    said = f"Two dimensions give much better representations than 50 (footnote 4), {arm}: {shares[0]:.1f} % of test images lie"
    return f"{said} among neighbours of their class, against {shares[1]:.1f} %; {verdict}"


def _sign(sure):
    """1 or -1 where all intervals leave out 0 on the same side, else 0."""
    signs = {difference.sign for difference in sure}
    return signs.pop() if len(signs) == 1 else 0


def _seeds(own):
    count = min(cell.seeds for cell in own)
    return " (one seed)" if count == 1 else f" ({count} seeds)"


CLAIMS = (
    (_size, "kl", SIZES),
    (partial(_start, "A data-dependent start is worth having (footnote 3)"), "elbo", (STARTED, BASE)),
    (partial(_start, "Torch's own start, which the paper's MLP may have had"), "elbo", (TORCH, BASE)),
    (_dimensions, "test_neighbours", (SMALL, BASE)),
)
