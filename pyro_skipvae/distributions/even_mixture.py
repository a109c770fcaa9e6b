"""A mixture whose components have equal weights that are not learned, so that its draws have a gradient."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import Categorical, MixtureSameFamily
from torch import Tensor


class EvenMixture(MixtureSameFamily):  # type: ignore[misc]  # Pyro's has no types
    """1/K sum_k p_k(z): components with batch (..., K) and event (D,), batch (...); `even_mixture` makes one.

    A draw is that of a component chosen at random. Since the choice does not depend on a parameter, the gradient of the draw is
    that of an expectation under the mixture. at_fixed_noise: gives the mixture of other components, where there are such.
    """

    has_rsample = True
    at_fixed_noise: "Callable[[], EvenMixture] | None" = None

    def expand(self, batch_shape: Any, _instance: Any = None) -> "EvenMixture":
        found: EvenMixture = super().expand(batch_shape, _instance)
        if (other := self.at_fixed_noise) is not None:
            found.at_fixed_noise = lambda: other().expand(batch_shape)
        return found

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = torch.Size(sample_shape)
        all_drawn = self.component_distribution.rsample(shape)  # (*sample_shape, ..., K, D)
        count = self.component_distribution.batch_shape[-1]
        chosen = (torch.rand((*shape, *self.batch_shape), device=all_drawn.device) * count).long()
        index = chosen[..., None, None].expand(*chosen.shape, 1, *self.event_shape)
        return all_drawn.gather(len(chosen.shape), index).squeeze(len(chosen.shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)


def even_mixture(components: Any) -> EvenMixture:
    """The `EvenMixture` of components with batch (..., K)."""
    even = torch.zeros(components.batch_shape, device=components.mean.device, dtype=components.mean.dtype)
    return EvenMixture(Categorical(logits=even), components)
