"""What all steps need: the models, and whether there is a GPU."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.heavy_model import CLASSES, SIDE, heavy_model
from streamfleet_core.protocol.values import Manifest
from tests.fakes.models import manifest_of, write_squares_model


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A model of the check. Its first dimension is open, so that it can run batches."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Setting:
    """The setting of one step."""

    folder: Path  # its own
    gpu: bool
    model: CheckedModel
    quick: bool  # small sizes, to check that the step works
    deadline: float  # monotonic seconds

    def seconds_left(self) -> float:
        """The time that is left to this step. Raises: TimeoutError."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time of this step is over")
        return left

    def pictures(self, count: int) -> np.ndarray:
        """Noise: (count, 3, height, width) uint8, always the same."""
        manifest = self.model.manifest
        shape = (count, 3, manifest.input_height, manifest.input_width)
        return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def small_model(folder: Path) -> CheckedModel:
    """The model of the tests, which finds squares."""
    path = folder / "squares.onnx"
    return CheckedModel(path, write_squares_model(path, batch="batch"))


def large_model(folder: Path) -> CheckedModel:
    """The stand-in of YOLOv8n's size."""
    path = folder / "heavy.onnx"
    path.write_bytes(heavy_model(batch="batch"))
    labels = tuple(f"class {number}" for number in range(CLASSES))
    return CheckedModel(path, manifest_of(path, labels=labels, width=SIDE, height=SIDE))
