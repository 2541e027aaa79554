"""The predictions of one frame as they are sent: Roboflow's object, as JSON and as msgpack.

A document that is too large is written with shorter numbers, then without its least confident predictions.
`inference_metadata.truncated` counts the missing ones; without that object, `truncated` at the top level
does.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import supervision as sv

from streamfleet_core.protocol.limits import MAX_DATA_BODY
from streamfleet_worker.video.detection.findings import Findings

MAX_DATAGRAM = 65_507  # bytes, the limit of UDP over IPv4

_SMALLEST = 130  # bytes of the smallest detection
_SLACK = 8  # bytes
_DIGITS = {"x": 1, "y": 1, "width": 1, "height": 1, "confidence": 3}  # decimals, if space is short

_UUID = struct.Struct("8s4s4s4s12s")  # the digits between its hyphens
_VERSION = bytes(0x40 | octet & 0x0F for octet in range(256))
_VARIANT = bytes(0x80 | octet & 0x3F for octet in range(256))

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded document."""

    content: bytes
    truncated: int  # predictions that were left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The origin of the predictions: the content of `inference_metadata`."""

    source_id: int
    frame_id: int
    decoded_at: float  # Unix seconds
    emitted_at: float  # Unix seconds
    pipeline_id: str
    device: str
    generation: int
    incarnation: int
    seq: int


@dataclass(frozen=True, slots=True)
class Names:
    """The names that predictions have instead of numbers."""

    classes: Sequence[str]
    keypoints: Sequence[str] = ()  # of an object


def describe(findings: Findings, *, names: Names, width: int, height: int, origin: Origin) -> Document:
    """The document of one frame of this size in pixels, with its keys in Roboflow's order."""
    return {
        **describe_picture(findings, names=names, width=width, height=height),
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


def describe_picture(findings: Findings, *, names: Names, width: int, height: int) -> Document:
    """The part of the document that depends only on the picture and its size in pixels."""
    image = {"width": width, "height": height}
    if isinstance(findings, sv.Classifications):
        return {"image": image, **_classes(findings, names)}
    return {"image": image, "predictions": _predictions(findings, names)}


def nest(
    document: Document, nested: Mapping[int, Mapping[str, Findings]], names: Mapping[str, Names]
) -> None:
    """Add what stages have found in objects to the predictions of the objects, under `stages`.

    `nested`: by the index of the object, then by the name of the stage, which `names` has too.
    """
    image = document["image"]
    for index, stages in nested.items():
        document["predictions"][index]["stages"] = {
            name: {
                key: value
                for key, value in describe_picture(
                    findings, names=names[name], width=image["width"], height=image["height"]
                ).items()
                if key != "image"
            }
            for name, findings in stages.items()
        }


def to_json(document: Document, limit: int = MAX_DATAGRAM, *, compact: bool = False) -> Encoded:
    """Encode as Python's `json` does, or compact without spaces. At most `limit` bytes."""

    def encode(value: Any) -> bytes:
        content = msgspec.json.encode(value)
        if not content.isascii():  # Python escapes other characters, msgspec does not
            return json.dumps(value, separators=separators).encode()
        return content if compact else msgspec.json.format(content, indent=0)

    separators = (",", ":") if compact else (", ", ": ")
    if len(document["predictions"]) <= limit // _SMALLEST:  # more never fit
        content = encode(document)
        if len(content) > limit:
            short = [_shortened(prediction) for prediction in document["predictions"]]
            content = encode({**document, "predictions": short})
        if len(content) <= limit:
            return Encoded(content, 0)
    return _fit(document, limit, encode, shorten=_shortened, separator=len(separators[0]))


def to_msgpack(document: Document, limit: int = MAX_DATA_BODY) -> Encoded:
    """Encode the same object for the data plane. At most `limit` bytes."""
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
    """Encode the document with shorter predictions and, if needed, without the least confident ones.

    Only predictions that fit are encoded, even if there are thousands.
    """
    predictions = document["predictions"]
    # The bytes of everything except the predictions, with the largest possible count of missing ones.
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


def _classes(found: sv.Classifications, names: Names) -> Document:
    """The classes of the whole picture, the most confident first."""
    assert found.confidence is not None
    predictions = [
        {"class": names.classes[kind], "class_id": kind, "confidence": confidence}
        for kind, confidence in zip(found.class_id.tolist(), found.confidence.tolist(), strict=True)
    ]
    return {
        "predictions": predictions,
        "top": predictions[0]["class"],
        "confidence": predictions[0]["confidence"],
    }


def _predictions(detections: sv.Detections, names: Names) -> list[Document]:
    count = len(detections)
    if count == 0:
        return []
    assert detections.confidence is not None
    assert detections.class_id is not None
    confidences, classes = detections.confidence.tolist(), detections.class_id.tolist()
    ids = [None] * count if detections.tracker_id is None else detections.tracker_id.tolist()
    predictions = []
    # For the few boxes of a frame, a loop is faster than NumPy.
    for (left, top, right, bottom), confidence, kind, tracker_id, name in zip(
        detections.xyxy.tolist(), confidences, classes, ids, _detection_ids(count), strict=True
    ):
        prediction: Document = {
            "x": (left + right) / 2,
            "y": (top + bottom) / 2,
            "width": right - left,
            "height": bottom - top,
            "confidence": confidence,
            "class": names.classes[kind],
            "class_id": kind,
        }
        if tracker_id is not None:
            prediction["tracker_id"] = tracker_id
        prediction["detection_id"] = name
        predictions.append(prediction)
    return predictions


def _detection_ids(count: int) -> list[str]:
    """Random UUIDs (version 4), from one system call: a frame may have thousands."""
    octets = bytearray(os.urandom(16 * count))
    # RFC 9562, section 5.4: the bits that say so.
    octets[6::16] = octets[6::16].translate(_VERSION)
    octets[8::16] = octets[8::16].translate(_VARIANT)
    return [b"-".join(groups).decode() for groups in _UUID.iter_unpack(octets.hex().encode())]


def _shortened(prediction: Document) -> Document:
    """Round to a tenth of a pixel and a thousandth of confidence: finer than the precision of any model."""
    short = {key: round(prediction[key], digits) for key, digits in _DIGITS.items() if key in prediction}
    return {**prediction, **short}


def _local_time(at: float) -> str:
    """Format a time as Roboflow does: ISO 8601, local, without a zone."""
    return datetime.fromtimestamp(at).isoformat()  # noqa: DTZ006
