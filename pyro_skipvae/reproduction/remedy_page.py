"""The page of a comparison of remedies: its table, the plane of rate and distortion, information and units, and the cards."""

import math
from pathlib import Path

from pyro_skipvae.reports import figures
from pyro_skipvae.reports.rendering import picture, render
from pyro_skipvae.reports.run_page import train_command
from pyro_skipvae.runs.checkpoint import write_whole

from .remedies import BASE
from .remedy_words import NUMBERS, about, rows_of, sentences, shown_numbers
from .tables import entry_for

DRAWN = ("mi_lower", "au", "shuffled_latent_loss", "elbo")


def write_remedies(table, entries, path):
    """Write the page of a comparison with the entries of its results; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, remedies_page(table, entries))
    return path


def remedies_page(table, entries):
    """The HTML of a comparison of remedies."""
    rows = rows_of(table, entries)
    own = [(run, entry) for run in table.runs if (entry := entry_for(run, entries))]
    return render(
        "remedies.html.j2",
        title=table.title,
        planned=len(table.runs),
        done=len(own),
        rows=rows,
        columns={column: NUMBERS[column] for column in shown_numbers(rows)},
        notes=sentences(table, entries),
        about=about(table),
        pictures=pictures(rows),
        entries=[_run(run, entry) for run, entry in own],
    )


def pictures(rows):
    """The plane of rate and distortion, then information, units and bound of each remedy."""
    if not rows:
        return []
    columns = [_column(rows, column) for column in DRAWN if any(row.numbers[column].seeds for row in rows)]
    return [{**_plane(rows), "wide": True}, *({**drawn, "wide": False} for drawn in columns)]


def plane_figure(rows):
    """All remedies in the plane of rate and distortion, with bars of one deviation over seeds."""
    points = [
        (row.name, rate.ours, distortion.ours, rate.deviation or 0.0, distortion.deviation or 0.0)
        for row in rows
        if None not in ((rate := row.numbers["kl"]).ours, (distortion := row.numbers["distortion"]).ours)
    ]
    return figures.rate_distortion(points)


def _plane(rows):
    alt = "; ".join(
        f"{row.name}: rate {_said(row.numbers['kl'])}, distortion {_said(row.numbers['distortion'])} nats" for row in rows
    )
    caption = (
        "Further down is a better reconstruction, further right costs more rate; along a dashed line the ELBO is the same. "
        "Bars are one deviation over seeds."
    )
    return picture("Rate and distortion", alt, caption, plane_figure(rows))


def _column(rows, column):
    places = [(row.name, BASE if row.name == BASE else "", None, row.numbers[column].ours, row.numbers[column].deviation)
              for row in rows]  # fmt: skip
    alt = "; ".join(f"{row.name}: {_said(row.numbers[column])}" for row in rows)
    caption = "Bars are one deviation over seeds. The plain VAE has a colour of its own."
    return picture(NUMBERS[column], alt, caption, figures.published_and_ours(places, heading=NUMBERS[column]))


def _run(run, entry):
    changed = {name: (value, None) for name, value in entry["settings"].items()} | {"seed": (entry["seed"], None)}
    told = {"name": run.arm, "seed": run.seed, "epochs": entry["epochs"], "cpu_seconds": entry.get("cpu_seconds")}
    return {**told, "card": entry["report"]["card"], "command": train_command(run.config, changed)}


def _said(cell):
    return "nothing" if cell.ours is None or not math.isfinite(cell.ours) else f"{cell.ours:.2f}"
