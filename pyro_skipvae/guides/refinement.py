"""Refining local parameters by gradient steps on the ELBO, and the gradient of what the refined ones are used for.

    v_(k+1) = momentum v_k - grad f(lambda_k),   lambda_(k+1) = lambda_k + lr v_(k+1),   f = -ELBO summed over the batch

f is a sum of one term per datapoint, so the step size is per datapoint and no datapoint sees its batch. A plate that stands for
more points than it holds, with Pyro's scale of N/B, changes none of it: f leaves that scale out.

Reference: Kim, Wiseman, Miller, Sontag, Rush 2018, algorithm 1 and section 3.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import kl_divergence
from torch.utils._pytree import tree_leaves, tree_map

from pyro_skipvae.modules import nodes
from pyro_skipvae.objectives import plate_scale
from pyro_skipvae.random_numbers import forked, seed_generators

from .local_parameters import Values, joint_parameters, local_parameters
from .recurrence import differentiable_recurrence

Site = Any  # a node of a trace, Pyro's dict of what was sampled
Noise = Sequence[Any]  # one part for each step


@dataclass(frozen=True)
class Descent:
    """How the steps go: lr, momentum, and the norm to which each local parameter's gradient is clipped over the batch."""

    lr: float
    momentum: float
    clip: float | None = None


DIVERGED = "expected a refinement that stays finite, got one that diverged: take a smaller lr, or fewer steps"

Method = Callable[["Bound", Values, Noise, Descent], Values]


class Bound:
    """f(values, noise): the negative ELBO in nats, summed over the batch, of a model and local parameters.

        f = -log p(x|z) + KL(q || p(z)),   z ~ q from the noise

    with Pyro's scales and masks, but without the N/B of a plate that holds B of N points (`plate_scale`); the KL is by the
    same draw where Pyro has no closed form, or where model and guide weigh the site differently. Of several latent sites it
    is the sum of their KL, each at the draws of the others.

    `sites` are the guide's latent sites as Pyro traced them, `arguments` and `options` are those of the model, by place and
    by name. Every call starts dropout from the same seed, inside `preserved_rng`, so that one mask serves the whole
    refinement. While Pyro checks distributions, as it does by default, a z that is not finite raises ValueError.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        sites: list[Site],
        *,
        mean: bool = False,
        batch_size: int | None = None,
    ) -> None:
        self.model, self.arguments, self.options = model, arguments, options
        self.sites = {site["name"]: site for site in sites}
        families = {name: local_parameters(site["fn"]) for name, site in self.sites.items()}
        self.family = joint_parameters(families) if len(families) > 1 else next(iter(families.values()))
        self.theta: list[Tensor] = []
        self.plate_scale = plate_scale(sites[0])
        self.divisor = self.plate_scale * ((batch_size or len(self.family.values[0])) if mean else 1)
        self.seed = int(torch.randint(2**62, ()))
        self.device = self.family.values[0].device
        self.first: Tensor | None = None

    def __call__(self, values: Values, noise: Any) -> Tensor:
        try:
            z, q = self._by_site(self.family.draw(values, noise)), self.distributions(values)
        except torch.linalg.LinAlgError as error:  # of a covariance that the steps have made singular
            raise ValueError(DIVERGED) from error
        check_finite(*z.values())
        seed_generators([self.device], self.seed)  # one dropout mask
        with poutine.block(), _ModelTerms(z) as terms:
            self.model(*self.arguments, **self.options)
        divergences = [self._divergence(site, q[name], z[name], terms.priors[name]) for name, site in self.sites.items()]
        loss: Tensor = (torch.stack(divergences).sum() - terms.log_likelihood) / self.divisor
        return loss

    def distributions(self, values: Values) -> dict[str, Any]:
        """{site: q} of these values."""
        return self._by_site(self.family.distribution(values))

    def _by_site(self, found: Any) -> dict[str, Any]:
        return dict(found) if len(self.sites) > 1 else {name: found for name in self.sites}

    def _divergence(self, site: Site, q: Any, z: Tensor, prior: Site) -> Tensor:
        own, others = [{name: node[name] for name in ("scale", "mask")} for node in (site, prior)]
        if all(_equal(own[name], others[name]) for name in own):
            try:
                return scale_and_mask(kl_divergence(q, prior["fn"]), **own).sum()
            except NotImplementedError:
                pass
        return (scale_and_mask(q.log_prob(z), **own) - scale_and_mask(prior["fn"].log_prob(z), **others)).sum()

    def check(self, values: Values) -> None:
        """Raises ValueError unless z and f of these values are finite; costs one pass of the model, without gradient.

        Only while Pyro checks distributions. Random numbers go on as if none had been used up.
        """
        if not pyro.settings.get("validate_distributions_pyro"):
            return
        if self.first is not None and not self.first.isfinite():
            raise ValueError(
                f"expected a finite ELBO where the refinement starts, got {-self.first.item():.4g}: look for x, local "
                "parameters of the guide or parameters of the model that are not finite"
            )
        with torch.no_grad(), self.preserved_rng(), differentiable_recurrence(self.device):
            check_finite(self(_detached(values), self.family.noise()))

    def preserved_rng(self) -> AbstractContextManager[None]:
        """Inside, random numbers may be used up; the caller's go on afterwards as if none had been."""
        return forked([self.device])

    def find_parameters(self, loss: Tensor, values: Values) -> None:
        """Note what f depends on besides the values, and may be learned: the leaves of a loss's graph.

        That is every parameter that the model used, in Pyro's store or not.
        """
        own = set(map(id, values))
        leaves = [node.variable for node in nodes(loss) if hasattr(node, "variable")]
        self.theta = [leaf for leaf in leaves if id(leaf) not in own]

    def detach_arguments(self) -> dict[int, Tensor]:
        """Put leaves in the place of arguments that were computed; returns {id of a leaf: argument}."""
        given = {id(part): part for part in tree_leaves((self.arguments, self.options)) if isinstance(part, Tensor)}
        leaves = {name: part.detach().requires_grad_() for name, part in given.items() if part.grad_fn is not None}
        self.arguments, self.options = tree_map(lambda part: leaves.get(id(part), part), (self.arguments, self.options))
        return {id(leaf): given[name] for name, leaf in leaves.items()}


