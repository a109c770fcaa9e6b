"""What the numbers of a table say, in words: whether a published ordering holds, and what a reader has to know beside it."""

import math
import statistics
from dataclasses import dataclass

from scipy.stats import t as student

from pyro_skipvae import side_claims, theorem_study
from pyro_skipvae.compare import estimates_of
from pyro_skipvae.reproduction import AUTHORS_CODE, BETWEEN, BURDA, CEILING, COLUMNS, Cell, cells, entries_at, entry_for

STUDIES = {"theorem": theorem_study, "side-claims": side_claims}
UNORDERED = ("au_authors_code", "units_between", "random_mlp_probe", "random_linear_probe")  # no claim of skip against plain
NEAR = 0.05  # nats: closer than that to its ceiling ln N, a mutual information says nothing


def premise(table):
    """Paragraphs that stand before the numbers of a table, in Markdown; [] without a study. Takes seconds of computing."""
    return STUDIES[table.study].premise() if table.study else []


def orderings(table, entries):
    """In words, for each row and column with a plain and a skip arm: what was published, what we find, and whether it holds.

    A difference is shown where the interval over seeds (95 %, Welch's) leaves out 0; with one seed of an arm there is none,
    and the words say so. Of the ELBO the difference on the same test points stands there too. An MI at its ceiling ln N
    orders nothing. Then the arms that the paper lacks. Where there is a study, what that finds.
    """
    found, sentences = cells(table, entries), []
    if table.study:
        return STUDIES[table.study].findings(found)
    for row in dict.fromkeys(row for row, arm in found if arm == "plain" and (row, "skip") in found):
        plain, skip = found[row, "plain"], found[row, "skip"]
        own = [e for arm in ("plain", "skip") for e in entries_at(table, entries, row, arm)]
        ceiling = min((c for e in own if (c := e["report"].get("mi_ceiling"))), default=None)
        name = row + _small(table, row, "skip")
        for column in (c for c in table.columns if c not in UNORDERED):
            if plain[column].seeds and skip[column].seeds:
                pairs = paired_difference(table, entries, row, "skip", "plain") if column == "elbo" else None
                sentences.append(_ordering(name, column, plain[column], skip[column], pairs, ceiling))
    return sentences + _other_arms(table, entries, found) + _counted_otherwise(table, found)


def _ordering(row, column, plain, skip, pairs=None, ceiling=None):
    """One sentence: our difference, with its interval over seeds if there is one, the published one, and the verdict."""
    ours, seeds = skip.ours - plain.ours, over_seeds(skip, plain)
    sentence = f"{row}, {COLUMNS[column][0]}: skip - plain is {_signed(ours)} here"
    sure = ([] if seeds is None else [f"{seeds[0]:+.2f} to {seeds[1]:+.2f} over seeds"]) + ([str(pairs)] if pairs else [])
    sentence += f" ({'; '.join(sure)})" if sure else ""
    if column == "mi" and ceiling and min(plain.ours, skip.ours) > ceiling - NEAR:
        return f"{sentence}; both stand at their ceiling of {ceiling:.2f} and order nothing."
    if None in (plain.published, skip.published):
        return sentence + "; nothing was published."
    if column == "mi" and min(plain.published, skip.published) > CEILING - NEAR:
        return f"{sentence}; both published values stand at the ceiling ln 10,000 = {CEILING:.2f} and order nothing."
    theirs = skip.published - plain.published
    if theirs == 0:
        return f"{sentence}; the published values are equal and order nothing."
    if seeds and not _leaves_out_0(*seeds):
        return f"{sentence}, {_signed(theirs)} published: not shown over seeds."
    if seeds is None and pairs and not _leaves_out_0(pairs.low, pairs.high):
        return f"{sentence}, {_signed(theirs)} published: not shown over test points (one seed)."
    told = "holds" if ours * theirs > 0 else "does not hold"
    return f"{sentence}, {_signed(theirs)} published: the ordering {told}{' (one seed)' if seeds is None else ''}."


