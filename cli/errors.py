"""How mistakes are told: one plain line on stderr, and an exit code that says of which kind it was.

0 done    1 unexpected    2 usage or setting    3 data missing or damaged    4 run or checkpoint
5 not finite    6 another process of the job was lost
129 its terminal was closed    130 stopped by Ctrl-C    143 stopped by SIGTERM
"""

import contextlib
import errno
import os
import signal
import sys
import tempfile

import click

from pyro_skipvae.text.printable import one_line, printable

from .echo import echo, unwritten
from .torchrun import is_several

ELSEWHERE = {  # our option -> its names in other programs
    "lr": "learning-rate learning_rate step-size eta alpha lrate",
    "epochs": "num-epochs n-epochs max-epochs epoch niter iterations",
    "batch-size": "bs batch minibatch-size train-batch-size",
    "latent-dim": "z-dim zdim z-size latent latents latent-size latent-dims n-latent num-latents nz code-size",
    "width": "hidden hidden-dim hidden-size hidden-units n-hidden units dim",
    "encoder-width": "encoder-hidden encoder-units encoder-hidden-dim",
    "layers": "num-layers n-layers depth nlayers",
    "maps": "channels filters n-filters num-filters feature-maps",
    "kernel": "kernel-size",
    "beta": "kl-weight kl-beta kld-weight beta-kl kl-coef",
    "warmup-epochs": "warmup kl-warmup kl-annealing annealing anneal-epochs kl-anneal",
    "beta-schedule": "kl-schedule kl-anneal-schedule annealing-schedule",
    "lr-schedule": "scheduler lr-scheduler lr-decay",
    "max-norm": "clip grad-clip clip-grad clip-norm gradient-clipping max-grad-norm",
    "optimizer": "optim opt",
    "guide": "posterior variational-family q",
    "dataset": "data data-set train-data input file",
    "data-dir": "data-path dataroot data-root root",
    "out": "output output-dir out-dir save-dir outdir logdir log-dir results-dir save",
    "resume": "continue restart ckpt load from-checkpoint checkpoint-path",
    "device": "gpu cuda cpu use-cuda no-cuda gpus",
    "seed": "random-seed rng-seed manual-seed",
    "embedding": "embedding-dim emb-dim embed-dim embedding-size",
    "vocabulary-size": "vocab vocab-size",
    "max-words": "max-len max-length seq-len",
    "count": "num-samples n-samples samples num n",
    "importance-samples": "iw-samples num-importance-samples iwae-samples k",
    "skip": "skips skip-connections",
    "objective": "loss",
    "patience": "early-stopping early-stop",
    "svi-steps": "refine-steps inner-steps",
    "dry-run": "summary",
}
FULL = (errno.ENOSPC, errno.EPIPE)
CODES = {"DataError": 3, "RunError": 4, "CheckpointError": 4, "RankLost": 6}


class UserError(click.ClickException):
    """A mistake of the user's: `Error: message`, exit code 2."""

    exit_code = 2


class NoRun(click.ClickException):
    """A folder that is no run."""

    exit_code = 4


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


class Elsewhere(BaseException):
    """This process of a job ends because of a mistake that another one tells."""

    def __init__(self, exit_code):
        super().__init__()
        self.exit_code = exit_code


def exit_code_of(error):
    """The exit code that an error leads to, 1 where it is unexpected."""
    return getattr(error, "exit_code", CODES.get(type(error).__name__, 1))


@contextlib.contextmanager
def user_errors():
    """Take a ValueError raised while settings and data are read as the user's mistake."""
    try:
        yield
    except ValueError as error:
        # Pyro adds the shapes of a trace to what is raised in it.
        raise UserError(str(error).partition("Trace Shapes:")[0].rstrip()) from error


@contextlib.contextmanager
def written(target, what="a file"):
    """Take a failure to write what the user named as his mistake."""
    try:
        yield
    except OSError as error:
        raise UserError(f"expected {what} that can be written, got {target}: {error.strerror or error}") from None


def check_working_folder():
    """Raises UserError where the working folder was removed: no library finds its own files from there."""
    try:
        os.getcwd()
    except OSError:
        raise UserError("expected a working folder that exists, but it was removed; change to another one") from None


def check_temporary_folder():
    """Raises UserError where there is no folder for temporary files, or none for what torch compiles: it cannot do without."""
    caches = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    name = "TORCHINDUCTOR_CACHE_DIR" if caches else "TMPDIR"
    try:
        folder = caches or tempfile.gettempdir()
        os.makedirs(folder, exist_ok=True)
        found = os.access(folder, os.W_OK)
    except OSError:
        found = False
    if not found:
        raise UserError(f"expected a folder for temporary files that can be written; set the variable {name} to one")


@contextlib.contextmanager
def report_errors():
    try:
        yield
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption):
            error.possibilities = _ours(error) or error.possibilities
        if not _is_told_by_another(error):
            _show(error)
        sys.exit(error.exit_code)
    except Elsewhere as elsewhere:
        sys.exit(elsewhere.exit_code)
    except Stopped as stopped:
        if not _is_told_by_another(stopped):
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
        code, said = CODES.get(type(error).__name__), str(error)
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:  # what click prints itself
            code, said = 2, unwritten(error).message
        elif code is None and isinstance(error, OSError):
            code, said = 2, f"expected a file or folder that this machine can use: {_reason(error)}"
        if code is None:
            raise
        if not _is_told_by_another(error):
            echo(f"Error: {one_line(said)}", err=True)
        sys.exit(code)


def _is_told_by_another(error):
    """Whether this is one of several processes of torchrun, and another one says the same."""
    if not is_several() or getattr(error, "own", False):
        return False
    rank, here = os.environ["RANK"], os.environ.get("LOCAL_RANK", "0")
    if isinstance(error, Stopped | NonfiniteError):
        return rank != "0"
    if type(error).__name__ == "RankLost" and error.rank is not None:
        return rank != ("1" if error.rank == 0 else "0")
    return here != "0" and (isinstance(error, click.ClickException) or type(error).__name__ == "RankLost")


def _ours(error):
    """What an option that people know from elsewhere is called here, if the command has it."""
    there = {name for param in error.ctx.command.params for name in param.opts} if error.ctx else set()
    wanted = next((ours for ours, others in ELSEWHERE.items() if error.option_name.lstrip("-") in others.split()), None)
    return [f"--{wanted}"] if f"--{wanted}" in there else []


def _show(error):
    """Tell a mistake in one line; one of usage comes with lines of click's own."""
    error.message = (printable if isinstance(error, click.UsageError) else one_line)(error.message)
    with contextlib.suppress(OSError):  # where stderr cannot be written, the exit code has to do
        error.show()


def _reason(error):
    reason = error.strerror or " ".join(str(error).split())
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def _is_out_of_memory(error):
    """torch says it in words; on a GPU by an error of its own, which is a RuntimeError too."""
    words = "can't allocate memory", "out of memory", "Storage size calculation overflowed"
    return isinstance(error, MemoryError) or isinstance(error, RuntimeError) and any(word in str(error) for word in words)
