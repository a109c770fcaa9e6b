"""A user's own files of every kind: the same values as tensors, or one sentence with a command that converts them."""

import csv
import gzip
import json
import os
import pickle
import re
import shlex
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from PIL import Image

from pyro_skipvae.data import DataError, conversions, image_folder, load_data, mnist, own_file
from pyro_skipvae.data.new_items import new_items
from pyro_skipvae.runs.config import TEXT_FILES, Config, ConfigError, is_path

ITEMS, SIDE = 60, 6
REAL = Path(os.environ.get("SKIPVAE_DATA", "")) / "mnist" / "MNIST" / "raw"


def small_images():
    """Grey images with 255 in them, and their classes 0..3."""
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (ITEMS, SIDE, SIDE)).astype(np.uint8)
    images[0, 0, 0] = 255
    return images, random.randint(0, 4, ITEMS)


def mnist_images():
    arrays = [mnist.idx(gzip.open(REAL / f"{file}.gz").read())[:200] for file in mnist.FILES[:2]]
    return arrays[0], arrays[1].astype(np.int64)


SOURCES = [
    pytest.param(small_images, id="small"),
    pytest.param(
        mnist_images,
        id="mnist",
        marks=[pytest.mark.real_data, pytest.mark.skipif(not REAL.exists(), reason=f"no {REAL}; set SKIPVAE_DATA")],
    ),
]


def write_table(path, rows, *, header=None, delimiter=",", quoting=csv.QUOTE_MINIMAL):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
        writer.writerows(([header] if header else []) + rows)


def pixel_names(count, name="pixel{}"):
    return [name.format(number) for number in range(count)]


def flat_rows(images, labels=None, first=True):
    rows = images.reshape(len(images), -1).tolist()
    if labels is None:
        return rows
    return [[label, *row] if first else [*row, label] for row, label in zip(rows, labels, strict=True)]


def write_folder(path, images, labels=None, *, mode=None, ending="png"):
    for number, image in enumerate(images):
        folder = path / str(labels[number]) if labels is not None else path
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image)
        (picture.convert(mode) if mode else picture).save(folder / f"{number:04}.{ending}")


def image_table(path, x, y):
    write_table(path, flat_rows(x, y), header=["label", *pixel_names(x[0].size)])


def image_table_last(path, x, y):
    names = [f"{i + 1}x{j + 1}" for i in range(x.shape[1]) for j in range(x.shape[2])]
    write_table(path, flat_rows(x, y, first=False), header=[*names, "Class"], delimiter=";")


