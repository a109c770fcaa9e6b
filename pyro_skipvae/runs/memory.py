"""What a model needs of memory, before it is built: one that cannot fit would end the process, or fill the disk, much later."""

import os
from math import prod
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from .config import Config, ConfigError

COPIES = 4  # of each parameter: itself, its gradient and Adam's two moments
TENSOR_BYTES = 2000  # of Python and torch for each parameter, however small
DEEP = 64  # layers from which on the size of a network is told from those of two shallower ones
FLOAT = 4  # bytes


def check_memory(config: Config, data: Any, device: torch.device) -> None:
    """Raises ConfigError, with the size, for a resolved config whose training cannot fit into the memory of a device."""
    there = _memory(device)
    try:
        needed = training_bytes(config, data)
    except RuntimeError as error:  # more than torch can count
        needed = None if "overflow" in str(error) or "too large" in str(error) else 0.0
    if needed is None or needed > there:
        size = "more than torch can count" if needed is None else _said(needed)
        raise ConfigError(
            f"expected a model and batches that fit into memory, {_said(there)} of {device}, got {size}; "
            "lower --layers, --width, --latent-dim or --batch-size"
        )


def training_bytes(config: Config, data: Any) -> float:
    """At least so many bytes for the parameters, what is kept of each, and what the decoder says of a batch."""
    rows = min(config.batch_size, len(data.train)) * config.particles
    return _parameters(config, data) + FLOAT * rows * (prod(data.event_shape) + (config.latent_dim or 0))


def _parameters(config: Config, data: Any) -> float:
    """Bytes for the parameters of a config. Layers are alike: a network of many is as much larger as the second of two."""
    layers = config.layers or 1
    if layers <= DEEP:
        return _bytes(_on_meta(config, data))
    skip = config.skip if config.skip in ("all", "none", "first", "last") else "none"
    two, three = (_bytes(_on_meta(config, data, layers=depth, skip=skip)) for depth in (2, 3))
    return two + (layers - 2) * (three - two)


def _on_meta(config: Config, data: Any, **other: Any) -> nn.Module:
    """The decoder of a config, with some settings otherwise, without memory."""
    from .build import build_decoder

    with torch.device("meta"):
        return build_decoder(SimpleNamespace(**{**vars(config), **other}), data)


def _bytes(module: nn.Module) -> float:
    return sum(COPIES * FLOAT * float(parameter.numel()) + TENSOR_BYTES for parameter in module.parameters())


def _memory(device: torch.device) -> float:
    """Bytes of a device, or of this machine."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return float("inf")


def _said(size: float) -> str:
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / 1e6:,.0f} MB"
