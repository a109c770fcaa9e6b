"""What is made once of a user's large file or folder and kept for later runs, in the folder of downloads under `own`.

Each source has a folder of its own there. What is of an older state of the source is removed when the new state is kept.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pyro_skipvae.stored import check, loads

from .contents import Array
from .folder import DataError, download_folder
from .rows import RowFile, Rows

ABANDONED = 600.0  # seconds after which an unfinished file that nobody writes to is removed
FULL = (errno.ENOSPC, errno.EDQUOT)


class Kept:
    """The folder of what is kept of a source in a state; `state` is anything whose text tells it from other states."""

    def __init__(self, source: Path, state: Any, root: str | os.PathLike[str] | None) -> None:
        where = str(source.absolute())
        self.source = source
        self.folder = download_folder(root) / "own" / f"{source.name[:40]}-{_short(where)}"
        self.state = _short(repr(state))

    def stored(self, name: str, pattern: Any) -> Any:
        """Plain values that were kept by `store`, or None where there are none of that pattern (see `stored.check`)."""
        try:
            found = loads(self._path(name).read_text(encoding="utf-8"))
            check(found, pattern, "it")
        except (OSError, ValueError):
            return None
        return found

    def store(self, name: str, value: Any) -> bool:
        """Keep plain values; whether that was possible."""
        try:
            self._write(name, [json.dumps(value).encode()])
        except OSError:
            return False
        return True

    def array(self, name: str, shape: tuple[int, ...], dtype: Any, blocks: Iterable[Array], what: str) -> Rows:
        """The rows of an array that `blocks` yield one after the other: of the file that is kept, else it is written.

        what: words for the errors. Raises DataError where the folder cannot be written or has too little space.
        """
        path = self._path(f"{name}.npy")
        header = _header(shape, np.dtype(dtype))
        size = len(header) + int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        if not path.is_file() or path.stat().st_size != size:
            self.write(f"{name}.npy", _contents(header, blocks), size, what)
        return Rows(RowFile(path), len(header), shape[0], (np.dtype(dtype), shape[1:]))

    def write(self, name: str, parts: Iterable[bytes | memoryview], size: int, what: str) -> None:
        """Write a file of at most so many bytes, whole or not at all. Raises DataError as `array`."""
        try:
            self._check_space(size, what)
            self._write(name, parts)
        except OSError as error:
            raise self._unwritable(error, size, what) from error

    def open(self, name: str, size: int) -> RowFile | None:
        """The file of that name, or None where it is not kept or has another size."""
        path = self._path(name)
        return RowFile(path) if path.is_file() and path.stat().st_size == size else None

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.state}-{name}"

    def _check_space(self, size: int, what: str) -> None:
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        if free < size:
            raise self._too_full(size, what, f"{free / 1e9:.1f} GB are free")

    def _unwritable(self, error: OSError, size: int, what: str) -> DataError:
        if error.errno in FULL:
            return self._too_full(size, what, "the disk is full")
        return DataError(
            f"expected a folder that can be written for the {what} of {self.source}, got {self.folder} "
            f"({error.strerror or error}); name another one with --data-dir"
        )

    def _too_full(self, size: int, what: str, got: str) -> DataError:
        return DataError(
            f"expected {size / 1e9:.1f} GB of free space for the {what} of {self.source} in {self.folder}, got less ({got}); "
            "free some, or name a folder on another disk with --data-dir"
        )

    def _write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """Write a file whole or not at all, then remove what is of other states."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tidy()
        temporary = self._path(f"{name}.{os.getpid()}.part")
        try:
            with open(temporary, "wb") as file:
                for part in parts:
                    file.write(part)
            os.replace(temporary, self._path(name))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _tidy(self) -> None:
        for path in self.folder.iterdir():
            unfinished = path.suffix == ".part"
            with suppress(FileNotFoundError):  # another process has given it its name
                if time.time() - path.stat().st_mtime > ABANDONED if unfinished else not path.name.startswith(self.state):
                    path.unlink()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    import io

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def _contents(header: bytes, blocks: Iterable[Array]) -> Iterable[bytes | memoryview]:
    yield header
    for block in blocks:
        yield np.ascontiguousarray(block).data.cast("B")
