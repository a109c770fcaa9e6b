"""The paper's tables as sets of runs: what each cell was published as, what ours is, and whether the ordering holds.

A table is a TOML file of `presets/reproduce`: settings common to its runs, under `paper` what the paper's protocol has
otherwise (of all, or of one), under `scaled` what a CPU does in place of that (unless in full), then for each run its row and
arm, the settings in which it differs, and what was published.
It may take runs from other tables, name an analysis that every run goes through (`analyses.py`), pictures, and a study
that says more than numbers: what stands before the table, and what is found in place of published orderings. A results
file, `results/NAME.json`, has one entry for each finished run, so that a run is known as done wherever it was made, for
whichever table: by its settings and its seed.
"""

import json
import math
import re
import statistics
import tomllib
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from pyro_skipvae import side_claims, theorem_study
from pyro_skipvae.analyses import analyse
from pyro_skipvae.build import choose_device
from pyro_skipvae.checkpoint import write_whole
from pyro_skipvae.compare import estimates_of, paired_values, read_record
from pyro_skipvae.config import Config, ConfigError

SCHEMA = 1
NEEDED = {"row", "arm", "seed", "scaled", "protocol", "settings", "epochs", "seconds", "report"}  # of every entry
POINTS = 1000  # of the test set, on which arms are compared one by one
BURDA, AUTHORS_CODE = 0.01, 0.02  # thresholds of active units
BETWEEN = (0.003, 0.1)  # variances of posterior means between those of idle and of active units, if these are two kinds
# column -> (its heading, the estimate of a report or the number of an analysis)
COLUMNS = {
    "ppl": ("PPL", "ppl_iw"),
    "elbo": ("ELBO", "elbo"),
    "kl": ("KL", "rate"),
    "mi": ("MI", "mi_dieng_2019"),
    "au": ("AU", "active_units"),
    "mi_lower": ("MI, lower bound", "mi_lower"),
    "mi_upper": ("MI, upper bound", "mi_upper"),
    "model_mi_lower": ("I_p, lower bound", "model_mi_lower"),
    "model_mi_upper": ("I_p, upper bound", "model_mi_upper"),
    "au_authors_code": ("AU at 0.02", "active_units_0_02"),
    "units_between": (f"units of {BETWEEN[0]} to {BETWEEN[1]}, %", "units_between"),
    "mlp_probe": ("MLP probe, %", "mlp_probe"),
    "linear_probe": ("linear probe, %", "linear_probe"),
    "neighbours": ("10 nearest neighbours, %", "neighbours"),
    "silhouette": ("silhouette", "silhouette"),
    "random_mlp_probe": ("random encoder, MLP probe, %", "random_mlp_probe"),
    "random_linear_probe": ("random encoder, linear probe, %", "random_linear_probe"),
}
UNORDERED = ("au_authors_code", "units_between", "random_mlp_probe", "random_linear_probe")  # no claim of skip against plain
PROTOCOLS = {
    "default": "Protocol: default, what we hold right.",
    "paper": "Protocol: paper, what the paper says and its authors' code did.",
}
STUDIES = {"theorem": theorem_study, "side-claims": side_claims}
CEILING = math.log(10_000)  # of the paper's MI: it has 10,000 test images
BESIDE = {"mi_upper": "MI, upper bound", "mi_marginal": "MI, fitted marginal"}  # what stands beside a column at its ceiling


@dataclass(frozen=True)
class Planned:
    """One run of a table: where it stands, what makes it, how it is scaled down, what it is put to, and by which protocol."""

    row: str
    arm: str
    flags: dict
    seed: int
    scaled: dict = field(default_factory=dict)
    analysis: str | None = None
    protocol: str = "default"

    @property
    def config(self):
        return Config.from_flags({**self.flags, **self.scaled, "seed": self.seed})

    @property
    def folder(self):
        words = "-".join([self.row, self.arm, *(f"{name}{value}" for name, value in self.scaled.items()), f"seed{self.seed}"])
        return "".join(c if c.isalnum() else "-" for c in words.lower()).replace("--", "-")


@dataclass(frozen=True)
class Table:
    """A table to reproduce. `published` maps (row, arm) to {column: number}; `runs` lists all planned runs.

    `pictures` names what is drawn of it on its page, beside its numbers; `study` one of `STUDIES`.
    """

    name: str
    title: str
    columns: list[str]
    published: dict
    runs: list[Planned]
    note: str = ""
    pictures: list[str] = field(default_factory=list)
    study: str | None = None
    protocol: str = "default"


