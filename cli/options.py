"""Click options made from the fields of Config: one source for names, types, choices, defaults, variables and help."""

import math
import os
import tomllib
from dataclasses import fields
from importlib.resources import files
from types import NoneType
from typing import get_args

import click

from pyro_skipvae.runs.config import Config, check_names

from .errors import user_errors

PREFIX = "SKIPVAE_"
DATA_VARIABLE = "SKIPVAE_DATA"  # read by the data sets themselves


class OnNan(click.ParamType):
    """`stop` or `skip:N`, as the number of steps that may be left out."""

    name = "stop|skip:N"

    def convert(self, value, param, ctx):
        if isinstance(value, int) or value == "stop":
            return int(value != "stop" and value)
        word, _, count = value.partition(":")
        if word != "skip" or not (count.isascii() and count.isdigit()) or len(count) > 9:
            self.fail(f"expected stop or skip:N, got {value!r}", param, ctx)
        return int(count)


class Duration(click.FloatRange):
    """Seconds or minutes, at least 0: click alone takes NaN for a number in any range."""

    def __init__(self, **range_options):
        super().__init__(min=0, **range_options)

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"expected a number of at least 0, got {value}", param, ctx)
        return number


def config_options(command):
    """Give a command one option for each field of Config; those not given stay out of what it receives."""
    for entry in reversed(fields(Config)):
        command = _option(entry)(command)
    return command


def settings(preset, file, options):
    """The settings given, as flags for `Config.from_flags`: preset < TOML file < variables and flags.

    Names may be written with underscores. A misspelt key or variable fails by name.
    """
    with user_errors():
        content = _read(file) if file else {}
        check_names(content, f" in {file}")
        check_names({name.removeprefix(PREFIX).lower() for name in os.environ if _is_ours(name)}, " in the environment")
    given = {name: value for name, value in options.items() if value is not None}
    return {name: _dashed(name, value) for name, value in {**_preset(preset), **content, **given}.items()}


def _preset(name):
    return tomllib.loads((files("pyro_skipvae") / "runs" / "presets" / f"{name}.toml").read_text()) if name else {}


def _read(file):
    try:
        with open(file, "rb") as stream:
            return tomllib.load(stream)
    except ValueError as error:
        raise ValueError(f"expected settings as TOML in {file}, which cannot be read: {error}") from None


def _is_ours(variable):
    return variable.startswith(PREFIX) and variable != DATA_VARIABLE


def _dashed(name, value):
    is_choice = Config.__dataclass_fields__[name].metadata["choices"] and name != "dataset"
    return value.replace("_", "-") if is_choice and isinstance(value, str) else value


def _option(entry):
    kind = next(kind for kind in get_args(entry.type) or (entry.type,) if kind is not NoneType)
    about = entry.metadata
    choices = f" ({', '.join(about['choices'])})" if about["choices"] else ""
    default = entry.default if entry.default is not None else about["usual"]
    help = f"{about['help']}{choices}  [default: {default}]"
    flag, variable = "--" + entry.name.replace("_", "-"), PREFIX + entry.name.upper()
    return click.option(flag, entry.name, type=kind, default=None, help=help, envvar=variable)
