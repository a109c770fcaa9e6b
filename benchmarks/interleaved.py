"""Ways to one result, timed in turn: one thread, CPU time, round by round in alternating order.

Ratios are of times of one round, so that what else the machine does in it weighs on both sides.
"""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """Ways by name, each call a piece of work; how often a round calls each; rounds that only warm up; and what cannot run.

    `missing` has the command that installs what a way needs. `about` are further facts of the settings.
    """

    ways: dict[str, Callable[[], object]]
    repeats: int = 1
    rounds: int = 7
    warm: int = 1
    missing: dict[str, str] = field(default_factory=dict)
    about: str = ""


def seconds_of(comparison: Comparison, clock: Callable[[], float] = time.process_time) -> dict[str, list[float]]:
    """The seconds of a call of each way, round by round."""
    found: dict[str, list[float]] = {name: [] for name in comparison.ways}
    for number in range(comparison.warm + comparison.rounds):
        for name, way in sorted(comparison.ways.items(), reverse=number % 2 == 1):
            start = clock()
            for _ in range(comparison.repeats):
                way()
            found[name].append((clock() - start) / comparison.repeats)
    return {name: seconds[comparison.warm :] for name, seconds in found.items()}


def in_short(values: list[float]) -> dict[str, Any]:
    """The median of some rounds, their least and their largest."""
    return {"median": statistics.median(values), "least": min(values), "largest": max(values), "rounds": len(values)}


def ratios(over: list[float], under: list[float], factor: float = 1.0) -> list[float]:
    """Round by round."""
    return [factor * one / other for one, other in zip(over, under, strict=True)]


def machine() -> dict[str, Any]:
    """Processor and versions that a measurement belongs to."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": max(len(names), 1),
        "versions": {name: found for name in ("torch", "pyro-ppl", "pythae", "numpyro", "jax") if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
