"""The state of the fleet, and the pending effects of the current step. All decisions share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from streamfleet_broker.fleet.capacity.cost_table import CostTable
from streamfleet_broker.fleet.devices import Asker, Device, DevicePeer, Session
from streamfleet_broker.fleet.effects import Answer, Domain, Effect, Save, Send, SetAllowedKeys
from streamfleet_broker.fleet.event_log import EventLog
from streamfleet_broker.fleet.random_source import RandomSource
from streamfleet_broker.fleet.record_index import RecordIndex, held_key
from streamfleet_broker.fleet.records import HeldRecord, PipelineRecord, Record
from streamfleet_core.protocol.control_plane import Envelope, encode
from streamfleet_core.protocol.costs import Measured
from streamfleet_core.protocol.limits import MAX_SHADOWS
from streamfleet_core.protocol.messages import (
    BrokerMessage,
    Desired,
    Error,
    ErrorCode,
    RefusalCode,
    Refused,
    Reply,
)
from streamfleet_core.protocol.requests import ReportProcess
from streamfleet_core.protocol.tasks.trials import Shadow, Trials
from streamfleet_core.protocol.values import Observed, ObservedState

MAX_PIPELINES = 64  # a device, whatever its capacity
HEARTBEAT = 1.0  # seconds
LEASE = 10.0  # seconds
MAX_TICK = 0.5  # seconds
MAX_HELD = 10_000  # pairs of a device and a pipeline of which it may put samples


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """The configuration of the fleet. Times are in seconds.

    Two of them decide how soon silence is noticed, here and at the devices: the heartbeat and the lease. All
    others follow from these, and a device learns its own from `Welcome`.
    """

    broker_key: str  # public
    operator_key: str  # public
    endpoints: tuple[str, ...]  # of the devices' ROUTER, as named in join tokens
    subscribe_endpoints: tuple[str, ...]  # of the relay for subscribers, the best first
    relay: tuple[str, ...]  # where devices publish; `*` stands for the host by which they reached us
    pictures: tuple[str, ...]  # the same for previews
    api: str  # where devices fetch models; `*` as above
    api_fingerprint: Callable[[], str] = str  # of its certificate, "" if it has none
    heartbeat: float = HEARTBEAT  # between two reports of a device
    lease: float = LEASE  # of silence, after which a device is lost
    partition_window: float = 30.0
    partition_hold: float = 300.0  # after that, pipelines of lost devices move in spite of the suspicion
    clone_window: float = 60.0
    # After which a pipeline that fits nowhere displaces some of lower priorities; None: never.
    displace_after: float | None = 5.0
    spare: int = 0  # devices that may be lost, so that their movable pipelines fit on the others: 0 or 1

    @property
    def probe(self) -> float:
        """The silence after which a message to the device tests its connection."""
        return 1.25 * self.heartbeat

    @property
    def suspect(self) -> float:
        """The silence after which a device is suspect."""
        return 3 * self.heartbeat

    @property
    def self_stop(self) -> float:
        """When a device stops emitting: before its lease ends, so that two never run the same pipeline."""
        return 0.8 * self.lease

    @property
    def grace(self) -> float:
        """The time after the start during which no device is lost."""
        return 1.2 * self.lease

    @property
    def tick(self) -> float:
        """How often silence is looked at."""
        return min(MAX_TICK, self.lease / 20)


class State:
    """The state of the fleet. Arguments as those of `Fleet`."""

    def __init__(
        self,
        config: FleetConfig,
        epoch: int,
        records: Iterable[Record],
        random_source: RandomSource,
        *,
        now: float,
        unix_time: float,
    ) -> None:
        self.epoch = epoch
        self.config = config
        self.random_source = random_source
        self.started = now
        self.revision = 1
        self.subscribers_revision = 1
        self.network_partition_suspected = False  # most of the fleet fell silent: nothing is moved
        self._wall_ahead = unix_time - now

        self.records = RecordIndex(records)
        self.devices = {name: self._returning(name, now) for name in self.records.devices}
        self.sessions: dict[bytes, Device] = {}  # exactly the sessions in `devices`
        self.tickets: dict[str, str] = {}  # ticket → device: exactly those of the sessions
        # Pipeline → the revision in which its holder must stop or release it, until it confirms.
        self.released: dict[str, int] = {}
        self.events = EventLog()
        self.costs = CostTable(cost for model in self.records.models.values() for cost in model.costs)
        self.measured_models: frozenset[str] = frozenset()  # by digest: devices tell what their pipelines do
        self.shadows: dict[str, Shadow] = {}  # by pipeline
        self.rates: dict[str, float] = {}  # pipeline → frames/s that its sources deliver, as last observed

        self.crashing: set[str] = set()  # pipelines that crashed where they are, as far as they are known

        # Of the current step; empty between steps.
        self.immediate_effects: list[Effect] = []  # performed whether or not the store commits
        self.changed: set[str] = set()  # devices whose desired state changed
        self.after_commit: list[Effect] = []  # performed only once the writes are durable
        # Pipelines and devices that may have changed since events were last recorded.
        self.dirty_pipelines: set[str] = set()
        self.dirty_devices: set[str] = set()
        self.reported: list[ReportProcess] = []  # reports about processes

    def _returning(self, name: str, now: float) -> Device:
        """The state of a device after a restart of the broker: only one with pipelines is expected back.

        The others may have been gone for years. Counted as silent, they would stop all moves at each start.
        """
        if self.records.placed[name] or self.records.leaving[name] or self.records.standby[name]:
            return Device(name=name, revision=self.revision, state="suspect", heard=now)
        return self._away(name)

    def _away(self, name: str) -> Device:
        return Device(
            name=name, revision=self.revision, state="left" if self.records.devices[name].left else "lost"
        )

    # steps

    def finish(self) -> list[Effect]:
        """Return the effects of the step, in order."""
        effects = self.immediate_effects
        if writes := self.records.writes():
            effects.append(Save(writes))
        for name in sorted(self.changed):
            device = self.devices[name]
            if device.session is not None:
                effects.append(Send(device.session.routing_id, self.desired(device), device.session.id))
        effects += self.after_commit
        self.immediate_effects, self.changed, self.after_commit = [], set(), []
        return effects

    def undo(self, save: Save) -> None:
        """Undo a write that the store rejected.

        Revisions are not lowered: devices get their desired state again, which is harmless.
        """
        self.records.undo(save.writes)
        for subject, name in self.events.undo_step():  # part of it may have happened all the same
            (self.dirty_pipelines if subject == "pipeline" else self.dirty_devices).add(name)
        for device in self.sessions.values():
            if device.session is not None:
                device.session.confirmed = None  # what followed from it may have been undone
        for name in self.devices.keys() - self.records.devices.keys():
            del self.devices[name]
        for name in self.records.devices.keys() - self.devices.keys():
            self.devices[name] = self._away(name)

    def check(self) -> None:
        """Assert what always holds between two steps."""
        assert [self.immediate_effects, self.changed, self.after_commit] == [[], set(), []]
        self.records.check()
        self.events.check()
        assert self.devices.keys() == self.records.devices.keys()
        assert len(self.records.held) <= MAX_HELD
        sessions = {d.session.id: d for d in self.devices.values() if d.session is not None}
        assert self.sessions == sessions
        assert self.tickets == {
            device.session.ticket: name for name, device in self.devices.items() if device.session is not None
        }
        for name, device in self.devices.items():
            assert device.name == name
            assert 1 <= device.revision <= self.revision
            assert (device.session is not None) or device.state not in ("syncing", "ready"), name
            assert device.session is None or device.state in ("syncing", "ready", "suspect"), name
            assert device.heard is not None or device.state in ("new", "lost", "left"), name
            assert len(self.records.placed[name]) <= MAX_PIPELINES
            encode(Envelope(self.desired(device)))

    def change(self, record: PipelineRecord) -> None:
        """Write a new or changed pipeline, and update the desired state of all devices concerned."""
        before = self.records.pipelines.get(record.pipeline_id)
        record = record.succeeding(before)
        self.records.write(record)
        if before is None or before.spec.fixed_sources != record.spec.fixed_sources:
            self.rates.pop(record.pipeline_id, None)
        if record.device is not None and record.spec.sampling is not None:
            self._hold(record.device, record.pipeline_id)
        self.touch({device for each in (before, record) if each is not None for device in each.devices})
        self.dirty_pipelines.add(record.pipeline_id)
        taken = before is not None and record.leaving not in (None, before.leaving)
        if taken or (record.desired_status == "stop" and record.leaving is None):
            self.released[record.pipeline_id] = self.revision

    def learn(self, device: Device, measured: Measured) -> None:
        """Take what a device has measured of its pipelines, and store costs that have changed noticeably."""
        name, board = device.name, device.resources.board
        placed = self.records.placed[name]
        for pipeline_id in measured.rates.keys() & placed:
            self.rates[pipeline_id] = measured.rates[pipeline_id]
        if len(self.rates) > len(self.records.pipelines):
            self.rates = {each: rate for each, rate in self.rates.items() if each in self.records.pipelines}
        self.records.concern(name)
        own = {model.digest for each in placed for model in self.records.pipelines[each].spec.models}
        changed = self.costs.learn(name, board, (each for each in measured.costs if each.digest in own))
        if not board or not changed:
            return
        for other in self.devices.values():
            if other.resources.board == board:
                self.records.concern(other.name)
        for model in [each for each in self.records.models.values() if each.digest in changed]:
            self.records.write(replace(model, costs=self.costs.of_model(model.digest)))

    def holds(self, device: str, pipeline_id: str) -> bool:
        """Whether a device has a pipeline, or had it while it sampled frames."""
        record = self.records.pipelines.get(pipeline_id)
        now = record is not None and device in (record.device, record.leaving)
        return now or held_key(device, pipeline_id) in self.records.held

    def forget_held(self, device: str) -> None:
        """Forget which pipelines a device has had. A later device of the same name is a different one."""
        for record in [each for each in self.records.held.values() if each.device == device]:
            self.records.remove(record)
        for pipeline in [*self.records.pipelines.values()]:
            past = tuple(each for each in pipeline.past if each.device != device)
            if past != pipeline.past:
                self.records.write(replace(pipeline, past=past))

    def _hold(self, device: str, pipeline_id: str) -> None:
        """Record that a device has a pipeline that samples frames. Beyond the limit, remove the oldest."""
        held = self.records.held
        if held_key(device, pipeline_id) in held:
            return
        if len(held) >= MAX_HELD:
            self.records.remove(min(held.values(), key=lambda record: record.n))
        n = max((record.n for record in held.values()), default=0) + 1
        self.records.write(HeldRecord(device, pipeline_id, n))

    def touch(self, names: set[str | None]) -> None:
        """Mark the desired state of these devices as changed. It is sent at the end of the step."""
        if not self.changed:
            self.revision += 1
        for name in names - {None}:
            assert name is not None
            self.devices[name].revision = self.revision
            self.changed.add(name)

    def is_known_key(self, key: str) -> bool:
        """Whether a key belongs to a device, a client or the broker: one key opens one port. (S4)"""
        return (
            key in (self.config.broker_key, self.config.operator_key)
            or key in self.records.owners
            or key in self.records.tokens
            or any(key == record.public_key for record in self.records.subscribers.values())
        )

    def allowed_keys(self, domain: Domain) -> SetAllowedKeys:
        """The keys that a domain admits now."""
        match domain:
            case "devices":
                return SetAllowedKeys(
                    domain, frozenset(self.records.owners.keys() | self.records.tokens.keys())
                )
            case "relay-in":
                owners = self.records.owners.items()
                admitted = (key for key, name in owners if self.devices[name].state != "quarantined")
                return SetAllowedKeys(domain, frozenset(admitted))
            case "relay-out":
                keys = (record.public_key for record in self.records.subscribers.values())
                return SetAllowedKeys(domain, frozenset({*keys, self.config.operator_key}))
            case "operators":
                return SetAllowedKeys(domain, frozenset({self.config.operator_key}))

    def subscriber_keys(self) -> tuple[str, ...]:
        """The keys of subscribers without limits: devices cannot enforce limits."""
        subscribers = self.records.subscribers.values()
        return tuple(record.public_key for record in subscribers if not record.is_limited)

    def send(self, session: Session, message: BrokerMessage) -> None:
        """Send a message to a device, independently of the writes of the step."""
        self.immediate_effects.append(Send(session.routing_id, message, session.id))

    def refuse(self, peer: DevicePeer, session: bytes, code: RefusalCode, detail: str) -> None:
        """Refuse a message of a peer. `session`: the one that it named."""
        self.immediate_effects.append(Send(peer.routing_id, Refused(code, detail), session))

    def desired(self, device: Device) -> Desired:
        """The desired state of a device, without pipelines that another device must give up first."""
        records, ordered = self.records, device.ordered
        return Desired(
            device.revision,
            (
                *(each.assignment() for each in records.of_device(device.name) if each.is_told),
                *(each.standby_assignment() for each in records.standing_by(device.name)),
            ),
            None if ordered is None else ordered.optimisation,
            self._trials(device.name),
        )

    def _trials(self, device: str) -> Trials | None:
        """What a device tries and measures; None: nothing."""
        own = self.records.of_device(device)
        used = {record.spec.model.digest for record in own}
        measured = tuple(sorted(self.measured_models & used))
        if not measured:
            return None
        shadows = (self.shadows.get(record.pipeline_id) for record in own if record.is_told)
        return Trials(measured, tuple(each for each in shadows if each is not None)[:MAX_SHADOWS])

    def end_session(self, device: Device) -> None:
        """End a session: its messages are refused from now on, and its ticket is no longer valid."""
        session = device.session
        assert session is not None
        del self.sessions[session.id], self.tickets[session.ticket]
        device.session = None

    def absent(self) -> list[Device]:
        """The devices that are not there and not expected: those that may be gone."""
        return [each for each in self.devices.values() if each.state not in ("ready", "suspect", "syncing")]

    def is_gone(self, device: Device, now: float) -> bool:
        """Whether a device runs no movable pipeline: its lease has expired, or it never had one."""
        if device.state == "quarantined":
            assert device.heard is not None
            return now - device.heard > self.config.lease
        return device.state in ("new", "lost", "left")

    def answer(self, asker: Asker, data: object) -> None:
        """Reply to an operator that waited."""
        self.after_commit.append(Answer(asker.routing_id, asker.request_id, Reply(data)))

    def report(self, device: Device, observed: Iterable[Observed]) -> None:
        """Take what a device says of all of its pipelines."""
        device.observe(observed)
        placed = self.records.placed[device.name]
        self.crashing.update(
            name for name, entry in device.observed.items() if entry.crashes and name in placed
        )

    def mark_device_dirty(self, name: str) -> None:
        """Mark a device and its pipelines as possibly changed."""
        self.records.concern(name)
        self.dirty_devices.add(name)
        records = self.records
        self.dirty_pipelines |= records.placed[name] | records.leaving[name] | records.standby[name]

    def active_pipeline(self, pipeline_id: str) -> PipelineRecord | None:
        """A pipeline that is not being stopped."""
        record = self.records.pipelines.get(pipeline_id)
        return None if record is None or record.desired_status == "stop" else record

    def observed(self, record: PipelineRecord) -> Observed | None:
        """The last report of its device about the current run of a pipeline."""
        if record.device is None or record.leaving is not None:
            return None
        observed = self.devices[record.device].observed.get(record.pipeline_id)
        return observed if observed is not None and observed.generation >= record.run_generation else None

    def has_finished(self, record: PipelineRecord) -> bool:
        """Whether the current run has ended or failed. It no longer takes capacity."""
        observed = self.observed(record)
        return observed is not None and observed.state in (ObservedState.ENDED, ObservedState.FAILED)

    def has_ended(self, record: PipelineRecord) -> bool:
        """Whether the current run has ended."""
        observed = self.observed(record)
        return observed is not None and observed.state == ObservedState.ENDED

    def wall(self, now: float) -> float:
        """Unix seconds at `now`."""
        return now + self._wall_ahead

    def no_device(self, name: str, code: ErrorCode = "invalid") -> Error:
        known = ", ".join(sorted(self.devices)) or "none"
        return Error(code, f"no device {name}, the known ones are: {known}")


def no_pipeline(pipeline_id: str) -> Error:
    return Error("not_found", f"no pipeline {pipeline_id}")
