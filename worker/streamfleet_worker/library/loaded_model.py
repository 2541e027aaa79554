"""A model to call with pictures, without a pipeline, as Roboflow's `get_model` returns it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamfleet_core.protocol.values import MASK_FORMATS, Manifest, MaskFormat
from streamfleet_worker.engine.loading import load_here
from streamfleet_worker.engine.onnx_runtime import run_errors
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.library.arguments import rules_of
from streamfleet_worker.library.execution.file_trial import TriedFrame, try_frames
from streamfleet_worker.library.inference import TASK_TYPES, InferenceContext, Steps
from streamfleet_worker.library.models import load
from streamfleet_worker.library.settings import current_settings
from streamfleet_worker.video.array_picture import ArrayPicture
from streamfleet_worker.video.frame import Image, Picture
from streamfleet_worker.video.outputs.prediction import Document, Names, describe_picture


class Response(dict[str, Any]):
    """The predictions for one picture: Roboflow's dict, whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        key = "class" if name == "class_name" else name
        if key not in self:
            raise AttributeError(name)
        return self[key]

    def dict(self, **_: Any) -> Document:
        """The same as a plain dict. Options are accepted and ignored: all keys have Roboflow's names."""
        return {key: _plain(value) for key, value in self.items()}

    def model_dump(self, **_: Any) -> Document:
        """The same as `dict`."""
        return self.dict()

    def json(self, **_: Any) -> str:
        """The same as JSON."""
        return json.dumps(self)


class LoadedModel:
    """Finds objects in pictures, or their class. Any thread may use it; calls run one at a time."""

    def __init__(self, path: Path, manifest: Manifest, rules: PostProcessing) -> None:
        """Load the model. Raises: onnx_session.BadModel."""
        self.task_type = TASK_TYPES[manifest.task]
        self.class_names = list(manifest.labels)
        self._names = Names(manifest.labels, manifest.keypoints)
        self._rules = rules
        self._context = InferenceContext(load_here(str(path), manifest), manifest)
        self._lock = threading.Lock()  # guards the context: it has one input and one output

    def infer(
        self,
        image: Any,
        confidence: float | None = None,
        iou_threshold: float | None = None,
        class_agnostic_nms: bool | None = None,
        max_candidates: int | None = None,
        max_detections: int | None = None,
        response_mask_format: MaskFormat = "polygon",
        **_: Any,
    ) -> list[Response]:
        """Find objects, or the classes, of one picture or a list of them, which are BGR arrays or paths.

        `response_mask_format`: of the masks of a model that has some: "polygon" or "rle".
        Other options are ignored.

        Raises: ValueError, TypeError, FileNotFoundError, one of `run_errors`.
        """
        if response_mask_format not in MASK_FORMATS:
            expected = " or ".join(MASK_FORMATS)
            raise ValueError(f"response_mask_format: expected {expected}, got {response_mask_format!r}")
        rules = rules_of(
            self._rules,
            confidence=confidence,
            iou_threshold=iou_threshold,
            class_agnostic_nms=class_agnostic_nms,
            max_candidates=max_candidates,
            max_detections=max_detections,
        )
        images = image if isinstance(image, list) else [image]
        return [self._infer(_image(each), rules, response_mask_format) for each in images]

    def try_file(self, file: str | Path, *, frames: int = 1, **rules: Any) -> Iterator[TriedFrame]:
        """Try the model on a picture, or on the first frames of a film, step by step.

        Yields for each frame what was found, the seconds of each step, and the frame with what was found
        drawn into it. `frames`: at most so many. `rules`: as those of `infer`.

        Raises: ValueError if the file has no picture that can be read; RuntimeError if the model fails.
        """
        known = {name: rules.get(name) for name in asdict(self._rules)}
        chosen = rules_of(self._rules, **known)

        def find(picture: Picture) -> tuple[Document, Steps]:
            try:
                with self._lock:
                    found, steps = self._context.find_timed(picture, chosen)
            except run_errors() as exc:
                raise RuntimeError(f"the model fails: {exc}") from exc
            document = describe_picture(found, names=self._names, width=picture.width, height=picture.height)
            return document, steps

        return try_frames(Path(file), find, most=frames)

    def _infer(self, image: Image, rules: PostProcessing, mask_format: MaskFormat) -> Response:
        with self._lock:
            found = self._context.find(ArrayPicture(image), rules)
        height, width = image.shape[:2]
        document = describe_picture(
            found, names=self._names, width=width, height=height, mask_format=mask_format
        )
        return Response({key: _responses(value) for key, value in document.items()})


def _responses(value: Any) -> Any:
    """The same with `Response` instead of each dict."""
    if isinstance(value, list):
        return [_responses(each) for each in value]
    if isinstance(value, dict):
        return Response({key: _responses(each) for key, each in value.items()})
    return value


def _plain(value: Any) -> Any:
    """The same without any `Response`."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value


def get_model(model_id: str | Path, api_key: str | None = None, **rules: Any) -> LoadedModel:
    """Load a model by its id in the model cache, its path or its address. `api_key` is not needed.

    `rules`: defaults of `infer`: confidence, iou_threshold and so on; others are ignored.

    Raises: ValueError, ConfigError, and the errors of `load`.
    """
    settings = current_settings()
    known = {name: rules.get(name) for name in asdict(settings.rules)}
    path, manifest = load(model_id, cache_dir=settings.cache_dir, api_key=api_key or settings.api_key)
    return LoadedModel(path, manifest, rules_of(settings.rules, **known))


def _image(given: Any) -> Image:
    if isinstance(given, (str, Path)):
        read = cv2.imread(str(given))
        if read is None:
            raise FileNotFoundError(f"expected a readable picture, got {given}")
        return read.astype(np.uint8, copy=False)
    if not isinstance(given, np.ndarray) or given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3:
        raise TypeError(
            "expected a picture of height, width and 3 colours (an array of uint8, BGR), or a path"
        )
    return given
