"""The paper's tables as sets of runs: what each cell was published as, and what ours is.

A table is a TOML file of `reproduction/presets`: settings common to its runs, under `paper` what the paper's protocol has
otherwise (of all, or of one), under `scaled` what a CPU does in place of that (unless in full), then for each run its row and
arm, the settings in which it differs, and what was published.
It may take runs from other tables, name an analysis that every run goes through (`analyses.py`), pictures, and a study
that says more than numbers: what stands before the table, and what is found in place of published orderings. A results
file, `results/NAME.json`, has one entry for each finished run, so that a run is known as done wherever it was made, for
whichever table: by its settings and its seed.
"""

import contextlib
import json
import math
import re
import statistics
import tomllib
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import torch

from pyro_skipvae.diagnostics.estimates.bits import bits_per_dimension
from pyro_skipvae.diagnostics.pairs.interval import mean_interval
from pyro_skipvae.diagnostics.report.report import STORED
from pyro_skipvae.reports.comparison import BOUNDS, estimates_of, paired_values, read_record
from pyro_skipvae.runs.build import choose_device
from pyro_skipvae.runs.checkpoint import write_whole
from pyro_skipvae.runs.config import Config, ConfigError
from pyro_skipvae.runs.folder import Run, RunError
from pyro_skipvae.stored import NUMBER, check, loads

from .analyses import analyse

SCHEMA = 1
ENTRY = {  # the shape of an entry of results
    **{"row": str, "arm": str, "seed": int, "scaled": dict, "settings": dict, "epochs": int, "seconds": (int, float)},
    "report": STORED | {"card": STORED["card"] | {"device": str, "protocol": str, "settings?": dict}},
    "cpu_seconds?": (int, float),
    "elbo_per_point?": [(int, float)],
    "log_likelihood_per_point?": [(int, float)],
    "tokens_per_point?": [int],
    "committed_rate?": (int, float),
    "rates?": [(int, float)],  # validated, of each epoch, where a rate is committed
    "validation?": {...: [NUMBER]},  # what each epoch measured on validation items
    "analysis?": {...: {...: (*NUMBER, [(int, float)])}},
}
VALIDATED = ("epoch", "valid_elbo", "valid_rate", "active_units")
ELSEWHERE = ("seed", "data_dir", "download")  # settings that do not make a run what it is
POINTS = 1000  # spread over the test set, on which arms are compared one by one
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
    "neighbours": ("10 nearest training items, %", "neighbours"),
    "test_neighbours": ("10 nearest test items, %", "test_neighbours"),
    "silhouette": ("silhouette", "silhouette"),
    "distortion": ("distortion", "distortion"),
    "log_likelihood": ("log p(x)", "log_likelihood"),
    "log_likelihood_per_point": ("log p(x), on 1,000 points", "log_likelihood_per_point"),
    "shuffled": ("loss, z shuffled", "shuffled_latent_loss"),
    "auxiliary_rate": ("KL, auxiliary prior", "auxiliary_rate"),
    "bits": ("bits/dim (KL part)", "bits"),
    "bits_kl": ("KL part", "bits_kl"),
    "auxiliary_bits": ("with the auxiliary prior", "auxiliary_bits"),
    "auxiliary_bits_kl": ("KL part", "auxiliary_bits_kl"),
    "random_mlp_probe": ("random encoder, MLP probe, %", "random_mlp_probe"),
    "random_linear_probe": ("random encoder, linear probe, %", "random_linear_probe"),
}
CEILING = math.log(10_000)  # of the paper's MI: it has 10,000 test images
BRACKETED = {"bits": "bits_kl", "auxiliary_bits": "auxiliary_bits_kl"}  # what stands in brackets behind a number
BESIDE = {"mi_upper": "MI, upper bound", "mi_marginal": "MI, fitted marginal"}  # what stands beside a column at its ceiling


