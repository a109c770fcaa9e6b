"""`train` as one of several processes that torchrun started: what they decide together, and what only the first one does."""

import contextlib
import os

import click
import torch
from torch.utils._pytree import tree_leaves

from pyro_skipvae.runs.checkpoint import random_state
from pyro_skipvae.runs.folder import Run
from pyro_skipvae.training.ranks import digest, join_ranks

from .echo import echo
from .errors import Elsewhere, UserError, exit_code_of, user_errors
from .signals import end_with_parent

# Settings under which a row's part of a step depends on the other rows of its batch -> what to take instead, if anything.
WHOLE_BATCH = {
    "objective": {
        "free-bits-per-group": "free-bits-per-dimension",
        **dict.fromkeys(("kl-balancing", "mmd", "target-rate", "batch-prior", "mutual-divergence")),
    },
    "svi_gradient": {"authors": "exact"},
    "guide": {"codebook": "categorical", "batch-normalised": "minimum-rate"},
}


def join():
    """The `Ranks` of this job, or None where it is one process. From then on only the first one says and prints anything."""
    with user_errors():
        ranks = join_ranks()
    if ranks:
        end_with_parent()  # torchrun itself may be killed
        click.get_current_context().meta["silent"] = not ranks.first
    return ranks


@contextlib.contextmanager
def together(ranks):
    """What all processes do alike, with no word between them: if it fails in any, all end, and the first that failed tells."""
    if ranks is None:
        yield
        return
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    codes = ranks.gather("" if failure is None else str(exit_code_of(failure)))
    failed = next((rank for rank, code in enumerate(codes) if code), None)
    if failed == ranks.rank:
        failure.own = True  # whatever its place on its machine
        if not ranks.first:
            echo(f"In the process of rank {ranks.rank}, on {ranks.members[ranks.rank][1]}:", err=True)
        raise failure
    if failed is not None:
        raise Elsewhere(int(codes[failed]))


def check_several(config, ranks):
    """Raises UserError for settings under which several processes cannot make the step of one."""
    for name, instead in WHOLE_BATCH.items():
        value, flag = str(getattr(config, name)), f"--{name.replace('_', '-')}"
        word = value.partition("(")[0]
        if word in instead and (name != "svi_gradient" or config.inference != "amortized"):
            other = f"{flag} {value.replace(word, instead[word])}, or " if instead[word] else ""
            raise UserError(
                f"expected settings that treat each row on its own for several processes, got {flag} {value}, which reads its "
                f"batch as a whole; use {other}one process"
            )
    if config.batch_size < ranks.size:
        raise UserError(f"expected --batch-size of at least {ranks.size}, the number of processes, got {config.batch_size}")


def start_alike(job):
    """Give the model of every process the start of the first one's: other processors may round it otherwise."""
    job.ranks.use(job.device)
    for module in filter(None, (job.vae, job.step.auxiliary)):
        job.ranks.same_start(module.state_dict().values())


def check_in_step(job):
    """Raises RuntimeError unless all processes have the same parameters, optimizer, random numbers and place, bit by bit.

    So that one state, that of the first process, is the state of all.
    """
    random = random_state(job.device)
    parts = [*job.vae.state_dict().values(), random["torch"], *random["cuda"], *_tensors(job.step.state_dict())]
    if not job.ranks.agree(" ".join([str(job.batches.state_dict()), *map(digest, parts)])):
        raise RuntimeError(f"expected the same state in all processes, but they differ at step {job.step.steps}")


def _tensors(state):
    return [part for part in tree_leaves(state) if isinstance(part, torch.Tensor)]


def own_device(name):
    """The device of this process by --device: of several GPUs the one of its place on the machine."""
    place = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"expected --device cpu, cuda or auto for several processes, got {name}")
    if name == "cpu" or not torch.cuda.is_available():
        return name
    if place >= torch.cuda.device_count():
        raise UserError(
            f"expected a GPU for each process of a machine, got {torch.cuda.device_count()} and the process number {place}: "
            f"start at most {torch.cuda.device_count()} a machine, or take --device cpu"
        )
    torch.cuda.set_device(place)
    return f"cuda:{place}"


class SilentRun(Run):
    """A run folder as another process than the first has it: it reads, and writes nothing."""

    @contextlib.contextmanager
    def locked(self, *, new=False):
        yield self

    def _nothing(self, *_, **__):
        pass

    begin = check_space = log = cut_metrics = save = write = remove = write_report = _nothing
