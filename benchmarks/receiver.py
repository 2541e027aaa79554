"""A receiver with low overhead: it records the arrival of each message, and decodes it later.

The kernel timestamps datagrams, so they are read in batches. A ZeroMQ message is timestamped when it is read.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Any

import zmq

from streamfleet_core.protocol.data_plane import DataHeader, split
from tests.fakes.datagrams import make_room
from tests.fakes.patience import PATIENCE
from tests.fleet.harness import wait_for

UDP = "UDP"

_SO_TIMESTAMPNS = 35  # from Linux; not defined in Python
_TIMESPEC = struct.Struct("@qq")  # seconds and nanoseconds since 1970
_PAUSE = 100  # milliseconds between two batches of datagrams


@dataclass(frozen=True, slots=True)
class Arrival:
    """A received message."""

    way: str
    at_ns: int  # CLOCK_BOOTTIME, like the time of capture
    frames: tuple[bytes, ...]  # of ZeroMQ, or one datagram


@dataclass(frozen=True, slots=True)
class Content:
    """The fields of a datagram that benchmarks need."""

    pipeline_id: str
    key: tuple[int, int, int]
    frame_id: int
    detections: int


class Receiver:
    """Receives from one UDP socket and any number of named SUB sockets, in one thread."""

    def __init__(self, endpoints: dict[str, str] | None = None) -> None:
        self.arrivals: list[Arrival] = []
        self.first_ns: dict[object, int] = {}  # by sender: the arrival of its first datagram
        self._connected: set[str] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        make_room(self._socket)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        self._endpoints = endpoints or {}
        self._context = zmq.Context()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self._thread.start()

    def __enter__(self) -> Receiver:
        wait_for(lambda: self._connected >= self._endpoints.keys(), "a device's status on every way")
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(PATIENCE)
        self._context.destroy(linger=0)
        self._socket.close()

    def count(self, way: str = UDP) -> int:
        """Return the number of messages received this way."""
        return sum(arrival.way == way for arrival in list(self.arrivals))

    def _run(self) -> None:
        poller = zmq.Poller()
        ways = {self._subscribe(endpoint): way for way, endpoint in self._endpoints.items()}
        for subscription in ways:
            poller.register(subscription, zmq.POLLIN)
        while not self._closing.is_set():
            if ways:
                for ready, _ in poller.poll(_PAUSE):
                    self._take_message(ways[ready], ready)
            else:
                self._closing.wait(_PAUSE / 1000)
            self._take_datagrams()
        for subscription in ways:
            subscription.close()

    def _subscribe(self, endpoint: str) -> zmq.Socket[bytes]:
        subscription = self._context.socket(zmq.SUB)
        subscription.linger = 0
        subscription.rcvhwm = 100_000
        subscription.connect(endpoint)
        subscription.subscribe("v1/pred/")
        subscription.subscribe(
            "v1/stat/@"
        )  # sent each second: receiving it proves that the subscription works
        return subscription

    def _take_message(self, way: str, subscription: zmq.Socket[bytes]) -> None:
        frames = subscription.recv_multipart()
        if frames[0].startswith(b"v1/stat/"):
            self._connected.add(way)
        else:
            self.arrivals.append(Arrival(way, boot_ns(), tuple(frames)))

    def _take_datagrams(self) -> None:
        since_boot = boot_ns() - time.time_ns()
        while True:
            try:
                content, notes, _, sender = self._socket.recvmsg(65_536, socket.CMSG_SPACE(_TIMESPEC.size))
            except BlockingIOError:
                return
            seconds, nanoseconds = _TIMESPEC.unpack(notes[0][2])
            at_ns = seconds * 10**9 + nanoseconds + since_boot
            self.first_ns.setdefault(sender, at_ns)
            self.arrivals.append(Arrival(UDP, at_ns, (content,)))


def boot_ns() -> int:
    """Return the time of the clock that timestamps captures."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def pipeline_of(arrival: Arrival) -> str:
    """Return the pipeline of a message."""
    return content_of(arrival).pipeline_id if arrival.way == UDP else header_of(arrival)[0]


def header_of(arrival: Arrival) -> tuple[str, DataHeader]:
    """Return the pipeline and the header of a ZeroMQ message."""
    pipeline_id, header, _ = split(arrival.frames)
    return pipeline_id, header


def content_of(arrival: Arrival) -> Content:
    """Decode a datagram."""
    document: dict[str, Any] = json.loads(arrival.frames[0])
    about = document["inference_metadata"]
    key = (about["gen"], about["inc"], about["seq"])
    return Content(about["pipeline_id"], key, about["frame_id"], len(document["predictions"]))
