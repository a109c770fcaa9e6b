"""Signals of a training run: SIGTERM, Ctrl-C and a closed terminal stop it, SIGUSR1 saves. In place before torch is."""

import contextlib
import os
import signal
import sys

from .errors import Stopped

HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
STOPPING = tuple(number for number in (signal.SIGINT, signal.SIGTERM, HANGUP) if number)
SAVING = getattr(signal, "SIGUSR1", None)  # not on Windows


def end_with_parent(number=signal.SIGTERM):
    """Let this process get a signal when the one that started it dies, even of a SIGKILL; on Linux alone."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


class Signals:
    """Handlers for as long as the context lasts. Outside `deferred` a stop is raised where the program is.

    Inside it `stop` holds the signal's number and the program goes on to where it can stop; a second one leaves at once,
    with nothing written. `save` says that a checkpoint was asked for.
    """

    def __init__(self):
        self.stop, self.save, self._deferring = None, False, False

    def __enter__(self):
        handlers = {number: self._on_stop for number in STOPPING}
        if SAVING is not None:
            handlers[SAVING] = self._on_save
        # A shell lets its background jobs ignore Ctrl-C, and so they shall.
        heard = [number for number in handlers if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, handlers[number]) for number in heard}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self):
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.stop is not None:
            raise Stopped(self.stop)

    def _on_stop(self, number, _frame):
        if self.stop is not None and number == HANGUP:
            return  # one end of a terminal, or of the process that started this one, may send several
        if self.stop is not None:
            os._exit(128 + number)
        self.stop = number
        if not self._deferring:
            raise Stopped(number)

    def _on_save(self, _number, _frame):
        self.save = True
