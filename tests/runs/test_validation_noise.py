"""Validation has random numbers of its own: it neither follows the stream of the training nor moves it."""

import torch
from small_runs import tiny_run

from pyro_skipvae import load_run
from pyro_skipvae.runs.build import build_data
from pyro_skipvae.runs.config import Config
from pyro_skipvae_cli.job import make_job
from pyro_skipvae_cli.training import _validate


def test_validation_does_not_share_the_stream_of_the_training():
    config = load_run(tiny_run()).config
    job = make_job(config, build_data(config), device="cpu")
    first, state = _validate(job), torch.get_rng_state()
    for x in job.batches:  # draws of x and of z
        job.vae.guide(x)
    assert not torch.get_rng_state().equal(state)
    moved = torch.get_rng_state()
    assert _validate(job) == first and torch.get_rng_state().equal(moved)


def test_held_out_data_do_not_depend_on_the_seed_of_the_training():
    first, other = (build_data(Config(limit_train=100, limit_eval=60, seed=seed)) for seed in (0, 1))
    assert first.valid.equal(other.valid) and first.test.equal(other.test)
