"""What the fleet decides to do, in the order in which the server must do it. Nothing is done here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamfleet_broker.protocol.messages import BrokerMessage, Error, Reply
from streamfleet_broker.protocol.values import CurveKey
from streamfleet_broker.records import Write

Domain = Literal["devices", "operators", "relay-in", "relay-out"]


@dataclass(frozen=True, slots=True)
class Save:
    """Make these writes durable, all or none.

    When that fails, do nothing that follows, and call `Fleet.unsaved`.
    """

    writes: tuple[Write, ...]


@dataclass(frozen=True, slots=True)
class RaiseEpoch:
    """Make this epoch durable, then call `Fleet.raised`. When that fails, the old one stays."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send to a device, in the envelope that `Fleet.envelope` makes.

    Then call `Fleet.sent`, or `Fleet.unsent` when the peer is gone or its queue is full. Never queue it.
    """

    routing_id: bytes
    message: BrokerMessage
    session: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer an operator."""

    routing_id: bytes
    request_id: bytes
    message: Reply | Error


@dataclass(frozen=True, slots=True)
class Allow:
    """Let exactly these keys into a ZAP domain from now on."""

    domain: Domain
    keys: frozenset[CurveKey]


@dataclass(frozen=True, slots=True)
class Audit:
    """Something that an operator wants to know."""

    subject: str  # device, pipeline, or `fleet`
    event: str
    alarm: bool = False  # does not heal by itself


Effect = Save | RaiseEpoch | Send | Answer | Allow | Audit
