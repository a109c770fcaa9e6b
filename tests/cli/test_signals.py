"""Signals, two runs in one folder, and what is not finite: the right exit code, and nothing lost."""

import json
import random
import signal

import pytest
import torch
import torture
from pyro.optim import Adam, ClippedAdam, LambdaLR

from pyro_skipvae import VAE, svi_step
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.objectives import elbo
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.runs.folder import Run
from pyro_skipvae_cli.job import as_trained

QUICK = (("no_report",),)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return torture.reference(tmp_path_factory.mktemp("whole") / "run", "mlp", hooks=QUICK)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_at_any_moment_ends_with_its_code_and_loses_nothing(number, code, whole, tmp_path):
    expected, seconds = whole
    codes = torture.killed_until_done(
        tmp_path / "run", "mlp", seconds, random.Random(str(code)), kills=2, numbers=[number], hooks=QUICK
    )
    # Before the command line has set its handlers the system's end the process: a shell shows the same code.
    assert codes[-1] == 0 and set(codes[:-1]) <= {code, -number, 0}, (tmp_path / "run.log").read_text()
    assert torture.same(torture.outcome(tmp_path / "run"), expected)


def test_sigusr1_writes_a_checkpoint_and_goes_on(whole, tmp_path):
    hooks = (*QUICK, ("signal_at", 7, signal.SIGUSR1), ("end_at", 9))
    assert torture.train(tmp_path / "run", "mlp", hooks=hooks).end() == 1
    assert Run(tmp_path / "run").latest()[0]["step"]["steps"] == 7
    assert torture.train(tmp_path / "run", "mlp", hooks=QUICK).end() == 0
    assert torture.same(torture.outcome(tmp_path / "run"), whole[0])


def test_a_second_signal_leaves_at_once(tmp_path):
    twice = [("signal_at", 2, signal.SIGTERM)] * 2
    run = torture.train(tmp_path / "run", "mlp", hooks=(*QUICK, *twice))
    assert run.end() == 143 and Run(tmp_path / "run").latest() == (None, None)


@pytest.mark.parametrize("stale", [False, True])
def test_of_two_runs_in_one_folder_exactly_one_goes_on(stale, tmp_path):
    folder = tmp_path / "run"
    if stale:
        dead = torture.train(folder, "mlp", hooks=(*QUICK, ("signal_at", 5, signal.SIGKILL)))
        assert dead.end() == -signal.SIGKILL and (folder / ".lock").exists()
    pair = [torture.train(folder, "mlp", hooks=(*QUICK, ("slowly", 0.02))) for _ in range(2)]
    codes = [run.end() for run in pair]
    said = folder.with_suffix(".log").read_text()
    winner = pair[codes.index(0)].process.pid
    assert sorted(codes) == [0, 4] and f"process {winner} on " in said and not (folder / ".lock").exists()


def test_a_lock_of_another_host_is_respected(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    started = torture.Started("train", "--out", tmp_path, *torture.SMALL, *torture.MLP, log=tmp_path / "log")
    assert started.end() == 4 and "process 1 on elsewhere" in started.log.read_text() and (tmp_path / ".lock").exists()


@pytest.mark.parametrize("place", ["input", "loss", "gradient"])
def test_what_is_not_finite_stops_the_run_and_never_reaches_the_parameters(place, tmp_path):
    hooks = (*QUICK, ("poison", place, 23, str(tmp_path / "seen")))
    run = torture.train(tmp_path / "run", "mlp", hooks=hooks)
    assert run.end() == 5 and f"{place} " in run.log.read_text()
    noted, seen = json.loads((tmp_path / "run" / "nonfinite.json").read_text()), json.loads((tmp_path / "seen").read_text())
    assert seen["unchanged"] and seen["tensors"] > 20
    assert (noted["first"], noted["epoch"], noted["batch"], len(noted["indices"]), noted["steps"]) == (23, 2, 3, 20, 1)
    on = torture.train(tmp_path / "run", "mlp", "--on-nan", "skip:1", hooks=hooks)
    assert on.end() == 0 and "steps left out: 1" in on.log.read_text()
    assert all(torch.tensor(line["train_loss"]).isfinite() for line in Run(tmp_path / "run").metrics())


OPTIMS = {
    "adam": lambda: Adam({"lr": 0.1}),
    "fused": lambda: Adam({"lr": 0.1, "fused": True}),
    "scheduled": lambda: LambdaLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1, "fused": True}, "lr_lambda": lambda step: 1 / (1 + step)}
    ),
    "clipped": lambda: ClippedAdam({"lr": 0.1}),
}


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("name", OPTIMS)
def test_no_optimizer_moves_for_a_step_that_is_not_finite(name, first):
    vae = VAE(StandardNormal(2), MLPDecoder(2, (3, 3), layers=1, width=4), MLPEncoder((3, 3), 2, hidden=(4,)))
    step = svi_step(vae.model, vae.guide, elbo, OPTIMS[name](), max_norm=1.0)
    x = torch.ones(5, 3, 3)
    for number in range(6):
        before = [p.detach().clone() for p in vae.parameters()]
        with as_trained():
            loss = step(x * torch.nan if number == first else x)
        unchanged = all(p.equal(old) for p, old in zip(vae.parameters(), before, strict=True))
        assert unchanged == (number == first) == (not loss.isfinite())
    found = step.nonfinite()
    assert (found.steps, found.first, found.what) == (1, first, ("input", "loss", "gradient"))


def test_a_stop_while_data_are_read_is_not_taken_for_damaged_data(tmp_path):
    run = torture.train(tmp_path / "run", "mlp", hooks=(("signal_in_data", signal.SIGTERM),))
    assert run.end() == 143 and "Stopped by SIGTERM" in run.log.read_text() and not (tmp_path / "run").exists()


def test_a_stop_during_the_report_is_made_up_for(whole, tmp_path):
    assert torture.train(tmp_path / "run", "mlp", hooks=(("signal_in_report", signal.SIGTERM),)).end() == 143
    assert not (tmp_path / "run" / "report.json").exists()
    assert torture.train(tmp_path / "run", "mlp", hooks=QUICK).end() == 0 and (tmp_path / "run" / "report.json").exists()


def test_a_run_that_diverged_says_so_in_one_line(tmp_path):
    run = torture.train(tmp_path / "run", "vamp", "--lr", 1e10, "--on-nan", "skip:1000")
    said = run.end(), run.log.read_text().splitlines()[-1]
    assert said[0] == 5 and said[1].startswith("Error: the validation loss of epoch 3 is not finite")