@dataclass(frozen=True)
class Planned:
    """One run of a table: where it stands, what makes it, how it is scaled down, what it is put to, and by which protocol.

    `report` has the points of its report where these are not the usual ones, {flag of `train`: number}; with
    `importance_samples` log p(x) is estimated on 1,000 points spread over the test set too, by so many draws.
    """

    row: str
    arm: str
    flags: dict
    seed: int
    scaled: dict = field(default_factory=dict)
    analysis: str | None = None
    protocol: str = "default"
    quirks: dict = field(default_factory=dict)  # of `flags`, what is the protocol's
    report: dict = field(default_factory=dict)
    importance_samples: int | None = None

    @property
    def config(self):
        return Config.from_flags({**self.flags, **self.scaled, "seed": self.seed})

    @property
    def label(self):
        return f"{self.row}, {self.arm}, seed {self.seed}"

    @property
    def folder(self):
        how = [self.protocol] if self.protocol != "default" else []
        how += [f"{name}{value}" for name, value in self.scaled.items()]
        words = "-".join([self.row, self.arm, *how, f"seed{self.seed}"])
        return "".join(c if c.isalnum() else "-" for c in words.lower()).replace("--", "-")


@dataclass(frozen=True)
class Table:
    """A table to reproduce. `published` maps (row, arm) to {column: number}; `runs` lists all planned runs.

    `pictures` names what is drawn of it on its page, beside its numbers; `study` what says more than numbers;
    `comparable` is False where the published numbers are of other data, so that only orderings can be compared;
    `compared` are pairs of places, [row, arm, row, arm], whose differences are told in place of published orderings;
    `parts` are the tables that it takes runs from; `counted_otherwise` maps rows of ours to the published ones that they are
    if layers are counted in another way.
    """

    name: str
    title: str
    columns: list[str]
    published: dict
    runs: list[Planned]
    note: str = ""
    pictures: list[str] = field(default_factory=list)
    study: str | None = None
    comparable: bool = True
    counted_otherwise: dict = field(default_factory=dict)
    protocol: str = "default"
    parts: list[str] = field(default_factory=list)
    compared: list[list[str]] = field(default_factory=list)
    has_full_data: bool = False  # whether it knows a size of all data and fewer epochs


def table_names():
    """The tables that can be reproduced."""
    return sorted(file.name.removesuffix(".toml") for file in (files("pyro_skipvae") / "reproduction" / "presets").iterdir())


def load_table(name, *, seeds=None, protocol="default", full=False, full_data=False, **scale):
    """The table of a name, with `seeds` seeds in place of its own numbers, scaled down where `scale` says so.

    Runs that take a day on a CPU are scaled down by the table itself: to a part of the data, or with `full_data` to fewer
    epochs of all of it; with `full` not at all.

    `protocol` is "default", what we hold right, or "paper", what the paper and the authors' code did.

    Raises ConfigError for a name that does not exist, or a protocol that the table does not have.
    """
    if name not in table_names():
        raise ConfigError(f"unknown table {name!r}: expected {', '.join(table_names())}")
    if full and full_data:
        raise ConfigError("expected --full or --full-data, got both")
    content = tomllib.loads((files("pyro_skipvae") / "reproduction" / "presets" / f"{name}.toml").read_text(encoding="utf-8"))
    published, runs, parts, sizes = {}, [], [], "full_data" in content
    for part in content.get("tables", ()):
        other = load_table(part["name"], seeds=seeds, protocol=protocol, full=full, full_data=full_data, **scale)
        parts.append(other.name)
        sizes = sizes or other.has_full_data
        name_of = {row: f"{part['row']}, {row}" for row, _ in other.published}
        for (row, arm), found in other.published.items():
            if arm in part["arms"]:
                published[name_of[row], arm] = {column: found[column] for column in content["columns"] if column in found}
        runs += [replace(run, row=name_of[run.row]) for run in other.runs if run.arm in part["arms"]]
    for cell in content.get("runs", ()):
        published[cell["row"], cell["arm"]] = cell.get("published", {})
        own = {} if full else cell.get("scaled", content.get("scaled", {}))
        if own and full_data and "full_data" in content:
            own = content["full_data"] | cell.get("full_data", {})
        runs += _planned(cell, content, seeds, protocol, own | {name: v for name, v in scale.items() if v is not None})
    if protocol != "default" and not any(run.quirks for run in runs):
        raise ConfigError(f"expected --protocol default for {name}, which has no settings of the paper, got {protocol}")
    keys = ("note", "pictures", "study", "comparable", "counted_otherwise", "compared")
    named = {key: content[key] for key in keys if key in content}
    named |= {"protocol": protocol, "parts": parts, "has_full_data": sizes}
    return Table(name, content["title"], content["columns"], published, runs, **named)


