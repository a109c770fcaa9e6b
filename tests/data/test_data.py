"""Data: what every data set gives, known answers on real files, and every way in which files can be wrong."""

import dataclasses
import gzip
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyro_skipvae.data import (
    BINARISATIONS,
    DATASETS,
    DataError,
    DynamicallyBinarised,
    load_data,
    locate,
    mnist,
    omniglot,
)
from pyro_skipvae.data import folder as folders
from pyro_skipvae.data.contents import Contents, checksum
from pyro_skipvae.data.dataset import from_contents

REAL = Path(os.environ.get("SKIPVAE_DATA") or Path(__file__).parents[3] / "shared" / "data").resolve()
REAL_PATHS = {
    "mnist": "mnist/MNIST/raw/train-images-idx3-ubyte.gz",
    "omniglot": "omniglot/omniglot_28x28.npz",
    "frey-faces": "frey_faces/frey_faces_20x28.npz",
    "cifar10": "cifar10/cifar10_batch_0.png",
    "mnist-static": "mnist_static/mnist_static_larochelle.npz",
    "newsgroups20": "newsgroups20/20ng.zip",
}


def real(name):
    """A parameter that skips, with the reason, where the files of a real data set are absent."""
    path = REAL / REAL_PATHS[name]
    absent = pytest.mark.skipif(not path.exists(), reason=f"no {path}; set SKIPVAE_DATA to the data folder")
    return pytest.param(name, marks=[pytest.mark.real_data, absent])


def real_only(name):
    return pytest.mark.parametrize("name", [real(name)])


