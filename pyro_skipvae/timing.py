"""What a piece of work costs, measured so that other programs on the machine count little."""

import time
from collections.abc import Callable

import torch


def least_seconds(run: Callable[[], object], *, times: int, device: torch.device, wall: bool = False) -> float:
    """The least seconds of several runs, which must wait for their device.

    On a CPU the shorter of wall clock and CPU time counts: the first is the longer one where other programs take the processor,
    the second where several threads run at once. With `wall`, and on other devices, the wall clock counts.
    """
    wall = wall or device.type != "cpu"
    found = []
    for _ in range(times):
        started = time.perf_counter(), time.process_time()
        run()
        lasted = time.perf_counter() - started[0], time.process_time() - started[1]
        found.append(lasted[0] if wall else min(lasted))
    return min(found)
