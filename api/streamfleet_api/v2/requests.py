"""Request bodies and queries of `/v2`.

Strict: nothing is coerced, unknown keys are refused, and everything is bounded.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from streamfleet_api.sampling_presets import in_our_words
from streamfleet_core.protocol import sampling
from streamfleet_core.protocol.hosts import host_of
from streamfleet_core.protocol.limits import (
    BOARD_PATTERN,
    ID_PATTERN,
    LABEL_VALUE_PATTERN,
    MAX_APPLIED,
    MAX_BATCH,
    MAX_CLASS_NAME,
    MAX_CORNERS,
    MAX_DEVICE_INDEX,
    MAX_FINITE,
    MAX_FORCE_AFTER,
    MAX_FPS,
    MAX_GIVEN_CLASSES,
    MAX_GRANTED,
    MAX_ISOLATION,
    MAX_KEEP_AGE,
    MAX_KEEP_SIZE,
    MAX_LABELS,
    MAX_OBJECTS,
    MAX_OBSERVATION,
    MAX_PIXELS,
    MAX_PORT,
    MAX_PROPERTIES,
    MAX_QUALITY,
    MAX_REFERENCE,
    MAX_ROLLED_OUT,
    MAX_SAMPLE_LIMITS,
    MAX_SAMPLES,
    MAX_SELECTED_CLASSES,
    MAX_SELECTOR,
    MAX_SINKS,
    MAX_SOURCES,
    MAX_SPEEDUP,
    MAX_STAGE_DELAY,
    MAX_STAGE_OBJECTS,
    MAX_STAGES,
    MAX_STILL,
    MAX_STRATEGIES,
    MAX_TAGS,
    MAX_TOKEN_TTL,
    MIN_CORNERS,
    MIN_PIXELS,
    MODEL_ID_PATTERN,
    PICTURES_PATTERN,
    PRECISION_PATTERN,
    PROPERTY_PATTERN,
    PROVIDER_PATTERN,
    REFERENCE_PATTERN,
    SHA256_PATTERN,
    SHORT_TEXT_PATTERN,
    TYPED_HOST_PATTERN,
    schema_pattern,
)
from streamfleet_core.protocol.messages import DrillFault
from streamfleet_core.protocol.requests import DeviceState, PipelineStatus
from streamfleet_core.protocol.source_reference import WHOLE, expected_instead, is_cut, reference_of
from streamfleet_core.protocol.tasks.optimisation import LEAST_AGREEMENT, LEAST_FRAMES, MOST_FRAMES
from streamfleet_core.protocol.values import (
    Consumption,
    DecoderChoice,
    Family,
    Filling,
    MaskFormat,
    Mode,
    OnDisconnect,
    Priority,
    Tracker,
)

MAX_COMMANDED = 10_000  # pipelines per request
_ID = schema_pattern(ID_PATTERN)
_LABEL_VALUE = schema_pattern(LABEL_VALUE_PATTERN)
_PROPERTY = schema_pattern(PROPERTY_PATTERN)

T = TypeVar("T")
Word = Literal["pause", "resume", "restart", "terminate"]


class Body(BaseModel):
    """The common base of all request bodies."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        defer_build=True,  # at the first use: all together would delay the start of the api
    )


def _example(**example: Any) -> ConfigDict:
    """The first example in the documentation."""
    return ConfigDict(json_schema_extra={"examples": [example]})


def _table(key: str, value: dict[str, Any], limit: int) -> WithJsonSchema:
    """The schema of an object whose keys have a pattern, which pydantic leaves open to all other keys."""
    names = {"pattern": key}
    return WithJsonSchema(
        {"type": "object", "propertyNames": names, "additionalProperties": value, "maxProperties": limit}
    )


