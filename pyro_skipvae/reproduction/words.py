"""What the numbers of a table say, in words: whether a published ordering holds, and what a reader has to know beside it."""

import statistics
from dataclasses import asdict

from pyro_skipvae.diagnostics.estimates.perplexity import COUNTED
from pyro_skipvae.reports.comparison import estimates_of
from pyro_skipvae.reproduction import binarisation, committed_rate_study, side_claims, theorem_study

from .intervals import intervals
from .tables import (
    AUTHORS_CODE,
    BETWEEN,
    BURDA,
    CEILING,
    COLUMNS,
    cell_at,
    cells,
    entries_at,
    entry_for,
    shown_columns,
)

STUDIES = {
    "theorem": theorem_study,
    "side-claims": side_claims,
    "binarisation": binarisation,
    "committed-rate": committed_rate_study,
}
DIFFERENCES = ("ppl", "elbo", "kl", "linear_probe")  # columns in which compared places are told
UNORDERED = ("au_authors_code", "units_between", "random_mlp_probe", "random_linear_probe")  # no claim of skip against plain
INFORMATION = ("mi", "mi_lower", "mi_upper", "model_mi_lower", "model_mi_upper")  # ordered by bounds, not by differences
ROUNDING = 1e-3  # nats, of rates that are kept with four decimals
NEAR = 0.05  # nats: of published MIs, which are without intervals, those that stand at their ceiling itself order nothing


def premise(table):
    """Paragraphs that stand before the numbers of a table, in Markdown; [] without a study. Takes seconds of computing."""
    return STUDIES[table.study].premise() if table.study else []


def orderings(table, entries):
    """In words, for each row and column with a plain and a skip arm: what was published, what we find, and whether it holds.

    A difference is shown where its intervals (95 %) leave out 0: the one over seeds (Welch's), and of the ELBO the one on the
    same test points too. With one seed of an arm there is none over seeds, and the words say so; then the interval over test
    points decides. A number without any interval orders nothing. Mutual information is ordered by its bounds: the lower bound
    of one arm has to be above the upper bound of the other, for every seed. Then the arms that the paper lacks. Where there is
    a study, what that finds.
    """
    found, sentences = cells(table, entries), []
    if table.study:
        small = f"Scaled down ({words}). " if (words := scaled_words(table)) else ""
        return [small + sentence for sentence in STUDIES[table.study].findings(table, entries)]
    if table.compared:
        return _compared(table, entries)
    for row in dict.fromkeys(row for row, arm in found if arm == "plain" and (row, "skip") in found):
        plain, skip = found[row, "plain"], found[row, "skip"]
        small = _small(table, row, "skip")
        size = " at this size" if small else ""
        for column in (c for c in table.columns if c not in UNORDERED):
            if plain[column].seeds and skip[column].seeds:
                if column in INFORMATION:
                    bounds = [information(table, entries, row, arm, column) for arm in ("plain", "skip")]
                    arms = plain[column], skip[column]
                    sentences.append(_ordering_of_information(row + small, column, *arms, *bounds, size))
                else:
                    sure = intervals(table, entries, column, (row, "skip"), (row, "plain"))
                    sentences.append(_ordering(row + small, column, plain[column], skip[column], sure, size))
    return sentences + _other_arms(table, entries, found) + _counted_otherwise(table, found)


def information(table, entries, row, arm, column):
    """(low, high): the information in one place of a table lies between these, for every seed; None without bounds.

    The low end is the lowest lower bound of all seeds, the high end the highest of their better upper bounds, each with its
    95 % interval.
    """
    lows, highs = [], []
    for entry in entries_at(table, entries, row, arm):
        report = entry["report"]
        if column.startswith("model_"):
            report = report.get("model_mutual_information") or {}
            lower, uppers = report.get("lower"), [report.get("upper")]
        else:
            lower, uppers = report.get("mi_lower"), [report.get("mi_upper"), report.get("mi_marginal")]
        uppers = [upper["high"] for upper in uppers if upper and upper["high"] is not None]
        if not lower or lower["low"] is None or not uppers:
            return None
        lows.append(lower["low"])
        highs.append(min(uppers))
    return (min(lows), max(highs)) if lows else None


