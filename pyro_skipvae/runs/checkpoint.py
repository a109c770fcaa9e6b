"""Checkpoints: a nested state of tensors and plain values in one safetensors file, written so that it is whole or absent.

Tensors are stored as they are, the rest as JSON in the file's metadata, beside a SHA-256 of both: the layout of
safetensors does not itself notice a flipped bit. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import random
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

VERSION = "1"


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged or of another kind."""


def save(path, state, *, keep=None):
    """Write `state` (dicts, lists, tensors, numbers, strings, None) to `path`: temporary file, fsync, rename.

    What `path` held before stays at `keep`, if that is given.
    """
    tensors = {}
    text = json.dumps(_encode(state, tensors))
    metadata = {"format": "pyro_skipvae", "version": VERSION, "state": text, "sha256": digest(text, tensors)}
    write_whole(path, to_bytes(tensors, metadata), keep=keep)


def load(path):
    """The state that `save` wrote, on the CPU. Raises CheckpointError if the file is missing, damaged or not ours."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"expected a checkpoint at {path}, which cannot be read: {error}") from None
    if metadata.get("format") != "pyro_skipvae" or metadata.get("version") != VERSION:
        raise CheckpointError(f"expected a checkpoint of pyro_skipvae version {VERSION} at {path}, got another file")
    if metadata.get("sha256") != digest(metadata.get("state", ""), tensors):
        raise CheckpointError(f"expected the checkpoint {path} as it was written, but its checksum differs: it is damaged")
    return _decode(json.loads(metadata["state"]), tensors)


def write_whole(path, content, *, keep=None):
    """Write bytes or text so that a reader finds either the old file or the whole new one, also after a power cut.

    With `keep` the old one is found there, from just before the new one is in its place.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def random_state():
    """The states of the random generators of torch (all devices), NumPy and Python, as a state to save."""
    name, keys, *rest = np.random.get_state()
    version, words, spare = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": [version, torch.tensor(words), spare],
    }


def set_random_state(state):
    """Put the random generators into a state that `random_state` returned; those of absent devices are left out."""
    torch.set_rng_state(state["torch"])
    for device, words in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(words, device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, words, spare = state["python"]
    random.setstate((version, tuple(words.tolist()), spare))


def _sync_folder(path):
    """See that a rename is on the disk; Windows cannot, and needs not, open a folder for it."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _encode(node, tensors):
    """JSON for a state: a tensor is replaced by its name, a dict with keys other than strings by its pairs."""
    if isinstance(node, torch.Tensor):
        name = f"{len(tensors):05d}"
        tensors[name] = node.detach().cpu().contiguous().clone()
        return {"$tensor": name}
    if isinstance(node, dict):
        return {"$pairs": [[_encode(key, tensors), _encode(value, tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return [_encode(item, tensors) for item in node]
    if node is None or isinstance(node, str | bool | int | float):
        return node
    raise TypeError(f"expected tensors and plain values in a checkpoint, got {type(node).__name__}")


def _decode(node, tensors):
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    if "$tensor" in node:
        return tensors[node["$tensor"]]
    return {_decode(key, tensors): _decode(value, tensors) for key, value in node["$pairs"]}


def digest(text, tensors):
    """SHA-256 of a text and tensors, by name."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return found.hexdigest()
