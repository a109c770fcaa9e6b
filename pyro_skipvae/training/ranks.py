"""One model trained by several processes: each computes its rows of every batch, and all make one step of their sum."""

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pyro import get_param_store
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pyro_skipvae.objectives import Batch, as_arguments
from pyro_skipvae.random_numbers import forked

JOIN_SECONDS = 120.0  # for all processes to arrive
LOST_SECONDS = 50.0  # a process that does not answer for so long in a step is lost
WAIT_SECONDS = 3600.0  # while one of them writes or reads what the others wait for


class RankLost(Exception):
    """Another process of the job ended or does not answer; `rank` is its number, None where it is not known."""

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


def join_ranks(environ: Mapping[str, str] = os.environ) -> "Ranks | None":
    """Joins the processes that `torchrun` started, and returns their `Ranks`; None where there is one process.

    It reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Raises ValueError for variables that are missing or impossible, and
    RankLost where the others do not answer within two minutes.
    """
    rank, size = _place(environ)
    if size == 1:
        return None
    address, port = (environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not address or not (port or "").isdigit():
        raise ValueError(f"expected MASTER_ADDR and MASTER_PORT, where process 0 is found, got {address!r} and {port!r}")
    try:
        socket.getaddrinfo(address, int(port or 0))  # torch would look for it for minutes, and say so each second
    except OSError as error:
        raise ValueError(f"expected in MASTER_ADDR a machine that this one finds, got {address!r}: {error.strerror}") from None
    try:
        dist.init_process_group("gloo", rank=rank, world_size=size, timeout=timedelta(seconds=JOIN_SECONDS))
        return Ranks(rank, size)
    except (RuntimeError, ValueError) as error:
        raise RankLost(
            f"expected {size} processes to meet at {address}, port {port}, got no answer within {JOIN_SECONDS:g} s: see that "
            f"all were started, and that this machine reaches that address ({_first_line(error)})"
        ) from error


def _place(environ: Mapping[str, str]) -> tuple[int, int]:
    """(RANK, WORLD_SIZE) of the environment; (0, 1) where neither is there."""
    found = [environ.get(name) for name in ("RANK", "WORLD_SIZE")]
    if found in ([None, None], [None, "1"]):
        return 0, 1
    try:
        rank, size = (int(word or "") for word in found)
    except ValueError:
        rank, size = -1, 0
    if not 0 <= rank < size:
        raise ValueError(
            f"expected RANK from 0 to WORLD_SIZE - 1, as torchrun sets them, got RANK={found[0]} and WORLD_SIZE={found[1]}; "
            "unset both for one process"
        )
    return rank, size


class Ranks:
    """The processes of a job, as one of them sees it: `rank` is its own number from 0 on, `size` how many there are.

    All methods that exchange something (all but `rows`, `weight`, `share` and `noise`) have to be called by all processes in
    the same order. They raise RankLost where another process ended or does not answer.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._steps = dist.new_group(timeout=timedelta(seconds=LOST_SECONDS))
        self._waits = dist.new_group(timeout=timedelta(seconds=WAIT_SECONDS))
        self._gradients: Any = self._steps
        self.members = [str(text).split(" ", 1) for text in self.gather(f"{os.getpid()} {socket.gethostname()}")]

    @property
    def first(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def use(self, device: torch.device) -> None:
        """Sums gradients on this device from now on: by NCCL on a GPU."""
        if device.type == "cuda":
            with self._told():
                self._gradients = dist.new_group(backend="nccl", timeout=timedelta(seconds=LOST_SECONDS))

    def rows(self, count: int) -> slice:
        """The contiguous rows of a batch of `count` that this process computes; their numbers differ by one at most.

        In a batch with fewer rows than processes some have none: such a process computes another one's row, with `weight` 0.
        """
        start, stop = self.rank * count // self.size, (self.rank + 1) * count // self.size
        return slice(start, stop) if stop > start else slice(start, start + 1)

    def weight(self, count: int) -> float:
        """The share of a batch of `count` rows that this process has."""
        return ((self.rank + 1) * count // self.size - self.rank * count // self.size) / count

    def share(self, x: Batch) -> Batch:
        """The rows of x, a tensor or a tuple, that this process computes; parts without a row for each datapoint stay whole."""
        count = len(as_arguments(x)[0])
        kept = tuple(part[self.rows(count)] if _has_rows(part, count) else part for part in as_arguments(x))
        return kept if isinstance(x, tuple | list) else kept[0]

    @contextlib.contextmanager
    def noise(self, count: int, step: int = 0) -> Iterator[None]:
        """Inside, each process draws the noise of all `count` rows of a batch and keeps that of its own rows.

        Their sum is then what one process would compute. Draws that are not normal or uniform noise of rows, such as dropout or
        a rejection sampler, are each process's own: they depend on the seed, the `step` and the rank.
        """
        sites = _Sites()
        with sites, _RowNoise(self, count, step, sites):
            yield

    def add_gradients(self, parameters: Sequence[Tensor], loss: Tensor, weight: float) -> Tensor:
        """Replaces each gradient by the weighted sum over all processes, and returns that of the loss.

        A parameter without a gradient counts as 0, since another process may have one.
        """
        parameters, total = [p for p in parameters if p.requires_grad], loss
        for dtype in sorted({parameter.dtype for parameter in parameters} | {loss.dtype}, key=str):
            own = [p for p in parameters if p.dtype == dtype]
            values = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
            values += [loss] if loss.dtype == dtype else []
            sums = weight * torch.cat([value.reshape(-1) for value in values])
            with self._told():
                dist.all_reduce(sums, group=self._gradients)
            parts = sums.split([value.numel() for value in values])
            parts = [part.view(value.shape) for part, value in zip(parts, values, strict=True)]
            total = parts.pop() if loss.dtype == dtype else total
            for parameter, part in zip(own, parts, strict=True):
                parameter.grad = part
        return total

    def whole(self, values: Tensor, count: int) -> Tensor:
        """The values (n, ...) of all rows, (count, ...), from those of each process's `rows`."""
        found = values.new_zeros(count, *values.shape[1:])
        if self.weight(count):
            found[self.rows(count)] = values
        with self._told():
            dist.all_reduce(found, group=self._gradients if found.is_cuda else self._steps)
        return found

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process."""
        found = torch.tensor([float(bool(flag)) for flag in flags])
        with self._told():
            dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self._steps)
        return [bool(flag) for flag in found.tolist()]

    def agree(self, text: str) -> bool:
        """Whether the text is the same in all processes."""
        number = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
        ends = torch.tensor([number, -number], dtype=torch.double)
        with self._told():
            dist.all_reduce(ends, op=dist.ReduceOp.MAX, group=self._steps)
        return bool(ends.sum() == 0)

    def gather(self, text: str) -> list[str]:
        """The text of each process, by rank; waits for all of them."""
        content = torch.tensor(list(text.encode()), dtype=torch.uint8)
        sizes = torch.zeros(self.size, dtype=torch.long)
        sizes[self.rank] = len(content)
        with self._told():
            dist.all_reduce(sizes, group=self._waits)
            found = torch.zeros(self.size, int(sizes.max()), dtype=torch.uint8)
            found[self.rank, : len(content)] = content
            dist.all_reduce(found, group=self._waits)
        return [bytes(row[:size].tolist()).decode() for row, size in zip(found, sizes.tolist(), strict=True)]

    def wait(self) -> None:
        """Waits until all processes are here, up to an hour, since one of them may be writing a checkpoint."""
        with self._told():
            dist.barrier(group=self._waits)

    def same_start(self, tensors: Iterable[Tensor]) -> None:
        """Gives the tensors of every process the values of process 0, in place."""
        with self._told(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, 0, group=self._gradients if tensor.is_cuda else self._waits)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tell which process is missing when they cannot be summed."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost(_first_line(error)) from error

    def _lost(self, reason: str) -> RankLost:
        """Who is missing: looked up among the processes of this machine."""
        here = [(rank, int(pid)) for rank, (pid, host) in enumerate(self.members) if host == socket.gethostname()]
        end = time.monotonic() + 3  # until whoever started it has taken note of its end
        while time.monotonic() < end:
            for rank, pid in here:
                if rank != self.rank and _ended(pid):
                    return RankLost(f"expected {self.size} processes, but that of rank {rank} (pid {pid}, here) ended", rank)
            time.sleep(0.1)
        return RankLost(
            f"expected {self.size} processes, but another one ended or did not answer within {LOST_SECONDS:g} s ({reason})"
        )


class AveragingOptim(PyroOptim):
    """A `PyroOptim` that averages the gradients of all R processes before each step, for a `pyro.infer.SVI` of your own.

        gradient <- 1/R sum_r gradient_r

    Parameters thus stay equal, bit by bit; they are matched by their names in Pyro's store, and start with the values of
    process 0. Each process gives SVI its own rows, as many as the others, and draws its own noise: seed each one differently.
    Where the loss is a sum over rows, the average is the sum over all rows divided by R. With `ranks=None`, one process, it
    works as `optim`.

    Raises ValueError for an optimizer that is not of pyro.optim or has a learning-rate schedule or a state, and, with its name,
    for a parameter that a step has in one process and not in another; RankLost where a process is lost.
    """

    def __init__(self, optim: PyroOptim, ranks: Ranks | None) -> None:
        if not isinstance(optim, PyroOptim):
            raise ValueError(f"expected an optimizer of pyro.optim, got {type(optim).__name__}")
        if isinstance(optim, PyroLRScheduler) or optim.optim_objs or optim._state_waiting_to_be_consumed:
            raise ValueError("expected a new optimizer without a learning-rate schedule: set the state of the AveragingOptim")
        super().__init__(optim.pt_optim_constructor, optim.pt_optim_args, optim.pt_clip_args)
        self.ranks, self._known = ranks, set[str]()

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        name_of: Callable[[Any], Any] = get_param_store().param_name
        parameters = {name_of(parameter): parameter for parameter in sorted(params, key=name_of)}
        if self.ranks:
            with torch.no_grad():
                self._average(parameters, self.ranks)
        super().__call__(parameters.values(), *args, **kwargs)

    def _average(self, parameters: dict[str, Tensor], ranks: Ranks) -> None:
        check_same(ranks, dict.fromkeys(parameters, ""))
        ranks.same_start(value.data for name, value in parameters.items() if name not in self._known)
        self._known |= set(parameters)
        device = next((parameter.device for parameter in parameters.values()), None)
        ranks.add_gradients(list(parameters.values()), torch.zeros((), device=device), 1 / ranks.size)


def check_same(ranks: Ranks, parameters: Mapping[str, str]) -> None:
    """Raises ValueError, with a name, unless all processes have the same parameters, {name: digest}."""
    if ranks.agree(json.dumps(parameters)):
        return
    for rank, text in enumerate(ranks.gather(json.dumps(parameters))):
        other = json.loads(text)
        for name in sorted(parameters.keys() | other.keys()):
            if parameters.get(name) != other.get(name):
                wanted = "equal values of" if name in parameters and name in other else "every process to use"
                raise ValueError(
                    f"expected {wanted} the parameter {name.replace('$$$', '.')} in all processes, but those of rank "
                    f"{ranks.rank} and rank {rank} differ"
                )


def digest(tensor: Tensor) -> str:
    """A checksum of the values of a tensor, bit by bit."""
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data if values.numel() else b"").hexdigest()


class _Sites(Messenger):
    """Notes, while Pyro samples a site, which dimension of its value holds the rows of the data.

    Outside of one, where a refinement draws noise or a posterior is drawn from, it is the first of as many rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.event, self.plates = False, 0, dict[Any, int]()

    def _pyro_sample(self, message: Any) -> None:
        self.inside, self.event = True, getattr(message["fn"], "event_dim", 0)
        self.plates = {frame.dim: frame.size for frame in message["cond_indep_stack"] if frame.vectorized}

    def _pyro_post_sample(self, message: Any) -> None:
        self.inside = False

    def dimension(self, shape: Sequence[int], rows: int) -> int | None:
        """Which dimension of noise of this shape holds the rows; None if it has none."""
        if self.inside:
            dims = [len(shape) - self.event + dim for dim, size in sorted(self.plates.items(), reverse=True) if size == rows]
            return next((dim for dim in dims if 0 <= dim < len(shape) and shape[dim] == rows), None)
        return next((dim for dim, size in enumerate(shape) if size == rows), None)


class _RowNoise(TorchFunctionMode):
    """Draws noise for all rows and keeps those of one process; other draws are the process's own.

    It sees the call of a function, and nothing that this one calls in turn: so what draws inside is listed too.
    """

    def __init__(self, ranks: Ranks, count: int, step: int, sites: _Sites) -> None:
        super().__init__()
        self.rows, self.count, self.sites = ranks.rows(count), count, sites
        self.seed = torch.default_generator.initial_seed()
        self.own, self.draws = [self.seed, step, ranks.rank], 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is None:
            if function in NOISE:
                return self._noise(function, args, kwargs)
            if function in OTHER_DRAWS and not (function is torch.randint and len(args) > 1 and not tuple(args[-1])):
                return self._own(function, args, kwargs)
        return function(*args, **kwargs)

    def _noise(self, function: Any, args: Any, kwargs: Any) -> Any:
        shape, draw, finish = NOISE[function](*args, **kwargs)
        size = self.rows.stop - self.rows.start
        dim = self.sites.dimension(shape, size)
        if dim is not None and (self.sites.inside or function not in UNIFORM):
            whole = draw([*shape[:dim], self.count, *shape[dim + 1 :]])
            return finish(whole.narrow(dim, self.rows.start, size).clone())
        if self.sites.inside and not self.sites.plates:  # of all data: one draw for all processes
            return function(*args, **kwargs)
        return self._own(function, args, kwargs)

    def _own(self, function: Any, args: Any, kwargs: Any) -> Any:
        """A draw that leaves the common random numbers alone, so that these stay the same in all processes."""
        if torch.default_generator.initial_seed() != self.seed:  # who has set a seed wants the same numbers again
            return function(*args, **kwargs)
        self.draws += 1
        seed = np.random.SeedSequence([*self.own, self.draws]).generate_state(1, np.uint64)[0]
        devices = {part.device for part in (*args, *kwargs.values()) if isinstance(part, Tensor)}
        if kwargs.get("device") is not None:
            devices.add(torch.device(kwargs["device"]))
        with forked(devices, int(seed) >> 1):
            return function(*args, **kwargs)


def _factory(function: Any) -> Any:
    def parts(*size: Any, **options: Any) -> Any:
        shape = options.pop("size", size[0] if size and not isinstance(size[0], int) else size)
        return tuple(shape), lambda whole: function(whole, **options), lambda noise: noise

    return parts


def _like(function: Any) -> Any:
    def parts(tensor: Tensor, **options: Any) -> Any:
        options = {"dtype": tensor.dtype, "device": tensor.device, **options}
        return tuple(tensor.shape), lambda whole: function(whole, **options), lambda noise: noise

    return parts


def _in_place(function: Any) -> Any:
    def parts(tensor: Tensor, *args: Any, **options: Any) -> Any:
        return tuple(tensor.shape), lambda whole: function(tensor.new_empty(whole), *args, **options), tensor.copy_

    return parts


def _normal(mean: Any, std: Any = 1.0, size: Any = None, **options: Any) -> Any:
    if size is not None:
        return tuple(size), lambda whole: torch.normal(mean, std, whole, **options), lambda noise: noise
    like = mean if isinstance(mean, Tensor) else std
    shape = torch.broadcast_shapes(*(part.shape for part in (mean, std) if isinstance(part, Tensor)))
    return shape, lambda whole: torch.randn(whole, dtype=like.dtype, device=like.device), lambda noise: noise * std + mean


# function -> (shape, the noise of another shape, what the function returns of noise) of its arguments
NOISE: dict[Any, Callable[..., Any]] = {
    torch.randn: _factory(torch.randn),
    torch.rand: _factory(torch.rand),
    torch.randn_like: _like(torch.randn),
    torch.rand_like: _like(torch.rand),
    Tensor.normal_: _in_place(Tensor.normal_),
    Tensor.uniform_: _in_place(Tensor.uniform_),
    torch.normal: _normal,
}
UNIFORM = (torch.rand, torch.rand_like, Tensor.uniform_)  # outside a site they are masks, of words, not noise of rows
OTHER_DRAWS = {
    *(F.dropout, F.alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout, F.rrelu, F.gumbel_softmax),
    *(F.scaled_dot_product_attention, F.multi_head_attention_forward, torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu),
    *(torch.dropout, torch.bernoulli, torch.poisson, torch.multinomial, torch.binomial, torch.randint, torch.randperm),
    *(torch._standard_gamma, torch._sample_dirichlet, torch.randint_like, Tensor.bernoulli, Tensor.multinomial),
    *(Tensor.bernoulli_, Tensor.exponential_, Tensor.geometric_, Tensor.cauchy_, Tensor.log_normal_, Tensor.random_),
}


def _has_rows(part: Any, count: int) -> bool:
    return isinstance(part, Tensor) and part.dim() > 0 and len(part) == count


def _ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's, and alive
    return False


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
