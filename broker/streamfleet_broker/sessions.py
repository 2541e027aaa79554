"""The devices' plane: who may speak, what each is told, and who has fallen silent."""

from __future__ import annotations

from dataclasses import replace

from streamfleet_broker.effects import Audit, RaiseEpoch, Send
from streamfleet_broker.movement import Movement
from streamfleet_broker.protocol.control import NO_SESSION, Envelope
from streamfleet_broker.protocol.errors import BadMessage
from streamfleet_broker.protocol.messages import (
    Ack,
    Beat,
    Bye,
    Desired,
    Enrol,
    Enrolled,
    Hello,
    RefusalCode,
    Refused,
    Subscribers,
    Welcome,
)
from streamfleet_broker.protocol.values import observed_digest
from streamfleet_broker.records import DeviceRecord
from streamfleet_broker.releases import Releases
from streamfleet_broker.roster import Device, DevicePeer, Session
from streamfleet_broker.state import State

MASS = 3  # silent devices that, being most of the fleet, mean that it is our network
MAX_EPOCH_STEP = 1_000_000  # starts of a broker; no device may use up the numbers that there are
RETURNS = 3  # of a replaced boot within the clone window: two machines have one key


class Sessions:
    """Holds the sessions of all devices, and ends them."""

    def __init__(self, state: State, movement: Movement, releases: Releases, now: float) -> None:
        self._state = state
        self._movement = movement
        self._releases = releases
        self._ticked = now
        self._grace_until = now + state.config.grace
        self._raise_after = now  # so that no device makes all sessions begin anew all the time

    def tick(self, now: float) -> None:
        """Time passed."""
        if now - self._ticked > self._state.config.suspect:
            # It was us who slept: beats may wait in the sockets, and nobody got an answer meanwhile.
            self._grace_until = max(self._grace_until, now + self._state.config.grace)
        self._ticked = now
        self._expire_tokens(now)
        self._watch(now)
        self._weigh_losses(now)

    def garbled(self, peer: DevicePeer, error: BadMessage) -> None:
        """Bytes came that are no message."""
        code: RefusalCode = "version" if error.expected.startswith("version") else "bad_message"
        self._refuse(peer, NO_SESSION, code, str(error))

    def envelope(self, send: Send) -> Envelope:
        """What fences a message to a device. Refusals and enrolments stand outside the session's sequence."""
        if isinstance(send.message, Refused | Enrolled):
            return Envelope(send.message, self._state.epoch, send.session)
        session = self._state.sessions[send.session].session
        assert session is not None
        return Envelope(send.message, self._state.epoch, send.session, session.sent + 1)

    def sent(self, send: Send) -> None:
        """The message was given to the network."""
        session = self._addressed(send)
        if session is not None and not isinstance(send.message, Refused):
            session.sent += 1

    def unsent(self, send: Send, *, gone: bool) -> None:
        """The message was not sent: the peer is gone, or its queue is full."""
        session = self._addressed(send)
        if session is None:
            return
        if gone:
            device = self._state.sessions[session.id]
            session.cut = device.state != "suspect"
            device.state = "suspect"
            self._state.stir_device(device.name)
        elif isinstance(send.message, Desired | Subscribers):
            session.resend = True

    def _addressed(self, send: Send) -> Session | None:
        """The session that a message belongs to. Whoever is refused may have quoted a session of another."""
        device = self._state.sessions.get(send.session)
        session = None if device is None else device.session
        return session if session is not None and session.routing_id == send.routing_id else None

    def receive(self, peer: DevicePeer, envelope: Envelope, now: float) -> None:
        """A message came."""
        message = envelope.message
        if isinstance(message, Enrol):
            self._enrol(peer, message)
            return
        name = self._state.ledger.owners.get(peer.key)
        if name is None:
            # ZAP let the key in: it is a one-time key, or it was a device's when the connection was made.
            code: RefusalCode = "unknown_key" if peer.key in self._state.ledger.tokens else "revoked"
            self._refuse(peer, envelope.session, code, "enrol first")
            return
        device = self._state.devices[name]
        follows = self._compare_epochs(device, envelope, now)
        match message:
            case Hello() if not follows:
                self._refuse(peer, NO_SESSION, "stale_session", "you saw this epoch before: hello again")
            case Hello():
                self._greet(peer, device, message, now)
            case Beat() | Bye():
                session = self._session_of(peer, device, envelope)
                if session is None:
                    self._refuse(peer, envelope.session, "stale_session", "hello first")
                elif isinstance(message, Beat):
                    self._hear(device, session, message, now)
                else:
                    self._let_go(device, message, now)
            case _:
                expected = BadMessage("Hello, Beat, Bye or Enrol", type(message).__name__)
                self._refuse(peer, envelope.session, "bad_message", str(expected))

    def _compare_epochs(self, device: Device, envelope: Envelope, now: float) -> bool:
        """Is ours higher than any epoch that the device saw of others? If not, a Hello makes it so.

        A store that was restored from a backup knows too low an epoch. Devices follow nobody below the
        highest one that they saw, and take the revisions of an equal one for old.
        """
        message = envelope.message
        seen = message.seen_epoch if isinstance(message, Hello) else envelope.epoch
        if seen < self._state.epoch or (seen == self._state.epoch and device.told_epoch == seen):
            device.told_epoch = self._state.epoch
            return True
        if isinstance(message, Hello) and now >= self._raise_after:
            self._raise_after = now + self._state.config.lease
            ours = self._state.epoch
            event = f"in epoch {ours}, and {device.name} saw {seen} before: is the store a restored backup?"
            self._state.first.append(Audit("fleet", event, alarm=True))
            if seen - self._state.epoch <= MAX_EPOCH_STEP:
                device.told_epoch = seen + 1
                self._state.first.append(RaiseEpoch(seen + 1))
        return False

    def _refuse(self, peer: DevicePeer, session: bytes, code: RefusalCode, detail: str) -> None:
        self._state.first.append(Send(peer.routing_id, Refused(code, detail), session))

    def _enrol(self, peer: DevicePeer, message: Enrol) -> None:
        token = self._state.ledger.tokens.get(peer.key)
        if token is None:
            self._refuse(peer, NO_SESSION, "token_used", "ask for a new token")
            return
        if message.public_key in self._state.ledger.owners or message.public_key in self._state.ledger.tokens:
            self._refuse(peer, NO_SESSION, "bad_message", "this key is in use: make one of your own")
            return
        known = self._state.ledger.devices.get(token.device)
        if known is None:
            self._state.devices[token.device] = Device(token.device, self._state.rev)
            short_id = max((record.short_id for record in self._state.ledger.devices.values()), default=0) + 1
            self._state.ledger.write(DeviceRecord(token.device, message.public_key, short_id))
        else:
            self._replace_machine(self._state.devices[token.device])
            self._state.ledger.write(replace(known, public_key=message.public_key, left=False))
        self._state.stir_device(token.device)
        self._state.ledger.remove(token)
        self._state.then += [
            self._state.allow("devices"),
            self._state.allow("relay-in"),
            Send(peer.routing_id, Enrolled(token.device), NO_SESSION),
            Audit(token.device, "enrolled"),
        ]

    def _replace_machine(self, device: Device) -> None:
        """A name goes to another key: what the old machine may still emit is fenced by higher gens."""
        if device.session is not None:
            self._state.end_session(device)
            device.state = "suspect"
        elif device.state == "quarantined":
            device.state = "suspect"
        for record in self._state.ledger.of_device(device.name):
            self._state.change(replace(record, gen=record.gen + 1, start_gen=record.gen + 1))

    def _greet(self, peer: DevicePeer, device: Device, hello: Hello, now: float) -> None:
        name = device.name
        if hello.device != name:
            self._state.first.append(
                Audit(name, f"its key was used in the name of {hello.device}", alarm=True)
            )
            self._refuse(peer, NO_SESSION, "key_device_mismatch", f"this is the key of {name}")
            return
        if device.state != "quarantined" and self._is_cloned(device, hello.boot, now):
            self._state.end_session(device)
            device.state, device.heard = "quarantined", now
            self._state.stir_device(name)
            self._state.first.append(
                Audit(name, "quarantined: two machines use its key, enrol anew", alarm=True)
            )
        if device.state == "quarantined":
            self._refuse(peer, NO_SESSION, "quarantined", "two machines use this key: enrol anew")
            return
        self._open_session(peer, device, hello, now)

    def _is_cloned(self, device: Device, boot: bytes, now: float) -> bool:
        """Do two boots take the session from each other? A restarted agent has a boot that never was."""
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
            self._state.supply.session(), peer.routing_id, hello.boot, self._state.supply.ticket()
        )
        device.session, device.state, device.heard = session, "syncing", now
        device.capacity, device.agent, device.publish = hello.capacity, hello.agent, hello.publish
        device.observed = {entry.pipeline_id: entry for entry in hello.observed}
        self._state.sessions[session.id] = device
        self._state.tickets[session.ticket] = device.name
        record = self._state.ledger.devices[device.name]
        if record.left:
            self._state.ledger.write(replace(record, left=False))
        # Wishes go out before any beat is acknowledged: no device goes on emitting what is no longer its own.
        self._state.tell(session, self._welcome(device, session))
        self._tell_wishes(device, session)
        self._state.stir_device(device.name)
        self._state.first.append(Audit(device.name, f"joined, agent {hello.agent}"))

    def _welcome(self, device: Device, session: Session) -> Welcome:
        config = self._state.config
        return Welcome(
            session.id,
            lease_ms=round(config.lease * 1000),
            self_stop_ms=round(config.self_stop * 1000),
            beat_ms=round(config.beat * 1000),
            short_id=self._state.ledger.devices[device.name].short_id,
            api=config.api,
            ticket=session.ticket,
            relay=config.relay,
            pictures=config.pictures,
        )

    def _tell_wishes(self, device: Device, session: Session) -> None:
        session.resend = False
        self._state.tell(session, self._state.desired(device))
        self._state.tell(session, Subscribers(self._state.subscribers_rev, self._state.subscriber_keys()))

    def _session_of(self, peer: DevicePeer, device: Device, envelope: Envelope) -> Session | None:
        """The session that a message belongs to, when everything that fences it is right."""
        session = device.session
        if session is None or (session.id, session.routing_id) != (envelope.session, peer.routing_id):
            return None
        if envelope.epoch != self._state.epoch or envelope.seq != session.received + 1:
            return None
        session.received = envelope.seq
        return session

    def _hear(self, device: Device, session: Session, beat: Beat, now: float) -> None:
        device.heard = now
        session.applied_rev = beat.applied_rev
        if beat.observed is not None:
            device.observed = {entry.pipeline_id: entry for entry in beat.observed}
            self._state.stir_device(device.name)
        want_full = observed_digest(tuple(device.observed.values())) != beat.observed_digest
        if session.resend or beat.applied_rev != device.rev:
            self._tell_wishes(device, session)
        self._state.tell(session, Ack(beat.n, device.rev, want_full))
        if device.state != "ready":
            self._state.first.append(Audit(device.name, "ready"))
            device.state = "ready"
            self._state.stir_device(device.name)
            self._movement.place(now)
        self._releases.confirm(device, session, now)

    def _let_go(self, device: Device, bye: Bye, now: float) -> None:
        self._state.end_session(device)
        device.state = "left"
        self._state.stir_device(device.name)
        self._state.ledger.write(replace(self._state.ledger.devices[device.name], left=True))
        self._state.first.append(Audit(device.name, f"left: {bye.reason}"))
        self._releases.release_gone(now)
        self._movement.place(now)

    def _expire_tokens(self, now: float) -> None:
        expired = [
            token for token in self._state.ledger.tokens.values() if token.expires_at <= self._state.wall(now)
        ]
        for token in expired:
            self._state.ledger.remove(token)
        if expired:
            self._state.then.append(self._state.allow("devices"))

    def _watch(self, now: float) -> None:
        for name, device in self._state.devices.items():
            if device.state not in ("syncing", "ready", "suspect"):
                continue
            assert device.heard is not None
            silent = now - device.heard
            if device.session is not None and device.session.cut:
                device.session.cut = False
                self._state.first.append(Audit(name, f"suspect: cut off, silent for {silent:.1f} s"))
            if silent > self._state.config.lease and now >= self._grace_until:
                if device.session is not None:
                    self._state.end_session(device)
                device.state, device.lost_at = "lost", now
                self._state.first.append(Audit(name, f"lost: silent for {silent:.1f} s", alarm=True))
            elif silent > self._state.config.suspect and device.state != "suspect":
                device.state = "suspect"
                self._state.first.append(Audit(name, f"suspect: silent for {silent:.1f} s"))
            elif silent > self._state.config.probe and device.state != "suspect":
                # If its agent was killed, libzmq tells it to who sends something.
                assert device.session is not None
                self._state.tell(device.session, self._state.desired(device))

    def _weigh_losses(self, now: float) -> None:
        """When most of the fleet falls silent together, it is probably our network: move nothing then."""
        since = now - (self._state.config.mass_hold if self._state.mass else self._state.config.mass_window)
        devices = self._state.devices.values()
        silent = sum(d.state == "suspect" or (d.state == "lost" and d.lost_at > since) for d in devices)
        present = sum(device.state in ("syncing", "ready") for device in devices)
        mass = silent >= MASS and silent > present
        if mass and not self._state.mass:
            event = f"{silent} of {silent + present} devices are silent: nothing is moved until most are back"
            self._state.first.append(Audit("fleet", event, alarm=True))
        elif self._state.mass and not mass:
            self._state.first.append(Audit("fleet", "pipelines of lost devices are moved again"))
        self._state.mass = mass