def in_largest_sizes(table, entries, **which):
    """The table with each row in the largest size in which it is done: in full, then all data and fewer epochs.

    A row is done where all its runs are, so that what is compared is of one size; else it stays as the table has it. `which`
    are the seeds and the protocol that the table was loaded with.
    """
    chosen = {}
    for size in ({"full_data": True}, {"full": True}):
        rows = {}
        for run in load_table(table.name, **size, **which).runs:
            rows.setdefault(run.row, []).append(run)
        chosen |= {row: runs for row, runs in rows.items() if all(entry_for(run, entries) for run in runs)}
    runs = [run for row in dict.fromkeys(run.row for run in table.runs) for run in
            chosen.get(row, [run for run in table.runs if run.row == row])]  # fmt: skip
    return replace(table, runs=runs)


def _planned(cell, content, seeds, protocol, scale):
    """The runs of a cell: what all runs of its table have, then what it has itself, then the quirks of the protocol."""
    parts = [content.get("settings", {}), cell.get("settings", {})]
    if "preset" in cell:
        parts.insert(0, tomllib.loads((files("pyro_skipvae") / "runs" / "presets" / f"{cell['preset']}.toml").read_text()))
    quirks = content.get("paper", {}) | cell.get("paper", {}) if protocol == "paper" else {}
    parts.append(quirks)
    flags = {name: value for part in parts for name, value in part.items()}
    scaled = {name: value for name, value in scale.items() if value != flags.get(name)}
    count = seeds or cell.get("seeds", content.get("seeds", 1))
    about = {"scaled": scaled, "analysis": content.get("analysis"), "protocol": protocol, "quirks": quirks}
    if "limit_train" not in scaled:  # a run on few items is for a quick check
        about |= {name: content[name] for name in ("report", "importance_samples") if name in content}
    return [Planned(cell["row"], cell["arm"], flags, seed, **about) for seed in range(count)]


def read_results(path):
    """The entries of a results file, [] where there is none. Raises ValueError if it cannot be read."""
    path = Path(path)
    if not path.exists():
        return []
    try:
        entries = loads(path.read_text(encoding="utf-8"))["entries"]
        check(entries, [ENTRY], "entries")
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"expected results of a reproduction in {path}, which cannot be read: {told}") from None
    return entries


def committed_results():
    """The folder of the results that come with the package, wherever it is installed."""
    package = Path(__file__).parents[1]
    return next((place for place in (package / "results", package.parent / "results") if place.is_dir()), package / "results")


def results_of_others(table, *folders):
    """The entries of all other tables in folders of results: one of the same settings and seed need not be made again.

    Those come first that the table takes its runs from.
    """
    others = table.parts + [name for name in table_names() if name not in (table.name, *table.parts)]
    return [entry for other in others for folder in folders for entry in read_results(Path(folder) / f"{other}.json")]


def run_folder(planned, folder, checksum=None):
    """The folder of a run of the same settings and seed, for whichever table it was made; a finished one, if there is one.

    Of several the newest; None if there is none. Looks at the settings that lie beside each folder, FOLDER/TABLE/RUN.toml.
    With a checksum it passes over runs on data of another one.
    """
    wanted, found = identity(planned.config), []
    for settings in sorted(Path(folder).glob("*/*.toml")):
        with contextlib.suppress(OSError, ValueError):  # what cannot be read is not known to be this run
            config = Config.from_toml(settings.read_text(encoding="utf-8"))
            if (identity(config), config.seed) == (wanted, planned.seed) and _is_on(settings.with_suffix(""), checksum):
                found.append(settings)
    newest = max(found, key=lambda file: (is_finished(file.with_suffix("")), file.stat().st_mtime_ns), default=None)
    return newest and newest.with_suffix("")


def _is_on(path, checksum):
    """Whether a run is on data of a checksum, if one is asked for; one that does not know its data is none."""
    if checksum is None:
        return True
    try:
        return (about := Run(path).description()) is not None and about.checksum == checksum
    except RunError:
        return False


