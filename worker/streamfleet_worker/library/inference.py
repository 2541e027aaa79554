"""Inference: a model file, an object like Roboflow's models, or a function.

    ModelFile    an ONNX file and its manifest, run by ONNX Runtime as in the fleet
    ModelObject  has infer, or preprocess, predict and postprocess; or is called with the image
    Function     is called with a list of frames, and returns a list of any values

The first two return Roboflow's dicts: `image` and `predictions`.
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

from streamfleet_core.protocol.values import Manifest, Task
from streamfleet_worker.engine.interface import Model
from streamfleet_worker.engine.loading import load_here
from streamfleet_worker.engine.onnx_runtime import run_errors
from streamfleet_worker.host.host_stats import cores
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.ipc.shared_memory import new_slot
from streamfleet_worker.library.errors import BadPrediction
from streamfleet_worker.library.frame import VideoFrame, picture_of
from streamfleet_worker.library.model_threads import ModelThreads
from streamfleet_worker.video.detection.findings import CORNERS, MASKS, Findings
from streamfleet_worker.video.detection.letterbox import Letterbox
from streamfleet_worker.video.detection.masks import BoxMask
from streamfleet_worker.video.detection.postprocess import findings_of
from streamfleet_worker.video.detection.selection import ALL, Selection
from streamfleet_worker.video.frame import Picture
from streamfleet_worker.video.outputs.prediction import Document, Names, describe_picture

_MOST_THREADS = 8

# Roboflow's word for each task. It has none for oriented boxes, which are read as boxes.
TASK_TYPES: dict[Task, str] = {
    "detect": "object-detection",
    "segment": "instance-segmentation",
    "obb": "object-detection",
    "pose": "keypoint-detection",
    "classify": "classification",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The seconds that each step of one inference took."""

    scale: float  # the picture to the input of the model
    inference: float
    read: float  # the output of the model


@dataclass(frozen=True, slots=True)
class Inferred:
    """The results for the frames of one batch."""

    results: list[Any]  # one per frame, in their order
    started_at: float  # monotonic seconds
    ready_at: float  # monotonic seconds


class Inference(Protocol):
    """Runs inference on batches of frames. Call `start` and `close` once. One thread calls `begin`."""

    threads: int  # how many batches run at once

    def start(self) -> None:
        """Start the threads."""
        ...

    def begin(self, frames: Sequence[VideoFrame]) -> Future[Inferred]:
        """Start inference on these frames. The future raises its error, if any."""
        ...

    def close(self, deadline: float) -> bool:
        """Stop the threads, and return whether they ended within `deadline` seconds."""
        ...


class ModelFile:
    """An ONNX model. Each thread has its own memory for the model's input and output."""

    def __init__(
        self, path: Path, manifest: Manifest, rules: PostProcessing, selections: Sequence[Selection] = ()
    ) -> None:
        """Load the model. `selections`: what is kept of each source; empty: all. Raises: BadModel."""
        self.task_type = TASK_TYPES[manifest.task]
        self._selections = tuple(selections)
        self._names = Names(manifest.labels, manifest.keypoints)
        self._rules = rules
        model = load_here(str(path), manifest)
        self.threads = min(_MOST_THREADS, cores())
        self._threads: ModelThreads[Inferred] = ModelThreads(self.threads)
        self._contexts = [InferenceContext(model, manifest) for _ in range(self.threads)]  # the free ones

    def start(self) -> None:
        """Start the threads."""
        self._threads.start()

    def begin(self, frames: Sequence[VideoFrame]) -> Future[Inferred]:
        """Start inference on these frames."""
        return self._threads.submit(lambda: self._infer(frames))

    def close(self, deadline: float) -> bool:
        """Stop the threads, and return whether they ended within `deadline` seconds."""
        closed = self._threads.close(deadline)
        self._contexts.clear()  # a model is large: keep no reference to it after the end
        return closed

    def _infer(self, frames: Sequence[VideoFrame]) -> Inferred:
        started_at = time.monotonic()
        context = self._contexts.pop()
        try:
            results = [self._describe(frame, context) for frame in frames]
        finally:
            self._contexts.append(context)
        return Inferred(results, started_at, time.monotonic())

    def _describe(self, frame: VideoFrame, context: InferenceContext) -> Document:
        picture = picture_of(frame)
        selection = self._selections[frame.source_id or 0] if self._selections else ALL
        return describe_picture(
            context.find(picture, self._rules, selection),
            names=self._names,
            width=picture.width,
            height=picture.height,
        )


class InferenceContext:
    """The memory and the steps of one inference: preprocess, run, decode. One thread at a time may use it."""

    def __init__(self, model: Model, manifest: Manifest) -> None:
        self.slot = new_slot(model.layout(1))
        self._runner = model.runner()
        self.letterbox = Letterbox(manifest)
        self._manifest = manifest

    def find(self, picture: Picture, rules: PostProcessing, selection: Selection = ALL) -> Findings:
        """Run the model on a picture. Raises: one of `run_errors`."""
        return self.find_timed(picture, rules, selection)[0]

    def find_timed(
        self, picture: Picture, rules: PostProcessing, selection: Selection = ALL
    ) -> tuple[Findings, Steps]:
        """The same, and how long each step took. Raises: one of `run_errors`."""
        began = time.perf_counter()
        geometry = self.letterbox.write(picture, self.slot.input)
        scaled = time.perf_counter()
        self._runner.run([self.slot])
        inferred = time.perf_counter()
        found = findings_of(
            self.slot.outputs, geometry, manifest=self._manifest, rules=rules, selection=selection
        )
        read = time.perf_counter()
        return found, Steps(scale=scaled - began, inference=inferred - scaled, read=read - inferred)


