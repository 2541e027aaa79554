"""All that the fleet knows, and what the step under way does to it. Every decision is made over this."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamfleet_broker.effects import Allow, Answer, Domain, Effect, Save, Send
from streamfleet_broker.events import EventLog
from streamfleet_broker.ledger import Ledger
from streamfleet_broker.protocol.control import Envelope, encode
from streamfleet_broker.protocol.messages import BrokerMessage, Desired, Error, ErrorCode, Reply
from streamfleet_broker.protocol.values import Observed, ObservedState
from streamfleet_broker.records import PipelineRecord, Record
from streamfleet_broker.roster import Asker, Device, Session
from streamfleet_broker.supply import Supply

MAX_PIPELINES = 64  # a device, whatever its capacity


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """What the fleet is told at its start. Times in seconds."""

    broker_key: str  # public
    operator_key: str  # public
    endpoints: tuple[str, ...]  # of the devices' ROUTER, as join tokens name it
    subscribe_endpoint: str  # of the relay, as subscribers reach it
    relay: tuple[str, ...]  # where devices publish; `*` is the host through which they reached us
    pictures: tuple[str, ...]  # the same for pictures
    api: str  # where devices fetch models; the same
    beat: float = 1.0
    probe: float = 1.25  # silent for so long, a device is spoken to: is its connection gone?
    suspect: float = 3.0
    lease: float = 10.0
    self_stop: float = 8.0  # before the lease ends, or two devices run one pipeline
    grace: float = 12.0  # after a start nobody is lost
    mass_window: float = 30.0
    mass_hold: float = 300.0  # then what is lost in mass is moved all the same
    clone_window: float = 60.0


class State:
    """What is known, and what changes it.

    Args: as those of `Fleet`.
    """

    def __init__(
        self,
        config: FleetConfig,
        epoch: int,
        records: Iterable[Record],
        supply: Supply,
        *,
        now: float,
        unix_time: float,
    ) -> None:
        self.epoch = epoch
        self.config = config
        self.supply = supply
        self.started = now
        self.rev = 1
        self.subscribers_rev = 1
        self.mass = False  # most of the fleet fell silent: nothing is moved
        self._wall_ahead = unix_time - now

        self.ledger = Ledger(records)
        self.devices = {name: self._returning(name, now) for name in self.ledger.devices}
        self.sessions: dict[bytes, Device] = {}  # exactly the sessions in `devices`
        self.tickets: dict[str, str] = {}  # ticket → device: exactly those of the sessions
        # Pipeline → the rev in which its holder was told to stop it or to give it up, until it confirms.
        self.released: dict[str, int] = {}
        self.events = EventLog()

        # Of the step under way; empty between steps.
        self.first: list[Effect] = []  # hold whether or not the store does
        self.changed: set[str] = set()  # devices whose wishes changed
        self.then: list[Effect] = []  # true only once the writes are durable
        # Pipelines and devices that may stand otherwise than before; kept until somebody looks.
        self.stirred: set[str] = set()
        self.stirred_devices: set[str] = set()

    def _returning(self, name: str, now: float) -> Device:
        """Whoever has pipelines is expected back; nothing depends on the others."""
        if self.ledger.placed[name] or self.ledger.leaving[name]:
            return Device(name, self.rev, "suspect", heard=now)
        return self._away(name)

    def _away(self, name: str) -> Device:
        return Device(name, self.rev, "left" if self.ledger.devices[name].left else "lost")

    # steps

    def finish(self) -> list[Effect]:
        """The effects of the step, in their order."""
        effects = self.first
        if writes := self.ledger.writes():
            effects.append(Save(writes))
        for name in sorted(self.changed):
            device = self.devices[name]
            if device.session is not None:
                effects.append(Send(device.session.routing_id, self.desired(device), device.session.id))
        effects += self.then
        self.first, self.changed, self.then = [], set(), []
        return effects

    def undo(self, save: Save) -> None:
        """The store did not take it.

        Revisions stay as high as they were: devices get their wishes again, which does no harm.
        """
        self.ledger.undo(save.writes)
        self.events.undo_step()
        for name in self.devices.keys() - self.ledger.devices.keys():
            del self.devices[name]
        for name in self.ledger.devices.keys() - self.devices.keys():
            self.devices[name] = self._away(name)

    def check(self) -> None:
        """Assert what always holds between two steps."""
        assert [self.first, self.changed, self.then] == [[], set(), []]
        self.ledger.check()
        self.events.check()
        assert self.devices.keys() == self.ledger.devices.keys()
        sessions = {d.session.id: d for d in self.devices.values() if d.session is not None}
        assert self.sessions == sessions
        assert self.tickets == {
            device.session.ticket: name for name, device in self.devices.items() if device.session is not None
        }
        for name, device in self.devices.items():
            assert device.name == name
            assert 1 <= device.rev <= self.rev
            assert (device.session is not None) or device.state not in ("syncing", "ready"), name
            assert device.session is None or device.state in ("syncing", "ready", "suspect"), name
            assert device.heard is not None or device.state in ("new", "lost", "left"), name
            assert len(self.ledger.placed[name]) <= MAX_PIPELINES
            encode(Envelope(self.desired(device)))

    def change(self, record: PipelineRecord) -> None:
        """Write a pipeline, new or changed, and tell every device that this concerns."""
        before = self.ledger.pipelines.get(record.pipeline_id)
        self.ledger.write(record)
        self.touch({record.device, before.device if before is not None else None})
        self.stirred.add(record.pipeline_id)
        taken = before is not None and record.leaving not in (None, before.leaving)
        if taken or (record.want == "stop" and record.leaving is None):
            self.released[record.pipeline_id] = self.rev

    def touch(self, names: set[str | None]) -> None:
        """The wishes of these devices are others now: they are told at the end of the step."""
        if not self.changed:
            self.rev += 1
        for name in names - {None}:
            assert name is not None
            self.devices[name].rev = self.rev
            self.changed.add(name)

    def allow(self, domain: Domain) -> Allow:
        """Let in who may come in now."""
        match domain:
            case "devices":
                return Allow(domain, frozenset(self.ledger.owners.keys() | self.ledger.tokens.keys()))
            case "relay-in":
                return Allow(domain, frozenset(self.ledger.owners))
            case "relay-out":
                return Allow(domain, frozenset({*self.subscriber_keys(), self.config.operator_key}))
            case "operators":
                return Allow(domain, frozenset({self.config.operator_key}))

    def subscriber_keys(self) -> tuple[str, ...]:
        """Of all that may subscribe over TCP."""
        return tuple(record.public_key for record in self.ledger.subscribers.values())

    def tell(self, session: Session, message: BrokerMessage) -> None:
        """Say something to a device that does not depend on the writes of the step."""
        self.first.append(Send(session.routing_id, message, session.id))

    def desired(self, device: Device) -> Desired:
        """What a device is told: not of what another one still has to give up."""
        records = self.ledger.of_device(device.name)
        return Desired(device.rev, tuple(record.wish() for record in records if record.leaving is None))

    def end_session(self, device: Device) -> None:
        """What comes in it is refused from now on, and its ticket opens nothing any longer."""
        session = device.session
        assert session is not None
        del self.sessions[session.id], self.tickets[session.ticket]
        device.session = None

    def is_gone(self, device: Device, now: float) -> bool:
        """Is everything that this device may lose at an end there? Its lease is over, or it never had one."""
        if device.state == "quarantined":
            assert device.heard is not None
            return now - device.heard > self.config.lease
        return device.state in ("new", "lost", "left")

    def answer(self, asker: Asker, data: object) -> None:
        """Answer an operator who waited."""
        self.then.append(Answer(asker.routing_id, asker.request_id, Reply(data)))

    def stir_device(self, name: str) -> None:
        """How a device stands may have changed, and how its pipelines do."""
        self.stirred_devices.add(name)
        self.stirred |= self.ledger.placed[name] | self.ledger.leaving[name]

    def wished(self, pipeline_id: str) -> PipelineRecord | None:
        """A pipeline that nobody has stopped."""
        record = self.ledger.pipelines.get(pipeline_id)
        return None if record is None or record.want == "stop" else record

    def observed(self, record: PipelineRecord) -> Observed | None:
        """What its device said last of this playing of a pipeline."""
        if record.device is None or record.leaving is not None:
            return None
        observed = self.devices[record.device].observed.get(record.pipeline_id)
        return observed if observed is not None and observed.gen >= record.start_gen else None

    def has_finished(self, record: PipelineRecord) -> bool:
        """Is this playing over, whichever way? It takes no capacity any longer."""
        observed = self.observed(record)
        return observed is not None and observed.state in (ObservedState.ENDED, ObservedState.FAILED)

    def has_ended(self, record: PipelineRecord) -> bool:
        """Did this playing come to its end?"""
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
