"""A distribution over the three channels of each pixel of a colour image."""

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn.functional import softplus

from .grey_levels import GREY, DiscretisedLogistic

SMALLEST_SCALE = 0.001  # of a range of 1, an eighth of the distance of 256 levels: a sharper one changes nothing


class ColourLogistics(TorchDistribution):
    """A mixture of K discretised logistics over red, green and blue together: batch (...), event (3, H, W).

        p(r, g, b) = sum_k w_k L(r; m_1) L(g; m_2 + c_1 (r - 1/2)) L(b; m_3 + c_2 (r - 1/2) + c_3 (g - 1/2))

    L is a `DiscretisedLogistic`. Each pixel and k has its own weight, means, scales and coefficients c in (-1, 1). They are
    read from `eta` (..., 3, H, W, 4 K): for each channel K numbers for the weights (summed over channels), the means, the
    scales and one of the coefficients. Values are k / (levels - 1) in [0, 1]. The probabilities of all values of a pixel sum
    to 1.
    Raises ValueError for an eta of another shape.

    Reference: Salimans, Karpathy, Chen, Kingma 2017 (PixelCNN++), sections 2.1 and 2.2.
    """

    arg_constraints = {"eta": constraints.real}
    has_rsample = False

    def __init__(self, eta: Tensor, levels: int = 256, validate_args: bool | None = None) -> None:
        if eta.dim() < 4 or eta.shape[-4] != 3 or eta.shape[-1] % 4:
            raise ValueError(f"expected parameters (..., 3, H, W, 4 K) of colour images, got {tuple(eta.shape)}")
        self.eta, self.levels = eta, levels
        super().__init__(eta.shape[:-4], eta.shape[-4:-1], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(GREY, 3)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "ColourLogistics":
        eta = self.eta.expand(*batch_shape, *self.eta.shape[-4:])
        return ColourLogistics(eta, self.levels, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        weights, means, scale, coefficients = self._parts()
        each = self._channels(means, value[..., None], coefficients), scale
        of_channels = DiscretisedLogistic(*each, self.levels, validate_args=False).log_prob(value[..., None]).sum(-4)
        return torch.logsumexp(weights + of_channels, -1).sum((-2, -1))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        weights, *parts = (part.expand(*sample_shape, *part.shape) for part in self._parts())
        chosen = torch.distributions.Categorical(logits=weights).sample()[..., None, :, :, None]  # (..., 1, H, W, 1)
        means, scale, coefficients = (
            part.gather(-1, chosen.expand(*part.shape[:-1], 1))[..., 0] for part in parts
        )  # (..., 3, H, W)
        value = means.new_full(shape, 0.5)
        for channel in range(3):  # a channel needs those before it alone
            loc = self._channels(means, value, coefficients, dim=-3).select(-3, channel)
            drawn = DiscretisedLogistic(loc, scale.select(-3, channel), self.levels, validate_args=False).sample()
            value.select(-3, channel).copy_(drawn)
        return value

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log weights (..., H, W, K); means, scales and coefficients (..., 3, H, W, K)."""
        weights, means, scale, coefficients = self.eta.chunk(4, -1)
        return weights.sum(-4).log_softmax(-1), means, softplus(scale) + SMALLEST_SCALE, coefficients.tanh()

    @staticmethod
    def _channels(means: Tensor, value: Tensor, coefficients: Tensor, dim: int = -4) -> Tensor:
        """The mean of each channel, given the channels before it."""
        red, green, _ = (value - 0.5).unbind(dim)
        a, b, c = coefficients.unbind(dim)
        return means + torch.stack([torch.zeros_like(a * red), a * red, b * red + c * green], dim)
