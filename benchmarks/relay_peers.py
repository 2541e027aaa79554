"""The two ends of a relay that is measured, each a process of its own. They do as little as they can."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import zmq

from streamfleet_core.protocol.data_plane import DataHeader, Kind, pipeline_topic

SIZE = 470  # bytes of a message's three frames
_TOPIC = pipeline_topic(Kind.PRED, "bench")
_WARM = 0  # `inc` of what is sent until all have heard something
_INC = slice(16, 20)  # where it stands in a header
_SENT = slice(40, 48)  # and where the time of sending does, in ns of the machine's monotonic clock
_TICK = 0.002  # seconds between two bursts at a steady rate
_QUIET = 0.7  # seconds without a message, after which none is under way any more
_MANY = 1_000_000  # messages that our own ends may hold, so that only the relay loses any


@dataclass(frozen=True, slots=True)
class Keys:
    """A CURVE client's."""

    server: str
    public: str
    secret: str

    @staticmethod
    def pair() -> tuple[str, str]:
        """A new one."""
        public, secret = zmq.curve_keypair()
        return public.decode(), secret.decode()


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a relay."""

    endpoint: str
    keys: Keys | None


@dataclass(frozen=True, slots=True)
class Counted:
    """What the subscribers have received."""

    messages: int  # of all together
    seconds: float  # from the first to the last
    latency_us: float  # from sending to reading, of half of them at most


def publish(connection: Connection, side: Side) -> None:
    """Send until everybody has heard something, then as often and as fast as it is told."""
    with zmq.Context() as context, _socket(context, zmq.XPUB, side) as publisher:
        publisher.setsockopt(zmq.XPUB_NODROP, 1)  # wait for the relay
        publisher.sndtimeo = 5000
        connection.recv()
        while not connection.poll(0.01):
            publisher.send_multipart(_message(_WARM, time.monotonic_ns()))
        incarnation = _WARM
        while True:
            rate, seconds = connection.recv()
            incarnation += 1
            connection.send(_send(publisher, incarnation, rate, seconds))


def _send(publisher: zmq.Socket[bytes], incarnation: int, rate: int, seconds: float) -> int:
    """How many were sent."""
    frames = _message(incarnation, 0)
    sent, started = 0, time.monotonic()
    while (passed := time.monotonic() - started) < seconds:
        due = int(rate * passed) - sent if rate else 100
        if due:
            frames = _message(incarnation, time.monotonic_ns())
        for _ in range(due):
            publisher.send_multipart(frames)
        sent += due
        if rate:
            time.sleep(_TICK)
    return sent


def subscribe(connection: Connection, side: Side, count: int) -> None:
    """Say when every socket has heard something, then count what comes, run by run."""
    with zmq.Context() as context:
        subscribers = [_socket(context, zmq.SUB, side) for _ in range(count)]
        connection.recv()
        poller = zmq.Poller()
        for subscriber in subscribers:
            subscriber.subscribe(b"v1/pred/")
            poller.register(subscriber, zmq.POLLIN)
        waiting = set(subscribers)
        while waiting:
            for ready, _ in poller.poll(1000):
                waiting.discard(ready)
                ready.recv_multipart()
        connection.send("ready")
        for incarnation in itertools.count(_WARM + 1):
            connection.send(_count(connection, poller, incarnation))


def _count(connection: Connection, poller: zmq.Poller, incarnation: int) -> Counted:
    """What comes of one run, until it is all there, or it was asked for and nothing more comes."""
    messages, first, last = 0, 0.0, 0.0
    latencies: list[int] = []
    expected: int | None = None
    while expected is None or messages < expected:
        if expected is None and connection.poll():
            expected = connection.recv()
        ready = poller.poll(round(_QUIET * 1000))
        if not ready and expected is not None:
            break
        came = sum(_drain(subscriber, incarnation, latencies) for subscriber, _ in ready)
        if came:
            last = time.monotonic()
            first = first or last
            messages += came
    latency = statistics.median(latencies) / 1000 if latencies else float("nan")
    return Counted(messages, max(last - first, 1e-9), latency)


def _drain(subscriber: zmq.Socket[bytes], incarnation: int, latencies: list[int]) -> int:
    """How much of this run is there, without waiting. Adds how long the first of it took."""
    count, wanted = 0, incarnation.to_bytes(4, "big")
    for _ in range(256):
        try:
            frames = subscriber.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            break
        if frames[1][_INC] != wanted:
            continue
        if not count:
            latencies.append(time.monotonic_ns() - int.from_bytes(frames[1][_SENT], "big"))
        count += 1
    return count


def _message(incarnation: int, sent_ns: int) -> list[bytes]:
    header = DataHeader(kind=Kind.PRED, gen=1, inc=incarnation, seq=0, captured_boot_ns=sent_ns).pack()
    return [_TOPIC, header, bytes(SIZE - len(_TOPIC) - len(header))]


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, side: Side) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.linger = 0
    if kind == zmq.SUB:
        socket.rcvhwm = _MANY
    if side.keys is not None:
        socket.curve_serverkey = side.keys.server.encode()
        socket.curve_publickey = side.keys.public.encode()
        socket.curve_secretkey = side.keys.secret.encode()
    socket.connect(side.endpoint)
    return socket
