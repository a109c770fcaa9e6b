"""The skip functions of the paper: how z enters the layers of a decoder, and how any decoder takes them.

Hidden layers are numbered 1..L from the bottom, and the layer that gives the natural parameters is "output". z always
enters at the bottom; the entries listed by `skip` are the further ones, each with weights U_l of its own.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from .random_numbers import forked

OUTPUT = "output"
Entry = int | str
Skip = str | Collection[Entry]
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def skip_entries(skip: Skip, layers: int) -> tuple[Entry, ...]:
    """The layers that z enters by skips: "all" (the paper), "none" (the plain decoder), "first", "last", or a list of entries.

    Entries are 1..`layers` and "output", each at most once in a list. Returns them in order from the bottom. Raises ValueError
    for anything else.
    """
    possible = (*range(1, layers + 1), OUTPUT)
    named: dict[str, tuple[Entry, ...]] = {"all": possible, "none": (), "first": possible[:1], "last": possible[-1:]}
    entries = named[skip] if isinstance(skip, str) and skip in named else skip
    listed = isinstance(entries, Collection) and not isinstance(entries, str)
    if not listed or any(entry not in possible for entry in entries) or len(set(entries)) != len(entries):
        raise ValueError(f'expected skip to be "all", "none", "first", "last" or entries of {possible}, got {skip!r}')
    return tuple(entry for entry in possible if entry in entries)


class SkipMaps(nn.Module):
    """U_l z for every entry l, computed by one matrix product and split by entry.

    `sizes` maps an entry to the number of units that it feeds. Stacking the U_l changes nothing: each has its own rows, and
    torch's initialisation of a linear map depends on its input size alone. The weights have the device and dtype of `like`.
    """

    def __init__(self, latent_dim: int, sizes: Mapping[Any, int], *, bias: bool = False, like: Tensor | None = None) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        where: dict[str, Any] = {} if like is None else {"device": like.device, "dtype": like.dtype}
        self.stacked = nn.Linear(latent_dim, sum(self.sizes.values()), bias=bias, **where) if self.sizes else None

    def forward(self, z: Tensor) -> dict[Any, Tensor]:
        """z (..., D) -> {entry: (..., size)}."""
        if self.stacked is None:
            return {}
        return dict(zip(self.sizes, self.stacked(z).split(list(self.sizes.values()), dim=-1), strict=True))


class SkipSequential(nn.Module):
    """The skip counterpart of a plain decoder network: the same layers, with U_l z added to what each layer gives.

        h_(l+1) = relu(W_l h_l + U_l z + b_l),  l = 1..L, and the same without the nonlinearity for the output

    `network` is an `nn.Sequential` from z to natural parameters (nested ones are flattened). A layer is a child that
    multiplies by weights: a linear, convolutional or recurrent map, a block of them (residual, gated, with attention), or a
    module of your own. Activations, norms and reshapes stay where they are. `skip`: see `skip_entries`, for L = the number of
    layers before the last.

    z (..., D) -> what the network gives; networks with convolutions take z (B, D). U_l z has one number per feature. After a
    linear map features are the last axis, (B, ..., F); after a convolution they are feature maps, (B, F, ...), and U_l z is
    broadcast over space. Where a layer's own maps do not show which (a squeeze-excitation, a reshape inside), those before or
    after it decide; images have feature maps.

    One pass of two z in evaluation mode measures what each layer gives. It changes no weight, gradient, running statistic or
    random number, but initialises lazy modules. The U_l have the network's device and dtype.

    Raises ValueError for a network that is not an `nn.Sequential` or has no layers, for an unknown entry, and with the name of
    the layer where U_l z cannot be added: it does not return one tensor with a row for each z, or refuses its input.

    Reference: Dieng et al. 2019, section 3: "any type of VAE can be turned into its SKIP-VAE counterpart".
    """

    def __init__(self, network: nn.Sequential, latent_dim: int, *, skip: Skip = "all") -> None:
        super().__init__()
        named = list(_flatten(_checked(network, latent_dim)))
        self.network = nn.Sequential(*(child for _, child in named))
        self.labels = [f"layer {name!r} ({type(child).__name__})" for name, child in named]
        like = _example(network)
        outputs, problem = _measure(self.network, self.labels, latent_dim, like)
        if problem and skip not in ("none", (), []):
            raise ValueError(problem)
        self.starts = layers = _layers(self.network, outputs)
        if not layers:
            raise ValueError(problem or "expected a network with linear or convolutional layers, got none")
        names: dict[Entry, int] = dict(zip([*range(1, len(layers)), OUTPUT], layers, strict=True))
        self.entry_at = {names[entry]: entry for entry in skip_entries(skip, len(layers) - 1)}
        features = {index: _features(outputs, index, self.labels[index]) for index in self.entry_at}
        self.last_axis = {index: last for index, (_, last) in features.items()}
        sizes = {self.entry_at[index]: width for index, (width, _) in features.items()}
        self.skips = SkipMaps(latent_dim, sizes, like=like)

    def hidden_layers(self) -> list[nn.Module]:
        """The last child of each hidden layer, such as its activation, whose output the next layer reads."""
        return [self.network[start - 1] for start in self.starts[1:]]

    @torch.no_grad()
    def share_fan_in_(self) -> None:
        """Scale W_l and U_l in place from variances of c / (own fan-in) to c / (sum of both fan-ins).

        This holds for linear W_l alone: a convolution and the U_l added to it are left as they are. A W_l that several layers
        share is scaled once; one that is computed, as by `weight_norm`, keeps its scale.
        """
        if self.skips.stacked is None:
            return
        rows = torch.split(self.skips.stacked.weight, list(self.skips.sizes.values()))
        scaled = set()
        for index, skip in zip(self.entry_at, rows, strict=True):
            layer = next(reversed(_maps(self.network[index])), None)
            if not isinstance(layer, nn.Linear) or layer.out_features != len(skip):
                continue
            if self.last_axis[index]:
                own, latent = layer.in_features, skip.shape[1]
                layer.weight.mul_(1.0 if layer in scaled else (own / (own + latent)) ** 0.5)
                skip.mul_((latent / (own + latent)) ** 0.5)
                scaled.add(layer)

    def forward(self, z: Tensor) -> Tensor:
        """z (..., D) -> natural parameters, in the shape that the network gives."""
        skips = self.skips(z)
        h = z.clone() if skips else z  # a first child that works in place would change the z of the skips
        for index, layer in enumerate(self.network):
            h = layer(h)
            if index in self.entry_at:
                h = self._added(h, skips[self.entry_at[index]], index)
        return h

    def _added(self, h: Tensor, u: Tensor, index: int) -> Tensor:
        rows = u.shape[:-1]
        if not isinstance(h, Tensor) or h.shape[: len(rows)] != rows:
            raise ValueError(f"{self.labels[index]} gives {_described(h)}, expected one with the rows of z, {tuple(rows)}")
        ones = (1,) * (h.dim() - u.dim())
        u = u.reshape((*rows, *ones, u.shape[-1]) if self.last_axis[index] else (*u.shape, *ones))
        return h + u.to(h)


def _checked(network: nn.Sequential, latent_dim: int) -> nn.Sequential:
    if not isinstance(network, nn.Sequential) or _has_own_forward(network):
        raise ValueError(
            f"expected an nn.Sequential of layers, got {type(network).__name__}, a module with a forward of its own: put its "
            "layers in an nn.Sequential, or pass nn.Sequential(network) for a skip to its output alone"
        )
    if not isinstance(latent_dim, int) or latent_dim < 0:
        raise ValueError(f"expected latent_dim to be a whole number, the size of one z, got {latent_dim!r}")
    return network


def _has_own_forward(network: nn.Sequential) -> bool:
    return type(network).forward is not nn.Sequential.forward


def _flatten(network: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in network._modules.items():  # named_children leaves out a module's second use
        if isinstance(child, nn.Sequential) and not _has_own_forward(child):
            yield from _flatten(child, f"{prefix}{name}.")
        elif child is not None:
            yield prefix + name, child


def _maps(layer: nn.Module) -> list[nn.Module]:
    return [part for part in layer.modules() if isinstance(part, nn.Linear | nn.modules.conv._ConvNd)]


@dataclass(frozen=True)
class Output:
    """What a child of a network gives for two z, and of the products that it computes whether features are last, and shape."""

    value: Any
    products: list[tuple[bool, torch.Size]]

    @property
    def shape(self) -> torch.Size:
        return self.value.shape if isinstance(self.value, Tensor) else torch.Size()


def _measure(network: nn.Sequential, labels: list[str], latent_dim: int, like: Tensor) -> tuple[list[Output], str]:
    """The outputs of the children, up to the first one that fails, and why that one does ("" where all went well)."""
    outputs: list[Output] = []
    value: Any = torch.linspace(-1, 1, 2 * latent_dim, device=like.device, dtype=like.dtype).reshape(2, latent_dim)
    lazy = any(is_lazy(parameter) for parameter in network.parameters())
    # What a lazy module draws for its weights is used up: the U_l would begin with the same numbers.
    with nullcontext() if lazy else forked([like.device]), _evaluation(network):
        for index, child in enumerate(network):
            given = f"what {labels[index - 1]} gives, {_described(value)}" if index else f"z, {_described(value)}"
            try:
                with _Products() as products:
                    value = child(value)
            except OSError:  # of the machine, such as no folder for torch's caches
                raise
            except Exception as error:  # anything may be raised by a module of a user's
                said = (str(error).strip() or type(error).__name__).splitlines()[0]
                return outputs, f"{labels[index]} does not take {given}: {said}{'' if index else _advice(child, latent_dim)}"
            outputs.append(Output(value, products.found))
    return outputs, ""


def _advice(first: nn.Module, latent_dim: int) -> str:
    if not isinstance(first, nn.modules.conv._ConvNd):
        return f". The latent_dim given is {latent_dim}"
    ones = ", ".join("1" for _ in first.kernel_size)
    return f". Put nn.Unflatten(1, ({latent_dim}, {ones})) before it"


@contextmanager
def _evaluation(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    try:
        for module in modes:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Products(TorchFunctionMode):
    """Notes the products by weights that run inside: whether their features are the last axis, and the shape of the result."""

    LINEAR = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "tensordot", "multi_head_attention_forward")
    RECURRENT = ("gru", "lstm", "rnn_tanh", "rnn_relu", "gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[bool, torch.Size]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name, value = getattr(function, "__name__", ""), result[0] if isinstance(result, tuple) else result
        if isinstance(value, Tensor) and (name.startswith("conv") or name in self.LINEAR + self.RECURRENT):
            self.found.append((not name.startswith("conv"), value.shape))
        return result


def _layers(network: nn.Sequential, outputs: list[Output]) -> list[int]:
    """The children that multiply by weights: with torch's maps, or, as far as was measured, with a matrix of their own."""
    measured = dict(enumerate(outputs))
    return [
        index
        for index, child in enumerate(network)
        if _maps(child) or (index in measured and measured[index].products and _has_matrix(child))
    ]


