"""The state of each device, and the peers of the two planes.

new ──Hello──▶ syncing ──Heartbeat──▶ ready ◀──Heartbeat──▶ suspect ──lease ends──▶ lost
any ──Bye──▶ left; two boots that alternate, or a flood ──▶ quarantined; lost, left ──Hello──▶ syncing
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from streamfleet_broker.fleet.records import PipelineRecord
from streamfleet_core.protocol.costs import Resources
from streamfleet_core.protocol.rates import Bucket, Rate
from streamfleet_core.protocol.requests import DeviceState, Plane
from streamfleet_core.protocol.tasks.optimisation import Optimisation
from streamfleet_core.protocol.tasks.trials import PipelineFigures
from streamfleet_core.protocol.values import Observed, observed_digest

# Epochs that one device may raise. Each restarts all sessions; a restored store needs one.
RAISES = Rate(1 / 600, 2)
# Events about the pipelines and the trouble of one device, so that it cannot push those of others out of the
# log.
EVENTS = Rate(10, 256)
# Reports of what one device has measured: each may be written, and changes what fits where.
MEASUREMENTS = Rate(0.2, 4)
NO_DIGEST = observed_digest(())


@dataclass(frozen=True, slots=True)
class DevicePeer:
    """A sender on the devices' plane: its address, and the CURVE key that libzmq has authenticated."""

    routing_id: bytes
    key: str


@dataclass(frozen=True, slots=True)
class OperatorPeer:
    """A sender on the operators' plane."""

    routing_id: bytes


@dataclass(frozen=True, slots=True)
class Asker:
    """A peer that waits for a reply, and the id of its request."""

    routing_id: bytes
    request_id: bytes


@dataclass(slots=True, kw_only=True)
class Session:
    """A session: from a Hello to the next one, or to the end of the lease."""

    id: bytes
    routing_id: bytes  # messages from anywhere else are refused
    boot: bytes
    ticket: str
    received: int = 0  # the last seq that was accepted
    sent: int = 0  # the last seq that was sent
    # The desired and the applied revision at which the last report was looked at; None: since then, it has
    # sent another one.
    confirmed: tuple[int, int] | None = None
    applied_revision: int = 0  # what the device says it applied
    resend: bool = False  # the desired state could not be queued
    cut: bool = False  # its connection is gone, which is not logged yet


@dataclass(frozen=True, slots=True)
class Ordered:
    """A task of building variants, for one run of the agent: another one would start it again."""

    optimisation: Optimisation
    boot: bytes
    until: float  # when it must have ended


@dataclass(slots=True, kw_only=True)
class Device:
    """The volatile state of a device, in addition to its row."""

    name: str
    revision: int  # of the last change to its desired state
    state: DeviceState = "new"
    told_epoch: int = 0  # the epoch of the last reply to it
    session: Session | None = None  # exists in `syncing` and `ready`, and usually in `suspect`
    heard: float | None = None  # start of the lease
    lost_at: float = float("-inf")
    observed: dict[str, Observed] = field(default_factory=dict)  # the last list that it sent
    observed_digest: int = NO_DIGEST  # of that list
    trouble: str = ""  # what it says is wrong with it as a whole
    cordon: str = ""  # what operators are told of it: cordoned, draining or drained
    capacity: int = 0
    resources: Resources = field(default_factory=Resources)
    agent: str = ""
    optimises: bool = False  # it builds variants of models when it is asked to
    ordered: Ordered | None = None
    figures: dict[str, PipelineFigures] = field(default_factory=dict)  # by pipeline, as it told last
    publish: tuple[str, ...] = ()  # its own PUB socket, as subscribers reach it
    drills: bool = False  # it takes part in drills
    replaced: dict[bytes, float] = field(default_factory=dict)  # boots, and when another took over
    returns: list[float] = field(default_factory=list)  # when a replaced boot took over again
    why_quarantined: str = ""  # the end of a sentence
    dropped: Counter[Plane] = field(default_factory=Counter)  # messages beyond its budget
    raises: Bucket = field(default_factory=lambda: Bucket(RAISES))
    events: Bucket = field(default_factory=lambda: Bucket(EVENTS))
    measurements: Bucket = field(default_factory=lambda: Bucket(MEASUREMENTS))

    def observe(self, observed: Iterable[Observed]) -> None:
        """Replace the list of what it runs."""
        self.observed = {entry.pipeline_id: entry for entry in observed}
        self.observed_digest = observed_digest(tuple(self.observed.values()))

    def silent(self, now: float) -> float | None:
        """Seconds since it was last heard; None if it never was by this broker."""
        return None if self.heard is None or not self.agent else now - self.heard


def is_silent(device: Device, record: PipelineRecord) -> bool:
    """Whether a pipeline of a device that is gone certainly emits nothing.

    One that continues may still run on a device that is only disconnected; others stop with the lease.
    """
    return record.on_disconnect == "stop" or device.state in ("new", "left")
