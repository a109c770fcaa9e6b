"""Make the runs that come with the package of the run folders that were trained for them: weights alone, report and card.

    python benchmarks/included_runs.py PLAIN SKIP     # writes pyro_skipvae/runs/trained/mnist-pair/

The command that trained each run is in its card. The report is measured anew, since it names the checkpoint that it is of.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pyro_skipvae.reports.comparison import read_record
from pyro_skipvae.reports.export import model_card
from pyro_skipvae.runs import checkpoint
from pyro_skipvae.runs.folder import Run
from pyro_skipvae.runs.included import FOLDER, INCLUDED

KEPT = ("config.toml", "data.json", "metrics.jsonl")
LARGEST = 6 * 10**6  # bytes of all together


def include(source: Path, name: str) -> None:
    """Write the run `name` of the run folder `source`."""
    state, _ = Run(source).load("best")
    with tempfile.TemporaryDirectory() as above:
        made = Path(above) / Path(name).name
        (made / "checkpoints").mkdir(parents=True)
        for file in KEPT:
            shutil.copyfile(source / file, made / file)
        weights = {part: state[part] for part in ("vae", "epoch", "data")}
        checkpoint.save(made / "checkpoints" / "best.safetensors", weights)
        subprocess.run([sys.executable, "-m", "pyro_skipvae_cli", "evaluate", str(made), "--save"], check=True)
        numbers = sum(tensor.numel() for tensor in state["vae"].values())
        (made / "README.md").write_text(model_card(read_record(made), numbers, included=name))
        (made / ".lock").unlink(missing_ok=True)
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        shutil.copytree(made, FOLDER / name)


def main() -> None:
    for source, name in zip(map(Path, sys.argv[1:]), INCLUDED, strict=True):
        include(source, name)
    size = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    assert size <= LARGEST, f"expected at most {LARGEST:,} bytes, got {size:,}"
    print(f"{size:,} bytes")


if __name__ == "__main__":
    main()
