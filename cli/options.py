"""Click options made from the fields of Config: one source for names, types, choices, defaults, variables and help."""

import math
import os
import shlex
import tomllib
from dataclasses import fields
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import get_args

import click

from pyro_skipvae.runs.config import LARGEST, Config, check_names
from pyro_skipvae.runs.included import folder_of, hint, is_included

from .errors import NoRun, UserError, user_errors

PREFIX = "SKIPVAE_"
# The first field of Config under each heading of the help.
HEADINGS = {"dataset": "Data", "model": "Model", "objective": "Inference and training"}
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


class Whole(click.IntRange):
    """A whole number from `least` on, below what torch and the machine can count."""

    def __init__(self, least):
        super().__init__(min=least, max=LARGEST - 1)

    def _describe_range(self):
        """The range as the help shows it: nobody asks for the upper end."""
        return f"x>={self.min}"

    def convert(self, value, param, ctx):
        number = click.INT.convert(value, param, ctx)
        if not self.min <= number <= self.max:
            self.fail(f"expected a whole number from {self.min} to {self.max}, got {number}", param, ctx)
        return number


class Seed(click.IntRange):
    """A seed, as all random generators take it."""

    def __init__(self):
        super().__init__(min=0, max=2**32 - 1)


class Duration(click.FloatRange):
    """Seconds or minutes, at least 0: click alone takes NaN for a number in any range."""

    def __init__(self, **range_options):
        super().__init__(min=0, **range_options)

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"expected a number of at least 0, got {value}", param, ctx)
        return number


def check_run(path):
    """Tell that a folder is no run before torch is imported."""
    if not (Path(path) / "config.toml").exists():
        raise NoRun(f"expected a run folder with a config.toml, got {path}{hint(path)}")


def check_own(path):
    """The same of a run from which a training goes on: those that come with the package have weights alone."""
    folder = folder_of(path)
    if is_included(folder):
        raise UserError(
            f"expected a run of your own to go on with, got {path}, which comes with the package without the state of its "
            f"training; train it anew with --config {shlex.quote(str(folder / 'config.toml'))} --out FOLDER"
        )
    check_run(path)


def beside(run, name):
    """Where a command writes what it makes of a run: in its folder, or here for a run that comes with the package."""
    return Path(name) if is_included(run) else Path(run) / name


def home_path(path):
    """A path to write to, `~` replaced as a shell does it; a `~user` that is not there is told, not made a folder of."""
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise UserError(f"expected the name of an existing user after ~, got {path}; write ./{path} for a folder of that name")
    return found


class RunPath(click.Path):
    """A path, for which the name of a run that comes with the package may stand."""

    def convert(self, value, param, ctx):
        found = folder_of(value)
        return super().convert(str(found) if is_included(found) else value, param, ctx)


class RunFolder(RunPath):
    """The folder of a run."""

    def __init__(self):
        super().__init__(file_okay=False)

    def convert(self, value, param, ctx):
        path = super().convert(value, param, ctx)
        check_run(path)
        return path


class Grouped(click.Command):
    """A command whose help lists its options under headings: the `group` of each, "Run and output" where it has none."""

    def format_options(self, ctx, formatter):
        groups = {}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                groups.setdefault(getattr(param, "group", "Run and output"), []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


class GroupedOption(click.Option):
    """An option under a heading of the help."""

    def __init__(self, *names, group, **about):
        super().__init__(*names, **about)
        self.group = group


def config_options(command=None, *, without=(), hidden=False):
    """Give a command one option for each field of Config; those not given stay out of what it receives.

    With arguments it gives a decorator: `without` are fields that get none, `hidden` options are not in the help.
    """
    if command is None:
        return partial(config_options, without=without, hidden=hidden)
    groups, heading = {}, ""
    for entry in fields(Config):
        groups[entry.name] = heading = HEADINGS.get(entry.name, heading)
    for entry in reversed(fields(Config)):
        if entry.name not in without:
            command = _option(entry, groups[entry.name], hidden)(command)
    return command


def some_config_options(*names):
    """Give a command the options of these fields of Config, in this order."""

    def decorate(command):
        for name in reversed(names):
            command = _option(Config.__dataclass_fields__[name], "Data and model")(command)
        return command

    return decorate


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


def is_of_run(file):
    """Whether a file of settings is that of a run, which holds all of them."""
    return (Path(file).parent / "checkpoints").is_dir()


def _preset(name):
    return tomllib.loads((files("pyro_skipvae") / "runs" / "presets" / f"{name}.toml").read_text()) if name else {}


def _read(file):
    try:
        with open(file, "rb") as stream:
            return tomllib.load(stream)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected settings as TOML in {file}, which cannot be read: {error}") from None


def _is_ours(variable):
    return variable.startswith(PREFIX) and variable != DATA_VARIABLE


def _dashed(name, value):
    is_choice = Config.__dataclass_fields__[name].metadata["choices"] and name != "dataset"
    return value.replace("_", "-") if is_choice and isinstance(value, str) else value


def _option(entry, group, hidden=False):
    kind = next(kind for kind in get_args(entry.type) or (entry.type,) if kind is not NoneType)
    about = entry.metadata
    choices = f" ({', '.join(about['choices'])})" if about["choices"] else ""
    default = entry.default if entry.default is not None else about["usual"]
    help = about["help"] if kind is bool else f"{about['help']}{choices}  [default: {default}]"
    flag, variable = "--" + entry.name.replace("_", "-"), PREFIX + entry.name.upper()
    about = {"default": None, "help": help, "envvar": variable, "hidden": hidden}
    about |= {"is_flag": True} if kind is bool else {"type": kind}
    return click.option(flag, entry.name, cls=GroupedOption, group=group, **about)