def _has_matrix(child: nn.Module) -> bool:
    own = (p for part in child.modules() if not isinstance(part, NORMS) for p in part.parameters(recurse=False))
    return any(sum(size > 1 for size in parameter.shape) > 1 for parameter in own)


def _features(outputs: list[Output], index: int, label: str) -> tuple[int, bool]:
    """How many features a layer gives, and whether they are its last axis. Raises ValueError where U z cannot be added."""
    value, shape = outputs[index].value, outputs[index].shape
    remedy = "leave its entry out of skip, or let a module around it return the tensor to which U z is to be added"
    if not isinstance(value, Tensor) or not value.is_floating_point():
        given = f"numbers of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"{label} returns {given}, expected one tensor of real numbers: {remedy}")
    if len(shape) < 2 or shape[0] != 2:
        raise ValueError(f"{label} returns {tuple(shape)} for two z, expected a row of features for each, (2, ...): {remedy}")
    last = _features_are_last(outputs, index)
    return shape[-1 if last else 1], last


def _features_are_last(outputs: list[Output], index: int) -> bool:
    """By the layer's own products, else by those before it, else by those after it, as long as the shape has as many axes."""
    axes = len(outputs[index].shape)
    if axes == 2:
        return True
    for output in reversed(outputs[: index + 1]):
        if len(output.shape) != axes:
            break
        if (last := _by_products(output)) is not None:
            return last
    for output in outputs[index + 1 :]:
        for last, shape in output.products:
            if len(shape) == axes:
                return last
        if len(output.shape) != axes:
            break
    return axes == 3


