"""Models that lie on this host's disk as the original keeps them: `<MODEL_CACHE_DIR>/<project>/<version>/`.

Such a folder holds one `.onnx` file (`weights.onnx` when there are several) and optionally class names, one a
line, in `class_names.txt` or `labels.txt`, and `manifest.json` {"family": …, "labels": […]}.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamfleet_api.modelfile import BadModel
from streamfleet_broker.protocol.values import Family

_LABEL_FILES = ("class_names.txt", "labels.txt")
_MAX_TEXT = 4 * 1024**2  # bytes


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A folder of the cache, read."""

    weights: Path
    family: Family | None
    labels: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class _Description:
    family: Family | None = None
    labels: tuple[str, ...] | None = None


def find(cache: Path, model_id: str) -> CachedModel | None:
    """The model of that id, or None when the cache has no folder for it. It blocks.

    `model_id` is a ModelId, whose two parts are plain names. Raises: BadModel, OSError.
    """
    folder = cache.joinpath(*model_id.split("/"))
    if not folder.is_dir():
        return None
    description = _read_description(folder / "manifest.json")
    return CachedModel(_weights(folder), description.family, description.labels or _labels(folder))


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one a line. Raises: BadModel, OSError."""
    try:
        lines = _read(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as exc:
        raise BadModel(f"expected class names in UTF-8, one a line, in {path}") from exc
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise BadModel(f"expected class names, one a line, in {path}, it has none")
    return labels


def _weights(folder: Path) -> Path:
    preferred = folder / "weights.onnx"
    if preferred.is_file():
        return preferred
    found = sorted(folder.glob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise BadModel(f"expected one .onnx file in {folder}, or one named weights.onnx; came {names}")
    return found[0]


def _labels(folder: Path) -> tuple[str, ...] | None:
    for name in _LABEL_FILES:
        if (folder / name).is_file():
            return read_labels(folder / name)
    return None


def _read_description(path: Path) -> _Description:
    if not path.is_file():
        return _Description()
    try:
        return msgspec.json.decode(_read(path), type=_Description)
    except msgspec.DecodeError as exc:
        raise BadModel(f'expected {{"family": …, "labels": […]}} in {path}: {exc}') from exc


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MAX_TEXT + 1)
    if len(content) > _MAX_TEXT:
        raise BadModel(f"expected at most {_MAX_TEXT} bytes in {path}")
    return content
