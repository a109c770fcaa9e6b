"""How mistakes are told: one plain line on stderr, and an exit code that says of which kind it was.

0 done    1 unexpected    2 usage or setting    3 data missing or damaged    4 run or checkpoint
5 not finite    129 its terminal was closed    130 stopped by Ctrl-C    143 stopped by SIGTERM
"""

import contextlib
import signal
import sys

import click

from pyro_skipvae.text.printable import printable

from .echo import echo

CODES = {"DataError": 3, "RunError": 4, "CheckpointError": 4}


class UserError(click.ClickException):
    """A mistake of the user's: `Error: message`, exit code 2."""

    exit_code = 2


class RunsFailed(click.ClickException):
    """Runs of a table did not finish; what did is kept."""

    exit_code = 4


class NonfiniteError(click.ClickException):
    """Input, loss or gradient was not finite more often than allowed."""

    exit_code = 5


class Stopped(BaseException):
    """A signal asked for a stop: exit code 128 + its number. Like KeyboardInterrupt it is no error that others handle."""

    def __init__(self, number, message="what was finished is kept"):
        super().__init__(f"Stopped by {signal.Signals(number).name}: {message}.")
        self.exit_code = 128 + number


@contextlib.contextmanager
def user_errors():
    """Take a ValueError raised while settings and data are read as the user's mistake."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error).partition("\nTrace Shapes:")[0]) from error  # Pyro adds those to what is raised in a trace


@contextlib.contextmanager
def written(target, what="a file"):
    """Take a failure to write what the user named as his mistake."""
    try:
        yield
    except OSError as error:
        raise UserError(f"expected {what} that can be written, got {target}: {error.strerror or error}") from None


@contextlib.contextmanager
def report_errors():
    try:
        yield
    except click.ClickException as error:
        error.message = printable(error.message)
        error.show()
        sys.exit(error.exit_code)
    except Stopped as stopped:
        echo(stopped, err=True)
        sys.exit(stopped.exit_code)
    except (click.Abort, KeyboardInterrupt):
        echo("Interrupted.", err=True)
        sys.exit(130)
    except Exception as error:
        if _is_out_of_memory(error):
            said = " ".join(str(error).split())
            echo(
                "Error: expected a model and batches that fit into memory, got more than there is; a smaller --batch-size, "
                f"--width or --latent-dim may help; a run that was begun can be gone on with ({said})",
                err=True,
            )
            sys.exit(2)
        code = CODES.get(type(error).__name__)
        if code is None:
            raise
        echo(f"Error: {error}", err=True)
        sys.exit(code)


def _is_out_of_memory(error):
    """torch says it in words; on a GPU by an error of its own, which is a RuntimeError too."""
    words = "can't allocate memory", "out of memory", "Storage size calculation overflowed"
    return isinstance(error, MemoryError) or isinstance(error, RuntimeError) and any(word in str(error) for word in words)
