"""The page of a reproduction: its table beside what was published, the orderings in words, its pictures and its cards.

One HTML file that holds its pictures, drawn from results alone: no model and no data are needed. Equal results give equal
bytes.
"""

import math
from pathlib import Path

from pyro_skipvae.reports import figures
from pyro_skipvae.reports.rendering import picture, render
from pyro_skipvae.reports.run_page import train_command, training_picture
from pyro_skipvae.runs.checkpoint import write_whole

from . import committed_rate_study
from .analyses import unpacked
from .tables import (
    BESIDE,
    BETWEEN,
    BRACKETED,
    CEILING,
    COLUMNS,
    auxiliary_interval,
    cells,
    entry_for,
    interval_of,
    shown_columns,
    validated,
    value_of,
)
from .words import is_comparable, label, notes, orderings, premise, scaled_words


def write_page(table, entries, path):
    """Write the page of a table with the entries of its results; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page_of(table, entries))
    return path


def page_of(table, entries):
    """The HTML of a table with the entries of its results."""
    found, own = cells(table, entries), [(run, e) for run in table.runs if (e := entry_for(run, entries))]
    return render(
        "reproduction.html.j2",
        title=table.title,
        planned=len(table.runs),
        done=len(own),
        published=any(table.published.values()),
        premise=premise(table),
        compared=bool(table.compared),
        scaled=scaled_words(table),
        headings=[heading(column) for column in shown_columns(table)],
        rows=[_row(table, place, found[place]) for place in found],
        orderings=orderings(table, entries),
        notes=[*([table.note] if table.note else []), *notes(table, entries)],
        pictures=[drawn for name in table.pictures or ["columns"] for drawn in PICTURES[name](table, entries)],
        entries=[_run(run, entry) for run, entry in own],
    )


def heading(column):
    """The heading of a column."""
    return BESIDE[column] if column in BESIDE else COLUMNS[column][0]


def columns(table, entries):
    """A picture for each column that has numbers: published and ours, place by place."""
    found, drawn = cells(table, entries), []
    for column in (column for column in table.columns if column not in BRACKETED.values()):
        places = []
        for (row, arm), cell in ((place, columns[column]) for place, columns in found.items()):
            if cell.published is not None or cell.ours is not None:
                name = f"{row}, {arm}" + ("*" if label(table, row, arm) else "")
                places.append((name, arm, cell.published, cell.ours, cell.deviation))
        if any(ours is not None for *_, ours, _ in places):
            alt = "; ".join(f"{name}: published {_said(theirs)}, ours {_said(ours)}" for name, _, theirs, ours, _ in places)
            published = any(theirs is not None for _, _, theirs, *_ in places)
            caption = "Rings: published. " * published
            caption += "Dots: ours, with bars of one deviation over seeds where there are two at least."
            caption += " *: ours scaled down." if any(name.endswith("*") for name, *_ in places) else ""
            figure = figures.published_and_ours(places, heading=heading(column))
            drawn.append(picture(heading(column), alt, caption, figure))
    return _narrow(drawn)


def depth(table, entries):
    """KL and MI against the number of layers, for each decoder that the rows name."""
    found, drawn = cells(table, entries), []
    for decoder in dict.fromkeys(_decoder(row) for row, _ in found):
        for column in table.columns:
            curves = [curve(found, decoder, arm, column) for arm in ("plain", "skip")]
            alt = "; ".join(
                f"{arm}, {layers} layers: published {_said(theirs)}, ours {_said(ours)}"
                for arm, depths, published, values, _ in curves
                for layers, theirs, ours in zip(depths, published, values, strict=True)
            )
            own = [e for run in table.runs if _decoder(run.row) == decoder and (e := entry_for(run, entries))]
            ceilings = {round(c, 2) for c in (CEILING, *(e["report"]["mi_ceiling"] for e in own))} if column == "mi" else ()
            figure = figures.by_depth(curves, quantity=f"{heading(column)} (nats)", ceilings=sorted(ceilings))
            caption = "Dashed: published. Solid: ours, with bars of one deviation over seeds where there are two at least."
            small = any(run.scaled for run in table.runs if _decoder(run.row) == decoder)
            name = f"{decoder}: {heading(column)}" + (" (ours scaled down)" if small else "")
            drawn.append(picture(name, alt, caption, figure))
    return _narrow(drawn)


def planes(table, entries):
    """Posterior means by t-SNE, one picture for each run, its scores in the title."""
    drawn = []
    for run in table.runs:
        entry = entry_for(run, entries)
        if entry:
            numbers = entry["analysis"]["clusters"]
            scores = f"10 nearest neighbours {numbers['test_neighbours']:.1f} %, silhouette {numbers['silhouette']:.3f}"
            plane = list(zip(numbers["x"], numbers["y"], strict=True))
            figure = figures.posterior_means(plane, numbers["classes"], title=scores)
            name = f"{run.row}, {run.arm}" + (f", seed {run.seed}" if run.seed else "")
            name += " (scaled down)" if run.scaled else ""
            caption = "Distances between clusters and their sizes mean nothing here; the scores are those of the latent space."
            drawn.append(picture(name, f"Posterior means by t-SNE, coloured by class; {scores}", caption, figure))
    return _narrow(drawn)


def variances(table, entries):
    """Histograms of the variances of posterior means over all runs of a decoder, plain and skip."""
    drawn = []
    for decoder in dict.fromkeys(_decoder(run.row) for run in table.runs):
        groups = {}
        for run in table.runs:
            entry = entry_for(run, entries)
            if entry and _decoder(run.row) == decoder:
                groups.setdefault(run.arm, []).extend(entry["report"]["active_unit_variances"])
        if groups:
            counts = "; ".join(f"{arm}: {sum(v > 0.01 for v in own)} of {len(own)} above 0.01" for arm, own in groups.items())
            caption = f"All units of all runs. Grey: from {BETWEEN[0]} to {BETWEEN[1]}. Values below 1e-8 are shown there."
            figure = figures.variance_histogram(groups, between=BETWEEN)
            small = any(run.scaled for run in table.runs if _decoder(run.row) == decoder)
            drawn.append({**picture(decoder + " (scaled down)" * small, counts, caption, figure), "wide": True})
    return drawn


def committed(table, entries):
    """The rate that an AR(1) prior commits, and the posteriors that attain it."""
    rates, contours = committed_rate_study.rates_figure(), committed_rate_study.contours_figure()
    alt = "Committed rate: it rises with correlation and length; per step it stays below (ln 2)/2 in long sequences"
    nearest = "Ellipses of the prior and circles of the nearest independent posterior, further apart as the correlation grows"
    return _narrow([
        picture("Committed rate", alt, "Nats of one channel.", rates),
        picture("Two steps", nearest, "At one and two standard deviations. No independent posterior is nearer.", contours),
    ])  # fmt: skip


def plane(table, entries):
    """All runs in the plane of rate and distortion, and of rate and probe, by family."""
    groups = families(table, entries)
    if not groups:
        return []
    alt = "; ".join(f"{family}, {p['name']}: rate {_said(p['rate'][0])}, distortion {_said(p['distortion'][0])}"
                    for family, own in groups.items() for p in own)  # fmt: skip
    caption = (
        "Bars: 95 % over test points of one trained model. Numbers beside marks: nats that are committed or free, or beta. "
        "Hollow marks: the rate against the auxiliary prior."
    )
    words = scaled_words(table)
    title = "Rate, distortion and linear probe" + (f" ({words})" if words else "")
    return _narrow([picture(title, alt, caption, figures.rate_planes(groups))])


def families(table, entries):
    """{family: points} of the rows "FAMILY, setting", as `figures.rate_planes` takes them."""
    groups = {}
    for run in table.runs:
        if entry := entry_for(run, entries):
            family, _, name = run.row.partition(", ")
            point = {quantity: _with_error(entry, column) for quantity, column in PLANE.items()}
            point |= {"auxiliary": auxiliary_interval(entry), "name": _setting(name)}
            if None not in (point["rate"], point["distortion"]):
                groups.setdefault(FAMILIES.get((family, run.arm), family), []).append(point)
    return groups


def grids(table, entries):
    """Images from the auxiliary prior of each run: several x for one z, and one x for each of several z."""
    drawn = []
    for run in table.runs:
        if entry := entry_for(run, entries):
            numbers = entry["analysis"]["auxiliary-draws"]
            images = [unpacked(numbers[name], numbers["width"]) for name in ("same", "different")]
            figure = figures.draws_of_latents(*images, columns=numbers["columns"])
            name = f"{run.row}, {run.arm}" + (" (scaled down)" if run.scaled else "")
            alt = f"{numbers['rows']} rows of {numbers['columns']} images, one z a row; below as many, each from another z"
            drawn.append(picture(name, alt, "What a row has in common is what z says.", figure))
    return _narrow(drawn)


def training(table, entries):
    """ELBO, rate and active units of all runs by epoch."""
    runs = {}
    for run in table.runs:
        if (entry := entry_for(run, entries)) and (lines := validated(entry)):
            name = f"{run.row}, {run.arm}" + (f", seed {run.seed}" if run.seed else "")
            runs[name + " (scaled down)" * bool(run.scaled)] = lines
    drawn = training_picture(runs)
    return _narrow([drawn] if drawn else [])


PLANE = {"rate": "kl", "distortion": "distortion", "accuracy": "linear_probe"}
FAMILIES = {("delta-VAE", "skip"): "skip-delta-VAE", ("beta-VAE", "skip"): "Skip-VAE, over beta"}
PICTURES = {
    "columns": columns,
    "committed": committed,
    "depth": depth,
    "grids": grids,
    "plane": plane,
    "planes": planes,
    "training": training,
    "variances": variances,
}


def _row(table, place, found):
    row, arm = place
    seeds = max((cell.seeds for cell in found.values()), default=0)
    shown = [found[column] for column in shown_columns(table)]
    own = label(table, row, arm).strip(" ()")
    if own.removeprefix("scaled down: ") == scaled_words(table):  # then it stands above the table, for all rows
        own = "scaled down"
    about = {"name": row, "arm": arm, "label": own, "seeds": seeds}
    return {**about, "cells": shown, "comparable": is_comparable(table, row, arm)}


def _run(run, entry):
    changed = {name: (value, None) for name, value in entry["settings"].items()} | {"seed": (entry["seed"], None)}
    about = {"row": run.row, "arm": run.arm, "seed": run.seed}
    about |= {name: entry[name] for name in ("epochs", "seconds")}
    return {**about, "card": entry["report"]["card"], "command": train_command(run.config, changed)}


def _with_error(entry, column):
    """(number, half of its 95 % interval, 0 where that is not known) of an entry, or None without a number."""
    value = value_of(entry, column)
    return interval_of(entry, column) or (None if value is None else (value, 0.0))


def _setting(name):
    return name.removeprefix("beta ").removesuffix(" nats")


def curve(found, decoder, arm, column):
    """(arm, depths, published, ours, deviations) of the rows "DECODER, 3 layers"."""
    own = [(int(row.removeprefix(f"{decoder}, ").split()[0]), cell[column]) for (row, a), cell in found.items()
           if a == arm and _decoder(row) == decoder]  # fmt: skip
    own.sort(key=lambda pair: pair[0])
    columns = [[getattr(cell, name) for _, cell in own] for name in ("published", "ours", "deviation")]
    return (arm, [layers for layers, _ in own], *columns)


def _decoder(row):
    return row.partition(",")[0]


def _said(value):
    return "nothing" if value is None or not math.isfinite(value) else f"{value:.2f}"


def _narrow(drawn):
    return [{**found, "wide": False} for found in drawn]
