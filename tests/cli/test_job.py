"""A job of the command line: how an epoch is judged, when the warm-up is over, and what a resume must not forget."""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from pyro_skipvae.runs.config import Config, ConfigError
from pyro_skipvae_cli.job import make_config, make_job
from pyro_skipvae_cli.training import _validate, copied

TINY = {"dataset": "digits", "decoder": "mlp", "layers": 1, "width": 8, "latent_dim": 2, "limit_train": 100, "limit_eval": 20}
WITHOUT_Z = {"model": "autoregressive", "decoder": "pixelcnn", "latent_dim": 0}
HALVING = {"lr_schedule": "halving", "halving_epoch": 5, "optimizer": "sgd"}


def job_of(**flags):
    return make_job(*make_config(TINY | {"batch_size": 20} | flags, resume=None), device="cpu")


def test_epochs_are_judged_once_the_warm_up_is_over():
    job = job_of(epochs=12, beta_schedule="linear", warmup_epochs=2.0, patience=3, **HALVING)
    n = len(job.batches)
    assert n == 5 and [round(job.beta(step), 3) for step in (0, n, 2 * n - 1, 2 * n, 3 * n)] == [0.1, 0.55, 0.91, 1.0, 1.0]
    seen = []
    for epoch, loss in enumerate([1.0, 5.0, 4.0, 4.5, 4.4, 3.0, 3.5, 3.1, 3.2], start=1):
        assert job.stopped is None
        job.step.steps = epoch * n
        seen.append((job.judge(epoch, loss), job.best, job.stalled, job.halving.factor))
    assert [better for better, *_ in seen] == [False, True, True, False, False, True, False, False, False]
    assert [best for _, best, *_ in seen] == [torch.inf, 5.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0]
    assert [stalled for *_, stalled, _ in seen] == [0, 0, 0, 1, 2, 0, 1, 2, 3]
    assert [factor for *_, factor in seen] == [1, 1, 1, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]  # from epoch 5 on, then always
    assert job.stopped == "no better validation for 3 epochs"


def test_a_rate_halved_after_a_checkpoint_on_an_epochs_last_step_stays_halved():
    def judged_and_trained(job):
        job.judge(6, 2.0)
        assert job.halving.factor == 0.5
        for x in itertools.islice(job.data.batches("train", 20, seed=1), 3):
            job.step(x)
        return [parameter.detach().clone() for parameter in job.vae.parameters()]

    job = job_of(epochs=12, **HALVING)
    job.best = 1.0
    for x in job.data.batches("train", 20, seed=0):
        job.step(x)
    state = copy.deepcopy(job.state())
    whole = judged_and_trained(job)
    again = job_of(epochs=12, **HALVING)
    again.restore(state)
    assert all(torch.equal(one, other) for one, other in zip(whole, judged_and_trained(again), strict=True))


@pytest.mark.parametrize(
    "flags",
    [
        {"dataset": "synthetic-text", "decoder": None, "width": 4, "embedding": 4, "objective": "bag-of-words"},
        {"procedure": "adversarial-autoencoder"},
    ],
)
def test_the_size_of_a_checkpoint_counts_all_that_is_trained(flags, tmp_path):
    job = job_of(epochs=1, **flags)
    job.step(next(iter(job.batches)))
    torch.save(job.state(), tmp_path / "state.pt")
    size = (tmp_path / "state.pt").stat().st_size
    assert 0.9 * size < job.checkpoint_size < 1.2 * size + 100_000


