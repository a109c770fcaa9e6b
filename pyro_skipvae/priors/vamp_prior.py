"""The aggregated posterior of learned pseudo-inputs."""

import pyro.distributions as dist
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyro_skipvae.blocks import Standardise


class VampPrior(nn.Module):
    """The VampPrior p(z) = 1/K sum_k q(z|u_k), the aggregated posterior of K learned pseudo-inputs: batch (), event (D,).

    pseudo_inputs: where the u_k start, (K, *event_shape), for example K training points. encoder: that of the VAE; its
    parameters are not registered here a second time. inputs: that of the encoder, for u_k that are learned in its units: a step
    of the optimizer is then as large for any data, and counts stay above -1. Raises ValueError for no pseudo-inputs.

    Reference: Tomczak and Welling 2018, "VAE with a VampPrior".
    """

    def __init__(self, encoder: nn.Module, pseudo_inputs: Tensor, *, inputs: Standardise | None = None) -> None:
        super().__init__()
        if not len(pseudo_inputs):
            raise ValueError("expected at least one pseudo-input of a VampPrior, got none")
        # In a tuple, so that the encoder's parameters are not this module's too: clipping would count them twice.
        self.shared = (encoder,)
        self.inputs = inputs
        self.pseudo_inputs = nn.Parameter(inputs(pseudo_inputs) if inputs else pseudo_inputs.clone())

    def forward(self) -> Distribution:
        weights = dist.Categorical(logits=self.pseudo_inputs.new_zeros(len(self.pseudo_inputs)))
        u = self.inputs.inverse(self.pseudo_inputs) if self.inputs else self.pseudo_inputs
        return dist.MixtureSameFamily(weights, self.shared[0](u))