Name = Annotated[str, Field(pattern=_ID)]
ModelName = Annotated[str, Field(pattern=schema_pattern(MODEL_ID_PATTERN))]
Digest = Annotated[str, Field(pattern=schema_pattern(SHA256_PATTERN))]
LabelValue = Annotated[str, Field(pattern=_LABEL_VALUE)]
LabelTable = Annotated[
    dict[Name, LabelValue],
    Field(max_length=MAX_LABELS),
    _table(_ID, {"type": "string", "pattern": _LABEL_VALUE}, MAX_LABELS),
]
LabelChanges = Annotated[
    dict[Name, LabelValue | None],
    Field(max_length=MAX_LABELS),
    _table(_ID, {"type": ["string", "null"], "pattern": _LABEL_VALUE}, MAX_LABELS),
]
Properties = Annotated[
    dict[Annotated[str, Field(pattern=_PROPERTY)], Annotated[float, Field(ge=-MAX_FINITE, le=MAX_FINITE)]],
    Field(max_length=MAX_PROPERTIES),
    _table(_PROPERTY, {"type": "number", "minimum": -MAX_FINITE, "maximum": MAX_FINITE}, MAX_PROPERTIES),
]
Fps = Annotated[float, Field(gt=0, le=MAX_FPS)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=MAX_OBJECTS)]
Port = Annotated[int, Field(ge=1, le=MAX_PORT)]


def _kind(value: object) -> str | None:
    """The form of a source, so that errors concern only this form."""
    if isinstance(value, str):
        return "address"
    if isinstance(value, int) and not isinstance(value, bool):
        return "index"
    return "source" if isinstance(value, dict | Body) else None


def _playable(reference: str) -> str:
    """Refuse a reference that no device can open."""
    expected = expected_instead(reference)
    if expected:
        raise PydanticCustomError("source_reference", "Input should be {expected}", {"expected": expected})
    return reference


def _meant(value: Any) -> Any:
    """Convert a text that names a camera."""
    return reference_of(value) if isinstance(value, str) else value


def _host(given: str) -> str:
    try:
        return host_of(given)
    except ValueError as exc:
        raise PydanticCustomError("sink_host", "{problem}", {"problem": str(exc)}) from exc


Address = Annotated[
    str,
    Field(min_length=1, max_length=MAX_REFERENCE, pattern=schema_pattern(REFERENCE_PATTERN)),
    AfterValidator(_playable),
]
CameraIndex = Annotated[int, Field(ge=0, le=MAX_DEVICE_INDEX)]
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
    BeforeValidator(_meant),
]


ClassNames = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_CLASS_NAME)]],
    Field(min_length=1, max_length=MAX_SELECTED_CLASSES),
]


def _with_area(corners: list[list[float]]) -> list[list[float]]:
    (x, y), *others = corners
    sides = [(right - x, down - y) for right, down in others]
    if all(a * d == b * c for a, b in sides for c, d in sides):
        text = "Input should be the corners of an area, not of a line"
        raise PydanticCustomError("region", text)
    return corners


Corner = Annotated[list[Share], Field(min_length=2, max_length=2)]
Region = Annotated[
    list[Corner], Field(min_length=MIN_CORNERS, max_length=MAX_CORNERS), AfterValidator(_with_area)
]


class MotionRequest(Body):
    """Which frames of a source count as still, and are not inferred."""

    model_config = _example(sensitivity=0.5, max_still=10)

    sensitivity: Share = 0.5
    """1: faint changes are motion too; 0: only strong ones."""
    max_still: Annotated[float, Field(gt=0, le=MAX_STILL)] = 10.0
    """Seconds, after which a frame is inferred without any motion."""


class SourceRequest(Body):
    """A video source and how frames are taken from it."""

    reference: Reference
    """A file on the device, a URL, the index of a camera, `TestPatternStreamProducer`, or `scene://…`.

    `"0"` and `webcam` are the camera 0. In a URL, the user and the password are percent-encoded.
    """
    mode: Mode | None = None
    """`file`: every frame once; `live`: the newest frame, with reconnects. Null: depends on the source."""
    max_fps: Fps | None = None
    """Maximum frames per second. Null: as the pipeline."""
    properties: Properties = {}
    """OpenCV's `CAP_PROP_…` by their names in lower case without the prefix, as `frame_width`.

    `n_threads`: decoder threads of a URL or a file; each one after the first adds a frame of delay.
    """
    filling: Filling | None = None
    """The strategy when the frame buffer is full. Null: depends on the source."""
    consumption: Consumption | None = None
    """`LAZY`: the oldest frame next; `EAGER`: the newest. Null: depends on the source."""
    decoder: DecoderChoice | None = None
    """What decodes H.264, H.265 and AV1. Null: as the worker's `--decoder` says.

    `nv`: NVIDIA's hardware; `va`: hardware with VA-API; `auto`: hardware where there is some. Each falls back
    to `software`, and the status says why. `gst`: GStreamer's software decoder, to test the path.
    """
    classes: ClassNames | None = None
    """Keep only the objects of these classes, by the names that the model has. Null: all."""
    region: Region | None = None
    """Keep only the objects with the center of their box in this polygon. Null: all.

    Its corners are `[x, y]` from 0 to 1, as parts of the width and the height, from the top left.
    """
    motion: MotionRequest | None = None
    """Infer only frames with motion in the region. Null: all."""


