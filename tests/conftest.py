"""Shared by all tests: every test starts from an empty parameter store and the same seed, and ends with torch's defaults."""

import os
from pathlib import Path

import pyro
import pytest
import torch

# A relative folder is meant from where pytest was started; tests that run the command line elsewhere need the whole path.
os.environ["SKIPVAE_DATA"] = os.path.abspath(os.environ.get("SKIPVAE_DATA") or Path(__file__).parents[1] / "../shared/data")


@pytest.fixture(autouse=True)
def clean_slate():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)


def pytest_terminal_summary(terminalreporter):
    ran = [report for report in terminalreporter.stats.get("passed", ()) if "real_data" in report.keywords]
    skipped = [report for report in terminalreporter.stats.get("skipped", ()) if "real_data" in report.keywords]
    terminalreporter.write_line(f"real-data tests: {len(ran)} passed, {len(skipped)} skipped")