class Function:
    """A function of the user that is called with the frames of a batch, on one thread."""

    threads = 1

    def __init__(self, on_video_frame: Callable[[list[VideoFrame]], Sequence[Any]]) -> None:
        self._on_video_frame = on_video_frame
        self._threads: ModelThreads[Inferred] = ModelThreads(self.threads)

    def start(self) -> None:
        """Start the threads."""
        self._threads.start()

    def begin(self, frames: Sequence[VideoFrame]) -> Future[Inferred]:
        """Start inference on these frames."""
        return self._threads.submit(lambda: self._infer(list(frames)))

    def close(self, deadline: float) -> bool:
        """Stop the threads, and return whether they ended within `deadline` seconds."""
        return self._threads.close(deadline)

    def _infer(self, frames: list[VideoFrame]) -> Inferred:
        started_at = time.monotonic()
        results = self._on_video_frame(frames)
        if not isinstance(results, (list, tuple)) or len(results) != len(frames):
            count = len(results) if isinstance(results, (list, tuple)) else type(results).__name__
            raise BadPrediction(
                f"expected a list with a result for each of {len(frames)} frames, got {count}"
            )
        return Inferred(list(results), started_at, time.monotonic())


class ModelObject:
    """Calls a model object once per image. Used with `Function`."""

    def __init__(self, model: Any, rules: PostProcessing) -> None:
        """Choose how to call the model. Raises: TypeError."""
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
                f" preprocess, predict and postprocess; got {type(model).__name__}"
            )

    def __call__(self, frames: list[VideoFrame]) -> list[Document]:
        """Return a document for each frame."""
        return [document_of(self._find(frame.image), frame) for frame in frames]

    def _step_by_step(self, model: Any, image: Any) -> Any:
        blob, metadata = model.preprocess(image)
        return model.postprocess(model.predict(blob), metadata, **self._rules)


def document_of(found: Any, frame: VideoFrame) -> Document:
    """Convert the result of a model object for one image to Roboflow's dict. Raises: BadPrediction."""
    if isinstance(found, (list, tuple)) and len(found) == 1:
        found = found[0]  # a batch of one
    height, width = frame.image.shape[:2]
    if isinstance(found, sv.Detections):
        return document_of_detections(found, width=width, height=height, labels=None)
    if isinstance(found, sv.Classifications):
        return _document_of_classifications(found, width=width, height=height)
    if hasattr(found, "model_dump"):
        found = found.model_dump(by_alias=True, exclude_none=True)
    if not isinstance(found, dict) or not isinstance(found.get("predictions"), list):
        expected = "a dict with the list `predictions`, an object that dumps one, or supervision's values"
        raise BadPrediction(f"expected {expected}, got {type(found).__name__}")
    return {"image": {"width": width, "height": height}, **found}


def failure_of(exc: BaseException) -> str:
    """A readable text for an error of the model."""
    return str(exc) if isinstance(exc, (BadPrediction, *run_errors())) else f"{type(exc).__name__}: {exc}"


def document_of_detections(
    detections: sv.Detections, *, width: int, height: int, labels: Sequence[str] | None
) -> Document:
    """Roboflow's dict for the detections in a picture. Without labels, detections carry their class names."""
    if labels is None:
        detections, labels = _complete(detections)
    return describe_picture(detections, names=Names(tuple(labels)), width=width, height=height)


def _complete(detections: sv.Detections) -> tuple[sv.Detections, Sequence[str]]:
    """Add missing confidences and classes, and return the class names up to the highest class too."""
    count = len(detections)
    confidence = detections.confidence if detections.confidence is not None else np.ones(count, np.float32)
    classes = detections.class_id if detections.class_id is not None else np.zeros(count, np.int64)
    labels = [str(number) for number in range(int(classes.max(initial=-1)) + 1)]
    for number, name in zip(classes, detections.data.get("class_name", ()), strict=False):
        labels[number] = str(name)
    whole = sv.Detections(
        xyxy=detections.xyxy,
        confidence=confidence,
        class_id=classes,
        tracker_id=detections.tracker_id,
        data=_shapes(detections),
    )
    return whole, labels


def _shapes(detections: sv.Detections) -> dict[str, Any]:
    """Masks, or the corners of oriented boxes."""
    if detections.mask is not None:
        masks = np.empty(len(detections), object)
        for index, mask in enumerate(detections.mask):
            masks[index] = BoxMask(0, 0, np.ascontiguousarray(mask, np.uint8))
        return {MASKS: masks}
    corners = np.asarray(detections.data.get(CORNERS, ()))
    return {CORNERS: corners} if corners.shape == (len(detections), 4, 2) else {}


def _document_of_classifications(found: sv.Classifications, *, width: int, height: int) -> Document:
    """Roboflow's dict for the classes of a picture, whose names are numbers. Raises: BadPrediction."""
    if not len(found.class_id):
        raise BadPrediction("expected at least one class of a picture, got none")
    confidence = (
        found.confidence if found.confidence is not None else np.ones(len(found.class_id), np.float32)
    )
    order = np.argsort(-confidence, kind="stable")
    best = sv.Classifications(class_id=found.class_id[order], confidence=confidence[order])
    labels = [str(number) for number in range(int(found.class_id.max()) + 1)]
    return describe_picture(best, names=Names(labels), width=width, height=height)