AnySource = Annotated[
    Annotated[Address, Tag("address")]
    | Annotated[CameraIndex, Tag("index")]
    | Annotated[SourceRequest, Tag("source")],
    Discriminator(_kind, **_NO_SOURCE),
    BeforeValidator(_meant),
]


Host = Annotated[str, Field(pattern=schema_pattern(TYPED_HOST_PATTERN)), AfterValidator(_host)]


class SinkRequest(Body):
    """A UDP receiver. The device sends it one datagram per prediction."""

    type: Literal["udp"] = "udp"
    host: Host
    """A name, or an address: `10.0.0.9`, `::1`, `[::1]`, `fe80::1%eth0`."""
    port: Port


class SamplingLimit(Body):
    """Maximum number of samples per minute, hour or day (UTC), also across restarts."""

    type: sampling.Window
    value: Annotated[int, Field(ge=1, le=MAX_SAMPLES)]


def _distinct_types(limits: list[SamplingLimit]) -> list[SamplingLimit]:
    return _checked(limits, sampling.duplicate_problem("limit", [limit.type for limit in limits]))


def _checked(value: T, problem: str) -> T:
    if problem:
        raise PydanticCustomError("sampling", "{problem}", {"problem": problem})
    return value


Text = Annotated[str, Field(pattern=schema_pattern(SHORT_TEXT_PATTERN))]
TagList = Annotated[list[Text], Field(max_length=MAX_TAGS)]
Number = Annotated[int, Field(ge=0, le=MAX_OBJECTS)]


class _Strategy(Body):
    """The common base of all strategies."""

    name: Text
    """Unique within the pipeline; the limits are counted under it."""
    limits: Annotated[
        list[SamplingLimit], Field(max_length=MAX_SAMPLE_LIMITS), AfterValidator(_distinct_types)
    ] = []
    tags: TagList = []


class RandomStrategy(_Strategy):
    """Any frame."""

    type: Literal["random"]
    traffic_percentage: Share
    """From 0 to 1; the name is Roboflow's."""


class CloseToThresholdStrategy(_Strategy):
    """Frames with uncertain predictions."""

    type: Literal["close_to_threshold"]
    threshold: Share
    epsilon: Share
    """An object counts whose confidence is less than this away from the threshold."""
    probability: Share = 1.0
    selected_class_names: ClassNames | None = None
    """Null: all."""
    only_top_classes: bool = True
    """For classifications; without effect on objects, which have one class each."""
    minimum_objects_close_to_threshold: Count = 1


class ClassesBasedStrategy(_Strategy):
    """Frames with an object of one of these classes."""

    type: Literal["classes_based"]
    selected_class_names: ClassNames
    probability: Share = 1.0


class DetectionsNumberBasedStrategy(_Strategy):
    """Frames with more than `more_than` and fewer than `less_than` objects."""

    type: Literal["detections_number_based"]
    more_than: Number | None = None
    less_than: Number | None = None
    selected_class_names: ClassNames | None = None
    """Null: all."""
    probability: Share = 1.0

    @model_validator(mode="after")
    def _has_a_range(self) -> DetectionsNumberBasedStrategy:
        return _checked(self, sampling.range_problem(self.more_than, self.less_than))


AnyStrategy = Annotated[
    RandomStrategy | CloseToThresholdStrategy | ClassesBasedStrategy | DetectionsNumberBasedStrategy,
    Field(discriminator="type"),
]


