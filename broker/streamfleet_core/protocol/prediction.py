"""The `pred` documents: the parts of Roboflow's object that our code reads.

All readers of predictions decode them with these types: other keys are not decoded.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from typing_extensions import TypedDict

from streamfleet_core.protocol.errors import BadData
from streamfleet_core.protocol.limits import MAX_SOURCES
from streamfleet_core.protocol.values import Finite

MAX_PREDICTIONS = 10_000  # of one frame: more than fit into a message

Prediction = TypedDict(
    "Prediction",
    {
        "x": Finite,
        "y": Finite,
        "width": Finite,
        "height": Finite,
        "confidence": Finite,
        "class": str,
        "class_id": int,
        "tracker_id": int,
        "detection_id": str,
    },
    total=False,
)


class Picture(TypedDict, total=False):
    """The frame, in pixels."""

    width: int | None
    height: int | None


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
    """The predictions of one frame."""

    image: Picture
    predictions: Annotated[list[Prediction], Meta(max_length=MAX_PREDICTIONS)]
    inference_metadata: InferenceMetadata


_DECODER = msgspec.msgpack.Decoder(PredictionDocument)


def decode(body: bytes) -> PredictionDocument:
    """Decode a body. Raises: BadData, and no other exception for any bytes."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise BadData("a prediction", f"{type(exc).__name__}: {exc}") from exc
