"""What makes a decoder of vectors one of codes."""

from typing import Any

from pyro.distributions import Distribution
from torch import Tensor, nn


class CodesDecoder(nn.Module):
    """p(x|z) of one-hot rows z (..., M, K), by a decoder that reads one vector (..., D): z (..., M, K) -> batch (...).

    Without a codebook the decoder reads the rows one after the other, D = M K, so that its linear maps of z hold a vector for
    each class of each variable. With a `codebook`, a module whose `vectors` (K, d) it looks up, it reads those of the rows,
    D = M d. z may lie between one-hot rows.
    """

    def __init__(self, decoder: nn.Module, codebook: nn.Module | None = None) -> None:
        super().__init__()
        self.decoder = decoder
        self.shared = (codebook,)  # in a tuple: it belongs to the encoder, whose tensors are not this module's too

    def forward(self, z: Tensor) -> Distribution:
        codebook: Any = self.shared[0]
        return self.of_vectors(z if codebook is None else z @ codebook.vectors)

    def of_vectors(self, vectors: Tensor) -> Distribution:
        """p(x|z) of the vectors (..., M, d) of the codes."""
        found: Distribution = self.decoder(vectors.flatten(-2))
        return found
