"""The predictions of one frame as they are sent: Roboflow's object. `encoding` writes it.

Each task adds its keys where Roboflow's models of responses have them, after `detection_id`:

    segment    points, mask_format: "polygon"; or rle, mask_format: "rle"
    pose       keypoints
    obb        points of the four corners, rotation; Roboflow has no oriented boxes
    classify   no boxes, but top and confidence beside `predictions`

Source: inference/core/entities/responses in github.com/roboflow/inference.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import supervision as sv

from streamfleet_core.protocol.values import MaskFormat
from streamfleet_worker.video.detection.findings import CORNERS, KEYPOINTS, MASKS, Findings, Nested, data_of
from streamfleet_worker.video.detection.masks import BoxMask
from streamfleet_worker.video.outputs.outlines import outline_of
from streamfleet_worker.video.outputs.rle import rle_of

MAX_POINTS = 512  # of a polygon

_POINTS = 20_000  # of all polygons of a frame: more would hold up its camera
_FEW_POINTS = 16  # which a polygon may have in any case
_FARTHEST = 1e6  # pixels; the corners of a box that is turned may lie outside of the frame

_UUID = struct.Struct("8s4s4s4s12s")  # the digits between its hyphens
_VERSION = bytes(0x40 | octet & 0x0F for octet in range(256))
_VARIANT = bytes(0x80 | octet & 0x3F for octet in range(256))

Document = dict[str, Any]


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


def describe(
    findings: Findings,
    *,
    names: Names,
    width: int,
    height: int,
    origin: Origin,
    mask_format: MaskFormat = "polygon",
) -> Document:
    """The document of one frame of this size in pixels, with its keys in Roboflow's order."""
    return {
        **describe_picture(findings, names=names, width=width, height=height, mask_format=mask_format),
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
    findings: Findings, *, names: Names, width: int, height: int, mask_format: MaskFormat = "polygon"
) -> Document:
    """The part of the document that depends only on the picture and its size in pixels."""
    image = {"width": width, "height": height}
    if isinstance(findings, sv.Classifications):
        return {"image": image, **_classes(findings, names)}
    predictions = _predictions(findings, names)
    if predictions and findings.data:
        shapes = _Shapes(names, width=width, height=height, mask_format=mask_format)
        for prediction, further in zip(predictions, shapes.of(findings), strict=True):
            prediction.update(further)
    return {"image": image, "predictions": predictions}


def nest(
    document: Document,
    nested: Nested,
    names: Mapping[str, Names],
    mask_format: MaskFormat = "polygon",
) -> None:
    """Add what stages have found in objects to the predictions of the objects, under `stages`.

    `nested`: by the index of the object, then by the name of the stage, which `names` has too.
    """
    image = document["image"]
    for index, stages in nested.items():
        found = document["predictions"][index]["stages"] = {}
        for name, findings in stages.items():
            found[name] = describe_picture(
                findings,
                names=names[name],
                width=image["width"],
                height=image["height"],
                mask_format=mask_format,
            )
            del found[name]["image"]


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
    predictions, labels = [], names.classes
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
            "class": labels[kind],
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


class _Shapes:
    """What the task of a model adds to the predictions of a frame."""

    def __init__(self, names: Names, *, width: int, height: int, mask_format: MaskFormat) -> None:
        self._names = names
        self._width, self._height = width, height
        self._mask_format = mask_format

    def of(self, detections: sv.Detections) -> Iterator[Document]:
        """The further keys of each detection."""
        masks, keypoints = data_of(detections, MASKS), data_of(detections, KEYPOINTS)
        corners = data_of(detections, CORNERS)
        if masks is not None:
            most = min(MAX_POINTS, max(_FEW_POINTS, _POINTS // len(masks)))
            return (self._mask(mask, most) for mask in masks)
        if keypoints is not None:
            return map(self._keypoints, _finite(keypoints).tolist())
        if corners is not None:
            return map(_oriented, _finite(corners))
        return ({} for _ in range(len(detections)))

    def _mask(self, mask: BoxMask, most: int) -> Document:
        if self._mask_format == "rle":
            counts = rle_of(mask, width=self._width, height=self._height)
            return {"rle": {"size": [self._height, self._width], "counts": counts}, "mask_format": "rle"}
        return {"points": points_of(outline_of(mask, most)), "mask_format": "polygon"}

    def _keypoints(self, keypoints: list[list[float]]) -> Document:
        return {
            "keypoints": [
                {"x": x, "y": y, "confidence": confidence, "class_id": number, "class": name}
                for number, ((x, y, confidence), name) in enumerate(
                    zip(keypoints, self._keypoint_names(len(keypoints)), strict=True)
                )
            ]
        }

    def _keypoint_names(self, count: int) -> Sequence[str]:
        if len(self._names.keypoints) == count:
            return self._names.keypoints
        return [str(number) for number in range(count)]


def points_of(points: npt.NDArray[Any]) -> list[Document]:
    """Points (n, 2) as Roboflow has them."""
    return [{"x": x, "y": y} for x, y in points.tolist()]


def _oriented(corners: npt.NDArray[np.float64]) -> Document:
    """The corners, and how far the width is turned clockwise from level: degrees from 0 to below 180."""
    across, down = (corners[1] - corners[2]).tolist()
    return {"points": points_of(corners), "rotation": float(np.degrees(np.arctan2(down, across)) % 180)}


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Numbers that JSON can hold, and readers can compute with."""
    return np.clip(np.nan_to_num(values.astype(np.float64)), -_FARTHEST, _FARTHEST)


def _local_time(at: float) -> str:
    """Format a time as Roboflow does: ISO 8601, local, without a zone."""
    return datetime.fromtimestamp(at).isoformat()  # noqa: DTZ006
