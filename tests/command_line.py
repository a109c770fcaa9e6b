"""The command line as tests call it."""

import contextlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pyro
import pytest

from pyro_skipvae_cli import main

SCRIPT = str(Path(sys.executable).with_name("skipvae-pyro"))


def skipvae(*arguments, cwd):
    """The command line in this process, which has torch already: what a subprocess would print and return."""
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    pyro.clear_param_store()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["skipvae-pyro", *map(str, arguments)])
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
    return SimpleNamespace(returncode=code, stdout=stdout.getvalue(), stderr=stderr.getvalue())
