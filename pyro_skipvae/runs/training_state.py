"""What the checkpoint of a training must hold, and whether it fits the model and the optimizer that are to go on from it.

A checksum tells damage, but not a state that another program wrote.
"""

import copy

import torch
from torch import Tensor

from pyro_skipvae.runs.checkpoint import CheckpointError
from pyro_skipvae.stored import check

NUMBER = (int, float)
CONTROL = {"total": NUMBER, "beta": NUMBER}  # of the rate
ADVERSARY = {"critic": {...: Tensor}, "optimizer": {"state": dict, "param_groups": [dict]}}
PHASE = {"patience": int, "active": bool, "best": NUMBER, "misses": int}  # of lagging inference
OF_STEPS = {  # of some steps
    **{"start?": {...: Tensor}},  # of a decoder that starts anew
    **{"updates?": int, "control?": CONTROL, "phase?": PHASE, "adversary?": ADVERSARY, "objective?": {...: Tensor}},
}
STATE = {  # what a checkpoint says, as far as it says it; `vae` alone is enough to read a model
    "vae?": {...: Tensor},
    "optimizer?": {...: dict},
    "step?": {"steps": int, "left_out": Tensor, **OF_STEPS},
    "batches?": {"epoch": int, "position": int},
    "progress?": {"epochs": int, "loss": (*NUMBER, Tensor), "datapoints": (int, Tensor)},
    **{"epoch?": int, "best?": NUMBER, "stalled?": int, "data?": str, "judged_by?": str},
    "halving?": {"first": int, "floor": NUMBER, "factor": NUMBER, "started": bool},
    "random?": {"torch": Tensor, "cuda": [Tensor], "numpy": [(str, Tensor, *NUMBER)], "python": list},
}
OPTIONAL = ("data?", "optimizer?", "judged_by?")
TRAINING = {name.removesuffix("?"): pattern for name, pattern in STATE.items() if name not in OPTIONAL}
GENERATORS = {
    "numpy": {"name": str, "words": Tensor, "position": int, "has_spare": int, "spare": NUMBER},
    "python": {"version": int, "words": Tensor, "spare": (*NUMBER, type(None))},
}
LEFT_OUT, WORDS = (5,), 624  # numbers of `left_out`; words in the state of NumPy's generator


def check_state(state, where):
    """Raises CheckpointError, with the place, if what stands at `where` cannot be a state of a training."""
    try:
        check(state, STATE, "it")
    except ValueError as error:
        raise CheckpointError(f"expected the state of a training in {where}, got something else: {error}") from None


def check_weights(module, state, what="vae"):
    """Raises ValueError, with the name, unless `state` has the tensors of the module: their names, shapes and types."""
    own = module.state_dict()
    check(state, {...: Tensor}, what)
    for name in sorted(map(str, own.keys() ^ state.keys())):
        raise ValueError(f"{name} is in {'the model' if name in own else 'the checkpoint'} alone")
    for name, tensor in own.items():
        _check_tensor(state[name], tensor.shape, tensor.dtype, name)


def check_training(state, *, vae, step):
    """Raises ValueError, with the place, unless a training of this model by this `SVIStep` can go on from `state`."""
    check(state, TRAINING, "it")
    check_weights(vae, state["vae"])
    _check_tensor(state["step"]["left_out"], LEFT_OUT, torch.long, "step.left_out")
    for name, dtype in (("loss", None), ("datapoints", torch.long)):
        if isinstance(state["progress"][name], Tensor):
            _check_tensor(state["progress"][name], (), dtype, f"progress.{name}")
    _check_random(state["random"])
    remembered = {name.replace("$$$", "."): one for name, one in optimizer_of(state).items()}
    parameters = dict(vae.named_parameters())
    if step.auxiliary is not None:
        check_weights(step.auxiliary, state["step"].get("objective", {}), "step.objective")
        parameters |= {f"objective.{name}": parameter for name, parameter in step.auxiliary.named_parameters()}
    for name in remembered and sorted(remembered.keys() ^ parameters.keys()):  # before the first step it remembers nothing
        raise ValueError(f"{name} is known to the {'optimizer' if name in remembered else 'model'} alone")
    for name, one in remembered.items():
        _try_optimizer(step.optim, parameters[name], one, f"optimizer.{name}")


def optimizer_of(state):
    """What the optimizer of a state remembers of each parameter; the first version kept it with the step."""
    found = state["optimizer"] if "optimizer" in state else state["step"].get("optimizer", {})
    check(found, {...: dict}, "optimizer")
    return found


def _check_random(state):
    """NumPy reads outside its memory where the position is too large, and says nothing."""
    _check_tensor(state["torch"], torch.get_rng_state().shape, torch.uint8, "random.torch")
    for name, pattern in GENERATORS.items():
        check(dict(zip(pattern, state[name], strict=True)), pattern, f"random.{name}")
    _check_tensor(state["numpy"][1], (WORDS,), torch.long, "random.numpy.words")
    _check_tensor(state["python"][1], (WORDS + 1,), torch.long, "random.python.words")
    words = torch.cat([state["numpy"][1], state["python"][1]])
    if not 0 <= state["numpy"][2] <= WORDS or words.min() < 0 or words.max() >= 2**32:
        raise ValueError("random holds no state of a generator")


def _try_optimizer(optim, parameter, state, what):
    """See whether the optimizer of a parameter can go on from a state, on a copy; its kernels check no shapes themselves."""
    check(state, {"optimizer": {"state": dict, "param_groups": [dict]}, "scheduler?": dict}, what)
    moments = state["optimizer"]["state"].get(0, {})
    check(moments, {...: (Tensor, *NUMBER, type(None))}, f"{what}.state")
    for name, value in moments.items():  # a fused kernel reads outside its memory where one is too small
        if isinstance(value, Tensor):
            shape, dtype = ((), torch.float32) if name == "step" else (parameter.shape, parameter.dtype)
            _check_tensor(value, shape, dtype, f"{what}.{name}")
    state, tried = copy.deepcopy(state), torch.nn.Parameter(parameter.detach().clone())  # torch would step in these tensors
    tried.grad = torch.zeros_like(tried)
    try:
        one = optim._get_optim(tried)
        one.load_state_dict(state["scheduler"])
        one.optimizer.load_state_dict(state["optimizer"])
        one.optimizer.step()
        one.step()
    except Exception as error:  # torch raises what it happens to meet
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{what} is no state of this optimizer: {type(error).__name__} {reason}") from None
    if not tried.isfinite().all() and parameter.isfinite().all():
        raise ValueError(f"{what} makes a parameter that is not finite")


def _check_tensor(tensor, shape, dtype, what):
    if tensor.shape != torch.Size(shape) or dtype not in (None, tensor.dtype):
        kind = f" of {dtype}".replace("torch.", "") if dtype else ""
        raise ValueError(f"{what} has the shape {tuple(tensor.shape)} of {tensor.dtype}, not {tuple(shape)}{kind}")
