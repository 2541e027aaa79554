"""The rows of the broker's store, which survive a crash. Everything else is learnt again from the devices."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from msgspec import Meta

from streamfleet_core.protocol.costs import BoardCost
from streamfleet_core.protocol.source_reference import is_movable
from streamfleet_core.protocol.tasks.rollouts import Phase, RolloutPlan
from streamfleet_core.protocol.values import (
    Assignment,
    CurveKey,
    DesiredStatus,
    Id,
    Labels,
    ModelId,
    ModelRef,
    Natural,
    OnDisconnect,
    PipelineSpec,
    Reason,
    Sha256,
)
from streamfleet_core.rollout.rollout import Progress

MAX_PAST = 16  # former holders of a pipeline
MAX_CRASH_LOOPS = 2  # devices on which a pipeline crashes again and again, before it stops


@dataclass(frozen=True, slots=True)
class Drain:
    """An operator wants all pipelines moved away from a device."""

    # Unix seconds from which on nothing is waited for: files begin again elsewhere, and others move although
    # no device got ready for them. None: never.
    force_at: float | None = None


@dataclass(frozen=True, slots=True)
class Standby:
    """The other device of a pipeline that moves. It has the pipeline paused, in a run of its own."""

    device: Id
    run_generation: Natural


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """A device that has enrolled."""

    device: Id
    public_key: CurveKey
    short_id: Natural  # in the header of the data plane
    left: bool = False  # signed off and has not returned; informational only
    labels: Labels = field(default_factory=dict)
    cordoned: bool = False  # no pipeline is placed on it
    drain: Drain | None = None  # its pipelines are moved away; only of a cordoned device


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """The right to enroll once."""

    public_key: CurveKey  # of the one-time key pair
    device: Id
    expires_at: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class Tenure:
    """A device had a pipeline, up to a generation. It may replay what it sent then."""

    device: Id
    generation: Natural  # the last one


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """A pipeline crashed too often in a row on a device."""

    device: Id
    crashes: Natural
    reason: Reason = ""  # of the last one


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRecord:
    """A desired pipeline, with everything that fences it in one row."""

    pipeline_id: Id
    generation: Natural  # +1 at any change of device, spec or desired status
    run_generation: Natural  # the generation at which the current run starts
    desired_status: DesiredStatus  # `stop` until the device confirms that the pipeline is gone
    spec: PipelineSpec
    requested: Id | None  # the device requested by name
    device: Id | None  # the device that it is assigned to; None: none yet
    created: Natural  # orders pipelines by age
    changed_by: bytes = b""  # the request that made this version, to recognise a retry of it
    selector: Labels = field(default_factory=dict)  # of the devices that it may run on
    labels: Labels = field(default_factory=dict)
    requested_on_disconnect: OnDisconnect | None = None  # None: as its device and its sources require
    version: Natural = 0  # +1 at any change by an operator; moving is none
    created_at: float = 0.0  # Unix seconds
    # The device that must give it up. No other device is told of it until this one has confirmed that it no
    # longer runs it, or has lost its lease.
    leaving: Id | None = None
    past: Annotated[tuple[Tenure, ...], Meta(max_length=MAX_PAST)] = ()  # the former holders, oldest first
    # While it moves: first the device that gets ready; then, once both are swapped, the one that it leaves.
    standby: Standby | None = None
    displaced: str = ""  # by what, until it has a device again; for users
    # Where it crashed too often, since an operator changed or resumed it, or since it last ran well for long.
    crash_loops: Annotated[tuple[CrashLoop, ...], Meta(max_length=MAX_CRASH_LOOPS)] = ()

    @property
    def pinned(self) -> bool:
        """Whether it never moves from its device: another one must not run it while this one may."""
        return (
            self.requested is not None
            or self.requested_on_disconnect == "continue"
            or not all(is_movable(source.reference) for source in self.spec.sources)
        )

    @property
    def is_poison(self) -> bool:
        """Whether it is stopped, as it crashes wherever it runs. It has no device."""
        return len(self.crash_loops) >= MAX_CRASH_LOOPS

    @property
    def on_disconnect(self) -> OnDisconnect:
        """What it does on a device that has lost the broker."""
        return self.requested_on_disconnect or ("continue" if self.pinned else "stop")

    @property
    def holder(self) -> str | None:
        """The device on which it may be running."""
        return self.device if self.leaving is None else self.leaving

    @property
    def held_generation(self) -> int:
        """The generation up to which its holder has it. While it moves, the next device has the new one."""
        return self.generation if self.leaving is None else self.generation - 1

    def succeeding(self, before: PipelineRecord | None) -> PipelineRecord:
        """The same, with the former holders of the version before."""
        if before is None:
            return self
        past = before.past
        if before.holder is not None and before.holder != self.holder:
            past = (*past, Tenure(before.holder, before.held_generation))[-MAX_PAST:]
        return self if past == self.past else replace(self, past=past)

    @property
    def is_arriving(self) -> bool:
        """Whether another device gets ready to take it over."""
        return self.standby is not None and self.leaving is None

    @property
    def is_told(self) -> bool:
        """Whether its device is sent it. With a standby, another device that has it emits nothing."""
        return self.leaving is None or self.standby is not None

    @property
    def devices(self) -> set[str | None]:
        """The devices that are told of it, apart from one that it leaves."""
        return {self.device, None if self.standby is None else self.standby.device}

    def assignment(self) -> Assignment:
        """The assignment that its device is sent."""
        return self._assignment(self.run_generation, standby=self.leaving is not None)

    def standby_assignment(self) -> Assignment:
        """The assignment that the device of its standby is sent."""
        assert self.standby is not None
        return self._assignment(self.standby.run_generation, standby=True)

    def _assignment(self, run_generation: int, *, standby: bool) -> Assignment:
        return Assignment(
            pipeline_id=self.pipeline_id,
            generation=self.generation,
            run_generation=run_generation,
            desired_status="pause" if standby else self.desired_status,
            on_disconnect=self.on_disconnect,
            spec=self.spec,
            standby=standby,
        )


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An idempotency key of a request to create a pipeline."""

    key: str
    digest: str  # of the request
    pipeline_id: Id  # the pipeline that it created
    created_at: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class SubscriberRecord:
    """A program that may subscribe over TCP: to all pipelines, or to those that are named or selected."""

    name: Id
    public_key: CurveKey
    pipelines: tuple[Id, ...] = ()
    selector: Labels = field(default_factory=dict)

    @property
    def is_limited(self) -> bool:
        """Whether it may receive only some pipelines."""
        return bool(self.pipelines or self.selector)