# name of the file -> (what writes it, the shape of an item from that of an image, whether the labels are in it)
FORMATS = {
    "x.npy": (lambda path, x, y: np.save(path, x), lambda h, w: (h, w), False),
    "fortran.npy": (lambda path, x, y: np.save(path, np.asfortranarray(x)), lambda h, w: (h, w), False),
    "positional.npz": (lambda path, x, y: np.savez(path, x, y), lambda h, w: (h, w), True),
    "keras.npz": (lambda path, x, y: np.savez(path, x_train=x, y_train=y), lambda h, w: (h, w), True),
    "upper.npz": (lambda path, x, y: np.savez(path, X_train=x, Y_train=y.astype(str)), lambda h, w: (h, w), True),
    "medical.npz": (lambda path, x, y: np.savez(path, train_images=x, train_labels=y[:, None]), lambda h, w: (h, w), True),
    "hot.npz": (lambda path, x, y: np.savez(path, images=x, labels=np.eye(10)[y]), lambda h, w: (h, w), True),
    "last.npz": (lambda path, x, y: np.savez_compressed(path, data=x[..., None], target=y * 1.0), lambda h, w: (1, h, w), True),
    "any-name.npz": (lambda path, x, y: np.savez(path, faces=x), lambda h, w: (h, w), False),
    "kaggle.csv": (image_table, lambda h, w: (h, w), True),
    "packed.csv.gz": (image_table, lambda h, w: (h, w), True),
    "semicolons.csv": (image_table_last, lambda h, w: (h, w), True),
    "bare.csv": (lambda path, x, y: write_table(path, flat_rows(x)), lambda h, w: (h * w,), False),
    "quoted.tsv": (
        lambda path, x, y: write_table(path, flat_rows(x), delimiter="\t", quoting=csv.QUOTE_ALL),
        lambda h, w: (h * w,),
        False,
    ),
    "pandas.csv": (
        lambda path, x, y: write_table(path, flat_rows(x, range(len(x))), header=["", *map(str, range(x[0].size))]),
        lambda h, w: (h * w,),
        False,
    ),
    "numbered.csv": (
        lambda path, x, y: write_table(path, flat_rows(x), header=list(range(x[0].size))),
        lambda h, w: (h * w,),
        False,
    ),
    "blanks.dat": (lambda path, x, y: np.savetxt(path, x.reshape(len(x), -1)), lambda h, w: (h * w,), False),
    "flat": (lambda path, x, y: write_folder(path, x), lambda h, w: (h, w), False),
    "bmp": (lambda path, x, y: write_folder(path, x, ending="bmp"), lambda h, w: (h, w), False),
    "gif": (lambda path, x, y: write_folder(path, x, ending="gif"), lambda h, w: (h, w), False),
    "colour-of-grey": (lambda path, x, y: write_folder(path, x, mode="RGBA"), lambda h, w: (h, w), False),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_tensors(name, source, tmp_path):
    (write, shape, labelled), (images, classes) = FORMATS[name], source()
    np.savez(tmp_path / "reference.npz", train=images, labels_train=classes)
    expected = load_data(tmp_path / "reference.npz", binarisation="none")
    write(tmp_path / name, images, classes)
    got = load_data(tmp_path / name, binarisation="none")
    assert (got.name, got.kind, got.levels, got.event_shape) == (name, "grey", 256, shape(*images.shape[1:]))
    for split in ("train", "valid", "test"):
        assert getattr(got, split).reshape(getattr(expected, split).shape).equal(getattr(expected, split))
        assert not labelled or got.labels[split].equal(expected.labels[split])
    assert labelled or not got.labels
    assert got.how_read.startswith("Read as grey levels: whole numbers 0 to 255") and got.describe()["how_read"] == got.how_read


@pytest.mark.parametrize("name", ["x.parquet", "text-labels.parquet"])
def test_parquet_gives_the_same_tensors_where_pyarrow_is(name, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images, classes = small_images()
    columns = dict(zip(pixel_names(SIDE * SIDE), images.reshape(ITEMS, -1).T, strict=True))
    words = [f"class {number}" for number in classes]
    columns = {"id": np.arange(ITEMS), **columns, "label": words if "text" in name else classes}
    parquet.write_table(arrow.table(columns), tmp_path / name)
    np.savez(tmp_path / "reference.npz", train=images, labels_train=classes)
    expected = load_data(tmp_path / "reference.npz", binarisation="none")
    got = load_data(tmp_path / name, binarisation="none")
    assert got.event_shape == (SIDE, SIDE) and got.test.equal(expected.test)
    assert got.labels["test"].equal(expected.labels["test"])
    assert got.class_names == (("class 0", "class 1", "class 2", "class 3") if "text" in name else ())


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr("pyro_skipvae.data.table.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="x.parquet; install it: pip install pyarrow"):
        load_data(tmp_path / "x.parquet")


COUNTS = np.random.RandomState(0).poisson(0.4, (ITEMS, 12))
COUNT_FILES = {
    "x.mtx": lambda path: scipy.io.mmwrite(path, scipy.sparse.csr_matrix(COUNTS)),
    "real.mtx": lambda path: scipy.io.mmwrite(path, scipy.sparse.coo_matrix(COUNTS.astype(float))),
    "dense.mtx": lambda path: scipy.io.mmwrite(path, COUNTS),
    "csr.npz": lambda path: scipy.sparse.save_npz(path, scipy.sparse.csr_array(COUNTS)),
    "csc.npz": lambda path: scipy.sparse.save_npz(path, scipy.sparse.csc_matrix(COUNTS)),
    "coo.npz": lambda path: scipy.sparse.save_npz(path, scipy.sparse.coo_matrix(COUNTS.astype(np.float32))),
    "x.csv": lambda path: write_table(path, COUNTS.tolist(), header=[f"gene {number}" for number in range(12)]),
    "x.npy": lambda path: np.save(path, COUNTS.astype(">u4")),
}


@pytest.mark.parametrize("name", COUNT_FILES)
def test_counts_are_the_same_from_every_format(name, tmp_path):
    np.savez(tmp_path / "reference.npz", train=COUNTS)
    expected = load_data(tmp_path / "reference.npz", binarisation="none")
    COUNT_FILES[name](tmp_path / name)
    got = load_data(tmp_path / name, binarisation="none")
    assert got.kind == "count" and got.checksum == expected.checksum and got.train.equal(expected.train)


def test_real_values_keep_their_signs_types_and_byte_order(tmp_path):
    values = np.random.RandomState(0).normal(size=(40, 5))
    np.savez(tmp_path / "reference.npz", train=values.astype(np.float16).astype(float))
    expected = load_data(tmp_path / "reference.npz", binarisation="none")
    for dtype in ("float16", ">f4", ">f8", "longdouble"):
        np.save(tmp_path / "x.npy", values.astype(np.float16).astype(dtype))
        got = load_data(tmp_path / "x.npy", binarisation="none")
        assert got.kind == "real" and got.checksum == expected.checksum


# Tables

PLANTS = "length;width;species\n1,5;-2;setosa\n2,5;3;rosa\n" + "3,5;4;rosa\n" * 8


def test_words_in_the_label_column_are_class_names(tmp_path):
    (tmp_path / "x.csv").write_text(PLANTS)
    data = load_data(tmp_path / "x.csv", binarisation="none")
    assert data.class_names == ("rosa", "setosa") and data.kind == "real" and data.event_shape == (2,)
    values = torch.cat([data.train, data.valid, data.test])
    labels = torch.cat([data.labels[split] for split in ("train", "valid", "test")])
    assert values[labels == 1].tolist() == [[1.5, -2.0]] and (labels == 1).sum() == 1
    assert "2 classes from column 'species'" in data.how_read and data.describe()["class_names"] == ["rosa", "setosa"]


@pytest.mark.parametrize(
    ("header", "names", "labelled"),
    [
        ("a,b,label", 2, True),
        ("LABEL,a,b", 2, True),
        ("a,target,b", 2, True),
        ("x,y,z", 3, False),  # a point in space
        ("id,a,b", 2, False),
        ("a,b,c", 3, False),
        (None, 3, False),
    ],
)
def test_columns_have_their_roles_by_name(header, names, labelled, tmp_path):
    rows = [[number, number % 3, 2 * number + 1] for number in range(30)]
    write_table(tmp_path / "x.csv", rows, header=header and header.split(","))
    data = load_data(tmp_path / "x.csv", binarisation="none")
    assert data.event_shape == (names,) and bool(data.labels) == labelled
    assert sum(data.describe()["sizes"].values()) == 30


def test_a_split_column_is_kept_to(tmp_path):
    rows = [[number, number / 3, part] for part, count in (("train", 9), ("val", 4), ("Test", 5)) for number in range(count)]
    write_table(tmp_path / "x.csv", rows, header=["a", "b", "split"])
    data = load_data(tmp_path / "x.csv", binarisation="none")
    assert data.describe()["sizes"] == {"train": 9, "valid": 4, "test": 5} and data.split == "as in the file"


def test_r_writes_one_name_less_than_fields_and_true_and_false_are_numbers(tmp_path):
    rows = "".join(f'"row {number}" {number}.5 {str(number % 2 == 0).upper()}\n' for number in range(20))
    (tmp_path / "x.dat").write_text('"a" "b"\n' + rows.replace("row ", "row"))
    data = load_data(tmp_path / "x.dat", binarisation="none")
    assert data.event_shape == (2,) and set(data.train[:, 1].tolist()) == {0.0, 1.0}


GOOD_ROWS = "".join(f"{number},{number / 2}\n" for number in range(20))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n" + GOOD_ROWS + "7,\n", "expected no missing values, got one in line 22, column 'b', of .*x.csv; fill"),
        ("a,b\n" + GOOD_ROWS + "NA,7\n", "got one in line 22, column 'a'"),
        (GOOD_ROWS + "3,nan\n", "got one in line 21, column 2, of"),
        ("a,b\n" + GOOD_ROWS + "inf,7\n", "expected a number, got 'inf' in line 22, column 'a'"),
        ("a,b\n" + GOOD_ROWS + "1,2,3\n", "expected 2 fields, as in the header, got 3 in line 22"),
        (GOOD_ROWS + "1\n", "expected 2 fields, as in the first row, got 1 in line 21"),
        ("a,b\n" + GOOD_ROWS + "1,word\n", "expected a number, got 'word' in line 22, column 'b'"),
        ("a,b\n" + GOOD_ROWS + '"1,000",2\n', "got '1,000' in line 22, column 'a', of .*; write it without the"),
        ('"a\nb",c\n' + GOOD_ROWS + "1,word\n", "got 'word' in line 23, column 'c'"),
        ("town,b\n" + "Ulm,2\n" * 20, "got words in column 'town' of .*x.csv; name the column 'label' if it holds"),
        ("Ulm,2\n" * 20, "got words in column 1 of"),
        ("review,sentiment\n" + "a fine film,good\n" * 20, "got texts in column 'review' of .*; this makes a text file"),
        ("", "expected a table with rows of numbers, got none"),
        ("a,b\n", "expected a table with rows of numbers, got none"),
        ("a,b\n1,2\n3,4\n", "expected at least 6 items"),
        ("a,label\n" + "".join(f"{n},{n}\n" for n in range(5)), "expected at least 6 items"),
        ("label\n" + "1\n2\n" * 10, "expected columns of numbers beside the labels, got none"),
        ("a,b,split\n" + "1,2,north\n" * 20, "expected train, valid or test in column 'split', got 'north'"),
        ("a,b\n" + GOOD_ROWS + '"' + "1" * 200_000 + '",2\n', "which cannot be read: field larger than field limit|got '1111"),
        ("a,b\n1,\x002\n", "expected text, got a zero byte in line 2"),
    ],
)
def test_a_table_that_is_wrong_is_refused_by_line_and_column(content, message, tmp_path):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_data(tmp_path / "x.csv", binarisation="none")
    assert "\n" not in str(caught.value) and str(tmp_path / "x.csv") in str(caught.value)


def test_a_header_of_several_lines_is_left_out(tmp_path):
    (tmp_path / "x.csv").write_text('\n"a\nb",c\n' + GOOD_ROWS)
    (tmp_path / "y.csv").write_text("a,c\n" + GOOD_ROWS)
    one, other = (load_data(tmp_path / name, binarisation="none") for name in ("x.csv", "y.csv"))
    assert one.checksum == other.checksum


@pytest.mark.parametrize(
    ("first", "rows", "told"),
    [
        ("2001,2002", "0.5,1.5\n" * 10 + "2,2.5\n1.5,3\n", True),
        ("2001,2002", "0.5,1.5\n2,3\n" * 10, False),  # others are whole too
        ("2001,2002", "0.5,3\n" * 11, False),  # a column is whole throughout
        ("2001,0.5", "0.5,1.5\n" * 10, False),
        ("3,4", "5,6\n7,8\n" * 10, False),
        ("a,b", "0.5,1.5\n" * 10, False),
    ],
)
def test_a_first_row_that_may_be_names_is_told(first, rows, told, tmp_path):
    (tmp_path / "x.csv").write_text(f"{first}\n{rows}")
    assert ("The first row (2001, 2002) is read as an item" in load_data(tmp_path / "x.csv", binarisation="none").where) == told


PLAIN = "".join(f"{i % 2},{i},{i / 3}\n" for i in range(30))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("quotes.csv", "label, id, a, b\n" + re.sub(r"(?m)^(\d),(\d+),", r'\1, "x, y", "\2", ', PLAIN)),
        ("numpy.csv", "# made by hand\n# label,a,b\n" + PLAIN),
        ("numpy.dat", "# label a b\n" + PLAIN.replace(",", " ")),
        ("other.dat", "# label,a,b\n" + PLAIN.replace(",", "\t")),
        ("above.csv", '# it is "mine"\n\nlabel,a,b\n' + PLAIN),
        ("marked.csv", "#label,a,b\n" + PLAIN),
        ("blank.csv", "label,a,b\n" + PLAIN + "   \n"),
        ("ends.csv", "label,a,b\n" + PLAIN.replace("\n", ",\n")),
        ("all-ends.csv", ("label;a;b\n" + PLAIN.replace(",", ";")).replace("\n", ";\n")),
    ],
)
def test_dialects_of_tables_give_the_same(name, content, tmp_path):
    (tmp_path / "x.csv").write_text("label,a,b\n" + PLAIN)
    (tmp_path / name).write_text(content)
    one, other = (load_data(tmp_path / file, binarisation="none") for file in ("x.csv", name))
    assert one.checksum == other.checksum and one.columns == other.columns == ("a", "b")
    assert one.labels["train"].tolist() == other.labels["train"].tolist()


