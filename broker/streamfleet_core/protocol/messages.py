"""Every message of the two control planes, and the table that gives each its number.

A number is never used again for something else, and a key never with another type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from streamfleet_core.protocol.limits import MAX_CAPACITY
from streamfleet_core.protocol.values import Assignment, CurveKey, Fingerprint, Id, Natural, ObservedList

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
]
ErrorCode = Literal[
    "not_found", "invalid", "conflict", "mismatch", "unavailable", "too_many", "store_down", "bad_message"
]
ByeReason = Literal["stop"]


# worker → broker ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A worker asks for a session. It carries all that the broker needs to know of the device."""

    device: Id
    boot: Annotated[bytes, Meta(min_length=16, max_length=16)]  # random, one for each start of the agent
    agent: Annotated[str, Meta(pattern=r"\A[!-~]{0,64}\Z")]  # version of the software
    capacity: Annotated[int, Meta(ge=0, le=MAX_CAPACITY)]  # pipelines that the device is willing to run
    seen_epoch: Natural = 0
    # tcp://HOST:PORT of the device's own PUB socket, "" when it has none
    publish: Annotated[str, Meta(pattern=r"\A(tcp://[!-~]{1,300})?\Z")] = ""
    observed: ObservedList = ()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A worker is alive. `observed` comes along when it changed since the last acknowledged heartbeat."""

    number: Natural
    applied_revision: Natural
    observed_digest: Annotated[int, Meta(ge=0)]
    observed: ObservedList | None = None


@dataclass(frozen=True, slots=True)
class Bye:
    """A worker leaves on purpose: what may move is moved at once, no lease is waited for."""

    reason: ByeReason


@dataclass(frozen=True, slots=True)
class Enrol:
    """A new device, connected with its one-time key, names the key that it made for itself."""

    public_key: CurveKey


# broker → worker ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """A session, and the intervals that the broker dictates."""

    session: Annotated[bytes, Meta(min_length=16, max_length=16)]
    self_stop_ms: Natural  # without an acknowledged heartbeat for so long, a worker stops emitting
    heartbeat_ms: Natural
    short_id: Natural  # the device in the data plane's header
    api: str  # base URL for models, "" when there is none
    ticket: str  # opens the bulk addresses of the api for as long as this session lives
    relay: tuple[str, ...] = ()  # where PUB connects
    pictures: tuple[str, ...] = ()  # where the PUB for pictures connects
    api_fingerprint: Fingerprint | None = (
        None  # of its certificate; "": no HTTPS, None: as the join token says
    )


@dataclass(frozen=True, slots=True)
class HeartbeatAck:
    """The answer to each heartbeat."""

    number: Natural
    want_full: bool = False  # the digests differ: send `observed` whole


@dataclass(frozen=True, slots=True)
class Desired:
    """The whole set of pipelines that a device must run. The later (epoch, revision) wins."""

    revision: Natural
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class Subscribers:
    """The keys that may subscribe to the device's own PUB socket."""

    revision: Natural
    keys: tuple[CurveKey, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A message had no effect, and why."""

    code: RefusalCode
    detail: str = ""
    retry_ms: Natural = 1000


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The device's own key is known from now on; the one-time key is burnt."""

    device: Id


# operators' plane -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the operators' plane; `op` is looked up in a literal table (requests.py)."""

    op: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """A request was done; a change is durable."""

    data: Any = None


@dataclass(frozen=True, slots=True)
class Error:
    """A request had no effect, and why."""

    code: ErrorCode
    message: str


DeviceMessage = Hello | Heartbeat | Bye | Enrol
BrokerMessage = Welcome | HeartbeatAck | Desired | Subscribers | Refused | Enrolled
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
    32: Request,
    34: Reply,
    35: Error,
}
TYPE_CODES: dict[type[Message], int] = {of: code for code, of in MESSAGE_TYPES.items()}
