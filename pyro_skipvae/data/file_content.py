"""What is in a file that somebody else wrote: regular files only, never more than was announced, never unpickled."""

import gzip
import os
import stat
import zipfile
import zlib
from pathlib import Path

LARGEST = 2**30  # bytes of a text or table, unpacked; a text takes about ten times as much once it is cut into words
HARMLESS = 2**26  # bytes that any archive may unpack to
LARGEST_ARCHIVE = 2**30  # bytes from which on an archive of arrays must not be packed more than a hundredfold
DENSEST = 100  # times that honest texts and arrays become smaller; what was made to fill a memory becomes 1,000 times smaller
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def user_path(name: str | os.PathLike[str]) -> Path:
    """Return the path that a user wrote, `~` replaced; an unknown `~user` is taken as it is written."""
    return Path(os.path.expanduser(name))


def check_regular(path: Path) -> None:
    """Raise ValueError unless the path is a regular file: a pipe or a device would be waited for, or never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS.items() if test(mode)), "something else")
        raise ValueError(f"expected a regular file, got {kind}: {path}; copy its content into a file first")


def content(path: Path, largest: int | None = None) -> bytes:
    """Return the bytes of a regular file, unpacked if its name ends in `.gz`.

    largest: bytes at most, 1 GiB unless given. A `.gz` file must not unpack to more than 64 MiB and 100 times its size either.
    Raises ValueError, with the file and the size, for a larger file and for one that is not gzip.
    """
    check_regular(path)
    largest = LARGEST if largest is None else largest
    size = path.stat().st_size
    if size > largest:
        raise ValueError(f"expected at most {_size(largest)}, got {_size(size)} in {path}; take a part of it")
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    most = min(largest, max(HARMLESS, DENSEST * size))
    try:
        _check_unpacked(path, size, most)
        with gzip.open(path) as stream:
            return stream.read(most)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"expected a file compressed by gzip, got {path}, which cannot be read: {error}") from error


def _check_unpacked(path: Path, size: int, most: int) -> None:
    """Count what a file unpacks to before any of it is kept, since its own statement of that may be wrong."""
    count = 0
    with gzip.open(path) as stream:
        while block := stream.read(2**20):
            count += len(block)
            if count > most:
                raise ValueError(
                    f"expected a file that unpacks to at most {_size(most)}, got {path}, whose {_size(size)} unpack to more; "
                    "if it is meant, unpack it, and take a part of it"
                )


def text(path: Path) -> str:
    """Return the text of a UTF-8 file without its byte order mark, unpacked if its name ends in `.gz`.

    Raises ValueError, with the path and the line, where it is no text.
    """
    raw = content(path)
    try:
        decoded = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"expected UTF-8, got other bytes ({error.reason}) in line {line} of {path}; save it as UTF-8"
        ) from error
    if "\0" in decoded:  # UTF-16 without its mark is UTF-8 with zeros
        line = decoded.count("\n", 0, decoded.index("\0")) + 1
        raise ValueError(f"expected text, got a zero byte in line {line} of {path}")
    return decoded


def check_archive(path: Path) -> None:
    """Raise ValueError unless a path is a zip archive whose members may be read: no member yields more than it announces."""
    check_regular(path)
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no whole .npz archive, as numpy.savez writes them")
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
    size = path.stat().st_size
    if total > LARGEST_ARCHIVE and total > DENSEST * size:
        raise ValueError(
            f"its {_size(size)} unpack to {_size(total)}, more than {DENSEST} times as much; "
            "if that is meant, write it with numpy.savez, which does not compress"
        )


def check_sums(path: Path) -> None:
    """Raise ValueError where a member of a zip archive is damaged; every member is read once, some KiB at a time."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"expected a whole .npz file, got {path}, which cannot be read: {error}") from error
    if damaged:
        raise ValueError(f"expected a whole .npz file, got {path}, whose member {damaged.removesuffix('.npy')!r} is damaged")


def _size(count: int) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
