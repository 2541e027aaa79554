"""The decisions of a broker that does not lead: it refuses each message and says who leads. Pure.

It stands in for `Fleet`, so devices and operators stay connected and their messages stay bounded. When this
broker takes the lead, a `Fleet` follows on the same sockets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamfleet_broker.fleet.devices import DevicePeer, OperatorPeer
from streamfleet_broker.fleet.effects import Answer, Effect, Save, Send, SetAllowedKeys
from streamfleet_broker.fleet.records import DeviceRecord, Record, SubscriberRecord, TokenRecord
from streamfleet_broker.leadership.candidacy import Seen
from streamfleet_core.protocol.control_plane import NO_SESSION, Envelope
from streamfleet_core.protocol.errors import BadMessage
from streamfleet_core.protocol.messages import Error, Refused
from streamfleet_core.protocol.requests import Plane

RETRY_MS = 500  # after which a device asks again
ADMITTED = ("device", "token", "subscriber")  # the kinds of the rows that `admit` needs


class NotLeading:
    """Answers while another broker leads."""

    def __init__(self, operator_key: str) -> None:
        self._operator_key = operator_key
        self._seen = Seen(0, 0, "")

    @property
    def epoch(self) -> int:
        """The epoch of the leader."""
        return self._seen.epoch

    @property
    def reason(self) -> str:
        """Why this broker does nothing, and who does."""
        leader = self._seen.leader or "no broker"
        return f"this broker stands by: {leader} leads in epoch {self._seen.epoch}"

    def see(self, seen: Seen) -> None:
        """Note who leads."""
        self._seen = seen

    def admit(self, records: Iterable[Record]) -> list[Effect]:
        """Let those connect that the leader lets connect. `records`: all of the kinds in `ADMITTED`."""
        known = list(records)
        owners = frozenset(each.public_key for each in known if isinstance(each, DeviceRecord))
        tokens = frozenset(each.public_key for each in known if isinstance(each, TokenRecord))
        subscribers = frozenset(each.public_key for each in known if isinstance(each, SubscriberRecord))
        operator = frozenset({self._operator_key})
        return [
            SetAllowedKeys("operators", operator),
            SetAllowedKeys("devices", owners | tokens),
            SetAllowedKeys("relay-in", owners),
            SetAllowedKeys("relay-out", subscribers | operator),
        ]

    def receive(self, peer: DevicePeer | OperatorPeer, envelope: Envelope, now: float) -> list[Effect]:
        """Refuse a message."""
        if isinstance(peer, OperatorPeer):
            return [Answer(peer.routing_id, envelope.request_id, Error("not_leader", self.reason))]
        return [Send(peer.routing_id, Refused("not_leader", self.reason, RETRY_MS), envelope.session)]

    def receive_together(self, messages: Sequence[tuple[OperatorPeer, Envelope]], now: float) -> list[Effect]:
        """Refuse several messages."""
        return [effect for peer, envelope in messages for effect in self.receive(peer, envelope, now)]

    def receive_malformed(
        self, peer: DevicePeer | OperatorPeer, request_id: bytes, error: BadMessage
    ) -> list[Effect]:
        """Refuse bytes that are not a message."""
        if isinstance(peer, OperatorPeer):
            return [Answer(peer.routing_id, request_id, Error("bad_message", str(error)))]
        return [Send(peer.routing_id, Refused("bad_message", str(error)), NO_SESSION)]

    def overspent(self, key: str, plane: Plane, count: int, now: float) -> list[Effect]:
        """Nothing: the messages were dropped."""
        return []

    def tick(self, now: float) -> list[Effect]:
        """Nothing: no device is missed here."""
        return []

    def envelope(self, send: Send) -> Envelope:
        """Wrap a refusal."""
        return Envelope(send.message, epoch=self.epoch, session=send.session)

    def sent(self, send: Send) -> None:
        """Nothing: refusals are not counted."""

    def unsent(self, send: Send, *, gone: bool) -> None:
        """Nothing: who was not refused asks again."""

    def commit_failed(self, save: Save, dropped: Iterable[Effect]) -> list[Effect]:
        """Nothing: nothing is ever saved."""
        return []

    def epoch_committed(self, epoch: int) -> None:
        """Nothing: no epoch is ever raised."""
