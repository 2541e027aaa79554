"""What clients send under `/v2`.

Strict: nothing is coerced, unknown keys are refused, and everything is bounded.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from streamfleet_api.schemas import ID_PATTERN, MODEL_ID_PATTERN
from streamfleet_broker.protocol import samples
from streamfleet_broker.protocol.reference import EXPECTED, is_playable
from streamfleet_broker.protocol.requests import DeviceState, PipelineStatus
from streamfleet_broker.protocol.values import MAX_SOURCES, Consumption, Family, Filling, Mode, Tracker

MAX_REFERENCE = 4096  # characters
MAX_FPS = 10_000
MAX_COUNT = 1_000_000  # candidates or detections of a frame
MAX_SINKS = 16
MAX_LABELS = 32
MAX_PROPERTIES = 64
MAX_CLASSES = 10_000  # of a model
_LABEL_VALUE = r"^[A-Za-z0-9._-]{0,63}$"
_PROPERTY = r"^[a-z0-9_]{1,64}$"
_HOST = r"^[A-Za-z0-9._:%-]{1,253}$"
_SHA256 = r"^[0-9a-f]{64}$"

T = TypeVar("T")


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


def _example(**example: Any) -> ConfigDict:
    """What the documentation shows first."""
    return ConfigDict(json_schema_extra={"examples": [example]})


def _table(key: str, value: dict[str, Any], limit: int) -> WithJsonSchema:
    """The schema of an object whose keys have a pattern, which pydantic leaves open to all other keys."""
    names = {"pattern": key}
    return WithJsonSchema(
        {"type": "object", "propertyNames": names, "additionalProperties": value, "maxProperties": limit}
    )


Name = Annotated[str, Field(pattern=ID_PATTERN)]
ModelName = Annotated[str, Field(pattern=MODEL_ID_PATTERN)]
Digest = Annotated[str, Field(pattern=_SHA256)]
LabelValue = Annotated[str, Field(pattern=_LABEL_VALUE)]
LabelTable = Annotated[
    dict[Name, LabelValue],
    Field(max_length=MAX_LABELS),
    _table(ID_PATTERN, {"type": "string", "pattern": _LABEL_VALUE}, MAX_LABELS),
]
LabelChanges = Annotated[
    dict[Name, LabelValue | None],
    Field(max_length=MAX_LABELS),
    _table(ID_PATTERN, {"type": ["string", "null"], "pattern": _LABEL_VALUE}, MAX_LABELS),
]
Properties = Annotated[
    dict[Annotated[str, Field(pattern=_PROPERTY)], float],
    Field(max_length=MAX_PROPERTIES),
    _table(_PROPERTY, {"type": "number"}, MAX_PROPERTIES),
]
Fps = Annotated[float, Field(gt=0, le=MAX_FPS)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]


def _kind(value: object) -> str | None:
    """Which of its shapes a source has, so that what is wrong is told of that one alone."""
    if isinstance(value, str):
        return "address"
    if isinstance(value, int) and not isinstance(value, bool):
        return "index"
    return "source" if isinstance(value, dict | Body) else None


def _playable(reference: str) -> str:
    """What no device can ever open is refused at once, and takes nobody's room."""
    if not is_playable(reference):
        raise PydanticCustomError("source_reference", f"Input should be {EXPECTED}")
    return reference


Address = Annotated[
    str,
    Field(min_length=1, max_length=MAX_REFERENCE, pattern=r"^[^\x00]*$"),
    AfterValidator(_playable),
]
CameraIndex = Annotated[int, Field(ge=0, lt=2**31)]
_NO_REFERENCE = {
    "custom_error_type": "source_type",
    "custom_error_message": "Input should be an address or a path as text, or the index of a camera",
}
_NO_SOURCE = {
    "custom_error_type": "source_type",
    "custom_error_message": "Input should be an address or a path as text, the index of a camera, or an "
    "object with a 'reference'",
}
Reference = Annotated[
    Annotated[Address, Tag("address")] | Annotated[CameraIndex, Tag("index")],
    Discriminator(_kind, **_NO_REFERENCE),
]


class SourceRequest(Body):
    """Where frames come from, and how they are taken."""

    reference: Reference
    """A file on the device, a URL, the index of a camera, `TestPatternStreamProducer`, or `scene://…`."""
    mode: Mode | None = None
    """`file`: every frame, and it ends; `live`: the newest, opened again. Null: what suits the source."""
    max_fps: Fps | None = None
    """Frames a second that are looked at. Null: as the pipeline."""
    properties: Properties = {}
    """OpenCV's `CAP_PROP_…` by their names in lower case without the prefix, as `frame_width`.

    `n_threads`: how many threads decode a URL or a file; each beyond the first delays the picture by a frame.
    """
    filling: Filling | None = None
    """What to do with a frame for which there is no room. Null: what suits the source."""
    consumption: Consumption | None = None
    """`LAZY`: the oldest frame next; `EAGER`: the newest. Null: what suits the source."""


