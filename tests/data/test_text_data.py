"""Text data: the rule from sentences to rows, the batches, known answers on real texts, and every way a file can be wrong."""

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro.distributions import Normal

from pyro_skipvae import VAE
from pyro_skipvae.data import DATASETS, DataError, corpora, load_data, locate, pydoc_topics, synthetic
from pyro_skipvae.data import folder as folders
from pyro_skipvae.data.contents import SPLITS
from pyro_skipvae.data.dataset import from_contents
from pyro_skipvae.data.text import Texts, encoded, padded
from pyro_skipvae.diagnostics import log_likelihood
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.runs.build import build_data
from pyro_skipvae.runs.config import Config, ConfigError
from pyro_skipvae.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

REAL = Path(os.environ.get("SKIPVAE_DATA") or Path(__file__).parents[3] / "shared" / "data").resolve()
CORPORA = ("ptb", "yahoo-small", "lm1b", "short-yelp", "brown")


def real(name):
    """A parameter that skips, with the reason, where the files of a real text are absent."""
    absent = pytest.mark.skipif(locate(name, REAL)[0] is None, reason=f"no {name} in {REAL}; set SKIPVAE_DATA")
    return pytest.param(name, marks=[pytest.mark.real_data, absent])


@pytest.fixture(autouse=True)
def no_other_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("SKIPVAE_DATA", raising=False)
    monkeypatch.setattr(folders, "CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def loaded():
    """load_data on the real folder, each text once."""
    known = {}

    def load(name):
        if name not in known:
            known[name] = load_data(name, root=REAL, download="never")
        return known[name]

    return load


def sentences(count=40, seed=0):
    random = np.random.RandomState(seed)
    return [[f"w{number}" for number in random.randint(0, 30, random.randint(1, 12))] for _ in range(count)]


def small(count=40, **sizes):
    """The data of a small text."""
    texts = Texts("small", sentences(count), sentences(10, 1), sentences(10, 2), "made")
    return from_contents(encoded(texts, **sizes), "given", 0)


def padding(batches):
    counts = [((x == PAD).sum().item(), x.numel()) for x in batches]
    return sum(pad for pad, _ in counts) / sum(count for _, count in counts)


# Every text


@pytest.mark.parametrize("name", ["pydoc", "synthetic-text", *map(real, CORPORA)])
def test_every_text_keeps_the_contract(name, loaded):
    info, data = DATASETS[name], loaded(name)
    assert (data.name, data.kind, data.binarisation, data.levels) == (name, "text", "given", None)
    assert data.event_shape == info.event_shape == (201,)
    sizes = (len(data.train), len(data.valid), len(data.test))
    assert sizes == info.sizes or name == "pydoc" and np.allclose(sizes, info.sizes, rtol=0.2)  # differs between versions
    for x in (data.train, data.valid, data.test):
        assert x.dtype == torch.int64 and x.shape[1:] == data.event_shape
        longest = x.any(0).sum()
        assert not x[:, longest:].any()
        x = x[:, :longest]
        assert x.max() < len(data.vocabulary) and not (x == BOS).any() and ((x == EOS).sum(1) == 1).all()
        assert (x != PAD).equal(torch.arange(longest) <= (x == EOS).int().argmax(1)[:, None])  # PAD behind EOS only
    # Of so few sentences as the language reference has, even the fully sorted ones differ by a word from batch to batch.
    assert padding(data.batches("train", 32, seed=0)) < (0.05 if name == "pydoc" else 0.03)


@pytest.mark.parametrize("name", ["pydoc", *map(real, CORPORA)])
def test_the_vocabulary_comes_from_the_training_text_alone(name, loaded):
    data = loaded(name)
    counts = data.train.flatten().bincount(minlength=len(data.vocabulary))[4:]
    assert counts.min() > 0 and (counts.diff() <= 0).all()  # the most frequent first
    assert (data.test == UNK).any()


@pytest.mark.parametrize(
    ("name", "words", "unknown", "vocabulary"),
    [
        pytest.param("ptb", (887_521, 70_390, 78_669), (45_020, 3_485, 4_794), 10_002, marks=real("ptb").marks),
        pytest.param("brown", (929_728, 115_661, 115_803), (None, None, None), 20_001, marks=real("brown").marks),
        pytest.param("short-yelp", (89_405, 89_330, 89_998), (88, None, None), 5_151, marks=real("short-yelp").marks),
    ],
)
def test_tokens_are_the_words_of_the_published_counts_and_the_ends(name, words, unknown, vocabulary, loaded):
    data = loaded(name)
    about = data.describe()
    assert list(about["tokens"].values()) == [count + size for count, size in zip(words, DATASETS[name].sizes, strict=True)]
    for rate, count, tokens in zip(about["unknown_rate"].values(), unknown, about["tokens"].values(), strict=True):
        assert count is None or rate == pytest.approx(count / tokens)
    assert about["vocabulary"] == {"size": vocabulary, "checksum": data.vocabulary.checksum}
    assert "the end of each sentence" in about["tokens_counted"]


@pytest.mark.parametrize("name", [real("brown")])
def test_the_brown_corpus_is_whole_and_split_by_file(name, loaded):
    data = loaded(name)
    first = "The Fulton County Grand Jury said Friday an investigation of Atlanta's recent primary election produced"
    assert data.vocabulary.decode(data.train[0]).startswith(f"{first} `` no evidence ''")
    # The files lie by genre, the press first: a part is taken at random, the same one each time.
    part = data.limit(eval=500).test
    assert part.equal(data.first("test", 500)) and part.equal(data.in_order("test")[:500])
    assert not part.equal(data.test[:500]) and len(data.limit(train=50).train) == 50
    assert sum(data.describe()["sizes"].values()) == 57_340  # the sentences and tokens that are published
    assert sum(data.describe()["tokens"].values()) == 1_161_192 + 57_340


@pytest.mark.parametrize("name", [real("brown")])
def test_a_damaged_brown_corpus_is_refused(name, tmp_path):
    (tmp_path / "brown.zip").write_bytes((REAL / "brown" / "brown.zip").read_bytes()[:-1])
    with pytest.raises(DataError, match=f"brown is damaged: {tmp_path / 'brown.zip'}"):
        load_data("brown", root=tmp_path)


@pytest.mark.parametrize("name", [real("ptb")])
def test_penn_treebank_reads_as_it_is_written(name, loaded):
    data = loaded(name)
    assert data.vocabulary.words[:3] == ("the", "N", "of")
    assert data.vocabulary.decode(data.train[1]) == (
        "pierre <unk> N years old will join the board as a nonexecutive director nov. N"
    )
    few = load_data(name, root=REAL, vocabulary_size=5_000, max_words=20)
    assert few.event_shape == (21,) and len(few.vocabulary) == 5_000 and "longer than 20 words and left out" in few.split
    short = few.limit(train=10_000, eval=100)
    assert short.train.equal(few.train[:10_000]) and short.describe()["limits"] == {"train": 10_000, "valid": 100, "test": 100}
    assert few.checksum != data.checksum


@pytest.mark.parametrize("name", [real("yahoo-small")])
def test_the_small_yahoo_is_cut_from_the_published_files(name, loaded):
    assert loaded(name).by_class == ("train", "test")
    data = loaded(name)
    with gzip.open(REAL / "yahoo" / "yahoo.valid.txt.gz", "rt", encoding="utf-8") as file:
        documents = [line.split() for line in file]
    assert data.train[-1].equal(torch.from_numpy(padded([data.vocabulary.encode(documents[8999])], 201)[0]))
    assert data.valid[0].equal(torch.from_numpy(padded([data.vocabulary.encode(documents[9000])], 201)[0]))
    assert data.describe()["sizes"] == {"train": 9_000, "valid": 1_000, "test": 10_000}


@pytest.mark.parametrize("name", [real("short-yelp")])
def test_short_yelp_has_its_labels_beside_the_words(name, loaded):
    data = loaded(name)
    assert {split: len(labels) for split, labels in data.labels.items()} == data.describe()["sizes"]
    assert data.vocabulary.decode(data.train[0]) == "the staff is always really friendly and willing to help ."
    assert data.labels["train"].unique().tolist() == [0, 1] and 0.55 < data.labels["train"].float().mean() < 0.65
    few = data.limit(train=7)
    assert few.labels["train"].equal(data.labels["train"][:7])


def test_yahoo_is_refused_without_its_training_file_and_read_with_it(tmp_path, monkeypatch):
    place = tmp_path / "yahoo"
    place.mkdir()
    lines = {"yahoo.train.txt": "a b\na c\n", "yahoo.valid.txt": "a _UNK\n", "yahoo.test.txt": "c\nb a\n"}
    digests = {file: hashlib.md5(text.encode()).hexdigest() for file, text in lines.items()}
    for name in ("yahoo", "yahoo-small"):
        corpus = corpora.CORPORA[name]
        known = {file: digests[file] for file in corpus.files}
        monkeypatch.setitem(corpora.CORPORA, name, replace(corpus, files=known))
    for file in ("yahoo.valid.txt", "yahoo.test.txt"):
        (place / file).write_text(lines[file])
    with pytest.raises(DataError, match="yahoo was not found; .*yahoo-small does without yahoo.train.txt") as caught:
        load_data("yahoo", root=tmp_path)
    assert "\n" not in str(caught.value)
    (place / "yahoo.train.txt.gz").write_bytes(gzip.compress(lines["yahoo.train.txt"].encode()))
    data = load_data("yahoo", root=tmp_path)
    assert data.train[:, :3].tolist() == [[4, 5, EOS], [4, 6, EOS]] and data.valid[0, :3].tolist() == [4, UNK, EOS]
    (place / "yahoo.test.txt").write_text("c\nb b\n")
    with pytest.raises(DataError, match=f"yahoo is damaged: {place / 'yahoo.test.txt'}"):
        load_data("yahoo", root=tmp_path)
    (place / "yahoo.train.txt.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(DataError, match="yahoo is damaged: .*yahoo.train.txt.gz"):
        load_data("yahoo", root=tmp_path)


# The embedded texts


def test_the_language_reference_is_cleaned_to_sentences():
    topic = (
        'The "with" statement\n********************\n\nThe "with" statement is used to *wrap* a block (see\n'
        'section 8). This allows re-\nuse by others.\n\n   with_stmt ::= "with" x\n\n   >>> with A() as a: pass\n\n'
        "* The first item of a list is here.\n\n* Another item calls __exit__() at the end.\n\n"
        "+---+---+\n| a | b |\n+---+---+\n"
    )
    assert [" ".join(words) for words in pydoc_topics.sentences(topic)] == [
        "the with statement is used to wrap a block ( see section 8 ) .",
        "this allows re-use by others .",
        "the first item of a list is here .",
        "another item calls __exit__() at the end .",
    ]


def test_the_language_reference_is_split_by_topic_and_no_sentence_is_twice(loaded):
    topics = pydoc_topics.sentences_of_topics({f"topic{n}": f"This is a sentence number {n} of it. " * 3 for n in range(20)})
    parts = pydoc_topics.split(topics)
    assert {part: len(words) for part, words in parts.items()} == {"train": 16, "valid": 2, "test": 2}
    data = loaded("pydoc")
    texts = [data.vocabulary.decode(row) for row in torch.cat([data.train, data.valid, data.test])]
    known = [text for text in texts if "<unk>" not in text]
    assert len(set(known)) == len(known) > 1000
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in data.split
    assert 0.01 < data.describe()["unknown_rate"]["train"] < 0.06  # so that UNK is learnt


def test_the_synthetic_text_is_pinned(loaded):
    data = loaded("synthetic-text")
    assert data.checksum == "f3d46e708b3bf3de4902fac3db9fd999258c118d49152835174a11d948413674"
    assert data.vocabulary.words == synthetic.WORDS and not (data.train == UNK).any()
    lengths = (data.train != PAD).sum(1)
    assert 5 < lengths.float().mean() < 6 and lengths.min() >= 2 and lengths.max() <= 20


def test_the_oracle_decoder_is_the_model_of_the_data(loaded):
    x, oracle = loaded("synthetic-text").test[:20], synthetic.synthetic_oracle().double()
    z = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = [synthetic._log_prob(row[row != PAD].numpy(), at[None].numpy())[0] for row, at in zip(x, z, strict=True)]
    torch.testing.assert_close(oracle(z).log_prob(x), torch.tensor(np.array(own)), rtol=1e-12, atol=1e-10)


@pytest.fixture(scope="module")
def known(loaded):
    """Three sentences of the test set and their true log-likelihoods."""
    x = loaded("synthetic-text").test[:3, :12]
    return x, torch.from_numpy(synthetic.true_log_likelihood(x))


def test_the_true_log_likelihood_is_converged(known):
    x, true = known
    finer = synthetic.true_log_likelihood(x[:1], step=1 / 8)
    np.testing.assert_allclose(true[:1], finer, rtol=0, atol=1e-6)


def test_importance_sampling_with_the_oracle_agrees_with_the_true_log_likelihood(known):
    (x, true), samples = known, 5_000
    with torch.no_grad():  # z from the prior: unbiased, and its standard error is known
        z = torch.randn(samples, 2, generator=torch.Generator().manual_seed(1))
        ratios = [synthetic.synthetic_oracle()(z).log_prob(row[row != PAD].expand(samples, -1)) for row in x]
    ratios = (torch.stack(ratios).double() - true[:, None]).exp()
    error = ratios.std(1) / samples**0.5
    assert error.max() < 0.1 and ((ratios.mean(1) - 1).abs() < 3 * error).all()


def test_the_packages_estimate_agrees_with_the_true_log_likelihood(known):
    x, true = known
    vae = VAE(StandardNormal(2), synthetic.synthetic_oracle(), PriorAsEncoder())
    estimate = log_likelihood(vae.model, vae.guide, x, importance_samples=1_000)
    assert estimate.low < true.mean() < estimate.high
    assert estimate.value == pytest.approx(true.mean().item(), abs=0.15)  # 3 standard errors: each sentence's is 0.08


class PriorAsEncoder(torch.nn.Module):
    def forward(self, x):
        return Normal(x.new_zeros(len(x), 2, dtype=torch.float), 1.0).to_event(1)


# From sentences to rows


def test_rows_are_words_then_the_end_then_padding():
    contents = encoded(Texts("two", [["a", "b"], ["a"]], [["b", "c"]], [["a"]], "made"), max_words=3)
    assert contents.train.tolist() == [[4, 5, EOS, PAD], [4, EOS, PAD, PAD]] and contents.valid.tolist() == [[5, UNK, EOS, PAD]]
    assert contents.train.dtype == np.int64 and contents.split == "made"


def test_a_vocabulary_of_a_sets_own_is_kept_whole_or_refused():
    texts = Texts("own", [["a"]], [["b"]], [["a"]], "made", vocabulary=Vocabulary(("b", "a")))
    assert encoded(texts, vocabulary_size=6).train[0, :2].tolist() == [5, EOS]
    with pytest.raises(ValueError, match="vocabulary size of at least 6 for own, got 5"):
        encoded(texts, vocabulary_size=5)


def test_longer_sentences_are_left_out_and_counted_and_do_not_count_for_the_vocabulary():
    texts = Texts("long", [["a"], ["b"] * 4, ["c"]], [["a"] * 5, ["c"]], [["a"]], "made", labels={"train": np.arange(3)})
    contents = encoded(texts, max_words=3)
    assert contents.vocabulary.words == ("a", "c") and contents.labels["train"].tolist() == [0, 2]
    assert contents.split == "made; longer than 3 words and left out: 1 / 1 / 0"
    usual = encoded(Texts("usual", [["a"] * 200, ["a"] * 201], [["a"]], [["a"]], "made"))
    assert usual.train.shape == (1, 201) and (usual.train[0] == [4] * 200 + [EOS]).all()
    with pytest.raises(ValueError, match="at most 1 words in none, got none for valid"):
        encoded(Texts("none", [["a"]], [["a", "b"]], [["a"]], "made"), max_words=1)
    with pytest.raises(ValueError, match="max_words of at least 1, got 0"):
        encoded(texts, max_words=0)


def test_the_checksum_changes_with_a_word_and_with_the_vocabulary():
    assert small().checksum == small().checksum != small(count=39).checksum
    assert small(vocabulary_size=20).checksum != small().checksum


def test_sizes_of_texts_are_refused_for_images():
    for sizes in ({"vocabulary_size": 10}, {"max_words": 5}):
        with pytest.raises(ValueError, match="expected a text for a vocabulary size and max_words, got grey values of digits"):
            load_data("digits", **sizes)


def test_the_first_training_sentences_are_taken():
    data = small()
    assert data.limit(train=7).train.equal(data.train[:7]) and data.limit(train=7, eval=3).test.equal(data.test[:3])


def test_a_description_is_plain_and_counts_what_is_left():
    data = small().limit(train=5)
    about = json.loads(json.dumps(data.describe()))
    assert about["tokens"]["train"] == int((data.train != PAD).sum()) and about["kind"] == "text"


# Batches


def test_batches_hold_every_row_once_cut_to_the_longest():
    data = small(count=45)
    batches = data.batches("train", 8, seed=0)
    epochs = [list(batches) for _ in range(2)]
    assert [len(x) for x in epochs[0]] == [8] * 5 + [5]  # the smaller batch stays the last
    for epoch in epochs:
        assert all((x != PAD).sum(1).max() == x.shape[1] for x in epoch)
        rows = Counter(data.vocabulary.decode(row) for x in epoch for row in x)
        assert rows == Counter(data.vocabulary.decode(row) for row in data.train)
    assert not batches.order(0).equal(batches.order(1))
    order = batches.order(0)
    assert epochs[0][2].equal(data.train[order[16:24], : epochs[0][2].shape[1]]) and order.sort()[0].equal(torch.arange(45))


def test_the_smaller_batch_holds_any_rows():
    data = small(count=45)
    batches = data.batches("train", 8, seed=0)
    orders = [batches.order(epoch) for epoch in range(400)]
    share = torch.stack([order[40:] for order in orders]).flatten().bincount(minlength=45) / len(orders)
    assert ((share - 5 / 45).abs() < 4 * (5 / 45 / len(orders)) ** 0.5).all()  # no row more often than another
    assert max(int(batches.lengths[order[40:]].max() - batches.lengths[order[40:]].min()) for order in orders) <= 4


def test_rows_of_a_batch_are_of_like_length_and_batches_come_in_any_order():
    data = small(count=400)
    assert all(((x == EOS).sum(1) == 1).all() for x in data.batches("train", 16, seed=3))  # no row is cut short
    lengths = [(x != PAD).sum(1) for x in data.batches("train", 16, seed=3)]
    assert max((length.max() - length.min()).item() for length in lengths) <= 2
    means = torch.stack([length.float().mean() for length in lengths])
    assert not means.equal(means.sort()[0]) and not means.equal(means.sort(descending=True)[0])


@pytest.mark.parametrize("stop", range(1, 8))
def test_batches_resumed_anywhere_equal_the_uninterrupted_ones(stop):
    data = small()
    whole = data.batches("train", 16, seed=5)
    expected = [x for _ in range(3) for x in whole]
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


def test_evaluation_batches_keep_the_order():
    data = small()
    rows = [row for x in data.batches("test", 4, seed=0) for row in x]
    assert all(row.equal(whole[: len(row)]) for row, whole in zip(rows, data.test, strict=True))


# A user's own file

LINES = [f"the cat number {n % 5} sat on the mat {'again ' * (n % 3)}" for n in range(40)]


def written(path, lines):
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["news.txt", "news.txt.gz"])
def test_a_users_file_is_split_in_tenths(name, tmp_path):
    data = load_data(written(tmp_path / name, [*LINES, "", "  "]))
    assert data.describe()["sizes"] == {"train": 32, "valid": 4, "test": 4} and data.name == name
    assert "a tenth each" in data.split and "2 empty lines skipped" in data.split
    texts = [data.vocabulary.decode(row) for row in torch.cat([data.train, data.valid, data.test])]
    assert Counter(texts) == Counter(line.strip() for line in LINES)
    assert load_data(tmp_path / name).checksum == data.checksum


@pytest.mark.parametrize("beside", ["news.{}.txt", "news.txt.{}", "news.{}.txt.gz"])
def test_files_beside_a_users_file_are_its_other_splits(beside, tmp_path):
    written(tmp_path / beside.format("valid"), ["the cat", "the dog"])
    data = load_data(written(tmp_path / "news.txt", LINES))
    assert data.describe()["sizes"] == {"train": 36, "valid": 2, "test": 4}
    written(tmp_path / beside.format("test"), LINES[:3])
    data = load_data(tmp_path / "news.txt")
    assert data.describe()["sizes"] == {"train": 40, "valid": 2, "test": 3}
    assert data.split == "as in the files"
    assert data.vocabulary.decode(data.valid[1]) == "the <unk>"


@pytest.mark.parametrize(
    ("content", "sizes", "message"),
    [
        (b"", {}, "at least 2 lines with words, got 0 in {path}"),
        (b"\n \n\n", {}, "at least 2 lines with words, got 0 in {path}"),
        (b"only one line\n", {}, "at least 2 lines with words, got 1 in {path}"),
        (b"one\ntwo\nthree\n", {}, "at least 6 lines, of which valid and test are cut, got 3 in {path}; or put news.valid"),
        (b"a b\n" * 7 + b"a \xff b\n" + b"a b\n" * 7, {}, r"expected UTF-8, got other bytes \(.*\) in line 8 of {path}"),
        (b"a b\n" * 3 + "ä".encode("utf-16-le") + b"\n", {}, "in line 4 of {path}; save it as UTF-8"),
        (b"a b\n" * 3 + b"a\0b\n", {}, "expected text, got a zero byte in line 4 of {path}"),
        (b"a b\n\n" * 9 + b"a " * 201 + b"\n", {}, "at most 200 words a line, got 201 in line 19 of {path}; --max-words"),
        (b"a b\n" * 11 + b"x y\n" + b"a b\n" * 9, {"vocabulary_size": 6}, "unknown words only in line 12 of {path}"),
        (b"a b\n" * 7 + b"<s> a b </s>\n" + b"a b\n" * 7, {}, "begin, end or padding, got <s> in line 8 of {path}"),
        (b"a b\n" * 11, {"max_words": 1}, "expected sentences of at most 1 words in news.txt, got none"),
        (b"a b\n" * 11, {"vocabulary_size": 3}, "vocabulary size of at least 5"),
    ],
)
def test_a_users_file_that_is_wrong_is_refused_in_one_line_that_names_it(content, sizes, message, tmp_path):
    path = tmp_path / "news.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message.format(path=path)) as caught:
        load_data(path, **sizes)
    assert "\n" not in str(caught.value)


def test_a_line_of_unknown_words_in_a_file_beside_is_named(tmp_path):
    beside = written(tmp_path / "news.test.txt", ["the cat", "", "xyz zyx"])
    with pytest.raises(ValueError, match=f"unknown words only in line 3 of {beside}; take the line out"):
        load_data(written(tmp_path / "news.txt", LINES))


def test_a_larger_vocabulary_is_advised_only_where_it_helps(tmp_path):
    written(tmp_path / "news.valid.txt", ["the cat", "number rare"])
    path = written(tmp_path / "news.txt", [*LINES, "the rare cat", "the <unk> sat"])
    with pytest.raises(ValueError, match="line 2 of .*; take the line out, or allow a larger vocabulary"):
        load_data(path, vocabulary_size=6)
    written(tmp_path / "news.valid.txt", ["the cat", "zzz"])
    for size in (6, 5000):
        with pytest.raises(ValueError, match="line 2 of .*; take the line out$"):
            load_data(path, vocabulary_size=size)


def test_max_words_leaves_long_lines_of_a_users_file_out(tmp_path):
    path = written(tmp_path / "news.txt", [*LINES, "the " * 201])
    assert load_data(path, max_words=20).event_shape == (21,)
    assert load_data(path, max_words=300).describe()["tokens"]["train"] > 200


def test_windows_line_ends_and_a_byte_order_mark_are_no_words(tmp_path):
    (tmp_path / "news.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(LINES).encode())
    assert load_data(tmp_path / "news.txt").checksum == load_data(written(tmp_path / "copy.txt", LINES)).checksum


@pytest.mark.parametrize("content", [b"", b"no gzip", b"\x1f\x8b\x08\x00", gzip.compress(b"the cat\n" * 99, mtime=0)[:-6]])
def test_a_damaged_compressed_file_is_refused(content, tmp_path):
    (tmp_path / "news.txt.gz").write_bytes(content)
    with pytest.raises(ValueError, match="news.txt.gz") as caught:
        load_data(tmp_path / "news.txt.gz")
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_missing_data_and_an_unknown_ending_is_told(tmp_path):
    with pytest.raises(DataError, match="news.txt was not found; .*existing file or folder"):
        load_data(tmp_path / "news.txt")
    (tmp_path / "news.text").write_text("a few words\n")
    with pytest.raises(ValueError, match="or a file that ends in .npz, .*, .txt, .jsonl, got .*news.text; rename it"):
        load_data(tmp_path / "news.text")


def test_a_table_of_texts_costs_no_torch():
    code = (
        "import sys; from pyro_skipvae.data import DATASETS, locate; [locate(name) for name in DATASETS]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert locate("synthetic-text")[0] and locate("pydoc")[0].name == "topics.py"


def test_words_that_occur_once_in_a_users_file_are_unknown(tmp_path):
    rare = [f"the cat number {n % 5} sat on {'once' + str(n) if n % 4 == 0 else 'it'}" for n in range(60)]
    data = load_data(written(tmp_path / "rare.txt", rare))
    assert "once0" not in data.vocabulary.words and "cat" in data.vocabulary.words
    rates = data.describe()["unknown_rate"]
    assert rates["train"] > 0 and rates["test"] < 4 * rates["train"]
    assert load_data(tmp_path / "rare.txt", vocabulary_size=5000).checksum == data.checksum  # a size is the most there may be
    few = load_data(tmp_path / "rare.txt", vocabulary_size=12)
    assert few.describe()["unknown_rate"]["train"] > rates["train"] and "occur once" not in few.split
    marked = load_data(written(tmp_path / "marked.txt", [*rare, "the <unk> sat", "the <unk> sat"] * 2))
    assert "occur once" not in marked.split  # UNK is there to be learned
    for part in ("valid", "test"):
        written(tmp_path / f"titles.{part}.txt", ["the cat", "the mat"])
    titles = load_data(written(tmp_path / "titles.txt", ["the cat", "the mat", *(f"title{n}" for n in range(30))]))
    assert "title3" in titles.vocabulary.words and "cat" not in titles.vocabulary.words  # a line keeps a known word


def test_the_vocabulary_does_not_depend_on_valid_and_test_lines(tmp_path):
    lines = ["the cat sat", "the dog sat", "the cat ran rare0", "the dog ran rare1"] * 2 + ["the rare2 rare3 sat"]
    for name, test in (("a", ["the cat", "the dog"]), ("b", ["rare2 rare3", "rare3 rare2"])):
        for part, text in (("train", lines), ("valid", ["the cat", "the dog"]), ("test", test)):
            written(tmp_path / (f"{name}.txt" if part == "train" else f"{name}.{part}.txt"), text)
    a, b = load_data(tmp_path / "a.txt"), load_data(tmp_path / "b.txt")
    assert a.vocabulary.words == b.vocabulary.words and a.train.equal(b.train) and "rare2" not in a.vocabulary.words
    assert set(b.test.flatten().tolist()) == {UNK, EOS, PAD}


def test_labels_and_sources_that_lie_one_after_the_other_are_known(tmp_path):
    """The first lines of a split do not stand for all: what is reported on is spread."""
    lines = [{"text": f"a b{n % 7} c", "label": "neg" if n < 200 else "pos"} for n in range(400)]
    data = load_data(written(tmp_path / "two.jsonl", map(json.dumps, lines)))
    assert data.by_class == SPLITS
    assert all(0.2 < data.limit(100, 20).labels[part].float().mean() < 0.8 for part in SPLITS)
    plain = load_data(written(tmp_path / "plain.txt", [line["text"] for line in lines]))
    assert plain.by_class == ("valid", "test")
    for part in ("valid", "test"):
        written(tmp_path / f"plain.{part}.txt", ["a c", "b1 c"])
    assert load_data(tmp_path / "plain.txt").by_class == ()
    written(tmp_path / "some.jsonl", [json.dumps(lines[0])] * 30 + ['{"text": "a b", "label": 0.5}'])
    with pytest.raises(ValueError, match=r"a label, .* in every line or in none, got no .* in line 31 of .* \(1 of 31 "):
        load_data(tmp_path / "some.jsonl")


def test_a_line_without_a_word_of_the_rest_stays_in_the_training_text(tmp_path):
    strange = [f"alpha{n} beta{n}" for n in range(12)]
    data = load_data(written(tmp_path / "strange.txt", [*LINES, *strange]))
    texts = [data.vocabulary.decode(row) for row in data.train]
    assert set(strange) <= set(texts) and re.search(r"but for \d without a word of the rest", data.split)
    assert sum(data.describe()["sizes"].values()) == 52 and min(data.describe()["sizes"].values()) >= 2
    with pytest.raises(ValueError, match=r"unknown words only in line 41 of .*; take the line out$"):
        load_data(written(tmp_path / "marked.txt", [*(LINES[:40]), "<unk> <unk>"]), vocabulary_size=5000)
    with pytest.raises(ValueError, match=r"in line 1 \(and 2 more\) of .*; take the line out, or allow a larger"):
        load_data(written(tmp_path / "cut.txt", [*strange[:3], *LINES * 2]), vocabulary_size=8)


def test_one_text_to_report_on_is_refused_before_a_training(tmp_path):
    written(tmp_path / "news.test.txt", ["the cat", "the cat sat on the mat again and again"])
    written(tmp_path / "news.valid.txt", ["the cat", "the mat"])
    config = Config(dataset=str(written(tmp_path / "news.txt", LINES)), max_words=8)
    with pytest.raises(ConfigError, match="expected at least 2 test items to report on, got 1 in news.txt"):
        build_data(config)
