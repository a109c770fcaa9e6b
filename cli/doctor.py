"""Commands on the machine: what it has, what a file is, completion of the shell."""

import json
import sys

import click

from .commands import JSON, examples
from .echo import echo
from .errors import NoRun
from .options import RunPath


@click.command(epilog=examples("doctor", "doctor runs/digits/checkpoints/last.safetensors", "doctor my.npy"))
@click.argument("path", required=False, type=RunPath(exists=True))
@JSON
def doctor(path, as_json):
    """Show versions, devices and data of this machine, or describe PATH: a checkpoint, a run or data."""
    found = _about_path(path) if path else _about_machine()
    echo(json.dumps({"schema": 1, **found}, indent=2) if as_json else _lines(found), nl=as_json)
    if found.get("run", {}).get("trouble"):
        raise click.exceptions.Exit(NoRun.exit_code)


@click.command(
    epilog=examples("completion bash >> ~/.bashrc", "completion fish > ~/.config/fish/completions/skipvae-pyro.fish")
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context, shell):
    """Print the script with which SHELL completes commands and options."""
    from click.shell_completion import get_completion_class

    make = get_completion_class(shell)
    echo(make(context.find_root().command, {}, "skipvae-pyro", "_SKIPVAE_PYRO_COMPLETE").source())


