"""A sample: a frame that a device has picked for labelling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta
from typing_extensions import TypedDict

from streamfleet_core.protocol.limits import MAX_CLASSES, MAX_KEYPOINTS, MAX_SIDE, MAX_STAGES, MAX_TAGS
from streamfleet_core.protocol.prediction import (
    MAX_PREDICTIONS,
    InferenceMetadata,
    Picture,
    Prediction,
    Rle,
    StageResult,
)
from streamfleet_core.protocol.sampling import Dataset, Text
from streamfleet_core.protocol.values import Finite, Id

_Number = Annotated[float, Meta(ge=-1e6, le=1e6)]


class Spot(msgspec.Struct, frozen=True):
    """A point of an outline, a corner or a key point, in pixels of the picture."""

    x: _Number
    y: _Number
    confidence: _Number = 0.0  # of a key point
    class_id: Annotated[int, Meta(ge=0, lt=MAX_KEYPOINTS)] = 0  # of a key point: its index
    class_name: str = msgspec.field(name="class", default="")  # of a key point


class Box(msgspec.Struct, frozen=True):
    """One object of a prediction, in pixels of the picture. Other keys are ignored."""

    x: _Number  # of the center
    y: _Number
    width: Annotated[float, Meta(ge=0, le=1e6)]
    height: Annotated[float, Meta(ge=0, le=1e6)]
    confidence: _Number  # 0…1 for regular models
    class_name: str = msgspec.field(name="class")
    points: tuple[Spot, ...] = ()  # the outline of its mask, or the corners of an oriented box
    rle: Rle | None = None  # its mask
    keypoints: tuple[Spot, ...] = ()
    stages: Annotated[dict[Id, StageResult], Meta(max_length=MAX_STAGES)] = msgspec.field(
        default_factory=dict
    )

    @property
    def nested(self) -> dict[str, tuple[Box, ...]]:
        """The objects that stages have found in it, by the name of the stage. Raises: ValidationError."""
        found = {name: result for name, result in self.stages.items() if "top" not in result}
        return {name: msgspec.convert(result, _Boxes).predictions for name, result in found.items()}

    @property
    def attributes(self) -> dict[str, str]:
        """The classes that stages have found it to be of, by the name of the stage."""
        return {name: result["top"] for name, result in self.stages.items() if "top" in result}


class PictureClass(msgspec.Struct, frozen=True):
    """A class of the whole picture. Other keys are ignored."""

    confidence: _Number  # 0…1 for regular models
    class_name: str = msgspec.field(name="class")


class _Boxes(msgspec.Struct, frozen=True):
    predictions: tuple[Box, ...]


class _PictureClasses(msgspec.Struct, frozen=True):
    predictions: tuple[PictureClass, ...]


class SamplePrediction(TypedDict, total=False):
    """The predictions of one frame. Other keys are not decoded."""

    image: Picture
    predictions: Annotated[list[Prediction], Meta(max_length=MAX_PREDICTIONS)]
    top: str  # only of a picture that was classified
    confidence: Finite  # of the top
    inference_metadata: InferenceMetadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The metadata of one stored picture, written as JSON beside it."""

    pipeline_id: Id
    device: Id
    source_id: Annotated[int, Meta(ge=0, le=99_999)]
    frame_id: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    captured_at: Annotated[float, Meta(ge=0, lt=1e11)]  # Unix seconds
    width: Annotated[int, Meta(ge=1, le=MAX_SIDE)]  # pixels of the stored picture
    height: Annotated[int, Meta(ge=1, le=MAX_SIDE)]
    size: Annotated[int, Meta(ge=1)]  # bytes of its JPEG, to detect an incomplete one
    labels: Annotated[tuple[str, ...], Meta(max_length=MAX_CLASSES)]
    prediction: SamplePrediction | None  # in pixels of the stored picture
    strategy: Text
    tags: Annotated[tuple[Text, ...], Meta(max_length=2 * MAX_TAGS)]
    batch: Annotated[str, Meta(min_length=1, max_length=80)]
    dataset: Dataset

    def __post_init__(self) -> None:
        self.classes  # noqa: B018 - validates them
        for box in self.boxes:
            box.nested  # noqa: B018

    @property
    def name(self) -> str:
        """The name of its files, which is unique to the frame."""
        return f"{int(self.captured_at * 1000)}-{self.pipeline_id}-{self.source_id}-{self.frame_id}"

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The objects of its prediction. Raises: msgspec.ValidationError for an invalid prediction."""
        if self.prediction is None or "top" in self.prediction:
            return ()
        return msgspec.convert(self.prediction, _Boxes).predictions

    @property
    def classes(self) -> tuple[PictureClass, ...]:
        """The classes of the whole picture. Raises: msgspec.ValidationError for an invalid prediction."""
        if self.prediction is None or "top" not in self.prediction:
            return ()
        return msgspec.convert(self.prediction, _PictureClasses).predictions


@dataclass(frozen=True, slots=True)
class Picked:
    """A sample sent from a device to the API: the body of one request."""

    sample: Sample
    image: bytes  # JPEG

    def encode(self) -> bytes:
        """Encode the body."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, content: bytes | bytearray) -> Picked:
        """Decode a body. Raises: msgspec.DecodeError, RecursionError."""
        size = len(msgspec.msgpack.decode(content, type=_Undecoded).sample.prediction)
        if size > MAX_PREDICTION:
            raise msgspec.ValidationError(
                f"expected a prediction of at most {MAX_PREDICTION} bytes, got {size}"
            )
        return msgspec.msgpack.decode(content, type=cls)


class _UndecodedSample(msgspec.Struct, frozen=True):
    prediction: msgspec.Raw = msgspec.Raw()


class _Undecoded(msgspec.Struct, frozen=True):
    sample: _UndecodedSample


PICKED = "application/vnd.msgpack"  # media type of its body
MAX_PICKED = 16 * 1024**2  # bytes of its body
# Bytes of its prediction, of which the others are the picture: in memory, each point of an outline is a dict.
MAX_PREDICTION = 2 * 1024**2
