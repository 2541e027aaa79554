"""Effects: what the server must do, in this order. Nothing is executed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamfleet_broker.fleet.records import Write
from streamfleet_core.protocol.messages import BrokerMessage, Error, Reply
from streamfleet_core.protocol.values import CurveKey

Severity = Literal["info", "error"]
Domain = Literal["devices", "operators", "relay-in", "relay-out"]


@dataclass(frozen=True, slots=True)
class Save:
    """Make these writes durable, all or none.

    When that fails, do nothing that follows, and call `Fleet.commit_failed`.
    """

    writes: tuple[Write, ...]


@dataclass(frozen=True, slots=True)
class RaiseEpoch:
    """Make this epoch durable, then call `Fleet.epoch_committed`. When that fails, the old one stays."""

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
class SetAllowedKeys:
    """Admit exactly these keys to a ZAP domain."""

    domain: Domain
    keys: frozenset[CurveKey]


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One log line for the operator: the thing, then what happened to it."""

    subject: str  # device, pipeline, or `fleet`
    event: str
    severity: Severity = "info"  # an error does not heal by itself


Effect = Save | RaiseEpoch | Send | Answer | SetAllowedKeys | LogEvent
