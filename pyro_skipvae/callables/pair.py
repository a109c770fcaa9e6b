"""Plain torch callables as a Pyro model and guide: `as_pair`."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.params import param_with_module_name
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_skipvae import likelihoods
from pyro_skipvae.diagnostics.pairs.evaluation import evaluation_mode, forked_random
from pyro_skipvae.diagnostics.pairs.unavailable import Refused
from pyro_skipvae.distributions.autoregressive import Autoregressive
from pyro_skipvae.distributions.wrapped import innermost_support
from pyro_skipvae.likelihoods import Likelihood
from pyro_skipvae.modules import modules_behind, parameters_behind, roots

from .rows import Particles, as_pyro, by_row

LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "bernoulli": lambda: likelihoods.bernoulli,
    "categorical": likelihoods.categorical,
    "colour-logistics": likelihoods.colour_logistics,
    "discretised-logistic": likelihoods.discretised_logistic,
    "multinomial": lambda: likelihoods.multinomial,
    "normal": lambda: likelihoods.normal,
    "normal-shared-scale": likelihoods.normal_shared_scale,
    "poisson": lambda: likelihoods.poisson,
}
Model = Callable[..., Any]
NONE = nn.ModuleList()


def as_pair(
    encode: Callable[..., Any],
    decode: Callable[..., Any],
    *,
    prior: Any = None,
    likelihood: str | Likelihood | Callable[..., Any] | None = None,
) -> tuple[Model, Model]:
    """Makes a Pyro model and guide of plain torch callables, for `collapse_report`, `SemiAmortized`, `svi_step`, `pyro.infer`.

        q(z|x) = encode(x, *context),   p(x|z) = decode(z, *context),   p(z) = prior, N(0, I) without one

    encode: returns a distribution of torch or Pyro with batch (B,), or (loc, scale) of independent normals, (B, *event of z).
    decode: returns a distribution over x with batch (B,), or, with `likelihood`, natural parameters.
    likelihood: the name of one of `pyro_skipvae.likelihoods`, which reads a tensor with the shape of x, and its numbers per
    element as a last dimension where there are several; or a callable that makes a distribution of what decode returns (of the
    items of a tuple), such as `torch.distributions.Normal`.
    prior: a distribution of one z, or a callable that returns one, given the context where it takes that.
    Batch dimensions after the first become event dimensions.

    Returns (model, guide), each called as (x, *context, beta=1.0), with the sites "z" and "x" in the plate "data". The modules
    behind the callables (modules, their methods, functions that use them) are registered as parameters, and run in evaluation
    mode in reports. Raises ValueError for other arguments, and, when it is called, where a callable returns something else or
    another shape.
    """
    for name, given in {"encode": encode, "decode": decode}.items():
        if not callable(given):
            raise ValueError(f"expected {name} to be a function or a module, got {_kind(given)}")
    if prior is not None and not (callable(prior) or isinstance(prior, torch.distributions.Distribution)):
        raise ValueError(f"expected prior to be a distribution, or a callable that gives one, got {_kind(prior)}")
    pair = CallablePair(encode, decode, prior, _likelihood(likelihood))
    return pair.model, pair.guide


def _likelihood(given: Any) -> Any:
    if isinstance(given, str):
        name = given.replace("_", "-")
        if name not in LIKELIHOODS:
            raise ValueError(f"expected likelihood to be one of {', '.join(LIKELIHOODS)}, or a callable, got {given!r}")
        return LIKELIHOODS[name]()
    if given is not None and not callable(given):
        raise ValueError(f"expected likelihood to be one of {', '.join(LIKELIHOODS)}, or a callable, got {_kind(given)}")
    return given


class CallablePair(nn.Module):
    """What owns the model and the guide of `as_pair`, and the modules behind their callables."""

    def __init__(self, encode: Callable[..., Any], decode: Callable[..., Any], prior: Any, likelihood: Any) -> None:
        super().__init__()
        self.callables = (encode, decode, prior, likelihood)  # in a tuple: what is a module is registered below, once
        generative = (decode, prior, likelihood)
        inferred, generated = modules_behind(encode), [module for part in generative for module in modules_behind(part)]
        self.loose = {
            "encoder": parameters_behind(encode),
            "decoder": [tensor for part in generative for tensor in parameters_behind(part)],
            "shared": [],
        }
        for module in roots(list(dict.fromkeys([*inferred, *generated]))):
            parts = set(module.modules())
            used = (not parts.isdisjoint(inferred), not parts.isdisjoint(generated))
            place = {(True, False): "encoder", (False, True): "decoder"}.get(used, "shared")
            if not hasattr(self, place):
                setattr(self, place, nn.ModuleList())
            getattr(self, place).append(module)
            self.loose[place] += [tensor for part in module.modules() for tensor in vars(part).values() if _learns(tensor)]
        self.latent: Tensor | None = None  # (0, *event of z), as the last z was
        self.latent_of: Any = None  # what it depends on
        self.warned = False

    def model(self, x: Tensor, *context: Any, beta: float = 1.0) -> Any:
        """Samples z at the site "z" from the prior, and observes x (B, *event) at the site "x"; returns x."""
        self._register("decoder")
        with pyro.plate("data", _rows(x)):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", self._prior(x, context))
            p = self._observation(z, x, context)
            return pyro.sample("x", p, obs=_as_observed(x, p))

    def guide(self, x: Tensor, *context: Any, beta: float = 1.0) -> Any:
        """Samples z from q(z|x) at the site "z"; returns z."""
        self._register("encoder")
        with pyro.plate("data", _rows(x)):
            q = self._posterior(x, context)
            with poutine.scale(scale=beta):
                z = pyro.sample("z", q)
        self.latent, self.latent_of = z.detach().new_empty(0, *q.event_shape), self._like(x)
        return z

    def _like(self, x: Tensor) -> Any:
        """What shape and dtype of z may depend on."""
        return x.shape[1:], x.dtype, x.device, next((parameter.dtype for parameter in self.parameters()), None)

    def _register(self, place: str) -> None:
        for name in (place, "shared"):
            for key, parameter in getattr(self, name, NONE).named_parameters():
                if parameter.requires_grad:  # Pyro's store would thaw a frozen one
                    pyro.param(param_with_module_name(name, key), parameter)
            for number, tensor in enumerate(self.loose[name]):
                pyro.param(param_with_module_name(name, f"loose.{number}"), tensor)

    def _posterior(self, x: Tensor, context: tuple[Any, ...]) -> Any:
        found = self.callables[0](x, *context)
        if isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(part, Tensor) for part in found):
            found = _normal(*found)
        if not _is_distribution(found):
            raise Refused(f"expected encode to give a distribution or (loc, scale), got {_kind(found)}{_advice(found)}")
        q = by_row(as_pyro(found), len(x), "encode")
        if self.callables[2] is None and not _is_on_the_reals(q):
            raise Refused(f"expected prior= for a q(z|x) on {q.support}, got none: N(0, I) has another support")
        return q

    def _prior(self, x: Tensor, context: tuple[Any, ...]) -> Any:
        latent, prior = self._latent(x, context), self.callables[2]
        event = latent.shape[1:]
        if prior is None:
            return dist.Normal(latent.new_zeros(event), latent.new_ones(event)).to_event(len(event))
        given = isinstance(prior, torch.distributions.Distribution)
        found = prior if given else prior(*(context if _takes(prior, context) else ()))
        if not _is_distribution(found):
            raise Refused(f"expected prior to give a distribution, got {_kind(found)}")
        found = as_pyro(found)
        shape = found.batch_shape + found.event_shape
        if shape not in (event, (len(x), *event)):
            raise Refused(f"expected a prior of z of shape {tuple(event)}, as encode gives it, got one of {tuple(shape)}")
        return found.to_event(len(found.batch_shape) - (shape != event))

    def _latent(self, x: Tensor, context: tuple[Any, ...]) -> Tensor:
        """A tensor (0, *event of z) like z: as the guide drew it last, or asked of encode where there was none."""
        if self.latent is None or self.latent_of != self._like(x):
            few = tuple(part[:2] if isinstance(part, Tensor) and part.shape[:1] == x.shape[:1] else part for part in context)
            with evaluation_mode(self.model), forked_random((x,), 0, self.model), torch.no_grad(), poutine.block():
                q = self._posterior(x[:2], few)
                self.latent, self.latent_of = q.sample().new_empty(0, *q.event_shape), self._like(x)
        return self.latent

    def _observation(self, z: Tensor, x: Tensor, context: tuple[Any, ...]) -> Any:
        event = self._latent(x, context).dim() - 1
        batch = z.shape[: z.dim() - event]
        if len(batch) == 1:
            return self._decoded(z, x, context)
        repeated = [_repeated(part, batch, len(x)) for part in (x, *context)]
        return Particles(self._decoded(z.flatten(0, len(batch) - 1), repeated[0], tuple(repeated[1:])), batch)

    def _decoded(self, z: Tensor, x: Tensor, context: tuple[Any, ...]) -> Any:
        found, likelihood = self.callables[1](z, *context), self.callables[3]
        if likelihood is None and not _is_distribution(found):
            raise Refused(
                f"expected decode to give a distribution over x, got {_kind(found)}: name the family with likelihood=, one of "
                f"{', '.join(LIKELIHOODS)}, or a callable such as torch.distributions.Normal"
            )
        if likelihood is not None and _is_distribution(found):
            raise Refused(
                f"expected decode to give natural parameters for likelihood=, got {_kind(found)}; leave likelihood= out"
            )
        if isinstance(likelihood, Likelihood):
            found = likelihood(self._natural(found, x, likelihood), x.dim() - 1)
        elif likelihood is not None:
            found = likelihood(*found) if isinstance(found, tuple | list) else likelihood(found)
        if not _is_distribution(found):
            raise Refused(f"expected likelihood to give a distribution, got {_kind(found)}")
        return _over(by_row(as_pyro(found), len(z), "decode"), x)

    def _natural(self, found: Any, x: Tensor, likelihood: Likelihood) -> Tensor:
        """eta (B, *event, parameters) of what decode gave."""
        several = likelihood.parameters > 1
        eta = found[..., None] if isinstance(found, Tensor) and not several and found.shape == x.shape else found
        expected = (*x.shape, likelihood.parameters)
        if not isinstance(eta, Tensor) or eta.shape != expected:
            short = "" if several else f", or {tuple(x.shape)}"
            hint = "; for (loc, scale) write likelihood=torch.distributions.Normal" if isinstance(found, tuple | list) else ""
            raise Refused(f"expected decode to give natural parameters of shape {expected}{short}, got {_kind(found)}{hint}")
        if not self.warned and eta.numel() > 32 and (told := _misread(eta.squeeze(-1), x, likelihood)):
            self.warned = True
            warnings.warn(told, stacklevel=2)
        return eta


def _misread(eta: Tensor, x: Tensor, likelihood: Likelihood) -> str | None:
    """What looks like the means of p(x|z) where its natural parameters are read."""
    if not (eta >= 0).all():
        return None
    write = "write likelihood=lambda p: torch.distributions"
    if likelihood is likelihoods.bernoulli and (eta <= 1).all():
        return f"all that decode gives lies in [0, 1], and bernoulli reads logits; for probabilities {write}.Bernoulli(p)"
    as_rates, as_logs = ((found.mean() - x.double().mean()).abs() for found in (eta, eta.exp()))
    if likelihood is likelihoods.poisson and as_rates < as_logs:
        return f"all that decode gives is above 0, and poisson reads log rates; for rates {write}.Poisson(p)"
    if likelihood is likelihoods.multinomial and torch.allclose(eta.sum(-1), torch.ones_like(eta.sum(-1))):
        return "all rows that decode gives sum to 1, and multinomial reads logits; for probabilities give their log()"
    return None


def _normal(loc: Tensor, scale: Tensor) -> Any:
    if scale.shape != loc.shape:
        try:
            scale = scale.expand(loc.shape)
        except RuntimeError:
            raise Refused(
                f"expected encode to give loc and scale of one shape, got {tuple(loc.shape)} and {tuple(scale.shape)}"
            ) from None
    if (scale < 0).any():
        raise Refused(
            f"expected encode to give (loc, scale) with scales above 0, got {scale.min():.3g}: if it is a log variance, give "
            "(log_variance / 2).exp(), if a log scale, its exp()"
        )
    return dist.Normal(loc, scale)


def _over(p: Any, x: Tensor) -> Any:
    """p(x|z), which Refused is raised for where it is of another shape than x: a log-density would be broadcast."""
    if p.event_shape != x.shape[1:] and not isinstance(p, Autoregressive):  # text may be shorter than it can be
        raise Refused(f"expected decode to give p(x|z) over x of shape {tuple(x.shape[1:])}, got {tuple(p.event_shape)}")
    return p


def _as_observed(x: Tensor, p: Any) -> Tensor:
    """x as numbers that p(x|z) computes with: bits, bytes, and whole numbers that p is not of, become floating-point ones."""
    if x.is_floating_point() or isinstance(getattr(p, "flat", p), Autoregressive):
        return x
    try:
        support = innermost_support(p.support)
    except (NotImplementedError, AttributeError):  # it does not say what it is of
        return x
    whole = x.dtype not in (torch.bool, torch.uint8) and support.is_discrete and support is not constraints.boolean
    return x if whole else x.to(torch.get_default_dtype())


def _rows(x: Any) -> int:
    if not isinstance(x, Tensor):
        advice = "give a tuple (x, *context)" if isinstance(x, dict) else "torch.as_tensor(x) makes one"
        raise ValueError(f"expected x to be a tensor, got {_kind(x)}; {advice}")
    return len(x)


def _repeated(part: Any, batch: torch.Size, rows: int) -> Any:
    """The rows of a tensor once for each particle, one after the other; what has no rows as it is."""
    if not isinstance(part, Tensor) or part.dim() == 0 or len(part) != rows:
        return part
    return part.expand(*batch, *part.shape[1:]).flatten(0, len(batch) - 1)


def _takes(function: Callable[..., Any], context: tuple[Any, ...]) -> bool:
    """Whether a function is to be given the context: not where all that it takes has a value already."""
    try:
        bound = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
        bound.bind(*context)
    except (TypeError, ValueError):
        return False
    return any(p.default is p.empty or p.kind is p.VAR_POSITIONAL for p in bound.parameters.values())


def _learns(tensor: Any) -> bool:
    """Whether what is an attribute of a module is a tensor to be trained that the module does not know as a parameter."""
    return isinstance(tensor, Tensor) and tensor.requires_grad and tensor.is_leaf


def _is_distribution(found: Any) -> bool:
    return isinstance(found, torch.distributions.Distribution | dist.Distribution)


def _is_on_the_reals(q: Any) -> bool:
    try:
        support = q.support
    except (NotImplementedError, AttributeError):  # it does not say, and what needs it tells
        return True
    return innermost_support(support) is constraints.real


def _advice(found: Any) -> str:
    if isinstance(found, tuple | list) and len(found) > 2:
        return ": leave out what is neither loc nor scale, such as a draw of z"
    if isinstance(found, Tensor):
        return ": give its scale too, or a distribution"
    if hasattr(found, "__dict__") or isinstance(found, dict):  # such as the output of a model of another library
        return ": give (loc, scale) of what is in it, as a tuple"
    return ""


def _kind(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"a tensor of shape {tuple(found.shape)}"
    if isinstance(found, tuple | list):
        return f"{len(found)} items ({', '.join(map(_kind, found))})"
    if type(found).__module__ == "numpy":
        return f"a NumPy array of shape {found.shape}, where tensors are needed"
    return "None" if found is None else f"a {type(found).__name__}"