def _distinct_names(strategies: list[AnyStrategy]) -> list[AnyStrategy]:
    return _checked(
        strategies, sampling.duplicate_problem("strategy", [strategy.name for strategy in strategies])
    )


class SamplingBatches(Body):
    """The batches that group samples for labelling."""

    batches_name_prefix: Text = "samples"
    recreation_interval: sampling.Interval = "never"
    """In UTC; the first day of a batch is added to its name. Weeks start on Monday."""
    max_batch_images: Annotated[int, Field(ge=1, le=MAX_BATCH)] | None = None
    """Null: any number."""


Side = Annotated[int, Field(ge=MIN_PIXELS, le=MAX_PIXELS)]


class SamplingRequest(Body):
    """The frames to keep for labelling, and their format.

    The first strategy that matches a frame, and is under all of its limits, takes it.
    The words of Roboflow's active learning are taken too: `sampling_strategies`, `batching_strategy`,
    `target_project` for the dataset, and `enabled`, of which false keeps nothing.
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
        Field(min_length=1, max_length=MAX_STRATEGIES),
        AfterValidator(_distinct_names),
    ]
    batching: SamplingBatches = SamplingBatches()
    max_image_size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    """Maximum height and width in pixels. Null: the original size."""
    jpeg_compression_level: Annotated[int, Field(ge=1, le=MAX_QUALITY)] = 95
    """The JPEG quality; the name is Roboflow's."""
    tags: TagList = []
    """Tags of every sample, before those of its strategy."""
    persist_predictions: bool = True
    """Keep the predictions with the image."""


Sources = Annotated[list[AnySource], Field(min_length=1, max_length=MAX_SOURCES)]


def _whole(sources: list[Any]) -> list[Any]:
    for source in sources:
        if is_cut(source.reference if isinstance(source, SourceRequest) else source):
            raise PydanticCustomError("source_reference", "Input should be {expected}", {"expected": WHOLE})
    return sources


Sinks = Annotated[list[SinkRequest], Field(max_length=MAX_SINKS)]


class StageRequest(Body):
    """A further model, which runs on the objects that the first one has found, each cut out of the frame.

    Its results are under `stages` and this name in the prediction of the object.
    """

    model_config = _example(name="text", model="plate-text/1", classes=["plate"], margin=0.1)

    name: Name
    model: ModelName
    """As in `GET /v2/models`."""
    classes: ClassNames | None = None
    """Only objects of these classes of the first model. Null: all."""
    max_objects: Annotated[int, Field(ge=1, le=MAX_STAGE_OBJECTS)] = 8
    """Of a frame, the most confident first."""
    margin: Share = 0.0
    """Added to each side of an object, in parts of its width and height."""
    max_delay: Annotated[float, Field(gt=0, le=MAX_STAGE_DELAY)] = 0.5
    """Seconds that a live frame waits for it. Later results are dropped, and counted as `late`."""
    confidence: Share | None = None
    """Minimum confidence of its detections. Null: the device's default."""
    max_detections: Count = 32
    """Of an object."""


class KeepRequest(Body):
    """What a device keeps of a pipeline's predictions, for subscribers that missed them.

    The device's own limit for all pipelines together holds in any case: the oldest go first.
    """

    model_config = _example(age=86400, size=268435456)

    age: Annotated[float, Field(ge=0, le=MAX_KEEP_AGE)] | None = None
    """Seconds. 0: nothing is kept. Null: as of others (`--keep-age` of the device)."""
    size: Annotated[int, Field(ge=0, le=MAX_KEEP_SIZE)] | None = None
    """Bytes. 0: nothing is kept. Null: as much as the device has room for."""


def _distinct_stages(stages: list[StageRequest]) -> list[StageRequest]:
    return _checked(stages, sampling.duplicate_problem("stage", [stage.name for stage in stages]))


Stages = Annotated[list[StageRequest], Field(max_length=MAX_STAGES), AfterValidator(_distinct_stages)]


