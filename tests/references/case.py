"""One model, one picture, and what the model's own code finds in it: as files, `NAME.onnx` and `NAME.npz`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CONFIDENCE = 0.25
OVERLAP = 0.45
MOST = 300

# What a case may have beside boxes, scores and classes.
FURTHER = ("corners", "keypoints", "masks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the reference was given, and what it has found."""

    picture: np.ndarray  # (height, width, 3) uint8, BGR
    input: np.ndarray  # (1, 3, height, width): the numbers that the reference makes of it
    outputs: list[np.ndarray]  # of the model for that input
    # Boxes (n, 4) in pixels of the frame, scores (n,), classes (n,); or the scores of all classes.
    boxes: np.ndarray = field(default_factory=lambda: np.empty((0, 4), np.float32))
    scores: np.ndarray
    classes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    corners: np.ndarray | None = None  # (n, 4, 2)
    keypoints: np.ndarray | None = None  # (n, points, 2 or 3)
    masks: np.ndarray | None = None  # (n, height, width) bool, of the frame
    family: str = ""  # what a user must say, as the file does not
    labels: tuple[str, ...] = ()  # the same


def save(path: Path, case: Case) -> None:
    """Write a case."""
    further = {name: getattr(case, name) for name in FURTHER if getattr(case, name) is not None}
    arrays: dict[str, Any] = {
        "picture": case.picture,
        "input": case.input,
        "boxes": case.boxes,
        "scores": case.scores,
        "classes": case.classes,
        "family": np.array(case.family),
        "labels": np.array(case.labels, dtype=np.str_),
        **{f"output{number}": output for number, output in enumerate(case.outputs)},
    }
    np.savez_compressed(path, **arrays, **further)


def load(path: Path) -> Case:
    """Read a case."""
    with np.load(path) as arrays:
        count = sum(name.startswith("output") for name in arrays.files)
        return Case(
            picture=arrays["picture"],
            input=arrays["input"],
            outputs=[arrays[f"output{number}"] for number in range(count)],
            boxes=arrays["boxes"],
            scores=arrays["scores"],
            classes=arrays["classes"],
            family=str(arrays["family"]),
            labels=tuple(map(str, arrays["labels"])),
            **{name: arrays[name] for name in FURTHER if name in arrays.files},
        )
