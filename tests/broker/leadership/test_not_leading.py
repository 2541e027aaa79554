"""A broker that does not lead refuses everything, and admits the clients that the leader admits."""

from __future__ import annotations

from streamfleet_broker.fleet.devices import DevicePeer, OperatorPeer
from streamfleet_broker.fleet.effects import Answer, Send, SetAllowedKeys
from streamfleet_broker.fleet.records import DeviceRecord, FloorRecord, SubscriberRecord, TokenRecord
from streamfleet_broker.leadership.candidacy import Seen
from streamfleet_broker.leadership.not_leading import RETRY_MS, NotLeading
from streamfleet_core.protocol.control_plane import Envelope
from streamfleet_core.protocol.messages import Enrol, Error, Heartbeat, Refused
from streamfleet_core.protocol.requests import GetFleet, pack_request

SESSION = b"s" * 16
REASON = "this broker stands by: tcp://a:7771 leads in epoch 7"


def standing_by() -> NotLeading:
    found = NotLeading("o" * 40)
    found.see(Seen(7, 70, "tcp://a:7771"))
    return found


def test_a_device_is_told_who_leads_whatever_it_says() -> None:
    broker, peer = standing_by(), DevicePeer(b"r", "d" * 40)
    refused = Send(b"r", Refused("not_leader", REASON, RETRY_MS), SESSION)

    for message in (Heartbeat(1, 1, 0), Enrol("k" * 40)):
        effects = broker.receive(peer, Envelope(message, epoch=6, session=SESSION), 1.0)
        assert effects == [refused]

    assert broker.envelope(refused) == Envelope(refused.message, epoch=7, session=SESSION)


def test_operators_are_told_who_leads_each_for_itself() -> None:
    broker = standing_by()
    asked = [
        (OperatorPeer(name), Envelope(pack_request(GetFleet()), request_id=name * 16))
        for name in (b"a", b"b")
    ]

    assert broker.receive_together(asked, 1.0) == [
        Answer(b"a", b"a" * 16, Error("not_leader", REASON)),
        Answer(b"b", b"b" * 16, Error("not_leader", REASON)),
    ]


def test_a_broker_before_the_first_leader_says_so() -> None:
    assert NotLeading("o" * 40).reason == "this broker stands by: no broker leads in epoch 0"


def test_it_admits_the_keys_that_the_leader_admits() -> None:
    records = (
        DeviceRecord(device="cam-1", public_key="d" * 40, short_id=1),
        TokenRecord("t" * 40, "cam-2", 1.5e9),
        SubscriberRecord("wall", "w" * 40),
        FloorRecord(3),
    )

    assert standing_by().admit(records) == [
        SetAllowedKeys("operators", frozenset({"o" * 40})),
        SetAllowedKeys("devices", frozenset({"d" * 40, "t" * 40})),
        SetAllowedKeys("relay-in", frozenset({"d" * 40})),
        SetAllowedKeys("relay-out", frozenset({"w" * 40, "o" * 40})),
    ]
