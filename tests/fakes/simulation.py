"""A fleet in virtual time: the real `Fleet`, `Session` and `Reconcile`, and everything between them bad.

Links lose, double, reorder and hold back messages; devices are cut off and suspended; agents and the broker
are killed and stopped; the store takes no writes, or is full; a broker that was replaced comes back and does
not know it. What is small and honest here are the cameras: they emit when the rules let them, and obey when
they get round to it.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from streamfleet_broker.fleet.capacity.placement import meets
from streamfleet_broker.fleet.devices import DevicePeer, OperatorPeer
from streamfleet_broker.fleet.effects import Answer, Effect, RaiseEpoch, Save
from streamfleet_broker.fleet.effects import Send as BrokerSend
from streamfleet_broker.fleet.fleet import Fleet
from streamfleet_broker.fleet.records import (
    DeviceRecord,
    PipelineRecord,
    Record,
    RolledOutRecord,
    RolloutRecord,
    Write,
)
from streamfleet_core.protocol.control_plane import Envelope
from streamfleet_core.protocol.messages import Heartbeat, Hello, Reply
from streamfleet_core.protocol.requests import (
    Change,
    Changed,
    ChangePipeline,
    ChangePipelines,
    CordonDevice,
    CreatePipeline,
    DeviceView,
    DrainDevice,
    GetEvents,
    LabelDevice,
    ListDevices,
    ListPipelines,
    OperatorRequest,
    PipelineView,
    Put,
    PutPipeline,
    Rebalance,
    RebalanceDevices,
    RestartPipeline,
    pack_request,
)
from streamfleet_core.protocol.status import SourceStat
from streamfleet_core.protocol.tasks.rollouts import (
    OVER,
    CancelRollout,
    RolloutLimits,
    RolloutPlan,
    RolloutView,
    StartRollout,
)
from streamfleet_core.protocol.values import (
    PRIORITIES,
    Assignment,
    Manifest,
    ModelRef,
    Observed,
    ObservedState,
    PipelineSpec,
    SourceSpec,
    Weights,
)
from streamfleet_worker.decisions import reconcile_actions, reconcile_events, session_effects
from streamfleet_worker.decisions.broker_session import Session
from streamfleet_worker.decisions.reconcile_events import CameraId, ChildId, EngineId, Row
from streamfleet_worker.decisions.reconciler import Reconcile
from streamfleet_worker.ipc.child_messages import CameraReport, EngineReport, PublisherReport
from tests.fakes.scripted_fleet import CONFIG, CountingRandomSource, devices, key_of

FAULTS = 150.0  # seconds
QUIET = 45.0  # seconds; the longest back-off, a lease and a start fit in
SHORT = 40  # frames of a file
MANIFEST = Manifest(
    family="yolox", labels=("person",), input_width=416, input_height=416, weights=Weights("cd" * 32, 100)
)
NAMES = ("a", "b", "c")
MORE_NAMES = (*NAMES, "d")  # enough that most of them may fall silent while one is there
MAJORITY = 3  # silent devices: fewer are never taken for a failure of our network
SAID = 500  # heartbeats of a device that may arrive once more
WAKING = 0.3  # seconds, in which an agent that wakes up has a turn
NOTICED = 2.1  # seconds of a sleep: more than an agent takes for a turn of its own
SURELY = 1.0  # seconds beyond the silence of a suspect, after which nobody doubts that a device is silent
SHORT_LEASE = replace(CONFIG, heartbeat=0.3, lease=3.0)
SITES: tuple[dict[str, str], ...] = (
    {},
    {},
    {"site": "x"},
    {"site": "y"},
)  # labels of devices, and what pipelines ask of them
RUNNING, PAUSED, ENDED = ObservedState.RUNNING, ObservedState.PAUSED, ObservedState.ENDED


OLD, NEW = ModelRef("parts/1", MANIFEST.digest), ModelRef("parts/2", "ef" * 32)
LIMITS = RolloutLimits(observe=4.0, shadow=0.0, start=10.0)  # of roll-outs
RETURNING = 30.0  # seconds beyond the quiet, in which the last roll-outs go back
# What the new model of a world is; good: it is as good as the old one.
MODELS = ("good", "good", "blind", "crashing", "missing")


class Violation(AssertionError):
    """A promise that was broken, and when."""


def spec(reference: str) -> PipelineSpec:
    return PipelineSpec(model=OLD, sources=(SourceSpec(reference),))


SPECS = {
    "door": spec("rtsp://10.0.0.9/door"),
    "gate": spec("rtsp://10.0.0.9/gate"),
    "yard": spec("TestPatternStreamProducer"),
    "disk": spec("/videos/long.mp4"),
    "clip": spec("/videos/short.mp4"),
}


class World:
    """The clock, the dice, and what an observer who sees everything has seen."""

    def __init__(self, seed: int, *, moves: bool = False, rolls: bool = False) -> None:
        self.rng = random.Random(seed)
        self.moving = random.Random(seed)  # of what moves on purpose
        self.rolling = random.Random(seed)  # of roll-outs
        self.new_model = self.rolling.choice(MODELS) if rolls else ""
        self.moves_on_purpose = moves
        self.capacity = 2 if moves else len(SPECS)  # of each device
        self.now = 0.0
        self.config = SHORT_LEASE if seed % 5 == 4 else CONFIG
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.names = NAMES if seed % 4 else MORE_NAMES
        self.routing_ids = itertools.count(1)
        self.faulty = True
        self.rough = self.rng.choice([0.0, 1.0, 3.0])  # how often things go wrong beside the great faults
        self.broker = Broker(self)
        self.stale: StaleBroker | None = None
        self.workers = {name: Worker(self, name) for name in self.names}
        self.emitted: dict[str, tuple[int, int, int]] = {}  # pipeline → last key of a movable one
        self.created: dict[str, int] = {}  # pipeline → its first generation since it was created last
        self.stopped: dict[str, tuple[int, int]] = {}  # pipeline → generations that a confirmed stop ended
        # Pipeline → the generation at which another run replaced a pinned one. What is pinned goes on
        # where it is cut off, and no stop of the new run can speak for the old one: its generation fences it.
        self.replaced: dict[str, int] = {}
        self.ended: set[tuple[str, int]] = set()  # pipelines and the run_generation that came to its end
        self.moves = 0
        self.handovers = 0  # from devices that were there
        self.crashes_until: dict[str, float] = {}  # pipelines whose cameras crash at their start
        self.given_up = 0  # pipelines that were stopped because they crashed on two devices
        self.displaced = 0  # taken from a device for a higher priority
        self.prepared = 0  # those of them to devices that had got ready before
        # Roll-out and pipeline → the generation under which it has the new model, until it has run so.
        self.unproven: dict[tuple[str, str], int] = {}
        self.switched = 0  # pipelines that a roll-out gave another model

    def after(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._count), what))

    def run_until(self, end: float) -> None:
        while self._events and self._events[0][0] <= end:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = end

    def chance(self, probability: float) -> bool:
        """Something bad, with about this probability while there are faults."""
        return self.faulty and self.rng.random() < probability * self.rough

    def broker_of(self, worker: Worker) -> Broker:
        """The broker that a device reaches. One that has seen the new one may reach the stale one, too."""
        stale = self.stale
        if stale is not None and worker.seen_epoch >= self.broker.epoch and self.rng.random() < 0.3:
            return stale
        return self.broker

    # what an observer asserts

    def see(self, worker: Worker, camera: Camera) -> None:
        """A camera emits."""
        if worker.is_waking():
            return
        pid, key = camera.id.pipeline_id, (camera.generation, camera.id.incarnation, camera.seq)
        if (pid, camera.assignment.run_generation) in self.ended:
            raise Violation(f"{self.now:.2f}: {pid} of {worker.name} plays a file again that had ended")
        first, last = self.stopped.get(pid, (1, 0))
        if not camera.fenced:
            first = max(first, self.replaced.get(pid, 0))
        if first <= camera.generation <= last:
            raise Violation(f"{self.now:.2f}: I4, {pid} emits on {worker.name} after a confirmed stop")
        if not camera.fenced:
            return
        for other in self.workers.values():
            if (
                other is not worker
                and not other.is_waking()
                and any(
                    rival.fenced and rival.emits()
                    for rival in other.cameras.values()
                    if rival.id.pipeline_id == pid
                )
            ):
                raise Violation(f"{self.now:.2f}: I2, {pid} runs on {worker.name} and {other.name}")
        if key <= self.emitted.get(pid, (0, 0, 0)):
            raise Violation(f"{self.now:.2f}: I1, {pid} emits {key} after {self.emitted[pid]}")
        if self.emitted.get(pid, key)[0] != key[0]:
            self.moves += 1
        self.emitted[pid] = key

    def converged(self) -> None:
        """I3: what runs is what the store holds."""
        rows = [row for row in self.broker.rows.values() if isinstance(row, PipelineRecord)]
        desired = {
            (row.device, row.pipeline_id): (
                row.generation,
                PAUSED if row.desired_status == "pause" else RUNNING,
            )
            for row in rows
            if row.desired_status != "stop" and (row.pipeline_id, row.run_generation) not in self.ended
            if not row.is_poison
            if not self.fails(row.spec.model)
            if row.device is not None or self.has_home(row)
        }
        there = {
            (worker.name, camera.id.pipeline_id): (camera.generation, camera.state)
            for worker in self.workers.values()
            for camera in worker.cameras.values()
            if camera.state is not ENDED
            if not self.fails(self.desired_model(camera))
        }
        if desired != there:
            raise Violation(f"{self.now:.2f}: I3, {desired.items() ^ there.items()} differ")
        assert self.broker.fleet is not None
        held = [row.pipeline_id for row in rows if row.leaving is not None]
        if held:
            raise Violation(f"{self.now:.2f}: I3, {held} were taken from a device and never given free")
        moving = [row.pipeline_id for row in rows if row.standby is not None]
        if moving:
            raise Violation(f"{self.now:.2f}: I3, {moving} have a standby that never takes over")
        stops = [row.pipeline_id for row in rows if row.desired_status == "stop"]
        if stops:
            raise Violation(f"{self.now:.2f}: I3, {stops} were stopped and never confirmed")
        self.replay()
        self.check()

    def see_rollouts(self, writes: Iterable[Write]) -> None:
        """R1: no more pipelines have another model by a roll-out, and have not run so, than may be down."""
        rows = self.broker.rows
        for write in writes:
            if not isinstance(write.after, RolledOutRecord):
                continue
            address = (write.after.rollout, write.after.pipeline_id)
            progress, pipeline = write.after.progress, rows.get(("pipeline", write.after.pipeline_id))
            if progress.stage not in ("switched", "good"):
                self.unproven.pop(address, None)
            elif progress.stage == "switched" and progress.is_judged and isinstance(pipeline, PipelineRecord):
                self.switched += address not in self.unproven
                self.unproven.setdefault(address, pipeline.generation)
        counts = Counter(rollout for rollout, _ in self.unproven)
        for rollout, count in counts.items():
            row = rows["rollout", rollout]
            assert isinstance(row, RolloutRecord)
            if row.phase in ("canary", "waves") and count > row.plan.max_unavailable:
                names = [name for of, name in self.unproven if of == rollout]
                raise Violation(f"{self.now:.2f}: R1, {names} may be down by {rollout} at the same time")

    def fails(self, model: ModelRef) -> bool:
        """Whether nothing can use this model."""
        return model == NEW and self.new_model in ("crashing", "missing")

    def desired_model(self, camera: Camera) -> ModelRef:
        row = self.broker.rows.get(("pipeline", camera.id.pipeline_id))
        return row.spec.model if isinstance(row, PipelineRecord) else camera.model

    def saw_running(self, camera: Camera) -> None:
        """A camera infers frames under its generation."""
        for (rollout, pipeline_id), generation in list(self.unproven.items()):
            if pipeline_id == camera.id.pipeline_id and camera.generation >= generation:
                del self.unproven[rollout, pipeline_id]

    def rolled_out(self) -> None:
        """R2: each roll-out is over, and each pipeline has the model, and uses it, on which that left it."""
        rows = list(self.broker.rows.values())
        rollouts = {row.id: row for row in rows if isinstance(row, RolloutRecord)}
        going_on = [row.id for row in rollouts.values() if row.phase not in OVER]
        if going_on:
            raise Violation(f"{self.now:.2f}: R2, {going_on} never end")
        targets = [row for row in rows if isinstance(row, RolledOutRecord) and row.progress.stage != "gone"]
        last: dict[str, RolledOutRecord] = {}
        for target in sorted(targets, key=lambda each: rollouts[each.rollout].n):
            last[target.pipeline_id] = target
        for pipeline in (row for row in rows if isinstance(row, PipelineRecord)):
            known, rollout = {OLD}, None
            if pipeline.pipeline_id in last:
                rollout = rollouts[last[pipeline.pipeline_id].rollout]
                plan = rollout.plan
                known = {"done": {plan.new}, "returned": {plan.old}}.get(rollout.phase, {plan.old, plan.new})
            if rollout is not None and pipeline.created_at > (rollout.ended_at or 0.0):
                known = {OLD}
            if rollout is None and any(isinstance(row, RolledOutRecord) for row in rows):
                known = {OLD, NEW}  # the roll-out that gave it a model lost sight of it, or is forgotten
            if pipeline.spec.model not in known:
                raise Violation(f"{self.now:.2f}: R2, {pipeline.pipeline_id} has {pipeline.spec.model.id}")
        self.in_use({row.pipeline_id: row for row in rows if isinstance(row, PipelineRecord)})

    def in_use(self, pipelines: dict[str, PipelineRecord]) -> None:
        """Each camera uses the model of its pipeline; if that can never work, the one before."""
        for worker in self.workers.values():
            for camera in worker.cameras.values():
                desired = pipelines[camera.id.pipeline_id].spec.model
                if camera.model != desired and not self.fails(desired):
                    raise Violation(
                        f"{self.now:.2f}: R2, {camera.id} uses {camera.model.id} instead of {desired.id}"
                    )

    def replay(self) -> None:
        """Who followed the events knows how everything stands."""
        stands: dict[tuple[str, str], str] = {}
        for event in self.broker.answer_of(GetEvents()).events:
            before = stands.setdefault((event.subject, event.id), event.previous or "gone")
            if before != (event.previous or "gone"):
                raise Violation(f"{event} comes after {before}")
            stands[event.subject, event.id] = event.state
        pipelines = {
            ("pipeline", view.pipeline_id): view.status for view in self.broker.answer_of(ListPipelines())
        }
        known = {**dict.fromkeys(stands, "gone"), **pipelines}
        known |= {("device", view.device): view.state for view in self.broker.answer_of(ListDevices())}
        wrong = {address: state for address, state in stands.items() if known[address] != state}
        if wrong:
            raise Violation(f"{self.now:.2f}: the events say {wrong}, and it is {known}")

    def has_home(self, row: PipelineRecord) -> bool:
        """Is there a device for a pipeline, with room?"""
        rows = self.broker.rows.values()
        found = [device for device in rows if isinstance(device, DeviceRecord)]
        taken = Counter(each.device for each in rows if isinstance(each, PipelineRecord))
        return any(
            meets(device.labels, row.selector)
            and not device.cordoned
            and taken[device.device] < self.capacity
            for device in found
        )

    def check(self) -> None:
        """The invariants of every part."""
        if self.broker.fleet is not None:
            self.broker.fleet.check()
        for worker in self.workers.values():
            if worker.session is not None and worker.reconcile is not None:
                worker.session.check()
                worker.reconcile.check()


@dataclass
class Way:
    """One direction of a connection, which keeps the order."""

    free_at: float = 0.0  # when what was sent last arrives


@dataclass(eq=False)
class Connection:
    """A socket of a worker. Its routing id is the connection's that it has at present."""

    worker: Worker
    closed: bool = False
    routing_id: bytes | None = None  # None: not connected
    broker: Broker | None = None  # the one that it was connected to last
    up: Way = field(default_factory=Way)
    down: Way = field(default_factory=Way)


