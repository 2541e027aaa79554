"""The `pred` documents: the parts of Roboflow's object that our code reads.

All readers of predictions decode them with these types: other keys are not decoded.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from typing_extensions import NotRequired, TypedDict

from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.limits import (
    MAX_KEYPOINTS,
    MAX_POINTS,
    MAX_RLE_COUNTS,
    MAX_SIDE,
    MAX_SOURCES,
    MAX_STAGES,
)
from streamfleet_core.protocol.values import Finite, Id

MAX_PREDICTIONS = 10_000  # of one frame: more than fit into a message
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # of an array
_Side = Annotated[int, Meta(ge=0, le=MAX_SIDE)]


class Point(TypedDict):
    """A point of an outline, in pixels of the frame. Both are required: a list of empty maps is refused."""

    x: Finite
    y: Finite


Keypoint = TypedDict(
    "Keypoint",
    {
        "x": Finite,
        "y": Finite,
        "confidence": Finite,
        "class_id": Annotated[int, Meta(ge=0, lt=MAX_KEYPOINTS)],  # its place among those of its object
        "class": str,
    },
)


class Rle(TypedDict):
    """A mask as COCO's compressed run lengths."""

    size: Annotated[list[_Side], Meta(min_length=2, max_length=2)]
    """Height and width of the frame, in pixels."""
    counts: Annotated[str, Meta(max_length=MAX_RLE_COUNTS)]


class _Place(TypedDict, total=False):
    """Where an object is, in pixels of the frame. The class of a whole picture has none of it."""

    x: Finite
    y: Finite
    width: Finite
    height: Finite
    tracker_id: Integer
    detection_id: str
    # The outline of a mask, or the four corners of an oriented box.
    points: Annotated[list[Point], Meta(max_length=MAX_POINTS)]
    rle: Rle  # a mask, instead of its outline
    mask_format: str  # polygon or rle
    rotation: Finite  # of an oriented box, in degrees
    keypoints: Annotated[list[Keypoint], Meta(max_length=MAX_KEYPOINTS)]


_Class = TypedDict("_Class", {"confidence": Finite, "class": str, "class_id": Integer})
_AnyClass = TypedDict("_AnyClass", {"confidence": Finite, "class": str, "class_id": Integer}, total=False)


class FoundObject(_Place, _Class):
    """What a stage has found. Its class is required: a list of empty maps is refused."""


class StageResult(TypedDict):
    """What a stage has found in an object, in pixels of the whole frame, or the classes of the object."""

    predictions: Annotated[list[FoundObject], Meta(max_length=MAX_PREDICTIONS)]
    top: NotRequired[str]
    confidence: NotRequired[Finite]


class Prediction(_Place, _AnyClass, total=False):
    """One object, or one class of the whole picture."""

    # By the name of the stage. A stage that has not run on the object in time is missing.
    stages: Annotated[dict[Id, StageResult], Meta(max_length=MAX_STAGES)]


class Picture(TypedDict, total=False):
    """The frame, in pixels."""

    width: _Side | None
    height: _Side | None


class InferenceMetadata(TypedDict, total=False):
    """The origin of the predictions."""

    source_id: Annotated[int, Meta(ge=0, lt=MAX_SOURCES)]
    frame_id: int
    frame_decoding_time: str
    emission_time: str
    pipeline_id: str
    device: str
    gen: int
    inc: int
    seq: int
    truncated: int  # predictions that were left out


class PredictionDocument(TypedDict):
    """The predictions of one frame: its objects, or the classes of the whole picture."""

    image: Picture
    predictions: Annotated[list[Prediction], Meta(max_length=MAX_PREDICTIONS)]
    # The most confident class of the picture. Objects have neither.
    top: NotRequired[str]
    confidence: NotRequired[Finite]
    inference_metadata: InferenceMetadata


class _Origin(msgspec.Struct):
    device: Id = ""


class _Head(msgspec.Struct):
    inference_metadata: _Origin


_HEAD_DECODER = msgspec.msgpack.Decoder(_Head)
_DECODER = msgspec.msgpack.Decoder(PredictionDocument)


def device_of(body: bytes) -> str:
    """The device that a body names, without decoding the rest. Raises: BadData."""
    try:
        return _HEAD_DECODER.decode(body).inference_metadata.device
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise BadData("a prediction with its device", f"{type(exc).__name__}: {exc}") from exc


def decode(body: bytes) -> PredictionDocument:
    """Decode a body. Raises: BadData, and no other exception for any bytes."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise BadData("a prediction", f"{type(exc).__name__}: {exc}") from exc
