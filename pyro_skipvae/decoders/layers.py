"""The layers of a decoder by name, from the bottom to the output: what can be asked how much it depends on z."""

from typing import Any

from torch import nn

from pyro_skipvae.skip import OUTPUT, SkipSequential

from .codes import CodesDecoder
from .identifiable import IdentifiableMLPDecoder
from .pixelcnn import PixelCNNDecoder
from .text import TextNetwork


def layers_of(decoder: nn.Module) -> dict[str, nn.Module]:
    """{name: module} of the layers of a decoder of this package, "1" to "L" and "output", numbered as its skips are.

    Each gives what the layer above reads, with U_l z in it. A decoder of texts has no "output": its scores are made word by
    word, beside its modules. Of another decoder it is the modules with weights of their own, by their own names.
    """
    decoder = decoder.decoder if isinstance(decoder, CodesDecoder) else decoder
    network: Any = getattr(decoder, "network", None)
    if isinstance(network, SkipSequential):
        return {**_numbered(network.hidden_layers()), OUTPUT: network}
    if isinstance(network, TextNetwork):
        stack: Any = network.stack
        return _numbered(stack.layers if hasattr(stack, "layers") else stack.blocks)
    if isinstance(decoder, PixelCNNDecoder):
        return {**_numbered(decoder.layers), OUTPUT: decoder.output}
    if isinstance(decoder, IdentifiableMLPDecoder):
        return {**_numbered(decoder.maps), OUTPUT: decoder.last}
    found = decoder.named_modules()
    return {name: part for name, part in found if next(part.parameters(recurse=False), None) is not None}


def _numbered(layers: Any) -> dict[str, nn.Module]:
    return {str(number): layer for number, layer in enumerate(layers, 1)}
