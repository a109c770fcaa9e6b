"""What a piece of work costs, by clocks that are set by hand."""

import time

import pytest
import torch

from pyro_skipvae.timing import least_seconds


@pytest.mark.parametrize("device, wall, expected", [("cpu", False, 2.0), ("cpu", True, 3.0), ("cuda", False, 3.0)])
def test_the_least_of_some_runs_counts(monkeypatch, device, wall, expected):
    """Runs of 9, 3 and 5 s by the wall clock took 4, 4 and 2 s of CPU: others had the processor, or two threads ran at once."""
    walls, cpus = iter([0, 9, 10, 13, 20, 25]), iter([0, 4, 4, 8, 8, 10])
    monkeypatch.setattr(time, "perf_counter", lambda: next(walls))
    monkeypatch.setattr(time, "process_time", lambda: next(cpus))
    assert least_seconds(lambda: None, times=3, device=torch.device(device), wall=wall) == expected
