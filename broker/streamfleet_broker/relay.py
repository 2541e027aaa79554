"""The relay of the data plane: two C proxies in threads of their own. It filters and counts nothing.

    devices' PUB ──▶ XSUB tcp, CURVE relay-in ═ XPUB predictions.ipc ──▶ api and programs on this host
                                                        │
                        XSUB ipc ◀──────────────────────┘
                        ═ XPUB tcp, CURVE relay-out ──▶ subscribers elsewhere

A proxy ends only when its context does, so the relay has a context of its own. That gives it an I/O thread of
its own, too: predictions never delay a heartbeat. ZAP is asked in a socket's context: this has one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

import zmq

from streamfleet_broker.errors import BrokerError, RelayDied
from streamfleet_broker.fleet import KeyPair
from streamfleet_broker.sockets import DATA_OPTIONS, Socket, bind, configure, secure

logger = logging.getLogger(__name__)

START_TIMEOUT = 5.0  # seconds
STOP_TIMEOUT = 2.0  # seconds


class Relay:
    """Both proxies."""

    def __init__(self, keys: KeyPair) -> None:
        self.context: zmq.Context[Socket] = zmq.Context(io_threads=1)
        self._keys = keys
        self._threads: list[threading.Thread] = []

    def start_in(self, endpoint: str, predictions: str) -> str:
        """Relay from the devices to this host; the endpoint as it was bound. Raises: CannotBind."""

        def wire(source: Socket, sink: Socket) -> str:
            secure(source, self._keys, "relay-in")
            bind(sink, predictions, "--data-dir")
            return bind(source, endpoint, "--relay-in-port")

        return self._start("relay in", wire)

    def start_out(self, endpoint: str, predictions: str) -> str:
        """Relay from this host to subscribers; the endpoint as it was bound. Raises: CannotBind."""

        def wire(source: Socket, sink: Socket) -> str:
            secure(sink, self._keys, "relay-out")
            source.connect(predictions)
            return bind(sink, endpoint, "--relay-out-port")

        return self._start("relay out", wire)

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

    def _start(self, name: str, wire: Callable[[Socket, Socket], str]) -> str:
        started: Future[str] = Future()
        thread = threading.Thread(target=_relay, args=(self.context, wire, started), name=name, daemon=True)
        thread.start()
        endpoint = started.result(START_TIMEOUT)
        self._threads.append(thread)
        return endpoint


def _relay(context: zmq.Context[Socket], wire: Callable[[Socket, Socket], str], started: Future[str]) -> None:
    """The life of a thread: it makes its sockets, relays between them and closes them."""
    with context.socket(zmq.XSUB) as source, context.socket(zmq.XPUB) as sink:
        configure(source, DATA_OPTIONS)
        configure(sink, DATA_OPTIONS)
        # Without it the publisher hears of the first of several equal subscriptions only.
        sink.setsockopt(zmq.XPUB_VERBOSE, 1)
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