def test_quotes_behind_a_blank_are_none_of_a_class(tmp_path):
    (tmp_path / "x.csv").write_text("a, b, label\n" + '1.5, "2", "setosa"\n' * 10 + '0.5, 3, "a, b"\n' * 10)
    assert load_data(tmp_path / "x.csv", binarisation="none").class_names == ("a, b", "setosa")


def test_a_line_of_marks_that_names_nothing_is_no_row(tmp_path):
    (tmp_path / "x.csv").write_text("# 7,8,9\n" + PLAIN)
    data = load_data(tmp_path / "x.csv", binarisation="none")
    assert data.event_shape == (3,) and sum(data.describe()["sizes"].values()) == 30
    (tmp_path / "y.csv").write_text("#,a,b\n" + PLAIN)
    assert load_data(tmp_path / "y.csv", binarisation="none").columns == ("#", "a", "b")


@pytest.mark.parametrize(
    ("name", "header", "end"),
    [("x.csv", "a,b,c,d\n", "\n"), ("x.csv", "", "\n"), ("x.csv", "# note\n# a,b,c,d\n", "\n"), ("x.csv", "a,b,c,d\n", ",\n")],
)
def test_a_column_that_most_rows_lack_is_left_out_by_the_command_that_is_given(name, header, end, tmp_path):
    rows = [f"{i / 2},{i % 7},{'NA' if i % 9 else i},{'' if i == 5 else 1}" for i in range(40)]
    (tmp_path / name).write_text(header + "".join(row + end for row in rows))
    told = f"leave out column {repr('c') if header else 3}, which most rows lack, and rows that lack others"
    with pytest.raises(ValueError, match=told) as caught:
        load_data(tmp_path / name)
    run_advice(str(caught.value), tmp_path)
    whole = load_data(tmp_path / "x-whole.csv", binarisation="none")
    assert sum(whole.describe()["sizes"].values()) == 39 and whole.columns == (("a", "b", "d") if header else ())


def test_a_table_in_another_encoding_and_with_windows_line_ends(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + ("größe,b\r\n" + GOOD_ROWS.replace("\n", "\r\n")).encode())
    assert load_data(tmp_path / "x.csv", binarisation="none").event_shape == (2,)
    (tmp_path / "x.csv").write_bytes(("a,b\n" + GOOD_ROWS).replace("\n", "\r").encode())
    assert load_data(tmp_path / "x.csv", binarisation="none").event_shape == (2,)
    (tmp_path / "x.csv").write_bytes(("größe,b\n" + GOOD_ROWS).encode("latin-1"))
    with pytest.raises(ValueError, match="expected UTF-8, got other bytes .* in line 1 of .*x.csv; save it as UTF-8"):
        load_data(tmp_path / "x.csv")


# Folders of images


def test_sub_folders_are_classes_and_train_and_test_are_splits(tmp_path):
    images, _ = small_images()
    for split, part in (("train", images[:40]), ("test", images[40:])):
        write_folder(tmp_path / "x" / split, part, np.where(np.arange(len(part)) % 2, "cats", "dogs"))
    (tmp_path / "x" / "train" / "cats" / "notes.txt").write_text("no image")
    (tmp_path / "x" / ".hidden.png").write_bytes(b"")
    data = load_data(tmp_path / "x", binarisation="none")
    assert data.class_names == ("cats", "dogs") and data.describe()["sizes"] == {"train": 36, "valid": 4, "test": 20}
    # cats come first; of the 20 test images those of odd number are cats
    assert data.labels["test"].tolist() == [0] * 10 + [1] * 10
    assert (data.test * 255).round().byte().numpy().tolist() == np.concatenate([images[41::2], images[40::2]]).tolist()
    assert "2 classes from the sub-folders" in data.how_read and "1 other files were left out" in data.how_read
    write_folder(tmp_path / "x" / "train" / "cats" / "more" / "still", images[:3])
    with pytest.raises(ValueError, match="one for each class, got some deeper down, in .*cats/more; move them up, or away"):
        load_data(tmp_path / "x")


def test_colour_is_channels_first_and_one_colour_file_decides(tmp_path):
    colours = np.random.RandomState(0).randint(0, 256, (20, 5, 7, 3)).astype(np.uint8)
    for number, image in enumerate(colours):
        (tmp_path / "x").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "x" / f"{number:02}.png")
    Image.fromarray(colours[0, :, :, 0]).save(tmp_path / "x" / "99.png")
    data = load_data(tmp_path / "x", binarisation="none")
    assert data.event_shape == (3, 5, 7)
    images = (torch.cat([data.train, data.valid, data.test]) * 255).round().byte()
    found = {tuple(image.flatten().tolist()) for image in images}
    grey = np.stack([colours[0, :, :, 0]] * 3)
    assert found == {tuple(image.flatten().tolist()) for image in [*np.moveaxis(colours, -1, 1), grey]}