def epochs_of(path):
    """What the whole epochs of a run measured on validation items, {name: a list}, as its entry will have it."""
    lines = Run(path).metrics()
    return {name: [_rounded(line.get(name)) for line in lines] for name in VALIDATED}


def is_finished(path):
    """Whether a run folder has its report, which is written last; one on a training that had not ended does not count."""
    file = path / "report.json"
    if not file.is_file():
        return False
    try:
        return not loads(file.read_text(encoding="utf-8"))["card"].get("unfinished")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return True  # what is wrong with it is told where it is read


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

    Beside it the ELBO of each of 1,000 test points, by one draw of z with noise that is the same for all runs; of texts, and
    where the table asks for it, their log-likelihood; and of texts the number of tokens. Where the table has an analysis,
    this is the time at which the model is put to it. Raises ValueError if the run is another one.
    """
    record = read_record(path)
    if record.config.seed != planned.seed or not agrees(planned.config, asdict(record.config)):
        raise ValueError(f"expected a run of {planned.row}, {planned.arm}, seed {planned.seed} in {path}, got other settings")
    draws = record.report["card"]["importance_samples"] if record.report.get("perplexity") else planned.importance_samples
    on = {"points": POINTS, "seconds": math.inf, "importance_samples": draws, "device": choose_device(device)}
    (values,) = paired_values([record], **on).values()
    report = {**record.report, "card": {**record.report["card"], "protocol": planned.protocol}}
    return {
        **{"row": planned.row, "arm": planned.arm, "seed": planned.seed, "scaled": planned.scaled},
        "settings": identity(planned.config),
        "epochs": record.metrics[-1]["epoch"] if record.metrics else 0,
        **{name: round(sum(line.get(name) or 0 for line in record.metrics), 1) for name in ("seconds", "cpu_seconds")},
        "report": report,
        **{f"{name}_per_point": [round(v, 2) for v in values[name].tolist()] for name in BOUNDS if name in values},
        **({"tokens_per_point": values["tokens"].tolist()} if "tokens" in values else {}),
        **_committed(record.metrics),
        "validation": epochs_of(path),
    } | ({"analysis": {planned.analysis: analyse(planned.analysis, path, device=device)}} if planned.analysis else {})


def _rounded(value):
    return None if value is None else round(value, 3)


def validated(entry):
    """What each epoch of an entry measured on validation items, as lines of metrics.jsonl; [] of an older one."""
    measured = entry.get("validation", {"epoch": []})
    return [dict(zip(measured, line, strict=True)) for line in zip(*measured.values(), strict=True)]


def _committed(metrics):
    """The committed rate of a run, and the rate that every epoch was validated with; {} where none is committed."""
    found = [line for line in metrics if line.get("committed_rate") is not None]
    if not found:
        return {}
    return {"committed_rate": found[0]["committed_rate"], "rates": [round(line["valid_rate"], 4) for line in found]}


def agrees(config, recorded):
    """Whether a run was made by these settings; what a config leaves open or a record does not have is not asked."""
    written = asdict(config) | {"procedure": config.whole_procedure}
    wanted = {name: value for name, value in written.items() if name not in ELSEWHERE}
    return all(value is None or recorded.get(name, value) == value for name, value in wanted.items())


def identity(config):
    """The settings that make a run what it is: not its seed, which stands beside them, nor where its data lie."""
    kept = {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}
    return {name: value for name, value in kept.items() if value != Config.__dataclass_fields__[name].default}


def added(entries, entry):
    """The entries with one more, in place of an older one of the same settings and seed."""
    same = ("settings", "seed")
    return [e for e in entries if any(e[name] != entry[name] for name in same)] + [entry]


def entry_for(planned, entries):
    """The entry of a planned run, or None: the same settings and seed, wherever it was made, and with its analysis.

    Of several the first; where the table asks for log p(x), the first that has it.
    """
    config, wanted = planned.config, identity(planned.config)
    same = (e for e in entries if e["settings"] == wanted and e["seed"] == planned.seed)
    same = (e for e in same if agrees(config, e["report"]["card"].get("settings", {})))  # a default may have changed since
    same = (e for e in same if planned.analysis is None or planned.analysis in e.get("analysis", {}))
    return max(same, key=lambda e: not lacks_likelihood(planned, e), default=None)


def lacks_likelihood(planned, entry):
    """Whether the table asks for a log p(x) that an entry, made for another table, does not have."""
    return planned.importance_samples is not None and "log_likelihood_per_point" not in entry


def entries_at(table, entries, row, arm):
    """The entries of all seeds in one place of a table."""
    return [e for run in table.runs if (run.row, run.arm) == (row, arm) and (e := entry_for(run, entries))]


@dataclass(frozen=True)
class Cell:
    """A number of a table: what was published, our mean and deviation over seeds, and how many these are.

    Of one seed there is half of the 95 % interval over test points, where the number has one.
    """

    published: float | None
    ours: float | None
    deviation: float | None
    seeds: int
    half_interval: float | None = None
    bracketed: "Cell | None" = None

    @property
    def difference(self):
        return None if self.published is None or self.ours is None else self.ours - self.published


def cells(table, entries):
    """{(row, arm): {column: Cell}} of the entries that belong to the table's planned runs."""
    shown = shown_columns(table)
    return {place: {column: cell_at(table, entries, place, column) for column in shown} for place in table.published}


