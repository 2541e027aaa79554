"""The messages of the two control planes, and the table of their numbers.

A number is never reused for another message, nor a key for another type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from streamfleet_core.protocol.costs import Measured, Resources
from streamfleet_core.protocol.limits import (
    MAX_ADDRESSES,
    MAX_CAPACITY,
    MAX_ISOLATION,
    MAX_STATUS_INTERVAL,
    MIN_STATUS_INTERVAL,
)
from streamfleet_core.protocol.tasks.optimisation import Optimisation
from streamfleet_core.protocol.tasks.trials import FiguresList, Trials
from streamfleet_core.protocol.values import (
    Assignment,
    CurveKey,
    Fingerprint,
    Id,
    Natural,
    ObservedList,
    Reason,
)

RefusalCode = Literal[
    "version",
    "unknown_key",
    "key_device_mismatch",
    "revoked",
    "quarantined",
    "stale_session",
    "too_many",
    "bad_message",
    "token_used",
    "not_leader",  # another broker leads: ask that one
]
ErrorCode = Literal[
    "not_found",
    "invalid",
    "conflict",
    "mismatch",
    "unavailable",
    "too_many",
    "store_down",
    "bad_message",
    "not_leader",  # another broker leads: ask that one
]
ByeReason = Literal["stop"]
# camera, engine, publisher: one of its processes is killed. isolate: it neither speaks to the broker nor
# hears it for a while, and so stops its movable pipelines by itself.
DrillFault = Literal["camera", "engine", "publisher", "isolate"]
DrillSeconds = Annotated[float, Meta(ge=0, le=MAX_ISOLATION)]
StatusInterval = Annotated[int, Meta(ge=MIN_STATUS_INTERVAL, le=MAX_STATUS_INTERVAL)]


# worker → broker ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A worker requests a session, with all data that the broker needs about the device."""

    device: Id
    boot: Annotated[bytes, Meta(min_length=16, max_length=16)]  # random for each start of the agent
    agent: Annotated[str, Meta(pattern=r"\A[!-~]{0,64}\Z")]  # version of the software
    capacity: Annotated[int, Meta(ge=0, le=MAX_CAPACITY)]  # pipelines that the device may run
    seen_epoch: Natural = 0
    # tcp://HOST:PORT of the device's own PUB socket; "" if there is none
    publish: Annotated[str, Meta(pattern=r"\A(tcp://[!-~]{1,300})?\Z")] = ""
    # The same by addresses in other networks of the device.
    publish_also: Annotated[
        tuple[Annotated[str, Meta(pattern=r"\Atcp://[!-~]{1,300}\Z")], ...], Meta(max_length=MAX_ADDRESSES)
    ] = ()
    observed: ObservedList = ()
    resources: Resources | None = None  # None: a worker that does not measure
    drills: bool = False  # it takes part in drills
    optimises: bool = False  # it builds variants of models when the desired state says so


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A worker is alive. `observed` is included if it changed since the last acknowledged heartbeat.

    `measured` is included if it changed much. Of it, `observed` and `figures` one message has one, so that it
    fits.
    """

    number: Natural
    applied_revision: Natural
    observed_digest: Annotated[int, Meta(ge=0)]
    observed: ObservedList | None = None
    trouble: Reason = ""  # for users: what is wrong with the device as a whole
    measured: Measured | None = None  # None: as before
    figures: FiguresList | None = None  # of what the desired state lets it measure; None: not this time
    deaf: bool = False  # it has heard nothing for three heartbeats: this one does not renew its lease


@dataclass(frozen=True, slots=True)
class Bye:
    """A worker stops on purpose: movable pipelines are moved at once, without waiting for the lease."""

    reason: ByeReason


@dataclass(frozen=True, slots=True)
class Enrol:
    """A new device, connected with its one-time key, sends its own public key."""

    public_key: CurveKey


# broker → worker ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The broker accepts a session, and sets its intervals."""

    session: Annotated[bytes, Meta(min_length=16, max_length=16)]
    self_stop_ms: Natural  # after this time without an acknowledged heartbeat, a worker stops emitting
    heartbeat_ms: Natural
    short_id: Natural  # the number of the device in headers of the data plane
    api: str  # base URL for models; "" if there is none
    ticket: str  # access to models and samples in the API during this session
    relay: tuple[str, ...] = ()  # endpoints for the PUB socket
    pictures: tuple[str, ...] = ()  # endpoints for the PUB socket of previews
    # Of the API's certificate; "": no HTTPS, None: as in the join token.
    api_fingerprint: Fingerprint | None = None
    replays: bool = False  # whether the relay lets replays of predictions pass


@dataclass(frozen=True, slots=True)
class HeartbeatAck:
    """The answer to each heartbeat."""

    number: Natural
    want_full: bool = False  # the digests differ: send all of `observed`
    # Between two statuses in which no state has changed. It follows the size of the fleet, so each
    # acknowledgement tells it.
    status_ms: StatusInterval = 1000


@dataclass(frozen=True, slots=True)
class Desired:
    """The complete desired state of a device. The later (epoch, revision) wins."""

    revision: Natural
    assignments: tuple[Assignment, ...]
    optimisation: Optimisation | None = None
    trials: Trials | None = None


@dataclass(frozen=True, slots=True)
class Subscribers:
    """The keys that may subscribe to the device's own PUB socket."""

    revision: Natural
    keys: tuple[CurveKey, ...]


@dataclass(frozen=True, slots=True)
class Drill:
    """A fault that the device causes on purpose. Sent only to one that has said `drills`."""

    fault: DrillFault
    pipeline_id: Id | None = None  # the camera of this pipeline; None: any
    seconds: DrillSeconds = 0.0  # of an isolation


@dataclass(frozen=True, slots=True)
class Refused:
    """A message had no effect, and the reason."""

    code: RefusalCode
    detail: str = ""
    retry_ms: Natural = 1000


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The device's own key is accepted from now on; the one-time key is used up."""

    device: Id


# operators' plane -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the operators' plane; `op` is looked up in a literal table (requests.py)."""

    op: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of a request. A change is durable."""

    data: Any = None


@dataclass(frozen=True, slots=True)
class Error:
    """A request had no effect, and the reason."""

    code: ErrorCode
    message: str


DeviceMessage = Hello | Heartbeat | Bye | Enrol
BrokerMessage = Welcome | HeartbeatAck | Desired | Subscribers | Drill | Refused | Enrolled
OperatorMessage = Request | Reply | Error
Message = DeviceMessage | BrokerMessage | OperatorMessage

MESSAGE_TYPES: dict[int, type[Message]] = {
    1: Hello,
    2: Heartbeat,
    5: Bye,
    6: Enrol,
    16: Welcome,
    17: HeartbeatAck,
    18: Desired,
    20: Refused,
    22: Subscribers,
    23: Enrolled,
    24: Drill,
    32: Request,
    34: Reply,
    35: Error,
}
TYPE_CODES: dict[type[Message], int] = {of: code for code, of in MESSAGE_TYPES.items()}