def test_what_is_transparent_lies_on_white_and_deep_grey_is_kept(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "deep").mkdir()
    for number in range(10):
        Image.new("RGBA", (4, 4), (200, 10, 30, 0)).save(tmp_path / "x" / f"{number}.png")
        Image.fromarray(np.full((4, 4), 1000 * number + 1, np.uint16)).save(tmp_path / "deep" / f"{number}.png")
    assert load_data(tmp_path / "x", binarisation="none").train.unique().tolist() == [1.0]
    deep = load_data(tmp_path / "deep", binarisation="none")
    values = torch.cat([deep.train, deep.valid, deep.test])[:, 0, 0].sort().values * 65535
    torch.testing.assert_close(values, torch.arange(10) * 1000.0 + 1, rtol=0, atol=0.01)


def test_images_of_different_sizes_are_refused_with_a_command_that_works(tmp_path):
    write_folder(tmp_path / "x", np.zeros((8, 6, 6), np.uint8), ["a", "b"] * 4)
    Image.new("L", (9, 4), 255).save(tmp_path / "x" / "a" / "odd.png")
    with pytest.raises(ValueError, match=r"of one size, got 6x6 \(8, such as .*\), 9x4 \(1, such as odd.png\)") as caught:
        load_data(tmp_path / "x")
    assert "\n" not in str(caught.value)
    run_advice(str(caught.value), tmp_path)
    data = load_data(tmp_path / "x-6x6", binarisation="none")
    assert data.event_shape == (6, 6) and data.class_names == ("a", "b") and sum(data.describe()["sizes"].values()) == 9