def _usable(tracker: Any) -> Any:
    reason = _UNUSABLE.get(tracker) if isinstance(tracker, str) else None
    if reason is None:
        return tracker
    raise PydanticCustomError(
        "tracker", "Input should be another tracker: {name} {reason}", {"name": tracker, "reason": reason}
    )


# Trackers of the package `trackers` that no device can run.
_UNUSABLE = {"mcbyte": "follows masks with a neural network of its own, which needs torch"}
UsableTracker = Annotated[Tracker, BeforeValidator(_usable)]


class PipelineRequest(Body):
    """The desired pipeline: a model, sources and sinks. Null means the default of the device."""

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
    sources: Annotated[Sources, AfterValidator(_whole)]
    sinks: Sinks = []
    max_fps: Fps | None = None
    """Maximum frames per second and source. Null: all."""
    confidence: Share | None = None
    """Minimum confidence of a detection."""
    iou_threshold: Share | None = None
    """Boxes that overlap more than this are merged."""
    class_agnostic_nms: bool | None = None
    """Merge overlapping boxes of different classes too."""
    max_candidates: Count | None = None
    max_detections: Count | None = None
    tracker: UsableTracker | None = None
    """The tracker that gives objects an id across frames. Null: none."""
    sampling: Annotated[SamplingRequest | None, BeforeValidator(in_our_words)] = None
    """Sampling of frames for labelling. Null: none."""
    priority: Priority = "normal"
    """Whose frames a busy device infers first."""
    mask_format: MaskFormat = "polygon"
    """How predictions have masks: as outlines in `points`, or exactly in `rle`, COCO's run lengths."""
    stages: Stages = []
    """Further models, which run on the objects that this one has found."""
    keep: KeepRequest | None = None
    """How long and how many of its predictions a device keeps. Null: as of others."""
    device: Name | None = None
    """The device that must run it. Null: the device with most free capacity."""
    selector: LabelTable = {}
    """Only on devices with these labels."""
    labels: LabelTable = {}
    """Labels for selectors."""
    on_disconnect: OnDisconnect | None = None
    """What it does on a device that has lost the broker: `stop` within 8 s, so that another device may run
    it, or `continue`, and it never moves. Null: `continue` with a named device, a file or a local camera,
    otherwise `stop`."""
    paused: bool = False


class NewPipelineRequest(PipelineRequest):
    """A pipeline with an optional id."""

    id: Name | None = None
    """Null: the api generates one."""


class PlanRequest(Body):
    """Pipelines to be placed on the devices as they are now."""

    pipelines: list[NewPipelineRequest] = Field(min_length=1, max_length=MAX_APPLIED)