AnySource = Annotated[
    Annotated[Address, Tag("address")]
    | Annotated[CameraIndex, Tag("index")]
    | Annotated[SourceRequest, Tag("source")],
    Discriminator(_kind, **_NO_SOURCE),
]


class SinkRequest(Body):
    """Where the device sends a datagram for each prediction."""

    type: Literal["udp"] = "udp"
    host: Annotated[str, Field(pattern=_HOST)]
    port: Annotated[int, Field(ge=1, le=65535)]


class SamplingLimit(Body):
    """At most so many samples in each minute, hour or day of UTC, also over restarts."""

    type: samples.Window
    value: Annotated[int, Field(ge=1, le=MAX_COUNT)]


def _distinct_types(limits: list[SamplingLimit]) -> list[SamplingLimit]:
    return _checked(limits, samples.double("limit", [limit.type for limit in limits]))


def _checked(value: T, problem: str) -> T:
    if problem:
        raise PydanticCustomError("sampling", "{problem}", {"problem": problem})
    return value


Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,64}$")]
TagList = Annotated[list[Text], Field(max_length=samples.MAX_TAGS)]
ClassNames = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256)]],
    Field(min_length=1, max_length=samples.MAX_CLASSES),
]
Number = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class _Strategy(Body):
    """What all strategies have in common."""

    name: Text
    """No other strategy of the pipeline has it; its limits are counted under it."""
    limits: Annotated[list[SamplingLimit], Field(max_length=3), AfterValidator(_distinct_types)] = []
    tags: TagList = []


class RandomStrategy(_Strategy):
    """Any frame."""

    type: Literal["random"]
    traffic_percentage: Share
    """From 0 to 1, in the original's word."""


class CloseToThresholdStrategy(_Strategy):
    """Frames of which the model is not sure."""

    type: Literal["close_to_threshold"]
    threshold: Share
    epsilon: Share
    """An object counts whose confidence is less than this away from the threshold."""
    probability: Share = 1.0
    selected_class_names: ClassNames | None = None
    """Null: all."""
    only_top_classes: bool = True
    """Of classifications; it changes nothing for objects, which have one class each."""
    minimum_objects_close_to_threshold: Count = 1


class ClassesBasedStrategy(_Strategy):
    """Frames on which there is an object of one of these classes."""

    type: Literal["classes_based"]
    selected_class_names: ClassNames
    probability: Share = 1.0


class DetectionsNumberBasedStrategy(_Strategy):
    """Frames with more objects than one figure, and fewer than the other."""

    type: Literal["detections_number_based"]
    more_than: Number | None = None
    less_than: Number | None = None
    selected_class_names: ClassNames | None = None
    """Null: all."""
    probability: Share = 1.0

    @model_validator(mode="after")
    def _has_a_range(self) -> DetectionsNumberBasedStrategy:
        return _checked(self, samples.empty_range(self.more_than, self.less_than))


AnyStrategy = Annotated[
    RandomStrategy | CloseToThresholdStrategy | ClassesBasedStrategy | DetectionsNumberBasedStrategy,
    Field(discriminator="type"),
]


def _distinct_names(strategies: list[AnyStrategy]) -> list[AnyStrategy]:
    return _checked(strategies, samples.double("strategy", [strategy.name for strategy in strategies]))


class SamplingBatches(Body):
    """How samples are put together for those who label them."""

    batches_name_prefix: Text = "samples"
    recreation_interval: samples.Interval = "never"
    """In UTC; the day on which a batch began is added to its name. Weeks begin on Monday."""
    max_batch_images: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Null: any number."""


Side = Annotated[int, Field(ge=16, le=16_384)]


class SamplingRequest(Body):
    """Which frames are kept for labelling, and as what.

    The first strategy that matches a frame, and is under all of its limits, takes it.
    """

    model_config = _example(
        dataset="conveyor",
        strategies=[
            {
                "type": "close_to_threshold",
                "name": "unsure",
                "threshold": 0.5,
                "epsilon": 0.1,
                "limits": [{"type": "hourly", "value": 10}],
            }
        ],
        batching={"recreation_interval": "daily"},
    )

    dataset: Name
    strategies: Annotated[
        list[AnyStrategy],
        Field(min_length=1, max_length=samples.MAX_STRATEGIES),
        AfterValidator(_distinct_names),
    ]
    batching: SamplingBatches = SamplingBatches()
    max_image_size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    """Height and width in pixels that a picture is made to fit. Null: as it came."""
    jpeg_compression_level: Annotated[int, Field(ge=1, le=100)] = 95
    """The quality, in the original's word."""
    tags: TagList = []
    """Of every sample, before those of its strategy."""
    persist_predictions: bool = True
    """Keep what the model saw with the picture."""