def _ordering_of_information(row, column, plain, skip, of_plain, of_skip, size=""):
    """One sentence: between which bounds the information of both arms lies, what was published, and the verdict."""
    one_seed = " (one seed)" if min(plain.seeds, skip.seeds) < 2 else ""
    sentence = f"{row}, {COLUMNS[column][0]}"
    if None in (of_plain, of_skip):
        return f"{sentence}: an arm has no bounds: not shown{one_seed}."
    sentence += f": {_between(of_skip)} nats with skips, {_between(of_plain)} without"
    shown = (of_skip[0] > of_plain[1]) - (of_plain[0] > of_skip[1])
    if None in (plain.published, skip.published):
        return f"{sentence}; nothing was published."
    if column == "mi" and min(plain.published, skip.published) > CEILING - NEAR:
        return f"{sentence}; both published values stand at the ceiling ln 10,000 = {CEILING:.2f} and order nothing."
    theirs = skip.published - plain.published
    if theirs == 0:
        return f"{sentence}; the published values are equal and order nothing."
    sentence += f"; {_signed(theirs)} published"
    if not shown:
        return f"{sentence}: the bounds overlap: not shown{one_seed}."
    return f"{sentence}: the ordering {'holds' if shown * theirs > 0 else 'does not hold'}{size}{one_seed}."


def _between(bounds):
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}"


def _ordering(row, column, plain, skip, sure=(), size=""):
    """One sentence: our difference, with its intervals if there are any, the published one, and the verdict."""
    ours, one_seed = skip.ours - plain.ours, " (one seed)" if min(plain.seeds, skip.seeds) < 2 else ""
    sentence = f"{row}, {COLUMNS[column][0]}: skip - plain is {_signed(ours)} here" + _in_brackets(sure)
    if None in (plain.published, skip.published):
        return sentence + "; nothing was published."
    theirs = skip.published - plain.published
    if theirs == 0:
        return f"{sentence}; the published values are equal and order nothing."
    sentence += f", {_signed(theirs)} published"
    if not sure:
        return f"{sentence}: there is no interval: not shown{one_seed}."
    for difference in sure:
        if not difference.sign:
            return f"{sentence}: not shown over {'seeds' if difference.over == 'over seeds' else 'test points'}{one_seed}."
    if len({difference.sign for difference in sure}) > 1:
        return f"{sentence}: seeds and test points say the opposite of each other."
    return f"{sentence}: the ordering {'holds' if sure[0].sign * theirs > 0 else 'does not hold'}{size}{one_seed}."


def _in_brackets(sure):
    return f" ({'; '.join(map(str, sure))})" if sure else ""


def _other_arms(table, entries, found):
    """The arms that the paper lacks: each minus plain, and what all skips add to it."""
    told = []
    for row, arm in found:
        for first, second in [] if arm in ("plain", "skip") else [(arm, "plain"), ("skip", arm)]:
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
        sure = intervals(table, entries, column, (row, first), (row, second))
        parts.append(f"{a.ours - b.ours:+.2f} in {COLUMNS[column][0]}{_in_brackets(sure)}")
    counts = " and ".join(str(cell["elbo"].seeds) for cell in of)
    return ", ".join(parts) + f"; seeds: {counts}"


def _compared(table, entries):
    """A sentence for each pair of places that the table compares, as far as both have been run: differences and verdicts.

    In the columns of the table that have differences, or where it has none of these, of bits, in nats.
    """
    told, columns = [], [c for c in DIFFERENCES if c in table.columns] or ["elbo", "kl"]
    for pair in table.compared:
        first, second = tuple(pair[:2]), tuple(pair[2:])
        parts = []
        for column in columns:
            one, other = (cell_at(table, entries, place, column).ours for place in (first, second))
            if None not in (one, other):
                sure = intervals(table, entries, column, first, second)
                shown = len({d.sign for d in sure}) == 1 and sure[0].sign
                verdict = "" if shown else ", not shown"
                parts.append(f"{COLUMNS[column][0]} {_signed(one - other)}{_in_brackets(sure)}{verdict}")
        if parts:
            names = (f"{row}, {arm}{_small(table, row, arm)}" for row, arm in (first, second))
            told.append(f"{' - '.join(names)}: {'; '.join(parts)}.")
    return told