@pytest.fixture(autouse=True)
def no_other_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("SKIPVAE_DATA", raising=False)
    monkeypatch.setattr(folders, "CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def loaded():
    """load_data on the real folder, each data set and binarisation once."""
    known = {}

    def load(name, binarisation="dynamic"):
        if (name, binarisation) not in known:
            known[name, binarisation] = load_data(name, root=REAL, binarisation=binarisation, download="never")
        return known[name, binarisation]

    return load


def grey_data(binarisation="dynamic", seed=0, items=40, change=None):
    """Small grey data of 8 bits; `change` sets one training pixel."""
    grey = np.random.RandomState(0).randint(0, 256, (items + 20, 3, 4)).astype(np.uint8)
    if change is not None:
        grey[0, 0, 0] = change
    labels = {"train": np.arange(items)}
    contents = Contents("small", grey[:items], grey[items : items + 10], grey[items + 10 :], "in order", labels)
    return from_contents(contents, binarisation, seed)


# Every data set


@pytest.mark.parametrize("name", ["digits", real("mnist"), real("omniglot"), real("frey-faces"), real("cifar10")])
def test_every_data_set_keeps_the_contract(name, loaded):
    info, data = DATASETS[name], loaded(name)
    assert data.name == name and data.event_shape == info.event_shape
    assert (len(data.train), len(data.valid), len(data.test)) == info.sizes
    assert isinstance(data.train, DynamicallyBinarised) and data.train.shape[1:] == info.event_shape
    for x in (data.train[:50], data.valid, data.test):
        assert x.dtype == torch.float32 and set(x.unique().tolist()) == {0.0, 1.0}
    for split, labels in data.labels.items():
        assert labels.dtype == torch.int64 and len(labels) == len(getattr(data, split))
    assert set(data.labels) == (set() if name in ("frey-faces", "cifar10") else {"train", "valid", "test"})
    assert next(iter(data.batches("train", 16, seed=0))).shape == (16, *info.event_shape)
    assert data.describe()["sizes"] == dict(zip(("train", "valid", "test"), info.sizes, strict=True))


@pytest.mark.parametrize("name", ["digits", real("frey-faces")])
def test_binarisations_of_one_source_have_one_checksum_and_their_own_values(name, loaded):
    by_name = {binarisation: loaded(name, binarisation) for binarisation in BINARISATIONS}
    assert len({data.checksum for data in by_name.values()}) == 1
    grey, levels = by_name["none"], by_name["none"].levels
    assert grey.kind == "grey" and 0 <= grey.test.min() and grey.test.max() <= 1
    torch.testing.assert_close(grey.test * (levels - 1), (grey.test * (levels - 1)).round(), rtol=0, atol=1e-4)
    assert by_name["threshold"].test.equal((grey.test > 0.5).float())
    assert by_name["static"].test.equal(by_name["dynamic"].test)
    assert by_name["static"].train.unique().tolist() == [0.0, 1.0]
    assert by_name["dynamic"].train.probabilities.equal(grey.train)
    assert {data.kind for name, data in by_name.items() if name != "none"} == {"binary"}


def test_digits_are_split_in_the_proportions_of_the_classes(loaded):
    data = loaded("digits", "none")
    counts = [data.labels[split].bincount(minlength=10) for split in ("train", "valid", "test")]
    total = sum(counts)
    assert total.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # of the data set itself
    for count, size in zip(counts, (1257, 180, 360), strict=True):
        assert (count - total * size / 1797).abs().max() < 2
    items = torch.cat([data.train, data.valid, data.test]).flatten(1)
    assert items.unique(dim=0).shape[0] == 1797  # no digit is in two splits
    assert data.checksum == "e5b0c9184c34ad1da793f45397f370a957fe3b4807550d850bf9a21250bc4f75"
    assert data.levels == 17


# Known answers on real files


@real_only("mnist")
def test_mnist_has_its_published_histograms_and_mean(name, loaded):
    data = loaded(name, "none")
    train = torch.cat([data.labels["train"], data.labels["valid"]]).bincount()
    assert train.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.labels["test"].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.cat([data.train, data.valid]).mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert data.test.mean().item() == pytest.approx(0.1325, abs=5e-5)
    assert data.labels["train"][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


@real_only("omniglot")
def test_omniglot_is_split_by_drawer(name, loaded):
    data = loaded(name, "none")
    for split, drawers in {"train": 13, "valid": 2, "test": 5}.items():
        assert data.labels[split].bincount().tolist() == [drawers] * 1623
    mean = sum(getattr(data, split).sum() for split in ("train", "valid", "test")) / (32460 * 784)
    assert mean.item() == pytest.approx(0.0805, abs=5e-5)
    assert data.labels["test"][:100].unique().numel() > 80  # the first ones are a fair sample, not one alphabet


@real_only("omniglot")
def test_omniglot_is_the_same_from_its_bits(name, tmp_path, loaded):
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / omniglot.BITS).symlink_to(REAL / "omniglot" / omniglot.BITS)
    assert load_data(name, root=tmp_path, download="never").checksum == loaded(name).checksum


@real_only("omniglot")
def test_a_damaged_omniglot_file_is_refused_and_healed_by_another(name, tmp_path, loaded):
    (tmp_path / "omniglot").mkdir()
    damaged = tmp_path / "omniglot" / omniglot.RESIZED
    damaged.write_bytes(flipped((REAL / "omniglot" / omniglot.RESIZED).read_bytes(), 2_000_000))
    with pytest.raises(DataError, match=str(damaged)):
        load_data(name, root=tmp_path, download="never")
    (tmp_path / "omniglot" / omniglot.BITS).symlink_to(REAL / "omniglot" / omniglot.BITS)
    assert load_data(name, root=tmp_path, download="never").checksum == loaded(name).checksum


@real_only("frey-faces")
def test_frey_faces_are_blocks_of_the_film(name, loaded):
    with np.load(REAL / REAL_PATHS[name], allow_pickle=False) as archive:
        film = torch.from_numpy(archive["images"]).float() / 255
    data = loaded(name, "none")
    assert torch.cat([data.train, data.valid, data.test]).equal(film)
    assert film.mean().item() * 255 == pytest.approx(154.46, abs=5e-3)


@real_only("frey-faces")
def test_damaged_frey_faces_are_refused(name, tmp_path):
    path = tmp_path / "frey_faces_20x28.npz"
    np.savez(path, images=np.zeros((1965, 28, 20), np.uint8))
    with pytest.raises(DataError, match=str(path)):
        load_data(name, root=tmp_path)


@real_only("cifar10")
def test_the_small_cifar10_is_cut_from_the_four_files(name, loaded):
    from PIL import Image

    first = np.asarray(Image.open(REAL / "cifar10/cifar10_batch_0.png").convert("RGB"))[7].reshape(32, 32, 3).copy()
    data = loaded(name, "none")
    images = torch.cat([data.train, data.valid, data.test])
    assert images.shape == (4000, 3, 32, 32) and len(images.flatten(1).unique(dim=0)) == 4000
    assert (images == torch.from_numpy(first).permute(2, 0, 1).float() / 255).flatten(1).all(1).sum() == 1
    assert "4,000 of the training images" in data.describe()["split"]


@real_only("cifar10")
def test_a_damaged_cifar10_is_refused(name, tmp_path):
    for number in range(4):
        (tmp_path / f"cifar10_batch_{number}.png").write_bytes((REAL / "cifar10/cifar10_batch_1.png").read_bytes())
    with pytest.raises(DataError, match=f"cifar10 is damaged: {tmp_path}"):
        load_data(name, root=tmp_path)


@real_only("mnist-static")
def test_static_mnist_has_the_bytes_of_the_original_files(name, loaded):
    data = loaded(name)
    assert data.event_shape == (28, 28) and data.kind == "binary" and data.binarisation == "given" and not data.labels
    text = {split: getattr(data, split).flatten(1).byte().numpy() + ord("0") for split in ("train", "valid", "test")}
    blanks = {split: np.full((len(rows), 2 * 784), ord(" "), np.uint8) for split, rows in text.items()}
    for split, rows in text.items():
        blanks[split][:, ::2] = rows
        blanks[split][:, -1] = ord("\n")
    # of binarized_mnist_{train,valid,test}.amat, as loaders of these files check them
    assert {split: hashlib.md5(rows.tobytes()).hexdigest() for split, rows in blanks.items()} == {
        "train": "db28b1a6ae0fe70cbd3da91acf46e477",
        "valid": "bf37822a04e94123630de6a7dfd9c9ef",
        "test": "14e41ae11040adba6ab8cb291eda0dd8",
    }
    assert load_data(name, root=REAL, binarisation="static").train.equal(data.train)
    # The file has zeros first, with more ink than the mean: a part of it has to be taken at random.
    ink, of_file = data.test.mean(), data.test[:900].mean()
    for part in (data.first("test", 900), data.limit(eval=900).test):
        assert (part.mean() - ink).abs() < 0.005 < (of_file - ink).abs() and len(part) == 900
    assert data.first("valid", 5).equal(data.valid[:5])


@real_only("newsgroups20")
def test_newsgroups_are_the_counts_of_their_files(name, loaded):
    data = loaded(name, "none")
    assert data.event_shape == (2000,) and data.kind == "count"
    assert (len(data.train), len(data.valid), len(data.test)) == DATASETS[name].sizes
    with zipfile.ZipFile(REAL / REAL_PATHS[name]) as archive:
        test = archive.read("20ng/test.feat").decode().splitlines()
        train = archive.read("20ng/train.feat").decode()
    label, *pairs = test[-1].split()
    expected = torch.zeros(2000)
    for word, count in (map(int, pair.split(":")) for pair in pairs):
        expected[word - 1] = count
    assert data.test[-1].equal(expected) and data.labels["test"][-1] == int(label) - 1
    assert data.train.sum() + data.valid.sum() == sum(int(pair.split(":")[1]) for pair in train.split() if ":" in pair)
    assert torch.cat([data.labels["train"], data.labels["valid"]]).bincount(minlength=20)[[0, -1]].tolist() == [480, 376]
    part = data.limit(eval=200)  # the files have one class behind the other
    assert all(len(part.labels[split].unique()) == 20 for split in ("valid", "test"))
    assert len(data.labels["test"][:200].unique()) == 1 and part.test[0].equal(data.first("test", 1)[0])


@pytest.mark.parametrize(("name", "file"), [("mnist-static", "mnist_static_larochelle.npz"), ("newsgroups20", "20ng.zip")])
def test_another_file_in_the_place_of_these_is_refused(name, file, tmp_path):
    np.savez(tmp_path / "x.npz", **{split: np.zeros((10, 98), np.uint8) for split in ("train", "valid", "test")})
    (tmp_path / "x.npz").rename(tmp_path / file)
    with pytest.raises(DataError, match=f"{name} is damaged: {tmp_path / file}"):
        load_data(name, root=tmp_path, binarisation="none")


# Binarisation


def test_the_test_draw_is_fixed_by_the_seed_alone():
    state = torch.get_rng_state()
    first, again, other = grey_data(seed=3), grey_data("static", seed=3), grey_data(seed=4)
    assert torch.get_rng_state().equal(state)
    assert first.test.equal(again.test) and first.valid.equal(again.valid)
    assert not first.test.equal(other.test) and not first.valid.equal(other.valid)


def test_the_fixed_draw_of_an_item_does_not_depend_on_how_many_follow():
    grey = np.full((9000, 2, 2), 100, np.uint8)
    long, short = (from_contents(Contents("flat", part, part, part, ""), "static", 0) for part in (grey, grey[:5000]))
    assert long.train[:5000].equal(short.train)
    assert long.train.mean().item() == pytest.approx(100 / 255, abs=5 * (0.24 / 36000) ** 0.5)  # 5 standard errors


@pytest.mark.parametrize("binarisation", ["static", "dynamic"])
def test_validation_and_test_have_draws_of_their_own(binarisation):
    grey = np.full((50, 4, 4), 100, np.uint8)
    data = from_contents(Contents("flat", grey, grey, grey, ""), binarisation, 0)
    assert not data.valid.equal(data.test)
    assert not any(data.train[:].equal(own) for own in (data.valid, data.test))
    for seed in (0, 1):  # of the training; neither its draws nor the number of its items move those of the others
        list(data.batches("train", 10, seed=seed))
        for count in (1, 50):
            again = from_contents(Contents("flat", grey[:count], grey, grey, ""), binarisation, 0)
            assert again.valid.equal(data.valid) and again.test.equal(data.test)
    for split in ("valid", "test"):
        read = [torch.cat(list(data.batches(split, 10, seed=seed))) for seed in (0, 1)]
        assert all(x.equal(getattr(data, split)) for x in read)


def test_dynamic_draws_are_fresh_and_have_the_right_mean():
    data = grey_data()
    torch.manual_seed(0)
    draws = torch.stack([data.train[:] for _ in range(2000)])
    error = (draws.mean(0) - data.train.probabilities).abs()
    assert error.max() < 5 * 0.5 / 2000**0.5  # 5 standard errors at the widest, over 480 pixels
    assert draws[:, data.train.grey == 255].min() == 1 and draws[:, data.train.grey == 0].numel() > 0
    assert draws[:, data.train.grey == 0].max() == 0
    assert not draws[0].equal(draws[1])


def test_a_view_is_indexed_as_a_tensor_and_follows_the_global_generator_only_there():
    view = grey_data().train
    assert view[3].shape == (3, 4) and view[2:5].shape == (3, 3, 4) and view[torch.tensor([1, 1])].shape == (2, 3, 4)
    torch.manual_seed(7)
    first = view[:]
    torch.manual_seed(7)
    assert view[:].equal(first)
    state = torch.get_rng_state()
    draws = [view.draw(slice(0, 5), torch.Generator().manual_seed(1)) for _ in range(2)]
    assert draws[0].equal(draws[1]) and torch.get_rng_state().equal(state)


def test_the_checksum_changes_with_one_pixel_and_with_the_split():
    assert grey_data(change=5).checksum == grey_data(change=5).checksum != grey_data(change=6).checksum
    assert grey_data(items=40).checksum != grey_data(items=30).checksum


# Limits and description


def test_limits_take_a_fixed_part_of_train_and_the_first_of_the_rest_and_are_recorded():
    data = grey_data()
    few, fewer = data.limit(train=20, eval=4), data.limit(train=5)
    assert (len(few.train), len(few.valid), len(few.test)) == (20, 4, 4)
    assert few.valid.equal(data.valid[:4]) and few.test.equal(data.test[:4])
    assert few.train.grey.equal(data.train.grey[few.labels["train"]])  # the labels here are the indices
    assert few.labels["train"].unique().numel() == 20 and few.labels["train"].max() >= 20
    assert fewer.labels["train"].equal(few.labels["train"][:5])
    assert few.describe()["limits"] == {"train": 20, "valid": 4, "test": 4} and few.checksum == data.checksum
    assert data.limit(train=1000, eval=1000).describe() == data.describe()
    assert few.limit(eval=2).limits == {"train": 20, "valid": 2, "test": 2}
    with pytest.raises(ValueError, match="at least 1, got 0"):
        data.limit(eval=0)


# Batches


@pytest.mark.parametrize("binarisation", ["dynamic", "none"])
@pytest.mark.parametrize("stop", range(1, 8))
def test_batches_resumed_anywhere_equal_the_uninterrupted_ones(binarisation, stop):
    data = grey_data(binarisation)
    whole = data.batches("train", 16, seed=5)
    expected = [x for _ in range(3) for x in whole]
    assert len(expected) == 9 and [len(x) for x in expected[:3]] == [16, 16, 8]
    broken, seen = data.batches("train", 16, seed=5), []
    while len(seen) < stop:
        for x in broken:
            seen.append(x)
            if len(seen) == stop:
                state = broken.state_dict()
                break
    resumed = data.batches("train", 16, seed=5)
    resumed.load_state_dict(state)
    torch.manual_seed(stop)  # must not matter
    while resumed.epoch < 3:
        seen.extend(resumed)
    assert len(seen) == 9 and all(x.equal(y) for x, y in zip(seen, expected, strict=True))
    assert resumed.state_dict() == whole.state_dict() == {"epoch": 3, "position": 0}


def test_epochs_differ_in_order_and_noise_and_hold_every_item_once():
    batches = grey_data("none").batches("train", 16, seed=0)
    first, second = torch.cat(list(batches)), torch.cat(list(batches))
    assert not first.equal(second)
    assert first.flatten(1).unique(dim=0).equal(second.flatten(1).unique(dim=0)) and len(first) == 40
    assert torch.cat(list(grey_data("none").batches("train", 7, seed=0))).equal(first)  # whatever the size
    assert not torch.cat(list(grey_data("none").batches("train", 16, seed=1))).equal(first)
    noise = grey_data().batches("train", 40, seed=0, shuffle=False)
    assert not torch.cat(list(noise)).equal(torch.cat(list(noise)))


def test_the_noise_differs_from_batch_to_batch_of_equal_images():
    flat = np.full((8, 5, 5), 128, np.uint8)
    batches = from_contents(Contents("flat", flat, flat, flat, ""), "dynamic", 0).batches("train", 1, seed=0)
    assert torch.cat(list(batches)).flatten(1).unique(dim=0).shape[0] == 8


def test_evaluation_batches_come_in_order():
    data = grey_data()
    batches = data.batches("test", 4, seed=0)
    for _ in range(2):
        assert torch.cat(list(batches)).equal(data.test)
    shuffled = data.batches("valid", 4, seed=0, shuffle=True)
    order = shuffled.order(0)
    assert torch.cat(list(shuffled)).equal(data.valid[order]) and not order.equal(torch.arange(10))


def test_a_peek_does_not_move_the_epoch():
    data = grey_data()
    batches = data.batches("train", 16, seed=0)
    first = next(iter(batches))
    assert next(iter(batches)).equal(first) and len(list(batches)) == len(batches) == 3


def test_batches_refuse_what_cannot_be():
    data = grey_data()
    with pytest.raises(ValueError, match="expected a split out of train, valid, test, got 'trian'"):
        data.batches("trian", 4, seed=0)
    with pytest.raises(ValueError, match="size to be a whole number of at least 1, got 0"):
        data.batches("train", 0, seed=0)
    with pytest.raises(ValueError, match="seed to be a whole number of at least 0, got -1"):
        data.batches("train", 4, seed=-1)
    for state in ({"epoch": 0, "position": 4}, {"epoch": -1, "position": 0}, {"epoch": 0}):
        with pytest.raises(ValueError, match=r"position in 0\.\.3"):
            data.batches("train", 16, seed=0).load_state_dict(state)


# Arguments, and where files are looked for


def test_an_unknown_name_gets_the_nearest_and_the_list():
    with pytest.raises(ValueError, match=r"digits, mnist, .*got 'mnits' \(did you mean 'mnist'\?\)"):
        load_data("mnits")
    with pytest.raises(ValueError, match="expected a binarisation out of dynamic, static, threshold, none, got 'bernoul"):
        load_data("digits", binarisation="bernoulli")
    with pytest.raises(ValueError, match="download to be 'auto' or 'never', got 'always'"):
        load_data("digits", download="always")
    with pytest.raises(ValueError, match="seed in 0..4294967295, got -1"):
        load_data("digits", seed=-1)


def test_the_catalogue_answers_without_torch():
    code = (
        "import sys; from pyro_skipvae.data import DATASETS, locate; [locate(name) for name in DATASETS];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


HERE = ("digits", "pydoc", "synthetic-ratings", "synthetic-text")  # these are made, or come with a package


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in HERE])
def test_missing_data_name_the_places_in_their_order(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SKIPVAE_DATA", str(tmp_path / "shared"))
    found, places = locate(name, tmp_path / "own")
    with pytest.raises(DataError) as caught:
        load_data(name, root=tmp_path / "own", download="never")
    message = str(caught.value)
    assert found is None and "\n" not in message and message.startswith(f"{name} was not found")
    assert all(str(place) in message for place in places)
    order = [message.index(str(tmp_path / above)) for above in ("own", "shared", "cache")]
    assert order == sorted(order)
    assert not (tmp_path / "own").exists() and not (tmp_path / "cache").exists()


# MNIST's files: small stand-ins with checksums of their own


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def flipped(content, position):
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.fixture
def tiny_mnist(monkeypatch):
    """The bytes of four small idx files that pass for MNIST's, with 30 training and 10 test images."""
    random = np.random.RandomState(0)
    content = {}
    for file, count in zip(mnist.FILES, (30, 30, 10, 10), strict=True):
        shape = (count, 28, 28) if "images" in file else (count,)
        content[file] = idx_bytes(random.randint(0, 256 if "images" in file else 10, shape).astype(np.uint8))
    monkeypatch.setattr(mnist, "TRAIN", 30)
    monkeypatch.setattr(mnist, "TEST", 10)
    known = {file: hashlib.sha256(raw).hexdigest() for file, raw in content.items()}
    monkeypatch.setattr(mnist, "MNIST_SHA256", known)
    return content


def lay(place, content, packed=True):
    place.mkdir(parents=True, exist_ok=True)
    for file, raw in content.items():
        (place / (f"{file}.gz" if packed else file)).write_bytes(gzip.compress(raw) if packed else raw)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["mnist/MNIST/raw", "MNIST/raw"])
