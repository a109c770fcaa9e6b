"""The layers of a decoder by name, from the bottom to the output: what can be asked how much it depends on z."""

from typing import Any

from torch import nn

from pyro_skipvae.blocks import with_weights
from pyro_skipvae.skip import OUTPUT, SkipSequential

from .codes import CodesDecoder
from .identifiable import IdentifiableMLPDecoder
from .pixelcnn import PixelCNNDecoder
from .text import TextNetwork


def layers_of(decoder: nn.Module) -> dict[str, nn.Module]:
    """The layers of a decoder as {name: module}, from the bottom, for `diagnostics.layer_sensitivities`.

    For a decoder of this package the names are "1" to "L" and "output", as for skips; each module returns what the next layer
    reads, with U_l z in it. Decoders of texts have no "output", since no module of theirs returns all scores. For another
    decoder these are the modules that hold weights themselves, by their own names, or the decoder itself by that of its class.
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
    return with_weights(decoder)


def _numbered(layers: Any) -> dict[str, nn.Module]:
    return {str(number): layer for number, layer in enumerate(layers, 1)}
