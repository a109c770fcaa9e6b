"""Checkpoints come back exactly, are whole or absent, and tell of damage."""

import copy
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import torture
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torture import damage, faults, states

from pyro_skipvae.runs import checkpoint
from pyro_skipvae.runs.checkpoint import CheckpointError
from pyro_skipvae.runs.folder import RunError

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


def test_tensors_are_named_by_their_place():
    tensors = {}
    state = {"vae": {"encoder.weight": torch.ones(1)}, "optimizer": {"encoder$$$weight": {"state": {0: {"m": torch.ones(2)}}}}}
    checkpoint._encode({**state, "list": [torch.ones(3)], "vae.encoder": {"weight": torch.ones(4)}}, tensors, ())
    assert {name: len(tensor) for name, tensor in tensors.items()} == {
        **{"vae.encoder.weight": 1, "optimizer.encoder.weight.state.0.m": 2, "list.0": 3, "vae.encoder.weight_": 4}
    }


EQUAL_RUN = """
import sys
import torch
from torture.states import new_job
job = new_job()
for x in job.batches:
    job.progress.add(job.step(x), len(x))
from pyro_skipvae.runs import checkpoint
checkpoint.save(sys.argv[1], job.state())
"""


def test_two_equal_runs_write_equal_bytes(tmp_path):
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.path.dirname(os.path.dirname(__file__))}
        subprocess.run([sys.executable, "-c", EQUAL_RUN, tmp_path / seed], env=environment, check=True)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    with safe_open(tmp_path / "1", "pt") as file:
        names = set(file.keys())
    assert "vae.encoder.network.0.weight" in names
    assert "optimizer.encoder.network.0.weight.optimizer.state.0.exp_avg" in names


def numbered(node, tensors):
    """A state as version 1 wrote it: tensors by number, in the order in which they were met."""
    if isinstance(node, torch.Tensor):
        tensors[f"{len(tensors):05d}"] = node
        return {"$tensor": f"{len(tensors) - 1:05d}"}
    if isinstance(node, dict):
        return {"$pairs": [[numbered(key, tensors), numbered(value, tensors)] for key, value in node.items()]}
    return [numbered(item, tensors) for item in node] if isinstance(node, list | tuple) else node


def test_checkpoints_of_the_first_version_are_read_and_gone_on_from(tmp_path):
    job, tensors = states.new_job(), {}
    for x in job.batches:
        job.progress.add(job.step(x), len(x))
    state = states.plain(copy.deepcopy(job.state()))
    old = {name: value for name, value in state.items() if name != "optimizer"}
    old["step"] = {**state["step"], "optimizer": state["optimizer"]}  # where it was then
    text = json.dumps(numbered(old, tensors))
    about = {"format": "pyro_skipvae", "version": "1", "state": text, "sha256": checkpoint.digest(text, tensors)}
    (tmp_path / "old").write_bytes(to_bytes(tensors, about))
    other = states.new_job()
    other.restore(checkpoint.load(tmp_path / "old"))
    assert torture.same(states.plain(other.state()), state)


@pytest.mark.slow
@pytest.mark.parametrize("unit", range(2))
def test_states_of_a_right_checksum_that_are_none_are_one_sentence(tmp_path, unit):
    assert states.unit(tmp_path, 0, random.Random(unit), 1) == (states.BATCH, [])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s["random"]["numpy"].__setitem__(2, 10**6), "no state of a generator"),
        (lambda s: s["vae"].pop("encoder.network.0.bias"), "encoder.network.0.bias is in the model alone"),
        (lambda s: s.pop("batches"), "it lacks batches"),
        (lambda s: s.update(best="x"), "it.best is 'x'"),
        (lambda s: s["optimizer"].pop("encoder$$$network.0.bias"), "encoder.network.0.bias is known to the model alone"),
        (lambda s: s["optimizer"].update({"encoder$$$network.0.bias": {}}), "lacks optimizer"),
    ],
)
def test_what_is_wrong_with_a_state_is_named(change, named):
    job = states.new_job()
    for x in job.batches:
        job.step(x)
    state = states.plain(job.state())
    change(state)
    with pytest.raises(RunError, match=named):
        states.new_job().restore(state)


@pytest.mark.parametrize("name", ["step", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("value", [torch.zeros(()), torch.zeros(0), torch.zeros((), dtype=torch.bool), torch.zeros(1, 1)])
def test_what_an_optimizer_remembers_has_the_shape_of_its_parameter(name, value):
    value = torch.zeros((), dtype=torch.long) if name == "step" and value.dtype == torch.float32 and not value.dim() else value
    job = states.new_job()
    for x in job.batches:
        job.progress.add(job.step(x), len(x))
    state = states.plain(copy.deepcopy(job.state()))
    next(iter(state["optimizer"].values()))["optimizer"]["state"][0][name] = value  # torch's kernel would read beyond its end
    with pytest.raises(RunError, match=rf"optimizer\..*\.{name} has the shape"):
        states.new_job().restore(state)