def table_names():
    """The tables that can be reproduced."""
    return sorted(file.name.removesuffix(".toml") for file in (files("pyro_skipvae") / "presets" / "reproduce").iterdir())


def load_table(name, *, seeds=None, protocol="default", full=False, **scale):
    """The table of a name, with `seeds` seeds in place of its own numbers, scaled down where `scale` says so.

    Runs that take a day on a CPU are scaled down by the table itself, unless `full`.

    `protocol` is "default", what we hold right, or "paper", what the paper and the authors' code did.

    Raises ConfigError for a name that does not exist.
    """
    if name not in table_names():
        raise ConfigError(f"unknown table {name!r}: expected {', '.join(table_names())}")
    content = tomllib.loads((files("pyro_skipvae") / "presets" / "reproduce" / f"{name}.toml").read_text(encoding="utf-8"))
    published, runs = {}, []
    for part in content.get("tables", ()):
        other = load_table(part["name"], seeds=seeds, protocol=protocol, full=full, **scale)
        name_of = {row: f"{part['row']}, {row}" for row, _ in other.published}
        for (row, arm), found in other.published.items():
            if arm in part["arms"]:
                published[name_of[row], arm] = {column: found[column] for column in content["columns"] if column in found}
        runs += [replace(run, row=name_of[run.row]) for run in other.runs if run.arm in part["arms"]]
    for cell in content.get("runs", ()):
        published[cell["row"], cell["arm"]] = cell.get("published", {})
        own = {} if full else cell.get("scaled", content.get("scaled", {}))
        runs += _planned(cell, content, seeds, protocol, own | {name: v for name, v in scale.items() if v is not None})
    named = {key: content[key] for key in ("note", "pictures", "study") if key in content}
    return Table(name, content["title"], content["columns"], published, runs, protocol=protocol, **named)


def _planned(cell, content, seeds, protocol, scale):
    """The runs of a cell: what all runs of its table have, then what it has itself, then the quirks of the protocol."""
    parts = [content.get("settings", {}), cell.get("settings", {})]
    if "preset" in cell:
        parts.insert(0, tomllib.loads((files("pyro_skipvae") / "presets" / f"{cell['preset']}.toml").read_text()))
    if protocol == "paper":
        parts += [content.get("paper", {}), cell.get("paper", {})]
    flags = {name: value for part in parts for name, value in part.items()}
    scaled = {name: value for name, value in scale.items() if value != flags.get(name)}
    count = seeds or cell.get("seeds", content.get("seeds", 1))
    about = {"scaled": scaled, "analysis": content.get("analysis"), "protocol": protocol}
    return [Planned(cell["row"], cell["arm"], flags, seed, **about) for seed in range(count)]


