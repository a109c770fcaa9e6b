"""Commands that show what a model does: reconstructions, interpolations, traversals."""

from dataclasses import replace

import click

from . import text
from .commands import DATASET, DEVICE, JSON, RUN, SEED, examples
from .errors import user_errors, written
from .models import data_of, loaded
from .notes import note
from .options import Whole, beside


def picture(name):
    about = f"PNG file, or text file  [default: {name} in the run folder; texts on stdout]"
    return click.option("--out", type=click.Path(dir_okay=False), help=about)


@click.command(
    epilog=examples(
        "reconstruct runs/digits --count 8 --out eight.png",
        "reconstruct runs/pydoc --decoding beam",
        'reconstruct runs/pydoc --text "the name is bound to an object ."',
    )
)
@RUN
@click.option("--count", type=Whole(1), help="how many test items, from the first on  [default: 16 images, 8 texts]")
@click.option("--text", "own", help="a text of your own, its words between blanks  [default: test texts]")
@text.decoding("greedy")
@SEED
@DATASET
@picture("reconstructions.png")
@DEVICE
@JSON
def reconstruct(run, count, own, decoding, beam_width, seed, dataset, out, device, as_json):
    """Show test items of RUN, and how the model reconstructs them: mean and sample of p(x|z), or a decoded text."""
    from pyro_skipvae.reports import model_pictures
    from pyro_skipvae.text import generation as texts

    found, _ = _shown(run, device, dataset, text=own, decoding=decoding, beam_width=beam_width)
    vae, about = found.vae, found.about
    if about.kind != "text":
        return _draw(run, out, "reconstructions.png", as_json, lambda: model_pictures.draw_reconstructions(
            vae, data_of(found), count=count or 16, seed=seed))  # fmt: skip
    with user_errors():
        how = text.how(decoding, beam_width, "greedy")
        if own is not None and count is not None:
            raise ValueError("expected --text or --count, got both")
        x = data_of(found).test[: count or 8] if own is None else text.read(own, about)
    pairs = texts.reconstructions(vae, about.vocabulary, x, seed=seed, **how)
    lines = [line for pair in pairs for line in (f"text            {pair[0]}", f"reconstruction  {pair[1]}", "")][:-1]
    said = [{"text": original, "reconstruction": made} for original, made in pairs]
    text.emit(run, lines, {"decoding": how["decoding"], "seed": seed, "pairs": said}, out=out, as_json=as_json)


@click.command(
    epilog=examples(
        "interpolate runs/digits --from-item 3 --to-item 7",
        'interpolate runs/pydoc --from "the name is bound ." --to-item 5 --points 9',
    )
)
@RUN
@click.option("--from", "from_text", metavar="TEXT", help="the text to start from  [default: a test item]")
@click.option("--from-item", type=Whole(0), help="the test item to start from  [default: 0]")
@click.option("--to", "to_text", metavar="TEXT", help="the text to end at  [default: a test item]")
@click.option("--to-item", type=Whole(0), help="the test item to end at  [default: 1]")
@click.option("--points", default=7, show_default=True, type=Whole(2), help="steps on the way, both ends included")
@text.decoding("greedy")
@SEED
@DATASET
@picture("interpolation.png")
@DEVICE
@JSON
def interpolate(run, from_text, from_item, to_text, to_item, points, decoding, beam_width, seed, dataset, out, device, as_json):
    """Interpolate between two items of RUN: decode the straight line between the means of their posteriors."""
    from pyro_skipvae.reports import model_pictures
    from pyro_skipvae.text import generation as texts

    ends = {"from": from_text, "to": to_text, "decoding": decoding, "beam_width": beam_width}
    found, _ = _shown(run, device, dataset, **ends)
    vae, about = found.vae, found.about
    if found.config.prior == "uniform-categorical":
        with user_errors():
            raise ValueError("expected latent variables with something between two of them for an interpolation, got codes")
    x_a, x_b = _end(found, "from", from_text, from_item, 0), _end(found, "to", to_text, to_item, 1)
    if about.kind != "text":
        return _draw(run, out, "interpolation.png", as_json, lambda: model_pictures.draw_interpolation(
            vae, x_a, x_b, kind=about.kind, points=points, seed=seed))  # fmt: skip
    with user_errors():
        how = text.how(decoding, beam_width, "greedy")
    way = texts.interpolation(vae, about.vocabulary, x_a, x_b, points=points, seed=seed, **how)
    said = [{"weight": weight, "text": made} for weight, made in way]
    lines = [f"{weight:.2f}  {made}" for weight, made in way]
    text.emit(run, lines, {"decoding": how["decoding"], "seed": seed, "points": said}, out=out, as_json=as_json)


