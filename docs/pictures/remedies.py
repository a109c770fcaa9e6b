"""Draw docs/pictures/remedies_plane.png: python docs/pictures/remedies.py."""

from pathlib import Path

from pyro_skipvae.reports.figures import save_png
from pyro_skipvae.reproduction.remedies import comparison_of, remedies_of
from pyro_skipvae.reproduction.remedy_page import plane_figure
from pyro_skipvae.reproduction.remedy_words import lines, rows_of
from pyro_skipvae.reproduction.tables import read_results

HERE = Path(__file__).parent
SETTINGS = {"dataset": "mnist", "decoder": "mlp", "layers": 5, "width": 256, "latent_dim": 50, "batch_size": 128}
FAR = ("mmd", "vmf")  # they would press all others into a corner
SETTINGS |= {"svi_steps": 5, "limit_train": 20000, "limit_eval": 5000, "epochs": 20}

entries = read_results(HERE.parents[1] / "results/remedies-mnist.json")
names = list(dict.fromkeys(entry["arm"] for entry in entries))
table = comparison_of(remedies_of(",".join(names)), seeds=3, **SETTINGS)
save_png(plane_figure([row for row in rows_of(table, entries) if row.name not in FAR]), HERE / "remedies_plane.png")
for row in lines(table, entries)[1]:
    print(" | ".join(cell.replace("\n", ", ") for cell in row))
