"""A run on ratings: multinomial p(x|z), draws with the totals of the data, and what the report says of the ranking."""

import json

import numpy as np
from command_line import skipvae
from small_runs import TINY


def test_ratings_are_trained_on_ranked_and_drawn(tmp_path):
    flags = ("--dataset", "synthetic-ratings", "--likelihood", "multinomial", "--width", "16", "--out", "run")
    done = skipvae("train", *TINY, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ranking of items held out" in done.stdout and "recall@20" in done.stdout
    found = json.loads((tmp_path / "run" / "report.json").read_text())["card"]["ranking"]
    assert set(found) == {"recall@20", "recall@50", "ndcg@100", "users"} and 0 < found["recall@50"]["value"] < 1
    assert skipvae("sample", "run", "--out", "drawn.npz", "--count", "20", cwd=tmp_path).returncode == 0
    totals = np.load(tmp_path / "drawn.npz")["x"].sum(1)
    assert ((totals >= 5) & (totals <= 60)).all()


def test_images_have_no_multinomial(tmp_path):
    done = skipvae("train", "--dataset", "digits", "--likelihood", "multinomial", cwd=tmp_path)
    assert done.returncode == 2
    assert "expected vectors of counts for --likelihood multinomial" in done.stderr and "--likelihood bernoulli" in done.stderr