def test_images_are_resized_as_they_are_read(tmp_path):
    for folder in ("deep", "clear"):
        (tmp_path / folder).mkdir()
    for number in range(10):
        size = (8, 8) if number else (4, 4)
        Image.fromarray(np.full(size, 1000 * number + 1, np.uint16)).save(tmp_path / "deep" / f"{number}.png")
        Image.new("RGBA", size, (0, 0, 0, 0)).save(tmp_path / "clear" / f"{number}.png")
        Image.new("L", size, 128).save(tmp_path / "clear" / f"{number}.bmp")  # beside one of the same name
    image_folder.resize(tmp_path / "deep", tmp_path / "deep-8x8", (8, 8))
    image_folder.resize(tmp_path / "clear", tmp_path / "clear-8x8", (8, 8))
    deep = image_folder.read(tmp_path / "deep-8x8").arrays["train"]
    np.testing.assert_allclose(deep[:, 0, 0] * 65535, np.arange(10) * 1000.0 + 1, rtol=0, atol=0.01)
    clear = image_folder.read(tmp_path / "clear-8x8").arrays["train"]
    assert clear.shape == (20, 8, 8) and set(clear.ravel().tolist()) == {128, 255}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "expected an image, got .*0003.png, which cannot be read"),
        (lambda path: path.write_bytes(b"no image"), "expected an image, got .*0003.png, which cannot be read"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "expected a regular file, got a pipe: .*0003.png"),
        (lambda path: Image.new("1", (9000, 9000)).save(path), r"at most .* pixels, got 9000x9000|exceeds limit"),
    ],
)
def test_what_is_no_image_is_refused_by_name(spoil, message, tmp_path):
    write_folder(tmp_path / "x", small_images()[0][:10])
    spoil(tmp_path / "x" / "0003.png")
    with pytest.raises(ValueError, match=message) as caught:
        load_data(tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_too_many_pixels_in_all_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_skipvae.data.image_folder.LARGEST", 1000)
    monkeypatch.setattr("pyro_skipvae.data.image_folder.LARGEST_ITEM", 35)
    write_folder(tmp_path / "x", small_images()[0])
    with pytest.raises(ValueError, match="at most 1 GiB of them, got 60 of 6x6"):
        load_data(tmp_path / "x")


# What is no data


def run_advice(message, folder):
    """Run the command that a message gives, with this Python."""
    command = re.search(r"python -(?:c|m) .*", message)[0].split(" (needs")[0].split(" (it runs")[0]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (command, done.stderr)


def write_hdf5(path, x, y):
    with pytest.importorskip("h5py").File(path, "w") as file:
        file["x_train"], file["y_train"] = x, y
        file.create_group("about")


def write_idx(path, x, y):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(bytes([0, 0, 8, x.ndim]) + np.array(x.shape, ">u4").tobytes() + x.tobytes())


def write_excel(path, x, y):
    pytest.importorskip("openpyxl")
    frame = pytest.importorskip("pandas").DataFrame(x.reshape(len(x), -1), columns=pixel_names(x[0].size))
    frame.to_excel(path, index=False)


def write_arrow(path, x, y):
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    table = arrow.table(dict(zip(pixel_names(x[0].size), x.reshape(len(x), -1).T, strict=True)))
    make = arrow.ipc.new_stream if "stream" in path.name else arrow.ipc.new_file
    with make(str(path), table.schema) as writer:
        writer.write_table(table)


def write_pickle(path, x, y):
    import pickle

    path.write_bytes(pickle.dumps((x, y)))


def write_json(path, x, y):
    pytest.importorskip("pandas").DataFrame(x.reshape(len(x), -1), columns=pixel_names(x[0].size)).to_json(path)


def write_safetensors(path, x, y):
    from safetensors.numpy import save_file

    save_file({"train": x, "labels_train": y}, path)


def write_zip(path, x, y):
    write_folder(path.parent / "inside", x)
    with zipfile.ZipFile(path, "w") as archive:
        for file in (path.parent / "inside").iterdir():
            archive.write(file, file.name)


CONVERTED = {
    "x.h5": (write_hdf5, "x.npz"),
    "x.mat": (lambda path, x, y: scipy.io.savemat(path, {"images": x, "labels": y[:, None]}), "x.npz"),
    "x.pt": (lambda path, x, y: torch.save((torch.tensor(x), torch.tensor(y)), path), "x.npz"),
    "row.mat": (lambda path, x, y: scipy.io.savemat(path, {"images": x, "labels": y}), "row.npz"),
    "list.pt": (lambda path, x, y: torch.save([torch.tensor(each) for each in x], path), "list.npz"),
    "list.pkl": (lambda path, x, y: path.write_bytes(pickle.dumps(list(x))), "list.npz"),
    "dict.pth": (lambda path, x, y: torch.save({"train": torch.tensor(x)}, path), "dict.npz"),
    "x.pkl": (write_pickle, "x.npz"),
    "x.safetensors": (write_safetensors, "x.npz"),
    "x.xlsx": (write_excel, "x.csv"),
    "x.arrow": (write_arrow, "x.parquet"),
    "stream.arrow": (write_arrow, "stream.parquet"),
    "x.json": (write_json, "x.csv"),
    "x-idx3-ubyte": (write_idx, "x-idx3.npy"),
    "x.idx3-ubyte.gz": (write_idx, "x.idx3.npy"),
    "x.zip": (write_zip, "x"),
    "it's 1.npy.gz": (lambda path, x, y: np.save(gzip.open(path, "wb"), x), "it's 1.npy"),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_what_is_not_read_is_refused_with_a_command_that_converts_it(name, tmp_path):
    (write, result), (images, classes) = CONVERTED[name], small_images()
    write(tmp_path / name, images, classes)
    with pytest.raises(ValueError, match="; convert it: python") as caught:
        load_data(tmp_path / name)
    assert "\n" not in str(caught.value)
    run_advice(str(caught.value), tmp_path)
    np.savez(tmp_path / "reference.npz", train=images)
    expected = load_data(tmp_path / "reference.npz", binarisation="none")
    assert load_data(tmp_path / result, binarisation="none").test.equal(expected.test)


def test_the_other_commands_work_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, classes = small_images()
    np.savez("x.npz", pictures=images, kinds=classes)
    with pytest.raises(ValueError, match="keep what you want: python -c") as caught:
        load_data("x.npz")
    run_advice(str(caught.value).replace("NAME", "pictures"), tmp_path)
    assert load_data("own.npz", binarisation="none").event_shape == (SIDE, SIDE)
    Path("reviews.csv").write_text("review,sentiment\n" + "\n".join(f'"a fine, {n % 4} film",good' for n in range(20)))
    with pytest.raises(ValueError, match="this makes a text file") as caught:
        load_data("reviews.csv")
    run_advice(str(caught.value), tmp_path)
    assert load_data("reviews.txt").kind == "text"
    monkeypatch.setattr("pyro_skipvae.data.sparse.LARGEST", 100)
    scipy.io.mmwrite("x.mtx", scipy.sparse.csr_matrix(COUNTS))
    scipy.sparse.save_npz("y.npz", scipy.sparse.csr_matrix(COUNTS))
    for name in ("x.mtx", "y.npz"):
        with pytest.raises(ValueError, match=f"at most 100 numbers when it is dense, got 60 x 12 in {name}; keep") as caught:
            load_data(name)
        Path("own.npz").unlink()
        run_advice(str(caught.value), tmp_path)
        largest = COUNTS[:, [COUNTS.sum(0).argmax()]]
        assert scipy.sparse.load_npz("own.npz").toarray().tolist() == largest.tolist()
        assert load_data("own.npz", binarisation="none").event_shape == (1,)


def test_tensors_of_any_precision_that_learn_are_converted(tmp_path):
    torch.save({"train": torch.tensor([[1.5, 2.25], [0.0, -3.0]], dtype=torch.bfloat16, requires_grad=True)}, tmp_path / "x.pt")
    run_advice(f"; convert it: {conversions.command(tmp_path / 'x.pt')}", tmp_path)
    with np.load(tmp_path / "x.npz") as found:
        assert found["train"].tolist() == [[1.5, 2.25], [0.0, -3.0]]


def test_versions_of_a_format_have_commands_of_their_own(tmp_path):
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(200))
    (tmp_path / "lines.json").write_text('{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n')
    (tmp_path / "one.json").write_text('{"a": {"0": 1,\n"1": 2}}\n')
    said = {path.name: conversions.command(path) for path in tmp_path.iterdir()}
    assert ".T for k, v" in said["new.mat"] and "needs: pip install h5py" in said["new.mat"]
    assert "lines=True" in said["lines.json"] and "lines=False" in said["one.json"]


@pytest.mark.parametrize("word", ["valid", "val", "dev"])
def test_the_splits_beside_a_training_text_are_used(word, tmp_path):
    lines = [f"the {n % 7} cats of {n % 5} men\n" for n in range(30)]
    for part in ("train", word, "test"):
        (tmp_path / f"my.{part}.txt").write_text("".join(lines[: 10 if part == "train" else 4]))
    data = load_data(tmp_path / "my.train.txt")
    assert [len(data.train), len(data.valid), len(data.test)] == [10, 4, 4] and data.split.startswith("as in the files")


def test_new_images_are_read_as_the_model_takes_them(tmp_path):
    about = SimpleNamespace(event_shape=(3, 2, 2), kind="grey", levels=256, binarisation="none", vocabulary=None, columns=())
    grey = np.array([[[0, 1], [1, 0]], [[0, 0], [1, 1]]], np.uint8)
    np.save(tmp_path / "x.npy", grey)
    found = new_items(tmp_path / "x.npy", about).x
    assert found.shape == (2, 3, 2, 2)
    np.testing.assert_allclose(found[:, 1], grey / 255, rtol=1e-6)
    binary = SimpleNamespace(**vars(about) | {"event_shape": (2, 2), "binarisation": "dynamic"})
    assert new_items(tmp_path / "x.npy", binary).x.max() == 1


TABLES = {  # name -> what is written into it, of rows of cells
    "marks.csv": lambda rows: rows.replace("#", "?"),
    "semicolons.csv": lambda rows: rows.replace(",", ";").replace("#", "-"),
    "tabs.tsv": lambda rows: rows.replace(",", "\t").replace("#", "NA"),
    "blanks.dat": lambda rows: rows.replace(",", " ").replace("#", "."),
    "packed.csv.gz": lambda rows: rows.replace("#", "None"),
    "decimal.csv": lambda rows: re.sub(r"(\d),(\d|#)", r"\1,5;\2,0", rows).replace("a,b", "a;b").replace("#,0", "NA"),
    "marked.csv": lambda rows: "\ufeff" + rows.replace("#", ""),
}


@pytest.mark.parametrize("header", ["a,b\n", ""])
@pytest.mark.parametrize("name", TABLES)
def test_rows_with_missing_values_are_left_out_by_the_command_that_is_given_whatever_the_table(name, header, tmp_path):
    rows = TABLES[name](header + "".join(f"{i},{i % 7}\n" for i in range(30)) + "7,#\n" + "8,1\n")
    content = rows.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(ValueError, match="expected no missing values") as caught:
        load_data(tmp_path / name)
    run_advice(str(caught.value), tmp_path)
    whole = load_data(tmp_path / f"{name.partition('.')[0]}-whole.csv", binarisation="none")
    assert sum(whole.describe()["sizes"].values()) == 31 and whole.event_shape == (2,)


def test_rows_of_a_class_that_reads_like_a_mark_are_kept(tmp_path):
    rows = "".join(f"{i} {i % 7} \"{'none' if i % 2 else 'mild pain'}\"\n" for i in range(40))
    (tmp_path / "x.dat").write_text('a b "class"\n' + rows + '7 NA "none"\n')
    with pytest.raises(ValueError, match="expected no missing values") as caught:
        load_data(tmp_path / "x.dat")
    run_advice(str(caught.value), tmp_path)
    whole = load_data(tmp_path / "x-whole.csv", binarisation="none")
    assert sum(whole.describe()["sizes"].values()) == 40 and set(whole.class_names) == {"mild pain", "none"}


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("blanks.dat", "decimal.csv")])
def test_texts_are_taken_out_of_any_table_by_the_command_that_is_given(name, tmp_path):
    rows = "".join(f"a fine film {'abcd'[i % 4]},good{i % 2}\n" for i in range(30))
    content = TABLES[name]("review,stars\n" + rows).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(ValueError, match="this makes a text file") as caught:
        load_data(tmp_path / name)
    run_advice(str(caught.value), tmp_path)
    text = (tmp_path / f"{name.partition('.')[0]}.txt").read_text().splitlines()
    assert len(text) == 30 and text[0] == "a fine film a"


def test_missing_values_are_left_out_by_the_command_that_is_given(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n" + GOOD_ROWS + "7,\n")
    with pytest.raises(ValueError, match="missing") as caught:
        load_data(tmp_path / "x.csv")
    run_advice(str(caught.value), tmp_path)
    assert sum(load_data(tmp_path / "x-whole.csv", binarisation="none").describe()["sizes"].values()) == 20


@pytest.mark.parametrize("name", ["x.foo", "x.wav", "x", "x.png", "notes.pdf"])
def test_an_unknown_ending_is_refused_without_a_guess(name, tmp_path):
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(ValueError, match=f"expected a folder of images.*{name}") as caught:
        load_data(tmp_path / name)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["digits.csv", "./digit", "data/mnits", "mnist.npz", "C:\\digits", "~/digits"])