def check_finite(*tensors: Tensor) -> None:
    """Raises ValueError where local parameters, z or f are not finite; only while Pyro checks distributions."""
    if pyro.settings.get("validate_distributions_pyro") and not all(part.isfinite().all() for part in tensors):
        raise ValueError(DIVERGED)


def latent_sites(trace: Any) -> list[Site]:
    """The latent sites of a guide's trace. Raises ValueError where there are none, an auxiliary one, or a factor."""
    sites = [node for node in trace.nodes.values() if node["type"] == "sample" and not poutine.util.site_is_subsample(node)]
    latent = [node for node in sites if not node["is_observed"]]
    if not latent:
        raise ValueError("expected a guide with a latent site to refine, got none")
    auxiliary = [node["name"] for node in latent if node["infer"].get("is_auxiliary")]
    if auxiliary:
        raise ValueError(
            f"expected a guide that samples the model's latent sites themselves, got the auxiliary site {auxiliary[0]!r} that "
            "the others are computed from (an EasyGuide or AutoGuide works so): write pyro.sample with q(z|x) for each site"
        )
    factors = [node["name"] for node in sites if node["is_observed"] and not node["infer"].get("_deterministic")]
    if factors:
        raise ValueError(
            f"expected a guide with a latent site alone, got {factors[0]!r} too: add what it stands for to the objective"
        )
    return latent


def check_independent(guide: Callable[[], Any]) -> None:
    """Raises ValueError where the distribution of a site depends on the draw of another: it has no fixed local parameters."""
    with torch.enable_grad():
        with poutine.block(), _DrawsAsLeaves() as draws:
            poutine.trace(guide).get_trace()
        values = {name: local_parameters(q).values for name, q in draws.distributions.items()}
    for name, own in values.items():
        behind = {id(getattr(node, "variable", None)) for value in own for node in nodes(value)}
        if others := [other for other, z in draws.leaves.items() if id(z) in behind]:
            raise ValueError(
                f"expected latent sites whose distributions depend on x alone, got {name!r}, whose q depends on the draw of "
                f"{others[0]!r}: use it amortized"
            )


