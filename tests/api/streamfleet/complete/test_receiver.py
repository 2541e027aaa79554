"""A receiver over real sockets: what it asks for, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgpack
import pytest
import zmq

from streamfleet.complete.receiver import Receiver
from streamfleet.complete.values import Checkpoint, Gap, Position
from streamfleet.errors import BadSetting
from streamfleet_core.peers.replay import Holder, ReplayAnswer, ReplayHolders, ReplayRequest, Span
from streamfleet_core.peers.selection import Selection
from streamfleet_core.protocol.data_plane import (
    DataHeader,
    Flag,
    Kind,
    pipeline_topic,
    replay_note,
    selection_note,
)
from tests.fakes.patience import PATIENCE

TOPIC = pipeline_topic(Kind.PRED, "door")


@dataclass
class Relay:
    """A relay and a device in one, and a receiver that it serves."""

    publisher: zmq.Socket[bytes]
    subscription: zmq.Socket[bytes]
    receiver: Receiver
    now: float = 100.0
    asked: list[ReplayRequest] = field(default_factory=list)

    def publish(self, *seqs: int, topic: bytes = TOPIC, body: bytes | None = None) -> None:
        kind = Kind.PRED if topic == TOPIC else Kind.REPLAY
        for seq in seqs:
            header = DataHeader(kind=kind, gen=1, inc=0, seq=seq)
            self.publisher.send_multipart([topic, header.pack(), body or document(seq)])

    def answer(self, request: ReplayRequest, *seqs: int) -> None:
        """What a device answers that has these, in one span."""
        holders = ReplayHolders((Holder("edge-1", 0, 9),))
        self.publisher.send_multipart(
            [request.topic, replay_note(request.start, Flag.HOLDERS), holders.encode()]
        )
        self.publish(*seqs, topic=request.topic)
        sent = (Span(1, 0, seqs[0], seqs[-1]),) if seqs else ()
        until = (1, 0, seqs[-1]) if seqs else (1, 0, 0)
        said = ReplayAnswer(device="edge-1", known_from=(1, 0, 0), until=until, done=True, sent=sent)
        self.publisher.send_multipart([request.topic, replay_note(until, Flag.ANSWER), said.encode()])

    def request(self) -> ReplayRequest:
        """The next one."""
        while self.publisher.poll(PATIENCE * 1000):
            message = self.publisher.recv()
            found = ReplayRequest.parse(message[1:])
            if message[:1] == b"\1" and found is not None:
                return found
        raise AssertionError("a request")

    def turn(self, passed: float = 0.0) -> list[int | str]:
        """What is delivered after so many seconds: sequence numbers, and causes of gaps."""
        self.now += passed
        found: list[int | str] = []
        for _ in range(20):
            while (value := self.receiver.take(self.now)) is not None:
                found.append(value.cause if isinstance(value, Gap) else value.header.seq)
            if self.receiver.wait_ms(self.now) and self.subscription.poll(20):
                self.receiver.read(self.now)
            self.now += 0.02
        return found


def document(seq: int) -> bytes:
    about = {"device": "edge-1", "seq": seq}
    return bytes(msgpack.packb({"image": {}, "predictions": [], "inference_metadata": about}))


@pytest.fixture
def relay() -> Iterator[Relay]:
    with (
        zmq.Context() as context,
        context.socket(zmq.XPUB) as publisher,
        context.socket(zmq.SUB) as subscription,
    ):
        publisher.linger = subscription.linger = 0
        publisher.bind("inproc://relay")
        subscription.connect("inproc://relay")
        subscription.subscribe(TOPIC)
        assert publisher.recv() == b"\1" + TOPIC
        receiver = Receiver(subscription, ["door"], Checkpoint(), oldest=False, patience=5.0)
        yield Relay(publisher, subscription, receiver)


def test_a_loss_is_asked_for_and_delivered_in_its_place(relay: Relay) -> None:
    relay.publish(0, 2)
    assert relay.turn() == [0]
    request = relay.request()
    assert request.start == (1, 0, 1)
    relay.answer(request, 1, 2)

    assert relay.turn() == [1, 2]
    assert relay.receiver.checkpoint.positions["door"].key == (1, 0, 2)


def test_a_device_is_not_away_because_the_caller_was_busy(relay: Relay) -> None:
    relay.publish(0, 2)
    assert relay.turn() == [0]
    relay.answer(relay.request(), 1, 2)

    assert relay.turn(passed=1000.0) == [1, 2]


def test_a_device_that_is_silent_while_somebody_listens_is_away(relay: Relay) -> None:
    relay.publish(0, 2)
    found = relay.turn()
    for _ in range(20):
        found += relay.turn(passed=0.9)

    assert found == [0, "away", 2]


def test_what_is_no_prediction_is_counted_and_costs_nothing_else(relay: Relay) -> None:
    relay.publish(0)
    for body in (b"junk", b"\x80", b"\x81\xb2inference_metadata\x81\xa6device\xc0"):
        relay.publish(1, body=body)
    relay.publish(1)

    assert relay.turn() == [0, 1]
    assert relay.receiver.unreadable == 3


def test_labels_are_followed_as_they_change(relay: Relay) -> None:
    checkpoint = Checkpoint({"gate": Position(1, 0, 4, "edge-1")})
    receiver = relay.receiver = Receiver(
        relay.subscription, [], checkpoint, oldest=False, patience=5.0, selectors=["site=hall"]
    )
    heard: list[bytes] = []

    def hear_until(begin: bytes) -> bytes:
        while not heard or not heard[-1].startswith(begin):
            assert relay.publisher.poll(PATIENCE * 1000), heard
            heard.append(relay.publisher.recv())
        return heard[-1][1:]

    assert relay.turn() == []
    topic = hear_until(b"\1v1/select/site=hall@")

    def select(number: int, *pipelines: str, more: int = 0) -> None:
        body = Selection(pipelines, more).encode()
        relay.publisher.send_multipart([topic, selection_note(number), body])

    select(1, "gate", "porch")
    relay.turn()
    request = ReplayRequest.parse(hear_until(b"\1v1/replay/gate@"))
    assert request is not None
    assert request.start == (1, 0, 5)
    assert receiver.has_selected
    select(2, "gate")
    select(1, "porch")  # late
    relay.turn()
    assert hear_until(b"\0v1/pred/porch/") == b"v1/pred/porch/"
    select(3, "gate", more=2000)
    with pytest.raises(BadSetting, match="2001"):
        relay.turn()


def test_what_waits_is_bounded_in_bytes_and_asked_for_later(relay: Relay) -> None:
    room = 3 * len(document(0))
    receiver = Receiver(relay.subscription, ["door"], Checkpoint(), oldest=False, patience=5.0, room=room)
    relay.receiver = receiver
    relay.publish(0, *range(2, 50))
    assert relay.turn() == [0]

    for first in (1, 4, 7):
        request = relay.request()
        assert request.start == (1, 0, first)
        relay.answer(request, *range(first, 50))
        assert relay.turn() == [first, first + 1, first + 2]
