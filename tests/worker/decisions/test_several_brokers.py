"""A device finds the leader of two brokers before its lease ends. In virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from streamfleet_broker.leadership.candidacy import LEASE, POLL_INTERVAL
from streamfleet_broker.leadership.lease import STOP_AFTER
from streamfleet_broker.leadership.not_leading import RETRY_MS
from streamfleet_core.protocol.control_plane import NO_SESSION, Envelope
from streamfleet_core.protocol.messages import (
    Desired,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Message,
    Refused,
    Welcome,
)
from streamfleet_worker.decisions.broker_session import Session, SessionState
from streamfleet_worker.decisions.session_effects import Close, Effect, LeaseEnded, LeaseRenewed, Open, Send
from tests.worker.decisions.test_broker_session import HELLO

TICK = 0.1  # seconds, as the agent
HANDSHAKE = 0.2  # seconds
START = 0.5  # seconds from the lead to the first answer, on a large fleet
SELF_STOP = 8.0  # seconds, as the broker says by default

Fault = Literal["killed", "suspended", "cut off"]


@dataclass
class Site:
    """Two brokers. The first leads until a fault at `fault_at`; the second leads when its lease is over."""

    fault: Fault
    fault_at: float
    renewed: float  # seconds before the fault, of the last renewal
    looked: float  # seconds after a look of the second, of that renewal
    epoch: int = 5
    sequence: dict[int, int] = field(default_factory=dict)

    @property
    def leads_at(self) -> float:
        """When the second one answers as the leader."""
        return self.fault_at - self.renewed + self.looked + LEASE + POLL_INTERVAL + START

    def answers(self, broker: int, now: float) -> bool:
        """Whether a broker sends anything, and completes a handshake."""
        return broker == 1 or now < self.fault_at or self.fault == "cut off"

    def leads(self, broker: int, now: float) -> bool:
        if broker == 1:
            return now >= self.leads_at
        return now < self.fault_at - self.renewed + STOP_AFTER if self.fault == "cut off" else True

    def reply(self, broker: int, envelope: Envelope, now: float) -> list[Envelope]:
        if not self.answers(broker, now):
            return []
        epoch, session = self.epoch + broker, bytes([broker + 1]) * 16
        if not self.leads(broker, now):
            refused = Refused("not_leader", "stands by", RETRY_MS)
            return [Envelope(refused, epoch=self.epoch, session=envelope.session)]
        messages: list[Message]
        if isinstance(envelope.message, Hello):
            self.sequence[broker] = 0
            welcome = Welcome(
                session=session,
                self_stop_ms=round(SELF_STOP * 1000),
                heartbeat_ms=1000,
                short_id=1,
                api="",
                ticket="",
            )
            messages = [welcome, Desired(1, ())]
        elif isinstance(envelope.message, Heartbeat) and envelope.session == session:
            messages = [HeartbeatAck(envelope.message.number)]
        else:
            return [Envelope(Refused("stale_session"), epoch=epoch, session=NO_SESSION)]
        found = []
        for message in messages:
            self.sequence[broker] += 1
            found.append(Envelope(message, epoch=epoch, session=session, seq=self.sequence[broker]))
        return found


class Device:
    """A session and its connection. What it sends is answered with the next tick."""

    def __init__(self, site: Site, chance: float) -> None:
        self.session = Session(HELLO, lambda: chance, several=True)
        self.seen: list[Effect] = []
        self._site = site
        self._broker = 0
        self._connected_at = float("inf")
        self._inbox: list[Envelope] = []

    def tick(self, now: float) -> None:
        inbox, self._inbox = self._inbox, []
        for envelope in inbox:
            self._perform(self.session.receive(envelope, now), now)
        self._perform(self.session.tick(now), now)
        self._perform(self.session.observe((), now), now)
        self.session.check()

    def _perform(self, effects: list[Effect], now: float) -> None:
        self.seen += effects
        for effect in effects:
            match effect:
                case Open():
                    self._broker = effect.endpoint % 2
                    there = self._site.answers(self._broker, now)
                    self._connected_at = now + HANDSHAKE if there else float("inf")
                case Close():
                    self._connected_at = float("inf")
                    self._inbox = []
                case Send() if now < self._connected_at:
                    self.session.unsent(effect.envelope)
                case Send():
                    self._inbox += self._site.reply(self._broker, effect.envelope, now)


@given(
    fault=st.sampled_from(["killed", "suspended", "cut off"]),
    phase=st.floats(0.0, 3.0),
    renewed=st.floats(0.0, 1.5),
    looked=st.floats(0.0, POLL_INTERVAL),
    chance=st.floats(0.0, 0.99),
)
def test_a_device_follows_the_leader_before_its_lease_ends(
    fault: Fault, phase: float, renewed: float, looked: float, chance: float
) -> None:
    site = Site(fault, fault_at=20.0 + phase, renewed=renewed, looked=looked)
    device = Device(site, chance)

    for tick in range(400):
        device.tick(tick * TICK)

    assert device.session.state(40.0 - TICK) is SessionState.READY
    assert sum(isinstance(each, LeaseRenewed) for each in device.seen) == 1
    assert not any(isinstance(each, LeaseEnded) for each in device.seen)
