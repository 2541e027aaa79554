"""Validates a model file without running it: `onnx_file` reads it, `model_manifest` judges what was read."""

from __future__ import annotations

from pathlib import Path

from streamfleet_core.models.model_manifest import manifest_of
from streamfleet_core.models.onnx_file import read_file
from streamfleet_core.protocol.values import Family, Manifest, Weights


def validate_model(
    path: Path, sha256: str, *, family: Family | None = None, labels: tuple[str, ...] | None = None
) -> Manifest:
    """The manifest of the model in a file. It blocks, and opens no other file. Raises: BadModel, OSError."""
    return manifest_of(read_file(path), Weights(sha256, path.stat().st_size), family, labels)
