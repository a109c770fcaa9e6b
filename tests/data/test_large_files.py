"""Files that are larger than what is held in memory: the same items as from memory, and one sentence where the file changes."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import skipvae
from PIL import Image

from pyro_skipvae.data import DataError, large_text, load_data
from pyro_skipvae.data.on_disk import OnDisk
from pyro_skipvae.data.rows import Rows
from pyro_skipvae.runs.build import statistics_items
from pyro_skipvae.runs.folder import Run
from pyro_skipvae.training import fit
from pyro_skipvae_cli.job import make_config, make_job

ITEMS = 120
RANDOM = np.random.default_rng(0)
SOURCES = {
    "grey": RANDOM.integers(0, 256, (ITEMS, 4, 5), dtype=np.uint8),
    "chance": RANDOM.random((ITEMS, 7)),
    "real-big-endian": RANDOM.normal(size=(ITEMS, 7)).astype(">f4"),
    "binary-int64": RANDOM.integers(0, 2, (ITEMS, 6)),
    "flags": RANDOM.integers(0, 2, (ITEMS, 6)).astype(bool),
    "counts": RANDOM.integers(0, 9, (ITEMS, 6)),
    "channels-last": RANDOM.integers(0, 256, (ITEMS, 5, 6, 3), dtype=np.uint8),
    "half": RANDOM.random((ITEMS, 3)).astype(np.float16),
}


@pytest.fixture
def all_large(monkeypatch):
    """Take every file for one that is too large to be held; returns how to take them for small ones again."""
    monkeypatch.setattr("pyro_skipvae.data.rows.LARGEST_IN_MEMORY", 0)
    return lambda: monkeypatch.setattr("pyro_skipvae.data.rows.LARGEST_IN_MEMORY", 2**28)


@pytest.fixture
def grey(tmp_path):
    np.save(tmp_path / "grey.npy", SOURCES["grey"])
    return tmp_path / "grey.npy"


def load(path, binarisation="none"):
    return load_data(path, root=path.parent / "cache", binarisation=binarisation)


def same(data, expected):
    assert data.describe() == expected.describe()
    for split in ("train", "valid", "test"):
        pairs = zip(data.batches(split, 32, seed=3), expected.batches(split, 32, seed=3), strict=True)
        assert all(got.equal(wanted) and got.dtype == wanted.dtype for got, wanted in pairs)
    assert data.labels.keys() == expected.labels.keys()
    assert all(data.labels[split].equal(expected.labels[split]) for split in data.labels)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_items_are_the_same_from_disk_as_from_memory(name, ending, tmp_path, all_large):
    x, path = SOURCES[name], tmp_path / f"x{ending}"
    labels = np.arange(ITEMS) % 3
    np.save(path, x) if ending == ".npy" else np.savez(path, x_train=x, y_train=labels, x_test=x[:40], y_test=labels[:40])
    ways = ["none"] if name in ("counts", "real-big-endian") else ["none", "dynamic", "static", "threshold"]
    found = {way: [load(path, way), load(path, way)] for way in ways}
    all_large()
    for way in ways:
        expected = load(path, way)
        for data in found[way]:
            assert isinstance(getattr(data.train, "grey", data.train), OnDisk) and str(path.parent) in data.where
            same(data, expected)
            same(data.limit(50, 9), expected.limit(50, 9))
            assert data.test[-3].equal(expected.test[-3]) and data.valid[2:5].equal(expected.valid[2:5])
            assert statistics_items(data.valid).equal(expected.valid[:])


def test_a_compressed_archive_is_read_into_memory_and_says_how_it_need_not_be(tmp_path, all_large):
    np.savez_compressed(tmp_path / "x.npz", SOURCES["grey"])
    data = load(tmp_path / "x.npz")
    assert isinstance(data.train, torch.Tensor) and "x.npz is compressed" in data.where
    run_command(data.where, tmp_path)
    plain = load(tmp_path / "x-plain.npz")
    assert isinstance(plain.train, OnDisk) and plain.train[:].equal(data.train)


def run_command(sentence, folder):
    command = re.search(r"python -c .*", sentence)[0].removeprefix("python")
    done = subprocess.run(f"{sys.executable}{command}", shell=True, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)


def test_columns_that_lie_together_are_refused_with_a_command_that_turns_them(tmp_path, all_large):
    np.save(tmp_path / "x.npy", np.asfortranarray(SOURCES["counts"]))
    with pytest.raises(ValueError, match="Fortran order") as caught:
        load(tmp_path / "x.npy")
    run_command(str(caught.value), tmp_path)
    turned = load(tmp_path / "x-rows.npy")
    all_large()
    assert turned.train[:].equal(load(tmp_path / "x.npy").train)


def test_a_value_that_is_not_finite_is_named_by_its_place_in_the_file(tmp_path, all_large):
    x = SOURCES["real-big-endian"].astype(np.float64)
    x[77, 3], x[110, 0] = np.nan, 1e300
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"got nan at \[77, 3\] \(and 1 more\) in .*x.npy"):
        load(tmp_path / "x.npy")


def test_a_damaged_member_is_refused(tmp_path, all_large):
    np.savez(tmp_path / "x.npz", np.tile(SOURCES["grey"], (20, 1, 1)))
    raw = bytearray((tmp_path / "x.npz").read_bytes())
    raw[30_000] ^= 1
    (tmp_path / "x.npz").write_bytes(raw)
    with pytest.raises(ValueError, match=r"expected a whole .npz file, got .*x.npz, whose member 'arr_0' is damaged"):
        load(tmp_path / "x.npz")


def test_values_are_looked_at_once_and_again_when_the_file_changes(grey, all_large, monkeypatch):
    first, told = load(grey), []
    again = load_data(grey, root=grey.parent / "cache", binarisation="none", progress=lambda *args: told.append(args))
    assert again.checksum == first.checksum and not told
    x = SOURCES["grey"].copy()
    x[50] += 1
    np.save(grey, x)
    other = load_data(grey, root=grey.parent / "cache", binarisation="none", progress=lambda *args: told.append(args))
    assert other.checksum != first.checksum and told == [("looking at the values", 96, ITEMS)] or told[-1][1:] == (ITEMS, ITEMS)
    assert len(list((grey.parent / "cache").rglob("*facts.json"))) == 1  # that of the old state is gone
    for damaged in ("", "[]", '{"low": 0}'):
        next((grey.parent / "cache").rglob("*facts.json")).write_text(damaged)
        assert load(grey).checksum == other.checksum


@pytest.mark.parametrize("change", ["write", "cut"])
def test_a_file_that_changes_while_it_is_used_is_told(change, grey, all_large):
    data = load(grey)
    x = data.train[:4]
    with open(grey, "r+b") as file:
        file.seek(300) if change == "write" else file.truncate(300)
        file.write(b"\1" * (change == "write"))
    with pytest.raises(DataError, match=r"expected .*grey.npy to stay as it was"):
        data.train[:4]
    assert len(x) == 4


def test_a_file_that_is_removed_or_replaced_while_it_is_used_is_read_on(grey, all_large):
    data = load(grey)
    x = data.train[:]
    grey.unlink()
    np.save(grey, SOURCES["grey"][::-1])
    assert data.train[:].equal(x)


def test_what_cannot_be_kept_is_told(grey, all_large, monkeypatch):
    (grey.parent / "cache").write_text("a file in the place of the folder")
    data = load(grey)
    assert "the values are looked at anew in every run" in data.where
    with pytest.raises(DataError, match="folder that can be written for the drawn pixels .* --data-dir"):
        load(grey, "static")
    (grey.parent / "cache").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(DataError, match=r"of free space for the drawn pixels of .* --data-dir"):
        load(grey, "static")


def test_items_travel_to_another_process(grey, all_large):
    data = load(grey, "dynamic")
    sent = pickle.loads(pickle.dumps(data.valid))
    assert sent[:].equal(data.valid[:])


@pytest.mark.parametrize("index", [slice(-20, None, 7), [3, 3, -1], torch.arange(30) % 4 == 0, 5, torch.tensor(6)])
def test_an_index_is_that_of_a_tensor(index, grey, all_large):
    items = load(grey).valid.take(torch.randperm(12).repeat(3)[:30])
    assert items[index].equal(items[:][index])
    for beyond in (30, [-31], [[1]]):
        with pytest.raises(IndexError):
            items[beyond]


def test_batches_go_on_in_the_middle_of_an_epoch(grey, all_large):
    batches, others = (load(grey, "dynamic").batches("train", 7, seed=5) for _ in range(2))
    for number, _ in enumerate(batches):
        if number == 4:
            break
    others.load_state_dict(batches.state_dict())
    all_large()
    whole = list(load(grey, "dynamic").batches("train", 7, seed=5))
    assert all(got.equal(wanted) for got, wanted in zip(others, whole[5:], strict=True))


FLAGS = {"dataset": "grey.npy", "decoder": "mlp", "layers": 1, "width": 8, "latent_dim": 2, "data_dir": "cache", "epochs": 1}


def trained(run=None):
    """The job of an epoch on grey.npy, and its loss; `run` is a folder that is begun with it."""
    job = make_job(*make_config({**FLAGS, "batch_size": 10}, resume=None), device="cpu")
    if run:
        with Run(run).locked(new=True):
            Run(run).begin(job.config, job.data)
    return job, [epoch.loss for epoch in fit(job.step, job.batches, epochs=1, beta=job.beta)]


def test_an_index_that_no_tensor_takes_is_refused_and_a_number_of_numpy_is_one(grey, all_large):
    data = load(grey)
    for index in (torch.ones(7, dtype=torch.bool), [0.5, 1.5], torch.zeros(2, 2, dtype=torch.long), [len(data.train)]):
        with pytest.raises(IndexError):
            data.train[index]
    mask = torch.arange(len(data.train)) == 3
    assert data.train[np.int64(3)].equal(data.train[3]) and data.train[mask].equal(data.train[3:4])
    assert len(data.train[[]]) == 0


def test_a_file_that_was_replaced_is_not_opened_in_another_process_as_if_it_were_the_old_one(grey, all_large):
    data = load(grey)
    packed = pickle.dumps(data.train.rows.file)
    assert pickle.loads(packed).state == data.train.rows.file.state
    np.save(grey, SOURCES["grey"][::-1])
    with pytest.raises(DataError, match="changed"):
        pickle.loads(packed)


def test_few_items_are_looked_at_where_they_are_large(tmp_path, monkeypatch, all_large):
    """Else a file in float64 would be read whole to tell whether float32 can hold it."""
    monkeypatch.setattr("pyro_skipvae.data.values.LOOKED_AT_BYTES", 8 * 12 * 5)
    np.save(tmp_path / "x.npy", np.random.RandomState(0).rand(200, 12))
    seen, read = [], Rows.__getitem__
    monkeypatch.setattr(Rows, "__getitem__", lambda rows, index: (seen.append(index), read(rows, index))[1])
    load(tmp_path / "x.npy")
    looked = [index for index in seen if isinstance(index, np.ndarray)]
    assert looked and max(map(len, looked)) == 5


def test_training_is_the_same_from_disk_and_a_run_knows_its_data_again(grey, all_large, monkeypatch):
    monkeypatch.chdir(grey.parent)
    disk, loss = trained("run")
    assert isinstance(disk.data.train, OnDisk)
    all_large()
    memory, expected = trained()
    assert loss == expected and all(map(torch.equal, disk.vae.parameters(), memory.vae.parameters()))
    x = SOURCES["grey"].copy()
    x[0] += 1
    np.save(grey, x)
    for code, said in ((4, "other contents of grey.npy"), (3, "grey.npy was not found")):
        done = skipvae("train", "--resume", "run", cwd=grey.parent)
        assert done.returncode == code and said in done.stderr and done.stderr.count("\n") == 1
        grey.unlink(missing_ok=True)


def test_doctor_and_a_dry_run_say_where_the_items_are(grey, all_large):
    found = json.loads(skipvae("doctor", "grey.npy", "--json", cwd=grey.parent).stdout)["data"]
    assert "each batch is read from there" in found["read"] and found["memory_bytes"] < 10_000
    flags = ["--dataset", "grey.npy", "--decoder", "mlp", "--layers", 1, "--dry-run"]
    assert "each batch is read from there" in skipvae("train", *flags, cwd=grey.parent).stdout
    all_large()
    found = json.loads(skipvae("train", *flags, "--json", cwd=grey.parent).stdout)
    assert "are in memory" in found["data"] and found["data_memory_bytes"] > 120 * 20 * 4
    done = skipvae("doctor", "absent.npy", cwd=grey.parent)
    assert done.returncode == 2


def sentences(count, seed, words):
    random = np.random.default_rng(seed)
    chance = 1 / np.arange(1, len(words) + 1)
    lengths = random.integers(0, 12, count)
    return [" ".join(random.choice(words, size, p=chance / chance.sum())) for size in lengths]


WORDS = [f"w{number}" for number in range(40)] + ["naïve", "北京", "<unk>"]
TEXTS = {
    "plain.txt": ("\n".join(sentences(150, 0, WORDS)), {}),
    "windows.txt": ("\ufeff" + "\r\n".join(sentences(150, 1, WORDS)) + "\r\n", {}),
    "beside.txt": ("\n".join(sentences(80, 2, WORDS)), {"valid": "w0 w1\nw1\n\n", "test": "w2\nw0 w40 w2"}),
    "once.txt": ("\n".join(f"unique{number} w{number % 3}" for number in range(80)), {}),
    "strangers.txt": ("\n".join(f"u{i} v{i}" if i % 9 == 0 else "a b c" for i in range(80)), {}),
    "words.jsonl": ("\n".join(json.dumps({"text": t, "label": f"c{len(t) % 3}"}) for t in sentences(120, 3, WORDS)), {}),
    "numbers.jsonl": ("\n".join(json.dumps({"text": f"a b{i % 7}", "label": i % 3}) for i in range(60)), {}),
    "by-class.jsonl": ("\n".join(json.dumps({"text": f"a b{i % 7}", "label": i // 40}) for i in range(120)), {}),
    "some.jsonl": ('{"text": "a b", "label": 1}\n' * 60 + '{"text": "a b", "label": null}\n{"text": "a"}', {}),
    "held-out-words.txt": ("a b c\n" * 60 + "a b d\n", {"test": "a rare\na rare once", "valid": "a\na"}),
    "unlabelled.jsonl": ('{"text": "a b", "label": 1}\n' * 60, {"test": '{"text": "a"}\n' * 3}),
    "few.txt": ("a\nb", {}),
    "no-words.txt": ("\n" * 9, {}),
    "numbers.txt": ("1 2 3\n" * 60, {}),
    "long.txt": ("a b\n" * 30 + "a " * 201, {}),
    "mark.txt": ("a b\n" * 30 + "a <pad>", {}),
    "unknown.txt": ("a b\n" * 30, {"test": "a\nzz yy\na"}),
    "latin1.txt": (("a b\n" * 30 + "é").encode("latin-1"), {}),
    "zero.txt": ("a b\n" * 30 + "a\0", {}),
}


def described(path, **sizes):
    """The data of a text, or the error."""
    try:
        return load_data(path, root=path.parent / "cache", **sizes)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("sizes", [{}, {"vocabulary_size": 30}, {"max_words": 5}], ids=["usual", "vocabulary", "words"])
@pytest.mark.parametrize("name", TEXTS)
def test_rows_of_a_text_are_the_same_from_disk_as_from_memory(name, sizes, tmp_path, monkeypatch):
    content, beside = TEXTS[name]
    path = tmp_path / name
    for file, text in {name: content, **{f"{path.stem}.{part}{path.suffix}": text for part, text in beside.items()}}.items():
        (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    expected = described(path, **sizes)
    monkeypatch.setattr("pyro_skipvae.data.text_file.LARGEST_IN_MEMORY", -1)
    for data in (described(path, **sizes), described(path, **sizes)):
        if isinstance(expected, str):
            assert data == expected
            continue
        assert isinstance(data.train, OnDisk) and "each batch is read from there" in data.where
        assert data.vocabulary.words == expected.vocabulary.words and data.class_names == expected.class_names
        same(data, expected)
        same(data.limit(50, 3), expected.limit(50, 3))
        assert data.by_class == expected.by_class and data.first("test", 3).equal(expected.first("test", 3))
        assert data.train[-3:].equal(expected.train[-3:])


def test_a_text_is_numbered_once_for_all_vocabularies(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_skipvae.data.text_file.LARGEST_IN_MEMORY", -1)
    (tmp_path / "a.txt").write_text("\n".join(["a b", "a"] * 30))
    described(tmp_path / "a.txt")
    numbered, told = large_text._numbered, []
    monkeypatch.setattr(large_text, "_numbered", lambda *args: told.append(args) or numbered(*args))
    data = described(tmp_path / "a.txt", vocabulary_size=5)
    assert len(data.vocabulary) == 5 and not told
    next((tmp_path / "cache").rglob("*tokens.int32")).write_bytes(b"cut")
    assert described(tmp_path / "a.txt", vocabulary_size=5).checksum == data.checksum and len(told) == 1


def write_images(folder, x, ending="png"):
    for number, pixels in enumerate(x):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "ab"[number % 2] / f"{number:04}.{ending}")


@pytest.mark.parametrize("source", ["grey", "channels-last", "deep", "grey-in-colour"])
def test_a_folder_of_images_is_decoded_once_and_read_from_disk(source, tmp_path, all_large, monkeypatch):
    grey = SOURCES["grey"]
    others = {"deep": grey.astype(np.uint16) * 250, "grey-in-colour": np.stack([grey] * 3, -1)}
    write_images(tmp_path / "x" / "train", others.get(source, SOURCES.get(source)))
    write_images(tmp_path / "x" / "test", others.get(source, SOURCES.get(source))[:10])
    told = []
    first = load_data(tmp_path / "x", root=tmp_path / "cache", binarisation="none", progress=lambda *args: told.append(args))
    assert isinstance(first.train, OnDisk) and ("decoding the images of test", 10, 10) in told
    monkeypatch.setattr(Image, "open", None)  # no image is read again
    again = load(tmp_path / "x")
    monkeypatch.undo()
    all_large()
    expected = load_data(tmp_path / "x", root=tmp_path / "other", binarisation="none")
    assert isinstance(expected.train, torch.Tensor)
    same(first, expected)
    same(again, expected)


def test_a_changed_image_is_decoded_anew(tmp_path, all_large):
    write_images(tmp_path / "x", SOURCES["grey"])
    first = load(tmp_path / "x")
    Image.fromarray(255 - SOURCES["grey"][3]).save(tmp_path / "x" / "b" / "0003.png")
    other = load(tmp_path / "x")
    assert other.checksum != first.checksum and len(list((tmp_path / "cache").rglob("*pixels*"))) == 1
    (tmp_path / "x" / "a" / "0050.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"expected an image, got .*0050.png"):
        load(tmp_path / "x")
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_model_is_built_on_a_sample_of_many_items(grey, all_large, monkeypatch):
    monkeypatch.chdir(grey.parent)
    monkeypatch.setattr("pyro_skipvae.runs.build.STATISTICS_BYTES", 4 * 20 * 48)  # 48 of 96 training items
    config, data = make_config(FLAGS, resume=None)
    with torch.device("meta"):
        sample = statistics_items(data.train)
    assert sample.equal(data.train[:][::2])
    job = make_job(config, data, device="cpu")  # checks what memory it takes, and scales by the sample
    mean = next(buffer for name, buffer in job.vae.encoder.named_buffers() if name.endswith("loc"))
    assert float(mean.squeeze()) == pytest.approx(float(sample.mean()))


MEASURE = """
import sys
from pyro_skipvae import load_data
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024
load_data("digits").train[:1]
start = anonymous()
data = load_data(sys.argv[1], root=sys.argv[2], binarisation="none")
for number, x in zip(range(500), data.batches("train", 64, seed=0)):
    pass
print(len(data.train), tuple(x.shape), anonymous() - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is Linux's")
def test_a_large_file_takes_little_memory(tmp_path):
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (300_000, 784))  # 940 MB as float32
    array[::50_000] = 255
    array.flush()
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "x.npy"), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    items, shape, growth = done.stdout.split(" ", 1)[0], *re.fullmatch(r"\d+ (\(.*\)) (.*)\n", done.stdout).groups()
    assert (items, shape) == ("240000", "(64, 784)") and float(growth) < 60
