"""The vocabulary: its numbers, the way to text and back, and the check against another run's."""

import hashlib

import pytest

from pyro_skipvae.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary, vocabulary_check

SENTENCES = [["the", "cat", "sat"], ["the", "dog", "sat"], ["a", "<unk>", "the", "_UNK", "<s>"]]


def test_the_most_frequent_words_come_first_and_ties_in_alphabetical_order():
    vocabulary = Vocabulary.of(SENTENCES)
    assert vocabulary.words == ("the", "sat", "a", "cat", "dog") and len(vocabulary) == 9
    assert Vocabulary.of(SENTENCES, 6).words == ("the", "sat") and Vocabulary.of(SENTENCES, 50).words == vocabulary.words
    assert Vocabulary.of(SENTENCES[::-1]).checksum == vocabulary.checksum


def test_words_become_numbers_and_come_back():
    vocabulary = Vocabulary.of(SENTENCES)
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert vocabulary.encode(["the", "cat", "flew"]) == [4, 7, UNK, EOS] and vocabulary.encode([]) == [EOS]
    assert vocabulary.encode(["<unk>", "_UNK", "</s>", "<pad>"]) == [UNK] * 4 + [EOS]
    assert vocabulary.decode([BOS, 4, 7, UNK, EOS, 5, PAD]) == "the cat <unk>"
    assert vocabulary.decode([4, PAD, PAD]) == "the" and vocabulary.decode([EOS]) == ""


def test_a_vocabulary_is_kept_as_text(tmp_path):
    vocabulary, path = Vocabulary(("ß", "a", "don’t")), tmp_path / "vocabulary.txt"
    path.write_text(vocabulary.text(), encoding="utf-8")
    assert path.read_bytes() == "ß\na\ndon’t\n".encode()
    again = Vocabulary.read(path)
    assert again.words == vocabulary.words and again.checksum == vocabulary.checksum
    assert vocabulary.checksum == hashlib.sha256("ß\na\ndon’t".encode()).hexdigest()


@pytest.mark.parametrize(
    ("words", "message"),
    [(["a", "b", "a"], "every word once, got 'a'"), (["a b"], "'a b'"), ([""], "got ''"), (["<unk>"], "'<unk>'")],
)
def test_what_is_no_word_is_refused(words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Vocabulary(words)
    (tmp_path / "vocabulary.txt").write_text("".join(f"{word}\n" for word in words))
    with pytest.raises(ValueError, match="expected a vocabulary, one word a line, in .*vocabulary.txt"):
        Vocabulary.read(tmp_path / "vocabulary.txt")


def test_an_absent_or_broken_vocabulary_is_told(tmp_path):
    for content in (None, b"a\xff\n"):
        if content:
            (tmp_path / "vocabulary.txt").write_bytes(content)
        with pytest.raises(ValueError, match="expected a vocabulary, one word a line, in .*vocabulary.txt, but") as caught:
            Vocabulary.read(tmp_path / "vocabulary.txt")
        assert "\n" not in str(caught.value)


def test_a_size_without_room_for_a_word_is_refused():
    for size in (0, 4, -1):
        with pytest.raises(ValueError, match=f"at least 5, its 4 marks included, got {size}"):
            Vocabulary.of(SENTENCES, size)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (["the", "sit", "a", "cat", "dog"], "has 'sat' there, got 'sit' in line 2 of run/vocabulary.txt"),
        (["the", "sat"], "has 'a' there, got no word in line 3 of run/vocabulary.txt"),
        (["the", "sat", "a", "cat", "dog", "eel"], "has no word there, got 'eel' in line 6 of run/vocabulary.txt"),
    ],
)
def test_another_runs_vocabulary_is_refused_with_the_line_of_the_first_difference(saved, message):
    vocabulary = Vocabulary.of(SENTENCES)
    vocabulary_check(list(vocabulary.words), vocabulary, "run/vocabulary.txt")
    with pytest.raises(ValueError, match=message) as caught:
        vocabulary_check(saved, vocabulary, "run/vocabulary.txt")
    assert "\n" not in str(caught.value)
