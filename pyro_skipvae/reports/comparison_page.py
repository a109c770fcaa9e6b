"""The page of several runs: their comparison, and the pictures that can stand side by side."""

import os
from collections.abc import Sequence
from pathlib import Path

from pyro_skipvae.diagnostics.report.values import estimates_of
from pyro_skipvae.reports import figures
from pyro_skipvae.runs.checkpoint import write_whole

from .captions import BESIDE, MODEL_PICTURES, MODEL_TEXTS
from .comparison import LABELS, Comparison, Record, grouped
from .rendering import picture, render
from .run_page import headline, model_picture, model_text, rate_picture, training_picture


def write_comparison(records: Sequence[Record], comparison: Comparison, path: str | os.PathLike[str]) -> Path:
    """Writes an HTML page on several runs: their comparison, and their pictures side by side; returns the path.

    records: of `read_record`; comparison: of `compare`. Raises OSError where the file cannot be written.
    """
    write_whole(path, comparison_page(records, comparison))
    return Path(path)


def comparison_page(records, comparison):
    """The HTML of several runs."""
    training = training_picture({name: record.metrics for name, record in zip(comparison.runs, records, strict=True)})
    return render(
        "comparison.html.j2",
        name=" and ".join(comparison.runs) if len(records) < 3 else f"{len(records)} runs",
        comparison=comparison,
        runs=[{"name": name, **headline(record)} for name, record in zip(comparison.runs, records, strict=True)],
        pictures=[found for found in (_rate_distortion(comparison, records), training) if found],
        beside=[_beside(records, comparison.runs, title) for title in BESIDE],
        texts=[found for name in MODEL_TEXTS if (found := _said_beside(records, comparison.runs, name))],
        labels=LABELS,
        seeds=any(len(group) > 1 for group in grouped(records)),
    )  # fmt: skip


def _rate_distortion(comparison, records):
    points = []
    for name, record in zip(comparison.runs, records, strict=True):
        found = estimates_of(record.report)
        if "rate" in found and "distortion" in found:  # not of discrete z, nor of what was not finite
            rate, distortion = found["rate"], found["distortion"]
            points.append((name, rate.value, distortion.value, rate.half_width or 0.0, distortion.half_width or 0.0))
    if not points:
        return None
    alt = "; ".join(f"{name}: rate {rate:.1f}, distortion {distortion:.1f} nats" for name, rate, distortion, *_ in points)
    caption = (
        "Further down is a better reconstruction, further right costs more rate; along a dashed line the ELBO is the same. "
        "Two runs on one line with different rates are equally good, and differ in how much they say through z."
    )
    return picture("Rate and distortion", alt, caption, figures.rate_distortion(points))


def _beside(records, names, title):
    """The same picture of every run that has it."""
    found = []
    for name, record in zip(names, records, strict=True):
        file = next((file for file, about in MODEL_PICTURES.items() if about[0] == title), None)
        if file:
            picture = model_picture(record, file, {})
        else:
            picture = rate_picture(record) if record.report.get("rate_per_dimension") else None
        if picture:
            found.append({**picture, "title": name, "alt": f"{name}: {picture['alt']}", "wide": title == "Reconstructions"})
    return {"title": title, "caption": found[0]["caption"] if found else "", "pictures": [{**p, "caption": ""} for p in found]}


def _said_beside(records, names, file):
    """The same texts of every run that has them."""
    said = [(name, model_text(record, file, {})) for name, record in zip(names, records, strict=True)]
    found = [{**text, "title": name, "caption": ""} for name, text in said if text]
    title, _, caption = MODEL_TEXTS[file]
    return {"title": title, "caption": caption, "texts": found} if found else None
