"""Where the runs of a table are trained: in processes of this machine, or of the machines of a Ray cluster."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import click

from .errors import UserError

SECONDS_TO_ANSWER = 10  # that a cluster has, at most

EXECUTOR = click.option(
    "--executor",
    default="local",
    show_default=True,
    type=click.Choice(["local", "ray"]),
    help="where: on this machine, or on those of the Ray cluster that it belongs to (pip install ray)",
)


def connected():
    """The module ray, connected to the cluster that is there. Raises UserError where either is missing."""
    try:
        import ray
    except ImportError:
        raise UserError("expected Ray for --executor ray; install it: pip install ray") from None
    if not ray.is_initialized():
        try:
            address = os.environ.get("RAY_ADDRESS") or "auto"
            _check_answer(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                "expected a Ray cluster for --executor ray, got no answer from one; start it with `ray start --head`, and "
                f"`ray start --address HOST:6379` on the others, or name it in RAY_ADDRESS ({str(error).splitlines()[0]})"
            ) from None
    return ray


def _check_answer(address):
    """Raises OSError where nobody answers at the address, or at what `auto` stands for.

    Ray itself tries for minutes, and `auto` is also the address of the last cluster here, which may be gone.
    """
    from ray._private.services import canonicalize_bootstrap_address_or_die

    found = canonicalize_bootstrap_address_or_die(address) if address == "auto" else address.rpartition("//")[2]
    host, _, port = found.rpartition(":")
    if not (host and port.isdigit()):
        return  # a name that Ray makes an address of
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise OSError(f"{found}: {error.strerror or error}") from None


def started(arguments, *, log, variables):
    """A command of ours in a process of its own, which ends when this one does; what it says is appended to a file."""
    # Settings are those of the table, not of the environment; and Ctrl-C is ours to pass on, once.
    kept = {n: value for n, value in os.environ.items() if not n.startswith("SKIPVAE_") or n == "SKIPVAE_DATA"}
    command = [sys.executable, "-m", "pyro_skipvae_cli", *arguments]
    with open(log, "a", encoding="utf-8") as out:
        return subprocess.Popen(
            command, stdout=out, stderr=out, env=kept | variables, start_new_session=True, preexec_fn=_ends_with_us()
        )


class RayProcess:
    """The same on whichever machine Ray finds room, with the methods of a `Popen` that a pool needs.

    `lost` says that the machine, or Ray's process there, is gone, and with it the command.
    """

    def __init__(self, ray, arguments, *, log, variables, gpu):
        data = {name: os.environ[name] for name in ("SKIPVAE_DATA",) if name in os.environ}
        task = ray.remote(_run).options(num_cpus=1, num_gpus=int(gpu), max_retries=0)
        self.ray, self.returncode, self.lost = ray, None, False
        self.task = task.remote(list(arguments), os.getcwd(), str(log), data | variables)

    def poll(self):
        if self.returncode is None and self.ray.wait([self.task], timeout=0)[0]:
            try:
                self.returncode = self.ray.get(self.task)
            except self.ray.exceptions.TaskCancelledError:
                self.returncode = -signal.SIGTERM
            except self.ray.exceptions.RayTaskError:
                raise  # a fault of ours
            except self.ray.exceptions.RayError:
                self.returncode, self.lost = -signal.SIGKILL, True
        return self.returncode

    def send_signal(self, _):
        self.ray.cancel(self.task)  # a KeyboardInterrupt there

    def wait(self):
        self.ray.wait([self.task])
        return self.poll()


def _run(arguments, folder, log, variables):
    """In a worker of Ray: a command to its end; its exit code."""
    with contextlib.chdir(folder):
        process = started(arguments, log=log, variables=variables)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        return process.wait()


def on_ray(function, items):
    """[function(item), ...], each on a machine of the cluster that has room."""
    ray = connected()
    task = ray.remote(_called_in).options(num_cpus=1)
    return ray.get([task.remote(os.getcwd(), function, item) for item in items])


def _called_in(folder, function, item):
    with contextlib.chdir(folder):
        return function(item)


def _ends_with_us():
    """What a process does at its start so that it gets a SIGHUP when we die, even of a SIGKILL; None but on Linux."""
    if sys.platform != "linux":
        return None
    import ctypes

    libc, death_signal = ctypes.CDLL(None), 1  # PR_SET_PDEATHSIG

    def begin():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ours may be ignored, as under nohup
        libc.prctl(death_signal, signal.SIGHUP)

    return begin