class Broker:
    """The broker's process, and its disk."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: dict[tuple[str, str], Record] = {("device", d.device): d for d in devices(*world.names)}
        self.epoch = 0
        self.fleet: Fleet | None = None
        self.random_source = CountingRandomSource()
        self.connections: dict[bytes, Connection] = {}
        self.heard: dict[str, float] = {}  # device → when its last message was handled
        self.frozen_until = 0.0
        self.store_down_until = 0.0
        self.store_full_until = 0.0
        self.asked: dict[bytes, OperatorRequest] = {}
        self.is_asked = False  # what it does now, an operator has asked for
        self.boot()

    def boot(self) -> None:
        self.epoch += 1
        now = self.world.now
        self.fleet = Fleet(
            self.world.config, self.epoch, self.rows.values(), self.random_source, now=now, unix_time=now
        )
        self.perform(self.fleet.start())
        self.tick_of(self.fleet)

    def crash(self, for_seconds: float) -> None:
        """kill -9. Connections break; workers connect again by themselves."""
        if self.fleet is None:
            return
        self.fleet = None
        self.hang_up()
        self.asked.clear()
        self.world.after(for_seconds, self.boot)

    def hang_up(self) -> None:
        """All connections break."""
        for connection in self.connections.values():
            connection.routing_id = None
            self.world.workers[connection.worker.name].connect(connection)
        self.connections.clear()

    def replace(self, for_seconds: float) -> None:
        """Another broker takes over the store at once. This one stands still, and then goes on."""
        if self.fleet is None or self.world.stale is not None:
            return
        stale = self.fleet
        self.hang_up()
        self.asked.clear()
        self.boot()
        self.world.stale = StaleBroker(self.world, stale, for_seconds)

    def tick_of(self, fleet: Fleet) -> None:
        if self.fleet is fleet:
            self.run(lambda fleet: self.perform(fleet.tick(self.world.now)))
            self.world.after(self.world.config.tick, lambda: self.tick_of(fleet))

    def run(self, what: Callable[[Fleet], None]) -> None:
        """Do it as soon as the process runs, if it is still the same."""
        fleet = self.fleet

        def do() -> None:
            if fleet is None or self.fleet is not fleet:
                return
            if self.frozen_until > self.world.now:
                self.world.after(self.frozen_until - self.world.now, do)
            else:
                what(fleet)

        do()

    def hear(self, worker: Worker, routing_id: bytes, envelope: Envelope) -> None:
        peer = DevicePeer(routing_id, key_of(worker.name))

        def receive(fleet: Fleet) -> None:
            self.heard[worker.name] = self.world.now
            self.perform(fleet.receive(peer, envelope, self.world.now))

        self.run(receive)

    def ask(self, request: OperatorRequest) -> None:
        def receive(fleet: Fleet) -> None:
            request_id = self.random_source.session()
            self.asked[request_id] = request
            envelope = Envelope(pack_request(request), request_id=request_id)
            self.is_asked = True
            self.perform(fleet.receive(OperatorPeer(b"operator"), envelope, self.world.now))
            self.is_asked = False

        self.run(receive)

    def answer_of(self, request: OperatorRequest) -> Any:
        """What an operator is told now."""
        assert self.fleet is not None
        envelope = Envelope(pack_request(request), request_id=self.random_source.session())
        effects = self.fleet.receive(OperatorPeer(b"observer"), envelope, self.world.now)
        (answer,) = (effect for effect in effects if isinstance(effect, Answer))
        assert isinstance(answer.message, Reply)
        return answer.message.data

    def perform(self, effects: list[Effect]) -> None:
        fleet = self.fleet
        assert fleet is not None
        for position, effect in enumerate(effects):
            if isinstance(effect, Save):
                if self.world.chance(0.01):
                    self.crash(self.world.rng.uniform(0.1, 5))
                    return
                if not self.takes(effect):
                    self.perform(fleet.commit_failed(effect, effects[position + 1 :]))
                    return
                self.save(effect)
                if self.world.chance(0.01):
                    self.crash(self.world.rng.uniform(0.1, 5))
                    return
            elif isinstance(effect, RaiseEpoch):
                if self.store_down_until <= self.world.now:
                    self.epoch = effect.epoch
                    fleet.epoch_committed(effect.epoch)
            elif isinstance(effect, BrokerSend):
                self.send(fleet, effect)
            elif isinstance(effect, Answer):
                self.answer(effect)

    def takes(self, save: Save) -> bool:
        """Does the store take these writes? One that is full still takes what removes rows only."""
        now = self.world.now
        if self.store_down_until > now or self.world.chance(0.01):
            return False
        return self.store_full_until <= now or all(write.after is None for write in save.writes)

    def save(self, save: Save) -> None:
        for write in save.writes:
            if write.after is None:
                del self.rows[write.kind, write.key]
            else:
                self.rows[write.kind, write.key] = write.after
            if isinstance(write.after, PipelineRecord):
                self.note(write.before, write.after)
        self.world.see_rollouts(save.writes)

    def note(self, before: Record | None, after: PipelineRecord) -> None:
        """What an observer must know of a change."""
        world = self.world
        if not isinstance(before, PipelineRecord):
            world.created[after.pipeline_id] = after.generation
            return
        if before.pinned and before.run_generation != after.run_generation:
            world.replaced[after.pipeline_id] = after.run_generation
        if before.leaving is not None and after.leaving is None and after.device is not None:
            world.handovers += 1
            world.prepared += before.standby is not None
        world.given_up += after.is_poison and not before.is_poison
        world.displaced += bool(after.displaced) and after.displaced != before.displaced
        moved = before.device not in (None, after.device) and not self.is_asked
        if moved and self.most_fell_silent(before.device):
            raise Violation(f"{world.now:.2f}: I6, {after.pipeline_id} moved while most were silent at once")

    def most_fell_silent(self, device: str | None) -> bool:
        """Did this device and most of the fleet fall silent together, a lease ago or so, and still are?"""
        world, lease = self.world, self.world.config.lease
        assert self.fleet is not None
        # A broker knows nothing of a device without pipelines that has not come back since its start.
        known = {name for name, each in self.fleet._state.devices.items() if each.heard is not None}
        silences = {name: world.now - heard for name, heard in self.heard.items() if name in known}
        if device not in silences or silences[device] < lease:
            return False
        least = world.config.suspect + SURELY
        silent = sum(least < silence < lease + least for silence in silences.values())
        return silent >= MAJORITY and silent > len(world.names) - silent

    def send(self, fleet: Fleet, send: BrokerSend) -> None:
        connection = self.connections.get(send.routing_id)
        envelope = fleet.envelope(send)
        assert envelope is not None
        if connection is None and self.world.rng.random() < 0.5:
            fleet.unsent(send, gone=True)
        elif self.world.chance(0.01) or (connection is not None and connection.worker.is_clogged()):
            fleet.unsent(send, gone=False)
        else:
            fleet.sent(send)
            if connection is not None:
                self.world.workers[connection.worker.name].transmit_down(connection, envelope)

    def answer(self, answer: Answer) -> None:
        """What an operator hears is true, and durable."""
        request = self.asked.pop(answer.request_id, None)
        if request is None or not isinstance(answer.message, Reply):
            return
        data: Any = answer.message.data
        if isinstance(data, DeviceView | Rebalance | RolloutView):
            return
        if isinstance(request, ChangePipelines):
            assert tuple(outcome.pipeline_id for outcome in data) == request.pipeline_ids
            return
        view = data.pipeline if isinstance(data, Changed | Put) else data
        assert isinstance(view, PipelineView)
        row = self.rows.get(("pipeline", view.pipeline_id))
        if view.desired_status != "stop" or not isinstance(data, Changed) or not data.confirmed:
            if isinstance(row, PipelineRecord) and row.generation < view.generation:
                raise Violation(f"{self.world.now:.2f}: I5, {view} was answered, and the store has {row}")
            if row is None and view.pipeline_id not in self.world.created:
                raise Violation(f"{self.world.now:.2f}: I5, {view} was answered, and never stored")
        else:
            self.world.stopped[view.pipeline_id] = (self.world.created[view.pipeline_id], view.generation)


class StaleBroker(Broker):
    """A broker that was replaced while it stood still. It goes on, and the store takes no write of it."""

    def __init__(self, world: World, fleet: Fleet, for_seconds: float) -> None:
        self.world = world
        self.fleet = fleet
        self.connections = {}
        self.heard = {}
        self.frozen_until = world.now + for_seconds / 2
        self.asked = {}
        self.tick_of(fleet)
        world.after(for_seconds, self.end)

    def end(self) -> None:
        """Somebody notices."""
        self.fleet = None
        self.world.stale = None
        self.hang_up()

    def perform(self, effects: list[Effect]) -> None:
        fleet = self.fleet
        assert fleet is not None
        for position, effect in enumerate(effects):
            if isinstance(effect, Save):
                self.perform(fleet.commit_failed(effect, effects[position + 1 :]))
                return
            if isinstance(effect, BrokerSend):
                self.send(fleet, effect)


@dataclass(eq=False)
class Camera:
    """A camera process."""

    worker: Worker
    id: CameraId
    assignment: Assignment
    generation: int
    desired_status: str
    state: ObservedState = ObservedState.STARTING
    seq: int = 0
    told_to_stop: bool = False
    model: ModelRef = OLD
    objects: int = 0

    @property
    def fenced(self) -> bool:
        return self.assignment.on_disconnect == "stop"

    def emits(self) -> bool:
        """Could it emit right now?"""
        if self.state is not RUNNING or self.worker.suspended_until > self.worker.world.now:
            return False
        return not self.fenced or self.worker.fence_until > self.worker.boot_time()


class Worker:
    """A device: its agent, its cameras, its disk, and the wire to the broker."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.offset = world.rng.uniform(0, 1e6)  # of its BOOTTIME
        self.is_old = name == NAMES[0] and world.moving.random() < 0.5  # it knows no standby
        self.rows: dict[str, Row] = {}
        self.seen_epoch = 0
        self.life = 0  # +1 at each start of the agent; what belongs to an earlier one is ignored
        self.session: Session | None = None
        self.reconcile: Reconcile | None = None
        self.connection: Connection | None = None
        self.progress: dict[tuple[str, int], int] = {}  # frames of a file that a playing has emitted
        self.told: tuple[Observed, ...] = ()  # what the session was told to report
        self.told_ended: set[tuple[str, int]] = set()  # playings whose end the broker was told
        self.cameras: dict[CameraId, Camera] = {}
        self.others: set[ChildId] = set()  # engines and the publisher
        self.fence_until = 0.0
        self.frozen_until = 0.0  # the agent alone
        self.suspended_until = 0.0  # the whole device
        self.cut_up_until = 0.0
        self.cut_down_until = 0.0
        self.clogged_until = 0.0  # the broker's queue of messages to it is full, now and then
        self.woke_at = -WAKING  # from a sleep that its clock has not counted in full
        self.said: deque[Envelope] = deque(maxlen=SAID)  # the last heartbeats
        self.acted_until = 0.0  # actions are performed in order
        self.measured: frozenset[str] = frozenset()  # models, of whose pipelines the broker is told figures
        world.after(world.rng.uniform(0, 1), self.boot)

    def boot_time(self) -> float:
        return self.world.now + self.offset

    def is_waking(self) -> bool:
        """Did it wake up just now, with a clock that lost time? Its agent has not had a turn since."""
        return 0 <= self.world.now - self.woke_at < WAKING

    def is_clogged(self) -> bool:
        """Has the broker's queue no room for the next message to it? Which one finds room is chance."""
        return self.clogged_until > self.world.now and self.world.rng.random() < 0.5

    # the agent

    def boot(self) -> None:
        self.life += 1
        rng = self.world.rng
        hello = Hello(
            device=self.name,
            boot=rng.randbytes(16),
            agent="0.1.0",
            capacity=self.world.capacity,
            seen_epoch=self.seen_epoch,
        )
        self.session = Session(hello, rng.random)
        self.reconcile = Reconcile(self.rows.values(), rng.random)
        self.fence_until = 0.0
        self.acted_until = self.world.now
        self.tick_of(self.life)

    def crash(self, for_seconds: float) -> None:
        """kill -9 of the agent, and the kernel kills its children."""
        if self.session is None:
            return
        self.session = self.reconcile = None
        self.close()
        self.cameras.clear()
        self.others.clear()
        self.life += 1
        self.world.after(for_seconds, self.boot)

    def run(self, what: Callable[[], None], life: int) -> None:
        """Do it, as soon as the agent runs."""
        if self.life != life:
            return
        asleep = max(self.frozen_until, self.suspended_until) - self.world.now
        if asleep > 0:
            self.world.after(asleep, lambda: self.run(what, life))
        else:
            what()

    def tick_of(self, life: int) -> None:
        def turn() -> None:
            assert self.session is not None
            assert self.reconcile is not None
            if effects := self.session.tick(self.boot_time()):
                self.drive(effects)
            if actions := self.reconcile.tick(self.boot_time()):
                self.put(actions)
            if self.measured:
                self.session.tell_figures(self.reconcile.figures(self.measured, self.boot_time()))
            self.tell()
            self.world.after(0.2, lambda: self.tick_of(life))

        self.run(turn, life)

    def feed(self, event: reconcile_events.Event) -> None:
        assert self.reconcile is not None
        self.put(self.reconcile.receive(event, self.boot_time()))

    def feed_later(self, delay: float, event: reconcile_events.Event) -> None:
        life = self.life

        def now() -> None:
            self.feed(event)
            self.tell()

        self.world.after(delay, lambda: self.run(now, life))

    def tell(self) -> None:
        assert self.session is not None
        assert self.reconcile is not None
        observed = self.reconcile.observed()
        if observed is not self.told and any(each.state is ENDED for each in observed):
            views = self.reconcile.pipelines(self.boot_time())
            over = [view.assignment for view in views if view.observed.state is ENDED]
            self.told_ended |= {(assignment.pipeline_id, assignment.run_generation) for assignment in over}
        self.told = observed
        self.drive(self.session.observe(observed, self.boot_time()))

    def drive(self, effects: list[session_effects.Effect]) -> None:  # noqa: C901 - a table
        assert self.session is not None
        assert self.reconcile is not None
        for effect in effects:
            match effect:
                case session_effects.Open():
                    self.close()
                    self.connection = Connection(self)
                    self.connect(self.connection)
                case session_effects.Close():
                    self.close()
                case session_effects.Send():
                    if not self.transmit_up(effect.envelope):
                        self.session.unsent(effect.envelope)
                case session_effects.RememberEpoch():
                    self.seen_epoch = effect.epoch
                case session_effects.Adopt():
                    self.measured = frozenset(effect.trials.measured)
                    self.feed(reconcile_events.Adopted(self.read(effect.assignments)))
                case session_effects.ExtendFence():
                    if not self.reconcile.is_leaving():
                        self.fence_until = effect.until
                case session_effects.CloseFence():
                    self.fence_until = 0.0
                case session_effects.LeaseEnded():
                    self.fence_until = 0.0
                    self.feed(reconcile_events.Fenced())
                case session_effects.LeaseRenewed():
                    self.feed(reconcile_events.Unfenced())

    def read(self, assignments: tuple[Assignment, ...]) -> tuple[Assignment, ...]:
        """What this version of a worker sees."""
        return tuple(replace(each, standby=each.standby and not self.is_old) for each in assignments)

    def put(self, actions: list[reconcile_actions.Action]) -> None:
        """Actions wait for the disk, in their order."""
        if not actions:
            return
        life = self.life
        self.acted_until = max(self.acted_until, self.world.now) + self.world.rng.uniform(0, 0.03)

        def act() -> None:
            if self.world.chance(0.01):  # at the worst time: it was decided and perhaps told, and not written
                self.crash(self.world.rng.uniform(0.5, 2.0))
                return
            for action in actions:
                self.act(action)
            rows = [action.row for action in actions if isinstance(action, reconcile_actions.Persist)]
            if rows:
                self.feed(reconcile_events.Stored(tuple(rows)))
                self.tell()

        self.world.after(self.acted_until - self.world.now, lambda: self.run(act, life))

    def act(self, action: reconcile_actions.Action) -> None:
        match action:
            case reconcile_actions.Persist():
                self.rows[action.row.pipeline_id] = action.row
            case reconcile_actions.Forget():
                del self.rows[action.pipeline_id]
            case reconcile_actions.FetchModel():
                self.fetch(action.digest)
            case reconcile_actions.StartPublisher() | reconcile_actions.StartEngine():
                self.others.add(action.child)
                self.report_for_ever(action.child, self.life)
                if isinstance(action.child, EngineId) and self.is_new(action.child.digest, "crashing"):
                    self.exit_later(2.5, action.child, -11)
            case reconcile_actions.StartCamera():
                self.start_camera(action)
            case reconcile_actions.ChangeCamera():
                self.change_camera(action)
            case reconcile_actions.StopChild():
                self.stop_child(action.child)
            case reconcile_actions.KillChild():
                self.exit_later(0.02, action.child, -9)

    def is_new(self, digest: str, what: str) -> bool:
        """Whether this is the new model, and it is that."""
        return digest == NEW.digest and self.world.new_model == what

    def fetch(self, digest: str) -> None:
        if self.is_new(digest, "missing"):
            refused = reconcile_events.ModelRefused(digest, "no such model", permanent=True)
            self.feed_later(0.1, refused)
        else:
            self.feed_later(0.1, reconcile_events.ModelFetched(digest, MANIFEST))

    # its children

    def start_camera(self, action: reconcile_actions.StartCamera) -> None:
        assignment, pipeline_id = action.assignment, action.assignment.pipeline_id
        if (pipeline_id, assignment.run_generation) in self.told_ended:
            raise Violation(f"{self.world.now:.2f}: {self.name} starts {pipeline_id}, and told its end")
        camera = Camera(self, action.child, assignment, assignment.generation, assignment.desired_status)
        camera.model = assignment.spec.model
        self.cameras[camera.id] = camera

        def opened() -> None:
            if self.world.now < self.world.crashes_until.get(pipeline_id, 0.0):
                self.exit_later(0.0, camera.id, -11)
            elif not camera.told_to_stop:
                camera.state = PAUSED if camera.desired_status == "pause" else RUNNING
                self.end_file(camera)
                self.emit_for_ever(camera)
                self.report_for_ever(camera.id, self.life)

        self.later(camera, self.world.rng.uniform(0.1, 0.8), opened)

    def later(self, camera: Camera, delay: float, what: Callable[[], None]) -> None:
        """A camera does something, unless it is dead by then."""

        def do() -> None:
            if self.cameras.get(camera.id) is not camera:
                return
            asleep = self.suspended_until - self.world.now
            if asleep > 0:
                self.later(camera, asleep, what)
            else:
                what()

        self.world.after(delay, do)

    def emit_for_ever(self, camera: Camera) -> None:
        if camera.state is RUNNING:
            camera.seq += 1  # also of what the fence holds back
            camera.objects += 0 if self.is_new(camera.model.digest, "blind") else 2
            self.world.saw_running(camera)
            if camera.emits():
                self.world.see(self, camera)
            playing = (camera.id.pipeline_id, camera.assignment.run_generation)
            self.progress[playing] = self.progress.get(playing, 0) + 1
            self.end_file(camera)
        if self.world.chance(0.001):
            self.exit_later(0.0, camera.id, -11)
        self.later(camera, 0.5, lambda: self.emit_for_ever(camera))

    def end_file(self, camera: Camera) -> None:
        playing = (camera.id.pipeline_id, camera.assignment.run_generation)
        if camera.assignment.spec.sources == SPECS["clip"].sources and self.progress.get(playing, 0) >= SHORT:
            camera.state = ENDED
            self.world.ended.add(playing)

    def report_for_ever(self, child: ChildId, life: int) -> None:
        camera = self.cameras.get(child) if isinstance(child, CameraId) else None
        if self.life != life or (child not in self.others and camera is None):
            return
        self.feed_later(0.0, reconcile_events.Reported(child, self.report(child, camera)))
        self.world.after(2.0, lambda: self.report_for_ever(child, life))

    @staticmethod
    def report(child: ChildId, camera: Camera | None) -> reconcile_events.Report:
        if camera is not None:
            return CameraReport(
                generation=camera.generation,
                state=camera.state,
                reason="",
                waiting_for_engine=False,
                emitted=camera.seq,
                sources=() if not camera.worker.measured else (source_of(camera),),
                dropped={},
                ready=camera.state in (RUNNING, PAUSED),
                fps=2.0,
                report={},
            )
        if isinstance(child, EngineId):
            return EngineReport("ready", "", 0, 0.0)
        return PublisherReport(0, 0, 0)

    def change_camera(self, action: reconcile_actions.ChangeCamera) -> None:
        camera = self.cameras.get(action.child)

        def change() -> None:
            assert camera is not None
            if action.assignment.generation < camera.generation:
                return  # a pipe keeps the order
            camera.generation, camera.desired_status = (
                action.assignment.generation,
                action.assignment.desired_status,
            )
            camera.model = action.assignment.spec.model
            if camera.state in (RUNNING, PAUSED):
                camera.state = PAUSED if action.assignment.desired_status == "pause" else RUNNING
            self.feed_later(0.0, reconcile_events.Reported(camera.id, self.report(camera.id, camera)))

        if camera is not None:
            self.later(camera, self.world.rng.uniform(0, 0.3), change)

    def stop_child(self, child: ChildId) -> None:
        camera = self.cameras.get(child) if isinstance(child, CameraId) else None
        if camera is None:
            self.exit_later(0.1, child, 0)
            return
        camera.told_to_stop = True
        if self.world.chance(0.2):
            return  # it hangs, and is killed

        def obey() -> None:
            camera.state = ObservedState.STOPPING
            self.exit_later(self.world.rng.uniform(0, 0.3), child, 0)

        self.later(camera, self.world.rng.uniform(0, 0.3), obey)

    def exit_later(self, delay: float, child: ChildId, code: int) -> None:
        life = self.life

        def end() -> None:
            alive = self.cameras.pop(child, None) if isinstance(child, CameraId) else child in self.others
            self.others.discard(child)
            if alive and self.life == life:
                self.feed_later(0.0, reconcile_events.Exited(child, code))

        self.world.after(delay, end)

    # the wire

    def close(self) -> None:
        if self.connection is not None:
            self.connection.closed = True
            if self.connection.broker is not None and self.connection.routing_id is not None:
                self.connection.broker.connections.pop(self.connection.routing_id, None)
            self.connection = None

    def connect(self, connection: Connection) -> None:
        """As libzmq does: again and again, until it works or the socket is closed."""

        def attempt() -> None:
            if connection.closed or connection.routing_id is not None:
                return
            broker = self.world.broker_of(self)
            cut = max(self.cut_up_until, self.cut_down_until) > self.world.now
            if broker.fleet is None or cut:
                self.connect(connection)
            else:
                connection.broker = broker
                connection.routing_id = next(self.world.routing_ids).to_bytes(5, "big")
                broker.connections[connection.routing_id] = connection

        self.world.after(self.world.rng.uniform(0.05, 0.3), attempt)

    def repeat(self, until: float) -> None:
        """Heartbeats of before reach the broker again, over the present connection, until then."""
        if self.world.now >= until:
            return
        connection = self.connection
        if connection is not None and connection.broker is not None and connection.routing_id and self.said:
            connection.broker.hear(self, connection.routing_id, self.world.rng.choice(self.said))
        self.world.after(0.3, lambda: self.repeat(until))

    def transmit_up(self, envelope: Envelope) -> bool:
        connection = self.connection
        if connection is None or connection.broker is None or connection.routing_id is None:
            return False
        broker, routing_id = connection.broker, connection.routing_id
        if isinstance(envelope.message, Heartbeat):
            self.said.append(envelope)

        def arrive(delay: float) -> None:
            gone = connection.routing_id != routing_id or connection.closed
            # What a closed connection still had on the way is there soon, or never.
            if self.cut_up_until <= self.world.now and not (gone and delay > 1):
                broker.hear(self, routing_id, envelope)

        self.carry(connection.up, arrive)
        return True

    def transmit_down(self, connection: Connection, envelope: Envelope) -> None:
        life = self.life

        def arrive(_: float) -> None:
            def receive() -> None:
                if self.connection is connection and self.session is not None:
                    self.drive(self.session.receive(envelope, self.boot_time()))
                    self.tell()

            if self.cut_down_until <= self.world.now:
                self.run(receive, life)

        self.carry(connection.down, arrive)

    def carry(self, way: Way, arrive: Callable[[float], None]) -> None:
        """A message goes over the wire: in order and late, or rarely lost, doubled or out of order."""
        rng = self.world.rng
        if self.world.chance(0.01):
            way.free_at = self.world.now + rng.uniform(0, 25)
        way.free_at = max(way.free_at, self.world.now + rng.uniform(0.001, 0.02))
        for _ in range(2 if self.world.chance(0.01) else 1):
            if self.world.chance(0.01):
                continue
            delay = rng.uniform(0, 25) if self.world.chance(0.02) else way.free_at - self.world.now
            self.world.after(delay, lambda delay=delay: arrive(delay))  # type: ignore[misc]


