"""The rows of the table: what is done to a run, how often, and what must hold. A unit returns (how many, what failed)."""

import functools
import json
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import MODELS, configs, damage, faults, killed_until_done, outcome, reference, same, states, train

QUICK = (("no_report",),)


@dataclass(frozen=True)
class Row:
    what: str
    count: int
    unit: Callable


@functools.cache
def whole(model, hooks=QUICK):
    """(outcome, seconds) of an uninterrupted run, once for all rows."""
    with tempfile.TemporaryDirectory() as folder:
        return reference(Path(folder) / "run", model, hooks=hooks)


def kills(folder, unit, random, _):
    """A run of one of two models, killed up to four times; every second one saves at every step."""
    model, hooks = ("mlp", "pixelcnn")[unit % 2], (QUICK, (("no_pictures",),))[unit % 5 == 0]
    more = ("--checkpoint-minutes", (0, 10)[unit // 2 % 2])
    codes = killed_until_done(folder / "run", model, whole(model, hooks)[1], random, kills=4, more=more, hooks=hooks)
    return codes.count(-signal.SIGKILL), _differs(folder / "run", model, codes, {-signal.SIGKILL, 0}, unit)


def stops(folder, unit, *_):
    """A run stopped in the step `unit`, and resumed."""
    hooks = (*QUICK, ("signal_at", unit % 60 + 1, signal.SIGTERM))
    codes = [train(folder / "run", "mlp", hooks=hooks).end(), train(folder / "run", "mlp", hooks=QUICK).end()]
    return 1, _differs(folder / "run", "mlp", codes, {143, 0}, unit)


def signals(folder, unit, random, _):
    """A run that gets up to three signals; before the handlers are set, the system's own end it."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    codes = killed_until_done(folder / "run", "mlp", whole("mlp")[1], random, kills=3, numbers=numbers, hooks=QUICK)
    return len(codes) - 1, _differs(folder / "run", "mlp", codes, {143, 130, 0, *(-number for number in numbers)}, unit)


def _differs(run, model, codes, allowed, unit):
    right = codes[-1] == 0 and set(codes) <= allowed and same(outcome(run), whole(model)[0])
    return [] if right else [f"unit {unit}: exit codes {codes}; {run.with_suffix('.log').read_text()[-300:]}"]


def nans(folder, unit, *_):
    """Something not finite at one of three places, in one of four models: the run stops with 5, nothing has changed."""
    place, model = ("input", "loss", "gradient")[unit % 3], list(MODELS)[unit // 3 % 4]
    run = train(folder / "run", model, hooks=(*QUICK, ("poison", place, 7, str(folder / "seen"))))
    code, noted = run.end(), folder / "run" / "nonfinite.json"
    right = (
        code == 5 and json.loads((folder / "seen").read_text())["unchanged"] and json.loads(noted.read_text())["first"] == 7
    )
    return 1, [] if right else [f"{place} of {model}: exit code {code}"]


def pairs(folder, unit, *_):
    """Two runs at once in one folder, new or left behind by a killed one."""
    if unit % 2:
        train(folder / "run", "mlp", hooks=(*QUICK, ("signal_at", 5, signal.SIGKILL))).end()
    both = [train(folder / "run", "mlp", hooks=(*QUICK, ("slowly", 0.02))) for _ in range(2)]
    codes = sorted(run.end() for run in both)
    return 1, [] if codes == [0, 4] else [f"unit {unit}: exit codes {codes}"]


def memory(folder, _, __, scale):
    """A run of 5,000 steps: after the first 500 it grows by less than 5 MB, and opens no file."""
    steps = max(1500, round(5000 * scale))
    more = ("--epochs", steps // 10, "--lr-schedule", "constant", "--checkpoint-minutes", 0.2)
    run = train(folder / "run", "mlp", *more, hooks=(*QUICK, ("memory", 500, str(folder / "sizes"))))
    code = run.end(900)
    sizes = [json.loads(line) for line in (folder / "sizes").read_text().splitlines()]
    grown, opened = (sizes[-1][name] - sizes[0][name] for name in ("bytes", "files"))
    right = code == 0 and grown < 5e6 and opened <= 0
    return sizes[-1]["step"], [] if right else [f"exit code {code}, {grown} bytes and {opened} files more: {sizes}"]


ROWS = {
    "kills": Row("kill -9 at random moments of an MLP and a PixelCNN run, resumed until done: the same end", 200, kills),
    "stops": Row("stopped at every step 1 to 60 and resumed: the same end", 60, stops),
    "signals": Row("SIGTERM, SIGINT, SIGUSR1 at random moments: right exit code, the same end", 50, signals),
    "faults": Row("error or death after every write, flush, fsync and rename of a save, 3 sizes", 42, faults.unit),
    "checkpoints": Row("mutated checkpoints: refused, or unchanged in content", 20_000, damage.checkpoints),
    "states": Row("checkpoints of a right checksum over a wrong state: taken as they are, or one sentence", 2_000, states.unit),
    "data": Row("mutated data files: refused, or unchanged in content", 1_000, damage.data),
    "configs": Row("generated settings: valid ones round-trip, others exit 2 without a traceback", 2_000, configs.unit),
    "nans": Row("not finite at input, loss, gradient of 4 models: exit 5, parameters and moments untouched", 12, nans),
    "pairs": Row("two runs started together in one folder: one goes on, one exits 4", 20, pairs),
    "memory": Row("steps, during which memory grows by less than 5 MB", 5_000, memory),
}
