"""Draw the planes and print the tables of docs/remedies.md: python docs/pictures/remedies.py."""

import tomllib
from pathlib import Path

import pyro_skipvae
from pyro_skipvae.reports.figures import save_png
from pyro_skipvae.reproduction.remedies import comparison_of, remedies_of
from pyro_skipvae.reproduction.remedy_page import plane_figure
from pyro_skipvae.reproduction.remedy_words import number_text, rows_of
from pyro_skipvae.reproduction.tables import read_results

HERE = Path(__file__).parent
PRESET = Path(pyro_skipvae.__file__).parent / "runs/presets/text-small.toml"
SETTINGS = {
    "mnist": {"decoder": "mlp", "layers": 5, "width": 256, "latent_dim": 50, "batch_size": 128, "svi_steps": 5}
    | {"limit_train": 20000, "limit_eval": 5000, "epochs": 20},
    "ptb": tomllib.loads(PRESET.read_text()),
}
SETTINGS["mnist-he"] = SETTINGS["mnist"] | {"initialisation": "he"}
PICTURES = {"mnist": "remedies_plane.png", "ptb": "remedies_ptb.png"}
FAR = ("mmd", "vmf")  # they would press all others into a corner
COLUMNS = {"elbo": "ELBO", "ppl": "PPL", "kl": "rate", "mi_lower": "I_q(x; z), lower bound", "au": "active units"}
COLUMNS |= {"shuffled_latent_loss": "loss, z shuffled"}


def compared(dataset):
    """The rows of a comparison, the plain VAE first, then by their ELBO."""
    entries = read_results(HERE.parents[1] / f"results/remedies-{dataset}.json")
    names = list(dict.fromkeys(entry["arm"] for entry in entries))
    about = comparison_of(remedies_of(",".join(names)), seeds=3, dataset=dataset.removesuffix("-he"), **SETTINGS[dataset])
    rows = rows_of(about, entries)
    return sorted(rows, key=lambda row: (row.name != "vae", -row.numbers["elbo"].ours))


def table_of(rows):
    """Lines of Markdown; the difference to the VAE with its interval over seeds, or, of one seed, over test points."""
    shown = [column for column in COLUMNS if any(row.numbers[column].ours is not None for row in rows)]
    over = "seeds" if any(row.over_seeds for row in rows) else "test points"
    headings = ["", *(COLUMNS[column] for column in shown), "CPU time"]
    headings.insert(2, f"ELBO minus the VAE's, 95 % over {over}")
    yield f"| {' | '.join(headings)} |"
    yield "|---" * len(headings) + "|"
    for row in rows:
        found = row.over_seeds or row.on_points
        cells = [f"`{row.name}`", *(number_text(row.numbers[column]) for column in shown), f"x {row.times:.2f}"]
        cells.insert(2, f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})" if found else "-")
        yield f"| {' | '.join(cells)} |".replace("-0.00", "0.00")


for dataset in SETTINGS:
    rows = compared(dataset)
    print(f"{dataset}: seeds {', '.join(f'{row.name} {row.seeds}' for row in rows)}", *table_of(rows), sep="\n")
    if dataset in PICTURES:
        save_png(plane_figure([row for row in rows if row.name not in FAR]), HERE / PICTURES[dataset])
