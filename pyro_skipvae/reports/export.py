"""A trained model as a folder that others can use: weights, settings, and a card whose every number is the run's own.

    model.safetensors   the state of the VAE's classes, and what they must know of the data to be built
    config.toml         the settings of the run
    README.md           the model card
    vocabulary.txt      the words of a text model, one a line

`load_exported` reads it back, without the data.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from pyro_skipvae.runs.build import build_data, build_vae
from pyro_skipvae.runs.checkpoint import CheckpointError, digest, write_whole
from pyro_skipvae.runs.config import Config
from pyro_skipvae.runs.folder import Run
from pyro_skipvae.text.vocabulary import Vocabulary

from .comparison import estimates_of, read_record
from .rendering import render
from .run_page import changed_settings, notes, train_command

FORMAT = "pyro_skipvae export 2"
VOCABULARY = "vocabulary.txt"


def export_run(path, folder):
    """Write the exported model of a run into a new or empty folder; returns the files.

    Needs the data only where the run has no report. Raises ValueError for a folder that holds something, RunError or
    CheckpointError if the run is not whole.
    """
    record, folder = read_record(path), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"expected a new or empty folder, got {folder}")
    about = _about_data(record)
    vocabulary = _vocabulary(record.path, about)
    vae = _build(record.config, about, vocabulary)
    weights = Run(path).load_weights(vae)[0]["vae"]  # they must fit before anybody is told so
    state = {name: tensor.contiguous() for name, tensor in weights.items()}
    data = json.dumps(about)
    files = {
        "model.safetensors": to_bytes(state, {"format": FORMAT, "data": data, "sha256": digest(data, state)}),
        "config.toml": record.config.to_toml(),
        "README.md": model_card(record, sum(tensor.numel() for tensor in state.values())),
    }
    if vocabulary is not None:
        files[VOCABULARY] = vocabulary.text()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def load_exported(folder, *, device="cpu"):
    """(vae in evaluation mode, config) of an exported model; needs no data. Raises CheckpointError if it is not one."""
    weights, settings = Path(folder) / "model.safetensors", Path(folder) / "config.toml"
    try:
        with safe_open(weights, framework="pt") as file:
            metadata, state = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
        config = Config.from_toml(settings.read_text(encoding="utf-8"))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"expected an exported model in {folder}, which cannot be read: {error}") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"expected {FORMAT} in {weights}, got another file")
    if metadata["sha256"] != digest(metadata["data"], state):
        raise CheckpointError(f"expected {weights} as it was written, but its checksum differs: it is damaged")
    about = json.loads(metadata["data"])
    try:
        vae = _build(config, about, _vocabulary(Path(folder), about))
        vae.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"expected {settings} to be that of the weights, got another: {reason}") from None
    return vae.to(torch.device(device)).eval(), config


def model_card(record, numbers):
    """README.md of a run: text of a template, numbers of its report, its metrics and its weights."""
    report, changed = record.report, changed_settings(record.config, record.report)
    return render(
        "README.md.j2",
        name=record.name,
        config=record.config,
        text=(record.path / VOCABULARY).exists(),
        report=report,
        card=report.get("card", {}),
        estimates=estimates_of(report) if report else {},
        notes=notes(record),
        changed=changed,
        command=train_command(record.config, changed),
        epochs=record.metrics[-1]["epoch"] if record.metrics else 0,
        numbers=numbers,
    )


def _about_data(record):
    """What the classes must know of the data to be built: from the report, or else from the data themselves."""
    known = record.report.get("card", {}).get("data") or build_data(record.config).describe()
    about = {name: known[name] for name in ("event_shape", "levels")}
    return about | ({"vocabulary": known["vocabulary"]["checksum"]} if "vocabulary" in known else {})


def _vocabulary(folder, about):
    """The words of a text model in its folder; None for other models.

    Raises CheckpointError where they are absent, or those of another model.
    """
    if "vocabulary" not in about:
        return None
    try:
        vocabulary = Vocabulary.read(folder / VOCABULARY)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"expected the words of the model in {folder / VOCABULARY}: {error}") from None
    if vocabulary.checksum != about["vocabulary"]:
        raise CheckpointError(f"expected the words of the model in {folder / VOCABULARY}, got those of another one")
    return vocabulary


def _build(config, about, vocabulary):
    shape = tuple(about["event_shape"])
    # The pseudo-inputs of a VampPrior, and a data-dependent start, are of training data; here the weights replace them.
    data = SimpleNamespace(
        event_shape=shape, levels=about["levels"], train=torch.zeros(config.components, *shape), vocabulary=vocabulary
    )
    return build_vae(replace(config, initialisation="torch"), data)
