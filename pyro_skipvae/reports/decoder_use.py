"""What the decoder of a run makes of z, measured on as few test items as a report has time for."""

from pyro_skipvae.decoders import layers_of
from pyro_skipvae.diagnostics import dimension_losses, layer_sensitivities
from pyro_skipvae.distributions.autoregressive import Autoregressive
from pyro_skipvae.guides.semi_amortized import SemiAmortized
from pyro_skipvae.modules import device_of
from pyro_skipvae.text.vocabulary import PAD

LAYER_POINTS, LOSS_POINTS = (256, 64), (200, 25)  # of a decoder of z alone, and of one whose rows take milliseconds


def layers_moved(vae, data):
    """`layer_sensitivities` of the decoder on the first test items, as plain values for the evaluation card."""
    x = _first(vae, data, LAYER_POINTS)
    lengths = (x != PAD).sum(-1) if data.kind == "text" else None
    found = layer_sensitivities(vae.model, vae.guide, x, layers_of(vae.decoder), points=len(x), lengths=lengths)
    return [vars(layer) | {"z": vars(layer.z)} for layer in found]


def losses_of(vae, data, dimensions):
    """`dimension_losses` of some dimensions, by number, on the first test items."""
    x = _first(vae, data, LOSS_POINTS)
    return dimension_losses(vae.model, vae.guide, x, points=len(x), dimensions=dimensions)


def _first(vae, data, points):
    costly = isinstance(vae.guide, SemiAmortized) or isinstance(vae.decoder(vae.prior().sample((1,))), Autoregressive)
    return data.first("test", points[costly]).to(device_of(vae))
