"""Printing: everything that a command says goes through here, so that no data can command a terminal."""

from typing import Any

import click

from pyro_skipvae.text.printable import printable


def echo(said: Any = "", *, err: bool = False, nl: bool = True) -> None:
    """Print to stdout, or to stderr with `err`, with control characters written out."""
    click.echo(printable(str(said)), err=err, nl=nl)
