"""The full counts: `python -m torture [--scale 0.1] [--out FILE.json] [ROW...]`, in `tests/` or with it on the path.

The file is written as it goes, and a count that was broken off goes on from there.
"""

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

from pyro_skipvae.runs.checkpoint import write_whole

from .rows import ROWS


def main():
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"which rows: {', '.join(ROWS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the full counts")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(options.out.read_text()) if options.out and options.out.exists() else {"rows": {}}
    results["versions"] = {"python": platform.python_version(), "torch": torch.__version__, "pyro": version("pyro-ppl")}
    for name in options.rows or ROWS:
        row = results["rows"].setdefault(name, {"what": ROWS[name].what, "count": 0, "units": 0, "failed": [], "seconds": 0.0})
        complete(
            name, row, options.scale, lambda: options.out and write_whole(options.out, json.dumps(results, indent=1) + "\n")
        )
    failed = {name: row["failed"] for name, row in results["rows"].items() if row["failed"]}
    sys.exit(f"failed: {failed}" if failed else 0)


def complete(name, row, scale, write):
    """Do what is left of a row, one unit after the other, and write after each."""
    wanted = max(1, round(ROWS[name].count * scale))
    while row["count"] < wanted:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            count, failed = ROWS[name].unit(Path(folder), row["units"], random.Random(f"{name} {row['units']}"), scale)
        row["count"] += count
        row["units"] += 1
        row["failed"] += failed
        row["seconds"] = round(row["seconds"] + time.monotonic() - start, 2)
        write()
        print(f"{name}: {row['count']} of {wanted}, {len(row['failed'])} failed, {row['seconds']:.0f} s", file=sys.stderr)


main()