class PipelinePatch(Body):
    """Changes of a pipeline, as a JSON merge patch (RFC 7396).

    Null puts the default back, lists, `sampling` and `keep` are replaced whole, the keys of `selector` and
    `labels` are changed one by one. A source that is given back as it was shown keeps the credentials that
    were not shown.
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
    tracker: UsableTracker | None = None
    sampling: Annotated[SamplingRequest | None, BeforeValidator(in_our_words)] = None
    priority: Priority | None = None
    mask_format: MaskFormat | None = None
    stages: Stages | None = None
    keep: KeepRequest | None = None
    device: Name | None = None
    selector: LabelChanges | None = None
    labels: LabelChanges | None = None
    on_disconnect: OnDisconnect | None = None
    paused: bool | None = None


Limit = Annotated[int, Field(ge=1, le=1000, strict=False)]  # of a query, where all is text
Fields = Annotated[str, Field(min_length=1, max_length=500)]


class PipelineQuery(Body):
    """A filter of pipelines."""

    selector: Annotated[str, Field(max_length=MAX_SELECTOR)] | None = None
    """Labels, separated by commas: `site=hall-1` has this value, `line` has any."""
    status: PipelineStatus | None = None
    device: Name | None = None
    """The device that runs it."""
    limit: Limit | None = None
    """The most pipelines of a page. Without it, all are listed."""
    after: Annotated[str, Field(pattern=r"^[0-9]{1,15}$")] | None = None
    """`next` of the page before."""
    fields: Fields | None = None
    """The fields of each pipeline to return, separated by commas."""


class CommandRequest(Body):
    """One command for many pipelines: those with these ids, or those with these labels."""

    model_config = _example(command="pause", selector="site=hall-1")

    command: Word
    ids: Annotated[list[Name], Field(min_length=1, max_length=MAX_COMMANDED)] | None = None
    selector: Annotated[str, Field(min_length=1, max_length=MAX_SELECTOR)] | None = None
    """Labels, separated by commas: `site=hall-1` has this value, `line` has any."""

    @model_validator(mode="after")
    def _names_some(self) -> CommandRequest:
        if (self.ids is None) == (self.selector is None):
            raise PydanticCustomError("one_of", "Input should have `ids` or `selector`, one of both")
        return self


class DeviceQuery(Body):
    """A filter of devices."""

    selector: Annotated[str, Field(max_length=MAX_SELECTOR)] | None = None
    """Labels, separated by commas: `site=hall-1` has this value, `line` has any."""
    state: DeviceState | None = None
    limit: Limit | None = None
    """The most devices of a page. Without it, all are listed."""
    after: Name | None = None
    """`next` of the page before."""
    fields: Fields | None = None
    """The fields of each device to return, separated by commas."""


class DeviceRequest(Body):
    """A new device."""

    model_config = _example(name="cam-7", ttl=900)

    name: Name
    ttl: Annotated[float, Field(gt=0, le=MAX_TOKEN_TTL)] = 900.0
    """Seconds for which its token is valid."""


class DevicePatch(Body):
    """Changes of a device, as a JSON merge patch: a label of null is removed."""

    model_config = _example(labels={"site": "hall-1", "old": None})

    labels: LabelChanges | None = None


class DrillRequest(Body):
    """A fault that a device causes on purpose."""

    model_config = _example(fault="isolate", seconds=20)

    fault: DrillFault
    """The process to kill: `camera`, `engine` or `publisher`; `isolate` keeps it from the broker."""
    pipeline: Name | None = None
    """The pipeline whose camera is killed. Null: any."""
    seconds: Annotated[float, Field(ge=0, le=MAX_ISOLATION)] = 0.0
    """How long the device is isolated."""


class DrainRequest(Body):
    """How long a drain waits."""

    model_config = _example(force_after=600.0)

    force_after: Annotated[float, Field(ge=0, le=MAX_FORCE_AFTER)] | None = None
    """Seconds after which nothing is waited for any more: files begin again on other devices, and pipelines
    move although no device got ready for them. Null: never."""


class RebalanceRequest(Body):
    """Whether pipelines move, or only a plan is wanted."""

    model_config = _example(dry_run=True)

    dry_run: bool = False
    """Only say what would move."""


class SubscriberRequest(Body):
    """A program that subscribes over TCP."""

    model_config = _example(name="wall")

    name: Name
    device: Name | None = None
    """Subscribe to this device itself. Null: through the broker."""
    pipelines: Annotated[list[Name], Field(max_length=MAX_GRANTED)] = []
    """Pipelines that it may receive, in addition to selected ones. With neither it receives all."""
    selector: LabelTable = {}
    """Labels of the pipelines that it may receive, evaluated continuously."""


Observation = Annotated[float, Field(gt=0, le=MAX_OBSERVATION)]
Part = Annotated[float, Field(gt=0, le=1)]


class RolloutRequest(Body):
    """Pipelines that move to another model in waves, and back if it is worse."""

    model_config = _example(
        model="parts/1", to="parts/2", canary=0.05, max_unavailable=5, dataset="differing"
    )

    id: Name | None = None
    """Its name. Null: one is made. The same request again changes nothing."""
    model: ModelName
    """All pipelines that use this model move."""
    to: ModelName
    """The model that they get."""
    selector: LabelTable = {}
    """Only pipelines with these labels."""
    canary: Part = 0.05
    """The share of the pipelines that go first, on as many devices as possible."""
    max_unavailable: Annotated[int, Field(ge=1, le=MAX_ROLLED_OUT)] = 5
    """Pipelines that may be down, or not proven yet, at the same time."""
    observe: Observation = 30.0
    """Seconds for which each pipeline is measured, with either model."""
    shadow: Annotated[float, Field(ge=0, le=MAX_OBSERVATION)] = 30.0
    """Seconds for which the new model infers some frames of the first pipelines beside the old one, before it
    is used. What it finds is published nowhere. 0: not at all."""
    start: Observation = 120.0
    """Seconds until a pipeline must run with the new model."""
    min_objects: Share = 0.5
    """Objects a frame that it must find, of those that the old model found."""
    min_agreement: Share = 0.5
    """The share of the old model's objects that it must find in the same frames, as a shadow."""
    max_latency: Annotated[float, Field(ge=1, le=1000)] = 2.0
    """Latency that it may have, times that of the old model (and 50 ms)."""
    min_fps: Share = 0.7
    """Frames per second that it must give, of those with the old model."""
    share: Part = 0.25
    """The share of the frames that the shadow infers, at most."""
    dataset: Name | None = None
    """Frames in which both models differ become samples of this dataset, within limits. Null: none do."""


