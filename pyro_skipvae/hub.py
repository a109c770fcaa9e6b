"""Trained models in folders that others can use, and on the Hugging Face hub: safetensors, settings and a card.

Nothing that is loaded runs code: the weights are safetensors, the settings are TOML, and both are checked before use.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from pyro_skipvae.model import VAE
from pyro_skipvae.reports.export import FILES, export_run, load_exported
from pyro_skipvae.runs.config import Config
from pyro_skipvae.runs.included import INCLUDED

REPOSITORY = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")


def save_pretrained(run: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Writes the model of a run folder into a new or empty folder, with a model card; returns the files.

    Raises ValueError for a folder that is not empty, RunError or CheckpointError for a run that is missing or damaged.
    """
    return export_run(run, folder)


def from_pretrained(
    source: str | os.PathLike[str], *, revision: str | None = None, device: str = "cpu", token: str | None = None
) -> tuple[VAE, Config]:
    """Loads a model from a folder that `save_pretrained` wrote, or from the Hugging Face hub by its id, such as name/model.

    Returns (vae in evaluation mode, config). A source that is no folder is looked for on the hub, at `revision`. No code of the
    source is run. Raises ValueError for a source that is neither, ImportError without huggingface_hub, PermissionError where
    the hub has no such model for this token, ConnectionError where it does not answer, and CheckpointError for another kind of
    model or a damaged one.
    """
    if os.path.isdir(source):
        return load_exported(source, device=device)
    if str(source) in INCLUDED:
        raise ValueError(f"expected an exported model, got the run {source}, which comes with the package; load_run reads it")
    if not REPOSITORY.fullmatch(str(source)):
        raise ValueError(f"expected a folder that is there, or an id of the hub such as name/model, got {source}")
    return load_exported(_downloaded(str(source), revision, token), device=device)


def push_to_hub(
    run: str | os.PathLike[str], repository: str, *, private: bool = False, token: str | None = None, message: str = "Upload"
) -> str:
    """Uploads the model of a run folder to the Hugging Face hub, as `save_pretrained` writes it; returns its address.

    Raises ValueError for an invalid id, ImportError without huggingface_hub, PermissionError where the hub refuses,
    ConnectionError where it does not answer, and RunError or CheckpointError for a run that is missing or damaged. With
    private=True also ValueError, before anything is uploaded, for a repository that is there and public.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"expected an id of the hub such as name/model, got {repository!r}")
    hub = _hub()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(run, folder)
        api = hub.HfApi(token=token)
        with _told(hub, repository):
            address = api.create_repo(repository, private=private, exist_ok=True)
            if private and not api.repo_info(repository).private:  # it was there before
                raise ValueError(f"expected a private repository, got {repository}, which is public; nothing was uploaded")
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return str(address)


def _downloaded(repository: str, revision: str | None, token: str | None) -> str:
    hub = _hub(f" ({repository} is no folder here)")
    with _told(hub, repository if revision is None else f"{repository} at revision {revision}"):
        return hub.snapshot_download(repository, revision=revision, allow_patterns=list(FILES), token=token)


def _hub(why: str = "") -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError(
            f"expected huggingface_hub for models on the hub{why}; install it: pip install huggingface_hub"
        ) from None
    return huggingface_hub


class _told:  # noqa: N801
    """Errors of the hub in a sentence."""

    def __init__(self, hub: Any, repository: str) -> None:
        self.hub, self.repository = hub, repository

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        if error is None or isinstance(error, ValueError | KeyboardInterrupt) and not isinstance(error, OSError):
            return
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403, 404):
            raise PermissionError(
                f"expected a model {self.repository} on the hub that this token may use, got {status}; check the name, or "
                "log in: hf auth login"
            ) from None
        reason = " ".join(str(error).split())[:200]
        raise ConnectionError(
            f"expected the hub to answer for {self.repository}, got {type(error).__name__}: {reason}"
        ) from None
