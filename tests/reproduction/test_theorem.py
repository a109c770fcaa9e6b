"""Theorem 1: the counter-example and the quadrature against closed forms, and what is said of trained arms."""

import pyro
import pytest
import torch

from pyro_skipvae.diagnostics import model_mutual_information
from pyro_skipvae.priors import StandardNormal
from pyro_skipvae.reproduction import theorem, theorem_study
from pyro_skipvae.reproduction.tables import Cell, load_table
from pyro_skipvae.reproduction.theorem import (
    CounterExampleDecoder,
    counter_example,
    pointwise_information,
    prior_grid,
    random_networks,
)
from pyro_skipvae.reproduction.words import orderings


def test_the_counter_example_in_closed_form():
    assert counter_example(0.0) == pytest.approx(2.8332, abs=5e-5)
    assert counter_example(-1.9) == pytest.approx(0.0392, abs=5e-5)
    assert counter_example(-2.0) == 0.0 and counter_example(-4.0) == counter_example(0.0)
    assert all(counter_example(c) < counter_example(0.0) for c in (-3.99, -1.0, -0.01))
    assert counter_example(0.01) > counter_example(0.0)


@pytest.mark.parametrize("c", [-1.9, -0.5, 0.5])
def test_its_relu_network_is_linear_and_fulfils_the_conditions(c):
    decoder = CounterExampleDecoder(c)
    z = torch.randn(5, 3, 2)
    assert decoder(z).batch_shape == (5, 3) and decoder(z).event_shape == (2,)
    assert torch.allclose(decoder(z).base_dist.loc, (2 + c) * z, atol=1e-6)
    assert all(parameter.abs().sum() > 0 for parameter in decoder.parameters())


@pytest.mark.parametrize("c", [-1.9, -1.0, 0.0])
def test_monte_carlo_bounds_hold_the_closed_form(c):
    prior, decoder = StandardNormal(2), CounterExampleDecoder(c)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", decoder(pyro.sample("z", prior())), obs=x)

    bounds = model_mutual_information(model, torch.zeros(1500, 2), samples=1500)
    assert bounds.lower.low <= counter_example(c) <= bounds.upper.high
    assert bounds.upper.high - bounds.lower.low < 0.3


def test_the_quadrature_is_exact_for_a_linear_network():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    z, noise = (torch.randn(200, size, generator=generator, dtype=torch.float64) for size in (2, 8))
    found = pointwise_information(lambda z: z @ weight.T + 3.0, z, noise, prior_grid())
    identity = torch.eye(8, dtype=torch.float64)
    marginal = torch.distributions.MultivariateNormal(torch.zeros(8).double(), weight @ weight.T + 0.25 * identity)
    given_z = torch.distributions.MultivariateNormal(z @ weight.T, 0.25 * identity)
    x = z @ weight.T + 0.5 * noise
    exact = given_z.log_prob(x) - marginal.log_prob(x)
    # The grid ends at 4.5 standard deviations, which single draws of z feel.
    assert (found - exact).abs().max() < 1e-4
    information = 0.5 * torch.logdet(identity + weight @ weight.T / 0.25)
    assert abs(found.mean() - information) < 4 * found.std() / 200**0.5


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_grid_is_fine_enough(activation):
    """Errors stay below a quarter of the smallest standard error of the table, 0.02, and fall with the mesh."""
    generator = torch.Generator().manual_seed(0)
    for network in theorem._pair(activation, 3, 1.4, 0.3, generator):
        z, noise = (torch.randn(50, size, generator=generator, dtype=torch.float64) for size in (2, 8))
        found = [pointwise_information(network, z, noise, prior_grid(points)).mean() for points in (64, 96, 144)]
        assert abs(found[0] - found[2]) < 5e-3 and abs(found[1] - found[2]) < 5e-4


def test_a_network_that_says_nothing_and_skips_that_add_nothing():
    found = random_networks("sigmoid", layers=9, gain=1.0, skip_gain=0.0, networks=2, samples=50)
    assert torch.equal(found.plain, found.skip) and found.violating == 0.0 and not found.errors.any()
    assert found.plain.abs().max() < 1e-3
    assert torch.allclose(found.rescaled, found.plain)


def test_on_average_skips_help_and_the_more_the_deeper():
    shallow, deep = (random_networks("tanh", layers=L, gain=1.0, skip_gain=1.0, networks=6, samples=100) for L in (1, 9))
    assert deep.plain.mean() < shallow.plain.mean()
    assert deep.difference.mean() - shallow.difference.mean() > 0.5
    assert (deep.skip - deep.rescaled).mean() > (shallow.skip - shallow.rescaled).mean()