def _about_machine():
    import platform
    import re
    from importlib.metadata import PackageNotFoundError, requires, version

    import torch

    from pyro_skipvae.data import DATASETS, locate

    versions = {"python": platform.python_version()}
    try:
        needed = [text for text in requires("pyro_skipvae") if "extra ==" not in text]
        for name in ["pyro_skipvae", *(re.match(r"[\w.-]+", text)[0] for text in needed)]:
            versions[name] = version(name)
    except PackageNotFoundError as error:
        versions[error.name] = "not installed"
    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    devices |= {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    data = {name: str(found) if (found := locate(name)[0]) else "not found" for name in DATASETS}
    machine = {"versions": versions, "devices": devices, "matrix products": _about_products()}
    return {**machine, "torchvision": _about_torchvision(), "data": data}


def _about_products():
    """What `train --matmul medium` would bring; the choice stays the user's, for a seed is to mean the same each time."""
    from . import matrix_products

    errors = {name: f"{matrix_products.error(name):.1e}" for name in ("highest", "medium")}
    return {
        "medium": f"{matrix_products.speed():.2f} times as fast as highest, measured just now",
        "relative error": ", ".join(f"{name} {found}" for name, found in errors.items()),
    }


def _about_torchvision():
    from pyro_skipvae.data.torchvision_shim import load_torchvision

    try:
        load_torchvision()
    except Exception as error:  # whatever it is, it is the answer
        return {"state": f"cannot be imported: {error}"}
    whole = getattr(sys.modules.get("torchvision.extension"), "_has_ops", lambda: False)()
    return {
        "state": "whole" if whole else "works without its compiled operators, which are built for another torch; none is needed"
    }


def _about_path(path):
    from pathlib import Path

    from pyro_skipvae.runs.folder import is_exported

    path = Path(path)
    if _is_data(path):
        return _about_data(path)
    if is_exported(path):
        return _about_exported(path)
    return _about_run(path) if path.is_dir() else _about_file(path)


def _is_data(path):
    """Whether a path is meant as data: the ending of one of its files, or a folder that is no run."""
    from pyro_skipvae.data import own_file
    from pyro_skipvae.data.own_folder import RUN_FILES

    if path.is_dir():
        inside = sorted(file.parent for file in path.glob(f"*/{RUN_FILES[0]}"))
        if inside and not (path / RUN_FILES[0]).exists():
            raise NoRun(f"expected a run, a checkpoint or data, got {path}, a folder of runs; name one, such as {inside[0]}")
        return not any((path / name).exists() for name in (*RUN_FILES, "checkpoints"))
    return path.name.lower().endswith((*own_file.READERS, *own_file.TEXTS))


def _about_data(path):
    """What a file or folder of data holds, how it is read, and what memory that takes."""
    from pyro_skipvae.data import load_data

    from .errors import user_errors
    from .terminal import looking

    with user_errors(), looking() as told:
        data = load_data(path, binarisation="none", progress=told)
    sizes = " / ".join(f"{size:,}" for size in data.describe()["sizes"].values())
    return {
        "data": {
            "items": f"{sizes} (train / valid / test) of shape {tuple(data.event_shape)}",
            "splits": data.split,
            "values": data.how_read,
            "read": data.where,
            "memory_bytes": data.memory,
            "checksum": data.checksum,
        }
    }


def _about_run(path):
    """What a run folder holds, and the state of each checkpoint."""
    from pyro_skipvae.reports.comparison import read_record
    from pyro_skipvae.runs.checkpoint import CheckpointError
    from pyro_skipvae.runs.folder import Run, RunError

    record, run, checkpoints, trouble = read_record(path), Run(path), {}, []
    for file in sorted((path / "checkpoints").glob("*.safetensors")):
        try:
            found = _about_file(file)["checkpoint"]
            checkpoints[file.name] = f"whole, epoch {found['epoch']}, {found['size']}"
        except CheckpointError as error:
            checkpoints[file.name] = str(error)
    config, readable = record.config, run.readable()
    try:
        data = "unknown" if (about := run.description()) is None else f"{about.name}, items of shape {about.event_shape}"
    except RunError as error:
        data, trouble = str(error), ["its data are not described"]
    if readable is None and (checkpoints or record.metrics or record.report or record.stale):
        trouble.append("no checkpoint can be read")
    return {
        "run": {
            "model": f"{config.layers}-layer {config.decoder} {config.model} on {config.dataset}, seed {config.seed}",
            "data": data,
            "epochs": f"{record.metrics[-1]['epoch'] if record.metrics else 0} of {config.epochs}",
            "verdict": _verdict(record, readable),
            **({"trouble": "; ".join(trouble)} if trouble else {}),
        },
        "checkpoints": checkpoints,
    }


def _verdict(record, readable):
    import shlex

    from pyro_skipvae.diagnostics.report.verdict import Verdict

    if record.report:
        return Verdict.from_stored(record.report["verdict"]).sentence
    missing = "its report is of a checkpoint that is gone" if record.stale else "no report"
    if readable is None:
        return f"{missing}, and no checkpoint to make one from"
    which = "" if readable == "best" else f"--checkpoint {readable} "
    return f"{missing}; make one with evaluate {shlex.quote(str(record.path))} {which}--save"


def _about_exported(path):
    """What an exported model holds. Raises CheckpointError for one that is damaged."""
    from pyro_skipvae.reports.export import load_exported
    from pyro_skipvae.skip import parameter_count

    vae, config = load_exported(path)
    return {
        "exported model": {
            "model": f"{config.layers}-layer {config.decoder} {config.model} on {config.dataset}, seed {config.seed}",
            "state": "whole: its checksum is right",
            "parameters": f"{parameter_count(vae):,}",
            "read it with": f"pyro_skipvae.reports.load_exported({str(path)!r})",
        }
    }


def _about_file(path):
    """What a checkpoint holds. Raises CheckpointError, with what the file is instead where that can be seen."""
    from pyro_skipvae.runs.checkpoint import CheckpointError, load

    try:
        state = load(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_instead(path)}") from None
    tensors = list(_tensors(state))
    return {
        "checkpoint": {
            "state": "whole: its checksum is right",
            "size": f"{path.stat().st_size / 2**20:.1f} MiB",
            "epoch": state.get("epoch"),
            "holds": ", ".join(state),
            "tensors": len(tensors),
            "parameters of the model": sum(t.numel() for t in _tensors(state.get("vae", {}))),
        }
    }


def _instead(path):
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        start = file.read(2)
    if path.suffix == ".npz":
        return "; it is a file of data: see `train --dataset`"
    if start == b"PK" or start[:1] == b"\x80":
        return "; it looks like a file of torch.save, which may run code when loaded and is not read here"
    try:
        with safe_open(path, framework="pt") as file:
            kind = (file.metadata() or {}).get("format", "")
            count = len(list(file.keys()))
    except (OSError, SafetensorError):
        return ""
    if kind.startswith("pyro_skipvae export"):
        return f"; it is the weights of an exported model, {count} tensors: read it with pyro_skipvae.reports.load_exported"
    return "" if kind == "pyro_skipvae" else f"; it is a safetensors file of another program, {count} tensors"


def _tensors(state):
    import torch

    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict | list):
        for item in state.values() if isinstance(state, dict) else state:
            yield from _tensors(item)


def _lines(found):
    from .terminal import table

    return "\n".join(f"{title}\n" + table(("", ""), [("  " + name, str(value)) for name, value in entries.items()]).lstrip("\n")
                     for title, entries in found.items() if entries)  # fmt: skip
