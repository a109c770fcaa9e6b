"""A run without its data: what needs none works, what needs some takes them from where they are now, or says what to give."""

import json
import shutil

import numpy as np
import pytest
import torch
from command_line import skipvae

from pyro_skipvae import load_run
from pyro_skipvae.data.folder import DataError
from pyro_skipvae.runs.folder import RunError

TINY = ("--epochs", "1", "--width", "8", "--layers", "1", "--latent-dim", "2", "--batch-size", "50", "--report-budget", "2")
RANDOM = np.random.default_rng(0)
VALUES = {
    "images": (RANDOM.random((100, 8, 8)) ** 3).astype("f4"),
    "real": RANDOM.normal(5000, 100, (100, 5)).astype("f4"),
    "count": RANDOM.poisson([1, 10, 300], (100, 3)),
    "binary": RANDOM.integers(0, 2, (100, 6)),
}
TEXT = "the cat sat\nthe dog ran\na cat ran home\nthe dog sat home\n" * 15


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a trained run of each kind of values; their data are in `moved`, not where they were."""
    folder = tmp_path_factory.mktemp("moved")
    for name, values in VALUES.items():
        np.savez(folder / f"{name}.npz", train=values, labels_train=np.arange(100) % 3)
    (folder / "text.txt").write_text(TEXT)
    small = ("--embedding", "8", "--dropout", "0")
    for name in (*VALUES, "text"):
        file, flags = ("text.txt", small) if name == "text" else (f"{name}.npz", ("--decoder", "mlp"))
        done = skipvae("train", "--dataset", file, *TINY, *flags, "--out", name, cwd=folder)
        assert done.returncode == 0, done.stderr
    (folder / "moved").mkdir()
    for file in (*folder.glob("*.npz"), folder / "text.txt"):
        file.rename(folder / "moved" / file.name)
    return folder


@pytest.fixture
def folder(runs, tmp_path):
    return shutil.copytree(runs, tmp_path / "runs")


def ran(folder, *words):
    done = skipvae(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("name", ["images", "real", "count", "binary", "text"])
def test_a_run_is_loaded_sampled_and_exported_without_its_data(folder, name):
    run = load_run(folder / name)
    assert not run.vae.training and run.config.dataset.endswith((".npz", ".txt")) and run.about.kind in (name, "grey")
    assert run[0] is run.vae and run[2] is run.config and run[-1] is run.config and len(run) == 3
    with pytest.raises(DataError, match="moved|not found|expected"):
        run.data  # noqa: B018
    with pytest.raises(DataError):
        _, _, _ = run
    out, _ = ran(folder, "sample", name)
    if name != "text":
        assert (folder / out).exists()
    ran(folder, "export", name, f"exported-{name}")


def test_the_data_are_read_when_they_are_asked_for_and_from_where_they_are(folder):
    run = load_run(folder / "real", dataset=folder / "moved/real.npz")
    vae, data, config = run
    assert data is run.data and data.train.shape == (80, 5) and run[:2] == (vae, data) and config.dataset != "moved/real.npz"
    with pytest.raises(RunError, match="the data that .*real was trained on .checksum [0-9a-f]{12}., got other contents"):
        _ = load_run(folder / "real", dataset=folder / "moved/binary.npz").data


@pytest.mark.parametrize(
    ("name", "dtype", "low", "high"), [("real", "f", 4000, 6000), ("count", "f", 0, 500), ("binary", "f", 0, 1)]
)
def test_numbers_are_sampled_into_files(folder, name, dtype, low, high):
    ran(folder, "sample", name, "--count", "20")
    with np.load(folder / name / "samples.npz") as file:
        x, z, mean = file["x"], file["z"], file["mean"]
    assert x.shape == mean.shape == (20, VALUES[name].shape[1]) and z.shape == (20, 2) and x.dtype.kind == dtype
    assert low <= x.min() and x.max() <= high
    ran(folder, "sample", name, "--count", "20", "--out", "x.csv")
    header, *lines = (folder / "x.csv").read_text().splitlines()
    assert header == ",".join(f"x{i}" for i in range(1, x.shape[1] + 1)) and len(lines) == 20
    np.testing.assert_allclose(np.loadtxt(lines, delimiter=","), x, rtol=1e-6)
    assert ("." in lines[0]) == (name == "real")
    ran(folder, "sample", name, "--count", "20", "--mean", "--out", "mean.npz")
    assert np.load(folder / "mean.npz")["x"].tolist() == mean.tolist()
    done = skipvae("sample", name, "--out", "x.png", cwd=folder)
    assert done.returncode == 2 and "expected the name of a .csv or .npz file for items of shape" in done.stderr


def test_images_are_sampled_as_means_and_draws_or_means_alone_or_numbers(folder):
    sizes = {}
    for out, flags in (("both.png", ()), ("mean.png", ("--mean",)), ("x.npz", ()), ("three.png", ("--count", "3"))):
        ran(folder, "sample", "images", *flags, "--out", out)
        sizes[out] = (folder / out).stat().st_size
    assert len(set(sizes.values())) == 4 and np.load(folder / "x.npz")["x"].shape == (64, 8, 8)
    done = skipvae("sample", "text", "--mean", cwd=folder)
    assert done.returncode == 2 and "use --decoding greedy" in done.stderr
    ran(folder, "sample", "text", "--decoding", "greedy")


def test_what_needs_items_says_how_to_name_them_and_takes_them(folder):
    moved = ("--dataset", "moved/images.npz")
    for words in (("encode", "images", "--out", "z.npz"), ("reconstruct", "images"), ("interpolate", "images"),
                  ("traverse", "images", "--item", "1"), ("evaluate", "images"), ("check-gradients", "images")):  # fmt: skip
        done = skipvae(*words, cwd=folder)
        assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
        assert "if they were moved, name them with --dataset FILE" in done.stderr
        ran(folder, *words, *moved)
    with np.load(folder / "z.npz") as codes:
        assert codes["train_loc"].shape == (80, 2) and codes["test_labels"].shape == (10,)


def test_a_traversal_starts_from_the_prior_where_there_are_no_data(folder):
    for name in ("images", "text"):
        out, stderr = ran(folder, "traverse", name)
        assert "Starting from a draw of the prior" in stderr
    assert (folder / "images/traversals.png").exists() and out.startswith("z ")


def test_a_text_of_ones_own_needs_no_data(folder):
    ran(folder, "reconstruct", "text", "--text", "the cat ran")
    ran(folder, "interpolate", "text", "--from", "the cat ran", "--to", "a dog sat")


def test_a_training_goes_on_with_data_that_were_moved(folder):
    done = skipvae("train", "--resume", "real", "--epochs", "2", cwd=folder)
    assert done.returncode == 3, done.stderr
    done = skipvae("train", "--resume", "real", "--epochs", "2", "--dataset", "moved/count.npz", cwd=folder)
    first = json.loads((folder / "real/data.json").read_text())["checksum"][:12]
    assert done.returncode == 4 and f"(checksum {first}), got other contents of count.npz (checksum " in done.stderr
    done = skipvae("train", "--resume", "real", "--epochs", "2", "--dataset", "moved/real.npz", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert load_run(folder / "real").data.train.shape == (80, 5)  # the place is kept
    report, _ = ran(folder, "evaluate", "real", "--json")
    assert json.loads(report)["card"]["data"]["name"] == "real.npz"


def test_a_run_of_before_takes_what_it_needs_from_its_report(folder):
    for name in ("real", "text"):
        (folder / name / "data.json").unlink()
        ran(folder, "sample", name)
    (folder / "real/report.json").unlink()
    assert skipvae("sample", "real", cwd=folder).returncode == 3  # nothing says what the data were
    assert load_run(folder / "real", dataset=folder / "moved/real.npz").about.kind == "real"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"event_shape": [5]}', "\xff", '{"event_shape": [], "kind": "real"}', "[" * 100_000],
)
def test_a_description_that_is_none_is_told(folder, content):
    (folder / "real/data.json").write_bytes(content.encode("latin-1"))
    done = skipvae("sample", "real", cwd=folder)
    assert done.returncode == 4 and "data.json, which cannot be read" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("change", [{"event_shape": [6]}, {"event_shape": [2**20, 2**20]}, {"kind": "odd"}, {"levels": 1}])
def test_a_description_of_another_model_is_told(folder, change):
    file = folder / "real/data.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    done = skipvae("sample", "real", cwd=folder)
    assert done.returncode == 4 and done.stderr.count("\n") == 1


def test_new_items_are_encoded_without_the_data_of_the_run(folder):
    x = VALUES["real"][:7]
    np.savez(folder / "new.npz", x=x, y=np.arange(7))
    np.savetxt(folder / "new.csv", x, delimiter=",", header="a,b,c,d,e", comments="")
    np.save(folder / "one.npy", x[:1].astype("f8"))
    vae = load_run(folder / "real").vae
    with torch.no_grad():
        q = vae.encoder(torch.from_numpy(x))
    for file, count in (("new.npz", 7), ("new.csv", 7), ("one.npy", 1)):
        ran(folder, "encode", "real", "--data", file, "--out", "z.npz")
        with np.load(folder / "z.npz") as codes:
            assert sorted(codes) == ["data_labels", "data_loc", "data_scale"][file != "new.npz" :]
            np.testing.assert_allclose(codes["data_loc"], q.mean[:count], atol=1e-5)
            np.testing.assert_allclose(codes["data_scale"], q.stddev[:count], rtol=1e-4)


def test_new_texts_are_encoded_line_by_line(folder):
    (folder / "new.txt").write_text("the cat ran\n\na dog flew\n")
    _, told = ran(folder, "encode", "text", "--data", "new.txt", "--out", "z.npz")
    found = np.load(folder / "z.npz")
    assert found["data_loc"].shape == (2, 2) and found["data_lines"].tolist() == [1, 3] and "data_labels" not in found
    assert "1 words of new.txt are not in the vocabulary, and read as <unk>" in told
    (folder / "new.jsonl").write_text('{"text": "the cat", "label": "b"}\n\n{"text": "a dog", "label": "a"}\n')
    _, told = ran(folder, "encode", "text", "--data", "new.jsonl", "--out", "z.npz")
    assert np.load(folder / "z.npz")["data_labels"].tolist() == ["b", "a"] and "not in the vocabulary" not in told
    done = skipvae("encode", "text", "--data", "new.jsonl", "--dataset", "nothing.txt", "--out", "z.npz", cwd=folder)
    assert done.returncode == 2 and "expected --data or --dataset, got both" in done.stderr


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("real", np.zeros((4, 6)), "expected items of shape (5,), as the model was trained on, got (6,) in "),
        ("real", np.full((4, 5), np.nan), "expected finite numbers"),
        ("count", np.full((4, 3), 0.5), "expected counts, as the model was trained on, got values from 0.5 to 0.5"),
        ("binary", np.full((4, 6), 2), "expected 0 and 1, as the model was trained on, got values from 2 to 2"),
        ("images", np.full((4, 8, 8), 2.0), "expected grey levels in [0, 1] or uint8"),
        ("text", np.zeros((4, 5)), "expected a .txt or .jsonl file of texts, got "),
    ],
)
def test_new_items_of_another_kind_are_refused(folder, name, array, said):
    np.save(folder / "new.npy", array)
    done = skipvae("encode", name, "--data", "new.npy", "--out", "z.npz", cwd=folder)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert skipvae("encode", name, "--data", "nowhere.npy", "--out", "z.npz", cwd=folder).returncode == 3


def test_columns_are_taken_by_their_names(tmp_path):
    values = 5 * np.random.RandomState(0).rand(60, 3) - 2
    np.savetxt(tmp_path / "x.csv", values, delimiter=",", header="a,b,c", comments="")
    ran(tmp_path, "train", "--dataset", "x.csv", *TINY, "--decoder", "mlp", "--width", "8", "--out", "run")
    other = np.column_stack([values[:, 2], np.ones(60), values[:, 0], values[:, 1]])
    np.savetxt(tmp_path / "y.csv", other, delimiter=",", header="c,more,a,b", comments="")
    for file in ("x", "y"):
        ran(tmp_path, "encode", "run", "--data", f"{file}.csv", "--out", f"{file}.npz")
    one, two = (np.load(tmp_path / f"{file}.npz")["data_loc"] for file in ("x", "y"))
    np.testing.assert_array_equal(one, two)
    ran(tmp_path, "sample", "run", "--out", "drawn.csv")
    assert (tmp_path / "drawn.csv").read_text().startswith("a,b,c\n")
    ran(tmp_path, "encode", "run", "--data", "drawn.csv", "--out", "drawn.npz")
    np.savetxt(tmp_path / "z.csv", values, delimiter=",", header="a,b,d", comments="")
    done = skipvae("encode", "run", "--data", "z.csv", "--out", "z.npz", cwd=tmp_path)
    assert done.returncode == 2 and "expected the columns that the model was trained on, got none named 'c' in" in done.stderr
