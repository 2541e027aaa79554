"""What the tests of the library share: models in folders, watched pipelines, and what a process holds."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.video.synthetic.test_pattern import LABELS
from tests.fakes.models import write_constant_model, write_squares_model
from tests.fakes.process_harness import wait_for


def squares_model(folder: Path) -> Path:
    """The folder of a model that finds the squares of the test pattern."""
    folder.mkdir(parents=True)
    write_squares_model(folder / "weights.onnx")
    return _labelled(folder)


def many_boxes_model(folder: Path, count: int) -> Path:
    """The folder of a model of 64 x 64 that finds so many boxes in every wide picture."""
    folder.mkdir(parents=True)
    rows, columns = np.divmod(np.arange(count), 60)
    score = np.linspace(0.9, 0.5, count)
    nothing = np.zeros(count)
    output = np.stack([columns + 0.5, rows + 15.5, nothing + 1 / 3, nothing + 1 / 3, score, nothing, nothing])
    write_constant_model(folder / "weights.onnx", output[None])
    return _labelled(folder)


def _labelled(folder: Path) -> Path:
    (folder / "labels.txt").write_text("\n".join(LABELS))
    return folder


def found_at(*centres: float, confidence: float = 0.9) -> dict[str, Any]:
    """The document of an image with boxes at these columns."""
    return {
        "predictions": [
            {
                "x": x,
                "y": 50.0,
                "width": 20.0,
                "height": 20.0,
                "confidence": confidence,
                "class": "red",
                "class_id": 0,
            }
            for x in centres
        ]
    }


class Taker:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any]] = []

    def __call__(self, predictions: Any, frames: Any) -> None:
        self.calls.append((predictions, frames))

    @property
    def frames(self) -> list[VideoFrame]:
        """Of sequential calls."""
        return [frame for _, frame in self.calls]

    @property
    def frame_ids(self) -> list[int]:
        """Of sequential calls."""
        return [frame.frame_id for frame in self.frames]

    @property
    def batches(self) -> list[tuple[int | None, ...]]:
        """The frame ids of calls with lists."""
        return [
            tuple(None if frame is None else frame.frame_id for frame in frames) for _, frames in self.calls
        ]


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Threads and descriptors are the same afterwards."""
    gc.collect()  # what was dropped before does not go meanwhile
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    wait_for("no thread is left", lambda: not set(threading.enumerate()) - threads)
    wait_for(f"{descriptors} as before", lambda: _descriptors() == descriptors)


def _descriptors() -> list[str]:
    """What this process has open, but for the folder that is read to know it."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return sorted(entry for entry in found if not entry.startswith("/proc/"))