def _other_arms(table, entries, found):
    """The arms that the paper lacks: each minus plain, and what skips add to it or, of a start of its own, add there."""
    told = []
    for row, arm in found:
        kind, _, start = arm.partition(", ")
        if arm in ("plain", "skip") or (start and kind == "plain"):
            continue
        pairs = [(arm, f"plain, {start}")] if start else [(arm, "plain"), ("skip", arm)]
        for first, second in pairs:
            of = [found.get((row, name)) for name in (first, second)]
            if None in of or not all(cell["elbo"].seeds for cell in of if "elbo" in cell) or "elbo" not in table.columns:
                continue
            words = _difference(table, entries, row, first, second, of)
            told.append(f"{row}{_small(table, row, arm)}: {first} - {second} is {words}.")
    return told


def _difference(table, entries, row, first, second, of):
    parts = []
    for column in (c for c in ("elbo", "kl") if c in table.columns):
        a, b = (cell[column] for cell in of)
        seeds = over_seeds(a, b)
        pairs = paired_difference(table, entries, row, first, second) if column == "elbo" else None
        sure = ([] if seeds is None else [f"{seeds[0]:+.2f} to {seeds[1]:+.2f} over seeds"]) + ([str(pairs)] if pairs else [])
        parts.append(f"{a.ours - b.ours:+.2f} in {COLUMNS[column][0]}" + (f" ({'; '.join(sure)})" if sure else ""))
    counts = " and ".join(str(cell["elbo"].seeds) for cell in of)
    return ", ".join(parts) + f"; seeds: {counts}"


def _counted_otherwise(table, found):
    """Our numbers beside those published for one layer more, where a paper may have counted another layer than we do."""
    told = []
    for ours, theirs in table.counted_otherwise.items():
        for arm in ("plain", "skip"):
            parts = []
            for column in ("elbo", "kl"):
                value, published = found[ours, arm][column].ours, found[theirs, arm][column].published
                if None not in (value, published):
                    difference = f"{value - published:+.2f}"
                    parts.append(f"{COLUMNS[column][0]} {value:.2f} ({published:.2f} published, {difference})")
            if parts:
                told.append(f"If {theirs} of the paper are our {ours}, {arm}: {', '.join(parts)}.")
    return told


def over_seeds(first: Cell, second: Cell):
    """The 95 % interval (low, high) of first - second by Welch's t over seeds, or None where an arm has one seed."""
    if first.deviation is None or second.deviation is None:
        return None
    parts = [cell.deviation**2 / cell.seeds for cell in (first, second)]
    delta, total = first.ours - second.ours, sum(parts)
    if not total:
        return delta, delta
    freedom = total**2 / sum(part**2 / (cell.seeds - 1) for part, cell in zip(parts, (first, second), strict=True))
    half = float(student.ppf(0.975, freedom)) * math.sqrt(total)
    return delta - half, delta + half


def paired_difference(table, entries, row, first, second):
    """The ELBO of one arm minus that of another, point by point on the same test points: a `Paired`, or None.

    Means over seeds come first; the interval (95 %) is over points.
    """
    arms = [entries_at(table, entries, row, arm) for arm in (first, second)]
    lists = [[e["elbo_per_point"] for e in own if "elbo_per_point" in e] for own in arms]
    if not all(lists) or len({len(values) for own in lists for values in own}) > 1:
        return None  # not of the same points
    means = [[statistics.fmean(values) for values in zip(*own, strict=True)] for own in lists]
    delta = [one - other for one, other in zip(*means, strict=True)]
    if len(delta) < 2:
        return None
    mean, half = statistics.fmean(delta), 1.96 * statistics.stdev(delta) / len(delta) ** 0.5
    return Paired(mean, mean - half, mean + half, len(delta))


@dataclass(frozen=True)
class Paired:
    """A mean difference over test points, its interval, and how many points these are."""

    value: float
    low: float
    high: float
    points: int

    def __str__(self):
        return f"paired on {self.points:,} test points {self.value:+.2f}, {self.low:+.2f} to {self.high:+.2f}"


def _signed(value):
    return f"{round(value, 2) + 0.0:+.2f}".removesuffix(".00")  # not -0.00


def _leaves_out_0(low, high):
    return low > 0 or high < 0


def _small(table, row, arm):
    return " (scaled down)" if label(table, row, arm) else ""


def label(table, row, arm):
    """What is added to our name of a row whose runs are scaled down: by what."""
    scaled = next(run.scaled for run in table.runs if (run.row, run.arm) == (row, arm))
    return f" (scaled down: {', '.join(f'{name} {value:,}' for name, value in scaled.items())})" if scaled else ""


