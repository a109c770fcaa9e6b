"""Mutated files: whatever is changed in a checkpoint or in data, the old content is read, or the file is refused."""

import gzip
import hashlib
import json

import numpy as np
import torch

from pyro_skipvae.data import DataError, load_data, mnist
from pyro_skipvae.runs import checkpoint

from . import same

BATCH, DATA_BATCH = 500, 50
STATE = {
    "vae": {"weight": torch.randn(4, 3), "half": torch.ones(5, dtype=torch.bfloat16), "empty": torch.zeros(0, 2)},
    "step": {"optimizer": {"a": {"state": {0: {"step": torch.tensor(3.0), "flag": torch.tensor([True, False])}}, "lr": 0.1}}},
    "random": checkpoint.random_state(),
    "best": float("inf"),
}


def checkpoints(folder, _, random, __):
    """Mutated checkpoints."""
    path, failed = folder / "last.safetensors", []
    checkpoint.save(path, STATE)
    good = path.read_bytes()
    for number in range(BATCH):
        bad = random.choice(HEADER_EDITS)(good, random) if number % 3 == 0 else random.choice(EDITS)(good, random)
        path.write_bytes(bad)
        try:
            if not same(checkpoint.load(path), STATE):
                failed.append(f"loaded wrong: {bad[:400]!r}")
        except checkpoint.CheckpointError:
            pass
        except BaseException as error:
            failed.append(f"{type(error).__name__}: {error}: {bad[:400]!r}")
    return BATCH, failed


def _flip(content, random):
    content = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 20))):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return bytes(content)


def _flip_early(content, random):
    """One of the first bytes: the length of the header and its beginning."""
    content = bytearray(content)
    content[random.randrange(min(40, len(content)))] = random.randrange(256)
    return bytes(content)


def _cut(content, random):
    return content[: random.randrange(len(content))]


def _remove(content, random):
    start, length = random.randrange(len(content)), random.choice((1, 8, 100))
    return content[:start] + content[start + length :]


def _insert(content, random):
    start = random.randrange(len(content) + 1)
    return content[:start] + random.randbytes(random.choice((1, 8, 100))) + content[start:]


def _blank(content, random):
    start, length = random.randrange(len(content)), random.choice((8, 512, 4096))
    return content[:start] + bytes(min(length, len(content) - start)) + content[start + length :]


def _repeat(content, random):
    start = random.randrange(len(content))
    return content[:start] + content[start:][: random.choice((1, 8, 100))] + content[start:]


EDITS = (_flip, _flip_early, _cut, _remove, _insert, _blank, _repeat)


def _header_edit(change):
    """A mutation that changes the JSON of the header, with a length that fits."""

    def edit(content, random):
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        tensors = [name for name in header if name != "__metadata__"]
        change(header, random.choice(tensors), random.choice(tensors), random)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + size :]

    return edit


def _swap(header, one, other, _):
    header[one], header[other] = header[other], header[one]


def _retype(header, one, _, random):
    header[one]["dtype"] = random.choice(["F32", "F64", "I64", "U8", "BOOL", "BF16", "F8_E4M3", "F4", "C64", "X", None, 3])


def _reshape(header, one, _, random):
    shape = header[one]["shape"]
    header[one]["shape"] = random.choice([[], shape[::-1], [*shape, 1], [0], [-1], [2**62, 4], [2**63], ["a"], [1.5], None])


def _move(header, one, _, random):
    start, end = header[one]["data_offsets"]
    shift = random.choice((-8, -1, 1, 8, 2**40))
    header[one]["data_offsets"] = random.choice([[start + shift, end + shift], [end, start], [start, end + shift], [0, 0], []])


def _rename(header, one, _, random):
    header[random.choice(["../x", "", "99999", "é", "__metadata__ "])] = header.pop(one)


def _drop(header, one, _, __):
    del header[one]


def _edit_metadata(header, *_):
    random = _[-1]
    metadata = header["__metadata__"]
    key = random.choice(list(metadata))
    metadata[key] = random.choice(
        ["", "{}", "null", "[", "9" * 5000, metadata[key][::-1], metadata[key] + " ", '{"$tensor": "x"}']
    )


def _no_metadata(header, *_):
    random = _[-1]
    header["__metadata__"] = random.choice([{}, None, [], {"format": "pt"}, {"format": 3}])


HEADER_EDITS = tuple(map(_header_edit, (_swap, _retype, _reshape, _move, _rename, _drop, _edit_metadata, _no_metadata)))


def data(folder, _, random, __):
    """Mutated files of MNIST, small stand-ins with checksums of their own: packed and not, images and labels."""
    content = _stand_in()
    before = mnist.TRAIN, mnist.TEST, mnist.MNIST_SHA256
    mnist.TRAIN, mnist.TEST = 30, 10
    mnist.MNIST_SHA256 = {file: hashlib.sha256(raw).hexdigest() for file, raw in content.items()}
    try:
        return DATA_BATCH, _mutated(folder / "MNIST" / "raw", folder, content, random)
    finally:
        mnist.TRAIN, mnist.TEST, mnist.MNIST_SHA256 = before


def _mutated(place, root, content, random):
    place.mkdir(parents=True)
    failed, whole = [], None
    for number in range(-1, DATA_BATCH):
        packed, victim = number % 2 == 0, random.choice(list(content))
        for path in place.iterdir():
            path.unlink()
        for file, raw in content.items():
            good = gzip.compress(raw, mtime=0) if packed else raw
            bad = random.choice(EDITS)(good, random) if file == victim and number >= 0 else good
            (place / (f"{file}.gz" if packed else file)).write_bytes(bad)
        try:
            checksum = load_data("mnist", root=root, download="never").checksum
            whole = whole or checksum
            if checksum != whole:
                failed.append(f"{victim} was read with other contents")
        except DataError:
            pass
        except BaseException as error:
            failed.append(f"{victim}: {type(error).__name__}: {error}")
    return failed


def _stand_in():
    """file -> bytes of four small files in MNIST's format, 30 training and 10 test items."""
    random, content = np.random.RandomState(0), {}
    for file, count in zip(mnist.FILES, (30, 30, 10, 10), strict=True):
        shape = (count, 28, 28) if "images" in file else (count,)
        values = random.randint(0, 256 if "images" in file else 10, shape).astype(np.uint8)
        content[file] = bytes([0, 0, 8, values.ndim]) + np.array(shape, ">u4").tobytes() + values.tobytes()
    return content
