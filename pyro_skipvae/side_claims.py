"""What `reproduce side-claims` says after its table: for each claim that the paper makes in passing, what its runs show."""

from itertools import pairwise

SIZES = ("2 layers", "4 layers", "8 layers")
BASE, STARTED, SMALL = SIZES[1], "4 layers, data-dependent start", "4 layers, 2 dimensions"
ARMS = ("plain", "skip")


def premise() -> list[str]:
    """What is said before the table: nothing."""
    return []


def findings(found: dict) -> list[str]:
    """One sentence for each claim and arm whose runs are there; {(row, arm): {column: cell}} -> sentences."""
    told = []
    for arm in ARMS:
        told += _size([found[row, arm]["kl"].ours for row in SIZES], arm)
        told += _start(*(found[row, arm]["elbo"].ours for row in (BASE, STARTED)), arm)
        told += _dimensions(*(found[row, arm]["neighbours"].ours for row in (BASE, SMALL)), arm)
    return told or ["The claims wait for their runs."]


def _size(kl, arm):
    if None in kl:
        return []
    falls = all(deeper < shallower for shallower, deeper in pairwise(kl))
    numbers = ", ".join(f"{value:.2f}" for value in kl)
    verdict = "falls with every step" if falls else "does not fall with every step"
    said = "Collapse of the plain model grows with its size (section 4.1)" if arm == "plain" else "Beside it, the skip model"
    return [f"{said}: KL at 2, 4 and 8 layers {numbers}; it {verdict} (one seed)."]


def _start(usual, data_dependent, arm):
    if None in (usual, data_dependent):
        return []
    gain = data_dependent - usual
    verdict = "better" if gain > 0 else "not better"
    return [
        f"A data-dependent start is worth having (footnote 3), {arm}: ELBO {gain:+.2f} against He's start; it is {verdict} "
        "(one seed)."
    ]


def _dimensions(many, two, arm):
    if None in (many, two):
        return []
    verdict = "more" if two > many else "not more"
    return [
        f"Two dimensions give much better representations than 50 (footnote 4), {arm}: {two:.1f} % of test images lie among "
        f"neighbours of their class, against {many:.1f} %; {verdict} (one seed)."
    ]
