"""The best epoch is that of the validation, whatever the training loss says."""

from command_line import skipvae
from small_runs import TINY

from pyro_skipvae.runs import checkpoint
from pyro_skipvae_cli import training


def test_the_best_epoch_is_chosen_by_validation_not_by_training_loss(tmp_path, monkeypatch):
    bounds, validate = iter([-60.0, -50.0, -70.0]), training._validate
    monkeypatch.setattr(training, "_validate", lambda job: {**validate(job), "valid_elbo": next(bounds)})
    monkeypatch.setattr(training, "_report", lambda *_: None)
    words = ("--decoder", "mlp", "--width", "4", *TINY, "--epochs", "3", "--out", "run", "--json")
    try:
        skipvae("train", *words, cwd=tmp_path)
    except AttributeError:  # there is no report to print
        pass
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "best.safetensors")["epoch"] == 2