def test_validation_is_without_dropout(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("".join(f"the {a} cat sat on the {b} mat\n" for a in "abcdef" for b in "uvwxyz"))
    sizes = {"width": 8, "embedding": 6, "latent_dim": 2, "batch_size": 8, "epochs": 2}
    job = make_job(*make_config({"dataset": str(path), **sizes}, resume=None), device="cpu")
    with torch.no_grad():
        for parameter in job.vae.parameters():
            parameter.mul_(10)  # so that a dropped unit matters
    found = _validate(job)
    for module in job.vae.modules():
        if isinstance(module, nn.Dropout):
            assert module.training and module.p == 0.5
            module.p = 0.0
    assert found == _validate(job)


@pytest.mark.parametrize(("flags", "told"), [
    ({"encoder": "resnet", "encoder_width": 5}, {"--encoder-width": "--encoder mlp"}),
    ({"maps": 5}, {"--maps": "--decoder pixelcnn or convolutional"}),
    ({"word_dropout": 0.3}, {"--word-dropout": "--decoder lstm or dilated-cnn or transformer"}),
    ({"cycles": 2, "svi_steps": 3}, {"--cycles": "--beta-schedule cyclical", "--svi-steps": "--inference, or --model sa-vae"}),
    ({"cycles": 2, "beta_schedule": "cyclical", "components": 3, "prior": "mixture-of-normals"}, {}),
    ({"warmup_epochs": 3, "beta_schedule": "constant"}, {"--warmup-epochs": "--beta-schedule linear or cyclical"}),
    ({"beta_start": 0.5, "beta_schedule": "constant"}, {"--beta-start": "--beta-schedule linear or cyclical"}),
    ({"width": 7, "decoder": "convolutional"}, {"--width": "another --decoder; this one has --maps"}),
    ({"width": 7, "warmup_epochs": 3, "beta_schedule": "linear"}, {}),
    ({"svi_lr": 0.5, "svi_momentum": 0.9},
     {"--svi-lr": "--inference, or --model sa-vae", "--svi-momentum": "--inference, or --model sa-vae"}),
    ({"beta_schedule": "linear", "objective": "autoencoder"}, {"--beta-schedule": "another --objective"}),
    ({"beta": 0.4, "prior": "uniform-sphere", "guide": "von-mises-fisher", "rate": 5.0},
     {"--beta": "a guide whose rate can change"}),
    (WITHOUT_Z | {"beta": 3.0}, {"--beta": "latent variables"}),
    (WITHOUT_Z | {"objective": "iwae(5)"}, {"--objective": "latent variables"}),
])  # fmt: skip
def test_settings_without_effect_are_known(flags, told):
    from pyro_skipvae.runs.build import FILLED_IN, without_effect

    config = make_config(TINY | flags, resume=None)[0]
    assert without_effect(config, flags) == told
    filled_in = {f"--{name.replace('_', '-')}" for name in FILLED_IN}
    assert not filled_in & set(without_effect(replace(config, epochs=99)))  # nobody gave them when a run goes on


def test_the_best_epoch_of_a_batch_prior_is_not_chosen_by_the_rate_that_it_does_not_pay_for():
    job = job_of(objective="batch-prior", guide="categorical", prior="uniform-categorical")
    assert job.selection({"valid_distortion": 5.0, "valid_rate": 3.0, "valid_elbo": -8.0, "beta": 1.0}) == 5.0


def test_the_best_epoch_is_that_of_what_is_trained():
    metrics = {"valid_distortion": 5.0, "valid_rate": 3.0, "valid_elbo": -8.0, "beta": 1.0}
    assert job_of().selection(metrics) == 8.0 and job_of(beta=0.1).selection(metrics) == pytest.approx(5.3)
    assert job_of(objective="mutual-divergence(1)", beta=0.1).selection(metrics) == pytest.approx(5.3)
    assert job_of(objective="mmd(10,0.5)", beta=0.1).selection(metrics) == pytest.approx(5.15)
    assert job_of(objective="iwae(5)").selection({**metrics, "valid_bound": -7.0}) == 7.0


def test_the_best_epoch_of_a_target_is_the_nearest_at_the_price_of_its_rate():
    metrics = {"valid_distortion": 5.0, "valid_rate": 3.0, "valid_elbo": -8.0, "beta": 0.5}
    assert job_of(objective="target-rate(4)").selection(metrics) == 6.0
    assert job_of(beta_schedule="control(4)").selection({**metrics, "beta": 2.0}) == 7.0
    assert job_of(objective="mmd(10,0.5)").selection(metrics) == 6.5
    assert job_of(objective="autoencoder").selection(metrics) == 5.0


def test_the_learning_rate_falls_as_a_cosine():
    job = job_of(epochs=2)
    steps, rates = 2 * len(job.batches), []
    for x in list(job.batches) * 2:
        job.step(x)
        rates.append(next(iter(job.step.optim.optim_objs.values())).get_last_lr()[0])
    assert rates == pytest.approx([1e-3 * (1 + math.cos(math.pi * (s + 1) / steps)) / 2 for s in range(steps)])


def test_settings_arrive_where_they_work():
    assert job_of(max_norm=0.7).step.max_norm == 0.7
    guide = job_of(model="skip-sa-vae", svi_momentum=0.3, svi_lr=0.01, svi_steps=4).vae.guide
    assert (guide.momentum, guide.lr, guide.steps) == (0.3, 0.01, 4)


@pytest.mark.parametrize("guide", [["categorical"], {}, 3])
def test_a_guide_that_is_no_word_is_refused(guide):
    with pytest.raises(ConfigError, match="guide"):
        Config.from_flags({"guide": guide})


def test_the_width_of_an_mlp_encoder_is_a_setting():
    widths = {layer.out_features for layer in job_of(encoder_width=5).vae.encoder.network if isinstance(layer, nn.Linear)}
    usual = {layer.out_features for layer in job_of().vae.encoder.network if isinstance(layer, nn.Linear)}
    assert (widths, usual) == ({5}, {512})


def test_an_estimated_rate_below_0_stops_no_training_without_a_committed_rate():
    from pyro_skipvae_cli.training import _check_committed

    _check_committed({"valid_rate": -0.005})  # no_committed_rate: by draws, under a mixture of normals
    with pytest.raises(RuntimeError, match="committed 3.0 nats, got 2.9"):
        _check_committed({"valid_rate": 2.9, "committed_rate": 3.0})


class Pinned:
    """A batch that remembers what is done with it."""

    def __init__(self):
        self.done = []

    def pin_memory(self):
        self.done.append("pinned")
        return self

    def to(self, device, non_blocking=False):
        self.done.append((device.type, non_blocking))
        return self


def test_a_gpu_copies_a_batch_while_the_program_goes_on():
    assert copied(Pinned(), torch.device("cuda")).done == ["pinned", ("cuda", True)]
    assert copied(Pinned(), torch.device("cpu")).done == [("cpu", False)]
