"""What wraps a distribution or a support is taken off, however often it is there."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Independent, MixtureSameFamily

from pyro_skipvae.distributions.wrapped import innermost, innermost_support
from pyro_skipvae.training.adversarial import _contrast

NORMAL = torch.distributions.Normal(torch.zeros(4, 2, 3), 1.0)
TWICE = Independent(Independent(NORMAL, 1), 1)


@pytest.mark.parametrize(
    ("distribution", "support"),
    [
        (NORMAL, dist.constraints.real),
        (TWICE, dist.constraints.real),
        (dist.MultivariateNormal(torch.zeros(3), torch.eye(3)), dist.constraints.real),
        (MixtureSameFamily(torch.distributions.Categorical(torch.ones(2)), Independent(NORMAL, 1)), dist.constraints.real),
        (dist.Dirichlet(torch.ones(3)), dist.constraints.simplex),
        (dist.Categorical(torch.ones(3)).expand((2,)).to_event(1), None),
    ],
)
def test_the_support_of_single_elements(distribution, support):
    found = innermost_support(distribution.support)
    assert found is support if support else found.is_discrete


def test_masks_are_taken_off_where_they_are_to_be():
    wrapped = dist.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False])).to_event(1).expand((5,))
    assert type(innermost(wrapped, masks=True)) is dist.Normal
    assert isinstance(innermost(wrapped), dist.MaskedDistribution)
    assert innermost(TWICE) is NORMAL


def test_a_posterior_with_events_within_events_has_its_contrast_of_normals():
    assert _contrast(TWICE).event_shape == (2, 3)
    assert _contrast(dist.Beta(torch.ones(4, 3), 1.0).to_event(1)) is None
