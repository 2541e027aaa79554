"""The relay of the data plane: for predictions and for pictures each two C proxies, in threads of their own.

    devices' PUB ──▶ XSUB tcp, CURVE relay-in ═ XPUB predictions.ipc ──▶ api and programs on this host
                                                        │
                        XSUB ipc ◀──────────────────────┘
                        ═ XPUB tcp, CURVE relay-out ──▶ subscribers elsewhere

It filters and counts nothing. A proxy ends only when its context does, so the relay has a context of its own.
Predictions and pictures have an I/O thread each in it: no picture delays a prediction, and neither delays a
heartbeat. ZAP is asked in a socket's context: this has one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import zmq

from streamfleet_broker.errors import BrokerError, RelayDied
from streamfleet_broker.sockets import DATA_OPTIONS, PICTURE_OPTIONS, Socket, bind, configure, secure
from streamfleet_broker.supply import KeyPair

logger = logging.getLogger(__name__)

START_TIMEOUT = 5.0  # seconds
STOP_TIMEOUT = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Traffic:
    """What two proxies forward. Its `io_thread` is a bit: no other traffic has the same."""

    name: str
    in_option: str  # that says where they listen for devices
    out_option: str  # and for subscribers
    socket_options: dict[int, int]
    io_thread: int


PREDICTIONS = Traffic("relay", "--relay-in-port", "--relay-out-port", DATA_OPTIONS, 1)
PICTURES = Traffic("picture relay", "--pictures-in-port", "--pictures-out-port", PICTURE_OPTIONS, 2)


class Relay:
    """All proxies."""

    def __init__(self, keys: KeyPair) -> None:
        self.context: zmq.Context[Socket] = zmq.Context(io_threads=2)
        self._keys = keys
        self._threads: list[threading.Thread] = []

    def start_in(self, traffic: Traffic, endpoint: str, here: str) -> str:
        """Relay from the devices to this host; the endpoint as it was bound. Raises: CannotBind."""

        def wire(source: Socket, sink: Socket) -> str:
            secure(source, self._keys, "relay-in")
            bind(sink, here, "--data-dir")
            return bind(source, endpoint, traffic.in_option)

        return self._start(traffic, "in", wire)

    def start_out(self, traffic: Traffic, endpoint: str, here: str) -> str:
        """Relay from this host to subscribers; the endpoint as it was bound. Raises: CannotBind."""

        def wire(source: Socket, sink: Socket) -> str:
            secure(sink, self._keys, "relay-out")
            source.connect(here)
            return bind(sink, endpoint, traffic.out_option)

        return self._start(traffic, "out", wire)

    def check(self) -> None:
        """Raises: RelayDied."""
        for thread in self._threads:
            if not thread.is_alive():
                raise RelayDied(thread.name)

    def stop(self) -> None:
        """End the context, and with it the proxies. All other sockets in it must be closed by now."""
        # `term` waits for the proxies to close their sockets, and a wait needs a deadline: hence its thread.
        ending = threading.Thread(target=self.context.term, name="relay end", daemon=True)
        ending.start()
        for thread in (*self._threads, ending):
            thread.join(STOP_TIMEOUT)
            if thread.is_alive():
                logger.error("%s did not end within %.0f s", thread.name, STOP_TIMEOUT)

    def _start(self, traffic: Traffic, direction: str, wire: Callable[[Socket, Socket], str]) -> str:
        started: Future[str] = Future()
        thread = threading.Thread(
            target=_relay,
            args=(self.context, traffic, wire, started),
            name=f"{traffic.name} {direction}",
            daemon=True,
        )
        thread.start()
        endpoint = started.result(START_TIMEOUT)
        self._threads.append(thread)
        return endpoint


def _relay(
    context: zmq.Context[Socket],
    traffic: Traffic,
    wire: Callable[[Socket, Socket], str],
    started: Future[str],
) -> None:
    """The life of a thread: it makes its sockets, relays between them and closes them."""
    # No XPUB_VERBOSE: it passes each subscription on and not each end of one, so that with equal ones the
    # XSUB counts too many, and devices would publish for ever what nobody hears any more.
    with context.socket(zmq.XSUB) as source, context.socket(zmq.XPUB) as sink:
        for socket in (source, sink):
            configure(socket, traffic.socket_options | {zmq.AFFINITY: traffic.io_thread})
        try:
            started.set_result(wire(source, sink))
        except BrokerError as exc:
            started.set_exception(exc)
            return
        try:
            zmq.proxy(source, sink)
        except zmq.ContextTerminated:
            logger.debug("%s ends with its context", threading.current_thread().name)
        except zmq.ZMQError:
            logger.exception("%s", threading.current_thread().name)
