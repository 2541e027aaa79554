"""The values that processes exchange: desired pipelines, observed pipelines, models.

Every value is frozen, and validated against its types when it is decoded, so that no other code validates it.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgpack
import msgspec
from msgspec import Meta

from streamfleet_core.protocol.limits import (
    BOARD_PATTERN,
    HOST_PATTERN,
    ID_PATTERN,
    LABEL_VALUE_PATTERN,
    MAX_CLASS_NAME,
    MAX_CLASSES,
    MAX_CORNERS,
    MAX_DEVICE_INDEX,
    MAX_FINITE,
    MAX_FPS,
    MAX_INPUT_SIDE,
    MAX_KEEP_AGE,
    MAX_KEEP_SIZE,
    MAX_KEYPOINTS,
    MAX_LABELS,
    MAX_OBJECTS,
    MAX_OBSERVED,
    MAX_OUTPUTS,
    MAX_PORT,
    MAX_PROPERTIES,
    MAX_REASON,
    MAX_REFERENCE,
    MAX_SELECTED_CLASSES,
    MAX_SINKS,
    MAX_SOURCES,
    MAX_SPEEDUP,
    MAX_STAGE_DELAY,
    MAX_STAGE_OBJECTS,
    MAX_STAGES,
    MAX_STILL,
    MAX_TENSOR_NAME,
    MAX_VARIANTS,
    MIN_CORNERS,
    MODEL_ID_PATTERN,
    PRECISION_PATTERN,
    PROPERTY_PATTERN,
    PROVIDER_PATTERN,
    REFERENCE_PATTERN,
    SHA256_PATTERN,
    whole,
)
from streamfleet_core.protocol.sampling import Sampling

# An id is never joined to a path and never parsed. (S20)
Id = Annotated[str, Meta(pattern=whole(ID_PATTERN))]
ModelId = Annotated[str, Meta(pattern=whole(MODEL_ID_PATTERN))]
Sha256 = Annotated[str, Meta(pattern=whole(SHA256_PATTERN))]
Fingerprint = Annotated[str, Meta(pattern=whole(f"({SHA256_PATTERN})?"))]  # sha256 of a certificate
Board = Annotated[str, Meta(pattern=whole(BOARD_PATTERN))]
Provider = Annotated[str, Meta(pattern=whole(PROVIDER_PATTERN))]
Precision = Annotated[str, Meta(pattern=whole(PRECISION_PATTERN))]
# A CURVE key in the Z85 text of ZeroMQ RFC 32.
Reason = Annotated[str, Meta(max_length=MAX_REASON)]
TensorName = Annotated[str, Meta(min_length=1, max_length=MAX_TENSOR_NAME)]
CurveKey = Annotated[str, Meta(pattern=r"\A[ -~]{40}\Z")]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# The address of a source, see `source_reference`.
Reference = (
    Annotated[str, Meta(min_length=1, max_length=MAX_REFERENCE, pattern=whole(REFERENCE_PATTERN))]
    | Annotated[int, Meta(ge=0, le=MAX_DEVICE_INDEX)]
)
# Without NaN and infinity, which JSON does not allow: one of them would make the whole document invalid.
Finite = Annotated[float, Meta(ge=-MAX_FINITE, le=MAX_FINITE)]
Properties = Annotated[
    dict[Annotated[str, Meta(pattern=whole(PROPERTY_PATTERN))], Finite], Meta(max_length=MAX_PROPERTIES)
]
Port = Annotated[int, Meta(ge=1, le=MAX_PORT)]
Rate = Annotated[float, Meta(gt=0, le=MAX_FPS)]  # per second
Fraction = Annotated[float, Meta(ge=0, le=1)]
ClassName = Annotated[str, Meta(min_length=1, max_length=MAX_CLASS_NAME)]
ClassNames = Annotated[tuple[ClassName, ...], Meta(min_length=1, max_length=MAX_SELECTED_CLASSES)]
# The corners of a polygon, as parts of the width and the height of the upright frame, from its top left.
Region = Annotated[
    tuple[tuple[Fraction, Fraction], ...], Meta(min_length=MIN_CORNERS, max_length=MAX_CORNERS)
]
ObjectCount = Annotated[int, Meta(ge=1, le=MAX_OBJECTS)]
# Labels of pipelines and devices. A selector is a set of labels that must all match.
LabelKey = Id
LabelValue = Annotated[str, Meta(pattern=whole(LABEL_VALUE_PATTERN))]
Labels = Annotated[dict[LabelKey, LabelValue], Meta(max_length=MAX_LABELS)]

DesiredStatus = Literal["run", "pause", "stop"]
OnDisconnect = Literal["stop", "continue"]
ON_DISCONNECT: tuple[OnDisconnect, ...] = get_args(OnDisconnect)
# Without pictures and networks: ours for `bytetrack`, the others as the package `trackers` has them.
Tracker = Literal["bytetrack", "sort", "ocsort", "botsort", "cbiou"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)
# The input and output format of a model. `streamfleet_worker.families` has an adapter for each.
Family = Literal[
    "ultralytics",
    "end2end",
    "yolov5",
    "yolox",
    "yolox-decoded",
    "rtdetr",
    "rtdetr-topk",
    "detr",
    "detr-deploy",
    "rfdetr",
]
# What a model finds: boxes, masks, oriented boxes, boxes with key points, or the class of the whole picture.
Task = Literal["detect", "segment", "obb", "pose", "classify"]
Mode = Literal["live", "file"]
# What a source does with a new frame when its buffer is full, in Roboflow's words.
Filling = Literal["WAIT", "DROP_OLDEST", "ADAPTIVE_DROP_OLDEST", "DROP_LATEST", "ADAPTIVE_DROP_LATEST"]
# Which frame is taken next: the oldest, or the newest, in which case the others are dropped.
Consumption = Literal["LAZY", "EAGER"]
# What decodes H.264, H.265 and AV1: hardware of NVIDIA, hardware with VA-API, or GStreamer's decoder in
# software, to test its path. auto: hardware where there is some.
DecoderChoice = Literal["auto", "software", "nv", "va", "gst"]
# Whose frames a busy device infers first.
Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)  # the highest first
# How predictions have masks: as the outline of the largest part, or exactly, in COCO's run lengths.
MaskFormat = Literal["polygon", "rle"]
MASK_FORMATS: tuple[MaskFormat, ...] = get_args(MaskFormat)

T = TypeVar("T")


class ObservedState(str, enum.Enum):
    """The state of one pipeline on its device.

    starting → running ⇄ paused, running → reconnecting → running, any → crashed → backoff → starting,
    any → stopping → (gone from the list), running → ended, starting → failed.
    """

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    RECONNECTING = "reconnecting"
    CRASHED = "crashed"
    BACKOFF = "backoff"
    FAILED = "failed"  # retrying does not help: the reason says what to do
    STOPPING = "stopping"
    ENDED = "ended"  # end of file: durable for the pipeline's `run_generation`


_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def is_public_key(text: str) -> bool:
    """Whether 40 characters are a possible CURVE public key: 32 bytes, not all of them zero."""
    digits = [_Z85.find(sign) for sign in text]
    if -1 in digits or not any(digits):
        return False
    # Five digits in base 85 are four bytes (ZeroMQ RFC 32).
    groups = (digits[start : start + 5] for start in range(0, len(digits), 5))
    return all(sum(digit * 85 ** (4 - at) for at, digit in enumerate(group)) < 2**32 for group in groups)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair in Z85."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Weights:
    """A model file, identified by its content."""

    sha256: Sha256
    size: Annotated[int, Meta(ge=1)]  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Another file of the same model, which was built and measured for one kind of board."""

    board: Board  # as the devices of this kind report it
    provider: Provider  # what must run it, as ONNX Runtime names it
    precision: Precision
    weights: Weights
    speedup: Annotated[float, Meta(gt=0, le=MAX_SPEEDUP)]  # the float model's time divided by its own
    agreement: Fraction  # with the float model, on frames that it was not calibrated with


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The description of a model that a device needs to run it.

    It is a separate blob, named by its sha256.
    """

    family: Family
    labels: Annotated[tuple[str, ...], Meta(max_length=MAX_CLASSES)]
    input_width: Annotated[int, Meta(ge=1, le=MAX_INPUT_SIDE)]  # pixels
    input_height: Annotated[int, Meta(ge=1, le=MAX_INPUT_SIDE)]  # pixels
    weights: Weights
    task: Task = "detect"
    # The outputs that the family reads, in its order. None: the first one.
    outputs: Annotated[tuple[TensorName, ...], Meta(max_length=MAX_OUTPUTS)] = ()
    # Of a model that finds key points: their names.
    keypoints: Annotated[tuple[str, ...], Meta(max_length=MAX_KEYPOINTS)] = ()
    # One for each board at most. A device with another board runs `weights`.
    variants: Annotated[tuple[Variant, ...], Meta(max_length=MAX_VARIANTS)] = ()

    def encode(self) -> bytes:
        """Encode as canonical JSON: equal manifests have equal bytes, hence equal digests."""
        plain = to_plain(self)
        if not self.variants:  # then the digest is the one that it had before there were variants
            del plain["variants"]
        return msgspec.json.encode(plain, order="sorted")

    def variant_for(self, board: str) -> Variant | None:
        """The variant for a board; None if there is none."""
        return next((each for each in self.variants if each.board == board), None)

    def with_variant(self, variant: Variant) -> Manifest:
        """The same model with this variant, in place of one for the same board."""
        others = (each for each in self.variants if each.board != variant.board)
        return replace(self, variants=tuple(sorted((*others, variant), key=lambda each: each.board)))

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON."""
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def decode(cls, content: bytes) -> Manifest:
        """Decode. Raises: msgspec.ValidationError with the invalid field."""
        return msgspec.json.decode(content, type=cls)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A reference to a model: its id, and the content of the id when it was resolved."""

    id: ModelId
    digest: Sha256  # of the manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """Which frames count as still, and are not inferred."""

    sensitivity: Fraction = 0.5  # 1: faint changes are motion too; 0: only strong ones
    # Seconds of the source's own clock, after which a frame is inferred without any motion
    max_still: Annotated[float, Meta(gt=0, le=MAX_STILL)] = 10.0


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A source of frames. None: depends on the source, see `source_reference.is_finite` for the mode."""

    reference: Reference  # file path, URL, device index, or the name of a generated source
    properties: Properties = field(default_factory=dict, kw_only=True)
    # file: every frame is processed, and it ends; live: never blocks, and is reopened
    mode: Mode | None = field(default=None, kw_only=True)
    max_fps: Rate | None = field(default=None, kw_only=True)  # of this source; None: as in the pipeline
    # None: WAIT for a file, ADAPTIVE_DROP_OLDEST for a live source
    filling: Filling | None = field(default=None, kw_only=True)
    # None: LAZY for a file, EAGER for a live source
    consumption: Consumption | None = field(default=None, kw_only=True)
    # None: as the worker's option says
    decoder: DecoderChoice | None = field(default=None, kw_only=True)
    # The names of the classes whose objects are kept; None: all
    classes: ClassNames | None = field(default=None, kw_only=True)
    # Only objects with the center of their box in it are kept; None: all
    region: Region | None = field(default=None, kw_only=True)
    # Only frames with motion in the region are inferred; None: all
    motion: Motion | None = field(default=None, kw_only=True)

    @property
    def fixed(self) -> SourceSpec:
        """The source without the fields that can change during a run."""
        return replace(self, max_fps=None, classes=None, region=None, motion=None)


