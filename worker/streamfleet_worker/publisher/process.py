"""The publisher process: serves the sockets of `publisher`, and exchanges messages with the agent."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

import zmq

from streamfleet_worker.host.cpu_priority import use_batch_scheduling
from streamfleet_worker.ipc.child_messages import (
    AllowSubscribers,
    KeepPredictions,
    PublisherConfig,
    Relay,
    Stop,
    next_report_after,
    receive,
    send,
)
from streamfleet_worker.ipc.parent_death import die_with_parent
from streamfleet_worker.publisher.publisher import Input, Publisher

logger = logging.getLogger(__name__)


def main(config: PublisherConfig, connection: Connection) -> None:
    """Run the process until the agent stops it, or is gone."""
    die_with_parent()
    use_batch_scheduling()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with zmq.Context(io_threads=2) as context:
        publisher = Publisher(config, context, time.monotonic())
        try:
            _serve(publisher, connection)
        except (EOFError, OSError):
            logger.info("%s: the agent is gone", config.device)
        finally:
            publisher.close()


def _serve(publisher: Publisher, connection: Connection) -> None:
    next_report = 0.0
    watched: tuple[str, ...] = ()
    inputs = _Inputs(connection)
    while True:
        now = time.monotonic()
        if now >= next_report or publisher.watched != watched:
            send(connection, publisher.report)
            next_report, watched = next_report_after(now), publisher.watched
        due = publisher.maintain(now)
        until = next_report if due is None else min(next_report, due)
        duties = publisher.duties
        for source in inputs.wait(duties, until - now):
            if source != connection.fileno():
                duties[source]()
            elif _handle_message(publisher, connection):
                break  # the duties may have changed
            else:
                return


class _Inputs:
    """Polls the inputs. Creating a poller costs more than a wait, so it is reused while the duties stay."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._duties: Mapping[Input, Callable[[], None]] = {}
        self._poller = zmq.Poller()

    def wait(self, duties: Mapping[Input, Callable[[], None]], seconds: float) -> list[Input]:
        """Return the inputs that are ready, after up to `seconds`.

        The agent comes first: libzmq never retries after a refusal, so newly allowed keys must be set before.
        """
        if duties is not self._duties:
            self._duties, self._poller = duties, zmq.Poller()
            for source in (self._connection.fileno(), *duties):
                self._poller.register(source, zmq.POLLIN)
        return [source for source, _ in self._poller.poll(math.ceil(max(0.0, seconds) * 1000))]


def _handle_message(publisher: Publisher, connection: Connection) -> bool:
    """Handle a message of the agent. Returns False for Stop."""
    match receive(connection):
        case Stop():
            return False
        case Relay() as relay:
            publisher.connect(relay)
        case AllowSubscribers() as allow:
            publisher.allow(allow)
        case KeepPredictions() as keep:
            publisher.keep(keep)
    return True
