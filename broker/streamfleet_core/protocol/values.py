"""The nouns of the fleet that cross a border: desired pipelines, observed pipelines, models.

Every value is frozen and is checked against its types where it is decoded, so nothing inside checks again.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

import msgpack
import msgspec
from msgspec import Meta

from streamfleet_core.protocol.limits import (
    HOST_PATTERN,
    ID_PATTERN,
    LABEL_VALUE_PATTERN,
    MAX_CLASSES,
    MAX_DEVICE_INDEX,
    MAX_FINITE,
    MAX_FPS,
    MAX_INPUT_SIDE,
    MAX_LABELS,
    MAX_OBJECTS,
    MAX_OBSERVED,
    MAX_PORT,
    MAX_PROPERTIES,
    MAX_REASON,
    MAX_REFERENCE,
    MAX_SINKS,
    MAX_SOURCES,
    MODEL_ID_PATTERN,
    PROPERTY_PATTERN,
    REFERENCE_PATTERN,
    SHA256_PATTERN,
    whole,
)
from streamfleet_core.protocol.sampling import Sampling

# An id is never joined to a path and never parsed: it is a name in a row. (S20)
Id = Annotated[str, Meta(pattern=whole(ID_PATTERN))]
ModelId = Annotated[str, Meta(pattern=whole(MODEL_ID_PATTERN))]
Sha256 = Annotated[str, Meta(pattern=whole(SHA256_PATTERN))]
Fingerprint = Annotated[str, Meta(pattern=whole(f"({SHA256_PATTERN})?"))]  # sha256 of a certificate
# A CURVE key in the Z85 text of ZeroMQ RFC 32.
CurveKey = Annotated[str, Meta(pattern=r"\A[ -~]{40}\Z")]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# What a source is called, see `reference`.
Reference = (
    Annotated[str, Meta(min_length=1, max_length=MAX_REFERENCE, pattern=whole(REFERENCE_PATTERN))]
    | Annotated[int, Meta(ge=0, le=MAX_DEVICE_INDEX)]
)
# No NaN and no infinity, which are no JSON: one of them would take the document that it stands in with it.
Finite = Annotated[float, Meta(ge=-MAX_FINITE, le=MAX_FINITE)]
Properties = Annotated[
    dict[Annotated[str, Meta(pattern=whole(PROPERTY_PATTERN))], Finite], Meta(max_length=MAX_PROPERTIES)
]
Port = Annotated[int, Meta(ge=1, le=MAX_PORT)]
Rate = Annotated[float, Meta(gt=0, le=MAX_FPS)]  # a second
Fraction = Annotated[float, Meta(ge=0, le=1)]
ObjectCount = Annotated[int, Meta(ge=1, le=MAX_OBJECTS)]
# What people sort pipelines and devices by. A selector is labels that must all be there with these values.
LabelKey = Id
LabelValue = Annotated[str, Meta(pattern=whole(LABEL_VALUE_PATTERN))]
Labels = Annotated[dict[LabelKey, LabelValue], Meta(max_length=MAX_LABELS)]

DesiredStatus = Literal["run", "pause", "stop"]
OnDisconnect = Literal["stop", "continue"]
Tracker = Literal["bytetrack"]
# How a model takes a picture and gives its boxes.
Family = Literal["ultralytics", "end2end", "yolov5", "yolox", "yolox-decoded"]
Mode = Literal["live", "file"]
# What a source does with a frame for which its buffer has no room, in the original's words.
Filling = Literal["WAIT", "DROP_OLDEST", "ADAPTIVE_DROP_OLDEST", "DROP_LATEST", "ADAPTIVE_DROP_LATEST"]
# Which frame is taken from the buffer next: the oldest, or the newest, which drops the others.
Consumption = Literal["LAZY", "EAGER"]

T = TypeVar("T")


class ObservedState(str, enum.Enum):
    """What a device says of one pipeline.

    starting → running ⇄ paused, running → reconnecting → running, any → crashed → backoff → starting,
    any → stopping → (gone from the list), running → ended, starting → failed.
    """

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    RECONNECTING = "reconnecting"
    CRASHED = "crashed"
    BACKOFF = "backoff"
    FAILED = "failed"  # will not heal by itself: the reason says what to do
    STOPPING = "stopping"
    ENDED = "ended"  # end of file: durable for the pipeline's `run_generation`


_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def is_public_key(text: str) -> bool:
    """Whether 40 characters are a CURVE key that somebody may have: 32 bytes, not all of them zero."""
    digits = [_Z85.find(sign) for sign in text]
    if -1 in digits or not any(digits):
        return False
    # Five digits to the base 85 are four bytes: ZeroMQ RFC 32.
    groups = (digits[start : start + 5] for start in range(0, len(digits), 5))
    return all(sum(digit * 85 ** (4 - at) for at, digit in enumerate(group)) < 2**32 for group in groups)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, as Z85 text."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Weights:
    """A model file, by content."""

    sha256: Sha256
    size: Annotated[int, Meta(ge=1)]  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a device must know of a model to run it. It travels as a blob of its own, named by its sha256."""

    family: Family
    labels: Annotated[tuple[str, ...], Meta(max_length=MAX_CLASSES)]
    input_width: Annotated[int, Meta(ge=1, le=MAX_INPUT_SIDE)]  # pixels
    input_height: Annotated[int, Meta(ge=1, le=MAX_INPUT_SIDE)]  # pixels
    weights: Weights

    def encode(self) -> bytes:
        """The canonical JSON: equal manifests are equal bytes, so the digest names the content."""
        return msgspec.json.encode(self, order="sorted")

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON."""
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def decode(cls, content: bytes) -> Manifest:
        """Raises: msgspec.ValidationError with the field that is wrong."""
        return msgspec.json.decode(content, type=cls)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model as a pipeline names it: what people call it, and which content that was when they said so."""

    id: ModelId
    digest: Sha256  # of the manifest


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Where frames come from. None means what suits the source: see `reference.is_finite` for the mode."""

    reference: Reference  # file path, URL, device index, or the name of a generated picture
    properties: Properties = field(default_factory=dict, kw_only=True)
    # file: every frame, and it ends; live: never waited for, and opened again
    mode: Mode | None = field(default=None, kw_only=True)
    max_fps: Rate | None = field(default=None, kw_only=True)  # of this source; None: the pipeline's
    # None: WAIT for a file, ADAPTIVE_DROP_OLDEST for a live source
    filling: Filling | None = field(default=None, kw_only=True)
    # None: LAZY for a file, EAGER for a live source
    consumption: Consumption | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class UdpSink:
    """One datagram a frame, as the original's `udp_sink`."""

    host: Annotated[str, Meta(pattern=whole(HOST_PATTERN))]
    port: Port


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSpec:
    """What to run: a model on sources, into sinks. None means the device's own default."""

    model: ModelRef
    sources: Annotated[tuple[SourceSpec, ...], Meta(min_length=1, max_length=MAX_SOURCES)]
    sinks: Annotated[tuple[UdpSink, ...], Meta(max_length=MAX_SINKS)] = ()
    max_fps: Rate | None = None  # of each source that says nothing itself
    confidence: Fraction | None = None
    iou_threshold: Fraction | None = None
    class_agnostic_nms: bool | None = None
    max_candidates: ObjectCount | None = None
    max_detections: ObjectCount | None = None
    tracker: Tracker | None = None
    sampling: Sampling | None = None  # None: no frame is kept

    def plays_like(self, other: PipelineSpec) -> bool:
        """Can what plays one go on as the other, without opening anything anew?"""
        return (self.model, self.played) == (other.model, other.played)

    @property
    def played(self) -> tuple[SourceSpec, ...]:
        """The sources without what can be changed while they play."""
        return tuple(replace(source, max_fps=None) for source in self.sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One pipeline that a device must run, pause or stop."""

    pipeline_id: Id
    generation: Natural  # +1 in the transaction of any change of device, spec or desired status
    # The generation at which the current run began. The end of a file and the position in it belong to it.
    run_generation: Natural
    desired_status: DesiredStatus
    on_disconnect: OnDisconnect
    spec: PipelineSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One pipeline as its device sees it. The figures that move with each frame travel as `stat` instead."""

    pipeline_id: Id
    generation: Natural
    incarnation: Natural  # +1 at each start of the pipeline's process
    state: ObservedState
    reason: Annotated[str, Meta(max_length=MAX_REASON)] = ""  # for people: what went wrong, redacted
    restarts: Natural = 0


ObservedList = Annotated[tuple[Observed, ...], Meta(max_length=MAX_OBSERVED)]


def observed_digest(observed: tuple[Observed, ...]) -> int:
    """64 bits of the whole list, in any order, so that both ends notice when they disagree."""
    entries = sorted(
        (
            entry.pipeline_id,
            entry.generation,
            entry.incarnation,
            entry.state.value,
            entry.reason,
            entry.restarts,
        )
        for entry in observed
    )
    content: bytes = msgpack.packb(entries)
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def to_plain(value: object) -> Any:
    """The maps, lists, numbers and strings of a value, as msgpack and the store write them."""
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def from_plain(plain: object, of: type[T]) -> T:
    """The value that was written as `plain`.

    Unknown keys are ignored and missing ones take their default, so that a newer peer is understood.

    Raises: msgspec.ValidationError with the field, what was expected and what came.
    """
    return msgspec.convert(plain, of)