def _by_products(output: Output) -> bool | None:
    """Whether features are last: as in the product whose result has the output's shape, its features aside; None if unknown."""
    shape, alike = output.shape, [(last, made) for last, made in output.products if len(made) == len(output.shape)]
    if any(not last and made[2:] == shape[2:] for last, made in alike):
        return False
    if any(last and made[:-1] == shape[:-1] for last, made in alike):
        return True
    return False if any(not last for last, _ in alike) else None


def _example(network: nn.Module) -> Tensor:
    """A tensor with the network's device and dtype."""
    tensors = chain(network.parameters(), network.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor of shape {tuple(value.shape)}"


def parameter_count(module: nn.Module) -> int:
    """The number of trainable parameters of a module, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def parameter_matched(decoder_of_width: Callable[[int], nn.Module], target: int) -> int:
    """The width at which a decoder comes nearest to `target` parameters: a plain decoder of that width is a fair control.

    `decoder_of_width(width)` builds the decoder, whose number of parameters is to grow with the width; it is called on the meta
    device, so nothing is allocated.
    """

    def count(width: int) -> int:
        with torch.device("meta"):
            return parameter_count(decoder_of_width(width))

    width, step = 1, 1
    while count(width + step) <= target:
        width, step = width + step, 2 * step
    while step >= 1:
        width, step = (width + step if count(width + step) <= target else width), step // 2
    return min((width, width + 1), key=lambda w: abs(count(w) - target))
