"""Remedies go on from a checkpoint as if nothing had been: parameters, moving averages, critics, controls, draws.

Lagging inference, pretraining and others are stopped and resumed in `training/test_procedures.py`.
"""

import pytest
from torture import same

from pyro_skipvae.runs import checkpoint
from pyro_skipvae.training import fit
from pyro_skipvae_cli.job import as_trained, make_config, make_job

TINY = {"layers": 1, "width": 8, "latent_dim": 2, "limit_train": 40, "limit_eval": 20, "batch_size": 8, "epochs": 3}
IMAGES = TINY | {"dataset": "digits", "decoder": "mlp", "encoder_width": 8}
TEXTS = TINY | {"dataset": "synthetic-text", "embedding": 4}
MIDDLE = 7  # of 15 steps: in the second of three epochs
OF_IMAGES = {
    "adversarial-autoencoder": {"procedure": "adversarial-autoencoder"},
    "adversarial-variational-bayes": {"procedure": "adversarial-variational-bayes"},
    "hmc": {"procedure": "hmc(1)"},
    "control": {"beta_schedule": "control(5)"},
    "target-rate": {"objective": "target-rate(5)"},
    "kl-balancing": {"objective": "kl-balancing", "beta_schedule": "linear"},
    "mmd": {"objective": "mmd(10)", "prior": "mixture-of-normals"},
    "mutual-divergence": {"objective": "mutual-divergence"},
    "autoencoder": {"objective": "autoencoder"},
    "batch-prior": {"guide": "categorical", "objective": "batch-prior"},
    "codebook": {"guide": "codebook", "classes": 16},  # its codebook moves by averages, which are buffers
    "von-mises-fisher": {"guide": "von-mises-fisher", "prior": "uniform-sphere"},
    "batch-normalised": {"guide": "batch-normalised"},
    "planar-flow": {"guide": "planar-flow"},
}
OF_TEXTS = ("adversarial-autoencoder", "adversarial-variational-bayes", "batch-prior", "codebook")
# What these keep besides parameters and the optimizer: a critic, draws, a control, averages.
OF_ITS_OWN = ("adversarial-autoencoder", "adversarial-variational-bayes", "hmc", "control", "codebook", "batch-normalised")
CASES = [
    pytest.param(IMAGES | flags, id=name, marks=[] if name in OF_ITS_OWN else pytest.mark.slow)
    for name, flags in OF_IMAGES.items()
]
CASES += [pytest.param(TEXTS | {"objective": "bag-of-words"}, id="bag-of-words, text")]
CASES += [pytest.param(TEXTS | OF_IMAGES[name], id=f"{name}, text", marks=pytest.mark.slow) for name in OF_TEXTS]


class Feed:
    """The batches of a job; after the step `at` its state is written to a file."""

    def __init__(self, job, path, at=None):
        self.job, self.path, self.at = job, path, at

    def __iter__(self):
        for x in self.job.batches:
            yield x
            if self.job.step.steps == self.at:
                checkpoint.save(self.path, self.job.state())


def trained(job, feed):
    """The state of a job at the end of its epochs."""
    after = getattr(job.step, "after_epoch", None)
    with as_trained():
        for _ in fit(job.step, feed, epochs=job.config.epochs, beta=job.beta, progress=job.progress, callback=after):
            pass
    return job.state()


@pytest.mark.parametrize("flags", CASES)
def test_a_run_goes_on_from_its_middle_to_the_same_end(flags, tmp_path):
    path = tmp_path / "state.safetensors"
    config, data = make_config(flags, resume=None)
    whole = make_job(config, data, device="cpu")
    expected = trained(whole, Feed(whole, path, MIDDLE))
    again = make_job(config, data, device="cpu")
    again.restore(checkpoint.load(path))
    assert again.step.steps == MIDDLE < expected["step"]["steps"] == 15
    found = trained(again, Feed(again, path))
    assert same(found, expected)
    assert not same(checkpoint.load(path)["vae"], expected["vae"])  # something was trained after it