@dataclass(frozen=True, slots=True)
class FloorRecord:
    """The highest generation of all removed pipelines. New ones start above it: an id can be reused."""

    generation: Natural


@dataclass(frozen=True, slots=True)
class HeldRecord:
    """A device has or had a pipeline that samples frames. It may upload its samples even much later."""

    device: Id
    pipeline_id: Id
    n: Natural  # orders records by age


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A registered model, and what its pipelines cost, by kind of device."""

    id: ModelId
    digest: Sha256  # of the manifest
    costs: tuple[BoardCost, ...] = ()

    @property
    def ref(self) -> ModelRef:
        """The reference to the model."""
        return ModelRef(self.id, self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """A roll-out of a model."""

    id: Id
    plan: RolloutPlan
    canaries: Natural  # pipelines that go first
    n: Natural  # orders roll-outs by age
    created_at: float  # Unix seconds
    phase: Phase = "measuring"
    reason: str = ""
    ended_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledOutRecord:
    """How far one pipeline of a roll-out is."""

    rollout: Id
    pipeline_id: Id
    n: Natural  # its place in the order
    progress: Progress


Record = (
    DeviceRecord
    | TokenRecord
    | PipelineRecord
    | KeyRecord
    | SubscriberRecord
    | FloorRecord
    | HeldRecord
    | ModelRecord
    | RolloutRecord
    | RolledOutRecord
)

KINDS: dict[str, type[Record]] = {
    "device": DeviceRecord,
    "token": TokenRecord,
    "pipeline": PipelineRecord,
    "key": KeyRecord,
    "subscriber": SubscriberRecord,
    "model": ModelRecord,
    "floor": FloorRecord,
    "held": HeldRecord,
    "rollout": RolloutRecord,
    "rolled_out": RolledOutRecord,
}


@dataclass(frozen=True, slots=True)
class Write:
    """A change of one row. `before` and `after` are None where there is no row."""

    kind: str
    key: str
    before: Record | None
    after: Record | None
