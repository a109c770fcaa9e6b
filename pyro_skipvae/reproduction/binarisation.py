"""What `reproduce binarisation` says: on which of two binarisations of MNIST the ELBO is nearer to the published one."""

import math

from .tables import cells, entries_at, interval_of

SETS = ("mnist", "mnist-static")
ARMS = ("plain", "skip")


def premise() -> list[str]:
    """What is said before the table: nothing."""
    return []


def findings(table, entries) -> list[str]:
    """One sentence for each decoder and arm that was run on both sets, and one on their differences between the arms."""
    found, told = cells(table, entries), []
    for decoder in dict.fromkeys(row.rpartition(", ")[0] for row, _ in found):
        for arm in ARMS:
            own = {name: found[f"{decoder}, {name}", arm]["elbo"] for name in SETS}
            if all(cell.seeds for cell in own.values()):
                told.append(_nearer(decoder, arm, own, _error(table, entries, decoder, arm)))
    return told or ["It waits for its runs."]


def _nearer(decoder, arm, own, error):
    """Which set's ELBO is nearer to the published one; not shown where the interval of either would turn it round."""
    distances = {name: abs(cell.difference) for name, cell in own.items()}
    near, far = sorted(distances, key=distances.get)
    gap = distances[far] - distances[near]
    shown = gap > error
    numbers = ", ".join(f"{cell.ours:.2f} on {name}" for name, cell in own.items())
    verdict = f"{near} is nearer, by {gap:.2f}" if shown else f"which is nearer is not shown (by {gap:.2f}, error {error:.2f})"
    return f"{decoder}, {arm}: ELBO {numbers}, published {own[near].published:.2f}; {verdict} (one seed)."


def _error(table, entries, decoder, arm):
    """Half of the 95 % interval of the difference between the two ELBOs, over test points that are not the same."""
    own = [entry for name in SETS for entry in entries_at(table, entries, f"{decoder}, {name}", arm)]
    halves = [found[1] if (found := interval_of(entry, "elbo")) else math.inf for entry in own]
    return math.hypot(*halves)