def test_single_networks_violate_the_theorem():
    found = random_networks("relu", layers=1, gain=1.4, skip_gain=0.3, networks=20, samples=200)
    assert 0 < found.surely_violating <= found.violating < 0.5
    assert found.difference.min() < -3 * found.errors[found.difference.argmin()]
    assert found.difference.mean() > 0


def test_an_activation_that_is_not_there():
    with pytest.raises(ValueError, match="expected an activation among tanh, sigmoid, relu, got 'gelu'"):
        random_networks("gelu", layers=1, gain=1.0, skip_gain=1.0)


def arm(p, q, deviation=0.1, gap=0.05):
    bounds = {"model_mi_lower": p, "model_mi_upper": p + gap, "mi_lower": q, "mi_upper": q + gap}
    return {name: Cell(None, value, deviation, 5) for name, value in bounds.items()}


def told(**arms):
    given = {"skip": arm(3, 3), "parameter-matched": arm(2, 2), "plain": arm(1, 1), "last layer only": arm(2.5, 2.5)}
    return theorem_study.tests_in_words(given | arms)


def test_the_claim_stands_where_both_informations_are_higher_in_one_order():
    *pairs, first, second = told()
    assert len(pairs) == 6 and all("(shown)" in pair for pair in pairs)
    assert first.endswith("The claim stands.") and second.endswith("The mechanism stands.")
    assert "order 6 alike and 0 differently" in second


@pytest.mark.parametrize(
    ("control", "words"),
    [
        (arm(4, 4), "less of I_p and of I_q. The claim is falsified"),
        (arm(2, 4), "less of I_q. The claim is falsified"),
        (arm(3, 3), "more of I_p and of I_q is not shown, which counts against the claim"),
        (arm(2, 2.95), "more of I_q is not shown, which counts against the claim"),
    ],
)
def test_the_first_test_is_against_as_many_parameters(control, words):
    assert words in told(**{"parameter-matched": control})[-2]


def test_one_seed_of_an_arm_decides_nothing():
    single = {name: Cell(None, 1.0, None, 1) for name in (*theorem_study.I_P, *theorem_study.I_Q)}
    assert told(skip=single)[-2].endswith("one seed of an arm decides nothing.")


def test_the_second_test_is_of_the_two_orders():
    differing = told(plain=arm(4, 1))[-1]
    assert "differently (skip and plain; " in differing and differing.endswith("The mechanism is falsified here.")
    same = arm(3, 3)
    nothing = told(plain=same, **{"parameter-matched": same, "last layer only": same})[-1]
    assert nothing.endswith("That is undecided.")
    one = told(plain=arm(1, 3))[-1]
    assert "of 1 only one of the two shows an order (skip and plain)" in one


def test_what_is_shown_what_is_indicated_and_what_is_neither():
    bounds = theorem_study.I_P
    orders = [theorem_study.order(arm(p, 0, gap=0.5), arm(3, 0, gap=0.5), bounds) for p in (4.0, 3.3, 3.1, 2.7, 2.0)]
    assert [order.sign for order in orders] == [1, 1, 0, -1, -1]
    assert [order.words.split("(")[1] for order in orders] == [
        "shown)", "indicated)", "not shown)", "indicated)", "shown)",
    ]  # fmt: skip
    single = {name: Cell(None, 1.0, None, 1) for name in bounds}
    assert theorem_study.order(single, single, bounds).words.endswith("(one seed: not shown)")


def test_the_table_of_trained_arms():
    table = load_table("theorem1")
    assert {run.arm for run in table.runs} == {"skip", theorem_study.CONTROL, *theorem_study.OTHERS}
    assert len(table.runs) == 20 and orderings(table, []) == ["The tests stated beforehand wait for the trained arms."]


def test_what_stands_before_the_table(monkeypatch):
    few = theorem_study.random_table(networks=2)
    assert few.count("\n") == 1 + 9 and len({len(line) for line in few.split("\n")}) == 1
    monkeypatch.setattr(theorem_study, "random_table", lambda: few)
    told = theorem_study.premise.__wrapped__()
    assert told[0].startswith("What would falsify the claim") and few in told
    assert any("| -1.9 |" in part and "| 0.04 |" in part for part in told)
