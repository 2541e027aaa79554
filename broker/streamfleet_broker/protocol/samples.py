"""Pictures worth labelling: which frames a device picks, and what a picked frame is on its way to a dataset.

The fields of strategies, limits and batches are the original's, so that a configuration can be carried over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

# As in `values`, which imports this module.
_Id = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Dataset = _Id
# `<captured unix ms>-<pipeline id>-<source>-<frame id>`: the only texts that become names of files.
SampleName = Annotated[
    str, Meta(pattern=r"\A[0-9]{1,15}-[A-Za-z0-9][A-Za-z0-9._-]{0,63}-[0-9]{1,5}-[0-9]{1,19}\Z")
]
# What people read and type: tags, strategies, prefixes of batches.
Text = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f]{1,64}\Z")]
ClassName = Annotated[str, Meta(min_length=1, max_length=256)]
Share = Annotated[float, Meta(ge=0, le=1)]
Pixels = Annotated[int, Meta(ge=16, le=16_384)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]

MAX_STRATEGIES = 16  # of one sampling
MAX_TAGS = 32
MAX_CLASSES = 1000  # that a strategy names
MAX_LABELS = 100_000  # of a model

Tags = Annotated[tuple[Text, ...], Meta(max_length=MAX_TAGS)]
ClassNames = Annotated[tuple[ClassName, ...], Meta(min_length=1, max_length=MAX_CLASSES)]
Window = Literal["minutely", "hourly", "daily"]
Interval = Literal["never", "daily", "weekly", "monthly"]


# which frames ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many samples in each minute, hour or day of UTC."""

    type: Window
    value: Annotated[int, Meta(ge=1, le=1_000_000)]


Limits = Annotated[tuple[Limit, ...], Meta(max_length=3)]