def cell_at(table, entries, place, column):
    """The cell of a column in a place (row, arm)."""
    own = entries_at(table, entries, *place)
    values = [v for e in own if (v := value_of(e, column)) is not None]
    deviation = statistics.stdev(values) if len(values) > 1 else None
    mean = statistics.fmean(values) if len(values) > 1 else next(iter(values), None)  # one count is a whole number
    inner = cell_at(table, entries, place, BRACKETED[column]) if column in BRACKETED else None
    known = interval_of(own[0], column) if len(own) == len(values) == 1 else None
    return Cell(table.published[place].get(column), mean, deviation, len(values), known and known[1], inner)


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
    if name == "log_likelihood_per_point":
        return statistics.fmean(entry[name]) if name in entry else None
    if name in DERIVED:
        return DERIVED[name](report)
    estimate = estimates_of(report).get(name)
    return estimate and estimate.value


def _bits(nats, report):
    shape = report["card"]["data"]["event_shape"]
    return None if nats is None else bits_per_dimension(nats, math.prod(shape))


def _with_auxiliary(report, name):
    found = report["card"].get("auxiliary_prior")
    return found and {"elbo": -found["elbo"], "rate": found["rate"]["value"]}[name]


DERIVED = {  # numbers that no report has under a name of their own
    "bits": lambda report: _bits(report["elbo"] and -report["elbo"], report),
    "bits_kl": lambda report: _bits(report["rate"], report),
    "auxiliary_bits": lambda report: _bits(_with_auxiliary(report, "elbo"), report),
    "auxiliary_bits_kl": lambda report: _bits(_with_auxiliary(report, "rate"), report),
    "auxiliary_rate": lambda report: _with_auxiliary(report, "rate"),
}


def interval_of(entry, column):
    """(number, half of its 95 % interval over test points) of an entry in a column, or None where it has no interval."""
    name = COLUMNS[column][1] if column in COLUMNS else column
    if name == "log_likelihood_per_point" and name in entry:
        found = mean_interval(torch.tensor(entry[name], dtype=torch.float64))
        return found.value, (found.high - found.low) / 2
    for numbers in entry.get("analysis", {}).values():
        if f"{name}_error" in numbers:
            return numbers[name], 1.96 * numbers[f"{name}_error"]  # a share of all test images
    estimate = estimates_of(entry["report"]).get(name)
    return None if estimate is None or estimate.half_width is None else (estimate.value, estimate.half_width)


def auxiliary_interval(entry):
    """(rate against the auxiliary prior, half of its 95 % interval) of an entry, or None where it has none."""
    found = entry["report"]["card"].get("auxiliary_prior")
    return found and (found["rate"]["value"], (found["rate"]["high"] - found["rate"]["low"]) / 2)


def shown_columns(table):
    """The columns of the table, and those that stand beside an MI at its ceiling."""
    own = [column for column in table.columns if column not in BRACKETED.values()]
    return [*own, *(BESIDE if "mi" in table.columns else ())]
