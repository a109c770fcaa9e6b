"""A variational autoencoder as a Pyro model and guide.

Everything that can be swapped is an argument, and each is a module whose forward returns a distribution:
prior `() -> p(z)`, decoder `(z) -> p(x|z)`, encoder `(x) -> q(z|x)`.

Letters used in all comments on shapes: B batch, D latent dimensions, T length, K particles.
"""

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Distribution
from torch import Tensor, nn


class VAE(nn.Module):
    """The latent-variable model p(z) p(x|z) and its amortized guide q(z|x).

        ELBO(x) = E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))

    prior: () -> p(z), batch (), event (D,); decoder: z (..., D) -> p(x|z), batch (...); encoder: x (B, *event_shape) -> q(z|x),
    batch (B,). A generative skip model is this class with a decoder whose layers all see z (`pyro_skipvae.skip`).
    `model` and `guide` take x, further tensors that a conditional prior, decoder and encoder read, and `beta`, the weight of
    the terms of z: without it they give the true bound.

    Reference: Dieng, Kim, Rush, Blei 2019, equation 2 and section 3.
    """

    def __init__(self, prior: nn.Module, decoder: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.prior, self.decoder, self.encoder = prior, decoder, encoder

    def model(self, x: Tensor, *context: Tensor, beta: float = 1.0) -> Any:
        """Sample z (B, D) at the site "z" and observe x (B, *event_shape) at the site "x", in the plate "data"; returns x.

            log density = beta log p(z) + log p(x|z), in nats per datapoint

        Pyro raises ValueError unless beta > 0.
        """
        pyro.module("prior", self.prior)
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", self.prior(*context))
            return pyro.sample("x", self.decoder(z, *context), obs=x)

    def guide(self, x: Tensor, *context: Tensor, beta: float = 1.0) -> Any:
        """Sample z (B, D) from q(z|x) at the site "z" in the plate "data"; returns z.

            log density = beta log q(z|x), in nats per datapoint

        Pyro raises ValueError unless beta > 0.
        """
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)), poutine.scale(scale=beta):
            return pyro.sample("z", self.encoder(x, *context))

    @torch.no_grad()
    def posterior(self, x: Tensor, *context: Tensor) -> Distribution:
        """q(z|x) as the guide samples from it, batch (B,), without gradient: the encoder's own, or refined by the guide."""
        q: Distribution = poutine.trace(self.guide).get_trace(x, *context).nodes["z"]["fn"]  # type: ignore[assignment]
        return q

    def __setattr__(self, name: str, value: Any) -> None:
        # A guide of one's own that is a module would be registered, and hidden behind the method all the same.
        if name in ("model", "guide"):
            self._modules.pop(name, None)
        super().__setattr__(name, value)
        if name in ("model", "guide"):
            self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self.__dict__.pop(name, None)