@dataclass
class Trouble:
    """Who makes the faults and the requests."""

    world: World
    faults: tuple[str, ...] = ()  # names of methods; empty: a choice of all
    kinds: list[Callable[[], None]] = field(default_factory=list)

    def start(self) -> None:
        self.kinds = [self.cut, self.cut_one_way, self.freeze, self.suspend, self.kill_agent] * 2
        self.kinds += [self.kill_broker, self.freeze_broker, self.break_store, self.cut_most]
        self.kinds += [self.forget_epochs, self.replace_broker, self.fill_store, self.congest]
        self.kinds += [self.delay_reports, self.repeat_reports, self.clog]
        # Where everything fails at once, little is left to go wrong: two of three worlds have few kinds of
        # faults, which hide nothing of each other.
        if self.faults:
            self.kinds = [getattr(self, name) for name in self.faults]
        elif self.world.rng.random() < 0.67:
            self.kinds = self.world.rng.sample(self.kinds, 3)
        self.world.after(5.0, self.next_fault)
        self.world.after(2.0, self.next_request)
        if self.world.moves_on_purpose:
            self.world.after(10.0, self.next_cordon)
        if self.world.new_model:
            for pid in SPECS:
                self.world.after(2.0, lambda pid=pid: self.world.broker.ask(self.created(pid)))  # type: ignore[misc]
            self.world.after(15.0, self.next_rollout)

    def next_fault(self) -> None:
        if self.world.faulty:
            self.world.rng.choice(self.kinds)()
            self.world.after(self.world.rng.expovariate(1 / 6), self.next_fault)

    def next_request(self) -> None:
        if self.world.faulty:
            self.world.broker.ask(self.request())
            rate = 1 / 20 if self.world.new_model else 2 / 3  # roll-outs need pipelines that stay
            self.world.after(self.world.rng.expovariate(rate), self.next_request)

    def request(self) -> OperatorRequest:
        rng = self.world.rng
        pid = rng.choice(list(SPECS))
        there = ("pipeline", pid) in self.world.broker.rows
        dice = rng.random()
        if dice < 0.1:
            return LabelDevice(rng.choice(self.world.names), rng.choice(SITES))
        if dice < 0.15:
            return RestartPipeline(pid)
        if dice < 0.18:
            some = tuple(rng.sample(list(SPECS), 3))
            change: Change = rng.choice(["run", "pause", "restart", "stop"])
            return ChangePipelines(some, change, rng.choice([0, 5000]))
        if dice < 0.55:
            return self.put(pid)
        if not there:
            pinned = rng.choice(self.world.names) if pid in ("disk", "clip") and rng.random() < 0.5 else None
            return CreatePipeline(pipeline_id=pid, spec=SPECS[pid], device=pinned)
        return ChangePipeline(pid, rng.choice(["run", "run", "pause", "pause", "stop"]), 5000)

    def next_cordon(self) -> None:
        if self.world.faulty:
            self.world.broker.ask(self.cordon())
            self.world.after(self.world.moving.expovariate(1 / 8), self.next_cordon)

    def cordon(self) -> OperatorRequest:
        """A device is drained or cordoned; more often it takes pipelines again. Some pipelines crash."""
        rng = self.world.moving
        name, dice = rng.choice(self.world.names), rng.random()
        if rng.random() < 0.3:  # each once, or the pause before its next start would outlast the quiet
            self.world.crashes_until.setdefault(rng.choice(list(SPECS)), self.some(40))
        if rng.random() < 0.2:
            return RebalanceDevices()
        if dice < 0.4:
            return DrainDevice(name, rng.choice([None, None, 0.0, 10.0]))
        return CordonDevice(name, dice < 0.5)

    def next_rollout(self) -> None:
        if self.world.faulty:
            self.world.broker.ask(self.rollout())
            self.world.after(self.world.rolling.expovariate(1 / 8), self.next_rollout)

    def rollout(self) -> OperatorRequest:
        """All pipelines are to move to the other model, or a roll-out is to end early."""
        rng = self.world.rolling
        going_on = self.going_on()
        if going_on and rng.random() < 0.1:
            return CancelRollout(rng.choice(going_on), rng.random() < 0.5)
        old, new = (OLD, NEW) if rng.random() < 0.7 else (NEW, OLD)
        return StartRollout(
            f"r-{self.world.now:.0f}",
            RolloutPlan(
                old=old,
                new=new,
                canary=rng.choice([0.3, 1.0]),
                max_unavailable=rng.choice([1, 1, 2]),
                limits=LIMITS,
            ),
        )

    def created(self, pid: str) -> OperatorRequest:
        return CreatePipeline(pipeline_id=pid, spec=SPECS[pid])

    def going_on(self) -> list[str]:
        """The roll-outs that are not over."""
        rows = self.world.broker.rows.values()
        return [row.id for row in rows if isinstance(row, RolloutRecord) and row.phase not in OVER]

    def end_rollouts(self) -> None:
        """Let all of them go back, or stay where they are."""
        for rollout in self.going_on():
            self.world.broker.ask(CancelRollout(rollout, self.world.rolling.random() < 0.5))

    def put(self, pid: str) -> PutPipeline:
        """The same pipeline with something about it changed: mostly little, rarely what it plays."""
        rng = self.world.rng
        row = self.world.broker.rows.get(("pipeline", pid))
        spec = row.spec if isinstance(row, PipelineRecord) else SPECS[pid]
        if rng.random() < 0.2:
            spec = replace(spec, sources=rng.choice(list(SPECS.values())).sources)
        if rng.random() < 0.3:
            spec = replace(spec, confidence=rng.choice([0.2, 0.4]))
        if self.world.moves_on_purpose:
            spec = replace(spec, priority=self.world.moving.choice(PRIORITIES))
        device = rng.choice(self.world.names) if rng.random() < 0.2 else None
        selector = rng.choice(SITES)
        expected = row.version if isinstance(row, PipelineRecord) and rng.random() < 0.3 else None
        return PutPipeline(
            pipeline_id=pid,
            spec=spec,
            device=device,
            selector=selector,
            labels={},
            desired_status=rng.choice(["run", "run", "pause"]),
            expected=expected,
            wait_ms=rng.choice([0, 5000]),
        )

    def worker(self) -> Worker:
        return self.world.rng.choice(list(self.world.workers.values()))

    def some(self, most: float) -> float:
        """Until then; short more often than long, and over when the faults are."""
        rng = self.world.rng
        return min(FAULTS, self.world.now + rng.uniform(0, most if rng.random() < 0.5 else most / 5))

    def cut(self) -> None:
        worker = self.worker()
        worker.cut_up_until = worker.cut_down_until = self.some(30)

    def cut_one_way(self) -> None:
        worker = self.worker()
        if self.world.rng.random() < 0.5:
            worker.cut_up_until = self.some(30)
        else:
            worker.cut_down_until = self.some(30)

    def congest(self) -> None:
        """What the broker sends comes late, and a little later nothing of the device reaches it."""
        worker, until = self.worker(), self.some(30)
        if worker.connection is not None:
            worker.connection.down.free_at = self.world.now + self.world.rng.uniform(0, 9)

        def cut() -> None:
            worker.cut_up_until = max(worker.cut_up_until, until)

        self.world.after(self.world.rng.uniform(0, 2), cut)

    def delay_reports(self) -> None:
        """What a device says comes late, and a little later it hears nothing."""
        worker, until = self.worker(), self.some(30)
        if worker.connection is not None:
            worker.connection.up.free_at = self.world.now + self.world.rng.uniform(0, 9)

        def cut() -> None:
            worker.cut_down_until = max(worker.cut_down_until, until)

        self.world.after(self.world.rng.uniform(0, 4), cut)

    def repeat_reports(self) -> None:
        """What a device said long ago reaches the broker again, while the device hears nothing.

        An operator stops one of its pipelines meanwhile.
        """
        worker, until = self.worker(), self.some(30)
        worker.cut_down_until = max(worker.cut_down_until, until)
        worker.repeat(until)
        running = sorted(camera.pipeline_id for camera in worker.cameras)
        if running:
            stop = ChangePipeline(self.world.rng.choice(running), "stop", 5000)
            self.world.after(self.world.rng.uniform(0, 3), lambda: self.world.broker.ask(stop))

    def clog(self) -> None:
        """The broker has room for some messages to a device only, when it comes back."""
        worker, rng = self.worker(), self.world.rng
        worker.cut_up_until = worker.cut_down_until = min(FAULTS, self.world.now + rng.uniform(0, 20))
        worker.clogged_until = min(FAULTS, worker.cut_up_until + rng.uniform(0, 10))

    def cut_most(self) -> None:
        until = self.some(30)
        for worker in self.world.workers.values():
            if self.world.rng.random() < 0.7:
                worker.cut_up_until = worker.cut_down_until = until

    def freeze(self) -> None:
        worker = self.worker()
        worker.frozen_until = max(worker.frozen_until, self.some(30))

    def suspend(self) -> None:
        worker = self.worker()
        worker.suspended_until = max(worker.suspended_until, self.some(30))

    def doze(self) -> None:
        """A device sleeps, and its clock counts only a part of it: as a virtual machine that was moved.

        It finds what it was sent before, and is not heard at once.

        Not among the others: while its agent stands still, too, nothing can tell its cameras to wait.
        """
        worker, rng = self.worker(), self.world.rng
        if worker.connection is not None:
            worker.connection.down.free_at = self.world.now + rng.uniform(0, 3)

        def sleep() -> None:
            now = self.world.now
            if worker.suspended_until <= now < FAULTS:
                worker.suspended_until = worker.woke_at = min(FAULTS, now + rng.uniform(0, 30))
                worker.offset -= max(0.0, worker.suspended_until - now - NOTICED) * rng.random()
                worker.cut_up_until = max(worker.cut_up_until, worker.woke_at + rng.uniform(0, 5))

        self.world.after(rng.uniform(0, 2), sleep)

    def kill_agent(self) -> None:
        self.worker().crash(self.some(20) - self.world.now)

    def kill_broker(self) -> None:
        self.world.broker.crash(self.some(20) - self.world.now)

    def forget_epochs(self) -> None:
        """The broker is killed, and its store has an epoch of long ago."""
        self.kill_broker()
        self.world.broker.epoch = self.world.rng.randint(0, self.world.broker.epoch)

    def freeze_broker(self) -> None:
        broker = self.world.broker
        broker.frozen_until = max(broker.frozen_until, self.some(20))

    def break_store(self) -> None:
        self.world.broker.store_down_until = self.some(15)

    def fill_store(self) -> None:
        self.world.broker.store_full_until = self.some(15)

    def replace_broker(self) -> None:
        self.world.broker.replace(self.some(40) - self.world.now)