@dataclass(frozen=True, slots=True)
class UdpSink:
    """One datagram per frame, as Roboflow's `udp_sink`."""

    host: Annotated[str, Meta(pattern=whole(HOST_PATTERN))]
    port: Port


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A further model, which runs on the objects that the first one has found, each cut out of the frame."""

    name: Id  # of its results in a prediction
    model: ModelRef
    classes: ClassNames | None = None  # of the first model's objects; None: all
    max_objects: Annotated[int, Meta(ge=1, le=MAX_STAGE_OBJECTS)] = 8  # of a frame, most confident first
    margin: Fraction = 0.0  # added to each side of an object, in parts of its width and height
    # Seconds that a live frame waits for it.
    max_delay: Annotated[float, Meta(gt=0, le=MAX_STAGE_DELAY)] = 0.5
    confidence: Fraction | None = None
    max_detections: ObjectCount = 32  # of an object


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What a device keeps of a pipeline's predictions, for subscribers that missed them.

    None: as much as of others. The device's limit for all of them together holds in any case.
    """

    age: Annotated[float, Meta(ge=0, le=MAX_KEEP_AGE)] | None = None  # seconds; 0: nothing
    size: Annotated[int, Meta(ge=0, le=MAX_KEEP_SIZE)] | None = None  # bytes; 0: nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSpec:
    """Task of a pipeline: a model, its sources, its sinks. None: the default of the device."""

    model: ModelRef
    sources: Annotated[tuple[SourceSpec, ...], Meta(min_length=1, max_length=MAX_SOURCES)]
    sinks: Annotated[tuple[UdpSink, ...], Meta(max_length=MAX_SINKS)] = ()
    max_fps: Rate | None = None  # of each source without its own limit
    confidence: Fraction | None = None
    iou_threshold: Fraction | None = None
    class_agnostic_nms: bool | None = None
    max_candidates: ObjectCount | None = None
    max_detections: ObjectCount | None = None
    tracker: Tracker | None = None
    sampling: Sampling | None = None  # None: no samples
    priority: Priority = "normal"
    stages: Annotated[tuple[Stage, ...], Meta(max_length=MAX_STAGES)] = ()
    mask_format: MaskFormat = "polygon"
    keep: Keep | None = None  # None: as much as of others

    def can_update_to(self, other: PipelineSpec) -> bool:
        """Whether a run of one spec can be updated to the other without a restart.

        Other models take over when their engines are ready.
        """
        if len(self.stages) != len(other.stages):
            return False
        if self.stages != other.stages and self.with_models(other.ordered_models).stages != other.stages:
            return False
        return self.sources == other.sources or self.fixed_sources == other.fixed_sources

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Each model that it needs, once."""
        if not self.stages:
            return (self.model,)
        return tuple(dict.fromkeys([self.model, *(stage.model for stage in self.stages)]))

    @property
    def ordered_models(self) -> tuple[ModelRef, ...]:
        """Its model, then that of each stage."""
        return (self.model, *(stage.model for stage in self.stages))

    def with_models(self, ordered: Sequence[ModelRef]) -> PipelineSpec:
        """The same with other models, as many, in the order of `ordered_models`."""
        first, *others = ordered
        stages = tuple(replace(stage, model=model) for stage, model in zip(self.stages, others, strict=True))
        return replace(self, model=first, stages=stages)

    @property
    def fixed_sources(self) -> tuple[SourceSpec, ...]:
        """The sources without the fields that can change during a run."""
        return tuple(source.fixed for source in self.sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One pipeline for one device, with its desired status."""

    pipeline_id: Id
    generation: Natural  # +1 in the transaction of any change of device, spec or desired status
    # The generation at which the current run began. The end of a file and the position in it belong to it.
    run_generation: Natural
    desired_status: DesiredStatus
    on_disconnect: OnDisconnect
    spec: PipelineSpec
    # Another device emits it, or did a moment ago: get ready to emit, and say in `Observed.ready` when it is.
    standby: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The observed state of one pipeline. Values that change with each frame are in its `stat` instead."""

    pipeline_id: Id
    generation: Natural
    incarnation: Natural  # +1 at each start of the pipeline's process
    state: ObservedState
    reason: Reason = ""  # for users: what is wrong, redacted
    restarts: Natural = 0
    ready: bool | None = None  # of a standby: it could emit at once; None: it is no standby
    crashes: Natural = 0  # in a row, by faults of its own: of its camera, or of an engine of its models


ObservedList = Annotated[tuple[Observed, ...], Meta(max_length=MAX_OBSERVED)]


def observed_digest(observed: tuple[Observed, ...]) -> int:
    """A 64-bit digest of the list, independent of its order, to detect that both ends disagree."""
    entries = sorted(
        (
            entry.pipeline_id,
            entry.generation,
            entry.incarnation,
            entry.state.value,
            entry.reason,
            entry.restarts,
            # Versions that know neither would compute another digest.
            *(() if entry.ready is None else (entry.ready,)),
            *((entry.crashes,) if entry.crashes else ()),
        )
        for entry in observed
    )
    content: bytes = msgpack.packb(entries)
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def to_plain(value: object) -> Any:
    """Convert a value to maps, lists, numbers and strings, for msgpack and the store."""
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def from_plain(plain: object, of: type[T]) -> T:
    """Convert plain data to a value.

    Unknown keys are ignored, and missing ones get their default, for compatibility with other versions.

    Raises: msgspec.ValidationError with the field, what was expected and what it has.
    """
    return msgspec.convert(plain, of)
