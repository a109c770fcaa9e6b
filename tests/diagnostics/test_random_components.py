"""Bounds on the mutual information against a random set of components: closed forms, brute force, and what is read of x."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_skipvae.diagnostics import collapse_report, mutual_information
from pyro_skipvae.diagnostics.estimates import random_components
from pyro_skipvae.diagnostics.estimates.components import Components
from pyro_skipvae.diagnostics.estimates.pairwise import pairwise_log_prob
from pyro_skipvae.diagnostics.estimates.random_components import PART, terms
from pyro_skipvae.diagnostics.pairs.rows import parts_of

INFORMATION = 0.5 * math.log(1 + 0.5**2 / 0.3**2)  # of each dimension: z | x ~ N(x / 2, 0.3), x ~ N(0, 1)


def normal(loc, scale):
    return dist.Normal(loc, scale).to_event(1)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(x.new_zeros(x.shape), 1.0))
        pyro.sample("x", normal(z, 1.0), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(x / 2, 0.3))


def spread(x, apart=1e3):
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(apart * x, 0.1))


class Read:
    """Rows that are made when they are read; remembers how many were read at once."""

    def __init__(self, rows, columns=2):
        self.shape, self.most = (rows, columns), 0

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, part):
        start, stop, _ = part.indices(len(self))
        self.most = max(self.most, stop - start)
        made = [torch.randn(self.shape[1], generator=torch.Generator().manual_seed(row)) for row in range(start, stop)]
        return torch.stack(made).double()


def rows(count, seed=0):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_terms_are_those_of_the_definition():
    """Points 1 and 3 are components too, at places 2 and 0: their own component is not one of the others."""
    loc, places = rows(4), torch.tensor([-1, 2, -1, 0])
    others = torch.stack([loc[3], rows(1, 5)[0], loc[1]])
    q, mixture = normal(loc, 0.3), normal(others, 0.3)
    z = q.sample((2,))
    lower, upper = terms(
        Components([mixture], [pairwise_log_prob(mixture)], z), Components([q], [pairwise_log_prob(q)], z), places
    )
    for s in range(2):
        for i, place in enumerate(places.tolist()):
            own = q.log_prob(z[s])[i]
            left = [mixture.log_prob(z[s, i].expand(3, 2))[j] for j in range(3) if j != place]
            torch.testing.assert_close(lower[s, i], own - torch.stack([own, *left]).logsumexp(0) + math.log(len(left) + 1))
            torch.testing.assert_close(upper[s, i], own - torch.stack(left).logsumexp(0) + math.log(len(left)))


def test_the_truth_lies_between_the_bounds():
    found = mutual_information(model, guide, rows(5000), components=1000)
    assert (found.points, found.components, found.ceiling) == (5000, 1000, pytest.approx(math.log(1001)))
    assert found.lower.low <= 2 * INFORMATION <= found.upper.high
    assert found.lower.value < found.upper.value and abs(found.lower.value - 2 * INFORMATION) < 0.1
    assert abs(found.marginal.value - 2 * INFORMATION) < 0.1
    assert found.marginal_reference.endswith("1000 points of the random components")


def test_all_points_as_components_are_the_plain_bounds():
    """The draws of z differ, so they agree to the noise of one draw for each of 2,000 points."""
    x = rows(2000)
    found, plain = mutual_information(model, guide, x, components=2000), mutual_information(model, guide, x)
    assert found.ceiling == plain.ceiling
    for one, other in ((found.lower, plain.lower), (found.upper, plain.upper)):
        assert abs(one.value - other.value) < 3 * (other.high - other.value)
    assert found.marginal is None and "all rows of x are components" in found.unavailable["marginal"]


@pytest.mark.parametrize("apart, expected", [(0.0, 0.0), (1e3, math.log(51))])
def test_posteriors_that_are_equal_or_far_apart(apart, expected):
    """No information, and all that can be seen: ln(M + 1), ln M for the fiftieth of the points that are components."""
    found = mutual_information(model, lambda x: spread(x, apart), rows(2500), components=50)
    assert found.lower.value == pytest.approx(expected, abs=1e-3)
    assert found.saturated == (apart > 0)


def test_x_is_read_part_by_part():
    x = Read(2 * PART + 10)
    report = collapse_report(model, guide, x, components=100, importance_samples=1, posterior_samples=1,
                             sizes=None, budget=1e-9)  # fmt: skip
    assert x.most <= max(PART, 10_000)
    assert report.card["mi_points"] == len(x) and report.card["mi_components"] == 100
    assert report.mi_ceiling == pytest.approx(math.log(101))
    low, high = report.aggregate_kl.low, report.aggregate_kl.high
    loc, scale = 0.0, (0.25 + 0.09) ** 0.5  # of q(z): KL to N(0, 1) in closed form
    exact = 2 * (0.5 * (scale**2 + loc**2 - 1) - math.log(scale))
    assert low <= exact <= high
    assert report.estimates()["mi_lower"].points == len(x)
    assert f"{len(x):,} points against 100 random ones" in str(report)


def test_memory_is_that_of_a_part():
    x = Read(3 * PART)
    mutual_information(model, guide, x, components=10)
    assert x.most == PART


def test_one_component_is_no_mixture():
    with pytest.raises(ValueError, match="expected at least 2 components"):
        mutual_information(model, guide, rows(30), components=1)


def test_a_last_part_of_one_row_joins_its_neighbour(monkeypatch):
    monkeypatch.setattr(random_components, "PART", 100)
    found = mutual_information(model, guide, rows(401), components=50)
    assert found.points == 401 and found.lower.low <= 2 * INFORMATION <= found.upper.high
    assert parts_of(401, 100, 32) == [(0, 100), (100, 200), (200, 300), (300, 401)]


def test_one_row_that_is_no_component_has_no_interval():
    found = mutual_information(model, guide, rows(100), components=99)
    assert math.isfinite(found.marginal.value) and math.isnan(found.marginal.low)


def test_a_row_that_is_not_finite_is_named_and_leaves_the_other_estimates():
    x = rows(200)
    x[117] = math.nan
    report = collapse_report(model, guide, x, components=50, importance_samples=1, posterior_samples=2)
    assert report.mi_lower is None and "row 117 of x" in report.card["unavailable"]["mi_lower"]
    assert report.mi_ceiling == pytest.approx(math.log(51)) and report.card["mi_components"] == 50
    assert report.active_units is None and len(report.active_unit_variances) == 2
