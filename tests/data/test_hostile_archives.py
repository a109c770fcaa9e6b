"""Twelve hostile archives in the place of Omniglot's: each is refused, nothing is unpacked, nothing leaves the folder."""

import stat
import zipfile

import numpy as np
import pytest

from pyro_skipvae.data import DataError, load_data


def entry(name, kind=stat.S_IFREG, content=b"x"):
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return [(info, content)]


HOSTILE = {
    "parent": lambda: entry("../outside.png"),
    "parents": lambda: entry("images_background/../../../outside.png"),
    "absolute": lambda: entry("/tmp/outside.png"),
    "backslashes": lambda: entry("..\\..\\outside.png"),
    "drive": lambda: entry("C:\\outside.png"),
    "symbolic link": lambda: entry("images_background/link", stat.S_IFLNK, b"/etc/passwd"),
    "link and file under it": lambda: entry("a", stat.S_IFLNK, b"..") + entry("a/outside.png"),
    "device": lambda: entry("images_background/device", stat.S_IFCHR),
    "pipe": lambda: entry("images_background/pipe", stat.S_IFIFO),
    "bomb": lambda: entry("images_background/A/character01/0001_01.png", content=bytes(200_000_000)),
    "20,000 names": lambda: [pair for i in range(20_000) for pair in entry(f"images_background/{i}", content=b"")],
    "same name twice": lambda: 2 * entry("images_background/A/character01/0001_01.png"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused(kind, tmp_path, monkeypatch):
    monkeypatch.delenv("SKIPVAE_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "data" / "omniglot-py"
    folder.mkdir(parents=True)
    for name in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for info, content in HOSTILE[kind]():
                archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="omniglot"):
        load_data("omniglot", root=tmp_path / "data", download="never")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("claim", ["huge array", "escape", "no array"])
def test_a_hostile_file_of_ones_own_is_refused(claim, tmp_path):
    path = tmp_path / "own.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 64), }".ljust(117) + b"\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    name = "../train.npy" if claim == "escape" else "train.npy"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"not an array" if claim == "no array" else array)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="own.npz"):
        load_data(str(path))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_same_folder_without_malice_is_read(tmp_path):
    np.savez(tmp_path / "own.npz", train=np.random.default_rng(0).integers(0, 2, (30, 4)).astype(np.uint8))
    assert load_data(str(tmp_path / "own.npz")).event_shape == (4,)
