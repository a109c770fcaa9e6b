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
                runs = [entry for name in SETS for entry in entries_at(table, entries, f"{decoder}, {name}", arm)]
                told.append(_nearer(decoder, arm, own, runs))
    return told or ["It waits for its runs."]


def _nearer(decoder, arm, own, runs):
    """Which set's ELBO is nearer to the published one; not shown where the interval of either would turn it round.

    Nor is it where one was trained for longer.
    """
    distances = {name: abs(cell.difference) for name, cell in own.items()}
    near, far = sorted(distances, key=distances.get)
    gap, error, lengths = distances[far] - distances[near], _error(runs), {run["epochs"] for run in runs}
    numbers = ", ".join(f"{cell.ours:.2f} on {name}" for name, cell in own.items())
    if len(lengths) > 1:
        verdict = f"which is nearer is not shown: runs of {' and '.join(map(str, sorted(lengths)))} epochs"
    elif gap > error:
        verdict = f"{near} is nearer, by {gap:.2f}"
    else:
        verdict = f"which is nearer is not shown (by {gap:.2f}, error {error:.2f})"
    return f"{decoder}, {arm}: ELBO {numbers}, published {own[near].published:.2f}; {verdict} (one seed)."


def _error(runs):
    """Half of the 95 % interval of the difference between the two ELBOs, over test points that are not the same."""
    halves = [found[1] if (found := interval_of(run, "elbo")) else math.inf for run in runs]
    return math.hypot(*halves)