def _counted_otherwise(table, found):
    """Our numbers beside those published for one layer more, where a paper may have counted another layer than we do."""
    told = []
    for ours, theirs in table.counted_otherwise.items():
        for arm in (arm for arm in ("plain", "skip") if is_comparable(table, ours, arm)):
            parts = []
            for column in ("elbo", "kl"):
                value, published = found[ours, arm][column].ours, found[theirs, arm][column].published
                if None not in (value, published):
                    difference = f"{value - published:+.2f}"
                    parts.append(f"{COLUMNS[column][0]} {value:.2f} ({published:.2f} published, {difference})")
            if parts:
                told.append(f"If {theirs} of the paper are our {ours}, {arm}: {', '.join(parts)}.")
    return told


def _signed(value):
    return f"{round(value, 2) + 0.0:+.2f}".removesuffix(".00")  # not -0.00


def _small(table, row, arm):
    return " (scaled down)" if label(table, row, arm) else ""


def label(table, row, arm):
    """What is added to our name of a row whose runs are scaled down: by what."""
    run = next(run for run in table.runs if (run.row, run.arm) == (row, arm))
    scaled = {name: value for name, value in run.scaled.items() if name != "precision"}  # which is no size; `notes` name it
    words, whole = [], "limit_train" not in scaled and not run.flags.get("limit_train")
    if whole and "epochs" in scaled and "epochs" in run.flags:
        words.append(f"all data, {scaled.pop('epochs'):,} of {run.flags['epochs']:,} epochs")
    words += [f"{name} {value:,}" for name, value in scaled.items()]
    return f" (scaled down: {', '.join(words)})" if words else ""


def scaled_words(table):
    """By what the runs of a table are scaled down, with the rows where not all are; "" where none is."""
    rows = {}
    for run in table.runs:
        rows.setdefault(label(table, run.row, run.arm).removeprefix(" (scaled down: ").removesuffix(")"), {})[run.row] = None
    if len(rows) == 1:
        return next(iter(rows))
    return "; ".join(f"{words} ({'; '.join(own)})" for words, own in rows.items() if words)


def is_comparable(table, row, arm):
    """Whether our numbers of a row may be subtracted from the published ones: the same data, in full."""
    return table.comparable and not label(table, row, arm)


def notes(table, entries):
    """What a reader of the table has to know: settings of the data, ceilings, and what stands on fewer points."""
    own = [e for run in table.runs if (e := entry_for(run, entries))]
    ceilings = sorted({round(e["report"]["mi_ceiling"], 2) for e in own if e["report"].get("mi_ceiling")})
    found = [_protocol(table)] if table.runs else []
    if "mi" in table.columns and ceilings:
        stated = " and ".join(f"{ceiling:.2f}" for ceiling in ceilings)
        found.append(
            f"MI as in the paper is at most ln N = {stated}, up to the noise of one draw; the upper and the fitted-marginal "
            "bound have no ceiling."
        )
    if any(cell.half_interval is not None for columns in cells(table, entries).values() for cell in columns.values()):
        found.append("In brackets with ±: half of the 95 % interval over test points, where there is one seed.")
    if "ppl" in table.columns and own:
        draws = max((e["report"].get("perplexity") or {"importance_samples": 0})["importance_samples"] for e in own)
        found.append(f"PPL is ppl_iw{draws}, per token by importance sampling with {draws} draws of z. Tokens: {COUNTED}.")
    if any(run.scaled for run in table.runs):
        found.append("Rows marked scaled down cannot be compared with what was published; --train --full trains in full.")
    shorter = dict.fromkeys(run.row for run in table.runs if run.config.precision == "bf16")
    if shorter:
        which = "" if all(run.row in shorter for run in table.runs) else f" ({'; '.join(shorter)})"
        found.append(f"Trained with --precision bf16{which}; every number here is measured in float32.")
    if table.has_full_data and any("limit_train" in run.scaled for run in table.runs):
        found.append("Tables of few images check that they run; --full-data stands for all images and fewer epochs.")
    if any(e["settings"].get("limit_train") and not e["scaled"] for e in own):
        found.append("Trained on a part of the data, as the settings say.")
    if "units_between" in table.columns and own:
        found += _two_kinds(table, entries)
    found += [sentence for column in ("ppl", "elbo") if column in table.columns for sentence in _on_fewer(own, column)]
    found += _different_data(table, entries)
    found += _held(own)
    older = sum("code" not in e["report"]["card"] for e in own)
    if older:
        found.append(
            f"{older} of {len(own)} runs are older than the record of the code in their cards: the interval of their "
            "KL(q(z) || p(z)) may lack its sampling error. No number or ordering above uses it."
        )
    names = [f"{COLUMNS[column][1]}_error" for column in shown_columns(table) if column in COLUMNS]
    errors = [n[name] for e in own for n in e.get("analysis", {}).values() for name in names if name in n]
    if errors:
        found.append(f"Standard errors of accuracies over test items: at most {max(errors):.2f} percentage points.")
    return found


