"""Checkpoints whose checksum is right, over a state that is none: each is told in one sentence, and nothing else happens."""

import copy
import functools

import torch

from pyro_skipvae.runs import checkpoint
from pyro_skipvae.runs.build import build_data, resolve
from pyro_skipvae.runs.checkpoint import CheckpointError
from pyro_skipvae.runs.config import Config
from pyro_skipvae.runs.folder import Run, RunError
from pyro_skipvae_cli.job import Job, as_trained

BATCH = 100
SETTINGS = {"dataset": "digits", "decoder": "mlp", "layers": 1, "width": 4, "latent_dim": 2, "limit_train": 20, "limit_eval": 4}
ODD = (
    *(None, True, -1, 0, 3, 2**62, 10**30, 0.5, float("nan"), "", "x", [], [[]], [1, "a"], {}, {"a": {}}, {0: 1}),
    *(torch.zeros(()), torch.zeros(0), torch.ones(3, 2), torch.ones(5, dtype=torch.long), torch.ones(624, dtype=torch.long)),
)


def new_job():
    """A job that has not begun, on the digits."""
    data, config = settled()
    return Job(config, data, torch.device("cpu"))


@functools.cache
def settled():
    config = Config.from_flags(SETTINGS)
    data = build_data(config)
    return data, resolve(config, data)


def places(node, at=()):
    """Every place of a nested state, as the keys that lead to it."""
    yield at
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, item in items:
        yield from places(item, (*at, key))


def changed(state, at, random):
    """A copy of a state with something else at a place: lost, of another kind, nested deep, or in another shape."""
    state = copy.deepcopy(state)
    if not at:
        return random.choice(ODD)
    parent = state
    for key in at[:-1]:
        parent = parent[key]
    how = random.randrange(5)
    if how == 0:
        del parent[at[-1]]
    elif how == 1 and isinstance(parent[at[-1]], torch.Tensor):
        found = parent[at[-1]]
        parent[at[-1]] = random.choice([found.flatten()[:-1], found[None], found.to(torch.float64), found.bool()])
    elif how == 2 and isinstance(parent, dict):
        parent[random.choice(["x", 7, True])] = parent.pop(at[-1])
    else:
        parent[at[-1]] = random.choice(ODD)
    return state




def plain(state):
    """A state as `checkpoint.save` takes it: tuples are lists there."""
    if isinstance(state, dict):
        return {key: plain(item) for key, item in state.items()}
    return [plain(item) for item in state] if isinstance(state, list | tuple) else state


def texts(random):
    """States that are no text of a state at all."""
    deep = random.choice([100, 3_000, 100_000])
    return random.choice(
        [
            "[" * deep + "]" * deep,
            '{"$pairs": [["a", ' * deep + "0" + "]]}" * deep,
            *("", "null", "[]", "3", '"x"', "{", "{}", '{"$tensor": "absent"}', '{"$tensor": []}', '{"$pairs": 3}'),
            *('{"$pairs": [[1]]}', '{"$pairs": [[[], 1]]}', '{"$pairs": [["vae", ' + "9" * 5000 + "]]}", "NaN", "1e999"),
        ]
    )


def write(path, text, tensors):
    """A checkpoint of any text, with the checksum that belongs to it."""
    about = {"format": "pyro_skipvae", "version": checkpoint.VERSION, "state": text, "sha256": checkpoint.digest(text, tensors)}
    path.write_bytes(checkpoint.to_ordered_bytes(tensors, about))


def unit(folder, _, random, __):
    """A hundred states, each read for its weights and to go on from it: as it was, or one sentence."""
    job, failed = new_job(), []
    for x in list(job.batches):
        job.progress.add(job.step(x), len(x))
    state, run = plain(job.state()), Run(folder / "run")
    (run.path / "checkpoints").mkdir(parents=True)
    file, everywhere = run.path / "checkpoints" / "last.safetensors", list(places(state))
    for number in range(BATCH):
        if number % 5 == 0:
            what = texts(random)
            write(file, what, {})
        else:
            what = random.choice(everywhere)
            checkpoint.save(file, changed(state, what, random))
        trouble = _trouble(run)
        if trouble:
            failed.append(f"{str(what)[:100]}: {trouble}")
    return BATCH, failed


def _trouble(run):
    """What is wrong with how a checkpoint is taken; None if nothing is."""
    for use in (_read, _go_on):
        try:
            with as_trained():
                use(run, new_job())
        except (CheckpointError, RunError) as error:
            if "\n" in str(error) or len(str(error)) > 1000:
                return f"not one sentence: {str(error)[:300]!r}"
        except BaseException as error:
            return f"{type(error).__name__}: {str(error)[:300]}"
    return None


def _read(run, job):
    run.load_weights(job.vae, "last")


def _go_on(run, job):
    job.restore(run.latest()[0])
    for x in job.batches:
        job.progress.add(job.step(x, job.beta(job.step.steps)), len(x))
    job.progress.close()
    job.judge(1, 1.0)
    job.state()
