"""The command line `skipvae-pyro`. Commands import torch when they run, so that `--help` answers at once."""

import os
import sys
import traceback

import click

from . import reproduction
from .commands import datasets, evaluate, sample, train
from .doctor import completion, doctor
from .echo import flush, open_streams
from .errors import check_working_folder, report_errors
from .gradients import check_gradients
from .models import encode, export
from .notes import say_as_asked
from .pages import compare, report
from .planning import predict
from .showing import explore, interpolate, reconstruct, traverse
from .target_rate import target_rate
from .torchrun import has_joined, is_several, leave

# Words may be written with underscores, as Python writes them.
CONTEXT = {"help_option_names": ["-h", "--help"], "token_normalize_func": lambda word: word.replace("_", "-")}
EPILOG = "Everything a run does is written to its folder; evaluate and sample need no other setting than its path."


@click.group(epilog=EPILOG, context_settings=CONTEXT)
@click.version_option(package_name="pyro_skipvae")
@click.pass_context
def cli(context):
    """Train latent-variable models on Pyro, and measure whether their latent variables collapsed."""
    if is_several() and context.invoked_subcommand != "train":
        raise click.UsageError(
            f"expected train with torchrun, got {context.invoked_subcommand}, which is one process: start it alone, with RANK "
            "and WORLD_SIZE unset"
        )


COMMANDS = (
    *(train, evaluate, sample, report, compare),
    *(reconstruct, interpolate, traverse, explore, encode, export),
    *reproduction.COMMANDS,
    *(predict, target_rate, check_gradients, datasets, doctor, completion),
)
SUMMARIES = {  # in the list of commands: one line each, which click would cut off
    "train": "Train a model, then report on its latent variables.",
    "evaluate": "Report anew on a finished RUN.",
    "sample": "Draw from the model of RUN.",
    "report": "Write an HTML page on one RUN, or on several.",
    "compare": "Compare RUNs, or train and compare remedies.",
    "reconstruct": "Show test items of RUN and their reconstructions.",
    "interpolate": "Interpolate between two items of RUN.",
    "traverse": "Show what each latent dimension of RUN does.",
    "explore": "Write a page with sliders over latent dimensions.",
    "encode": "Write mean and scale of q(z|x) for all data of RUN.",
    "export": "Write the model of RUN into a folder, with a card.",
    "reproduce": "Print a table or figure of the paper, beside ours.",
    "predict": "Predict from the data, before training, what z can encode.",
    "target-rate": "Compute the rate that a delta-VAE's prior commits.",
    "check-gradients": "Compare the gradients through a refinement on RUN.",
    "datasets": "List the data sets, and where they were found.",
    "doctor": "Describe this machine, or a checkpoint, run or data.",
    "completion": "Print the script with which a shell completes commands.",
}
for command in COMMANDS:
    command.short_help = SUMMARIES[command.name]
    cli.add_command(say_as_asked(command))


def main():
    """Run the command line; every mistake of the user's is one line on stderr and a fixed exit code."""
    open_streams()
    if is_several():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # of a lost connection torch prints its stack
        if os.environ["RANK"] != "0":
            sys.stdout = open(os.devnull, "w")  # results are printed once
    try:
        with report_errors():
            check_working_folder()
            code = cli.main(standalone_mode=False)
            flush()
            sys.exit(code)
    except BaseException as end:
        if not has_joined():
            raise
        if not isinstance(end, SystemExit):
            traceback.print_exc()
        leave(end.code or 0 if isinstance(end, SystemExit) else 1)