def test_a_path_that_is_absent_is_not_taken_for_the_name_of_a_data_set(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    looked = "; looked at .*" if name.startswith("~") else ""  # a path is not said twice
    with pytest.raises(DataError, match=f"was not found{looked}; give the path of an existing file or folder$"):
        load_data(name)
    assert is_path(name) and own_file.is_path(name) and Config(dataset=name).dataset == name


def test_config_and_reader_agree_on_what_is_a_path_and_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("photos", "a.csv", "b/c", "~x", "digit", "", "mnits"):
        assert is_path(name) == own_file.is_path(name)
    assert TEXT_FILES == own_file.TEXTS and not is_path("digits")
    with pytest.raises(ConfigError, match="did you mean digits"):
        Config(dataset="digit")


def test_a_folder_that_is_something_else_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text(GOOD_ROWS)
    with pytest.raises(ValueError, match=r"got the folder \. with 1 other files; give .*, such as mine.csv"):
        load_data(".")
    (tmp_path / "runs" / "a").mkdir(parents=True)
    for name in ("config.toml", "metrics.jsonl"):
        (tmp_path / "runs" / "a" / name).write_text("")
    with pytest.raises(ValueError, match="got runs/a, the folder of a run; use train --resume runs/a"):
        load_data("runs/a")


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.exists(), reason=f"no {REAL}; set SKIPVAE_DATA")
@pytest.mark.parametrize("above", [0, 1, 2, 3])
def test_the_folder_of_a_known_data_set_is_told_its_name(above):
    folder = [REAL, *REAL.parents][above]
    with pytest.raises(ValueError, match="a folder that holds mnist.*; use --dataset mnist --data-dir ") as caught:
        load_data(folder)
    root = shlex.split(str(caught.value).partition("--data-dir ")[2])[0]
    assert len(load_data("mnist", root=root, download="never").test) == 10_000


# Texts


