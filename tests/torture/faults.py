"""An error, or the death of the process, after every operation of a save; also in the middle of a write."""

import errno
import os

import torch

from pyro_skipvae.runs import checkpoint
from pyro_skipvae.runs.folder import Run, RunError

from . import same

SIZES = (100, 100_000, 10_000_000)  # bytes


class Faulty:
    """The module `os`, and files, that act up after the n-th operation."""

    def __init__(self, at, act):
        self.at, self.act, self.done = at, act, 0

    def __getattr__(self, name):
        function = getattr(os, name)
        return self._then_fault(function) if name in ("fsync", "replace") else function

    def open(self, *arguments, **options):
        return os.open(*arguments, **options)

    def open_file(self, path, mode):
        return FaultyFile(open(path, mode), self)

    def _then_fault(self, function):
        def call(*arguments):
            function(*arguments)
            self.operation()

        return call

    def operation(self):
        self.done += 1
        if self.done == self.at:
            self.act()


class FaultyFile:
    def __init__(self, file, faulty):
        self.file, self.faulty, self.fileno = file, faulty, file.fileno

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.faulty.operation()
        self.file.write(content[len(content) // 2 :])
        self.faulty.operation()

    def flush(self):
        self.file.flush()
        self.faulty.operation()


def _full():
    raise OSError(errno.ENOSPC, "No space left on device")


def _dead():
    os._exit(9)


def unit(folder, number, *_):
    """Every point of a save of one size, by an error and by death."""
    size, count, failed = SIZES[number % len(SIZES)], 0, []
    states = [{"epoch": epoch, "weights": torch.rand(size // 4)} for epoch in range(4)]
    for act in (_full, _dead):
        at = 1
        while True:
            path = folder / f"{act.__name__}{at}"
            reached = _save_with_fault(path, states, at, act)
            if not reached:
                break
            count, at = count + 1, at + 1
            if not _is_whole(path, states):
                failed.append(f"{size} bytes, operation {at - 1}, {act.__name__}")
    return count, failed


def _save_with_fault(path, states, at, act):
    """Save twice, then a third time with a fault; returns whether there was an operation `at`. In a child, which may die."""
    child = os.fork()
    if child == 0:
        try:
            run = Run(path)
            with run.locked():
                run.save("last", states[0])
                run.save("last", states[1])
                checkpoint.os = faulty = Faulty(at, act)
                checkpoint.open = faulty.open_file
                try:
                    run.save("last", states[2])
                except RunError:
                    os._exit(8 if act is _full else 1)
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 8, 9), code
    return code != 0


def _is_whole(path, states):
    """The state before or the new one is there, nothing is left over, and the next save works."""
    run = Run(path)
    with run.locked():
        state, trouble = run.latest()
        leftovers = list(path.glob("**/*.tmp"))
        run.save("last", states[3])
        again, _ = Run(path).latest()
    return trouble is None and not leftovers and any(same(state, one) for one in states[1:3]) and same(again, states[3])
