"""The bars of this project, each measured: one table.

    python benchmarks/table.py [--rows B1,B4j] [--minutes 20] [--small]    # measures; writes results/benchmarks.json
    python benchmarks/table.py --markdown                                 # the table in docs/performance.md, from that file

Each comparison runs in a process of its own, with one thread; its ways take turns in it. What is measured is written at once: a
run that was broken off goes on, one that is complete starts anew. `--small` tries all out on tiny sizes, and writes nothing.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from interleaved import Comparison, in_short, machine, ratios, seconds_of

ROOT = Path(__file__).parents[1]
RESULTS, GROWTH, PAGE = ROOT / "results/benchmarks.json", ROOT / "results/growth.json", ROOT / "docs/performance.md"


@dataclass(frozen=True)
class Row:
    """A ratio of two ways of a comparison, or one of them alone, and what it should be."""

    name: str
    what: str
    over: str
    under: str | None
    bar: str
    factor: float = 1.0
    unit: str = ""


def epoch_rows(name, what, way, bars):
    """Pyro's example, pythae and the authors over one of our ways."""
    peers = {"Pyro's example": "Pyro", "pythae": "pythae", "authors": "authors"}
    return [
        Row(f"{name.format(short)}", f"{what.format(peer)}", peer, way, f">= {bar}")
        for (peer, short), bar in zip(peers.items(), bars, strict=True)
    ]


ROWS = {  # by the function that measures them, as module:function
    "steps:mlp_step": [
        Row("B1", "step of an MLP, batch 128: SVI with Pyro's Trace_ELBO / by hand", "Trace_ELBO", "by hand", "<= 1.15"),
        Row("B1 lean", "the same: SVI with `objectives.elbo` / by hand", "elbo", "by hand", "<= 1.10"),
        Row("B2", "the same: `--compile` / by hand", "compiled", "by hand", "<= 0.95"),
    ],
    "steps:tiny_step": [
        Row("B3", "step of a tiny net: Pyro's SVI and Trace_ELBO / ours", "stock", "ours", ">= 1.5"),
        Row("B3 compiled", "the same / `--compile`", "stock", "compiled", ">= 5"),
    ],
    "steps:mlp_epoch": [
        *epoch_rows("B4 {}", "MNIST epoch, MLP, settings alike: {} / ours", "ours", (1.3, 1.1, 1.1)),
        *epoch_rows("B4 {} compiled", "the same: {} / `--compile`", "compiled", (1.5, 1.3, 1.3)),
    ],
    "steps:mlp_epoch_as_shipped": [
        *epoch_rows("B4s {}", "the same as each comes, after 800 steps: {} / ours", "ours", (2.0, 1.8, 1.8)),
        *epoch_rows("B4s {} flags", "the same: {} / `--compile --matmul medium`", "compiled, medium", (2.0, 1.8, 1.8)),
    ],
    "steps:mlp_epoch_jitted": [
        Row("B4j", "the same epoch: `--compile` / NumPyro, jitted", "compiled", "NumPyro", "<= 1.1"),
    ],
    "pixelcnn:passes": [
        Row("B5", "PixelCNN, both passes, batch 16: authors' structure / ours", "authors", "ours", ">= 1.3"),
        Row("B5 compiled", "the same / ours by torch.compile", "authors", "compiled", ">= 1.6"),
        Row("B5 bf16", "the same / ours with `--precision bf16`", "authors", "bf16", ">= 2.4"),
        Row("B5 compiled bf16", "the same / ours with both", "authors", "compiled bf16", ">= 2.4"),
    ],
    "pixelcnn:sampling": [
        Row("B6", "64 images drawn: 784 times a full pass / cached", "one pass", "cached", ">= 450", factor=784),
    ],
    "information:of_10000": [
        Row("B7", "mutual information, 10,000 posteriors: loop / ours", "quarter of the loop", "ours", ">= 35", factor=4),
    ],
    "information:of_60000": [
        Row("B7 60k", "the same, 60,000 posteriors", "quarter of the loop", "ours", ">= 35", factor=4),
    ],
    "text:step": [
        Row("B8 loop", "text step: loop over words / ours", "step by hand, loop over words", "step", ">= 7"),
        Row("B8", "text step: all logits at once / ours", "step by hand, all logits", "step", ">= 1.5"),
        Row("B8 medium", "the same / ours with `--matmul medium`", "step by hand, all logits", "step, medium", ">= 1.5"),
    ],
    "text:logits_memory": [
        Row("B8 memory", "largest tensor of logits: ours / all", "output in pieces", "output, all logits", "<= 0.125"),
    ],
    "semi_amortized:plain_and_exact": [
        Row("B9", "semi-amortized step, K = 10, exact / amortized", "exact", "amortized", "<= 12"),
    ],
    "text:padding": [
        Row("B10", "part of text batches that is padding", "bucketed", None, "<= 0.03"),
    ],
    "pixelcnn:importance_sampling": [
        Row("B11", "log p(x), PixelCNN, K = 200: authors' structure / ours", "authors", "ours", ">= 3"),
    ],
    "jobs:make_train": [
        Row("J1", "`make train` after installation, by the clock", "clock", None, "<= 60", unit=" s"),
    ],
    "jobs:report": [
        Row("J2", "report of an MLP on MNIST, CPU time", "CPU", None, "<= 30", unit=" s"),
    ],
}
NAMES = [row.name for rows in ROWS.values() for row in rows]