class _DrawsAsLeaves(Messenger):
    """Makes each latent draw of a guide a leaf of autograd's graph, and keeps the distributions."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves: dict[str, Tensor] = {}
        self.distributions: dict[str, Any] = {}

    def _pyro_post_sample(self, message: Any) -> None:
        if not message["is_observed"] and not poutine.util.site_is_subsample(message):
            message["value"] = self.leaves[message["name"]] = message["value"].detach().clone().requires_grad_()
            self.distributions[message["name"]] = message["fn"]


class _ModelTerms(Messenger):
    """Runs a model at z, {site: value}: adds up its scaled log-likelihood, and keeps the sites of the priors."""

    def __init__(self, z: dict[str, Tensor]) -> None:
        super().__init__()
        self.z = z
        self.log_likelihood: Any = 0.0
        self.priors: dict[str, Site] = {}

    def _pyro_sample(self, message: Any) -> None:
        if message["name"] in self.z:
            message["value"], message["done"] = self.z[message["name"]], True

    def _pyro_post_sample(self, message: Any) -> None:
        if message["name"] in self.z:
            self.priors[message["name"]] = message
        elif message["is_observed"]:
            log_prob = message["fn"].log_prob(message["value"])
            self.log_likelihood = self.log_likelihood + scale_and_mask(log_prob, message["scale"], message["mask"]).sum()
        elif not poutine.util.site_is_subsample(message):
            names = ", ".join(map(repr, self.z))
            sites = f"the one latent site {names}" if len(self.z) == 1 else f"the latent sites {list(self.z)}"
            raise ValueError(f"expected a model with {sites}, got {message['name']!r} too")

    def __exit__(self, *error: Any) -> Any:
        if error[0] is None and (absent := [name for name in self.z if name not in self.priors]):
            raise ValueError(f"expected the model to sample {absent[0]!r}, as the guide does, got a run without it")
        return super().__exit__(*error)


def unrolled(bound: Bound, start: Values, noise: Noise, descent: Descent) -> Values:
    """The refined values with the whole loop in their graph: an exact gradient, in memory that grows with the steps."""
    start = tuple(value if value.requires_grad else value.detach().requires_grad_() for value in start)
    with bound.preserved_rng(), differentiable_recurrence(bound.device, twice=True):
        return _descend(bound, start, noise, descent, create_graph=True)


def straight_through(bound: Bound, start: Values, noise: Noise, descent: Descent) -> Values:
    """The refined values with d lambda_K / d lambda_0 = 1, and no gradient to the model through them."""
    refined = without_gradient(bound, start, noise, descent)
    return tuple(value + (last - value).detach() for value, last in zip(start, refined, strict=True))


def without_gradient(
    bound: Bound, start: Values, noise: Noise, descent: Descent, path: list[Values] | None = None
) -> Values:
    """The refined values alone, in memory that does not grow with the steps; each step's start is added to `path`."""
    with torch.enable_grad(), bound.preserved_rng(), differentiable_recurrence(bound.device):
        return _detached(_descend(bound, _leaves(start), noise, descent, path=path))


def _descend(
    bound: Bound,
    values: Values,
    noise: Noise,
    descent: Descent,
    *,
    create_graph: bool = False,
    path: list[Values] | None = None,
) -> Values:
    velocities: list[Any] = [0.0] * len(values)
    for epsilon in noise:
        loss = bound(values, epsilon)
        bound.first = loss.detach() if bound.first is None else bound.first
        if path is not None:
            if not path:
                bound.find_parameters(loss, values)
            path.append(values)
        found = torch.autograd.grad(loss, values, create_graph=create_graph)
        gradients = [_clipped([g], descent.clip)[0] for g in found]
        velocities = [descent.momentum * v - g for v, g in zip(velocities, gradients, strict=True)]
        values = tuple(value + descent.lr * v for value, v in zip(values, velocities, strict=True))
        values = values if create_graph else _leaves(values)
    return values


def replayed(products: Callable[..., list[Tensor]]) -> Method:
    """A way to differentiate the loop that stores its steps' starts only, and runs each step again in the backward pass.

        b = dL/d lambda_K, u = 0;  for k = K-1..0:  u = momentum u + lr b;  b -= H u;  dL/d theta -= J' u

    with H u and J' u, the gradients of grad f(lambda_k)' u in lambda_k and theta, from `products`. theta are the parameters
    that the model uses (with a VampPrior also the encoder's), and arguments that need a gradient.

    Reference: Kim et al. 2018, algorithm 2.
    """

    def refine(bound: Bound, start: Values, noise: Noise, descent: Descent) -> Values:
        path: list[Values] = []
        arguments = bound.detach_arguments()
        refined = without_gradient(bound, start, noise, descent, path=path)

        def backward(b: Sequence[Tensor]) -> Values:
            u, on_theta = [torch.zeros_like(part) for part in b], [torch.zeros_like(part) for part in theta]
            for values, epsilon in zip(reversed(path), reversed(noise), strict=True):
                u = [descent.momentum * part + descent.lr * more for part, more in zip(u, b, strict=True)]
                product = products(bound, values, epsilon, u, theta)
                b = _clipped([part - less for part, less in zip(b, product, strict=False)], descent.clip)
                for part, less in zip(on_theta, product[len(b) :], strict=True):
                    part -= less
            return *b, *on_theta

        theta = bound.theta
        learned = (arguments.get(id(leaf), leaf) for leaf in theta)
        values: Values = _Replayed.apply(bound, backward, refined, *start, *learned)
        return values

    return refine


