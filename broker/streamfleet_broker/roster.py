"""The devices as the broker knows them, and who speaks on the two planes.

new ──Hello──▶ syncing ──Beat──▶ ready ◀──Beat──▶ suspect ──lease ends──▶ lost
any ──Bye──▶ left; two boots that alternate ──▶ quarantined; lost, left ──Hello──▶ syncing
"""

from __future__ import annotations

from dataclasses import dataclass, field

from streamfleet_broker.protocol.requests import DeviceState
from streamfleet_broker.protocol.values import Observed
from streamfleet_broker.records import PipelineRecord


@dataclass(frozen=True, slots=True)
class DevicePeer:
    """A sender on the devices' plane: where it is, and the CURVE key that libzmq vouches for."""

    routing_id: bytes
    key: str


@dataclass(frozen=True, slots=True)
class OperatorPeer:
    """A sender on the operators' plane."""

    routing_id: bytes


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked, and under which id it waits for the answer."""

    routing_id: bytes
    request_id: bytes


@dataclass(slots=True)
class Session:
    """What lasts from a Hello to the next one, or to the end of the lease."""

    id: bytes
    routing_id: bytes  # messages from anywhere else are refused
    boot: bytes
    ticket: str
    received: int = 0  # the last seq that was accepted
    sent: int = 0  # the last seq that was sent
    applied_rev: int = 0  # what the device says it applied
    resend: bool = False  # wishes could not be queued
    cut: bool = False  # its connection is gone, and nobody has been told yet


@dataclass(slots=True)
class Device:
    """What is known of a device beside its row."""

    name: str
    rev: int  # of the last change to its wishes
    state: DeviceState = "new"
    told_epoch: int = 0  # the epoch of the last answer to it
    session: Session | None = None  # there is one in `syncing` and `ready`, and mostly in `suspect`
    heard: float | None = None  # since then the lease runs
    lost_at: float = float("-inf")
    observed: dict[str, Observed] = field(default_factory=dict)  # the last list that it sent
    capacity: int = 0
    agent: str = ""
    publish: str = ""  # its own PUB socket, as subscribers reach it
    replaced: dict[bytes, float] = field(default_factory=dict)  # boots, and when another took over
    returns: list[float] = field(default_factory=list)  # when a replaced boot took over again

    def silent(self, now: float) -> float | None:
        """Seconds since it was last heard; None when it never was, or only by a broker before this one."""
        return None if self.heard is None or not self.agent else now - self.heard


def is_silent(device: Device, record: PipelineRecord) -> bool:
    """Does a pipeline of a device that is gone certainly emit nothing?

    A pinned one may go on where a device is only cut off; a movable one was stopped by its lease.
    """
    return not record.pinned or device.state in ("new", "left")
