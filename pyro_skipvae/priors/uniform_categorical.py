"""The uniform prior over codes: independent categorical variables whose classes are all alike likely."""

import torch
from pyro.distributions import Distribution
from torch import nn

from pyro_skipvae.blocks import check_sizes
from pyro_skipvae.distributions.one_hot import OneHot


class UniformCategorical(nn.Module):
    """The uniform prior over codes, p(z) = 1 / K^M for M = `variables` one-hot rows of K = `classes`: batch (), event (M, K).

    Raises ValueError for fewer than 1 variable or 2 classes.
    """

    logits: torch.Tensor

    def __init__(self, variables: int, classes: int) -> None:
        super().__init__()
        check_sizes(variables=variables)
        check_sizes(2, classes=classes)
        self.register_buffer("logits", torch.zeros(variables, classes), persistent=False)

    def forward(self) -> Distribution:
        return OneHot(self.logits).to_event(1)