def test_mnist_is_read_packed_or_unpacked_from_both_layouts_and_nothing_is_written(tmp_path, tiny_mnist, place, packed):
    lay(tmp_path / place, tiny_mnist, packed)
    before = sorted(tmp_path.rglob("*"))
    data = load_data("mnist", root=tmp_path, binarisation="none", download="never")
    assert (len(data.train), len(data.valid), len(data.test)) == (20, 10, 10)
    raw = np.frombuffer(tiny_mnist[mnist.FILES[0]], np.uint8, offset=16).reshape(30, 28, 28)
    assert (torch.cat([data.train, data.valid]) * 255).round().byte().numpy().tolist() == raw.tolist()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_environment_and_the_cache_are_looked_at_after_the_own_folder(tmp_path, tiny_mnist, monkeypatch):
    monkeypatch.setenv("SKIPVAE_DATA", str(tmp_path / "shared"))
    for above in ("cache", "shared", "own"):
        lay(tmp_path / above / "MNIST" / "raw", tiny_mnist)
        assert locate("mnist", tmp_path / "own")[0] == tmp_path / above / "MNIST" / "raw"


def test_a_damaged_file_is_healed_by_a_good_copy_beside_it_or_refused_by_name(tmp_path, tiny_mnist):
    place = tmp_path / "MNIST" / "raw"
    lay(place, tiny_mnist)
    whole = load_data("mnist", root=tmp_path).checksum
    damaged = place / mnist.FILES[2]
    damaged.write_bytes(flipped(tiny_mnist[mnist.FILES[2]], 500))
    assert load_data("mnist", root=tmp_path).checksum == whole
    (place / f"{mnist.FILES[2]}.gz").unlink()
    with pytest.raises(DataError, match=f"mnist is damaged: {damaged} does not hold"):
        load_data("mnist", root=tmp_path)


