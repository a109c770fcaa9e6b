"""A training step: Pyro's SVI on one batch, with the whole gradient clipped, and without steps that are not finite."""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyro_skipvae.modules import parameters_below
from pyro_skipvae.objectives import Batch, Objective, analytic_elbo, as_arguments, data_plate, elbo, weighted
from pyro_skipvae.schedules import RateControl

from .graphs import Compilation, Graphs, run_once
from .param_store import check_store_tensors
from .precision import PRECISIONS, in_precision
from .ranks import Ranks, check_same, digest


def svi_step(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    objective: Objective | ELBO,
    optim: PyroOptim,
    *,
    max_norm: float | None = None,
    ranks: Ranks | None = None,
    compile: bool = False,
    precision: str = "float32",
    control: RateControl | None = None,
) -> "SVIStep":
    """Makes a training step of Pyro's SVI: (x, beta) -> loss in nats per datapoint, a tensor (), and updated parameters.

    objective: one of `pyro_skipvae.objectives`, or any `pyro.infer.ELBO`. Its sum over the batch of B points is divided by B,
    and by N where a plate of N points scales it by N/B. If it is a module, its parameters are trained, too.
    max_norm: clips the norm of the whole gradient (`PyroOptim` clips tensor by tensor). A learning-rate schedule of
    `pyro.optim` advances at every step. On a CPU call torch.set_flush_denormal(True) first: what an optimizer keeps of
    gradients that stay 0 decays to denormal numbers, and the step of an MLP then takes twice as long.

    A step whose loss or gradient norm is not finite changes no parameter and no momentum, though it does change buffers, such
    as the running statistics of a BatchNorm; `nonfinite()` of the step counts these. A fused optimizer learns of it on the
    device; any other one waits for the device in each step. Pyro checks sites and shapes in the first step alone; its setting
    `validate_distributions_pyro` decides what distributions check.

    ranks: the processes of a job (`join_ranks`). Each is given the same batches, computes its own rows, and makes the step
    that one process would make of the whole batch, with its loss and clipping.

    compile: one graph of loss and gradients for each shape of x, with the same draws, so that losses and gradients differ from
    those of the plain step by rounding alone. What model and guide read besides x, beta, parameters and buffers stays as it was
    when the graph was made. `compilation` of the step says what was compiled. Where that is not possible the plain step runs,
    with a warning. precision: "bf16" lets the networks multiply in bfloat16; draws, densities, KL, parameters and `evaluate`
    stay in float32.

    control: the `RateControl` that gives the beta of each step for which none is given; without a control it is 1. It is told
    the rate, which is the derivative of the mean loss of `elbo` and `analytic_elbo` in beta.

    Raises ValueError for an unknown precision, a max_norm that is not above 0, an optimizer that is not of pyro.optim,
    ReduceLROnPlateau, and a control with an ELBO of Pyro's or another objective of this package. A step raises it where Pyro's
    parameter store holds other tensors than the modules of this pair under the same names: it would train those and leave the
    modules as they are. Call pyro.clear_param_store() before.
    """
    how: Any = {"compile": compile, "precision": precision, "control": control}
    return SVIStep(model, guide, objective, optim, max_norm, ranks, **how)


@dataclass(frozen=True)
class Nonfinite:
    """The steps left out since loss or gradient was not finite: how many, the first (from 0), and which of input, loss,
    gradient were not in the first."""

    steps: int
    first: int
    what: tuple[str, ...]


PARTICLES = "num_particles_vectorized"  # the plate of Pyro's ELBOs over several draws
MOST_LOOKED = 64  # steps whose look for what is not finite waits to be counted


