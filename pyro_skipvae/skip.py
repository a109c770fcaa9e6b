"""The skip functions of the paper: how z enters the layers of a decoder, and how any decoder takes them.

Hidden layers are numbered 1..L from the bottom, and the layer that gives the natural parameters is "output". z always
enters at the bottom; the entries listed by `skip` are the further ones, each with weights U_l of its own.
"""

from collections.abc import Collection

import torch
from torch import nn

OUTPUT = "output"


def skip_entries(skip, layers):
    """The entries that `skip` names, in order: "all" (the paper), "none" (the plain decoder), "first", "last", or a list.

    Entries are 1..`layers` and "output"; a list may name each once. Raises ValueError for anything else.
    """
    possible = (*range(1, layers + 1), OUTPUT)
    named = {"all": possible, "none": (), "first": possible[:1], "last": possible[-1:]}
    entries = named[skip] if isinstance(skip, str) and skip in named else skip
    listed = isinstance(entries, Collection) and not isinstance(entries, str)
    if not listed or any(entry not in possible for entry in entries) or len(set(entries)) != len(entries):
        raise ValueError(f'expected skip to be "all", "none", "first", "last" or entries of {possible}, got {skip!r}')
    return tuple(entry for entry in possible if entry in entries)


class SkipMaps(nn.Module):
    """U_l z for every entry l, computed by one matrix product and split by entry.

    `sizes` maps an entry to the number of units that it feeds. Stacking the U_l is exact: each keeps its own rows, and
    torch's initialisation of a linear map depends on its input size alone.
    """

    def __init__(self, latent_dim, sizes, *, bias=False):
        super().__init__()
        self.sizes = dict(sizes)
        self.stacked = nn.Linear(latent_dim, sum(self.sizes.values()), bias=bias) if self.sizes else None

    def forward(self, z):
        """z (..., D) -> {entry: (..., size)}."""
        if self.stacked is None:
            return {}
        return dict(zip(self.sizes, self.stacked(z).split(list(self.sizes.values()), dim=-1), strict=True))


class SkipSequential(nn.Module):
    """The skip counterpart of a plain decoder network: the same layers, with U_l z added to what each layer gives.

        h_(l+1) = relu(W_l h_l + U_l z + b_l),  l = 1..L, and the same without the nonlinearity for the output

    `network` is an `nn.Sequential` (nested ones are flattened) from z to natural parameters. A layer is a child that
    holds a linear or convolutional map; activations, norms and reshapes between them stay where they are. After a
    convolution U_l z is one number per feature map. z (..., D); convolutions want z (B, D).

    Reference: Dieng et al. 2019, section 3: "any type of VAE can be turned into its SKIP-VAE counterpart".
    """

    def __init__(self, network, latent_dim, *, skip="all"):
        super().__init__()
        self.network = nn.Sequential(*_flatten(network))
        widths = {index: _width(child) for index, child in enumerate(self.network) if _maps(child)}
        if not widths:
            raise ValueError("expected a network with linear or convolutional layers, got none")
        names = dict(zip([*range(1, len(widths)), OUTPUT], widths, strict=True))
        self.entry_at = {names[entry]: entry for entry in skip_entries(skip, len(widths) - 1)}
        self.skips = SkipMaps(latent_dim, {entry: widths[index] for index, entry in self.entry_at.items()})

    @torch.no_grad()
    def share_fan_in_(self):
        """Scale W_l and U_l from variances of c / (own fan-in) to c / (sum of their fan-ins), in place.

        Only where W_l is linear: a convolution has a start of its own, and U_l z beside it is left alone too.
        """
        if not self.entry_at:
            return
        rows = dict(zip(self.skips.sizes, self.skips.stacked.weight.split(list(self.skips.sizes.values())), strict=True))
        for index, entry in self.entry_at.items():
            layer, skip = _maps(self.network[index])[-1], rows[entry]
            if isinstance(layer, nn.Linear):
                own, latent = layer.in_features, skip.shape[1]
                layer.weight.mul_((own / (own + latent)) ** 0.5)
                skip.mul_((latent / (own + latent)) ** 0.5)

    def forward(self, z):
        skips, h = self.skips(z), z
        for index, layer in enumerate(self.network):
            h = layer(h)
            if index in self.entry_at:
                u, ones = skips[self.entry_at[index]], (1,) * (h.dim() - z.dim())
                last = isinstance(_maps(layer)[-1], nn.Linear)  # its features are, those of a convolution come first
                h = h + u.reshape((*z.shape[:-1], *ones, -1) if last else (*u.shape, *ones))
        return h


def _flatten(network):
    for child in network:
        yield from _flatten(child) if isinstance(child, nn.Sequential) else (child,)


def _maps(layer):
    return [part for part in layer.modules() if isinstance(part, nn.Linear | nn.modules.conv._ConvNd)]


def _width(layer):
    last = _maps(layer)[-1]
    return last.out_features if isinstance(last, nn.Linear) else last.out_channels


def parameter_count(module):
    """The number of trainable parameters of a module, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def parameter_matched(decoder_of_width, target):
    """The width at which a plain decoder comes nearest to `target` parameters: the honest control arm of a comparison.

    `decoder_of_width(width)` builds the decoder; it is called on the meta device, so nothing is allocated.
    """

    def count(width):
        with torch.device("meta"):
            return parameter_count(decoder_of_width(width))

    width, step = 1, 1
    while count(width + step) <= target:
        width, step = width + step, 2 * step
    while step >= 1:
        width, step = (width + step if count(width + step) <= target else width), step // 2
    return min((width, width + 1), key=lambda w: abs(count(w) - target))