Sources = Annotated[list[AnySource], Field(min_length=1, max_length=MAX_SOURCES)]
Sinks = Annotated[list[SinkRequest], Field(max_length=MAX_SINKS)]


class PipelineRequest(Body):
    """A pipeline as it should be: a model on sources, into sinks. Null is the device's own default."""

    model_config = _example(
        model="conveyor/1",
        sources=[
            "scene://conveyor/1",
            {"reference": "rtsp://user:password@10.0.0.9/door", "max_fps": 5},
        ],
        sinks=[{"type": "udp", "host": "127.0.0.1", "port": 37020}],
        tracker="bytetrack",
        labels={"line": "3"},
    )

    model: ModelName
    """As in `GET /v2/models`."""
    sources: Sources
    sinks: Sinks = []
    max_fps: Fps | None = None
    """Frames a second that are looked at, of each source. Null: all."""
    confidence: Share | None = None
    """What is less sure is left out."""
    iou_threshold: Share | None = None
    """Two boxes that overlap more are one object."""
    class_agnostic_nms: bool | None = None
    """Boxes of different classes that overlap are one object too."""
    max_candidates: Count | None = None
    max_detections: Count | None = None
    tracker: Tracker | None = None
    """Gives objects an id from frame to frame."""
    sampling: SamplingRequest | None = None
    """Frames that are kept for labelling. Null: none."""
    device: Name | None = None
    """Run it there and nowhere else. Null: where most room is."""
    selector: LabelTable = {}
    """Only on devices with these labels."""
    labels: LabelTable = {}
    """To find it by."""
    paused: bool = False


class NewPipelineRequest(PipelineRequest):
    """A pipeline, with its id or without."""

    id: Name | None = None
    """Null: the api makes one."""


class PipelinePatch(Body):
    """What to change of a pipeline, as in a JSON merge patch (RFC 7396).

    Null puts the default back, lists and `sampling` are replaced whole, the keys of `selector` and `labels`
    are changed one by one. A source that is given back as it was shown keeps the credentials that were not
    shown.
    """

    model_config = _example(confidence=0.6, max_fps=None, labels={"line": "4"})

    model: ModelName | None = None
    sources: Sources | None = None
    sinks: Sinks | None = None
    max_fps: Fps | None = None
    confidence: Share | None = None
    iou_threshold: Share | None = None
    class_agnostic_nms: bool | None = None
    max_candidates: Count | None = None
    max_detections: Count | None = None
    tracker: Tracker | None = None
    sampling: SamplingRequest | None = None
    device: Name | None = None
    selector: LabelChanges | None = None
    labels: LabelChanges | None = None
    paused: bool | None = None


class PipelineQuery(Body):
    """Which pipelines."""

    selector: Annotated[str, Field(max_length=4096)] | None = None
    """Labels, separated by commas: `site=hall-1` has this value, `line` has any."""
    status: PipelineStatus | None = None
    device: Name | None = None
    """The device that it is on."""


class DeviceQuery(Body):
    """Which devices."""

    selector: Annotated[str, Field(max_length=4096)] | None = None
    """Labels, separated by commas: `site=hall-1` has this value, `line` has any."""
    state: DeviceState | None = None


class DeviceRequest(Body):
    """A device that may join."""

    model_config = _example(name="cam-7", ttl=900)

    name: Name
    ttl: Annotated[float, Field(gt=0, le=30 * 86_400)] = 900.0
    """Seconds for which its token is good."""


class DevicePatch(Body):
    """What to change of a device, as in a JSON merge patch: a label of null is taken away."""

    model_config = _example(labels={"site": "hall-1", "old": None})

    labels: LabelChanges | None = None


class SubscriberRequest(Body):
    """A program that subscribes over TCP."""

    model_config = _example(name="wall")

    name: Name
    device: Name | None = None
    """Subscribe to this device itself. Null: through the broker."""


class ModelRequest(Body):
    """A model of a blob that is here."""

    weights: Digest
    """The sha256 of the ONNX file, which was put as a blob before."""
    family: Family | None = None
    """Null: told by the file."""
    labels: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=MAX_CLASSES)] | None = (
        None
    )
    """The names of the classes. Null: those that the file has."""
    replace: bool = False
    """An id that stands for other content already is refused without."""
