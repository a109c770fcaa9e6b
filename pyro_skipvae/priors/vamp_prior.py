"""The aggregated posterior of learned pseudo-inputs."""

import pyro.distributions as dist
from pyro.distributions import Distribution
from torch import Tensor, nn


class VampPrior(nn.Module):
    """The VampPrior p(z) = 1/K sum_k q(z|u_k), the aggregated posterior of K learned pseudo-inputs: batch (), event (D,).

    pseudo_inputs: where the u_k start, (K, *event_shape), for example K training points. encoder: that of the VAE; its
    parameters are not registered here a second time. Raises ValueError for no pseudo-inputs.

    Reference: Tomczak and Welling 2018, "VAE with a VampPrior".
    """

    def __init__(self, encoder: nn.Module, pseudo_inputs: Tensor) -> None:
        super().__init__()
        if not len(pseudo_inputs):
            raise ValueError("expected at least one pseudo-input of a VampPrior, got none")
        # In a tuple, so that the encoder's parameters are not this module's too: clipping would count them twice.
        self.shared = (encoder,)
        self.pseudo_inputs = nn.Parameter(pseudo_inputs.clone())

    def forward(self) -> Distribution:
        weights = dist.Categorical(logits=self.pseudo_inputs.new_zeros(len(self.pseudo_inputs)))
        return dist.MixtureSameFamily(weights, self.shared[0](self.pseudo_inputs))
