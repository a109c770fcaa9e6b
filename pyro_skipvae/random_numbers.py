"""Random numbers of the CPU and of the CUDA devices in use, without a trace in those of any other device."""

from contextlib import contextmanager

import torch


def seed_generators(devices, seed):
    """Start the numbers of the CPU and of these devices at `seed`; torch.manual_seed would seed all devices there are."""
    torch.default_generator.manual_seed(seed)
    for index in _cuda(devices):
        torch.cuda.default_generators[index].manual_seed(seed)


@contextmanager
def forked(devices, seed=None):
    """Inside, random numbers may be used up, from `seed` if given; the caller's go on afterwards as if none had been."""
    with torch.random.fork_rng(devices=_cuda(devices)):
        if seed is not None:
            seed_generators(devices, seed)
        yield


def _cuda(devices):
    found = {device.index for device in devices if device.type == "cuda"}
    return sorted({torch.cuda.current_device() if index is None else index for index in found})
