"""A scripted fleet: devices and operators that say what a test lets them say, at times that it names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from streamfleet_broker.fleet.devices import DevicePeer, OperatorPeer
from streamfleet_broker.fleet.effects import Answer, Effect, RaiseEpoch, Save, Send
from streamfleet_broker.fleet.fleet import Fleet
from streamfleet_broker.fleet.records import DeviceRecord, Record
from streamfleet_broker.fleet.state import FleetConfig
from streamfleet_core.protocol.control_plane import NO_SESSION, Envelope
from streamfleet_core.protocol.costs import Measured, Resources
from streamfleet_core.protocol.messages import (
    Bye,
    Desired,
    Enrol,
    Error,
    Heartbeat,
    Hello,
    Message,
    Reply,
    Welcome,
)
from streamfleet_core.protocol.requests import (
    ChangePipeline,
    CreatePipeline,
    GetPipeline,
    OperatorRequest,
    PipelineView,
    pack_request,
)
from streamfleet_core.protocol.tasks.trials import PipelineFigures, Trials
from streamfleet_core.protocol.values import (
    Assignment,
    DesiredStatus,
    KeyPair,
    ModelRef,
    Observed,
    ObservedState,
    PipelineSpec,
    SourceSpec,
    observed_digest,
)

EPOCH = 7
CAMERA = PipelineSpec(model=ModelRef("parts/1", "ab" * 32), sources=(SourceSpec("rtsp://10.0.0.9/door"),))
FILE = replace(CAMERA, sources=(SourceSpec("/videos/street.mp4"),))
RUNNING, PAUSED = ObservedState.RUNNING, ObservedState.PAUSED
FINGERPRINT = "ab" * 32  # of the api's certificate
CONFIG = FleetConfig(
    broker_key="B" * 40,
    operator_key="O" * 40,
    endpoints=("tcp://10.0.0.1:7771",),
    subscribe_endpoints=("tcp://10.0.0.1:7774", "tcp://127.0.0.1:7774"),
    relay=("tcp://*:7773",),
    pictures=("tcp://*:7775",),
    api="http://*:8080",
    api_fingerprint=lambda: FINGERPRINT,
)
OPERATOR = OperatorPeer(b"operator")
CREATED = 1_000_013.0  # Unix seconds at which a new scripted fleet is ready


class CountingRandomSource:
    """Numbers instead of random bytes."""

    def __init__(self) -> None:
        self.count = 0

    def session(self) -> bytes:
        self.count += 1
        return self.count.to_bytes(16, "big")

    def ticket(self) -> str:
        self.count += 1
        return f"ticket {self.count}"

    def key_pair(self) -> KeyPair:
        self.count += 1
        return KeyPair(f"public {self.count:033}", f"secret {self.count:033}")


def key_of(device: str) -> str:
    """The public key of a device that was there from the beginning."""
    return device.ljust(40, "k")


def devices(*names: str) -> tuple[DeviceRecord, ...]:
    """Devices that have enrolled before."""
    return tuple(
        DeviceRecord(device=name, public_key=key_of(name), short_id=number)
        for number, name in enumerate(names, 1)
    )


@dataclass
class Device:
    """What a worker keeps of its session."""

    name: str
    peer: DevicePeer
    boot: bytes = b"1" * 16
    session: bytes = NO_SESSION
    epoch: int = 0
    seq: int = 0
    applied_revision: int = 0
    assignments: tuple[Assignment, ...] = ()
    trials: Trials | None = None
    observed: tuple[Observed, ...] = ()
    heartbeat_number: int = 0


@dataclass
class ScriptedFleet:
    """A fleet, the clock, and all that came out. Every Save is done, unless `store_down`."""

    fleet: Fleet
    now: float = 0.0
    store_down: bool = False
    checks: bool = True  # after each input, which takes long in a large fleet
    effects: list[Effect] = field(default_factory=list)  # of the last input
    requests: int = 0
    devices: dict[str, Device] = field(default_factory=dict)
    saved: dict[tuple[str, str], Record | None] = field(default_factory=dict)  # rows that were written

    def perform(self, effects: list[Effect]) -> list[Effect]:
        """What the server would do."""
        self.effects = effects
        for position, effect in enumerate(effects):
            if isinstance(effect, Save) and self.store_down:
                self.effects = effects[:position] + self.fleet.commit_failed(effect, effects[position + 1 :])
                break
            if isinstance(effect, Save):
                self.saved.update({(write.kind, write.key): write.after for write in effect.writes})
            if isinstance(effect, RaiseEpoch) and not self.store_down:
                self.fleet.epoch_committed(effect.epoch)
            if isinstance(effect, Send):
                envelope = self.fleet.envelope(effect)
                assert envelope is not None
                self.fleet.sent(effect)
                self._deliver(effect, envelope)
        if self.checks:
            self.fleet.check()
        return self.effects

    def _deliver(self, send: Send, envelope: Envelope) -> None:
        for device in self.devices.values():
            if device.peer.routing_id == send.routing_id:
                if isinstance(envelope.message, Welcome):
                    device.session, device.epoch = envelope.message.session, envelope.epoch
                    device.seq, device.applied_revision = 0, 0
                if isinstance(envelope.message, Desired):
                    device.assignments = envelope.message.assignments
                    device.trials = envelope.message.trials
                    device.applied_revision = envelope.message.revision

    # devices

    def hello(
        self,
        name: str,
        *,
        capacity: int = 4,
        boot: bytes = b"1" * 16,
        routing_id: bytes | None = None,
        key: str | None = None,
        claims: str | None = None,
        publish: str = "",
        publish_also: tuple[str, ...] = (),
        observed: Iterable[Observed] = (),
        seen_epoch: int = 0,
        optimises: bool = False,
        resources: Resources | None = None,
    ) -> list[Effect]:
        """A device connects anew and says Hello."""
        peer = DevicePeer(routing_id or name.encode(), key or key_of(name))
        device = self.devices[name] = Device(name, peer, boot, observed=tuple(observed))
        hello = Hello(
            device=claims or name,
            boot=boot,
            agent="0.1.0",
            capacity=capacity,
            seen_epoch=seen_epoch,
            observed=device.observed,
            publish=publish,
            publish_also=publish_also,
            optimises=optimises,
            resources=resources,
        )
        return self.perform(self.fleet.receive(peer, Envelope(hello), self.now))

    def heartbeat(
        self,
        name: str,
        *,
        applied_revision: int | None = None,
        full: bool = True,
        trouble: str = "",
        measured: Measured | None = None,
        figures: tuple[PipelineFigures, ...] | None = None,
        deaf: bool = False,
    ) -> list[Effect]:
        """A device is alive, and says what it observes."""
        device = self.devices[name]
        device.heartbeat_number += 1
        return self.say(
            name,
            Heartbeat(
                device.heartbeat_number,
                device.applied_revision if applied_revision is None else applied_revision,
                observed_digest(device.observed),
                device.observed if full else None,
                trouble,
                measured,
                figures,
                deaf,
            ),
        )

    def say(self, name: str, message: Message) -> list[Effect]:
        """A device says something in its session."""
        device = self.devices[name]
        device.seq += 1
        envelope = Envelope(message, epoch=device.epoch, session=device.session, seq=device.seq)
        return self.perform(self.fleet.receive(device.peer, envelope, self.now))

    def enrol(self, key: str, public_key: str, routing_id: bytes = b"new") -> list[Effect]:
        """Whoever has a one-time key names its own."""
        peer = DevicePeer(routing_id, key)
        return self.perform(self.fleet.receive(peer, Envelope(Enrol(public_key)), self.now))

    def assignments(self, name: str) -> tuple[Assignment, ...]:
        """What a device was last told to run."""
        return self.devices[name].assignments

    def join(self, *names: str, capacity: int = 4) -> None:
        """Devices become ready."""
        for name in names:
            self.hello(name, capacity=capacity)
            self.heartbeat(name)

    def leave(self, name: str) -> list[Effect]:
        """A device goes on purpose."""
        return self.say(name, Bye("stop"))

    def obey(self, *names: str, state: ObservedState | None = None) -> list[Effect]:
        """Devices do what they are told, or are in this state with it, and say so. The last one's effects."""
        effects: list[Effect] = []
        for name in names or list(self.devices):
            device = self.devices[name]
            device.observed = tuple(
                Observed(
                    pipeline_id=assignment.pipeline_id,
                    generation=assignment.generation,
                    incarnation=1,
                    state=state or (PAUSED if assignment.desired_status == "pause" else RUNNING),
                )
                for assignment in device.assignments
                if assignment.desired_status != "stop"
            )
            effects = self.heartbeat(name)
        return effects

    # time

    def pass_time(self, seconds: float, alive: Iterable[str] = ()) -> list[Effect]:
        """Ticks twice a second, and heartbeats of those that are alive each second. All effects of it."""
        names, effects = tuple(alive), list[Effect]()
        for half in range(1, round(seconds * 2) + 1):
            self.now += 0.5
            if half % 2 == 0:
                for name in names:
                    effects += self.heartbeat(name)
            effects += self.perform(self.fleet.tick(self.now))
        return effects

    # operators

    def ask(self, request: OperatorRequest, *, request_id: bytes | None = None) -> list[Effect]:
        """An operator asks."""
        self.requests += 1
        request_id = request_id or self.requests.to_bytes(16, "big")
        envelope = Envelope(pack_request(request), request_id=request_id)
        return self.perform(self.fleet.receive(OPERATOR, envelope, self.now))

    def reply(self, request: OperatorRequest) -> Any:
        """An operator asks, and gets this."""
        return data_of(self.answer(self.ask(request)))

    def error(self, request: OperatorRequest) -> Error:
        """An operator asks in vain."""
        answer = self.answer(self.ask(request))
        assert isinstance(answer, Error), answer
        return answer

    @staticmethod
    def answer(effects: list[Effect]) -> Reply | Error | None:
        """The only answer among effects."""
        answers = [effect.message for effect in effects if isinstance(effect, Answer)]
        assert len(answers) <= 1
        return answers[0] if answers else None

    def create(
        self, pipeline_id: str, spec: PipelineSpec = CAMERA, device: str | None = None
    ) -> PipelineView:
        """A pipeline is created."""
        view = self.reply(CreatePipeline(pipeline_id=pipeline_id, spec=spec, device=device))
        assert isinstance(view, PipelineView)
        return view

    def change(self, pipeline_id: str, desired_status: DesiredStatus, wait_ms: int = 0) -> list[Effect]:
        """A pipeline is changed."""
        return self.ask(ChangePipeline(pipeline_id, desired_status, wait_ms))

    def view(self, pipeline_id: str) -> PipelineView:
        """A pipeline as operators see it."""
        view = self.reply(GetPipeline(pipeline_id))
        assert isinstance(view, PipelineView)
        return view


def scripted_fleet(
    *names: str, records: Iterable[Record] = (), config: FleetConfig = CONFIG
) -> ScriptedFleet:
    """A fleet that knows these devices, past its grace period, with all of them ready."""
    fleet = Fleet(
        config, EPOCH, (*devices(*names), *records), CountingRandomSource(), now=0.0, unix_time=1_000_000.0
    )
    made = ScriptedFleet(fleet)
    made.perform(fleet.start())
    made.join(*names)
    made.pass_time(config.grace + 1, alive=names)
    return made


def data_of(answer: Reply | Error | None) -> Any:
    """What a reply holds."""
    assert isinstance(answer, Reply), answer
    return answer.data


def sent(effects: Iterable[Effect], to: str) -> list[Any]:
    """The messages to a device."""
    return [
        effect.message for effect in effects if isinstance(effect, Send) and effect.routing_id == to.encode()
    ]
