"""From what waits in a ring to what a consumer gets: outputs by name, and which frames they are of."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgpack

from streamfleet_api.core.ring import Entry, Result
from streamfleet_api.core.workflow import Content, Output
from streamfleet_api.subscriber import UNREADABLE, name_of
from streamfleet_api.wire import render

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the results of a pipeline are shown and kept."""

    model_id: str
    sources: int
    outputs: tuple[Output, ...] = (Output("predictions", "predictions"),)
    classes: tuple[str, ...] | None = None  # the only ones that are shown; None: all
    size: int = 64  # entries that wait at most
    wait: float | None = None  # seconds that an entry waits for the other sources; None: the usual
    timeout: float | None = None  # seconds without a consumer after which the pipeline is terminated
    kept: bool = True  # results wait from the first one on; otherwise only while somebody asks

    def needs_pictures(self, excluded: Collection[str]) -> bool:
        """Is a picture among the outputs, and not left out?"""
        return any(each.content == "picture" and each.name not in excluded for each in self.outputs)


@dataclass(frozen=True, slots=True)
class Consumed:
    """One entry: a place for each source, None where a source gave nothing. Without an entry no places."""

    outputs: list[Document | None] = field(default_factory=list)
    frames_metadata: list[Document | None] = field(default_factory=list)
    dropped: int = 0  # entries that went unseen before this one


def consumed(
    plan: Plan,
    entry: Entry,
    dropped: int,
    *,
    excluded: Collection[str],
    pictures: Mapping[int, bytes] | None = None,
) -> Consumed:
    """An entry as its consumer gets it, with the newest JPEG of each source.

    A result that cannot be read leaves its place empty.
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
        document = msgpack.unpackb(result.body)
        frame_id = document["inference_metadata"]["frame_id"]
        detections = {"image": document["image"], "predictions": _of_classes(plan, document["predictions"])}
        render(detections)  # what is not JSON is found here
    except (*UNREADABLE, KeyError):  # whatever a device may have sent
        return None, None
    if not isinstance(frame_id, int):
        return None, None
    output = {
        each.name: _content(each.content, detections, plan, result, jpeg)
        for each in plan.outputs
        if each.name not in excluded
    }
    captured = datetime.fromtimestamp(result.captured_at).isoformat()  # noqa: DTZ006
    return output, {"frame_timestamp": captured, "frame_id": frame_id, "source_id": result.source}


def _of_classes(plan: Plan, predictions: list[Document]) -> list[Document]:
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
        case "picture":
            return None if jpeg is None else {"type": "base64", "value": base64.b64encode(jpeg).decode()}