def simulate_mixed(seed: int) -> World:
    """The world of a seed. In every second one operators move pipelines on purpose; in every fourth one they
    roll out models. Raises: Violation.
    """
    return simulate(seed, moves=seed % 2 == 1, rolls=seed % 8 in (2, 7))


def source_of(camera: Camera) -> SourceStat:
    """What a camera counts of its source."""
    return SourceStat(
        source_id=0, reference="x", state="RUNNING", emitted=camera.seq, objects=camera.objects, latency=0.04
    )


def simulate(seed: int, faults: tuple[str, ...] = (), *, moves: bool = False, rolls: bool = False) -> World:
    """Minutes of faults (these, or a choice of all), then quiet.

    `moves`: operators drain devices, some of which are almost full, and pipelines have priorities.
    `rolls`: another model is rolled out meanwhile, which may be a worse one.

    Raises: Violation.
    """
    world = World(seed, moves=moves, rolls=rolls)
    trouble = Trouble(world, faults)
    trouble.start()
    for second in range(0, int(FAULTS), 2):
        world.run_until(second + 2.0)
        world.check()
    world.faulty = False
    if rolls:
        world.run_until(FAULTS + RETURNING / 2)
        trouble.end_rollouts()
    world.run_until(FAULTS + QUIET + (RETURNING if rolls else 0.0))
    world.converged()
    if rolls:
        world.rolled_out()
    return world
