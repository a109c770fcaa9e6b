"""Draw the pictures of docs/delta-vae.md from what is computed and from results/: python docs/pictures/delta_vae.py."""

from pathlib import Path

from pyro_skipvae.reports.figures import draws_of_latents, rate_planes, save_png
from pyro_skipvae.reproduction.analyses import unpacked
from pyro_skipvae.reproduction.committed_rate_study import contours_figure, rates_figure
from pyro_skipvae.reproduction.page import families
from pyro_skipvae.reproduction.tables import entry_for, load_table, read_results

HERE = Path(__file__).parent


def entries(name):
    """The table of a name, and the entries of its results."""
    return load_table(name), read_results(HERE.parents[1] / "results" / f"{name}.json")


def main():
    save_png(rates_figure(), HERE / "committed_rate.png")
    save_png(contours_figure(), HERE / "nearest_posterior.png")
    save_png(rate_planes(families(*entries("delta-vae-figure4"))), HERE / "delta_vae_plane.png")
    table, own = entries("delta-vae-figure3")
    numbers = entry_for(table.runs[0], own)["analysis"]["auxiliary-draws"]
    images = [unpacked(numbers[name], numbers["width"]) for name in ("same", "different")]
    save_png(draws_of_latents(*images, columns=numbers["columns"]), HERE / "delta_vae_draws.png")


if __name__ == "__main__":
    main()
