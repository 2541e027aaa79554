"""Enrolment: a one-time key, which a token holds, gives a device its own key. Pure.

token made ──Enrol──▶ enrolled, the token is removed; token made ──its time passes──▶ removed
"""

from __future__ import annotations

from dataclasses import replace

from streamfleet_broker.fleet.devices import Device, DevicePeer
from streamfleet_broker.fleet.effects import LogEvent, Send
from streamfleet_broker.fleet.records import DeviceRecord
from streamfleet_broker.fleet.state import State
from streamfleet_core.protocol.control_plane import NO_SESSION
from streamfleet_core.protocol.messages import Enrol, Enrolled
from streamfleet_core.protocol.values import is_public_key


class Enrolment:
    """Enrols new devices, and new machines of known ones."""

    def __init__(self, state: State) -> None:
        self._state = state

    def enrol(self, peer: DevicePeer, message: Enrol) -> None:
        """Admit the key that a device has made, in exchange for its token."""
        token = self._state.records.tokens.get(peer.key)
        if token is None:
            self._state.refuse(peer, NO_SESSION, "token_used", "ask for a new token")
            return
        if self._state.is_known_key(message.public_key):
            self._state.refuse(peer, NO_SESSION, "bad_message", "this key is in use: make one of your own")
            return
        if not is_public_key(message.public_key):
            self._state.refuse(peer, NO_SESSION, "bad_message", "expected a public key of CURVE, got none")
            return
        known = self._state.records.devices.get(token.device)
        if known is None:
            self._state.devices[token.device] = Device(name=token.device, revision=self._state.revision)
            short_id = (
                max((record.short_id for record in self._state.records.devices.values()), default=0) + 1
            )
            self._state.records.write(
                DeviceRecord(device=token.device, public_key=message.public_key, short_id=short_id)
            )
        else:
            self._replace_machine(self._state.devices[token.device])
            self._state.records.write(replace(known, public_key=message.public_key, left=False))
        self._state.mark_device_dirty(token.device)
        self._state.records.remove(token)
        self._state.after_commit += [
            self._state.allowed_keys("devices"),
            self._state.allowed_keys("relay-in"),
            Send(peer.routing_id, Enrolled(token.device), NO_SESSION),
            LogEvent(token.device, "enrolled"),
        ]

    def expire_tokens(self, now: float) -> None:
        """Remove tokens that were not used in time."""
        expired = [
            token
            for token in self._state.records.tokens.values()
            if token.expires_at <= self._state.wall(now)
        ]
        for token in expired:
            self._state.records.remove(token)
        if expired:
            self._state.after_commit.append(self._state.allowed_keys("devices"))

    def _replace_machine(self, device: Device) -> None:
        """Give a name to another key. Higher generations fence off what the old machine may still emit."""
        if device.session is not None:
            self._state.end_session(device)
            device.state = "suspect"
        elif device.state == "quarantined":
            device.state = "suspect"
        for record in self._state.records.standing_by(device.name):
            self._state.change(replace(record, standby=None))
        for record in self._state.records.of_device(device.name):
            generation = record.generation + 1
            self._state.change(
                replace(record, generation=generation, run_generation=generation, standby=None)
            )
