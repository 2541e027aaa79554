"""The rows of the broker's store: what survives a kill -9. All else is learnt again from the devices."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamfleet_broker.protocol.reference import is_movable
from streamfleet_broker.protocol.values import (
    CurveKey,
    Id,
    Labels,
    ModelRef,
    Natural,
    OnDisconnect,
    PipelineSpec,
    Want,
    Wish,
)


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """A device that has enrolled."""

    device: Id
    public_key: CurveKey
    short_id: Natural  # in the header of the data plane
    left: bool = False  # said goodbye, and has not been back: for people, nothing is decided by it
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """The right to enrol, once."""

    public_key: CurveKey  # of the one-time key pair
    device: Id
    expires_at: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class PipelineRecord:
    """A pipeline wished for. One row holds all that fences it."""

    pipeline_id: Id
    gen: Natural  # +1 at any change of device, spec or want
    start_gen: Natural  # the gen at which playing must begin anew
    want: Want  # `stop` until the device confirms that the pipeline is gone
    spec: PipelineSpec
    requested: Id | None  # the device that was asked for by name
    device: Id | None  # where it runs; None: nowhere yet
    created: Natural  # orders pipelines by age
    changed_by: bytes = b""  # the request behind this wish, which may be asked again when its answer got lost
    selector: Labels = field(default_factory=dict)  # of the devices that it may run on
    labels: Labels = field(default_factory=dict)
    version: Natural = 0  # +1 at any change of what is wished for; moving is none
    created_at: float = 0.0  # Unix seconds
    # The device that it is taken from. Nobody else is told of it until that one has confirmed that it is
    # absent there, or has lost it with its lease.
    leaving: Id | None = None

    @property
    def pinned(self) -> bool:
        """Does it stay on its device whatever happens to that?"""
        return self.requested is not None or not all(
            is_movable(source.reference) for source in self.spec.sources
        )

    @property
    def holder(self) -> str | None:
        """The device on which it may be running."""
        return self.device if self.leaving is None else self.leaving

    def wish(self) -> Wish:
        """What its device is told."""
        on_disconnect: OnDisconnect = "continue" if self.pinned else "stop"
        return Wish(self.pipeline_id, self.gen, self.start_gen, self.want, on_disconnect, self.spec)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A request to create that may be made again under its key."""

    key: str
    digest: str  # of what was asked for
    pipeline_id: Id  # what was made of it
    created_at: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class SubscriberRecord:
    """A program that may subscribe over TCP."""

    name: Id
    public_key: CurveKey


@dataclass(frozen=True, slots=True)
class FloorRecord:
    """No pipeline that is made from now on has a gen as low as this, so that an id may come again."""

    gen: Natural


Record = DeviceRecord | TokenRecord | PipelineRecord | KeyRecord | SubscriberRecord | FloorRecord | ModelRef

KINDS: dict[str, type[Record]] = {
    "device": DeviceRecord,
    "token": TokenRecord,
    "pipeline": PipelineRecord,
    "key": KeyRecord,
    "subscriber": SubscriberRecord,
    "model": ModelRef,
    "floor": FloorRecord,
}


@dataclass(frozen=True, slots=True)
class Write:
    """One row as it was and as it is to be; None where there is none."""

    kind: str
    key: str
    before: Record | None
    after: Record | None