def read_results(path):
    """The entries of a results file, [] where there is none. Raises ValueError if it cannot be read."""
    path = Path(path)
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["entries"]
        lacking = sorted({name for entry in entries for name in NEEDED - entry.keys()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected results of a reproduction in {path}, which cannot be read: {error}") from None
    if lacking:
        raise ValueError(f"expected results of a reproduction in {path}, but entries lack {', '.join(lacking)}")
    return entries


def results_of_others(name, folder):
    """The entries of all other tables in a folder of results: one of the same settings and seed need not be made again."""
    return [entry for other in table_names() if other != name for entry in read_results(Path(folder) / f"{other}.json")]


def run_folder(planned, folder):
    """The folder of a run of the same settings and seed, for whichever table it was made; a finished one, if there is one.

    None if there is none. Looks at the settings that lie beside each folder, FOLDER/TABLE/RUN.toml.
    """
    wanted, found = identity(planned.config), []
    for settings in sorted(Path(folder).glob("*/*.toml")):
        config = Config.from_toml(settings.read_text(encoding="utf-8"))
        if (identity(config), config.seed) == (wanted, planned.seed):
            found.append(settings.with_suffix(""))
    return max(found, key=is_finished, default=None)


def is_finished(path):
    """Whether a run folder has its report, which is written last."""
    return (path / "report.json").is_file()


def write_results(path, table, entries):
    """Write the entries of a table, in its order."""
    order = {(run.row, run.arm): place for place, run in enumerate(reversed(table.runs))}
    entries = sorted(entries, key=lambda e: (-order.get((e["row"], e["arm"]), -1), json.dumps(e["scaled"]), e["seed"]))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    content = {"schema": SCHEMA, "reproduction": table.name, "title": table.title, "entries": entries}
    text = json.dumps(content, indent=1, allow_nan=False)
    # A list of numbers takes a line, not one for each number: these files are kept under version control.
    write_whole(Path(path), re.sub(r"\[[-+.,\d\seE]+\]", lambda found: " ".join(found[0].split()), text) + "\n")


def entry_of(planned, path, *, device="cpu"):
    """What a finished run leaves in the results: its place, its settings, what training took, and its whole report.

    Beside it the ELBO of each of the first test points, by one draw of z with noise that is the same for all runs. Where the
    table has an analysis, this is the time at which the model is put to it.
    """
    record = read_record(path)
    (values,) = paired_values([record], points=POINTS, seconds=math.inf, device=choose_device(device)).values()
    return {
        **{"row": planned.row, "arm": planned.arm, "seed": planned.seed, "scaled": planned.scaled},
        "protocol": planned.protocol,
        "settings": identity(planned.config),
        "epochs": record.metrics[-1]["epoch"] if record.metrics else 0,
        "seconds": round(sum(line["seconds"] or 0 for line in record.metrics), 1),
        "report": record.report,
        "elbo_per_point": [round(value, 2) for value in values["elbo"].tolist()],
    } | ({"analysis": {planned.analysis: analyse(planned.analysis, path, device=device)}} if planned.analysis else {})


def identity(config):
    """The settings that make a run what it is: not its seed, which stands beside them, nor where its data lie."""
    kept = {name: value for name, value in asdict(config).items() if name not in ("seed", "data_dir", "download")}
    return {name: value for name, value in kept.items() if value != Config.__dataclass_fields__[name].default}


def added(entries, entry):
    """The entries with one more, in place of an older one of the same settings and seed."""
    same = ("settings", "seed")
    return [e for e in entries if any(e[name] != entry[name] for name in same)] + [entry]


def entry_for(planned, entries):
    """The entry of a planned run, or None: the same settings and seed, wherever it was made, and with its analysis."""
    wanted = identity(planned.config)
    same = (e for e in entries if e["settings"] == wanted and e["seed"] == planned.seed)
    return next((e for e in same if planned.analysis is None or planned.analysis in e.get("analysis", {})), None)


@dataclass(frozen=True)
class Cell:
    """A number of a table: what was published, our mean and deviation over seeds, and how many these are."""

    published: float | None
    ours: float | None
    deviation: float | None
    seeds: int

    @property
    def difference(self):
        return None if self.published is None or self.ours is None else self.ours - self.published


def cells(table, entries):
    """{(row, arm): {column: Cell}} of the entries that belong to the table's planned runs."""
    found = {}
    for place, published in table.published.items():
        own = [e for run in table.runs if (run.row, run.arm) == place and (e := entry_for(run, entries))]
        values = {column: [v for e in own if (v := value_of(e, column)) is not None] for column in shown_columns(table)}
        found[place] = {column: _cell(published.get(column), values[column]) for column in values}
    return found


def value_of(entry, column):
    """The number of an entry in a column, out of its report or its analyses, or None where it has none."""
    report, name = entry["report"], COLUMNS[column][1] if column in COLUMNS else column
    analysed = [numbers[name] for numbers in entry.get("analysis", {}).values() if name in numbers]
    if analysed:
        return analysed[0]
    if name == "units_between":
        return 100 * statistics.fmean(BETWEEN[0] <= v <= BETWEEN[1] for v in report["active_unit_variances"])
    if name == "mi_dieng_2019":
        return (report.get(name) or {}).get("value")
    estimate = estimates_of(report).get(name)
    return estimate and estimate.value


def shown_columns(table):
    """The columns of the table, and those that stand beside an MI at its ceiling."""
    return [*table.columns, *(BESIDE if "mi" in table.columns else ())]


def _cell(published, values):
    deviation = statistics.stdev(values) if len(values) > 1 else None
    mean = statistics.fmean(values) if len(values) > 1 else next(iter(values), None)  # one count is a whole number
    return Cell(published, mean, deviation, len(values))


def premise(table):
    """Paragraphs that stand before the numbers of a table, in Markdown; [] without a study. Takes seconds of computing."""
    return STUDIES[table.study].premise() if table.study else []


def orderings(table, entries):
    """In words, for each row and column with a plain and a skip arm: what was published, what we find, and whether it holds.

    A difference is shown where it exceeds two standard errors over seeds; with one seed of an arm there is none to compare
    it with, and the words say so. Of the ELBO the interval over test points stands there too. An MI at its ceiling ln N
    orders nothing. Where there is a study, what that finds.
    """
    found, sentences = cells(table, entries), []
    if table.study:
        return STUDIES[table.study].findings(found)
    for row in dict.fromkeys(row for row, arm in found if arm == "plain" and (row, "skip") in found):
        plain, skip = found[row, "plain"], found[row, "skip"]
        for column in (c for c in table.columns if c not in UNORDERED):
            if plain[column].seeds and skip[column].seeds:
                pairs = paired_difference(table, entries, row, "skip") if column == "elbo" else None
                small = " (scaled down)" if label(table, row, "skip") else ""
                sentences.append(_ordering(row + small, column, plain[column], skip[column], pairs))
    return sentences + _other_arms(table, entries)


def paired_difference(table, entries, row, arm):
    """The ELBO of an arm minus that of the plain one, point by point on the same test points: a `Paired`, or None.

    Means over seeds come first; the interval (95 %) is over points.
    """
    groups = []
    for name in (arm, "plain"):
        own = [e for run in table.runs if (run.row, run.arm) == (row, name) and (e := entry_for(run, entries))]
        lists = [e["elbo_per_point"] for e in own if "elbo_per_point" in e]
        groups.append([statistics.fmean(values) for values in zip(*lists, strict=False)])
    delta = [one - other for one, other in zip(*groups, strict=False)]
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
        return f"{self.low:+.2f} to {self.high:+.2f} over the first {self.points:,} test points, paired"

    @property
    def shown(self):
        return self.low > 0 or self.high < 0


def _other_arms(table, entries):
    """The arms that the paper lacks, each against the plain one on the same points."""
    found = []
    for row, arm in table.published:
        if "elbo" in table.columns and arm not in ("plain", "skip"):
            pairs = paired_difference(table, entries, row, arm)
            found += [f"{row}, ELBO: {arm} - plain is {pairs.value:+.2f} ({pairs})."] if pairs else []
    return found


def label(table, row, arm):
    """What is added to our name of a row whose runs are scaled down: by what."""
    scaled = next(run.scaled for run in table.runs if (run.row, run.arm) == (row, arm))
    return f" (scaled down: {', '.join(f'{name} {value:,}' for name, value in scaled.items())})" if scaled else ""


def notes(table, entries):
    """What a reader of the table has to know: settings of the data, ceilings, and what stands on fewer points."""
    own = [e for run in table.runs if (e := entry_for(run, entries))]
    ceilings = sorted({round(e["report"]["mi_ceiling"], 2) for e in own if e["report"].get("mi_ceiling")})
    found = [PROTOCOLS[table.protocol]]
    if "mi" in table.columns and ceilings:
        stated = " and ".join(f"{ceiling:.2f}" for ceiling in ceilings)
        found.append(f"MI as in the paper is at most ln N = {stated}; the upper and the fitted-marginal bound have no ceiling.")
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
    """The table as plain values: cells, orderings in words, and the entries that they stand on."""
    found = {}
    for (row, arm), columns in cells(table, entries).items():
        found.setdefault(row, {})[arm] = {column: vars(cell) for column, cell in columns.items()}
    own = [e for run in table.runs if (e := entry_for(run, entries))]
    about = {"schema": SCHEMA, "reproduction": table.name, "protocol": table.protocol, "premise": premise(table)}
    return {**about, "cells": found, "orderings": orderings(table, entries), "entries": own}


def _ordering(row, column, plain, skip, pairs=None):
    """One sentence: our difference, with its standard error over seeds if there is one, the published one, and the verdict."""
    ours, error = skip.ours - plain.ours, _standard_error(plain, skip)
    sentence = f"{row}, {COLUMNS[column][0]}: skip - plain is {ours:+.2f} here"
    sure = ([] if error is None else [f"standard error {error:.2f}"]) + ([str(pairs)] if pairs else [])
    sentence += f" ({'; '.join(sure)})" if sure else ""
    if None in (plain.published, skip.published):
        return sentence + "; nothing was published."
    if column == "mi" and min(plain.published, skip.published) > CEILING - 0.05:
        return f"{sentence}; both published values stand at the ceiling ln 10,000 = {CEILING:.2f} and order nothing."
    theirs = skip.published - plain.published
    if theirs == 0:
        return f"{sentence}; the published values are equal and order nothing."
    if error is not None and abs(ours) <= 2 * error:
        return f"{sentence}, {theirs:+.2f} published: not shown over seeds."
    if error is None and pairs and not pairs.shown:
        return f"{sentence}, {theirs:+.2f} published: not shown over test points (one seed)."
    told = "holds" if ours * theirs > 0 else "does not hold"
    return f"{sentence}, {theirs:+.2f} published: the ordering {told}{' (one seed)' if error is None else ''}."


def _standard_error(*found):
    if any(cell.deviation is None for cell in found):
        return None
    return math.sqrt(sum(cell.deviation**2 / cell.seeds for cell in found))
