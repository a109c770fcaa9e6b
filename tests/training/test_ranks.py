"""Two processes make the step that one makes of the whole batch, and stay equal bit by bit."""

import os
import signal
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import SGD, Adam, ExponentialLR
from several_processes import Job
from torch import nn
from torch.nn import functional as F

from pyro_skipvae import VAE, svi_step
from pyro_skipvae.decoders import MLPDecoder
from pyro_skipvae.encoders import MLPEncoder
from pyro_skipvae.guides import InverseAutoregressiveFlow, SemiAmortized
from pyro_skipvae.objectives import elbo, iwae
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.schedules import RateControl
from pyro_skipvae.training import AveragingOptim, Critic, adversarial_variational_bayes_step, join_ranks, lagging_step
from pyro_skipvae.training.ranks import Ranks, _place, digest
from pyro_skipvae_cli.job import as_trained

SHAPE = (3, 3)
CASES = {
    "elbo": (elbo, {}),
    "iwae": (iwae(4), {}),  # as many particles as the first process has rows
    "flow": (elbo, {"posterior": InverseAutoregressiveFlow}),
    "semi-amortized": (elbo, {"refined": True}),
    "control": (elbo, {"control": 0.01}),
    "lagging": (elbo, {"make": "lagging"}),
    "game": (None, {"make": "game"}),
    "trace elbo": (Trace_ELBO(num_particles=2, vectorize_particles=True), {}),
}


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_process_takes_its_rows_of_each_tensor(kind):
    ranks = Ranks.__new__(Ranks)  # without other processes
    ranks.rank, ranks.size = 1, 2
    x, context, width = torch.arange(6), torch.arange(6) + 10, torch.tensor(3.0)
    found = ranks.share(kind([x, context, width]))
    assert [part.tolist() for part in found] == [[3, 4, 5], [13, 14, 15], 3.0]
    assert ranks.share(x).tolist() == [3, 4, 5]


def made(posterior=None, refined=False):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    encoder = MLPEncoder(SHAPE, 2, hidden=(4,), **({"posterior": posterior} if posterior else {}))
    vae = VAE(StandardNormal(2), MLPDecoder(2, SHAPE, layers=1, width=4), encoder).double()
    if refined:
        vae.guide = SemiAmortized(vae.model, vae.guide, steps=2)
    return vae


def trained(ranks, name):
    """The parameters after steps on batches of 7, 1 and 8 rows, in double precision; the losses; a random number after it."""
    objective, about = CASES[name]
    control = RateControl(about.pop("control"), integral=0.1) if "control" in (about := dict(about)) else None
    beta = control or (lambda step: 1.0)
    make = about.pop("make", None)
    vae = made(**about)
    how = {"max_norm": 1.0, "ranks": ranks, "control": control}
    pair, optim = (vae.model, vae.guide), Adam({"lr": 0.01})
    if make == "lagging":
        rows = torch.ones(5, *SHAPE).double()
        step = lagging_step(*pair, objective, optim, draw=lambda number: rows, valid=rows, every=1, most=4, **how)
    elif make == "game":
        critic = Critic(2, features=nn.Flatten(), feature_size=9).double()
        step = adversarial_variational_bayes_step(*pair, optim, prior=vae.prior, critic=critic, **how)
    else:
        step = svi_step(*pair, objective, optim, **how)
    losses = [step((torch.rand(rows, *SHAPE) < 0.5).double(), beta(step.steps)).item() for rows in (7, 1, 8)]
    losses.append(beta(step.steps))
    if make == "lagging":
        losses += [step.after_epoch(), float(step.phase.active)]
    losses.append(float(step.evaluate(torch.ones(5, *SHAPE).double())))
    parameters = torch.cat([parameter.detach().flatten() for parameter in vae.parameters()])
    return parameters.tolist(), losses, torch.rand(()).item()


def all_trained():
    ranks = join_ranks()
    return {name: trained(ranks, name) for name in CASES}


def test_two_processes_make_the_steps_that_one_makes():
    first, second = Job(all_trained).results()
    assert first == second  # bit by bit
    for name in CASES:
        (values, losses, after), (expected, alone, drawn) = first[name], trained(None, name)
        assert torch.tensor(values).allclose(torch.tensor(expected), rtol=0, atol=1e-9), name
        assert losses == pytest.approx(alone, rel=1e-9) and after == drawn, name


def draws():
    """What one process draws of the noise for 5 rows, and of dropout, and the next common number."""
    ranks, rows = join_ranks(), []
    torch.manual_seed(1)
    with ranks.noise(5):
        mine = len(range(5)[ranks.rows(5)])
        rows += [torch.randn(mine, 2), torch.empty(mine, 2).normal_(), torch.normal(torch.ones(4, mine), 2.0)]
        with pyro.plate("data", mine), pyro.plate("particles", 2, dim=-2):
            rows.append(pyro.sample("z", dist.Uniform(0.0, 1.0)))
        weight = pyro.sample("w", dist.Normal(0.0, torch.ones(2)).to_event(1))
        mask, masked = F.dropout(torch.ones(40)), torch.rand(mine, 40)
        seeds = torch.randint(2**62, ())
    with ranks.noise(5):
        again = F.dropout(torch.ones(40))
    with ranks.noise(5, step=1):
        other = F.dropout(torch.ones(40))
    plain = [tensor.tolist() for tensor in (*rows, weight, mask, masked, again, other)]
    return plain, seeds.item(), torch.rand(()).item()


