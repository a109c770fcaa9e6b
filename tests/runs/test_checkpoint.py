"""Checkpoints come back exactly, are whole or absent, and tell of damage."""

import random

import numpy as np
import pytest
import torch
from torture import damage, faults

from pyro_skipvae.runs import checkpoint
from pyro_skipvae.runs.checkpoint import CheckpointError

STATE = {
    "weights": {"a.b": torch.randn(3, 2), "half": torch.ones(2, dtype=torch.bfloat16), "empty": torch.zeros(0)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "lr": 0.1 + 0.2, "betas": [0.9, 0.999]},
    "rng": torch.get_rng_state(),
    "flag": True,
    "none": None,
    "name": "é",
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.equal(b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


def test_a_state_comes_back_exactly(tmp_path):
    checkpoint.save(tmp_path / "c.safetensors", STATE)
    assert same(checkpoint.load(tmp_path / "c.safetensors"), STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"weights": torch.arange(6.0), "step": 3})
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        try:
            assert same(checkpoint.load(path), {"weights": torch.arange(6.0), "step": 3})  # white space of the header
        except CheckpointError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"not a checkpoint at all", b"\xff" * 100])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "c.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="expected a checkpoint at"):
        checkpoint.load(tmp_path / "c.safetensors")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path / "none.safetensors")


def test_truncation_is_noticed(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    for keep in range(0, len(whole), 97):
        path.write_bytes(whole[:keep])
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"step": 1})
    monkeypatch.setattr(checkpoint.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1} and len(list(tmp_path.iterdir())) == 1


def test_the_old_file_is_kept_where_asked(tmp_path):
    path, keep = tmp_path / "last", tmp_path / "prev"
    for number in range(3):
        checkpoint.save(path, {"step": number}, keep=keep)
    assert (checkpoint.load(path), checkpoint.load(keep)) == ({"step": 2}, {"step": 1})


def draws():
    return torch.randn(3).tolist(), np.random.rand(3).tolist(), np.random.randn(1).tolist(), random.random()


def test_all_random_generators_go_on_where_they_were(tmp_path):
    draws()
    checkpoint.save(tmp_path / "c.safetensors", checkpoint.random_state())
    expected = draws()
    checkpoint.set_random_state(checkpoint.load(tmp_path / "c.safetensors"))
    assert draws() == expected


@pytest.mark.parametrize("unit", range(2))
def test_mutated_checkpoints_are_refused_or_as_written(tmp_path, unit):
    assert damage.checkpoints(tmp_path, 0, random.Random(unit), 1) == (damage.BATCH, [])


def test_a_save_that_fails_or_dies_anywhere_leaves_a_whole_checkpoint(tmp_path):
    count, failed = faults.unit(tmp_path, 0)
    assert count >= 14 and not failed


def test_states_that_cannot_be_kept_are_refused(tmp_path):
    with pytest.raises(TypeError, match="expected tensors and plain values"):
        checkpoint.save(tmp_path / "c.safetensors", {"object": object()})
