"""Checkpoints: a nested state of tensors and plain values in one safetensors file, written so that it is whole or absent.

Tensors are stored as they are, named by their place in the state (`vae.encoder.network.0.weight`), the rest as JSON in
the file's metadata, beside a SHA-256 of both: the layout of safetensors does not itself notice a flipped bit. Equal states
give equal bytes. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import random
import re
import secrets
import socket
import stat
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

VERSION = "2"
READ = ("1", VERSION)  # version 1 numbers its tensors; how they are found is the same
HOST = re.sub(r"[^\w.]+", "_", socket.gethostname())[:60]
TEMPORARY = re.compile(rf"\.skipvae-{re.escape(HOST)}-(\d+)-[0-9a-f]{{8}}\.tmp")  # those of this host, and the process


class CheckpointError(Exception):
    """A checkpoint is missing, damaged or of another kind."""


def save(path, state, *, keep=None):
    """Write `state` (dicts, lists, tensors, numbers, strings, None) to `path`: temporary file, fsync, rename.

    What `path` held before stays at `keep`, if that is given.
    """
    tensors = {}
    text = json.dumps(_encode(state, tensors, ()))
    metadata = {"format": "pyro_skipvae", "version": VERSION, "state": text, "sha256": digest(text, tensors)}
    write_whole(path, to_ordered_bytes(tensors, metadata), keep=keep)


def load(path):
    """The state that `save` wrote, on the CPU. Raises CheckpointError if the file is missing, damaged or not ours."""
    return load_with_checksum(path)[0]


def load_with_checksum(path):
    """(state, checksum) of a checkpoint; the checksum names it in what is made of it. Raises what `load` does."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise CheckpointError(f"expected a checkpoint at {path}, which cannot be read: {error}") from None
    if metadata.get("format") != "pyro_skipvae" or metadata.get("version") not in READ:
        raise CheckpointError(f"expected a checkpoint of pyro_skipvae, version {' or '.join(READ)}, got another file: {path}")
    text = metadata.get("state", "")
    if metadata.get("sha256") != digest(text, tensors):
        raise CheckpointError(f"expected the checkpoint {path} as it was written, but its checksum differs: it is damaged")
    try:
        return _decode(json.loads(text), tensors), metadata["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"expected a state in the checkpoint {path}, got something else: {_reason(error)}") from None


def checksum(path):
    """The checksum that a checkpoint states, without reading its tensors; None where there is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None


def to_ordered_bytes(tensors, metadata):
    """A safetensors file whose header is sorted: safetensors itself writes the metadata in another order each time."""
    content = to_bytes(tensors, metadata)
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8 bytes
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(content)[8 + size :]))


def write_whole(path, content, *, keep=None):
    """Write bytes or text so that a reader finds either the old file or the whole new one, also after a power cut.

    With `keep` the old one is found there, from just before the new one is in its place. Of a link the file that it points
    to is written. Raises OSError for what is no file: a device, a pipe, a socket.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError("it is a folder, a device, a pipe or a socket, not a file")
    temporary = path.with_name(temporary_name())
    content = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        with open(temporary, "xb") as file:
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


def temporary_name():
    """A name for a file that is not finished: it tells the host and the process that write it."""
    return f".skipvae-{HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def abandoned(folder):
    """The unfinished files in a folder that processes of this host left when they were killed."""
    found = []
    for path in Path(folder).iterdir():
        match = TEMPORARY.fullmatch(path.name)
        # One of this process is of an earlier one of its number: it writes nothing while it asks.
        if match and stat.S_ISREG(path.lstat().st_mode) and (int(match[1]) == os.getpid() or has_ended(int(match[1]))):
            found.append(path)
    return found


def has_ended(pid):
    """Whether a process of this host has ended."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # somebody else's, and alive
    return False


def random_state(device="cpu"):
    """The states of the random generators of torch (the CPU's and this device's), NumPy and Python, as a state to save."""
    name, keys, *rest = np.random.get_state()
    version, words, spare = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if torch.device(device).type == "cuda" else [],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": [version, torch.tensor(words), spare],
    }


def set_random_state(state, device="cpu", *, first=False):
    """Put the random generators into a state that `random_state` returned, that of its device into this device's.

    first: of an older state, which is of all devices of the first process, take its own, for all processes.
    """
    torch.set_rng_state(state["torch"])
    if torch.device(device).type == "cuda" and state["cuda"]:
        kept, number = state["cuda"], 0 if first else torch.device(device).index or 0
        torch.cuda.set_rng_state(kept[number] if number < len(kept) else kept[0], device)
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


def _encode(node, tensors, place):
    """JSON for a state: a tensor is replaced by its name, a dict with keys other than strings by its pairs."""
    if isinstance(node, torch.Tensor):
        name = _name(place, tensors)
        tensors[name] = node.detach().cpu().contiguous().clone()
        return {"$tensor": name}
    if isinstance(node, dict):
        return {"$pairs": [[_encode(key, tensors, place), _encode(item, tensors, (*place, key))] for key, item in node.items()]}
    if isinstance(node, list | tuple):
        return [_encode(item, tensors, (*place, i)) for i, item in enumerate(node)]
    if node is None or isinstance(node, str | bool | int | float):
        return node
    raise TypeError(f"expected tensors and plain values in a checkpoint, got {type(node).__name__}")


def _name(place, tensors):
    """The place of a tensor, joined by dots; Pyro's names (`encoder$$$network.0.weight`) are read as those of a module."""
    name = ".".join(str(key).replace("$$$", ".") for key in place) or "tensor"
    while name in tensors or name == "__metadata__":  # a key with a dot in it may read like two keys
        name += "_"
    return name


def _decode(node, tensors):
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    if "$tensor" in node:
        return tensors[node["$tensor"]]
    return {_decode(key, tensors): _decode(value, tensors) for key, value in node["$pairs"]}


def _reason(error):
    return f"{error} is not there" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]


def digest(text, tensors):
    """SHA-256 of a text and tensors, by name."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return found.hexdigest()
