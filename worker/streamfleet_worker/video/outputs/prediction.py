"""The predictions of one frame as they leave: the original's object, as JSON and as msgpack.

Too large a document is first written with shorter numbers, then without its least confident predictions;
how many are missing stands in `inference_metadata.truncated`, or beside the predictions where there is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import supervision as sv

from streamfleet_core.protocol.data_plane import MAX_BODY

MAX_DATAGRAM = 65_507  # bytes, the most that UDP carries over IPv4

_SMALLEST = 130  # bytes that a detection takes at least
_SLACK = 8  # bytes
_DIGITS = {"x": 1, "y": 1, "width": 1, "height": 1, "confidence": 3}  # after the point, where room is scarce

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document in bytes."""

    content: bytes
    truncated: int  # predictions that were left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where and when the predictions come from: what stands in `inference_metadata`."""

    source_id: int
    frame_id: int
    decoded_at: float  # Unix seconds
    emitted_at: float  # Unix seconds
    pipeline_id: str
    device: str
    generation: int
    incarnation: int
    seq: int


def describe(
    detections: sv.Detections, *, labels: Sequence[str], width: int, height: int, origin: Origin
) -> Document:
    """The document of one frame of this size in pixels; its keys in the original's order."""
    return {
        **describe_picture(detections, labels=labels, width=width, height=height),
        "inference_metadata": {
            "source_id": origin.source_id,
            "frame_id": origin.frame_id,
            "frame_decoding_time": _local_time(origin.decoded_at),
            "emission_time": _local_time(origin.emitted_at),
            "pipeline_id": origin.pipeline_id,
            "device": origin.device,
            "gen": origin.generation,
            "inc": origin.incarnation,
            "seq": origin.seq,
        },
    }


def describe_picture(
    detections: sv.Detections, *, labels: Sequence[str], width: int, height: int
) -> Document:
    """What can be said of a picture of this size in pixels alone, wherever it comes from."""
    return {
        "image": {"width": width, "height": height},
        "predictions": _predictions(detections, labels),
    }


def to_json(document: Document, limit: int = MAX_DATAGRAM, *, compact: bool = False) -> Encoded:
    """As Python's `json` writes it, or compact without a space. At most `limit` bytes."""

    def encode(value: Any) -> bytes:
        content = msgspec.json.encode(value)
        if not content.isascii():  # Python escapes what msgspec leaves as it is
            return json.dumps(value, separators=separators).encode()
        return content if compact else msgspec.json.format(content, indent=0)

    separators = (",", ":") if compact else (", ", ": ")
    if len(document["predictions"]) <= limit // _SMALLEST:  # more cannot fit as they are
        content = encode(document)
        if len(content) <= limit:
            return Encoded(content, 0)
    return _fit(document, limit, encode, shorten=_shortened, separator=len(separators[0]))


def to_msgpack(document: Document, limit: int = MAX_BODY) -> Encoded:
    """The same object for the data plane. At most `limit` bytes."""
    content = msgspec.msgpack.encode(document)
    if len(content) <= limit:
        return Encoded(content, 0)
    return _fit(document, limit, msgspec.msgpack.encode, shorten=dict, separator=0)


def _fit(
    document: Document,
    limit: int,
    encode: Callable[[Any], bytes],
    *,
    shorten: Callable[[Document], Document],
    separator: int,
) -> Encoded:
    """The document with shorter predictions, and without the least confident if there is no other way.

    Of thousands only those are written that fit.
    """
    predictions = document["predictions"]
    # What everything but the predictions takes, with the largest count of those that are missing.
    room = limit - len(encode(_without(document, [], len(predictions)))) - _SLACK
    kept: dict[int, Document] = {}
    for index in sorted(range(len(predictions)), key=lambda at: -predictions[at]["confidence"]):
        prediction = shorten(predictions[index])
        room -= len(encode(prediction)) + separator
        if room < 0:
            break
        kept[index] = prediction
    chosen = [kept[index] for index in sorted(kept)]
    truncated = len(predictions) - len(chosen)
    if not truncated:
        return Encoded(encode({**document, "predictions": chosen}), 0)
    return Encoded(encode(_without(document, chosen, truncated)), truncated)


def _without(document: Document, chosen: list[Document], truncated: int) -> Document:
    rest = {**document, "predictions": chosen}
    if "inference_metadata" not in document:
        return {**rest, "truncated": truncated}
    return {**rest, "inference_metadata": {**document["inference_metadata"], "truncated": truncated}}


def _predictions(detections: sv.Detections, labels: Sequence[str]) -> list[Document]:
    count = len(detections)
    if count == 0:
        return []
    assert detections.confidence is not None
    assert detections.class_id is not None
    confidences, classes = detections.confidence.tolist(), detections.class_id.tolist()
    ids = [None] * count if detections.tracker_id is None else detections.tracker_id.tolist()
    predictions = []
    # Few boxes a frame are sooner counted one by one than by NumPy.
    for (left, top, right, bottom), confidence, kind, tracker_id, name in zip(
        detections.xyxy.tolist(), confidences, classes, ids, _detection_ids(count), strict=True
    ):
        prediction: Document = {
            "x": (left + right) / 2,
            "y": (top + bottom) / 2,
            "width": right - left,
            "height": bottom - top,
            "confidence": confidence,
            "class": labels[kind],
            "class_id": kind,
        }
        if tracker_id is not None:
            prediction["tracker_id"] = tracker_id
        prediction["detection_id"] = name
        predictions.append(prediction)
    return predictions


def _detection_ids(count: int) -> list[str]:
    """So many random UUIDs (version 4). A frame may have thousands: one system call gives them all."""
    digits = os.urandom(16 * count).hex()
    ids = []
    for start in range(0, 32 * count, 32):
        one = digits[start : start + 32]
        variant = "89ab"[int(one[16], 16) & 3]
        ids.append(f"{one[:8]}-{one[8:12]}-4{one[13:16]}-{variant}{one[17:20]}-{one[20:]}")
    return ids


def _shortened(prediction: Document) -> Document:
    """A tenth of a pixel and a thousandth of confidence: less than any model is exact to."""
    short = {key: round(prediction[key], digits) for key, digits in _DIGITS.items() if key in prediction}
    return {**prediction, **short}


def _local_time(at: float) -> str:
    """As the original writes it: ISO 8601, local, without a zone."""
    return datetime.fromtimestamp(at).isoformat()  # noqa: DTZ006