def _held(entries):
    """A sentence on the committed rates: in how many epochs of how many runs they were held, and by how much at least."""
    own = [entry for entry in entries if entry.get("rates")]
    if not own:
        return []
    excess = [rate - entry["committed_rate"] for entry in own for rate in entry["rates"]]
    held = sum(nats >= -ROUNDING for nats in excess)
    epochs = f"{held} of {len(excess)} epochs of {len(own)} runs"
    return [f"Rate at least the committed one: in {epochs}; it was above by {min(excess):.2f} nats at least."]


def _different_data(table, entries):
    """A sentence for each row whose runs were not all on the same data: their numbers cannot be compared."""
    sets = {}
    for run in table.runs:
        if (entry := entry_for(run, entries)) and (data := entry["report"]["card"].get("data")):
            sets.setdefault(run.row, set()).add(f"{data['name']} ({data['checksum'][:12]})")
    return [f"{row}: its runs are of different data, and cannot be compared: {', '.join(sorted(names))}."
            for row, names in sets.items() if len(names) > 1]  # fmt: skip


def _protocol(table):
    if table.protocol == "default":
        return "Protocol: default, what we hold right."
    quirks = sorted({f"{name} {value}" for run in table.runs for name, value in run.quirks.items()})
    return f"Protocol: paper, as the paper says or its authors' code did, in these settings: {', '.join(quirks)}."


def _on_fewer(entries, column):
    """What is said of a number that stands on fewer points than the rest of its row: once, where it is so for all rows."""
    parts = [_fewer(entry, column) for entry in entries]
    if len(parts) > 1 and parts[0] and len(set(parts)) == 1:
        return [f"{COLUMNS[column][0]} of all runs: {parts[0]}."]
    places = (f"{COLUMNS[column][0]} of {entry['row']}, {entry['arm']}, seed {entry['seed']}" for entry in entries)
    return [f"{place}: {part}." for place, part in zip(places, parts, strict=True) if part]


def _fewer(entry, column):
    """On which points a number stands, where they are fewer than the rest of its row has, or None."""
    estimate, points = estimates_of(entry["report"]).get(COLUMNS[column][1]), entry["report"]["card"]["points"]
    if estimate is None or estimate.points is None or estimate.points >= points:
        return None
    return f"the first {estimate.points:,} of {points:,} points"


def _two_kinds(table, entries):
    """Whether units are of two kinds, in words for each decoder: how many lie between, and how many a threshold moves."""
    variances, (low, high) = {}, BETWEEN
    for run in table.runs:
        if entry := entry_for(run, entries):
            decoder = run.row.partition(",")[0] + _small(table, run.row, run.arm)
            variances.setdefault(decoder, []).extend(entry["report"]["active_unit_variances"])
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
    found, scaled = {}, {}
    for (row, arm), columns in cells(table, entries).items():
        comparable = is_comparable(table, row, arm)
        plain = {c: asdict(cell) | {"difference": cell.difference if comparable else None} for c, cell in columns.items()}
        found.setdefault(row, {})[arm] = plain
        if words := label(table, row, arm).strip(" ()"):
            scaled.setdefault(row, {})[arm] = words
    own = [e for run in table.runs if (e := entry_for(run, entries))]
    about = {"schema": 1, "reproduction": table.name, "title": table.title, "protocol": table.protocol}
    noted = [note for note in (table.note, *notes(table, entries)) if note]
    said = {"premise": premise(table), "orderings": orderings(table, entries), "notes": noted}
    return {**about, "cells": found, "scaled": scaled, **said, "entries": own}
