"""Twelve hostile archives in the place of Omniglot's: each is refused, nothing is unpacked, nothing leaves the folder."""

import gzip
import stat
import zipfile

import numpy as np
import pytest
from scipy.io import savemat

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


def test_a_bomb_in_the_place_of_a_known_text_is_refused_before_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_skipvae.data.file_content.HARMLESS", 1000)
    for part in ("train", "valid", "test"):
        (tmp_path / f"ptb.{part}.txt.gz").write_bytes(gzip.compress(bytes(10_000_000)))
    with pytest.raises(DataError, match="ptb is damaged: .*ptb.train.txt.gz"):
        load_data("ptb", root=tmp_path, download="never")


def test_a_huge_array_in_the_place_of_a_known_one_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_skipvae.data.file_content.LARGEST_ARCHIVE", 1000)
    np.savez_compressed(tmp_path / "frey_faces_20x28.npz", images=np.zeros((10_000, 28, 20)))
    with pytest.raises(DataError, match="frey-faces is damaged: .*frey_faces_20x28.npz") as caught:
        load_data("frey-faces", root=tmp_path)
    assert "more than 100 times as much" in str(caught.value.__cause__)


def test_an_omniglot_of_other_shapes_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    savemat(tmp_path / "chardata.mat", {"data": np.zeros((784, 9)), "testdata": np.zeros((784, 9))}, do_compression=True)
    monkeypatch.setattr("scipy.io.loadmat", lambda *args, **options: pytest.fail("it was unpacked"))
    with pytest.raises(DataError, match="omniglot-burda is damaged: .*chardata.mat"):
        load_data("omniglot", root=tmp_path, download="never")


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
