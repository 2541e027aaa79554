"""Finds the file of a model: by an id in the model cache, a folder, a file, or an address.

Downloads are cached as `sha256/<digest>/weights.onnx`. This is also an id of the cache, so that loading a
model again needs no network.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

import msgspec

from streamfleet_core.models import model_folder
from streamfleet_core.models.digest import digest_of
from streamfleet_core.models.download import Remote, fetch
from streamfleet_core.models.model_folder import FoundModel
from streamfleet_core.models.model_validation import validate_model
from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_core.protocol.values import Manifest, ModelId
from streamfleet_worker.library.errors import LibraryError

DEFAULT_CACHE = Path("~/.streamfleet/models")
_PART = "part-"
_LEFT_BEHIND = 86_400.0  # seconds after which no process still writes a partial download


class UnknownModel(LibraryError):
    """No such model. The text says where it was searched."""

    def __init__(self, model: str, cache: Path) -> None:
        super().__init__(
            f"no model {model!r}: the model cache {cache} (MODEL_CACHE_DIR) has no such folder, and there is "
            "no such file or folder; expected PROJECT/VERSION of the cache, a path, or https://…#sha256=…"
        )
        self.model = model


def load(
    model: str | Path,
    *,
    cache_dir: Path | None = None,
    api_key: str | None = None,
) -> tuple[Path, Manifest]:
    """Find the file of a model and read its manifest. It blocks, and may download it.

    `cache_dir`: the folder of models, `<project>/<version>/weights.onnx`; None: ~/.streamfleet/models.
    `api_key`: accepted as in Roboflow's function; not needed, and not stored.

    Raises: UnknownModel, BadModel, DownloadFailed, OSError.
    """
    cache = (cache_dir or DEFAULT_CACHE).expanduser()
    found = _find(str(model), cache)
    if found is None:
        raise UnknownModel(str(model), cache)
    try:
        return found.weights, _validate(found)
    except BadModel as exc:
        raise BadModel(f"{found.weights}: {exc}") from exc


def _find(model: str, cache: Path) -> FoundModel | None:
    if "://" in model:
        return model_folder.read_folder(_from_web(Remote.of(model), cache))
    if _is_id(model):
        cached = model_folder.find(cache, model)
        if cached is not None:
            return cached
    path = Path(model).expanduser()
    if path.is_dir():
        return model_folder.read_folder(path)
    return model_folder.read_file(path) if path.is_file() else None


def _is_id(model: str) -> bool:
    try:
        msgspec.convert(model, ModelId)
    except msgspec.ValidationError:
        return False
    return True


def _validate(found: FoundModel) -> Manifest:
    digest = digest_of(found.weights)
    return validate_model(found.weights, digest, family=found.family, labels=found.labels)


# downloads -----------------------------------------------------------------------------------------------


def _from_web(remote: Remote, cache: Path) -> Path:
    """Download a model unless it is cached, and return its folder. Raises: DownloadFailed, OSError."""
    place = cache / "sha256" / remote.sha256
    weights = place / model_folder.WEIGHTS
    if not weights.is_file() or digest_of(weights) != remote.sha256:
        place.mkdir(parents=True, exist_ok=True)
        _remove_partial_downloads(place)
        _store(remote, weights)
    return place


def _store(remote: Remote, weights: Path) -> None:
    """Store a download atomically: other programs may load the same model at the same time."""
    part = weights.with_name(f"{_PART}{secrets.token_hex(8)}")
    try:
        with part.open("xb") as file, contextlib.closing(fetch(remote)) as pieces:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        part.replace(weights)
    finally:
        part.unlink(missing_ok=True)


def _remove_partial_downloads(place: Path) -> None:
    """Remove partial downloads of killed programs."""
    before = time.time() - _LEFT_BEHIND
    for part in place.glob(f"{_PART}*"):
        with contextlib.suppress(FileNotFoundError):
            if part.stat().st_mtime < before:
                part.unlink()