class RolloutCancelQuery(Body):
    """How a roll-out ends."""

    keep: Literal["true", "false"] = "false"
    """Each pipeline keeps the model that it has. Otherwise all go back to the old one."""


class ModelRemovalQuery(Body):
    """Options of the removal of a model."""

    force: Literal["true", "false"] = "false"
    """Required for a model that pipelines use."""


class ModelRequest(Body):
    """A model made of an uploaded blob."""

    weights: Digest
    """The sha256 of the ONNX file, which must be uploaded as a blob first."""
    family: Family | None = None
    """Null: detected from the file."""
    labels: (
        Annotated[list[Annotated[str, Field(max_length=MAX_CLASS_NAME)]], Field(max_length=MAX_GIVEN_CLASSES)]
        | None
    ) = None
    """The names of the classes. Null: those in the file."""
    replace: bool = False
    """Required to replace different content under an existing id."""


class VariantRequest(Body):
    """Another file of a registered model, for one kind of board."""

    weights: Digest
    """The sha256 of the ONNX file, an uploaded blob. Its inputs and outputs are the model's."""
    board: Annotated[str, Field(pattern=schema_pattern(BOARD_PATTERN))]
    """The kind of board, as devices report it. It replaces a variant for the same board."""
    provider: Annotated[str, Field(pattern=schema_pattern(PROVIDER_PATTERN))]
    """What must run it, as ONNX Runtime names it. On a device where models run on another, it is not used."""
    precision: Annotated[str, Field(pattern=schema_pattern(PRECISION_PATTERN))]
    """Its name for people, as `int8`."""
    speedup: Annotated[float, Field(gt=0, le=MAX_SPEEDUP)]
    """The time of one inference of the model, divided by that of the variant, as measured on the board."""
    agreement: Annotated[float, Field(ge=0, le=1)]
    """The share of boxes that both find, with the same class, on pictures it was not calibrated with."""


def _decimal(text: object) -> object:
    """Convert a plain number in a query; any other text stays text, and is refused by the validation."""
    return float(text) if isinstance(text, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else text


class VariantQuery(VariantRequest):
    """A variant that a device was asked to build, with the figures that it has measured."""

    speedup: Annotated[float, BeforeValidator(_decimal), Field(gt=0, le=MAX_SPEEDUP)]
    """As in the request of an operator."""
    agreement: Annotated[float, BeforeValidator(_decimal), Field(ge=0, le=1)]
    """As in the request of an operator."""


class OptimisationRequest(Body):
    """Variants of a model that a device is to build for boards of its kind."""

    model_id: ModelName
    device: Name
    pictures: Annotated[str, Field(pattern=schema_pattern(f"{PICTURES_PATTERN}?"))] = ""
    """`blob:SHA256` of an uploaded film or ZIP archive of pictures, or `scene://conveyor/NUMBER`. Empty:
    samples that the device has kept for pipelines that use the model."""
    frames: Annotated[int, Field(ge=LEAST_FRAMES, le=MOST_FRAMES)] = 64
    """Pictures to build with, and as many others to compare on."""
    agreement: Annotated[float, Field(ge=0, le=1)] = LEAST_AGREEMENT
    """The minimum agreement of a variant with the model."""
    dry_run: bool = False
    """Only measure: the device uploads nothing."""
