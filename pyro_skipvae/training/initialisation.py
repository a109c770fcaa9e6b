"""How weights start, where it is not as torch has it: functions that change a model in place before it is trained."""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_skipvae.model import VAE
from pyro_skipvae.objectives import Batch, elbo
from pyro_skipvae.skip import SkipSequential

CONVOLUTIONS = nn.modules.conv._ConvNd
TRANSPOSED = nn.modules.conv._ConvTransposeNd


def he_normal_(module: nn.Module) -> None:
    """Initialises the linear maps of a module in place by He's normal distribution: weights N(0, 2 / fan-in), biases 0.

    Where U_l z is added to a linear W_l h_l, the fan-in of both is the sum of theirs, as if z were joined to h_l; otherwise
    each skip would add variance. torch's own weights, of variance 1 / (3 fan-in), lose a factor of six in variance at each
    relu, so that the logits of a plain decoder of four layers hardly depend on z at first. Convolutions and embeddings keep
    torch's initialisation, as in the authors' image code.

    Reference: He et al. 2015, equation 10.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, SkipSequential):
            part.share_fan_in_()


@torch.no_grad()
def data_dependent_(vae: VAE, x: Batch) -> None:
    """Initialises encoder and decoder in place so that each unit of every map has mean 0 and variance 1 over a batch x.

        w <- w / s,  b <- (b - m) / s,    m and s: mean and standard deviation of the unit over x (B, *event_shape)

    Maps are the linear and convolutional ones, in the order in which they are computed, so that each one reads what the
    changed maps before it give. A map without a bias is scaled and not centred; a unit that does not vary over x is only
    centred. Draws z once.

    Reference: Salimans and Kingma 2016, equations 5 and 6, without their weight normalisation; Chen et al. 2016 train with
    both (footnote 3 of Dieng et al. 2019).
    """
    done = set()

    def normalise(layer: Any, _: Any, output: Tensor) -> Tensor | None:
        if layer in done:
            return None
        done.add(layer)
        units = 1 if isinstance(layer, CONVOLUTIONS) else output.dim() - 1
        rest = [axis for axis in range(output.dim()) if axis != units]
        mean, scale = output.mean(rest, keepdim=True), output.std(rest, keepdim=True)
        scale = torch.where(scale > 1e-6, scale, 1.0)
        if layer.bias is None:
            mean = torch.zeros_like(mean)
        else:
            layer.bias.sub_(mean.flatten()).div_(scale.flatten())
        weight = layer.weight.movedim(1, 0) if isinstance(layer, TRANSPOSED) else layer.weight
        weight.div_(scale.flatten().reshape([-1] + [1] * (weight.dim() - 1)))
        return (output - mean) / scale

    maps = [part for net in (vae.encoder, vae.decoder) for part in net.modules() if isinstance(part, nn.Linear | CONVOLUTIONS)]
    hooks = [part.register_forward_hook(normalise) for part in maps]
    try:
        with pyro.get_param_store().scope():  # what this run registers there would be in the way of another model
            elbo(vae.model, vae.guide, x)
    finally:
        for hook in hooks:
            hook.remove()
