"""What the agent and its child processes say to each other, over one pipe a child.

A child gets its config at its start and says a report at every change of state, and every `REPORT_INTERVAL`
seconds in between, so that silence means that the child is stuck. The agent says what should be different.
No pickle travels here: a message is a msgpack array of its name and its fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

import msgpack

from streamfleet_core.protocol.status import SampleStat, SourceStat
from streamfleet_core.protocol.values import (
    CurveKey,
    DesiredStatus,
    Manifest,
    Natural,
    ObservedState,
    PipelineSpec,
    from_plain,
    to_plain,
)

REPORT_INTERVAL = 0.5  # seconds


# what a child is started with -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PostProcessing:
    """The device's defaults where a pipeline's spec says nothing; the original's environment variables."""

    confidence: float = 0.4
    iou_threshold: float = 0.3
    class_agnostic_nms: bool = False
    max_candidates: int = 3000
    max_detections: int = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraConfig:
    """One camera process: everything that it needs, none of which it looks up anywhere else."""

    pipeline_id: str
    device: str
    short_id: int  # of the device, for the data plane's header
    generation: int
    incarnation: int
    desired_status: DesiredStatus  # run or pause
    spec: PipelineSpec
    manifest: Manifest
    defaults: PostProcessing
    engine_socket: str  # path of the engine's unix socket
    intake_path: str  # of the publisher's unix socket
    picture_intake_path: str  # of the publisher's unix socket for pictures
    progress_path: str  # position in each source of this playing, which outlives the process
    fence_path: str  # until when fenced pipelines may emit
    fenced: bool  # stop emitting when the fence says so (`on_disconnect` is stop)
    samples_path: str  # folder of all samples of the device
    samples_size: int  # bytes that all of them may take


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One engine process."""

    manifest: Manifest
    weights_path: str
    socket_path: str  # of the unix socket that cameras connect to
    threads: int  # run threads over one session; 0: as many as there are cores


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherConfig:
    """The publisher process of a worker."""

    device: str
    intake_path: str  # of the unix socket where cameras and the agent hand over messages
    picture_intake_path: str  # of the unix socket where cameras hand over pictures
    local_endpoint: str  # ipc:// for subscribers on this host, without keys
    local_picture_endpoint: str  # the same for pictures
    direct_endpoint: str  # tcp:// for subscribers on the LAN, "" for none
    public_key: str
    secret_key: str = field(repr=False)
    fence_path: str = ""


# agent → child --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """To a camera: emit under this generation and spec from now on, or pause.

    The spec plays like the one that the camera began with (`PipelineSpec.plays_like`).
    """

    generation: Natural
    desired_status: DesiredStatus
    spec: PipelineSpec


@dataclass(frozen=True, slots=True)
class Show:
    """To a camera: somebody looks at its pictures, or nobody does any more."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """To any child: end within two seconds."""


@dataclass(frozen=True, slots=True)
class Relay:
    """To the publisher: connect PUB to these endpoints of the broker, which has this key."""

    endpoints: tuple[str, ...]
    server_key: CurveKey
    pictures: tuple[str, ...] = ()  # endpoints for pictures


@dataclass(frozen=True, slots=True)
class Allow:
    """To the publisher: these keys may subscribe to the direct socket."""

    keys: tuple[CurveKey, ...]


# child → agent --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraReport:
    """The whole present state of a camera process.

    After a report that says `paused`, nothing is emitted until the agent wants `run` again.
    """

    generation: Natural
    state: ObservedState
    reason: str
    waiting_for_engine: bool  # no frame moves, and the camera is not to blame
    emitted: Natural  # frames, since the process began; moves while the camera is healthy
    sources: tuple[SourceStat, ...]
    dropped: dict[str, int]  # by sink
    fps: float
    report: dict[str, Any]  # the original's status report
    samples: SampleStat | None = None  # None: no frame is kept, and none was
    patience: float = 0.0  # seconds that its slowest source may be silent before the camera itself minds


@dataclass(frozen=True, slots=True)
class EngineReport:
    """The whole present state of an engine process."""

    state: Literal["loading", "ready", "failed", "damaged"]  # damaged: the file, which is to be fetched again
    reason: str  # of one that is ready: why every inference fails
    inferences: Natural
    oldest_run: float  # seconds that the longest inference under way has taken; 0 when none is


@dataclass(frozen=True, slots=True)
class PublisherReport:
    """The whole present state of the publisher process."""

    published: Natural
    fenced: Natural  # messages that came after the fence closed
    rejected: Natural  # messages that were none of ours
    watched: tuple[str, ...] = ()  # beginnings of `<pipeline id>/` whose pictures somebody wants; "" is all


ToChild = Change | Show | Stop | Relay | Allow
FromChild = CameraReport | EngineReport | PublisherReport

_TYPES: dict[str, type[ToChild | FromChild]] = {
    of.__name__: of for of in (Change, Show, Stop, Relay, Allow, CameraReport, EngineReport, PublisherReport)
}


def pack(message: ToChild | FromChild) -> bytes:
    """The bytes of a message."""
    content: bytes = msgpack.packb([type(message).__name__, to_plain(message)])
    return content


def unpack(content: bytes) -> ToChild | FromChild:
    """The message in these bytes."""
    name, plain = msgpack.unpackb(content)
    return from_plain(plain, _TYPES[name])


def send(connection: Connection, message: ToChild | FromChild) -> None:
    """Raises: OSError when the other end is gone."""
    connection.send_bytes(pack(message))


def receive(connection: Connection) -> ToChild | FromChild:
    """The next message. Raises: EOFError or OSError when the other end is gone."""
    return unpack(connection.recv_bytes())
