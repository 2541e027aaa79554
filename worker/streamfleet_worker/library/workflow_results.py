"""The outputs of a workflow for one frame, by name."""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass
from typing import Any

import cv2
import supervision as sv
from typing_extensions import assert_never

from streamfleet_core.protocol.workflow import Content, Workflow
from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.rendering import annotated
from streamfleet_worker.video.frame import Image
from streamfleet_worker.video.outputs.prediction import Document
from streamfleet_worker.video.outputs.reading import is_classified, supervision_detections


@dataclass(frozen=True, slots=True)
class WorkflowImage:
    """An output that is a picture."""

    numpy_image: Image  # (height, width, 3) uint8, BGR

    @property
    def base64_image(self) -> str:
        """The picture as a base64-encoded JPEG."""
        _, jpeg = cv2.imencode(".jpg", self.numpy_image)
        return base64.b64encode(jpeg.tobytes()).decode()


class WorkflowResults:
    """Turns the predictions of a frame into the outputs of a workflow.

    Predictions are supervision's Detections and pictures `WorkflowImage`; if serialised, both are dicts.
    """

    def __init__(self, workflow: Workflow, *, serialised: bool) -> None:
        self._workflow = workflow
        self._serialised = serialised

    def __call__(self, document: Document, frame: VideoFrame) -> dict[str, Any]:
        """Compute the outputs of one frame, by name."""
        classes = self._workflow.classes
        if classes is not None:
            kept = [each for each in document["predictions"] if each["class"] in classes]
            document = {**document, "predictions": kept}
        inference_id = str(uuid.uuid4())
        return {
            output.name: self._output(output.content, document, frame, inference_id)
            for output in self._workflow.outputs
        }

    def _output(self, content: Content, document: Document, frame: VideoFrame, inference_id: str) -> Any:
        match content:
            case "predictions":
                return self._predictions(document)
            case "inference_id":
                return inference_id
            case "model_id":
                return self._workflow.model_id
            case "detection":
                about = {"inference_id": inference_id, "model_id": self._workflow.model_id}
                return {**about, "predictions": self._predictions(document)}
            case "tracking":
                return {"tracked_detections": self._predictions(document)}
            case "count":
                return len(document["predictions"])
            case "picture":
                picture = WorkflowImage(annotated(document, frame, None))
                return {"type": "base64", "value": picture.base64_image} if self._serialised else picture
            case _:
                assert_never(content)

    def _predictions(self, document: Document) -> Document | sv.Detections:
        """Predictions as the sinks expect them. The classes of a picture have no value of supervision."""
        if self._serialised or is_classified(document):
            return document
        return supervision_detections(document)
