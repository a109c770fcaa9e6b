"""Bits per dimension: known answers, and where there are none."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_skipvae.diagnostics import collapse_report
from pyro_skipvae.diagnostics.report.report import CollapseReport
from pyro_skipvae.distributions.grey_levels import GreyLevels

SHIFT = 0.8


def pair(likelihood):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", likelihood, obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.full((1,), SHIFT), 1.0).to_event(1))

    return model, guide


def test_levels_of_equal_probability_take_8_bits_each_and_the_rate_comes_on_top():
    x = torch.randint(256, (60, 2, 3)) / 255
    report = collapse_report(*pair(GreyLevels(torch.zeros(2, 3, 256)).to_event(2)), x, importance_samples=20, levels=256)
    bits, rate = report.bits_per_dimension, SHIFT**2 / 2 / (6 * math.log(2))
    assert bits["bits_elbo"]["value"] == pytest.approx(8 + rate, rel=1e-5)
    assert bits["bits_rate"]["value"] == pytest.approx(rate, rel=1e-5)
    assert bits["bits_iw"]["value"] < 8 + rate and bits["bits_iw"]["high"] > 8  # draws of z add noise, on either side
    assert (bits["dimensions"], bits["levels"], bits["bits_elbo"]["images"]) == (6, 256, 60)
    assert "bits per dimension" in str(report)
    again = CollapseReport.from_json(report.to_json())
    assert again.estimates()["bits_elbo"].value == pytest.approx(8 + rate) and again.estimates()["bits_rate"].points == 60


def test_a_density_has_none_and_says_why():
    report = collapse_report(*pair(dist.Normal(torch.zeros(2), 1.0).to_event(1)), torch.randn(20, 2), levels=256)
    assert report.bits_per_dimension is None and "density" in report.card["unavailable"]["bits_per_dimension"]
    plain = collapse_report(*pair(dist.Normal(torch.zeros(2), 1.0).to_event(1)), torch.randn(20, 2))
    assert plain.bits_per_dimension is None and "bits_per_dimension" not in plain.card["unavailable"]
