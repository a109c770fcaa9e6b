"""Three forms of free bits: value and gradient against what is written down for a pair whose KL is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import skipvae
from torch.distributions import kl_divergence

from pyro_skipvae.objectives import analytic_elbo, free_bits_per_dimension, free_bits_per_group, free_bits_total
from pyro_skipvae.priors import AR1

B, D = 3, 2


class Known(torch.nn.Module):
    """q(z|x) = N(loc_x, 1), p(z) = N(0, 1), so that KL_xd = loc_xd^2 / 2; p(x|z) = N(x; 0, 1) does not read z."""

    def __init__(self, loc):
        super().__init__()
        self.loc = torch.nn.Parameter(loc)

    def model(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=beta):
                pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), obs=x)

    def guide(self, x, beta=1.0):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=beta):
            pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))


#   KL_xd      means of d: 3, 0.5    totals of x: 2, 5, 3.5
KL = [[2.0, 0.0], [4.0, 1.0], [3.0, 0.5]]
X = torch.tensor([[0.5], [1.0], [-2.0]])
CASES = {
    # the cost, and which KL_xd it still pulls at
    "group 1": (free_bits_per_group(1.0), 3 * (3 + 1), [[1, 0], [1, 0], [1, 0]]),
    "group 0.4": (free_bits_per_group(0.4), 10.5, [[1, 1], [1, 1], [1, 1]]),
    "dimension 2.5": (free_bits_per_dimension(2.5), 2.5 + 2.5 + 4 + 2.5 + 3 + 2.5, [[0, 0], [1, 0], [1, 0]]),
    "total 3": (free_bits_total(3.0), 3 + 5 + 3.5, [[0, 0], [1, 1], [1, 1]]),
    "total 9": (free_bits_total(9.0), 27, [[0, 0]] * 3),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_value_and_gradient(name, beta, float64):
    objective, cost, pulled = CASES[name]
    pair = Known((2 * torch.tensor(KL, dtype=torch.float64)).sqrt())
    loss = objective(pair.model, pair.guide, X.double(), beta)
    fit = (X.double().square() / 2 + math.log(2 * math.pi) / 2).sum()
    torch.testing.assert_close(loss, fit + beta * cost)
    loss.backward()
    torch.testing.assert_close(pair.loc.grad, beta * torch.tensor(pulled, dtype=torch.float64) * pair.loc.detach())


@pytest.mark.parametrize("free_bits", [free_bits_per_group, free_bits_per_dimension, free_bits_total])
def test_without_free_nats_it_is_the_negative_elbo(free_bits, float64):
    pair = Known(torch.randn(B, D))
    torch.testing.assert_close(
        free_bits(0.0)(pair.model, pair.guide, X.double(), 0.7), analytic_elbo(pair.model, pair.guide, X.double(), 0.7)
    )


def test_the_floor_of_a_sequence_is_on_what_a_step_adds(float64):
    prior = AR1(4, 2, correlation=0.9)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), obs=x)

    q = dist.Normal(torch.randn(B, 4, 2), 0.5).to_event(2)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q)

    fit = (X.double().square() / 2 + math.log(2 * math.pi) / 2).sum()
    torch.testing.assert_close(free_bits_total(0.0)(model, guide, X.double()) - fit, kl_divergence(q, prior()).sum())
    assert free_bits_per_dimension(100.0)(model, guide, X.double()) - fit == pytest.approx(100 * 8 * B)


def test_what_is_refused():
    for nats in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="free bits of at least 0 nats"):
            free_bits_total(nats)

    def full(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(torch.zeros(D), torch.eye(D)))

    pair = Known(torch.randn(B, D))
    with pytest.raises(ValueError, match="a KL for each dimension in closed form for free bits, got MultivariateNormal"):
        free_bits_total(1.0)(pair.model, full, X)


@pytest.mark.parametrize("objective", ["free-bits-total", "free-bits-total(-1)", "free-bits(1)", "free-bits-total(x)"])
def test_the_command_line_refuses(objective, tmp_path):
    done = skipvae("train", "--objective", objective, "--print-config", cwd=tmp_path)
    assert done.returncode == 2 and "free-bits-total(NATS)" in done.stderr


def test_a_run_reports_the_plain_elbo(tmp_path):
    import json

    small = "--epochs 1 --decoder mlp --width 8 --layers 1 --limit-train 80 --limit-eval 40 --report-budget 1".split()
    done = skipvae("train", "--objective", "free-bits-per-dimension(50)", *small, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text())
    assert line["train_loss"] > 50 * 50 and line["valid_elbo"] > -200