def numbers_of(measured, small):
    """{way: numbers round by round} of a comparison, and {way: command} of what is missing."""
    import pyro
    import torch

    module, _, name = measured.partition(":")
    torch.set_num_threads(1)
    torch.set_flush_denormal("as_shipped" not in name)
    pyro.set_rng_seed(0)
    found = getattr(importlib.import_module(module), name)(small)
    if not isinstance(found, Comparison):
        return {"numbers": found, "missing": {}}
    return {"numbers": seconds_of(found), "missing": found.missing}


def in_a_process(measured, small, limit):
    """The same in a process of its own; {"failed": sentence} where it ends otherwise, None where `limit` seconds are over."""
    command = [sys.executable, __file__, "--comparison", measured, *["--small"] * small]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if measured == "jobs:make_train":
        environment.pop("OMP_NUM_THREADS")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as child:
        try:
            said, complaint = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # with what it started
            return None
    if child.returncode:
        return {"failed": (complaint.strip().splitlines() or ["no words"])[-1][:300]}
    return json.loads(said.strip().splitlines()[-1])


def row_of(row, found):
    """What is kept of a row: the median of its ratios, their ends, the seconds behind them; or why there is none."""
    base = {"what": row.what, "bar": row.bar, "unit": row.unit}
    missing = next((found.get("missing", {})[way] for way in (row.over, row.under) if way in found.get("missing", {})), None)
    if "failed" in found or missing:
        return {**base, "not_measured": found.get("failed") or f"needs {missing}"}
    over = found["numbers"].get(row.over)
    under = found["numbers"].get(row.under) if row.under else [1.0] * len(over or [])
    if over is None or under is None:
        return {**base, "not_measured": "left out of a small run"}
    ways = {way: in_short(found["numbers"][way])["median"] for way in (row.over, row.under) if way}
    return {**base, **in_short(ratios(over, under, row.factor)), "numbers": ways}


def is_met(row):
    sign, bar = row["bar"].split()
    return row["median"] <= float(bar) if sign == "<=" else row["median"] >= float(bar)