def is_comparable(table, row, arm):
    """Whether our numbers of a row may be subtracted from the published ones: the same data, in full."""
    return table.comparable and not label(table, row, arm)


def notes(table, entries):
    """What a reader of the table has to know: settings of the data, ceilings, and what stands on fewer points."""
    own = [e for run in table.runs if (e := entry_for(run, entries))]
    ceilings = sorted({round(e["report"]["mi_ceiling"], 2) for e in own if e["report"].get("mi_ceiling")})
    found = [_protocol(table)]
    if "mi" in table.columns and ceilings:
        stated = " and ".join(f"{ceiling:.2f}" for ceiling in ceilings)
        found.append(
            f"MI as in the paper is at most ln N = {stated}, up to the noise of one draw; the upper and the fitted-marginal "
            "bound have no ceiling."
        )
    if any(run.scaled for run in table.runs):
        found.append("Scaled down as the rows say, and so not comparable with what was published; --full trains in full.")
    if any(e["settings"].get("limit_train") and not e["scaled"] for e in own):
        found.append("Trained on a part of the data, as the settings say.")
    if "units_between" in table.columns and own:
        found += _two_kinds(table, entries)
    found += [sentence for e in own for column in ("ppl", "elbo") if column in table.columns if (sentence := _fewer(e, column))]
    errors = [v for e in own for n in e.get("analysis", {}).values() for name, v in n.items() if name.endswith("_error")]
    if errors:
        found.append(f"Standard errors of accuracies over test items: at most {max(errors):.2f} percentage points.")
    return found


def _protocol(table):
    if table.protocol == "default":
        return "Protocol: default, what we hold right."
    quirks = sorted({f"{name} {value}" for run in table.runs for name, value in run.quirks.items()})
    return f"Protocol: paper, as the paper says or its authors' code did, in these settings: {', '.join(quirks)}."


def _fewer(entry, column):
    """The sentence that a number stands on fewer points than the rest of its row, or None."""
    estimate, points = estimates_of(entry["report"]).get(COLUMNS[column][1]), entry["report"]["card"]["points"]
    if estimate is None or estimate.points is None or estimate.points >= points:
        return None
    place = f"{entry['row']}, {entry['arm']}, seed {entry['seed']}"
    return f"{COLUMNS[column][0]} of {place}: the first {estimate.points:,} of {points:,} points."


def _two_kinds(table, entries):
    """Whether units are of two kinds, in words for each decoder: how many lie between, and how many a threshold moves."""
    variances, (low, high) = {}, BETWEEN
    for run in table.runs:
        if entry := entry_for(run, entries):
            variances.setdefault(run.row.partition(",")[0], []).extend(entry["report"]["active_unit_variances"])
    found = []
    for decoder, own in variances.items():
        below, between, above = (100 * statistics.fmean(kind) for kind in (
            [v < low for v in own], [low <= v <= high for v in own], [v > high for v in own]))  # fmt: skip
        moved = 100 * statistics.fmean(BURDA <= v < AUTHORS_CODE for v in own)
        found.append(
            f"{decoder}: of {len(own):,} units {below:.1f} % vary by less than {low}, {above:.1f} % by more than {high}, and "
            f"{between:.1f} % lie between; {moved:.1f} % are active at {BURDA} and not at {AUTHORS_CODE}."
        )
    return [*found, "Two kinds of units, and a threshold that hardly matters, would mean next to none between."]


def as_json(table, entries):
    """The table as plain values: cells, labels and orderings in words, and the entries that they stand on."""
    found = {}
    for (row, arm), columns in cells(table, entries).items():
        plain = {column: vars(cell) | {"difference": cell.difference} for column, cell in columns.items()}
        found.setdefault(row, {})[arm] = plain
    own = [e for run in table.runs if (e := entry_for(run, entries))]
    about = {"schema": 1, "reproduction": table.name, "title": table.title, "protocol": table.protocol}
    scaled = {row: {arm: words} for row, arm in table.published if (words := label(table, row, arm).strip(" ()"))}
    said = {"premise": premise(table), "orderings": orderings(table, entries), "notes": [table.note, *notes(table, entries)]}
    return {**about, "cells": found, "scaled": scaled, **said, "entries": own}
