"""Whether this process is one of several that torchrun started; asked before torch is imported."""

import contextlib
import os
import sys


def is_several():
    """Whether the variables of torchrun are those of several processes."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def has_joined():
    """Whether this process is one of several."""
    found = sys.modules.get("torch.distributed")
    return found is not None and found.is_available() and found.is_initialized()


def leave(code):
    """End this process of a job at once: to take its connections down would wait for what the others still do."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