class SVIStep:
    """The step that `svi_step` returns: call it with (x, beta); `steps` counts the calls."""

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        objective: Objective | ELBO,
        optim: PyroOptim,
        max_norm: float | None,
        ranks: Ranks | None = None,
        *,
        compile: bool = False,
        precision: str = "float32",
        control: RateControl | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"expected a precision of {' or '.join(PRECISIONS)}, got {precision!r}")
        if max_norm is not None and not max_norm > 0:  # below 0 clipping would turn the gradient round
            raise ValueError(f"expected max_norm to be above 0, or None, got {max_norm}")
        if not isinstance(optim, PyroOptim):
            raise ValueError(f"expected an optimizer of pyro.optim, got {type(optim).__name__}")
        if control is not None and _of_another_rate(objective):
            got = type(objective).__name__ if isinstance(objective, ELBO) else "one whose slope in beta is another"
            raise ValueError(f"expected elbo or analytic_elbo of pyro_skipvae.objectives with a control, got {got}")
        if getattr(optim, "pt_scheduler_constructor", None) is ReduceLROnPlateau:
            raise ValueError(
                "expected a learning-rate schedule of the step alone, got ReduceLROnPlateau, which wants to be told a loss; "
                "use pyro.optim.LambdaLR, with pyro_skipvae.schedules.Halving for one that follows the validation"
            )
        self.objective, self.optim, self.max_norm, self.ranks = objective, optim, max_norm, ranks
        self.auxiliary = objective if isinstance(objective, nn.Module) else None  # it has parameters of its own
        self.precision, self.compilation = precision, Compilation() if compile else None
        self.control, self._weight = control, torch.ones(())  # beta of the step, with the rate as its gradient
        self._graphs: Graphs | None = None
        self.svi = SVI(model, guide, optim, loss=self._loss, loss_and_grads=self._loss_and_grads)
        self.svi.optim = self._update
        self.steps, self.updates, self._checked = 0, 0, False
        self._parameters: list[Any] = []  # of the last step, in the order of its trace
        self._reached: list[nn.Parameter] = []  # what the loss of the first step depends on
        self.held: set[int] = set()  # parameters, by id, that an update leaves alone
        self._one: Any = None  # the torch optimizer that works for all
        self._left_out = torch.zeros(5, dtype=torch.long)  # how many, the first, and three flags: input, loss, gradient
        self._looked: list[tuple[int, Tensor]] = []  # what of the last steps was finite, not yet counted

    def _beta_of(self, given: float | None = None) -> float:
        """The beta of the next step: the one given, else the control's, else 1."""
        if given is not None:
            return given
        return 1.0 if self.control is None else self.control(self.steps)

    def update(self, x: Batch, beta: float = 1.0) -> Tensor:
        """Updates the parameters and returns the loss, as a step does, without counting it or advancing a schedule."""
        try:
            if not self._step_by_graph(x, beta):
                self.svi.step(x, beta)
        except _SkipStep:
            _clear_gradients(self._parameters)
            if isinstance(self.optim, PyroLRScheduler) and not self.optim.optim_objs:
                self.optim(self._parameters)  # without gradients it changes nothing, but there are schedules to advance now
        self.updates += 1
        return self._last_loss

    def __call__(self, x: Batch, beta: float | None = None) -> Tensor:
        self.update(x, self._beta_of(beta))
        if isinstance(self.optim, PyroLRScheduler):
            self.optim.step()
        if self.control is not None and self._weight.grad is not None:
            self.control.after(float(self._weight.grad))
        self.steps += 1
        return self._last_loss

    def evaluate(self, x: Batch) -> float:
        """The loss of x in nats per datapoint at beta = 1, as a number, without training."""
        return self.svi.evaluate_loss(x)

    def nonfinite(self) -> Nonfinite | None:
        """The steps so far that were not finite, as a `Nonfinite`, or None. Waits for the device."""
        steps, first, *flags = self._counted().tolist()
        what = tuple(name for name, flag in zip(("input", "loss", "gradient"), flags, strict=True) if flag)
        return Nonfinite(steps, first, what) if steps else None

    def state_dict(self) -> dict[str, Any]:
        """The state of optimizer, counts and control, for `load_state_dict`; as with torch's own, its tensors are in use."""
        # What was loaded and no step has used yet is still with the optimizer, not in its state.
        optimizer = {**self.optim._state_waiting_to_be_consumed, **self.optim.get_state()}
        if None in optimizer:  # Pyro names a state by the parameter store of now
            raise ValueError(
                "expected the parameters of this step's optimizer in Pyro's parameter store, which does not have all of them: "
                "save before pyro.clear_param_store(), and give each model an optimizer of its own"
            )
        # Sorted: SVI hands its parameters over as a set, whose order differs from process to process.
        control = {} if self.control is None else {"control": vars(self.control).copy()}
        further = control if self.auxiliary is None else {**control, "objective": self.auxiliary.state_dict()}
        return {"steps": self.steps, "optimizer": dict(sorted(optimizer.items())), "left_out": self._counted(), **further}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if ("objective" in state) != (self.auxiliary is not None):
            wanted, got = ("with", "one without") if self.auxiliary is not None else ("without", "one with")
            raise ValueError(f"expected the state of a step {wanted} an objective that is a module, got {got}")
        self.steps, self._left_out, self._one = state["steps"], state["left_out"], None
        self._looked.clear()
        self.updates = state.get("updates", self.steps)
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(state["objective"])
        if self.control is not None:
            vars(self.control).update(vars(replace(self.control, **state["control"])))
        # Pyro gives a state only to a parameter that it has not seen: what this step's optimizers have seen is forgotten.
        for known in (self.optim.optim_objs, self.optim.grad_clip, self.optim._state_waiting_to_be_consumed):
            known.clear()
        self.optim.set_state(copy.deepcopy(state["optimizer"]))  # they would go on in the tensors of `state`

    def forget(self) -> None:
        """Clears the optimizer's state, as if there had been no gradient; learning-rate schedules go on."""
        for one in self.optim.optim_objs.values():
            getattr(one, "optimizer", one).state.clear()
        for state in self.optim._state_waiting_to_be_consumed.values():  # loaded, and not used yet
            state.get("optimizer", state)["state"].clear()
        self._one = None

    def _loss(self, model: Callable[..., Any], guide: Callable[..., Any], x: Batch) -> Tensor:
        with self._own_rows(x) as rows, _DataPlate(batch_size(rows)) as plate:
            if isinstance(self.objective, ELBO):
                loss = self.objective.loss(model, guide, *as_arguments(rows))  # type: ignore[attr-defined]  # every ELBO has it
            else:
                loss = self.objective(model, guide, rows)
        return self._of_all(x, torch.as_tensor(loss / plate.points))

    def _loss_and_grads(self, model: Callable[..., Any], guide: Callable[..., Any], x: Batch, beta: float) -> float:
        """What SVI calls before the optimizer: the mean loss, its clipped gradients, and whether they may be used."""
        with poutine.trace(param_only=True) as capture:
            with self._own_rows(x) as rows, self._checks():
                loss = self._mean_loss_and_grads(rows, self._weight_of(rows, beta))
        # In the order of the trace: that of a set differs from process to process, and with it the rounding of the norm.
        parameters = list(dict.fromkeys(site["value"].unconstrained() for site in _sites(capture).values()))
        if list(map(id, parameters)) != list(map(id, self._parameters)):  # the first step, or another model used the store
            check_store_tensors(_sites(capture))
        self._parameters = parameters
        if not self._checked:
            self._warn_of_untrained()
        loss, self._checked = self._of_all(x, torch.as_tensor(loss).detach(), _sites(capture)), True
        self._judge(x, loss)
        return 0.0  # SVI would make a number of the loss, and so wait for the device

    def _warn_of_untrained(self) -> None:
        """Warns where the loss depends on modules that are not registered: SVI trains what is in Pyro's store alone.

        Of our own objectives, where the step is not compiled.
        """
        trained = set(map(id, self._parameters))
        left = [parameter for parameter in self._reached if id(parameter) not in trained]
        self._reached.clear()
        if left:
            shapes = ", ".join(str(tuple(parameter.shape)) for parameter in left[:3])
            warnings.warn(
                f"{len(left)} parameters with a gradient are not trained, of shape {shapes}{', ...' * (len(left) > 3)}: "
                "register their module by pyro.module, or pass it to as_pair; with requires_grad_(False) they stay as they are",
                stacklevel=6,
            )

    def _weight_of(self, x: Batch, beta: float) -> float | Tensor:
        """beta as it is, or, where its derivative is wanted, as a tensor that has one."""
        if self.control is None:
            return beta
        device = next(part.device for part in as_arguments(x) if isinstance(part, Tensor))
        self._weight = torch.full((), beta, dtype=torch.double, device=device, requires_grad=True)
        return self._weight

    def _step_by_graph(self, x: Batch, beta: float) -> bool:
        """Whether a compiled graph made the step."""
        if self.compilation is None or self.compilation.refused:
            return False
        loss = self._loss_by_graph(x, beta, self.compilation)
        if loss is None and self.compilation.refused is None:
            return False  # there are graphs, but none for this shape
        if loss is None:
            warnings.warn(f"the step is not compiled and runs as it would without: {self.compilation.refused}", stacklevel=3)
            return False
        self._judge(x, loss)
        self._update(self._parameters)
        return True

    def _loss_by_graph(self, x: Batch, beta: float, compilation: Compilation) -> Tensor | None:
        """The loss, with its gradients left on the parameters; None, with the reason noted, where there is no graph."""
        if isinstance(self.objective, ELBO):
            name = type(self.objective).__name__
            compilation.refused = f"{name} makes numbers of its sums; pyro_skipvae.objectives has the same without"
        elif self.ranks is not None:
            compilation.refused = "several processes add up their gradients"
        else:
            self._graphs = self._graphs or self._graphs_for(x, beta, compilation)
            self._parameters = self._graphs.parameters
            loss = self._graphs(x, beta)
            if self.control is not None and loss is not None:
                self._weight = self._graphs.weight
            return loss
        return None

    def _graphs_for(self, x: Batch, beta: float, compilation: Compilation) -> Graphs:
        with poutine.trace(param_only=True) as capture:
            try:
                modules, weighs = run_once(self._mean_loss, x, torch.full((), beta)), True
            except ValueError:  # a model or guide without an argument beta
                modules, weighs = run_once(self._mean_loss, x, beta), False
        check_store_tensors(_sites(capture))
        parameters = dict.fromkeys(site["value"].unconstrained() for site in _sites(capture).values())
        rate = self.control is not None
        return Graphs(self._mean_loss, list(parameters), modules, compilation, rate=rate, weighs=weighs)

    def _judge(self, x: Batch, loss: Tensor) -> None:
        """Clip the gradients, and keep the optimizer from them where something is not finite."""
        for parameter in self._parameters:
            if id(parameter) in self.held:
                parameter.grad = None
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise ValueError("expected dense gradients, got a sparse one: leave sparse=True out of the Embedding")
        norm = get_total_norm(gradients)
        if self.max_norm is not None:
            clip_grads_with_norm_(self._parameters, self.max_norm, norm)
        self._last_loss = loss
        self._skip_step_unless(self._is_finite(x, self._last_loss, norm))

    @contextlib.contextmanager
    def _own_rows(self, x: Batch) -> Iterator[Batch]:
        """The rows of x that this process computes, with their part of the noise for x; alone it computes all."""
        if self.ranks is None:
            yield x
        else:
            with self.ranks.noise(batch_size(x), self.updates):
                yield self.ranks.share(x)

    def _of_all(self, x: Batch, loss: Tensor, sites: dict[str, Any] | None = None) -> Tensor:
        """The mean loss of the rows of all processes, and, with parameter sites, their gradients on the parameters."""
        if self.ranks is None:
            return loss
        if sites is not None and not self._checked:
            check_same(self.ranks, {name: digest(site["value"]) for name, site in sites.items()})
            self._names = set(sites)
        if sites is not None and (other := set(sites) ^ self._names):
            raise ValueError(f"expected the same parameters in each step of several processes, {min(other)} is not in all")
        trained = [] if sites is None else [*self._parameters, *([self._weight] if self.control is not None else [])]
        return self.ranks.add_gradients(trained, loss, self.ranks.weight(batch_size(x)))

    def _update(self, parameters: Any) -> None:
        """What SVI calls as its optimizer: the `PyroOptim`, or one torch optimizer that does the work of all that it has.

        Those are one for each parameter, and take as long to call as to compute; what is shared is their state.
        """
        alone: list[Any] = [getattr(one, "optimizer", one) for one in map(self.optim.optim_objs.get, self._parameters)]
        own = type(self.optim).__call__ not in (PyroOptim.__call__, PyroLRScheduler.__call__)
        if _same_fused_optimizers(alone) and not own and not any(map(self.optim.grad_clip.get, self._parameters)):
            if self._one is None or list(map(id, self._one.param_groups[0]["params"])) != list(map(id, self._parameters)):
                self._one = type(alone[0])(self._parameters, lr=0.0)
            self._one.state.update((p, one.state[p]) for p, one in zip(self._parameters, alone, strict=True))
            self._one.param_groups[0].update(_options(alone[0]))
            self._one.found_inf = alone[0].found_inf
            self._one.step()
        else:
            self.optim(parameters)
        _clear_gradients(parameters)

    def _is_finite(self, x: Batch, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether loss and gradient are finite, as a tensor on the device; what is not is written down there too.

        NaN in x may stand for what is missing: whether it does harm shows in the loss.
        """
        parts = [part for part in as_arguments(x) if isinstance(part, torch.Tensor) and part.is_floating_point()]
        # Both ends are nan where anything is; one pass, a sixth of the time of isfinite().all().
        ends = [end.to(norm.device) for part in parts if part.numel() for end in part.aminmax()]
        finite = torch.stack([*ends, loss.to(norm.device), norm]).isfinite()
        if len(self._looked) == MOST_LOOKED or (self._looked and self._looked[0][1].shape != finite.shape):
            self._counted()
        self._looked.append((self.steps, finite))
        return finite[-2:].all()

    def _counted(self) -> Tensor:
        """What was not finite in all steps; many are counted at once, since a step of a small net takes as long."""
        if self._looked:
            steps, looked = zip(*self._looked, strict=True)
            bad = ~torch.stack(looked)
            bad = torch.stack([bad[:, :-2].any(1), bad[:, -2], bad[:, -1]], 1)
            left_out, device = bad[:, 1:].any(1), bad.device
            at = left_out.byte().argmax()
            numbers = torch.tensor(steps).to(device, non_blocking=True)
            here = torch.cat([numbers[at][None], bad[at].long()])
            count, first = self._left_out.to(device).split([1, 4])
            first = torch.where((count == 0) & left_out.any(), here, first)
            self._left_out = torch.cat([count + left_out.sum(), first])
            self._looked.clear()
        return self._left_out

    def _skip_step_unless(self, finite: Tensor) -> None:
        """Keep the optimizer from a step that is not finite: zero gradients alone would still move what has momentum."""
        optimizers = [getattr(one, "optimizer", one) for one in map(self.optim.optim_objs.get, self._parameters)]
        fused = [one for one in optimizers if one is not None and one.defaults.get("fused")]
        found = (~finite).float()
        for optimizer in fused:
            optimizer.found_inf = found
        # The first step finds no optimizer yet, and asks the device, as any that is not fused does at every step.
        if len(fused) < len(self._parameters) and not finite:
            raise _SkipStep

    def _checks(self) -> contextlib.AbstractContextManager[Any]:
        """After the first step Pyro looks at no site and no sum any more: each look waits for the device."""
        off = {"validate_infer": False, "validate_poutine": False}
        return pyro.settings.context(**off) if self._checked else contextlib.nullcontext()

    def _mean_loss_and_grads(self, x: Batch, beta: Any) -> Tensor:
        """The loss in nats per datapoint, and its gradients on the parameters."""
        if not isinstance(self.objective, ELBO):
            loss = self._mean_loss(x, beta)
            self._reached = [] if self._checked else parameters_below(loss)
            loss.backward()
            return loss
        name = type(self.objective).__name__
        if beta != 1 and name.startswith("Jit"):
            raise ValueError(
                f"expected a beta of 1 with {name}, got {beta}: what it has traced keeps the first beta; use elbo of "
                "pyro_skipvae.objectives, with compile=True"
            )
        with poutine.trace(param_only=True) as capture, _DataPlate(batch_size(x)) as plate, in_precision(self.precision, x):
            arguments = *weighted(self.svi.model, self.svi.guide, beta), *as_arguments(x)
            loss = self.objective.loss_and_grads(*arguments)  # type: ignore[attr-defined]  # every ELBO has it
        for parameter in {site["value"].unconstrained() for site in _sites(capture).values()}:
            if parameter.grad is not None:
                parameter.grad.div_(plate.points)
        return loss / plate.points

    def _mean_loss(self, x: Batch, beta: float | Tensor) -> Tensor:
        """The loss of one of our objectives, differentiable."""
        if self.auxiliary is not None:
            pyro.module("objective", self.auxiliary)
        with _DataPlate(batch_size(x)) as plate, in_precision(self.precision, x):
            objective: Any = self.objective
            loss: Tensor = objective(self.svi.model, self.svi.guide, x, beta)
        return loss / plate.points


def _of_another_rate(objective: Any) -> bool:
    """Whether the derivative of a known objective in beta is not the rate, which a control has to be told."""
    ours = str(getattr(objective, "__module__", "")).startswith("pyro_skipvae.objectives")
    return isinstance(objective, ELBO) or (ours and objective not in (elbo, analytic_elbo))


class _SkipStep(Exception):
    """Takes SVI out of its step before it calls the optimizer."""


def _sites(capture: Any) -> dict[str, Any]:
    """The parameter sites by name; Pyro's annotations leave open whether there are any."""
    return capture.trace.nodes


class _DataPlate(Messenger):
    """Notes how many datapoints the loss of some rows stands for: N, where a plate of N holds or chooses B; else the rows.

    The plate of the data has the rows as its elements, or chooses among them; another one, such as a plate that chooses among
    the pixels of a row, changes nothing.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = self.points = rows
        self.found, self.others = False, set[int]()

    def _pyro_post_sample(self, message: Any) -> None:
        if poutine.util.site_is_subsample(message):
            return
        if plate := data_plate(message, self.rows):
            self.points, self.found = max(self.points, plate.full_size), True
        frames = (frame for frame in message["cond_indep_stack"] if frame.vectorized and frame.name != PARTICLES)
        self.others |= {frame.size for frame in frames}

    def __exit__(self, kind: Any, *error: Any) -> Any:
        left = super().__exit__(kind, *error)
        if kind is None and not self.found and self.others and min(self.others) > 0:  # a plate may have no size of its own
            sizes = " and ".join(map(str, sorted(self.others)))
            raise ValueError(
                f"expected a plate over the {self.rows} rows of x, got plates of {sizes}: the first dimension of x has to be "
                "the datapoints, since losses are per datapoint"
            )
        return left


def batch_size(x: Batch) -> int:
    """How many datapoints x, a tensor or a tuple, holds. Raises ValueError for what has no rows, and for a dict."""
    first: Any = next(iter(as_arguments(x)), None)
    if isinstance(first, Mapping | str) or not hasattr(first, "__len__") or (isinstance(first, Tensor) and not first.dim()):
        raise ValueError(
            f"expected a batch of tensors, the first with a row for each datapoint, got a {type(first).__name__}: give them "
            "as a tuple, whose items are the arguments of model and guide"
        )
    return len(first)


def _same_fused_optimizers(optimizers: Sequence[Any]) -> bool:
    """Whether these are there, of one fused kind, which treats each number of a tensor alike, and with the same options."""
    if not optimizers or not all(one is not None and one.defaults.get("fused") for one in optimizers):
        return False
    first, *others = optimizers
    options = itemgetter(*_options(first))
    values = options(first.param_groups[0])
    return all(type(one) is type(first) and options(one.param_groups[0]) == values for one in others)


def _options(optimizer: Any) -> dict[str, Any]:
    return {name: value for name, value in optimizer.param_groups[0].items() if name not in ("params", "initial_lr")}


def _clear_gradients(parameters: Iterable[Tensor]) -> None:
    """Free the gradients: to fill them with zeros, and to add to these, would take a tenth of a step. SVI leaves None alone."""
    for parameter in parameters:
        parameter.grad = None
