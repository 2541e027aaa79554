"""What finds something in frames: a model of ours, an object like one of the original's, or a function.

    ModelFile    an ONNX file and its manifest, in ONNX Runtime, as in the fleet
    ModelObject  infer, or preprocess, predict and postprocess; or called with the image
    Function     called with a list of frames, gives a list of anything

The two first give the original's dicts: `image` and `predictions`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import supervision as sv

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.onnx_runtime import run_errors
from streamfleet_worker.engine.onnx_session import Session
from streamfleet_worker.host.host_stats import cores
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.ipc.shared_memory import Slot
from streamfleet_worker.library.errors import BadPrediction
from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.model_threads import Workers
from streamfleet_worker.video.detection.letterbox import Letterbox
from streamfleet_worker.video.detection.postprocess import decode
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.outputs.prediction import Document, describe_picture

_MOST_THREADS = 8


@dataclass(frozen=True, slots=True)
class Inferred:
    """What was found in the frames of one round."""

    results: list[Any]  # one a frame, in their order
    started_at: float  # monotonic seconds
    ready_at: float  # monotonic seconds


class Inference(Protocol):
    """`start` it once, `close` it once. One thread calls `begin`."""

    threads: int  # how many rounds run at the same time

    def start(self) -> None:
        """Be ready."""
        ...

    def begin(self, frames: Sequence[VideoFrame]) -> Future[Inferred]:
        """Look at these frames. The future raises what went wrong."""
        ...

    def close(self, deadline: float) -> bool:
        """End; whether that took no more than so many seconds."""
        ...


class ModelFile:
    """An ONNX model. Each thread has memory of its own for the model's input and output."""

    def __init__(self, path: Path, manifest: Manifest, rules: PostProcessing) -> None:
        """Raises: session.BadModel."""
        self._manifest = manifest
        self._rules = rules
        session = Session(str(path), manifest)
        self.threads = min(_MOST_THREADS, cores())
        self._workers: Workers[Inferred] = Workers(self.threads)
        self._benches = [Bench(session, manifest) for _ in range(self.threads)]  # those in no use

    def start(self) -> None:
        """Be ready."""
        self._workers.start()

    def begin(self, frames: Sequence[VideoFrame]) -> Future[Inferred]:
        """Look at these frames."""
        return self._workers.submit(lambda: self._infer(frames))

    def close(self, deadline: float) -> bool:
        """End within so many seconds."""
        closed = self._workers.close(deadline)
        self._benches.clear()  # a model is large, and whoever keeps the pipeline need not keep it
        return closed

    def _infer(self, frames: Sequence[VideoFrame]) -> Inferred:
        started_at = time.monotonic()
        bench = self._benches.pop()
        try:
            results = [self._describe(frame, bench) for frame in frames]
        finally:
            self._benches.append(bench)
        return Inferred(results, started_at, time.monotonic())

    def _describe(self, frame: VideoFrame, bench: Bench) -> Document:
        return document_of_detections(
            bench.detect(frame.image, self._rules), frame.image, self._manifest.labels
        )


class Bench:
    """Where one thread prepares, runs and reads."""

    def __init__(self, session: Session, manifest: Manifest) -> None:
        self.session = session
        layout = session.layout(1)
        self.slot = Slot(np.zeros(layout.input_shape, np.float32), np.zeros(layout.output_shape, np.float32))
        self.run = session.prepare(self.slot)
        self.letterbox = Letterbox(manifest)
        self._manifest = manifest

    def detect(self, image: Image, rules: PostProcessing) -> sv.Detections:
        """What the model finds in a picture. Raises: one of `run_errors`."""
        geometry = self.letterbox.write(image, self.slot.input)
        self.session.run(self.run)
        return decode(self.slot.output, geometry, manifest=self._manifest, rules=rules)


