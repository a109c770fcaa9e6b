"""What is said on stderr beside progress, and how much of it: -q and -v of every command."""

import logging

import click

from pyro_skipvae.text.printable import one_line

from .echo import echo


def say_as_asked(command):
    """Give a command -q and -v: how much it says on stderr. Errors are always told."""
    quietly = dict(is_flag=True, callback=_remember, help="show no notes and no progress")
    verbosely = dict(count=True, callback=_log, help="show what libraries log, too; -vv: debug messages as well")
    command.params.append(click.Option(["-q", "--quiet"], expose_value=False, **quietly))
    command.params.append(click.Option(["-v", "--verbose"], expose_value=False, **verbosely))
    return command


def note(text):
    """One line on stderr, unless the command runs with -q."""
    if not quiet():
        echo(one_line(text), err=True)


def warn(text):
    """A warning on stderr, told in any case; of several processes of a job by the first one."""
    if not _is_asked("silent"):
        echo(f"Warning: {one_line(str(text))}", err=True)


def _remember(context, _, asked):
    context.meta["quiet"] = asked
    if asked:
        logging.getLogger("pooch").setLevel(logging.WARNING)


def _log(context, _, verbose):
    if verbose:
        logging.basicConfig(level=logging.DEBUG if verbose > 1 else logging.INFO, format="%(name)s: %(message)s")


def quiet():
    return _is_asked("quiet") or _is_asked("silent")


def _is_asked(what):
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(what))
