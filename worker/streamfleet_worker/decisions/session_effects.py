"""The effects of `broker_session.Session`, which the caller performs in order."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamfleet_core.protocol.control_plane import Envelope
from streamfleet_core.protocol.messages import Drill, Welcome
from streamfleet_core.protocol.tasks.optimisation import Optimisation
from streamfleet_core.protocol.tasks.trials import Trials
from streamfleet_core.protocol.values import Assignment, CurveKey


@dataclass(frozen=True, slots=True)
class Open:
    """Open a socket to an endpoint of the broker."""

    endpoint: int  # counts on: take it modulo the number of endpoints


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket."""

    reason: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send at once or not at all. If that fails, call `Session.unsent` before any other input."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class RememberEpoch:
    """Store the epoch of a newer broker. It must survive a restart of the agent."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Welcomed:
    """A session has begun."""

    welcome: Welcome


@dataclass(frozen=True, slots=True)
class Adopt:
    """Replace the desired state. The next call of `observe` reports the result."""

    epoch: int
    revision: int
    assignments: tuple[Assignment, ...]
    optimisation: Optimisation | None = None
    trials: Trials = field(default_factory=Trials)


@dataclass(frozen=True, slots=True)
class StartWithoutBroker:
    """The broker did not answer since the start. Once at most, and before any `Adopt`."""


@dataclass(frozen=True, slots=True)
class AllowSubscribers:
    """Let only the holders of these keys subscribe to the device directly."""

    keys: tuple[CurveKey, ...]


@dataclass(frozen=True, slots=True)
class CauseFault:
    """Cause a fault on purpose, if this device takes part in drills."""

    drill: Drill


@dataclass(frozen=True, slots=True)
class ExtendFence:
    """Movable pipelines may emit until this time."""

    until: float


@dataclass(frozen=True, slots=True)
class CloseFence:
    """Movable pipelines must not emit from now on. Their processes may stay."""


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """Stop all movable pipelines: the broker may have given them to another device."""


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """Movable pipelines may run again, as the desired state says."""


Effect = (
    Open
    | Close
    | Send
    | RememberEpoch
    | Welcomed
    | Adopt
    | StartWithoutBroker
    | AllowSubscribers
    | CauseFault
    | ExtendFence
    | CloseFence
    | LeaseEnded
    | LeaseRenewed
)
