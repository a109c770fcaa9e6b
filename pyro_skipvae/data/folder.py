"""Where files are looked for, how they are fetched, and the error raised for data that are missing or damaged."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .contents import Array, checksum
from .file_content import user_path

CACHE = Path("~/.cache/pyro-skipvae")
TRIES = 3
SILENCE = 30.0  # seconds without a byte before a try is given up
DEADLINE = 600.0  # seconds for a file from one address, all tries together, whatever the server does with them
LARGEST = 200_000_000  # bytes; the largest file of any set here has 30 million


class DataError(Exception):
    """Data are missing or damaged, or cannot be downloaded; the message says where was looked and what to do."""


def search_folders(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the folders in which data sets are looked for, the first one first."""
    folders = [root, os.environ.get("SKIPVAE_DATA"), CACHE]
    return [user_path(folder) for folder in folders if folder]


def download_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that receives downloads: the user's own, never the shared one that `$SKIPVAE_DATA` names."""
    return user_path(root or CACHE)


def find_file(root: str | os.PathLike[str] | None, below: str, file: str) -> tuple[Path | None, list[Path]]:
    """Return (the file, in a folder `below` those looked at or in these themselves, or None; the places looked at)."""
    places = [path for above in search_folders(root) for path in (above / below / file, above / file)]
    return next((path for path in places if path.is_file()), None), places


def missing(name: str, places: Sequence[Path], advice: str) -> DataError:
    """Return the DataError that says where a data set was looked for and what to do."""
    others = [str(place) for place in places if place != Path(name)]
    looked = f"; looked at {', '.join(others)}" if others else ""
    return DataError(f"{name} was not found{looked}; {advice}")


def damaged(name: str, paths: Sequence[Path]) -> DataError:
    """Return the DataError that names files whose contents are not those of the data set."""
    return DataError(
        f"{name} is damaged: {', '.join(map(str, paths))} does not hold the known contents; "
        "put a good copy in its place, or remove it"
    )


def first_good(
    name: str, paths: Sequence[Path], read: Callable[[Path], Sequence[Array]], known_checksum: str
) -> Sequence[Array]:
    """Return the arrays `read(path)` of the first path that gives those of the known checksum.

    So one good copy heals a damaged one. Raises DataError that names the paths.
    """
    cause = None
    for path in paths:
        try:
            arrays = read(path)
        except Exception as error:  # a damaged zip raises nearly anything, MemoryError and RuntimeError included
            cause = error
            continue
        if checksum(*arrays) == known_checksum:
            return arrays
    raise damaged(name, paths) from cause


def fetch(name: str, file: str, urls: Sequence[str], known_hash: str, folder: Path, places: Sequence[Path]) -> Path:
    """Put `folder/file` there, whole or not at all, from the first address whose bytes have the known hash ("md5:...").

    Raises DataError that names the places looked at before, the addresses tried, and where to put the file by hand.
    """
    import pooch  # imports its network parts, which nobody needs who has the files

    reason = "no address is known"
    for url in urls:
        fetcher = pooch.create(folder, base_url="", registry={file: known_hash}, urls={file: url}, retry_if_failed=TRIES - 1)
        try:
            return Path(fetcher.fetch(file, downloader=partial(_download, end=time.monotonic() + DEADLINE)))
        except (ValueError, OSError) as error:  # requests' own errors are OSErrors; the hash mismatch is a ValueError
            reason = " ".join(str(error).split()).split(". ")[0]
    raise DataError(
        f"{name} was not found; looked at {', '.join(map(str, places))}, then tried to fetch {', '.join(urls)} "
        f"({reason}); get {file} by hand and put it into {folder}"
    )


def _download(url: str, output_file: Any, _pooch: Any, *, end: float) -> None:
    """Write what an address gives to a file, until `end` on the monotonic clock.

    In a thread of its own: a server that drips its headers, or a chain of redirects, holds the caller of requests for ever.
    A thread that is given up ends with its connection, and writes to a file that pooch has removed.
    """
    outcome: dict[str, Exception] = {}
    thread = threading.Thread(target=_receive, args=(url, output_file, end, outcome), daemon=True)
    thread.start()
    thread.join(max(0.0, end - time.monotonic()))
    if thread.is_alive():
        raise ValueError(f"expected the whole file within {DEADLINE:.0f} s, got a server that is slower")
    if "error" in outcome:
        raise outcome["error"]


def _receive(url: str, output_file: Any, end: float, outcome: dict[str, Exception]) -> None:
    try:
        _receive_whole(url, output_file, end)
    except Exception as error:  # told in the thread that waits
        outcome["error"] = error


def _receive_whole(url: str, output_file: Any, end: float) -> None:
    import requests
    from urllib3.exceptions import HTTPError

    with requests.get(url, stream=True, timeout=SILENCE) as response, open(output_file, "wb") as output:
        response.raise_for_status()
        try:
            # read1 returns what has come; iter_content would wait for a whole block, past any deadline.
            while block := response.raw.read1(1 << 16):
                output.write(block)
                if output.tell() > LARGEST or time.monotonic() > end:
                    raise ValueError(f"expected at most {LARGEST} bytes within {DEADLINE:.0f} s, got {output.tell()}")
        except HTTPError as error:
            raise requests.ConnectionError(error) from error  # one that pooch tries again
