"""Click options made from the fields of Config: one source for names, types, choices, defaults and help."""

from dataclasses import fields
from types import NoneType
from typing import get_args

import click

from pyro_skipvae.config import Config


def config_options(command):
    """Give a command one option for each field of Config; those not given stay out of what it receives."""
    for entry in reversed(fields(Config)):
        command = _option(entry)(command)
    return command


def given(options):
    """The options that the user set, as flags for `Config.from_flags`; names may be written with underscores."""
    names = {entry.name for entry in fields(Config) if entry.metadata["choices"] and entry.name != "dataset"}
    return {
        name: value.replace("_", "-") if name in names else value for name, value in options.items() if value is not None
    }


def _option(entry):
    kind = next(kind for kind in get_args(entry.type) or (entry.type,) if kind is not NoneType)
    about = entry.metadata
    choices = f" ({', '.join(about['choices'])})" if about["choices"] else ""
    default = entry.default if entry.default is not None else about["usual"]
    help = f"{about['help']}{choices}  [default: {default}]"
    return click.option("--" + entry.name.replace("_", "-"), entry.name, type=kind, default=None, help=help)
