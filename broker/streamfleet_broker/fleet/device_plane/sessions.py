"""The sessions of devices: who may speak for a device, and the desired state that each is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from streamfleet_broker.fleet.device_plane.confirmations import DeviceConfirmations
from streamfleet_broker.fleet.device_plane.enrolment import Enrolment
from streamfleet_broker.fleet.device_plane.status_interval import status_interval
from streamfleet_broker.fleet.devices import Device, DevicePeer, Session
from streamfleet_broker.fleet.effects import LogEvent, RaiseEpoch, Send
from streamfleet_broker.fleet.scheduler import Scheduler
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.control_plane import NO_SESSION, Envelope
from streamfleet_core.protocol.costs import Resources
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.messages import (
    Bye,
    Desired,
    Enrol,
    Enrolled,
    Heartbeat,
    HeartbeatAck,
    Hello,
    RefusalCode,
    Refused,
    Subscribers,
    Welcome,
)
from streamfleet_core.protocol.requests import Plane

MAX_EPOCH_STEP = 1_000_000  # starts of a broker; a device must not exhaust the number range
RETURNS = 3  # of a replaced boot within the clone window: two machines use one key
FLOOD_ENDS = 5.0  # seconds without a dropped message
FLOOD_LASTS = 30.0  # seconds of a flood after which its device is quarantined
FLOOD_LOG_INTERVAL = 60.0  # seconds between two log lines about one key
_CLONED = "two machines use its key"
_FLOODS: Mapping[Plane, str] = {
    "control": "it sends more than any device needs",
    "data": "it publishes more than --device-messages and --device-bytes of the broker allow",
}


@dataclass(slots=True)
class _Flood:
    """Messages of one key beyond its budget on one plane."""

    began: float
    last: float
    logged_at: float = float("-inf")
    dropped: int = 0  # messages


class Sessions:
    """Starts and ends the sessions of all devices."""

    def __init__(
        self,
        state: State,
        scheduler: Scheduler,
        enrolment: Enrolment,
        confirmations: DeviceConfirmations,
        *,
        now: float,
    ) -> None:
        self._state = state
        self._scheduler = scheduler
        self._enrolment = enrolment
        self._confirmations = confirmations
        self._raise_after = now  # limits how often devices can restart all sessions
        self._raiser: Device | None = None  # the device that caused the epoch that is being written
        self._floods: dict[tuple[str, Plane], _Flood] = {}  # by key; recent ones only

    def tick(self, now: float) -> None:
        """Forget floods that have ended."""
        self._floods = {of: each for of, each in self._floods.items() if now - each.last < FLOOD_LOG_INTERVAL}

    def receive_malformed(self, peer: DevicePeer, error: BadMessage) -> None:
        """Refuse bytes that are not a message."""
        code: RefusalCode = "version" if error.expected.startswith("version") else "bad_message"
        self._state.refuse(peer, NO_SESSION, code, str(error))

    def overspent(self, key: str, plane: Plane, count: int, now: float) -> None:
        """Count dropped messages of a key. Log a flood once a minute; quarantine its device if it lasts."""
        flood = self._floods.setdefault((key, plane), _Flood(now, now))
        if now - flood.last > FLOOD_ENDS:
            flood.began = now
        flood.last = now
        flood.dropped += count
        name = self._state.records.owners.get(key)
        if now - flood.logged_at >= FLOOD_LOG_INTERVAL:
            event = f"{_FLOODS[plane]}: {flood.dropped} messages were dropped"
            self._state.immediate_effects.append(
                LogEvent(name or "a key that has not enrolled", event, severity="error")
            )
            flood.logged_at, flood.dropped = now, 0
        if name is None:
            return
        device = self._state.devices[name]
        device.dropped[plane] += count
        if now - flood.began >= FLOOD_LASTS and device.state != "quarantined":
            self._quarantine(device, _FLOODS[plane], now)

    def _quarantine(self, device: Device, why: str, now: float) -> None:
        """Stop talking to a device. Its movable pipelines move once its lease has expired."""
        if device.session is not None:
            self._state.end_session(device)
        device.state, device.heard, device.why_quarantined = "quarantined", now, why
        self._state.mark_device_dirty(device.name)
        self._state.immediate_effects += [
            self._state.allowed_keys("relay-in"),
            LogEvent(device.name, f"quarantined: {why}; enroll the device again", severity="error"),
        ]

    def envelope(self, send: Send) -> Envelope | None:
        """Wrap a message to a device; None after the end of its session. Refusals have no sequence number."""
        if isinstance(send.message, Refused | Enrolled):
            return Envelope(send.message, epoch=self._state.epoch, session=send.session)
        session = self._addressed(send)
        if session is None:
            return None
        return Envelope(send.message, epoch=self._state.epoch, session=send.session, seq=session.sent + 1)

    def sent(self, send: Send) -> None:
        """Note that a message was sent."""
        session = self._addressed(send)
        if session is not None and not isinstance(send.message, Refused):
            session.sent += 1

    def unsent(self, send: Send, *, gone: bool) -> None:
        """Handle a message that was not sent, because the peer is gone or its queue is full."""
        session = self._addressed(send)
        if session is None:
            return
        if gone:
            device = self._state.sessions[session.id]
            session.cut = device.state != "suspect"
            device.state = "suspect"
            self._state.mark_device_dirty(device.name)
        elif isinstance(send.message, Desired | Subscribers):
            session.resend = True

    def _addressed(self, send: Send) -> Session | None:
        """The session of a message. A refused peer may have quoted the session of another device."""
        device = self._state.sessions.get(send.session)
        session = None if device is None else device.session
        return session if session is not None and session.routing_id == send.routing_id else None

    def receive(self, peer: DevicePeer, envelope: Envelope, now: float) -> None:
        """Handle a message of a device."""
        message = envelope.message
        if isinstance(message, Enrol):
            self._enrolment.enrol(peer, message)
            return
        name = self._state.records.owners.get(peer.key)
        if name is None:
            # ZAP admitted the key: it is a one-time key, or belonged to a device when it connected.
            code: RefusalCode = "unknown_key" if peer.key in self._state.records.tokens else "revoked"
            self._state.refuse(peer, envelope.session, code, "enrol first")
            return
        device = self._state.devices[name]
        follows = self._compare_epochs(device, envelope, now)
        match message:
            case Hello() if not follows:
                self._state.refuse(
                    peer, NO_SESSION, "stale_session", "you saw this epoch before: hello again"
                )
            case Hello():
                self._handle_hello(peer, device, message, now)
            case Heartbeat() | Bye():
                session = self._session_of(peer, device, envelope)
                if session is None:
                    self._state.refuse(peer, envelope.session, "stale_session", "hello first")
                elif isinstance(message, Heartbeat):
                    self._handle_heartbeat(device, session, message, now)
                else:
                    self._handle_bye(device, message, now)
            case _:
                expected = BadMessage("Hello, Heartbeat, Bye or Enrol", type(message).__name__)
                self._state.refuse(peer, envelope.session, "bad_message", str(expected))

    def _compare_epochs(self, device: Device, envelope: Envelope, now: float) -> bool:
        """Whether our epoch is above any that the device saw of other brokers. If not, a Hello raises it.

        A store restored from a backup has too low an epoch. Devices ignore brokers below the highest epoch
        that they saw, and consider revisions of the same epoch outdated.
        """
        message = envelope.message
        seen = message.seen_epoch if isinstance(message, Hello) else envelope.epoch
        if seen < self._state.epoch or (seen == self._state.epoch and device.told_epoch == seen):
            device.told_epoch = self._state.epoch
            return True
        if isinstance(message, Hello) and now >= self._raise_after and device.raises.has(1, now):
            self._raise_after = now + self._state.config.lease
            ours = self._state.epoch
            event = f"in epoch {ours}, and {device.name} saw {seen} before: is the store a restored backup?"
            self._state.immediate_effects.append(LogEvent("fleet", event, severity="error"))
            if seen - self._state.epoch <= MAX_EPOCH_STEP:
                device.told_epoch = seen + 1
                self._raiser = device
                self._state.immediate_effects.append(RaiseEpoch(seen + 1))
        return False

    def epoch_committed(self, now: float) -> None:
        """Charge the device that caused the new epoch."""
        if self._raiser is not None:
            self._raiser.raises.take(1, now)

    def _handle_hello(self, peer: DevicePeer, device: Device, hello: Hello, now: float) -> None:
        name = device.name
        if hello.device != name:
            self._state.immediate_effects.append(
                LogEvent(name, f"its key was used in the name of {hello.device}", severity="error")
            )
            self._state.refuse(peer, NO_SESSION, "key_device_mismatch", f"this is the key of {name}")
            return
        if device.state != "quarantined" and self._is_cloned(device, hello.boot, now):
            self._quarantine(device, _CLONED, now)
        if device.state == "quarantined":
            why = device.why_quarantined.replace(" its ", " this ")
            self._state.refuse(peer, NO_SESSION, "quarantined", f"{why}: enroll the device again")
            return
        self._open_session(peer, device, hello, now)

    def _is_cloned(self, device: Device, boot: bytes, now: float) -> bool:
        """Whether two boots take the session from each other. A restarted agent has a new boot."""
        since = now - self._state.config.clone_window
        device.replaced = {old: at for old, at in list(device.replaced.items())[-16:] if at > since}
        device.returns = [at for at in device.returns if at > since]
        if device.session is None or device.session.boot == boot:
            return False
        device.replaced.pop(device.session.boot, None)
        device.replaced[device.session.boot] = now
        if boot in device.replaced:
            device.returns.append(now)
        return len(device.returns) >= RETURNS

    def _open_session(self, peer: DevicePeer, device: Device, hello: Hello, now: float) -> None:
        if device.session is not None:
            self._state.end_session(device)
        session = Session(
            id=self._state.random_source.session(),
            routing_id=peer.routing_id,
            boot=hello.boot,
            ticket=self._state.random_source.ticket(),
        )
        device.session, device.state, device.heard = session, "syncing", now
        device.capacity, device.agent = hello.capacity, hello.agent
        device.publish = (hello.publish, *hello.publish_also) if hello.publish else ()
        device.resources = hello.resources or Resources()
        device.drills = hello.drills
        device.optimises = hello.optimises
        if device.ordered is not None and device.ordered.boot != hello.boot:
            device.ordered = None
        self._state.report(device, hello.observed)
        device.figures = {}
        self._state.sessions[session.id] = device
        self._state.tickets[session.ticket] = device.name
        record = self._state.records.devices[device.name]
        if record.left:
            self._state.records.write(replace(record, left=False))
        # Send the desired state before any acknowledgement, so that the device stops what it no longer holds.
        self._state.send(session, self._welcome(device, session))
        self._send_desired(device, session)
        self._state.mark_device_dirty(device.name)
        self._state.immediate_effects.append(LogEvent(device.name, f"joined, agent {hello.agent}"))

    def _welcome(self, device: Device, session: Session) -> Welcome:
        config = self._state.config
        return Welcome(
            session=session.id,
            self_stop_ms=round(config.self_stop * 1000),
            heartbeat_ms=round(config.heartbeat * 1000),
            short_id=self._state.records.devices[device.name].short_id,
            api=config.api,
            ticket=session.ticket,
            relay=config.relay,
            pictures=config.pictures,
            api_fingerprint=config.api_fingerprint(),
            replays=True,
        )

    def _send_desired(self, device: Device, session: Session) -> None:
        session.resend = False
        self._state.send(session, self._state.desired(device))
        self._state.send(
            session, Subscribers(self._state.subscribers_revision, self._state.subscriber_keys())
        )

    def _session_of(self, peer: DevicePeer, device: Device, envelope: Envelope) -> Session | None:
        """The session that a message belongs to, when everything that fences it is right."""
        session = device.session
        if session is None or (session.id, session.routing_id) != (envelope.session, peer.routing_id):
            return None
        if envelope.epoch != self._state.epoch or envelope.seq != session.received + 1:
            return None
        session.received = envelope.seq
        return session

    def _handle_heartbeat(self, device: Device, session: Session, heartbeat: Heartbeat, now: float) -> None:
        if not heartbeat.deaf:
            device.heard = now
        session.applied_revision = heartbeat.applied_revision
        if heartbeat.observed is not None:
            self._state.report(device, heartbeat.observed)
            session.confirmed = None
            self._state.mark_device_dirty(device.name)
        if heartbeat.trouble != device.trouble and device.events.take(1, now):
            device.trouble = heartbeat.trouble
            self._state.mark_device_dirty(device.name)
        if heartbeat.measured is not None and device.measurements.take(1, now):
            self._state.learn(device, heartbeat.measured)
        if heartbeat.figures is not None:
            device.figures = {each.pipeline_id: each for each in heartbeat.figures}
        want_full = device.observed_digest != heartbeat.observed_digest
        if session.resend or heartbeat.applied_revision != device.revision:
            self._send_desired(device, session)
        self._state.send(session, HeartbeatAck(heartbeat.number, want_full, self._status_ms()))
        if heartbeat.deaf:
            return  # it stops its movable pipelines, as it does not hear that it need not
        if device.state != "ready":
            self._state.immediate_effects.append(LogEvent(device.name, "ready"))
            device.state = "ready"
            self._state.mark_device_dirty(device.name)
            self._scheduler.place(now)
        revisions = device.revision, session.applied_revision
        if session.confirmed != revisions:  # otherwise it confirms what it did before
            session.confirmed = revisions
            self._confirmations.confirm(device, session, now)

    def _status_ms(self) -> int:
        """Milliseconds between two statuses of each pipeline and device, in a fleet of the present size."""
        return round(1000 * status_interval(len(self._state.devices) + len(self._state.records.pipelines)))

    def _handle_bye(self, device: Device, bye: Bye, now: float) -> None:
        self._state.end_session(device)
        device.state = "left"
        self._state.mark_device_dirty(device.name)
        self._state.records.write(replace(self._state.records.devices[device.name], left=True))
        self._state.immediate_effects.append(LogEvent(device.name, f"left: {bye.reason}"))
        self._confirmations.release_gone(now)
        self._scheduler.place(now)
