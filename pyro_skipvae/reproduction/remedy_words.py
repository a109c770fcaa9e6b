"""What a comparison of remedies says: a row for each, as numbers and as words."""

import statistics
from dataclasses import asdict, dataclass

from .intervals import Difference, over_seeds, paired_difference
from .remedies import BASE, REMEDIES
from .tables import Cell, cell_at, entries_at, entry_for, identity

SCHEMA = 1
NUMBERS = {  # column -> its heading; nats per datapoint where nothing else is said
    "ppl": "PPL",
    "elbo": "ELBO",
    "kl": "rate",
    "mi_lower": "MI, lower bound",
    "mi_marginal": "MI, fitted marginal",
    "au": "active units",
    "shuffled_latent_loss": "loss, z shuffled",
    "distortion": "distortion",
    "log_likelihood": "log p(x)",
}
IN_TEXT = ("elbo", "ppl", "kl", "mi_lower", "au", "shuffled_latent_loss")  # what a terminal has room for
NEAR = 2.0  # nats below ln N from which on the lower bound says little more of a mutual information than N


@dataclass(frozen=True)
class Row:
    """A remedy over its seeds: numbers, its ELBO minus that of the plain VAE, and its training time, in times the VAE's."""

    name: str
    seeds: int
    numbers: dict[str, Cell]
    on_points: Difference | None
    over_seeds: Difference | None
    seconds: float | None
    times: float | None


def rows_of(table, entries):
    """A row for each remedy that has a run, in the order of the table."""
    base, found = (table.runs[0].row, BASE), []
    for place in table.published:
        own, apart = entries_at(table, entries, *place), place != base
        if not own:
            continue
        numbers = {column: cell_at(table, entries, place, column) for column in NUMBERS}
        mean, of_base = seconds_of(own), seconds_of(entries_at(table, entries, *base))
        found.append(
            Row(
                name=place[1],
                seeds=len(own),
                numbers=numbers,
                on_points=paired_difference(table, entries, "elbo", place, base) if apart else None,
                over_seeds=over_seeds(numbers["elbo"], cell_at(table, entries, base, "elbo")) if apart else None,
                seconds=mean,
                times=mean / of_base if mean and of_base else None,
            )
        )
    return found


def seconds_of(own):
    """The mean training time of entries: of the processor on a CPU, of the clock elsewhere; None if one does not know it."""
    on_cpu = [entry["report"]["card"]["device"] == "cpu" for entry in own]
    found = [e.get("cpu_seconds") if cpu else e["seconds"] for e, cpu in zip(own, on_cpu, strict=True)]
    return statistics.fmean(found) if found and all(found) else None


def shown_numbers(rows):
    """The columns in which a row has a number."""
    return [column for column in NUMBERS if any(row.numbers[column].ours is not None for row in rows)]


def sentences(table, entries):
    """What a reader of the table has to know beside it."""
    rows, left = rows_of(table, entries), sum(not entry_for(run, entries) for run in table.runs)
    found = [f"{left} of {len(table.runs)} runs are missing; the same command goes on with them."] * bool(left)
    if not rows:
        return found
    over = next((row.on_points.over for row in rows if row.on_points), "paired on the same test points")
    over = over.partition(" of seed")[0]
    found += [
        "Means over seeds, ± the deviation of one seed from another where there are two at least. Nats per datapoint.",
        f"Differences: the ELBO minus that of the plain VAE of the same seeds, {over}, with its 95 % interval over points; "
        "then over seeds, by Welch's t.",
        "Training time: of the processor on a CPU, of the clock elsewhere, in times the plain VAE's; reports are apart.",
    ]
    ceilings = sorted({entry["report"]["mi_ceiling"] for run in table.runs if (entry := entry_for(run, entries))})
    lower = [row.numbers["mi_lower"].ours for row in rows if row.numbers["mi_lower"].ours is not None]
    if lower and max(lower) > ceilings[0] - NEAR:
        found.append(
            f"The lower bound of the MI cannot pass ln N = {ceilings[0]:.2f}: near it, it tells the number of test points."
        )
    return found


def about(table):
    """{remedy: (what it changes, how, its reference)} of the remedies of a table, those joined by + one after the other."""
    found = {}
    for name in dict.fromkeys(run.arm for run in table.runs):
        parts = [REMEDIES[part.partition("(")[0]] for part in name.split("+")]
        found[name] = ["; ".join(getattr(part, field) for part in parts) for field in ("part", "what", "reference")]
    return found


def lines(table, entries):
    """The heading and the rows of the text, as strings."""
    rows = rows_of(table, entries)
    shown = [column for column in shown_numbers(rows) if column in IN_TEXT]
    heading = ("remedy", "seeds", *(NUMBERS[column] for column in shown), "ELBO minus VAE's", "over seeds", "time")
    return heading, [
        (row.name, str(row.seeds), *(number_text(row.numbers[column]) for column in shown),
         difference_text(row.on_points), difference_text(row.over_seeds), "-" if row.times is None else f"x {row.times:.2f}")
        for row in rows
    ]  # fmt: skip


def number_text(cell):
    """A number with its deviation over seeds."""
    if cell.ours is None:
        return "-"
    return f"{cell.ours:.2f}" + (f" ± {cell.deviation:.2f}" if cell.deviation is not None else "")


def difference_text(difference):
    """A difference and its interval."""
    return "-" if difference is None else f"{difference.value:+.2f}\n{difference.low:+.2f} to {difference.high:+.2f}"


def as_json(table, entries):
    """The comparison as plain values: what the remedies are, and a row for each."""
    first = table.runs[0]
    common = {name: value for name, value in identity(first.config).items() if name != "skip"}
    return {
        "schema": SCHEMA,
        "comparison": table.name,
        "settings": common,
        "remedies": {name: dict(zip(("part", "what", "reference"), told, strict=True)) for name, told in about(table).items()},
        "rows": [asdict(row) for row in rows_of(table, entries)],
        "notes": sentences(table, entries),
    }