def test_every_mutation_of_a_packed_file_is_refused_or_changes_nothing(tmp_path, tiny_mnist):
    lay(tmp_path / "MNIST" / "raw", tiny_mnist)
    whole = load_data("mnist", root=tmp_path).checksum
    path = tmp_path / "MNIST" / "raw" / f"{mnist.FILES[0]}.gz"
    good, random, refused = path.read_bytes(), np.random.RandomState(0), 0
    for number in range(60):
        position = random.randint(len(good))
        path.write_bytes(good[:position] if number % 3 == 0 else flipped(good, position))
        try:
            assert load_data("mnist", root=tmp_path).checksum == whole  # the time stamp in the header, for example
        except DataError:
            refused += 1
    assert refused >= 55


def test_fashion_mnist_needs_packed_files_with_the_published_checksum(tmp_path, tiny_mnist, monkeypatch):
    place = tmp_path / "FashionMNIST" / "raw"
    lay(place, tiny_mnist, packed=False)
    assert locate("fashion-mnist", tmp_path)[0] is None  # nothing tells a damaged unpacked copy from a good one
    lay(place, tiny_mnist)
    with pytest.raises(DataError, match="fashion-mnist is damaged"):
        load_data("fashion-mnist", root=tmp_path, download="never")
    monkeypatch.setattr(mnist, "_torchvision_class", lambda name: Source(resources(place)))
    assert len(load_data("fashion-mnist", root=tmp_path, download="never").test) == 10