class _Replayed(torch.autograd.Function):
    """The identity on what was refined already, with `backward` as its derivative."""

    @staticmethod
    def forward(ctx: Any, bound: Bound, backward: Any, refined: Values, *start_and_theta: Tensor) -> Values:
        ctx.bound, ctx.replay = bound, backward
        return tuple(value.clone() for value in refined)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *b: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad(), ctx.bound.preserved_rng(), differentiable_recurrence(ctx.bound.device):
            return None, None, None, *_detached(ctx.replay(b))


def double_backward(bound: Bound, values: Values, epsilon: Any, u: list[Tensor], theta: list[Tensor]) -> list[Tensor]:
    """H u and J' u by differentiating the gradient."""
    values = _leaves(values)
    with differentiable_recurrence(bound.device, twice=True):
        gradients = torch.autograd.grad(bound(values, epsilon), values, create_graph=True)
    return _gradients(gradients, values + tuple(theta), u)


def central_difference(
    bound: Bound, values: Values, epsilon: Any, u: list[Tensor], theta: list[Tensor], *, step: float = 1e-2
) -> list[Tensor]:
    """H u and J' u from the gradients at values +- step u / |u|.

    The step is normalised: with a fixed factor of u, float32 loses most digits where u is small. At a kink of a ReLU the
    difference sees the jump of the slope, which the exact gradient leaves out, so this is for smooth decoders, an LSTM.
    """
    length = step / torch.cat([part.flatten() for part in u]).norm().clamp_min(1e-30)
    ahead, behind = (_leaves([v + sign * length * part for v, part in zip(values, u, strict=True)]) for sign in (1, -1))
    difference = (bound(ahead, epsilon) - bound(behind, epsilon)) / (2 * length)
    found = _gradients([difference], ahead + behind + tuple(theta))
    n = len(u)
    return [one + other for one, other in zip(found[:n], found[n : 2 * n], strict=True)] + found[2 * n :]


def authors_difference(
    bound: Bound,
    values: Values,
    epsilon: Any,
    u: list[Tensor],
    theta: list[Tensor],
    *,
    step: float = 1e-5,
    clip: float = 5.0,
) -> list[Tensor]:
    """H u and J' u as the authors' code has them: one-sided, the step not normalised, the gradient ahead clipped as a whole.

    Where that clipping acts, the difference of a clipped and an unclipped gradient is divided by 1e-5: the encoder then gets
    about the gradient of the plain model, scaled to a norm of 5, and not that of the refined bound.
    """
    ahead, here = _leaves([v + step * part for v, part in zip(values, u, strict=True)]), _leaves(values)
    clipped = _clipped(_gradients([bound(ahead, epsilon)], ahead + tuple(theta)), clip)
    plain = _gradients([bound(here, epsilon)], here + tuple(theta))
    n = len(u)
    plain = [_clipped([part], clip)[0] for part in plain[:n]] + plain[n:]
    found = [(part - other) / step for part, other in zip(clipped, plain, strict=True)]
    return found[:n] + _clipped(found[n:], clip)


def _gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> list[Tensor]:
    found = torch.autograd.grad(outputs, inputs, weights, allow_unused=True)
    return [torch.zeros_like(part) if gradient is None else gradient for part, gradient in zip(inputs, found, strict=True)]


def _clipped(gradients: list[Tensor], norm: float | None) -> list[Tensor]:
    """The tensors scaled down together to a norm of at most `norm`; None leaves them as they are."""
    if norm is None or not gradients:
        return gradients
    total = torch.cat([part.flatten() for part in gradients]).norm()
    return [part * (norm / (total + 1e-6)).clamp(max=1.0) for part in gradients]


def _leaves(values: Iterable[Tensor]) -> Values:
    return tuple(value.detach().requires_grad_() for value in values)


def _detached(values: Iterable[Tensor]) -> Values:
    return tuple(value.detach() for value in values)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one is other or torch.equal(one, other)
    return one is other or bool(not isinstance(one, torch.Tensor) and not isinstance(other, torch.Tensor) and one == other)


GRADIENTS: dict[str, Method] = {
    "exact": unrolled,
    "exact-rebuilt": replayed(double_backward),
    "finite-difference": replayed(central_difference),
    "first-order": straight_through,
    "authors": replayed(authors_difference),
}
