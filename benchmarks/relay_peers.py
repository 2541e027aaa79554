"""The publisher and the subscribers of a measured relay, each a process with low overhead."""

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
_WARM = 0  # `inc` of messages before all subscribers are connected
_INC = slice(16, 20)  # its position in a header
_SENT = slice(40, 48)  # position of the time of sending, in ns of the monotonic clock
_TICK = 0.002  # seconds between two bursts at a steady rate
_QUIET = 0.7  # seconds without a message, after which no more is expected
_MANY = 1_000_000  # messages in the queues of subscribers, so that only the relay drops messages


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a CURVE client."""

    server: str
    public: str
    secret: str

    @staticmethod
    def pair() -> tuple[str, str]:
        """Create a key pair."""
        public, secret = zmq.curve_keypair()
        return public.decode(), secret.decode()


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a relay."""

    endpoint: str
    keys: Keys | None


@dataclass(frozen=True, slots=True)
class Counted:
    """The messages that the subscribers received."""

    messages: int  # of all subscribers
    seconds: float  # from the first to the last
    latency_us: float  # median from send to receive


def publish(connection: Connection, side: Side) -> None:
    """Send until all subscribers are connected, then send at the rates that are requested."""
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
    """Send messages and return their number."""
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
    """Report when all sockets are connected, then count the messages of each run."""
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
    """Count the messages of one run, until all have arrived, or no more arrive after the run has ended."""
    messages, first, last = 0, 0.0, 0.0
    latencies: list[int] = []
    expected: int | None = None
    while expected is None or messages < expected:
        if expected is None and connection.poll():
            expected = connection.recv()
        ready = poller.poll(round(_QUIET * 1000))
        if not ready and expected is not None:
            break
        received = sum(_drain(subscriber, incarnation, latencies) for subscriber, _ in ready)
        if received:
            last = time.monotonic()
            first = first or last
            messages += received
    latency = statistics.median(latencies) / 1000 if latencies else float("nan")
    return Counted(messages, max(last - first, 1e-9), latency)


def _drain(subscriber: zmq.Socket[bytes], incarnation: int, latencies: list[int]) -> int:
    """Return the number of queued messages of this run. Records the latency of the first one."""
    count, expected = 0, incarnation.to_bytes(4, "big")
    for _ in range(256):
        try:
            frames = subscriber.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            break
        if frames[1][_INC] != expected:
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