# A union whose members are told apart by a field is what msgspec has Structs for; dataclasses cannot be that.
class _Strategy(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all strategies have in common."""

    name: Text
    limits: Limits = ()
    tags: Tags = ()

    def __post_init__(self) -> None:
        if problem := double("limit", [limit.type for limit in self.limits]):
            raise ValueError(problem)


class Random(_Strategy, frozen=True, kw_only=True, tag="random"):
    """Any frame, with this probability."""

    traffic_percentage: Share  # 0…1, in the original's word


class CloseToThreshold(_Strategy, frozen=True, kw_only=True, tag="close_to_threshold"):
    """Frames of which the model is not sure: |confidence - threshold| < epsilon for enough objects."""

    threshold: Share
    epsilon: Share
    probability: Share = 1.0
    selected_class_names: ClassNames | None = None  # None: all
    only_top_classes: bool = True  # of a classification; every object of a detection has one class only
    minimum_objects_close_to_threshold: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


class ClassesBased(_Strategy, frozen=True, kw_only=True, tag="classes_based"):
    """Frames on which there is an object of one of these classes. (The original: of classifications only.)"""

    selected_class_names: ClassNames
    probability: Share = 1.0


class DetectionsNumberBased(_Strategy, frozen=True, kw_only=True, tag="detections_number_based"):
    """Frames with more objects than one figure, and fewer than the other."""

    more_than: Count | None = None
    less_than: Count | None = None
    selected_class_names: ClassNames | None = None  # None: all
    probability: Share = 1.0

    def __post_init__(self) -> None:
        _Strategy.__post_init__(self)
        if problem := empty_range(self.more_than, self.less_than):
            raise ValueError(problem)


Strategy = Random | CloseToThreshold | ClassesBased | DetectionsNumberBased


@dataclass(frozen=True, slots=True)
class Batching:
    """How samples are put together for those who label them."""

    batches_name_prefix: Text = "samples"
    recreation_interval: Interval = "never"  # in UTC; weeks begin on Monday
    max_batch_images: Annotated[int, Meta(ge=1, le=100_000_000)] | None = None  # None: any number


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a pipeline are kept for labelling, and as what. A pipeline without one keeps none.

    The first strategy that matches a frame, and is under all of its limits, takes it.
    """

    dataset: Dataset
    strategies: Annotated[tuple[Strategy, ...], Meta(min_length=1, max_length=MAX_STRATEGIES)]
    batching: Batching = field(default_factory=Batching)
    max_image_size: tuple[Pixels, Pixels] | None = None  # height and width; None: as it came
    jpeg_compression_level: Annotated[int, Meta(ge=1, le=100)] = 95  # the quality, in the original's word
    tags: Tags = ()  # of every sample, before those of its strategy
    persist_predictions: bool = True

    def __post_init__(self) -> None:
        if problem := double("strategy", [strategy.name for strategy in self.strategies]):
            raise ValueError(problem)


def double(what: str, names: list[Any]) -> str:
    """What is wrong with names of which each should be there once; "" when nothing is."""
    again = next((name for number, name in enumerate(names) if name in names[:number]), None)
    return "" if again is None else f"expected each {what} once, came {again!r} twice"


def empty_range(more_than: int | None, less_than: int | None) -> str:
    """What is wrong with these borders of a whole number; "" when nothing is."""
    if more_than is None and less_than is None:
        return "expected more_than, less_than or both, came neither"
    if less_than is not None and less_than - (-1 if more_than is None else more_than) < 2:
        return f"expected a number above more_than and below less_than, came {more_than} and {less_than}"
    return ""


# a picked frame -------------------------------------------------------------------------------------------


class Box(msgspec.Struct, frozen=True):
    """One object of a prediction, in pixels of the picture; what else stands there is not looked at."""

    x: Annotated[float, Meta(ge=-1e6, le=1e6)]  # of the middle
    y: Annotated[float, Meta(ge=-1e6, le=1e6)]
    width: Annotated[float, Meta(ge=0, le=1e6)]
    height: Annotated[float, Meta(ge=0, le=1e6)]
    confidence: Annotated[float, Meta(ge=-1e6, le=1e6)]  # 0…1 of every model that is worth one
    class_name: str = msgspec.field(name="class")


class _Prediction(msgspec.Struct, frozen=True):
    predictions: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of one picture that was kept. It is written beside the picture as JSON."""

    pipeline_id: _Id
    device: _Id
    source_id: Annotated[int, Meta(ge=0, le=99_999)]
    frame_id: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    captured_at: Annotated[float, Meta(ge=0, lt=1e11)]  # Unix seconds
    width: Annotated[int, Meta(ge=1, le=65_535)]  # pixels of the picture as it is kept
    height: Annotated[int, Meta(ge=1, le=65_535)]
    size: Annotated[int, Meta(ge=1)]  # bytes of its JPEG: one that is cut short is known by it
    labels: Annotated[tuple[str, ...], Meta(max_length=MAX_LABELS)]
    prediction: dict[str, Any] | None  # the original's document, in pixels of the picture as it is kept
    strategy: Text
    tags: Annotated[tuple[Text, ...], Meta(max_length=2 * MAX_TAGS)]
    batch: Annotated[str, Meta(min_length=1, max_length=80)]
    dataset: Dataset

    def __post_init__(self) -> None:
        self.boxes  # noqa: B018 - a sample whose boxes cannot be read does not come to be

    @property
    def name(self) -> str:
        """Of its files. No other frame has it."""
        return f"{int(self.captured_at * 1000)}-{self.pipeline_id}-{self.source_id}-{self.frame_id}"

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The objects of its prediction. Raises: msgspec.ValidationError where the prediction is none."""
        if self.prediction is None:
            return ()
        return msgspec.convert(self.prediction, _Prediction).predictions


@dataclass(frozen=True, slots=True)
class Picked:
    """A sample on its way from a device to the api: the body of one request, whole or not at all."""

    sample: Sample
    image: bytes  # JPEG

    def encode(self) -> bytes:
        """As it travels."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, content: bytes | bytearray) -> Picked:
        """Raises: msgspec.DecodeError, RecursionError."""
        return msgspec.msgpack.decode(content, type=cls)


PICKED = "application/vnd.msgpack"  # the type of its body
MAX_PICKED = 16 * 1024**2  # bytes of one