def write_lines(path, records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def test_lines_of_json_are_texts_with_labels_and_files_beside_them(tmp_path):
    sentences = [f"the {'cat dog cow'.split()[n % 3]} sat here {'again' if n % 2 else ''}" for n in range(40)]
    write_lines(tmp_path / "x.jsonl", [{"text": text, "label": text.split()[1]} for text in sentences])
    write_lines(tmp_path / "x.test.jsonl", [{"text": text, "label": "cow"} for text in sentences[2::3]])
    (tmp_path / "x.txt").write_text("".join(f"{text}\n" for text in sentences))
    data, plain = load_data(tmp_path / "x.jsonl"), load_data(tmp_path / "x.txt")
    assert data.kind == "text" and data.vocabulary.words == plain.vocabulary.words
    assert data.class_names == ("cat", "cow", "dog") and data.labels["test"].tolist() == [1] * 13
    for split in ("train", "valid"):
        for row, label in zip(getattr(data, split), data.labels[split], strict=True):
            assert data.class_names[label] == data.vocabulary.decode(row).split()[1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"text": "a b"}\n{"text": 3}\n', "expected an object with the text in its field 'text', got .* in line 2"),
        ("x.jsonl", '{"review": "a", "stars": 3}\n', "got the fields 'review', 'stars' in line 1"),
        ("x.jsonl", "[1]\n", "got list in line 1"),
        ("x.jsonl", "no json\n", "expected an object of JSON in every line, got something else in line 1"),
        ("x.jsonl", "[" * 100_000 + "\n", "expected an object of JSON in every line, got something else in line 1"),
        ("x.jsonl", '{"text": 5, "label": "x"}\n', "the text in its field 'text', got 5 there in line 1"),
        ("x.jsonl", '{"text": null}\n', "the text in its field 'text', got null there in line 1"),
        ("x.jsonl", '{"words": "a"}\n', "the text in its field 'text', got the fields 'words' in line 1"),
        ("x.jsonl", '{"text": "\\ud800 b"}\n', "expected whole characters, got half of a surrogate pair in line 1"),
        ("x.txt", "a b\n" + "c" * 5000 + "\n", "words of at most 1,000 characters between blanks, got one of 5,000 in line 2"),
        ("x.txt", "1.5 2e3 -4\n" * 40, "expected words, got hardly anything but numbers in .*x.txt; rename a table to end in"),
        ("x.txt", "1.23, 4.56, 7.89\n" * 40, "expected words, got hardly anything but numbers"),
        ("x.txt", "width\theight\n" + "1.5\t2\n" * 40, "expected words, got hardly anything but numbers"),
        ("x.txt", "# a b c\n" + "1 2 3\n" * 40, "expected words, got hardly anything but numbers"),
        ("x.txt", "0,1\n" * 40, "expected words, got hardly anything but numbers"),
        ("x.txt", '"a" "b" "c" "d" "e"\n' + '"1" 5.1 3.5 1.4 0.2 "setosa"\n' * 40, "expected words, got hardly anything but"),
    ],
)
def test_a_text_that_is_wrong_is_refused_by_its_line(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_data(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_texts_full_of_numbers_are_texts(tmp_path):
    (tmp_path / "years.txt").write_text("in 1914, 1918, 1939 and 1945\n1066\n1789 to 1799, 1804\n12 May 1990\n" * 20)
    (tmp_path / "dates.txt").write_text("12 May 1990\n3 May 2001\n" * 20)
    assert all(load_data(tmp_path / name).kind == "text" for name in ("years.txt", "dates.txt"))


# Hostile files


def test_a_pipe_a_socket_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    os.mkfifo(tmp_path / "news.valid.txt")
    (tmp_path / "news.txt").write_text("a b\n" * 40)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket.csv"))
        for path, kind in (("pipe.npz", "pipe"), ("socket.csv", "socket"), ("/dev/zero", "device"), ("news.txt", "pipe")):
            with pytest.raises(ValueError, match=f"expected a regular file, got a {kind}: .*; copy its content"):
                load_data(tmp_path / path)


def test_a_bomb_is_refused_before_it_is_kept(tmp_path, monkeypatch):
    from pyro_skipvae.data import file_content

    for name, most in (("HARMLESS", 1000), ("LARGEST_ARCHIVE", 100_000)):
        monkeypatch.setattr(file_content, name, most)
    np.savez_compressed(tmp_path / "x.npz", train=np.zeros((1000, 1000)))
    scipy.sparse.save_npz(tmp_path / "y.npz", scipy.sparse.csr_matrix(np.ones((1000, 1000))))
    for name in ("x.npz", "y.npz"):
        with pytest.raises(ValueError, match=rf"{name}, .*: its .* KiB unpack to .* MiB.*, more than 100 times"):
            load_data(tmp_path / name)
    for name in ("x.csv.gz", "x.txt.gz", "x.mtx.gz", "x.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"0,0\n" * 10_000_000))
        with pytest.raises(ValueError, match=f"that unpacks to at most .*, got .*{name}, whose .* KiB unpack to more"):
            load_data(tmp_path / name)


def test_a_large_text_is_refused_by_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_skipvae.data.file_content.LARGEST", 1000)
    (tmp_path / "x.csv").write_text("1,2\n" * 1000)
    with pytest.raises(ValueError, match="expected at most 1000 bytes, got 3.9 KiB in .*x.csv; take a part of it"):
        load_data(tmp_path / "x.csv")


def header_of(shape, descr="<f8"):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize("shape", [(10**12, 64), (2**62, 2**62), (0, 4), (-3, 4), (5, 10**30)])
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_header_that_lies_is_refused(shape, name, tmp_path):
    if name == "x.npy":
        (tmp_path / name).write_bytes(header_of(shape) + b"\0" * 64)
    else:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("train.npy", header_of(shape) + b"\0" * 64)
    with pytest.raises(ValueError, match=name) as caught:
        load_data(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    np.save(tmp_path / "x.npy", np.array([Trap()] * 9, dtype=object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", train=np.array([Trap()] * 9, dtype=object))
    np.savez(tmp_path / "y.npz", train=np.zeros((9, 2)), labels=np.array([Trap()] * 9, dtype=object))
    for name in ("x.npy", "x.npz", "y.npz"):
        with pytest.raises(ValueError, match=f"{name}, which cannot be read: .*[Oo]bject arrays"):
            load_data(tmp_path / name)
    assert not (tmp_path / "trapped").exists()


def test_a_value_that_is_not_finite_is_named_by_its_place(tmp_path):
    values = np.random.RandomState(0).normal(size=(30, 2, 3))
    values[7, 1, 2], values[9, 0, 0] = np.nan, np.inf
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(ValueError, match=r"got nan at \[7, 1, 2\] \(and 1 more\) in .*x.npy; rows are counted from 0"):
        load_data(tmp_path / "x.npy")


def test_a_sparse_matrix_whose_indices_lie_is_refused(tmp_path):
    matrix = scipy.sparse.csr_matrix(COUNTS)
    matrix.indices[3] = 10**6
    np.savez(
        tmp_path / "x.npz", format=b"csr", shape=matrix.shape, data=matrix.data, indices=matrix.indices, indptr=matrix.indptr
    )
    with pytest.raises(ValueError, match="expected a sparse matrix, got .*x.npz, which cannot be read"):
        load_data(tmp_path / "x.npz")


MATRICES = {
    "more entries than lines": "coordinate integer general\n20 4 1000000000000000\n1 1 5\n",
    "negative": "coordinate integer general\n20 4 -1\n1 1 5\n",
    "outside": "coordinate integer general\n20 4 1\n21 1 5\n",
    "at 0": "coordinate integer general\n20 4 1\n0 1 5\n",
    "more lines than entries": "coordinate integer general\n20 4 1\n1 1 5\n2 1 5\n",
    "no value": "coordinate integer general\n20 4 1\n1 1\n",
    "complex": "coordinate complex general\n20 4 1\n1 1 5 5\n",
    "no sizes": "coordinate real general\n",
    "words": "coordinate real general\nmany rows\n",
    "cut off": "coordinate real general\n20 4 2\n1 1 5\n2",
    "array too short": "array real general\n20 4\n1\n2\n",
    "other": "vector real general\n20\n1\n",
}


def test_a_symmetric_matrix_of_ones_is_read_whole(tmp_path):
    matrix = scipy.sparse.coo_matrix(np.tril(COUNTS[:12] > 0))
    (tmp_path / "x.mtx").write_text(
        "%%MatrixMarket matrix coordinate pattern symmetric\n% a comment\n12 12 "
        + f"{matrix.nnz}\n"
        + "".join(f"{row + 1} {column + 1}\n" for row, column in zip(matrix.row, matrix.col, strict=True))
    )
    data = load_data(tmp_path / "x.mtx", binarisation="none")
    expected = matrix.toarray() | matrix.toarray().T
    assert data.kind == "binary" and sum(part.sum() for part in (data.train, data.valid, data.test)) == expected.sum()


@pytest.mark.parametrize("damage", MATRICES)
def test_a_matrix_market_file_that_lies_is_refused(damage, tmp_path):
    (tmp_path / "x.mtx").write_text(f"%%MatrixMarket matrix {MATRICES[damage]}")
    with pytest.raises(ValueError, match="expected a Matrix Market file of real numbers, got .*x.mtx, which cannot") as caught:
        load_data(tmp_path / "x.mtx")
    assert "usecols" not in str(caught.value)


def test_content_and_ending_that_disagree_are_told(tmp_path):
    np.savez(tmp_path / "x.csv.npz", train=COUNTS)
    (tmp_path / "x.csv.npz").rename(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="expected a .csv file, got .*x.csv, whose content is that of a .zip file; rename it"):
        load_data(tmp_path / "x.csv")
    np.save(tmp_path / "y.npy", COUNTS)
    (tmp_path / "y.npy").rename(tmp_path / "array")  # no ending: the content says what it is
    assert load_data(tmp_path / "array", binarisation="none").kind == "count"


@pytest.mark.parametrize("name", [*FORMATS, *COUNT_FILES])
def test_no_damage_gives_anything_but_one_sentence(name, tmp_path):
    """Bits flipped, ends cut off, bytes put in and taken out: read, or refused in one line that names the file."""
    images, classes = small_images()
    FORMATS[name][0](tmp_path / name, images, classes) if name in FORMATS else COUNT_FILES[name](tmp_path / name)
    files = sorted((tmp_path / name).glob("*")) if (tmp_path / name).is_dir() else [tmp_path / name]
    random, refused = np.random.RandomState(0), 0
    for _ in range(25):
        file = files[random.randint(len(files))]
        good = file.read_bytes()
        at, odd = (
            random.randint(len(good)),
            [b"\0", b"-", b"nan", b",", b"\n", b'"', b"\r", b"1e999", b"9" * 30][random.randint(9)],
        )
        damages = (good[:at], good[:at] + odd + good[at + 1 :], good[:at] + good[at + 9 :], flipped(good, at))
        file.write_bytes(damages[random.randint(4)])
        try:
            load_data(tmp_path / name, binarisation="none")
        except ValueError as error:
            refused += 1
            assert type(error) is ValueError and "\n" not in str(error) and str(tmp_path / name) in str(error)
        file.write_bytes(good)
    assert refused


def flipped(content, position):
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def image_file(folder):
    images, _ = small_images()
    np.savez(folder / "images.npz", x_train=images, y_train=np.repeat([0, 1], ITEMS // 2))
    return folder / "images.npz"


def test_items_that_lie_class_by_class_are_not_judged_by_their_first(tmp_path):
    x = np.random.RandomState(0).rand(50, 3)
    sorted_labels = {"y_train": np.repeat([0, 1, 2], 10), "y_test": np.repeat([0, 1], 10)}
    np.savez(tmp_path / "x.npz", x_train=x[:30], x_test=x[30:], **sorted_labels)
    data = load_data(tmp_path / "x.npz")
    assert set(data.by_class) == {"train", "test"}  # valid is cut off in a random order
    chosen = (data.test[None] == data.first("test", 10)[:, None]).all(-1).int().argmax(1)
    assert set(data.labels["test"][chosen].tolist()) == {0, 1}
    drawn = load_data(image_file(tmp_path), binarisation="dynamic")
    assert drawn.by_class and isinstance(drawn.first("train", 5), torch.Tensor)  # of a view that draws, too
    mixed = {name: np.random.RandomState(1).permutation(row) for name, row in sorted_labels.items()}
    np.savez(tmp_path / "mixed.npz", x_train=x[:30], x_test=x[30:], **mixed)
    assert not load_data(tmp_path / "mixed.npz").by_class


def test_a_class_that_is_named_as_a_split_is_refused(tmp_path):
    images, _ = small_images()
    for name in ("bus", "train"):
        write_folder(tmp_path / "classes" / name, images)
    with pytest.raises(ValueError, match="got train and bus; rename the folder train if it is a class, else move bus away"):
        load_data(tmp_path / "classes")
    for name in ("train", "val", "validation"):
        write_folder(tmp_path / "splits" / name, images)
    with pytest.raises(ValueError, match="one folder for each split in .*, got train, val, validation; move one of them away"):
        load_data(tmp_path / "splits")
    (tmp_path / "classes" / "train").rename(tmp_path / "classes" / "trains")
    assert load_data(tmp_path / "classes").class_names == ("bus", "trains")


def test_what_pandas_adds_to_parquet_is_left_out_and_a_split_of_numbers_refused(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"a": np.arange(40.0), "b": np.arange(40.0) ** 2, "__index_level_0__": np.arange(40)}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    assert load_data(tmp_path / "x.parquet", binarisation="none").event_shape == (2,)
    parquet.write_table(pyarrow.table({**columns, "split": np.arange(40) % 3}), tmp_path / "split.parquet")
    with pytest.raises(ValueError, match="expected train, valid or test in column 'split', got '0'"):
        load_data(tmp_path / "split.parquet")
    lacking = {"id": [None, *range(39)], "when": [None] * 40, **columns, "c": [1.0, *[None] * 39]}
    parquet.write_table(pyarrow.table({name: lacking[name] for name in ("id", "a", "b")}), tmp_path / "id.parquet")
    assert load_data(tmp_path / "id.parquet", binarisation="none").event_shape == (2,)
    parquet.write_table(pyarrow.table({name: lacking[name] for name in ("id", "a", "b", "c")}), tmp_path / "lacking.parquet")
    with pytest.raises(ValueError, match="leave out column 'c', which most rows lack, and rows that lack others: .*'id', 'c'"):
        load_data(tmp_path / "lacking.parquet")
    parquet.write_table(pyarrow.table({"a": np.zeros(0)}), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="expected a table with rows of numbers, got none"):
        load_data(tmp_path / "none.parquet")


def test_names_between_blanks_are_read_without_their_quotes(tmp_path):
    lines = ['"a" "b" "label"', *(f'"row {i}" {i / 2} {i} {i % 2}' for i in range(1, 41))]
    (tmp_path / "r.txt.dat").write_text("\n".join(lines))
    data = load_data(tmp_path / "r.txt.dat", binarisation="none")
    assert data.event_shape == (2,) and set(data.labels["train"].tolist()) == {0, 1}


def test_pixels_lie_where_their_names_say(tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (40, 4, 6)).astype(np.uint8)
    names = np.array([f"{row}x{column}" for row in range(1, 5) for column in range(1, 7)])
    order = np.random.RandomState(1).permutation(24)
    write_table(tmp_path / "x.csv", images.reshape(40, 24)[:, order].tolist(), header=names[order].tolist())
    data = load_data(tmp_path / "x.csv", binarisation="none")
    assert data.event_shape == (4, 6)
    train = torch.cat([data.train, data.valid, data.test])
    expected = torch.from_numpy(images).float() / 255
    assert (train.flatten(1).sum(1).sort().values - expected.flatten(1).sum(1).sort().values).abs().max() < 1e-3
    assert (data.train[0][None] - expected).abs().amax((1, 2)).min() < 1e-6
    square = np.random.RandomState(0).randint(0, 256, (40, 16))
    ordered = sorted(pixel_names(16))  # pixel0, pixel1, pixel10, ...
    write_table(tmp_path / "y.csv", square[:, [int(name[5:]) for name in ordered]].tolist(), header=ordered)
    found = load_data(tmp_path / "y.csv", binarisation="none").train[0].flatten()
    assert (found[None] - torch.from_numpy(square).float() / 255).abs().amax(1).min() < 1e-6


def test_a_picture_that_was_turned_by_the_camera_stands_upright(tmp_path):
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it a quarter clockwise
    for number in range(20):
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg", exif=exif, quality=100)
    data = load_data(tmp_path, binarisation="none")
    assert data.event_shape == (8, 4) and data.train[0, :4].mean() > 0.9 and data.train[0, 4:].mean() < 0.1


def test_axes_that_may_be_channels_and_missing_classes_are_told(tmp_path):
    np.save(tmp_path / "bands.npy", np.random.RandomState(0).rand(30, 12, 12, 5))
    assert "the first axis of an item, 12, was read as the channels" in load_data(tmp_path / "bands.npy").how_read
    write_table(tmp_path / "x.csv", [[i, i + 1, "" if i == 7 else i % 2] for i in range(40)], header=["a", "b", "label"])
    with pytest.raises(ValueError, match="expected no missing values, got one in row 8, column 'label'"):
        load_data(tmp_path / "x.csv")


def test_labels_of_pandas_and_endings_in_capitals(tmp_path):
    write_lines(tmp_path / "x.jsonl", [{"text": f"word {'ab'[i % 2]}", "label": float(i % 2)} for i in range(40)])
    assert set(load_data(tmp_path / "x.jsonl").labels["train"].tolist()) == {0, 1}
    write_lines(tmp_path / "y.jsonl", [{"text": "a word", "label": 10**20}] * 40)
    with pytest.raises(ValueError, match="expected classes below .* got 100000000000000000000 in line 1"):
        load_data(tmp_path / "y.jsonl")
    (tmp_path / "NEWS.TXT").write_text("a b c\n" * 30)
    (tmp_path / "NEWS.valid.txt").write_text("a b\n" * 5)
    assert len(load_data(tmp_path / "NEWS.TXT").valid) == 5
    with gzip.open(tmp_path / "T.CSV.GZ", "wt") as file:
        file.write("a,b\n" + "".join(f"{i},{i / 3}\n" for i in range(40)))
    assert load_data(tmp_path / "T.CSV.GZ", binarisation="none").event_shape == (2,)


def test_a_target_of_real_numbers_is_a_value_and_stays_one_in_new_items(tmp_path):
    rows = [[i - 5, i / 3, i / 7] for i in range(30)]
    write_table(tmp_path / "x.csv", rows, header=["a", "y", "b"])
    trained = load_data(tmp_path / "x.csv", binarisation="none")
    assert "column 'y' is a value like the others" in trained.how_read and trained.event_shape == (3,)
    write_table(tmp_path / "new.csv", [[1, 2, 0.5], [2, 4, 1.5]], header=["a", "y", "b"])
    found = new_items(tmp_path / "new.csv", trained)
    assert found.x.tolist() == [[1, 2, 0.5], [2, 4, 1.5]] and found.labels is None


def test_genes_are_taken_by_their_names(tmp_path, monkeypatch):
    def read_h5ad(path):
        genes = path.stem.split("-")
        return SimpleNamespace(layers={}, X=np.tile(np.arange(len(genes)) + 1.5, (9, 1)), obs={}, var_names=genes)

    monkeypatch.setattr("pyro_skipvae.data.annotated.find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "anndata", SimpleNamespace(read_h5ad=read_h5ad))
    for name in ("CD4-ACTB", "ACTB-more-CD4", "ACTB-MT1", "ACTB-CD4-CD4"):
        (tmp_path / f"{name}.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n")
    trained = load_data(tmp_path / "CD4-ACTB.h5ad", binarisation="none")
    assert trained.columns == ("CD4", "ACTB")
    assert new_items(tmp_path / "ACTB-more-CD4.h5ad", trained).x[0].tolist() == [3.5, 1.5]
    with pytest.raises(ValueError, match="the columns that the model was trained on, got none named 'CD4' in"):
        new_items(tmp_path / "ACTB-MT1.h5ad", trained)
    with pytest.raises(ValueError, match="expected columns that can be told apart by name, got several named 'CD4' in"):
        new_items(tmp_path / "ACTB-CD4-CD4.h5ad", trained)
