"""`--matmul medium`: only where it means other sums of float32 numbers; kept by a run; and doctor says what it brings."""

import json
import tomllib

import torch
from command_line import skipvae
from small_runs import train

from pyro_skipvae_cli import matrix_products

SMALL = ("--decoder", "mlp", "--width", "16", "--epochs", "1")


def test_a_training_multiplies_as_its_settings_say_and_leaves_torch_as_found(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(matrix_products, "LARGEST_ERROR", 1.0)
    run = torch.nn.Linear.forward
    monkeypatch.setattr(
        torch.nn.Linear, "forward", lambda layer, x: seen.append(torch.get_float32_matmul_precision()) or run(layer, x)
    )
    folder = train(tmp_path, *SMALL, "--matmul", "medium")
    assert set(seen) == {"medium", "highest"}  # training and report
    assert tomllib.loads((folder / "config.toml").read_text())["matmul"] == "medium"
    assert torch.get_float32_matmul_precision() == "highest"


def test_coarse_products_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix_products, "error", lambda precision: 3e-3)
    done = skipvae("train", *SMALL, "--matmul", "medium", cwd=tmp_path)
    assert done.returncode == 2 and "whose relative error is 3e-03 here" in done.stderr


def test_doctor_measures_both(tmp_path):
    found = json.loads(skipvae("doctor", "--json", cwd=tmp_path).stdout)["matrix products"]
    assert "times as fast as highest" in found["medium"] and found["relative error"].startswith("highest ")
    assert matrix_products.error("highest") < 1e-6
