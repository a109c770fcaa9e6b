"""Families of posteriors over codes: M categorical variables of K classes, as one-hot rows z (M, K)."""

import math
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_skipvae.blocks import check_shares, check_sizes, in_full
from pyro_skipvae.distributions.one_hot import OneHot, codes_of
from pyro_skipvae.objectives import elbo

WIDTH = 16  # of a code's vector
DEAD = 0.1  # of the even share of a batch: codes that are chosen less often are replaced
TEMPERATURE = 0.5  # of relaxed draws in training


class CategoricalPosterior(nn.Module):
    """q(z|x) of M = `latent_dim` independent categorical variables with K = `classes`: batch (B,), event (M, K).

    The logits are linear in features (B, F). Draws are relaxed in training (`OneHot` with a temperature) and one-hot in
    evaluation. Raises ValueError for a temperature that is not above 0.

    Reference: Jang, Gu, Poole 2017; Zhao, Lee, Eskenazi 2018, "Unsupervised Discrete Sentence Representation Learning".
    """

    def __init__(self, features: int, latent_dim: int, *, classes: int, temperature: float = TEMPERATURE) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"expected a temperature above 0, got {temperature}")
        check_sizes(features=features, latent_dim=latent_dim)
        check_sizes(2, classes=classes)
        self.event_shape, self.temperature = (latent_dim, classes), temperature
        self.parameters_of = nn.Linear(features, latent_dim * classes)

    def forward(self, features: Tensor) -> Any:
        logits = in_full(self.parameters_of(features)).unflatten(-1, self.event_shape)
        return OneHot(logits, temperature=self.temperature if self.training else None).to_event(1)


class CodebookPosterior(nn.Module):
    """The posterior of a VQ-VAE, certain of the codes nearest to M vectors e(x): features (B, F) -> batch (B,), event (M, K).

        z_m = the one-hot row of argmin_k |e_m - c_k|

    M = `latent_dim`, K = `classes`; e is linear in the features, and all M share the codebook c (K, d), `vectors`, with d =
    `width`. In training each call moves the codes by a moving average towards the e that are nearest to them. Codes that are
    out of use, chosen less than a tenth as often as is even in batches of `batch_size`, restart at some e. The library
    `vector_quantize_pytorch` does this, and passes the gradient of the decoder's input on to e. commitment: the weight of
    |e - c|^2; decay: that of the moving average. Raises ImportError without it.

    Reference: van den Oord, Vinyals, Kavukcuoglu 2017, "Neural Discrete Representation Learning", section 3 and appendix A.
    """

    def __init__(
        self,
        features: int,
        latent_dim: int,
        *,
        classes: int,
        width: int = WIDTH,
        commitment: float = 0.25,
        decay: float = 0.99,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        try:
            from vector_quantize_pytorch import VectorQuantize
        except ImportError:
            message = "expected the package vector-quantize-pytorch for a codebook: pip install vector-quantize-pytorch"
            raise ImportError(message) from None
        check_sizes(features=features, latent_dim=latent_dim, width=width, batch_size=batch_size)
        check_sizes(2, classes=classes)
        check_shares(decay=decay)
        if not 0 <= commitment < math.inf:
            raise ValueError(f"expected a commitment of at least 0, got {commitment}")
        self.event_shape, self.commitment = (latent_dim, classes), commitment
        self.parameters_of = nn.Linear(features, latent_dim * width)
        dead = DEAD * batch_size * latent_dim / classes
        self.quantizer = VectorQuantize(
            width, classes, decay=decay, threshold_ema_dead_code=dead,
            kmeans_init=True, sync_codebook=False, rotation_trick=False,
        )  # fmt: skip

    @property
    def vectors(self) -> Tensor:
        """The codebook (K, d)."""
        found: Tensor = self.quantizer.codebook
        return found

    def forward(self, features: Tensor) -> Any:
        e = in_full(self.parameters_of(features)).unflatten(-1, (self.event_shape[0], -1))
        if not self.training:
            return codes_of(torch.cdist(e, self.vectors).argmin(-1), self.event_shape[1], e).to_event(1)
        # What is not finite must not enter the moving average, as it does not enter the optimizer's.
        vectors, classes, loss = self.quantizer(e, freeze_codebook=not bool(e.isfinite().all()))
        logits = codes_of(classes, self.event_shape[1], e).logits
        return Quantised(logits, vectors, self.commitment * e.numel() * loss).to_event(1)


class Quantised(OneHot):
    """Certain codes (..., M, K) with what they are trained by.

    `vectors` (..., M, d) are the codes' own, whose gradient goes on to the e(x) that they are nearest to; `commitment` is the
    sum over all of them of beta |e - c|^2, a tensor ().
    """

    def __init__(self, logits: Tensor, vectors: Tensor, commitment: Tensor) -> None:
        super().__init__(logits)
        self.vectors, self.commitment = vectors, commitment


def quantised(q: Distribution) -> Quantised:
    """The codes of a codebook's posterior in training. Raises ValueError for another distribution."""
    base: Any = q
    while not isinstance(base, Quantised) and hasattr(base, "base_dist"):
        base = base.base_dist
    if not isinstance(base, Quantised):
        raise ValueError(f"expected the posterior of a codebook in training mode, got {type(base).__name__}")
    return base


def codebook_loss(vae: Any) -> Any:
    """What a VQ-VAE minimises, as an objective of its model and guide: nats summed over the batch, a tensor ().

        sum_x -log p(x | c(x)) + M ln K + beta sum_m |e_m - sg(c_m)|^2,   c = e + sg(c - e)

    sg stops the gradient: what the decoder's input is told goes on to e, which is drawn to its codes, while these follow by
    their moving average. In evaluation this is the negative ELBO under the uniform prior.

    Reference: van den Oord, Vinyals, Kavukcuoglu 2017, equation 3, with the moving average of its appendix in place of the
    second term.
    """

    def objective(model: Any, guide: Any, x: Tensor, beta: float = 1.0) -> Tensor:
        if not vae.encoder.training:
            return elbo(model, guide, x)
        pyro.module("encoder", vae.encoder)
        pyro.module("decoder", vae.decoder)
        found = quantised(vae.encoder(x))
        rate = math.prod(found.batch_shape) * math.log(found.logits.shape[-1])
        loss: Tensor = found.commitment + rate - vae.decoder.of_vectors(found.vectors).log_prob(x).sum()
        return loss

    return objective