class Function:
    """A function of the user's over the frames of a round. One thread calls it."""

    threads = 1

    def __init__(self, on_video_frame: Callable[[list[VideoFrame]], Sequence[Any]]) -> None:
        self._on_video_frame = on_video_frame
        self._workers: Workers[Inferred] = Workers(self.threads)

    def start(self) -> None:
        """Be ready."""
        self._workers.start()

    def begin(self, frames: Sequence[VideoFrame]) -> Future[Inferred]:
        """Look at these frames."""
        return self._workers.submit(lambda: self._infer(list(frames)))

    def close(self, deadline: float) -> bool:
        """End within so many seconds."""
        return self._workers.close(deadline)

    def _infer(self, frames: list[VideoFrame]) -> Inferred:
        started_at = time.monotonic()
        results = self._on_video_frame(frames)
        if not isinstance(results, (list, tuple)) or len(results) != len(frames):
            count = len(results) if isinstance(results, (list, tuple)) else type(results).__name__
            raise BadPrediction(
                f"expected a list with a result for each of {len(frames)} frames, came {count}"
            )
        return Inferred(list(results), started_at, time.monotonic())


class ModelObject:
    """Calls one model object for image after image. For `Function`."""

    def __init__(self, model: Any, rules: PostProcessing) -> None:
        """Raises: TypeError."""
        self._rules = asdict(rules)
        self._find: Callable[[Any], Any]
        if hasattr(model, "infer"):
            self._find = lambda image: model.infer(image, **self._rules)
        elif all(hasattr(model, step) for step in ("preprocess", "predict", "postprocess")):
            self._find = lambda image: self._step_by_step(model, image)
        elif callable(model):
            self._find = model
        else:
            raise TypeError(
                "model: expected an id, a path, a function of an image, or an object with infer or with"
                f" preprocess, predict and postprocess; came {type(model).__name__}"
            )

    def __call__(self, frames: list[VideoFrame]) -> list[Document]:
        """The documents of these frames."""
        return [document_of(self._find(frame.image), frame) for frame in frames]

    def _step_by_step(self, model: Any, image: Any) -> Any:
        blob, metadata = model.preprocess(image)
        return model.postprocess(model.predict(blob), metadata, **self._rules)


def document_of(found: Any, frame: VideoFrame) -> Document:
    """What a model object gave for one image, as the original's dict. Raises: BadPrediction."""
    if isinstance(found, (list, tuple)) and len(found) == 1:
        found = found[0]  # of a batch of one
    if isinstance(found, sv.Detections):
        return document_of_detections(found, frame.image, None)
    if hasattr(found, "model_dump"):
        found = found.model_dump(by_alias=True, exclude_none=True)
    if not isinstance(found, dict) or not isinstance(found.get("predictions"), list):
        expected = "a dict with the list `predictions`, an object that dumps one, or supervision's Detections"
        raise BadPrediction(f"expected {expected}, came {type(found).__name__}")
    height, width = frame.image.shape[:2]
    return {"image": {"width": width, "height": height}, **found}


def failure_of(exc: BaseException) -> str:
    """What went wrong, for people."""
    return str(exc) if isinstance(exc, (BadPrediction, *run_errors())) else f"{type(exc).__name__}: {exc}"


def document_of_detections(detections: sv.Detections, image: Image, labels: Sequence[str] | None) -> Document:
    """The original's dict of what was found in a picture; without labels, detections name their classes."""
    height, width = image.shape[:2]
    if labels is None:
        detections, labels = _complete(detections)
    return describe_picture(detections, labels=labels, width=width, height=height)


def _complete(detections: sv.Detections) -> tuple[sv.Detections, Sequence[str]]:
    """With a confidence and a class for each; and the names of the classes up to the highest."""
    count = len(detections)
    confidence = detections.confidence if detections.confidence is not None else np.ones(count, np.float32)
    classes = detections.class_id if detections.class_id is not None else np.zeros(count, np.int64)
    labels = [str(number) for number in range(int(classes.max(initial=-1)) + 1)]
    for number, name in zip(classes, detections.data.get("class_name", ()), strict=False):
        labels[number] = str(name)
    whole = sv.Detections(
        xyxy=detections.xyxy, confidence=confidence, class_id=classes, tracker_id=detections.tracker_id
    )
    return whole, labels
