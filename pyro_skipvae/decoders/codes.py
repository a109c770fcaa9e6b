"""What makes a decoder of vectors one of codes."""

from typing import Any

from pyro.distributions import Distribution
from torch import Tensor, nn


class CodesDecoder(nn.Module):
    """Makes a decoder of vectors (..., D) one of codes: p(x|z) of M one-hot rows, z (..., M, K) -> batch (...).

    Without a codebook the decoder reads the rows as one vector, D = M K, so that its linear maps of z hold a vector for each
    class of each variable. With a `codebook`, a module with `vectors` (K, d), it reads the vectors of the rows, D = M d. z may
    also be relaxed, that is lie between one-hot rows.
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