def test_an_unreadable_place_is_one_plain_line(tmp_path, tiny_mnist, monkeypatch):
    lay(tmp_path / "MNIST" / "raw", tiny_mnist)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match="mnist could not be read: .*Permission denied.*MNIST"):
        load_data("mnist", root=tmp_path)


# Downloads


class Source:
    """What torchvision's classes say about their files."""

    def __init__(self, resources, mirrors=()):
        self.resources = resources
        self.mirrors = mirrors


def resources(place):
    return [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(place.glob("*.gz"))]


@pytest.fixture
def server(tmp_path, tiny_mnist):
    """A server of the four files whose first path element says what goes wrong; `server.asked` are the requests."""
    lay(tmp_path / "served", tiny_mnist)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            _, manner, file = self.path.split("/")
            self.server.asked.append(self.path)
            answer(self, manner, (tmp_path / "served" / file).read_bytes())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked, running.released = [], threading.Event()
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.released.set()
        running.shutdown()


def answer(handler, manner, content):
    if manner == "error" or (manner == "flaky" and len(handler.server.asked) == 1):
        return handler.send_error(500)
    if manner == "loop":
        handler.send_response(302)
        handler.send_header("Location", handler.path)
        return handler.end_headers()
    handler.send_response(200)
    if manner == "drip-headers":
        handler.flush_headers()
        while not handler.server.released.wait(0.05):
            handler.wfile.write(b"X")
        return None
    handler.send_header("Content-Length", str(len(content) + (5 if manner == "short" else 0)))
    handler.end_headers()
    if manner == "slow":
        handler.server.released.wait(20)
    elif manner == "drip":
        while not handler.server.released.wait(0.05):
            handler.wfile.write(content[:1])
    elif manner == "truncated":
        handler.wfile.write(content[: len(content) // 2])
    elif manner == "wrong":
        handler.wfile.write(flipped(content, len(content) // 2))
    else:
        handler.wfile.write(content)


@pytest.fixture
def source(server, tmp_path, monkeypatch):
    """Set the mirrors by what goes wrong there: source("error", "good")."""
    monkeypatch.setattr(folders, "SILENCE", 0.3)
    monkeypatch.setattr(folders, "DEADLINE", 1.0)
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)

    def set_mirrors(*manners):
        mirrors = [f"http://127.0.0.1:{server.server_address[1]}/{manner}/" for manner in manners]
        there = Source(resources(tmp_path / "served"), mirrors)
        monkeypatch.setattr(mnist, "_torchvision_class", lambda name: there)
        return mirrors

    return set_mirrors


@pytest.mark.parametrize("manner", ["error", "slow", "drip", "drip-headers", "truncated", "short", "wrong", "loop"])
def test_a_failed_download_leaves_nothing_and_says_what_to_do(manner, source, server, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "TRIES", 2)
    (mirror,) = source(manner)
    with pytest.raises(DataError) as caught:
        load_data("kmnist", root=tmp_path / "own")
    message = str(caught.value)
    target = tmp_path / "own" / "KMNIST" / "raw"
    assert "\n" not in message and f"{mirror}t10k-images" in message and str(target) in message and "by hand" in message
    assert len(server.asked) >= (1 if "drip" in manner else 2)  # a server that takes all the time is not asked again
    assert not [path for path in target.rglob("*") if path.is_file()]


@pytest.mark.parametrize("manners", [("good",), ("flaky",), ("error", "good"), ("wrong", "truncated", "good")])
def test_retries_and_mirrors_bring_the_files(manners, source, server, tmp_path, monkeypatch):
    monkeypatch.setenv("SKIPVAE_DATA", str(tmp_path / "shared"))
    source(*manners)
    data = load_data("kmnist")
    assert len(data.train) == 20
    assert len(list((tmp_path / "cache" / "KMNIST" / "raw").iterdir())) == 4  # no temporary file is left
    assert not (tmp_path / "shared").exists()
    asked = len(server.asked)
    assert load_data("kmnist").checksum == data.checksum and len(server.asked) == asked


def test_a_download_that_grows_too_large_is_given_up(source, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "LARGEST", 1000)
    source("good")
    with pytest.raises(DataError, match="expected at most 1000 bytes within 1 s"):
        load_data("kmnist", root=tmp_path / "own")


def test_nothing_is_fetched_where_the_user_forbids_it(source, server, tmp_path):
    source("good")
    with pytest.raises(DataError, match="or allow the download"):
        load_data("kmnist", download=False)
    assert server.asked == []


# Omniglot's other sources


def test_the_resize_is_the_exact_mean_over_its_cells():
    ink = np.zeros((2, 105, 105), np.uint8)
    ink[0, 3, 0] = 1  # a quarter of this pixel lies in the second row of cells
    ink[1] = 1
    images = omniglot.resized(ink)
    assert images[0, 0, 0] == round(255 * 0.75 / 3.75**2) and images[0, 1, 0] == round(255 * 0.25 / 3.75**2)
    assert np.count_nonzero(images[0]) == 2 and (images[1] == 255).all()


def test_drawings_are_read_from_the_archives_in_order_and_nothing_is_unpacked(tmp_path):
    from PIL import Image

    random = np.random.RandomState(0)
    ink = random.randint(0, 2, (4, 105, 105)).astype(bool)
    members = ["Bengali/character02/0710_01", "Bengali/character01/0709_02", "Arcadian/character01/0001_01"]
    for archive, names, first in (("images_background", members, 0), ("images_evaluation", ["Keble/character03/1_20"], 3)):
        with zipfile.ZipFile(tmp_path / f"{archive}.zip", "w") as target:
            target.writestr("../escaped.png", b"no image")
            for number, name in enumerate(names, first):
                name = name.replace("/1_", "/0001_")
                with target.open(f"{archive}/{name}.png", "w") as file:
                    Image.fromarray(~ink[number]).save(file, "png")
    before = sorted(tmp_path.parent.rglob("*"))
    images, *numbers = omniglot.drawings([tmp_path / f"{archive}.zip" for archive in omniglot.ARCHIVES])
    assert np.stack(numbers).T.tolist() == [[0, 1, 1], [1, 1, 2], [1, 2, 1], [2, 3, 20]]
    assert (images == omniglot.resized(ink[[2, 1, 0, 3]])).all()
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_archives_are_fetched_verified_and_kept_as_a_small_file(tmp_path, monkeypatch):
    random = np.random.RandomState(0)
    arrays = [random.randint(0, 256, (80, 28, 28)), np.repeat([0, 1], 40), np.tile(np.repeat([1, 2], 20), 2)]
    arrays = [array.astype(np.uint8) for array in (*arrays, np.tile(np.arange(1, 21), 4))]
    fetched = []

    def fetch(name, file, urls, known_hash, folder, places):
        fetched.append((file, urls[0].rsplit("/", 1)[1], known_hash))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"archive")

    class Torchvision:
        download_url_prefix = "http://127.0.0.1/python"
        zips_md5 = {archive: hashlib.md5(b"archive").hexdigest() for archive in omniglot.ARCHIVES}

    monkeypatch.setattr(omniglot, "_torchvision_class", lambda: Torchvision)
    monkeypatch.setattr(omniglot, "drawings", lambda paths: arrays)
    monkeypatch.setattr(omniglot, "CHECKSUM", checksum(*arrays))
    monkeypatch.setattr(folders, "fetch", fetch)
    data = load_data("omniglot", root=tmp_path)
    assert [file for file, *_ in fetched] == ["images_background.zip", "images_evaluation.zip"]
    assert fetched[0][1] == fetched[0][0] and fetched[0][2] == f"md5:{hashlib.md5(b'archive').hexdigest()}"
    assert [path.name for path in (tmp_path / "omniglot").iterdir()] == [omniglot.RESIZED]
    shutil.rmtree(tmp_path / "omniglot-py")
    again = load_data("omniglot", root=tmp_path, download="never")
    assert again.checksum == data.checksum and (len(again.train), len(again.valid), len(again.test)) == (52, 8, 20)


@pytest.fixture
def chardata(tmp_path, monkeypatch):
    """A small chardata.mat, 30 + 6 images, whose images are labelled by their first pixel."""
    from scipy.io import savemat

    monkeypatch.setattr(omniglot, "BURDA_TRAIN", 30)
    monkeypatch.setattr(omniglot, "BURDA_VALID", 5)
    monkeypatch.setattr(omniglot, "BURDA_TEST", 6)
    images = np.random.RandomState(0).random_sample((36, 28, 28))
    labels = np.arange(36) % 4
    images[:, 0, 0] = labels / 4
    columns = images.transpose(0, 2, 1).reshape(36, 784).T  # each image in column order
    classes = np.eye(4)[labels].T
    path = tmp_path / "omniglot" / "chardata.mat"
    path.parent.mkdir()
    savemat(
        path, {"data": columns[:, :30], "target": classes[:, :30], "testdata": columns[:, 30:], "testtarget": classes[:, 30:]}
    )
    return path, images


@pytest.mark.parametrize("asked", ["omniglot", "omniglot-burda"])
def test_burdas_file_goes_before_our_resize_under_its_own_name(asked, chardata, tmp_path):
    _, images = chardata
    data = load_data(asked, root=tmp_path, binarisation="none", download="never")
    assert data.name == "omniglot-burda" and data.levels is None and data.kind == "grey"
    assert (len(data.train), len(data.valid), len(data.test)) == (25, 5, 6)
    assert data.test.equal(torch.from_numpy(images[30:].astype(np.float32)))
    for split in ("train", "valid", "test"):
        assert (getattr(data, split)[:, 0, 0] * 4).long().equal(data.labels[split])
    train = torch.cat([data.train, data.valid]).flatten(1).unique(dim=0)
    assert train.equal(torch.from_numpy(images[:30].astype(np.float32)).flatten(1).unique(dim=0))
    assert load_data(asked, root=tmp_path).train[:].unique().tolist() == [0.0, 1.0]


def test_a_damaged_chardata_is_refused_by_name(chardata, tmp_path, monkeypatch):
    path, _ = chardata
    monkeypatch.setattr(omniglot, "BURDA_TEST", 7)
    with pytest.raises(DataError, match=f"omniglot-burda is damaged: {path}"):
        load_data("omniglot", root=tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=f"omniglot-burda is damaged: {path}"):
        load_data("omniglot-burda", root=tmp_path)


# A user's own file

GREY = np.random.RandomState(0).randint(0, 256, (40, 3, 4, 4)).astype(np.uint8)
REAL_VALUES = np.random.RandomState(1).normal(size=(40, 6))
BINARY = (GREY > 127).astype(np.uint8)


def saved(folder, **arrays):
    np.savez(folder / "mine.npz", **arrays)
    return folder / "mine.npz"


@pytest.mark.parametrize(
    ("values", "binarisation", "kind", "levels", "stored"),
    [
        (BINARY, "dynamic", "binary", 2, "given"),
        (BINARY.astype(bool), "none", "binary", 2, "given"),
        (BINARY.astype(np.float64), "threshold", "binary", 2, "given"),
        (GREY, "dynamic", "binary", 256, "dynamic"),
        (GREY, "none", "grey", 256, "none"),
        (GREY / 255, "static", "binary", None, "static"),
        (GREY / 255, "none", "grey", None, "none"),
        (REAL_VALUES, "none", "real", None, "none"),
        (GREY.astype(np.int64) * 10, "none", "count", None, "none"),
    ],
)
def test_the_type_of_a_users_values_says_what_they_are(tmp_path, values, binarisation, kind, levels, stored):
    path = saved(tmp_path, train=values[:30], valid=values[30:35], test=values[35:])
    data = load_data(path, binarisation=binarisation)
    assert (data.name, data.kind, data.levels, data.binarisation) == ("mine.npz", kind, levels, stored)
    assert data.event_shape == values.shape[1:] and data.test.dtype == torch.float32 and data.labels == {}
    if kind in ("real", "count") or stored == "given":
        assert data.train.equal(torch.from_numpy(values[:30].astype(np.float32)))


@pytest.mark.parametrize("values", [REAL_VALUES, GREY.astype(np.int64) * 10])
def test_real_values_and_counts_are_not_binarised(tmp_path, values):
    path = saved(tmp_path, train=values)
    with pytest.raises(ValueError, match="expected binarisation 'none' for the (real|count) values of mine.npz, got 'dyn"):
        load_data(path)


def test_absent_splits_are_cut_from_train_with_its_labels(tmp_path):
    path = saved(tmp_path, train=GREY, labels_train=GREY[:, 0, 0, 0])
    data = load_data(path, binarisation="none")
    assert data.describe()["sizes"] == {"train": 32, "valid": 4, "test": 4}
    assert "a tenth each" in data.describe()["split"]
    for split in ("train", "valid", "test"):
        assert (getattr(data, split)[:, 0, 0, 0] * 255).round().long().equal(data.labels[split])
    assert torch.cat([data.train, data.valid, data.test]).flatten(1).unique(dim=0).shape[0] == 40
    partly = load_data(saved(tmp_path, train=GREY, test=GREY[:7]), binarisation="none")
    assert partly.describe()["sizes"] == {"train": 36, "valid": 4, "test": 7}


def test_dimensions_that_float32_cannot_tell_apart_are_told(tmp_path):
    """Not those of float32 itself, however little they vary, nor those of a short split that vary in the training items."""
    draws = np.random.default_rng(0).normal(size=(60, 3))
    kept = {name: draws.copy() for name in ("offset", "noise", "split")}
    kept["offset"][:, 1] += 1e9
    kept["noise"][:, 1] = np.float32(1) - np.float32(6e-8) * (draws[:, 1] > 0)
    kept["split"][:, 1] = 1e6 + 1e4 * np.arange(60)
    short = kept["split"][:2].copy()
    short[:, 1] = 1e6 + np.array([0.0, 1e-2])
    said = {}
    for name, train in kept.items():
        np.savez(tmp_path / f"{name}.npz", train=train, **({"test": short} if name == "split" else {}))
        said[name] = load_data(tmp_path / f"{name}.npz", binarisation="none").where
    assert "In 1 of 3 dimensions float32 cannot tell the values apart, the first has mean 1e+09" in said["offset"]
    assert "at [:, 1]: subtract the means." in said["offset"]
    assert "float32" not in said["noise"] + said["split"]


def one_nan():
    values = GREY / 255
    values[3, 0, 0, 0] = np.nan
    return values


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train": GREY, "vaild": GREY}, r"expected one array, or arrays named train, .*got 'train', 'vaild' in"),
        ({"data": GREY, "x": GREY}, r"expected one array, or arrays named train, .*got 'data', 'x' in"),
        ({"test": GREY, "y_test": np.arange(40)}, r"expected one array, or arrays named train, .*got 'test', 'y_test' in"),
        ({"train": np.array([{}, {}])}, "cannot be read: .*[Oo]bject arrays"),
        ({"train": np.array(["a", "b"])}, "expected numbers, got type <U1 in 'train'"),
        ({"train": np.float32(3)}, r"expected shape \(N, \.\.\.\).*got \(\) in 'train'"),
        ({"train": np.arange(9.0)}, r"expected shape \(N, \.\.\.\).*got \(9,\) in 'train'"),
        ({"train": np.zeros((9, 0))}, r"got \(9, 0\) in 'train'"),
        ({"train": GREY[:0]}, "expected at least 2 items, got 0 in 'train'"),
        ({"train": GREY[:1]}, "expected at least 2 items, got 1 in 'train'"),
        ({"train": GREY, "test": GREY[:1]}, "expected at least 2 items, got 1 in 'test'"),
        ({"train": GREY[:5]}, "expected at least 6 items in 'train', from which valid and test are cut, got 5"),
        ({"train": one_nan()}, "expected finite values .* in 'train'"),
        ({"train": GREY / 255, "test": np.full((3, 3, 4, 4), np.inf)}, "expected finite values .* in 'test'"),
        ({"train": np.full((9, 2), 1e300)}, "expected finite values that float32 can hold"),
        ({"train": 1e9 + np.arange(18.0).reshape(9, 2)}, "float32 can tell apart, got mean 1e.* at .:, 0. in 'train' of"),
        ({"train": GREY, "test": GREY[:, :2]}, r"same shape as train's, \(3, 4, 4\), got \(2, 4, 4\) in 'test'"),
        ({"train": GREY, "valid": GREY / 255}, "expected the type of train, uint8, got float64 in 'valid'"),
        ({"train": GREY.astype(np.int64) - 3}, "expected counts in 0..16777216, or floats, got int64 from -3"),
        ({"train": GREY, "labels_train": np.arange(39)}, r"shape \(40,\), got int64 of shape \(39,\) in 'labels_train'"),
        ({"train": GREY, "labels_train": np.full(40, 0.5)}, "expected integer or text classes .*got float64"),
        ({"train": GREY, "labels_test": np.arange(3)}, "got labels without 'test'"),
        ({"train": GREY.astype(complex)}, "expected numbers, got type complex128 in 'train'"),
        ({"train": GREY[:, 0, 0].astype("M8[s]")}, r"expected numbers, got type datetime64\[s\] in 'train'"),
        ({"train": np.zeros(9, [("a", "f4"), ("b", "i4")])}, "expected numbers, got type .*'a'"),
    ],
)
def test_a_users_file_that_is_wrong_is_refused_in_one_line_that_names_it(tmp_path, arrays, message):
    path = saved(tmp_path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load_data(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="arrays, got .*mine.npz, .* it is no whole .npz archive") as caught:
        load_data(path)
    assert "\n" not in str(caught.value)


def test_a_single_array_under_the_name_npz_is_refused(tmp_path):
    with open(tmp_path / "mine.npz", "wb") as file:
        np.save(file, GREY)
    with pytest.raises(ValueError, match="mine.npz, whose content is that of a .npy file; rename it"):
        load_data(tmp_path / "mine.npz")


def test_every_mutation_of_a_users_file_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, train=GREY, test=GREY[:5])
    whole, good, random, refused = load_data(path).checksum, path.read_bytes(), np.random.RandomState(0), 0
    for _ in range(150):
        path.write_bytes(flipped(good, random.randint(len(good))))
        try:
            assert load_data(path).checksum == whole
        except ValueError:
            refused += 1
    assert refused >= 130


