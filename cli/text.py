"""Texts on the command line: how they are decoded, what a user writes, and where they are shown."""

import json

import click

from .echo import echo
from .errors import user_errors, written
from .notes import note

DECODINGS = ("sample", "greedy", "beam")
USUAL_BEAM, WIDEST_BEAM = 5, 1000


def decoding(usual):
    """Give a command the options --decoding and --beam-width, which are for runs on text."""

    def decorate(command):
        about = f"texts kept in a beam  [default: {USUAL_BEAM}]"
        width = click.option("--beam-width", type=click.IntRange(1, WIDEST_BEAM), help=about)
        about = f"texts: draw x from p(x|z), or look for the most probable one  [default: {usual}]"
        return click.option("--decoding", type=click.Choice(DECODINGS), help=about)(width(command))

    return decorate


def how(decoding, beam_width, usual):
    """The options of a command as arguments of `pyro_skipvae.text.generation`. Raises ValueError for a width without a beam."""
    decoding = decoding or usual
    if beam_width is not None and decoding != "beam":
        raise ValueError(f"expected --beam-width with --decoding beam, got --decoding {decoding}")
    return {"decoding": decoding, "beam_width": beam_width or USUAL_BEAM}


def only_for_text(data, **options):
    """Raises ValueError, naming the first option that was given, unless the data are text."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if data.kind != "text" and given:
        raise ValueError(f"expected a run on text for {given[0]}, got one on {data.name}")


def read(text, data):
    """The x (1, T) of a user's text; what the vocabulary lacks is told in a note."""
    from pyro_skipvae.text.generation import read_text

    with user_errors():
        x, unknown = read_text(text, data.vocabulary, *data.event_shape)
    if unknown:
        note(f"Not in the vocabulary and read as <unk>: {', '.join(dict.fromkeys(unknown))}. Words are between blanks.")
    return x


def emit(run, lines, about, *, out, as_json):
    """Print lines, or write them to the file `out` and print its path; with --json print what they are `about`."""
    from pyro_skipvae.runs.checkpoint import write_whole

    if out:
        with written(out):
            write_whole(out, "".join(f"{line}\n" for line in lines))
        about = {**about, "file": str(out)}
    echo(json.dumps({"schema": 1, "run": str(run), **about}) if as_json else out or "\n".join(lines))


def emit_file(run, path, *, as_json):
    """Print the path of a file that was written."""
    echo(json.dumps({"schema": 1, "run": str(run), "file": str(path)}) if as_json else path)
