"""Draw docs/pictures/pixelcnn.png, the 9-layer PixelCNNs by epoch: python docs/pictures/pixelcnn.py."""

import json
from pathlib import Path

from pyro_skipvae.reports.figures import runs_by_epoch, save_png
from pyro_skipvae.reproduction.tables import validated

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "results" / "table2-arms-begun.json"  # skipvae-pyro reproduce table2-arms --json

if __name__ == "__main__":
    begun = json.loads(RESULTS.read_text(encoding="utf-8"))["begun"]
    save_png(runs_by_epoch({run["arm"]: validated(run) for run in begun}), HERE / "pixelcnn.png")