def test_noise_of_rows_is_that_of_the_whole_batch_and_other_draws_are_each_process_s_own():
    torch.manual_seed(1)
    expected = [torch.randn(5, 2), torch.randn(5, 2), torch.normal(torch.ones(4, 5), 2.0)]
    found, seeds, after = zip(*Job(draws).results(), strict=True)
    assert seeds[0] == seeds[1] and after[0] == after[1]
    for place, dim in ((0, 0), (1, 0), (2, 1)):
        assert torch.cat([torch.tensor(parts[place]) for parts in found], dim).equal(expected[place])
    assert torch.cat([torch.tensor(parts[3]) for parts in found], 1).shape == (2, 5) and found[0][4] == found[1][4]
    masks = [torch.tensor(parts[5]) for parts in found]
    assert not masks[0].equal(masks[1]) and found[0][5] == found[0][7] != found[0][8]
    assert found[0][6][0] != found[1][6][0]


def averaged(twice):
    """A pair of one's own, of parameters of Pyro's store, trained by Pyro's SVI on the rows of this process."""
    ranks = join_ranks()
    torch.manual_seed(ranks.rank)
    x = torch.arange(8.0)[ranks.rows(8)]

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("centre", torch.randn(())), 1.0), obs=x)

    def guide(x):
        pyro.param("width", torch.tensor(1.0), constraint=dist.constraints.positive)
        if twice and ranks.rank == 1:
            pyro.param("lonely", torch.tensor(1.0))

    svi = SVI(model, guide, AveragingOptim(SGD({"lr": 0.1}), ranks), Trace_ELBO())
    for _ in range(50):
        svi.step(x)
    return pyro.param("centre").item()


def test_an_optimizer_that_averages_serves_any_pair():
    first, second = Job(averaged, False).results()
    assert first == second == pytest.approx(3.5, abs=1e-4)  # the mean over both, of 0..3 and 4..7


def test_an_optimizer_that_averages_takes_no_schedule():
    with pytest.raises(ValueError, match="a new optimizer without a learning-rate schedule"):
        AveragingOptim(ExponentialLR({"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.1}, "gamma": 0.1}), None)


def test_a_parameter_that_one_process_lacks_is_named():
    for told in Job(averaged, True).results():
        assert told.startswith("ValueError: expected every process to use the parameter lonely")


def apart():
    ranks, vae = join_ranks(), made()
    with torch.no_grad():
        next(vae.decoder.parameters()).add_(ranks.rank)
    svi_step(vae.model, vae.guide, elbo, Adam({"lr": 0.1}), ranks=ranks)(torch.ones(4, *SHAPE).double())


def test_processes_that_start_apart_are_told_so():
    for told in Job(apart).results():
        assert told.startswith("ValueError: expected equal values of the parameter decoder.")


def unfinite():
    ranks, vae = join_ranks(), made()
    step = svi_step(vae.model, vae.guide, elbo, Adam({"lr": 0.1}), ranks=ranks)
    x = torch.ones(4, *SHAPE).double()
    step(x)
    before = [digest(parameter) for parameter in vae.parameters()]
    x[0] = torch.nan  # a row of the first process
    with as_trained():
        step(x)
    return before == [digest(parameter) for parameter in vae.parameters()], step.nonfinite().what


def test_no_process_steps_where_one_of_them_met_something_not_finite():
    for unchanged, what in Job(unfinite).results():
        assert unchanged and what == ("input", "loss", "gradient")


def killed():
    ranks = join_ranks()
    start = time.monotonic()
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        ranks.wait()
    except Exception as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - start


def test_a_process_that_was_killed_is_told_by_the_others():
    (told, seconds), nothing = Job(killed).results()
    assert nothing is None and seconds < 60 and told.startswith("RankLost: expected 2 processes, but that of rank 1 (pid ")


def counted():
    ranks = join_ranks()
    parts = [ranks.whole(torch.arange(count)[ranks.rows(count)], count).tolist() for count in (1, 2, 7)]
    return parts, ranks.gather("é" * ranks.rank), ranks.any(ranks.rank == 1, False)


def test_values_of_rows_are_gathered():
    for parts, texts, flags in Job(counted, size=3).results():
        assert parts == [[0], [0, 1], [*range(7)]] and texts == ["", "é", "éé"] and flags == [True, False]


@pytest.mark.parametrize(("rank", "size"), [(None, "2"), ("0", "two"), ("2", "2"), (None, "0"), ("0", None)])
def test_variables_that_cannot_be_meant_are_told(rank, size):
    with pytest.raises(ValueError, match="expected RANK from 0 to WORLD_SIZE - 1"):
        join_ranks({name: value for name, value in (("RANK", rank), ("WORLD_SIZE", size)) if value})


def test_one_process_joins_nobody():
    assert join_ranks({}) is join_ranks({"RANK": "0", "WORLD_SIZE": "1"}) is None and _place({"WORLD_SIZE": "1"}) == (0, 1)
    with pytest.raises(ValueError, match="expected MASTER_ADDR and MASTER_PORT"):
        join_ranks({"RANK": "0", "WORLD_SIZE": "2"})
