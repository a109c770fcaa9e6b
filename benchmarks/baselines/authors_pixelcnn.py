"""The PixelCNN as the paper's authors wrote it, evaluated with the weights of ours: a port of the structure, not of the text.

Padding, joining and each convolution are operations of their own, in torch's usual memory format; every layer has its own
linear map of z, and the topmost vertical gate is computed, though nobody reads it.
"""

import torch
from torch.nn import functional as F

from pyro_skipvae.decoders.pixelcnn import BOTTOM
from pyro_skipvae.skip import OUTPUT


def natural_parameters(decoder, x, z):
    """eta (N, 1, H, W) of a `PixelCNNDecoder` with one channel, all skips and no attention."""
    maps = latent_maps(decoder, z)
    image = x[:, None].contiguous()
    vertical = torch.cat([F.pad(image, (0, 0, 1, 0))[:, :, :-1], maps[BOTTOM]], 1)
    horizontal = torch.cat([F.pad(image, (1, 0))[:, :, :, :-1], maps[BOTTOM]], 1)
    for l, layer in enumerate(decoder.layers, 1):
        vertical, horizontal = gated_layer(layer, vertical, horizontal, maps[l])
    return decoder.output(torch.cat([horizontal, maps[OUTPUT]], 1))


def latent_maps(decoder, z):
    stacked = decoder.latent_maps
    sizes = list(stacked.sizes.values())
    weights, biases = stacked.stacked.weight.split(sizes), stacked.stacked.bias.split(sizes)
    shape = (-1, 1, *decoder.image_shape[1:])
    return {name: F.linear(z, w, b).reshape(shape) for name, w, b in zip(stacked.sizes, weights, biases, strict=True)}


def gated_layer(layer, vertical, horizontal, u):
    reach = layer.reach
    v = layer.vertical(F.pad(torch.cat([vertical, u], 1), (reach, reach, reach, 0)))
    h = layer.horizontal(F.pad(torch.cat([horizontal, u], 1), (reach, 0)))
    out = layer.mix(gate(layer.down(v) + h))
    return gate(v), horizontal + out if layer.residual else out


def gate(features):
    a, b = features.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)
