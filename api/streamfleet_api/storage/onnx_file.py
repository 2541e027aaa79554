"""Reads a model file without running it and without opening other files. `onnx_graph` checks it."""

from __future__ import annotations

from pathlib import Path

from streamfleet_core.models.onnx_file import read_file
from streamfleet_core.models.onnx_graph import BadModel, manifest_of
from streamfleet_core.protocol.values import Family, Manifest, Weights

__all__ = ["BadModel", "inspect"]


def inspect(
    path: Path, sha256: str, *, family: Family | None = None, labels: tuple[str, ...] | None = None
) -> Manifest:
    """The manifest of the model in a file. It blocks. Raises: BadModel, OSError."""
    return manifest_of(read_file(path), Weights(sha256, path.stat().st_size), family, labels)
