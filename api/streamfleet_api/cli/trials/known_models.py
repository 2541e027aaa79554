"""Models by their id in the fleet, or by a path on this machine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from streamfleet_api.cli.context import Settings, did_you_mean
from streamfleet_api.client.errors import CommandFailed, Rejected
from streamfleet_core.models.onnx_graph import BadModel

_WORKER = "'pip install streamfleet[worker,cpu]' installs it; --device NAME lets a device run the model"
_DESCRIBED = "'streamfleet models add' takes --family and --labels; then pass the id instead of the file"


class Tried(Protocol):
    """One frame that a model was tried on: `TriedFrame` of the library."""

    number: int
    document: dict[str, Any]
    decode: float
    steps: Any

    def jpeg(self, beside: Any = None) -> bytes:
        """The frame with what was found."""


class TriableModel(Protocol):
    """A model that is loaded here: `LoadedModel` of the library."""

    task_type: str

    def try_file(self, file: str | Path, *, frames: int = 1, **rules: Any) -> Iterator[Any]:
        """Yield a `Tried` for each frame."""


@contextlib.contextmanager
def guessing(settings: Settings, model_id: str) -> Iterator[None]:
    """Suggest a known model in place of an unknown one. Raises: CommandFailed."""
    try:
        yield
    except Rejected as exc:
        if exc.status != 404:
            raise
        known = [entry.id for entry in settings.client().list_models()]
        hint = did_you_mean(model_id, known) or "'streamfleet models' lists them"
        raise CommandFailed(f"no model {model_id}", hint) from exc


def is_path(given: str) -> bool:
    """Whether it names a file or a folder, and not a model of the fleet."""
    return given.endswith(".onnx") or given.startswith((".", "/", "~"))


def load(settings: Settings, given: str, folder: Path) -> TriableModel:
    """Load a model on this machine. One of the fleet is downloaded into the folder. Raises: CommandFailed."""
    from streamfleet.errors import MissingPackage

    try:
        from streamfleet import get_model

        path = _existing(given) if is_path(given) else _download(settings, given, folder)
        return get_model(path)
    except MissingPackage as exc:
        missing = f"expected the worker on this machine, which runs models; {exc.package} is not installed"
        raise CommandFailed(missing, _WORKER) from exc
    except BadModel as exc:
        hint = _DESCRIBED if "--labels" in str(exc) else ""
        raise CommandFailed(str(exc) if given in str(exc) else f"{given}: {exc}", hint) from exc
    except (OSError, ValueError) as exc:
        raise CommandFailed(str(exc) if given in str(exc) else f"{given}: {exc}") from exc


def _existing(given: str) -> Path:
    path = Path(given).expanduser()
    if not path.exists():
        raise CommandFailed(f"{given}: there is no such file or folder")
    return path


def _download(settings: Settings, model_id: str, folder: Path) -> Path:
    """Save a model of the fleet with its class names, as the library reads it. Raises: CommandFailed."""
    client = settings.client()
    with guessing(settings, model_id):
        model = client.get_model(model_id)
    if model.weights is None:
        raise CommandFailed(f"{model_id}: its manifest is not in the fleet", "add the model again")
    folder.mkdir(parents=True, exist_ok=True)
    client.download(model.weights.sha256, folder / "weights.onnx")
    described = {"family": model.family, "labels": model.labels}
    (folder / "manifest.json").write_text(json.dumps(described))
    return folder
