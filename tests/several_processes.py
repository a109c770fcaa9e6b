"""Functions of tests as the processes of one job, forked from one that has imported everything."""

import os
import socket
import sys

from torture import _FORKS as FORKS


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def environment(rank, size, port):
    return {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


class Job:
    """`size` processes that each call `function(*arguments)`; what it returns has to be plain values."""

    def __init__(self, function, *arguments, size=2):
        port, self.parts = free_port(), []
        for rank in range(size):
            ours, theirs = FORKS.Pipe(duplex=False)
            process = FORKS.Process(target=_main, args=(environment(rank, size, port), theirs, function, arguments))
            process.start()
            theirs.close()
            self.parts.append((process, ours))

    def results(self, seconds=60):
        """What each returned, or the exception in words, by rank; None of one that was killed."""
        found = []
        for process, pipe in self.parts:
            try:
                found.append(pipe.recv() if pipe.poll(seconds) else None)
            except EOFError:
                found.append(None)
            process.join(10)
            if process.exitcode is None:
                process.kill()
        return found


def _main(variables, pipe, function, arguments):
    import torch

    os.environ.update({name: str(value) for name, value in variables.items()})
    torch.set_num_threads(1)
    try:
        pipe.send(function(*arguments))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
    pipe.close()
    sys.stdout.flush()
    os._exit(0)  # no group of processes is taken down, which waits for what others still do
