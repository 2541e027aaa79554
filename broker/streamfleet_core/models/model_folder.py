"""Finds models in folders laid out as Roboflow's cache: `<MODEL_CACHE_DIR>/<project>/<version>/`.

Such a folder holds one `.onnx` file (`weights.onnx` if there are several), and optionally class names, one
per line, in `class_names.txt` or `labels.txt`, and `manifest.json` {"family": …, "labels": […]}. In any other
folder these files share the model's name: `street.onnx`, `street.txt`, `street.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamfleet_core.models.onnx_graph import BadModel
from streamfleet_core.protocol.json_text import InvalidJson, decode_json
from streamfleet_core.protocol.values import Family

WEIGHTS = "weights.onnx"
_LABEL_FILES = ("class_names.txt", "labels.txt")
_DESCRIPTIONS = ("manifest.json",)
_SHOWN = 5  # files that an error lists
_MAX_TEXT = 4 * 1024**2  # bytes


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model file, and what the files beside it say."""

    weights: Path
    family: Family | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Description:
    family: Family | None = None
    labels: tuple[str, ...] | None = None


def find(cache: Path, model_id: str) -> FoundModel | None:
    """Find a model by its id; None if the cache has no folder for it. It blocks.

    `model_id` is a ModelId, so that its two parts are plain names. Raises: BadModel, OSError.
    """
    folder = cache.joinpath(*model_id.split("/"))
    return read_folder(folder) if folder.is_dir() else None


def read_folder(folder: Path) -> FoundModel:
    """Read the model of a folder. It blocks. Raises: BadModel, OSError."""
    return _read(_weights(folder), _LABEL_FILES, _DESCRIPTIONS)


def read_file(weights: Path) -> FoundModel:
    """Read a model file. The folder's own files apply if it is the model of the folder. It blocks.

    Raises: BadModel, OSError.
    """
    labels, descriptions = [f"{weights.stem}.txt"], [f"{weights.stem}.json"]
    if weights.name == WEIGHTS or len(list(weights.parent.glob("*.onnx"))) == 1:
        labels += _LABEL_FILES
        descriptions += _DESCRIPTIONS
    return _read(weights, labels, descriptions)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names from a text file, one per line. Raises: BadModel, OSError."""
    try:
        lines = _content(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as exc:
        raise BadModel(f"expected class names in UTF-8, one per line, in {path}") from exc
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise BadModel(f"expected class names, one per line, in {path}, got none")
    return labels


def _weights(folder: Path) -> Path:
    preferred = folder / WEIGHTS
    if preferred.is_file():
        return preferred
    found = sorted(folder.glob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:_SHOWN]) or "none"
        names += f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise BadModel(f"expected one .onnx file in {folder}, or one named {WEIGHTS}; got {names}")
    return found[0]


def _read(weights: Path, label_files: Sequence[str], descriptions: Sequence[str]) -> FoundModel:
    """Use the first existing file of each kind. Labels of a description take precedence over a text file."""
    description = _Description()
    described = _first(weights.parent, descriptions)
    if described is not None:
        description = _read_description(described)
    listed = _first(weights.parent, label_files)
    labels = description.labels
    if labels is None and listed is not None:
        labels = read_labels(listed)
    return FoundModel(weights, description.family, labels)


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_description(path: Path) -> _Description:
    try:
        return decode_json(_content(path), _Description)
    except InvalidJson as exc:
        raise BadModel(f'expected {{"family": …, "labels": […]}} in {path}: {exc}') from exc


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MAX_TEXT + 1)
    if len(content) > _MAX_TEXT:
        raise BadModel(f"expected at most {_MAX_TEXT} bytes in {path}")
    return content
