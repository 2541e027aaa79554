"""Converts an entry of a ring to the response of `consume`: outputs by name, and metadata of their frames."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from streamfleet_api.feeds.zmq_subscription import name_of
from streamfleet_api.roboflow.inference_pipelines.result_buffer import Entry, Result
from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.prediction import Prediction, PredictionDocument, decode
from streamfleet_core.protocol.workflow import Content, Output

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Format and buffering of the results of a pipeline."""

    model_id: str
    sources: int
    outputs: tuple[Output, ...] = (Output("predictions", "predictions"),)
    classes: tuple[str, ...] | None = None  # the only classes in the output; None: all
    size: int = 64  # maximum number of waiting entries
    wait: float | None = None  # seconds that an entry waits for the other sources; None: the default
    timeout: float | None = None  # seconds without a request after which the pipeline is terminated
    kept: bool = True  # keep results from the first one on; otherwise only while a client polls

    def needs_pictures(self, excluded: Collection[str]) -> bool:
        """Whether an image is among the outputs and not excluded."""
        return any(each.content == "picture" and each.name not in excluded for each in self.outputs)


@dataclass(frozen=True, slots=True)
class Consumed:
    """One entry: a place per source, None where a source has no result. Without an entry, both are empty."""

    outputs: list[Document | None] = field(default_factory=list)
    frames_metadata: list[Document | None] = field(default_factory=list)
    dropped: int = 0  # entries dropped before this one


def consumed(
    plan: Plan,
    entry: Entry,
    dropped: int,
    *,
    excluded: Collection[str],
    pictures: Mapping[int, bytes] | None = None,
) -> Consumed:
    """Format an entry for its consumer, with the newest JPEG of each source.

    The place of an unreadable result stays empty.
    """
    newest = pictures or {}
    shown = [
        (None, None) if result is None else _shown(plan, result, excluded, newest.get(result.source))
        for result in entry
    ]
    return Consumed([output for output, _ in shown], [frame for _, frame in shown], dropped)


def _shown(
    plan: Plan, result: Result, excluded: Collection[str], jpeg: bytes | None
) -> tuple[Document | None, Document | None]:
    try:
        document = decode(result.body)
        frame_id = document["inference_metadata"]["frame_id"]
        detections = _detections(plan, document)
    except (BadData, KeyError):  # a device may send anything
        return None, None
    output = {
        each.name: _content(each.content, detections, plan, result, jpeg)
        for each in plan.outputs
        if each.name not in excluded
    }
    captured = datetime.fromtimestamp(result.captured_at).isoformat()  # noqa: DTZ006
    return output, {"frame_timestamp": captured, "frame_id": frame_id, "source_id": result.source}


def _detections(plan: Plan, document: PredictionDocument) -> Document:
    """The part of a document that is a result in a workflow, with the chosen classes only."""
    whole: Document = {"image": document["image"], "predictions": _of_classes(plan, document["predictions"])}
    if "top" in document:  # the class of the whole picture, and how sure the model is of it
        whole |= {"top": document["top"], "confidence": document["confidence"]}
    return whole


def _of_classes(plan: Plan, predictions: list[Prediction]) -> list[Prediction]:
    if plan.classes is None:
        return predictions
    return [each for each in predictions if each["class"] in plan.classes]


def _content(content: Content, detections: Document, plan: Plan, result: Result, jpeg: bytes | None) -> Any:
    match content:
        case "predictions":
            return detections
        case "inference_id":
            return name_of(result.key)
        case "model_id":
            return plan.model_id
        case "detection":
            about = {"inference_id": name_of(result.key), "model_id": plan.model_id}
            return {**about, "predictions": detections}
        case "tracking":
            return {"tracked_detections": detections}
        case "count":
            return len(detections["predictions"])
        case "picture":
            return None if jpeg is None else {"type": "base64", "value": base64.b64encode(jpeg).decode()}
