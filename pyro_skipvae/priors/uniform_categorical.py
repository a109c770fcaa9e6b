"""The uniform prior over codes: independent categorical variables whose classes are all alike likely."""

import torch
from pyro.distributions import Distribution
from torch import nn

from pyro_skipvae.distributions.one_hot import OneHot


class UniformCategorical(nn.Module):
    """The uniform prior over codes, p(z) = 1 / K^M for M = `variables` one-hot rows of K = `classes`: batch (), event (M, K).

    Raises ValueError for fewer than 1 variable or 2 classes.
    """

    logits: torch.Tensor

    def __init__(self, variables: int, classes: int) -> None:
        super().__init__()
        if variables < 1 or classes < 2:
            raise ValueError(f"expected at least 1 variable of at least 2 classes, got {variables} of {classes}")
        self.register_buffer("logits", torch.zeros(variables, classes), persistent=False)

    def forward(self) -> Distribution:
        return OneHot(self.logits).to_event(1)