def test_a_users_file_that_is_absent_is_missing_data(tmp_path):
    with pytest.raises(DataError, match="absent.npz was not found"):
        load_data(tmp_path / "absent.npz")


def test_data_say_in_one_line_what_they_are():
    shown = repr(load_data("digits"))
    assert shown == (
        "Data(name='digits', kind='binary', sizes={'train': 1257, 'valid': 180, 'test': 360}, event_shape=(8, 8), "
        "binarisation='dynamic')"
    )


def test_data_in_a_notebook_are_an_escaped_table():
    data = dataclasses.replace(load_data("digits"), name="<i>&")
    shown = data._repr_html_()
    assert "<i>" not in shown and "&lt;i&gt;&amp;" in shown and "stratified by class" in shown and shown.count("<tr>") == 7


def test_data_as_plain_values_and_as_a_frame(monkeypatch):
    class Frame:
        def __init__(self, rows):
            self.rows = rows

        def set_index(self, name):
            return {row.pop(name): row for row in self.rows}

    digits, text = load_data("digits"), load_data("synthetic-text").limit(train=100, eval=10)
    assert digits.to_dict() == digits.describe()
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=Frame))
    assert digits.to_frame()["valid"] == {"items": 180, "classes": 10}
    row = text.to_frame()["train"]
    assert list(row) == ["items", "classes", "tokens", "unknown_rate"]
    assert row["items"] == 100 and row["classes"] is None and row["tokens"] == text.describe()["tokens"]["train"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"install pandas .*, or use to_dict\(\)"):
        digits.to_frame()


def test_ratings_are_choices_of_known_tastes():
    data = load_data("synthetic-ratings")
    assert (data.kind, data.event_shape) == ("binary", (200,))
    assert [len(part) for part in (data.train, data.valid, data.test)] == [4000, 500, 500]
    chosen = data.train.sum(1)
    assert chosen.min() >= 5 and chosen.max() <= 60
    assert data.train[:, :20].mean() > 3 * data.train[:, 100:].mean()  # the first are popular
    alike = torch.corrcoef(data.train.T).fill_diagonal_(0).abs()
    assert alike.max() > 0.15  # of items drawn apart it would be 5 / sqrt(4000) = 0.08 at most
