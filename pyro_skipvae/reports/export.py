"""A trained model as a folder that others can use: weights, settings, and a card whose every number is the run's own.

    model.safetensors   the state of the VAE's classes, and what they must know of the data to be built
    config.toml         the settings of the run
    README.md           the model card
    vocabulary.txt      the words of a text model, one a line
    auxiliary.safetensors   the auxiliary prior of a delta-VAE

`load_exported` reads it back, without the data.
"""

import contextlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from pyro_skipvae.diagnostics.report.verdict import Verdict
from pyro_skipvae.model import VAE
from pyro_skipvae.runs import auxiliary
from pyro_skipvae.runs.build import build_blank
from pyro_skipvae.runs.checkpoint import (
    CheckpointError,
    abandoned,
    digest,
    temporary_name,
    to_ordered_bytes,
    write_whole,
)
from pyro_skipvae.runs.config import Config
from pyro_skipvae.runs.description import DataDescription
from pyro_skipvae.runs.folder import load_run
from pyro_skipvae.runs.training_state import check_weights
from pyro_skipvae.stored import loads

from .comparison import estimates_of, read_record
from .rendering import render
from .run_page import changed_settings, dimensions, notes, train_command

FORMAT = "pyro_skipvae export 2"
VOCABULARY = "vocabulary.txt"
UNSAID = {"name": "", "levels": None, "binarisation": "given", "checksum": ""}  # in exports of before
FILES = ("model.safetensors", "config.toml", "README.md", VOCABULARY, auxiliary.FILE)


def export_run(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Writes the model of a run into a new or empty folder: safetensors weights, settings and a model card; returns the files.

    path: as in `load_run`. Raises ValueError for a folder that is not empty, RunError or CheckpointError for a run that is
    missing, incomplete or damaged.
    """
    record, folder = read_record(path), Path(folder)
    _check_folder(folder)
    run = load_run(path)
    # Copies: safetensors writes no two tensors that share their memory, as tied weights do.
    state = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in run.vae.state_dict().items()}
    data = json.dumps(_about(run.about))
    files = {
        "model.safetensors": to_ordered_bytes(state, {"format": FORMAT, "data": data, "sha256": digest(data, state)}),
        "config.toml": record.config.to_toml(),
        "README.md": model_card(record, sum(tensor.numel() for tensor in state.values())),
    }
    if run.about.vocabulary is not None:
        files[VOCABULARY] = run.about.vocabulary.text()
    if auxiliary.exists(path):
        auxiliary.load(path)  # refuses one that is damaged
        files[auxiliary.FILE] = (record.path / auxiliary.FILE).read_bytes()
    with _unfinished(folder):
        for name, content in files.items():
            write_whole(folder / name, content)
    return [folder / name for name in files]


def _check_folder(folder):
    """Raises ValueError for a folder that holds anything but what an export that was killed has left."""
    if not folder.exists():
        return
    left = abandoned(folder) if folder.is_dir() else []
    ours = {path.name for path in left} | (set(FILES) if left else set())
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - ours:
        raise ValueError(f"expected a new or empty folder, got {folder}")


@contextlib.contextmanager
def _unfinished(folder):
    """Mark a folder, while it is written, by a file that tells which process does it; those of killed ones are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in abandoned(folder):
        path.unlink()
    mark = folder / temporary_name()
    mark.touch()
    yield
    mark.unlink()


def load_exported(folder: str | os.PathLike[str], *, prior: str = "model", device: str = "cpu") -> tuple[VAE, Config]:
    """Loads an exported model: (vae in evaluation mode, config); it needs no data.

    prior: "model", or "auxiliary" for the auxiliary prior of a delta-VAE in place of its AR(1) prior. Raises CheckpointError
    for a folder that is not an exported model or is damaged, and ValueError for another prior, or "auxiliary" where the folder
    has none.
    """
    if prior not in ("model", "auxiliary"):
        raise ValueError(f"expected prior 'model' or 'auxiliary', got {prior!r}")
    weights, settings = Path(folder) / "model.safetensors", Path(folder) / "config.toml"
    try:
        with safe_open(weights, framework="pt") as file:
            metadata, state = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
        config = Config.from_toml(settings.read_text(encoding="utf-8"))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"expected an exported model in {folder}, which cannot be read: {error}") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"expected {FORMAT} in {weights}, got another file")
    if metadata.get("sha256") != digest(metadata.get("data", ""), state):
        raise CheckpointError(f"expected {weights} as it was written, but its checksum differs: it is damaged")
    try:
        about = _description(loads(metadata["data"]), Path(folder))
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    try:
        vae = build_blank(config, about)
        check_weights(vae, state)
        vae.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"expected {settings} to be that of the weights, got another: {reason}") from None
    if prior == "auxiliary":
        if not auxiliary.exists(folder):
            raise ValueError(f"expected an exported delta-VAE with {auxiliary.FILE} for prior 'auxiliary', got {folder}")
        vae.prior = auxiliary.load(folder)
    return vae.to(torch.device(device)).eval(), config


def model_card(record, numbers, *, included=None):
    """README.md of a run: text of a template, numbers of its report, its metrics and its weights.

    `included` is the name by which `load_run` opens one that comes with the package.
    """
    report, changed = record.report, changed_settings(record.config, record.report)
    return render(
        "README.md.j2",
        name=included or record.name,
        config=record.config,
        text=(record.path / VOCABULARY).exists(),
        auxiliary=auxiliary.exists(record.path),
        report=report,
        verdict=Verdict.from_stored(report["verdict"]).sentence if report else "",
        card=report.get("card", {}),
        estimates=estimates_of(report) if report else {},
        notes=notes(record),
        changed=changed,
        command=train_command(record.config, changed),
        epochs=record.metrics[-1]["epoch"] if record.metrics else 0,
        numbers=numbers,
        included=included,
        dimensions=dimensions(record.config),
    )


def _about(description):
    """A description as plain values."""
    known = {name: getattr(description, name) for name in (*UNSAID, "kind")}
    words = description.vocabulary
    return known | {"event_shape": description.event_shape} | ({"vocabulary": {"checksum": words.checksum}} if words else {})


def _description(found, folder):
    """The description that `_about` made plain. Raises ValueError where it is none."""
    kind = "text" if "vocabulary" in found else "real"
    return DataDescription.of({**UNSAID, "kind": kind, **found}, folder / VOCABULARY)