def measure(names, minutes, small):
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() and not small else {}
    done = kept.get("rows", {}) if kept.get("machine") == machine() else {}
    if not names and set(NAMES) <= set(done):
        done = {}  # the last run was complete: a new one
    end = time.monotonic() + 60 * minutes
    for measured, rows in ROWS.items():
        rows = [row for row in rows if (row.name in names if names else row.name not in done)]
        if not rows:
            continue
        load, left = os.getloadavg()[0], end - time.monotonic()
        found = in_a_process(measured, small, left) if left > 0 else None
        if found is None:
            print(f"The {minutes:g} minutes are over; the same command goes on with {rows[0].name}.")
            return
        for row in rows:
            done[row.name] = {**row_of(row, found), "load": round(load, 1)}
            print(f"{row.name:22s} {in_words(done[row.name]):50s} {row.what}", flush=True)
        if not small:
            ordered = {name: done[name] for name in NAMES if name in done}
            RESULTS.write_text(json.dumps({"machine": machine(), "rows": ordered}, indent=2) + "\n")


def in_words(row):
    if "not_measured" in row:
        return f"not measured: {row['not_measured']}"
    digits = 3 if row["median"] < 0.5 else 2 if row["median"] < 20 else 0
    value, low, high = (f"{row[name]:.{digits}f}{row['unit']}" for name in ("median", "least", "largest"))
    return f"{value} ({low} to {high})  bar {row['bar']}{'' if is_met(row) else '  missed'}"


def table_of_rows(kept):
    """The rows as lines of Markdown: measured in bold where the bar is met."""
    lines = ["| | what | bar | measured | spread | load |", "|---|---|---|---|---|---|"]
    for name, row in kept["rows"].items():
        if "not_measured" in row:
            measured, spread = f"not measured: {row['not_measured']}", ""
        else:
            measured, _, rest = in_words(row).partition(" (")
            measured, spread = f"**{measured}**" if is_met(row) else measured, rest.partition(")")[0] * (row["rounds"] > 1)
        lines.append(f"| {name} | {row['what']} | {row['bar']}{row['unit']} | {measured} | {spread} | {row['load']} |")
    about = kept["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return [*lines, "", f"{about['processor']}, {about['cores']} cores; {versions}."]


def table_of_growth(kept):
    """The exponents as lines of Markdown, each with its plot."""
    lines = ["| against | sizes | time | memory | |", "|---|---|---|---|---|"]
    for name, found in kept.items():
        if name != "machine":
            powers = f"{found['time_exponent']:.2f} | {found['memory_exponent']:.2f}"
            sizes = f"{found['sizes'][0]:,} to {found['sizes'][-1]:,}"
            picture = f"![time and memory](pictures/growth_{name}.png)"
            lines.append(f"| {found['what'].rstrip('.')} | {sizes} | {powers} | {picture} |")
    return lines


def replaced(page, name, lines):
    """A page with these lines between the marks of that name."""
    start, end = f"<!-- {name}: written by benchmarks/table.py --markdown -->", f"<!-- end of {name} -->"
    before, opened, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise SystemExit(f"expected the lines {start} and {end} in {PAGE}")
    return "\n".join([f"{before}{start}", *lines, f"{end}{after}"])


def markdown():
    """Write both tables into docs/performance.md."""
    page = replaced(PAGE.read_text(), "bars", table_of_rows(json.loads(RESULTS.read_text())))
    PAGE.write_text(replaced(page, "growth", table_of_growth(json.loads(GROWTH.read_text()))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: text.split(","), default=[], help="measure these anew, by name: B1,B4j")
    parser.add_argument("--minutes", type=float, default=20, help="start nothing and end all after so many")
    parser.add_argument("--small", action="store_true", help="tiny sizes; writes nothing")
    parser.add_argument("--markdown", action="store_true", help="write the table into docs/performance.md")
    parser.add_argument("--comparison", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.comparison:
        print(json.dumps(numbers_of(given.comparison, given.small)))
    elif given.markdown:
        markdown()
    else:
        if unknown := set(given.rows) - set(NAMES):
            parser.error(f"expected rows of {', '.join(NAMES)}, got {', '.join(sorted(unknown))}")
        measure(given.rows, given.minutes, given.small)


if __name__ == "__main__":
    main()
