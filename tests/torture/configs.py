"""Generated settings, as a file or as flags: valid ones come back as they were, others are one line and exit code 2."""

import contextlib
import dataclasses
import io
import json
import math
import sys
from types import NoneType
from typing import get_args

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pyro_skipvae.runs.config import Config, ConfigError
from pyro_skipvae_cli import main

BATCH = 100
FIELDS = {entry.name: entry for entry in dataclasses.fields(Config)}
JUNK = st.one_of(
    st.booleans(),
    st.integers(),
    st.integers(10**400, 10**401),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from("ab"), st.integers(), max_size=1),
)
OWN = {
    "dataset": st.sampled_from(["digits", "digits", "digits", "absent.npz", 'odd "\\ \n\x7f.npz', "digit"]),
    "download": st.sampled_from(["auto", "never"]),  # a wrong one in a file goes unseen: a flag sets it below
    "data_dir": st.sampled_from(["/nowhere", "é", ""]),
    "skip": st.sampled_from(["all", "none", "first", "last", "parameter-matched", "1", "output", "1,output", "1,,2", "al"]),
    "objective": st.sampled_from(
        ["elbo", "analytic-elbo", "iwae", "iwae(3)", "iwae(0)", "iwae()", "iwae(" + "9" * 5000 + ")"]
    ),
}


def _values(name, entry):
    """What a setting may be, and values just outside."""
    if name in OWN:
        return OWN[name]
    if entry.metadata["choices"]:
        return st.sampled_from([*entry.metadata["choices"], "nothing"])
    kind = next(kind for kind in get_args(entry.type) or (entry.type,) if kind is not NoneType)
    return (
        st.integers(-1, 100)
        if kind is int
        else st.one_of(st.floats(0, 10), st.sampled_from([1e-300, -1.0, math.nan, math.inf]))
    )


FLAGS = st.one_of(
    st.fixed_dictionaries({}, optional={name: _values(name, entry) for name, entry in FIELDS.items() if name in chosen})
    for chosen in (
        FIELDS,
        ("layers", "skip", "model", "latent_dim", "lr"),
        ("dataset", "decoder", "beta", "seed", "objective"),
    )
)
# Not `download`, for the same reason.
ODD = st.dictionaries(st.sampled_from([*(name for name in FIELDS if name != "download"), "laeyrs", "", "é"]), JUNK, max_size=3)


def unit(folder, number, *_):
    """A hundred settings."""
    seen, failed = [], []

    @seed(number)
    @settings(
        max_examples=BATCH, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(flags=FLAGS, odd=st.one_of(st.just({}), st.just({}), ODD), as_file=st.booleans())
    def each(flags, odd, as_file):
        seen.append(flags)
        trouble = _trouble(folder, {**flags, **odd}, as_file)
        if trouble:
            failed.append(f"{trouble}: {str({**flags, **odd})[:500]}")

    each()
    return len(seen), failed


def _trouble(folder, flags, as_file):
    """What is wrong with how some flags are taken; None if nothing is."""
    try:
        config = Config.from_flags(flags)
    except ConfigError as error:
        config, message = None, str(error)
        if "\n" in message:
            return f"more than one line: {message!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if config is not None and Config.from_toml(config.to_toml()) != config:
        return "another config after a round trip"
    code, out, said = _command_line(folder, flags, as_file)
    if "Traceback" in said or code not in (0, 2, 3) or (config is None and code != 2 and as_file):
        return f"exit code {code}: {said[-500:]}"
    if code == 0 and Config.from_toml(out).to_toml() != out:
        return "another config after it was printed"
    return None


def _command_line(folder, flags, as_file):
    """(exit code, stdout, stderr) of `train --print-config` in this process."""
    if as_file:
        file = folder / "config.toml"
        file.write_text("".join(f"{json.dumps(name)} = {_toml(value)}\n" for name, value in flags.items()), encoding="utf-8")
        words = ["--config", str(file)]
    else:
        words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    out, said, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["skipvae-pyro", "train", "--print-config", "--download", "never", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            main()
    except SystemExit as end:
        return end.code or 0, out.getvalue(), said.getvalue()
    except BaseException as error:
        return 1, out.getvalue(), f"Traceback: {error!r}"
    finally:
        sys.argv = before


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {item}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f") if value.isascii() else json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)
