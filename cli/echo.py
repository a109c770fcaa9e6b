"""Printing: everything that a command says goes through here, so that no data can command a terminal."""

import contextlib
import os
import sys
from typing import Any

import click

from pyro_skipvae.text.printable import printable


class OutputError(click.ClickException):
    """Standard output cannot be written: the disk is full, or its reader has ended."""

    exit_code = 2


def echo(said: Any = "", *, err: bool = False, nl: bool = True) -> None:
    """Print to stdout, or to stderr with `err`, with control characters written out.

    Raises OutputError where stdout cannot be written. What stderr cannot take is lost: no training shall end for a note.
    """
    try:
        click.echo(printable(str(said)), err=err, nl=nl)
    except OSError as error:
        if not err:
            raise unwritten(error) from None


def flush() -> None:
    """See that what was printed has been written. Raises OutputError if it cannot be."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        raise unwritten(error) from None


def open_streams() -> None:
    """Give the process all three standard streams: a file that took the number of a closed one would get what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for stream in (sys.stdout, sys.stderr):  # words that a terminal cannot show are no reason to fail
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def unwritten(error: OSError) -> OutputError:
    """The error, after what is left in the buffer was given up: Python would try it again, and fail, at its exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stdout is sys.__stdout__:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OutputError(
        f"expected to print the result on stdout, which cannot be written: {error.strerror or error}; files are written as said"
    )