@click.command(epilog=examples("traverse runs/digits", "traverse runs/digits --item 3 --dimensions 5 --out five.png"))
@RUN
@click.option("--item", type=Whole(0), help="the test item to start from  [default: 0; without data, a draw of z]")
@click.option("--dimensions", type=Whole(1), help="how many, by decreasing rate  [default: 10 of images, 3 of texts]")
@SEED
@DATASET
@picture("traversals.png")
@DEVICE
def traverse(run, item, dimensions, seed, dataset, out, device):
    """Show what each latent dimension of RUN does: move one at a time through the prior, in standard deviations.

    Texts are decoded greedily.
    """
    from pyro_skipvae.reports import model_pictures
    from pyro_skipvae.text import generation as texts

    found, rates = _shown(run, device, dataset)
    vae, about = found.vae, found.about
    data = data_of(found) if item is not None or dataset else _data_or_none(found)
    start = {"rates": rates, "item": item or 0, "seed": seed}
    if about.kind != "text":
        return _draw(run, out, "traversals.png", False, lambda: model_pictures.draw_traversals(
            vae, data, dimensions=dimensions or 10, kind=about.kind, **start))  # fmt: skip
    with user_errors():
        z, labels = model_pictures.traversed(vae, data, dimensions=dimensions or 3, **start)
    lines = []
    for row, label in zip(z, labels, strict=True):
        made = texts.decoded(vae, about.vocabulary, row)
        lines += [label, *(f"{value:+4d}  {said}" for value, said in zip(model_pictures.STEPS, made, strict=True)), ""]
    text.emit(run, lines[:-1], {}, out=out, as_json=False)


@click.command(epilog=examples("explore runs/digits", "explore runs/mine --dimensions 2 --steps 15 --out two.html"))
@RUN
@click.option("--dimensions", default=3, show_default=True, type=click.IntRange(1, 6), help="sliders, by decreasing rate")
@click.option("--steps", type=click.IntRange(2, 101), help="positions of a slider  [default: 9; of texts, or drawn images, 5]")
@click.option("--item", type=Whole(0), help="the test item to start from  [default: 0; without data, a draw of z]")
@SEED
@DATASET
@click.option("--out", type=click.Path(dir_okay=False), help="HTML file  [default: explore.html in the run folder]")
@DEVICE
@JSON
def explore(run, dimensions, steps, item, seed, dataset, out, device, as_json):
    """Write one page with sliders over the most used latent dimensions of RUN; it works without a server.

    What the model makes of each place of the sliders is computed now: means of p(x|z) of images and tables, draws where an
    autoregressive decoder has no mean, texts decoded greedily.
    """
    from pyro_skipvae.reports.comparison import read_record
    from pyro_skipvae.reports.explorer import explorer_page
    from pyro_skipvae.runs.checkpoint import write_whole

    with user_errors():
        found = loaded(run, device, latent=True, dataset=dataset)
        data = data_of(found) if item is not None or dataset else _data_or_none(found)
        slow = found.about.kind == "text" or found.config.decoder == "pixelcnn"
        page = explorer_page(
            found.vae,
            found.about,
            name=found.path.name,
            data=data,
            rates=read_record(run).report.get("rate_per_dimension"),
            dimensions=dimensions,
            steps=steps or (5 if slow else 9),
            item=item or 0,
            seed=seed,
        )
    target = out or beside(run, "explore.html")
    with user_errors(), written(target):
        write_whole(target, page)
    text.emit_file(run, target, as_json=as_json)


def _data_or_none(run):
    """The data of a run where they are here: a start alone is not worth a download."""
    from pyro_skipvae.data.folder import DataError

    try:
        with user_errors():
            return replace(run, config=replace(run.config, download="never")).data
    except DataError as error:
        reason = str(error).partition(";")[0]
        note(f"Starting from a draw of the prior: {reason}. --item 0 takes a test item, and downloads the data if needed.")
        return None


def _shown(run, device, dataset, **for_text):
    """A loaded run on images or text, and the rate of each dimension; `for_text` are options that images refuse."""
    from pyro_skipvae.reports.comparison import read_record
    from pyro_skipvae.reports.figures import can_draw

    with user_errors():
        found = loaded(run, device, latent=True, dataset=dataset)
        about = found.about
        text.only_for_text(about, **for_text)
        if about.kind != "text" and not can_draw(about.event_shape):
            raise ValueError(f"expected a model of images or text to show, got items of shape {about.event_shape}")
        return found, read_record(run).report.get("rate_per_dimension")


def _draw(run, out, name, as_json, make):
    from pyro_skipvae.reports.figures import save_png

    with user_errors():
        figure = make()
    target = out or beside(run, name)
    with user_errors(), written(target):
        save_png(figure, target)
    text.emit_file(run, target, as_json=as_json)


def _end(run, name, own, item, usual):
    """An end of an interpolation, x (1, ...): a text of the user's own, or a test item."""
    from pyro_skipvae.reports.model_pictures import item_of

    with user_errors():
        if own is not None and item is not None:
            raise ValueError(f"expected --{name} or --{name}-item, got both")
        return text.read(own, run.about) if own is not None else item_of(data_of(run), usual if item is None else item)
