"""A model to call with pictures, without a pipeline: what the original's `get_model` gives."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamfleet_core.protocol.values import Manifest
from streamfleet_worker.engine.onnx_session import Session
from streamfleet_worker.ipc.child_messages import PostProcessing
from streamfleet_worker.library.arguments import rules_of
from streamfleet_worker.library.inference import Bench, document_of_detections
from streamfleet_worker.library.models import load
from streamfleet_worker.library.settings import current_settings
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.outputs.prediction import Document


class Response(dict[str, Any]):
    """What was found in one picture: the original's dict, whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        key = "class" if name == "class_name" else name
        if key not in self:
            raise AttributeError(name)
        return self[key]

    def dict(self, **_: Any) -> Document:
        """The same without attributes; options are accepted, as all keys have the original's names."""
        return {key: _plain(value) for key, value in self.items()}

    def model_dump(self, **_: Any) -> Document:
        """The same."""
        return self.dict()

    def json(self, **_: Any) -> str:
        """As JSON."""
        return json.dumps(self)


class LoadedModel:
    """Finds objects in pictures. Any thread may use it, one at a time gets its turn."""

    task_type = "object-detection"

    def __init__(self, path: Path, manifest: Manifest, rules: PostProcessing) -> None:
        """Raises: session.BadModel."""
        self.class_names = list(manifest.labels)
        self._labels = manifest.labels
        self._rules = rules
        self._bench = Bench(Session(str(path), manifest), manifest)
        self._lock = threading.Lock()  # guards the bench: one input, one output

    def infer(
        self,
        image: Any,
        confidence: float | None = None,
        iou_threshold: float | None = None,
        class_agnostic_nms: bool | None = None,
        max_candidates: int | None = None,
        max_detections: int | None = None,
        **_: Any,
    ) -> list[Response]:
        """What is in a picture, or in each of a list: BGR arrays, or paths. Other options do nothing.

        Raises: ValueError, TypeError, FileNotFoundError, one of `run_errors`.
        """
        rules = rules_of(
            self._rules,
            confidence=confidence,
            iou_threshold=iou_threshold,
            class_agnostic_nms=class_agnostic_nms,
            max_candidates=max_candidates,
            max_detections=max_detections,
        )
        return [
            self._infer(_picture(each), rules) for each in (image if isinstance(image, list) else [image])
        ]

    def _infer(self, picture: Image, rules: PostProcessing) -> Response:
        with self._lock:
            detections = self._bench.detect(picture, rules)
        document = document_of_detections(detections, picture, self._labels)
        return Response(
            image=Response(document["image"]),
            predictions=[Response(prediction) for prediction in document["predictions"]],
        )


def _plain(value: Any) -> Any:
    return [{**each} for each in value] if isinstance(value, list) else {**value}


def get_model(model_id: str | Path, api_key: str | None = None, **rules: Any) -> LoadedModel:
    """A model by its id in the model cache, its path or its address. The key is accepted, and not needed.

    `rules`: confidence, iou_threshold and so on, where `infer` says nothing; others do nothing.

    Raises: ValueError, ConfigError; and what `load` raises.
    """
    settings = current_settings()
    known = {name: rules.get(name) for name in asdict(settings.rules)}
    path, manifest = load(model_id, cache_dir=settings.cache_dir, api_key=api_key or settings.api_key)
    return LoadedModel(path, manifest, rules_of(settings.rules, **known))


def _picture(given: Any) -> Image:
    if isinstance(given, (str, Path)):
        read = cv2.imread(str(given))
        if read is None:
            raise FileNotFoundError(f"expected a picture that can be read, got {given}")
        return read.astype(np.uint8, copy=False)
    if not isinstance(given, np.ndarray) or given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3:
        raise TypeError(
            "expected a picture of height, width and 3 colours (an array of uint8, BGR), or a path"
        )
    return given
