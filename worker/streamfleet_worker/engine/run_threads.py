"""The run threads: they hear what cameras ask for, infer, and answer.

There is no thread that only listens. Who is free looks for requests, one thread at a time; while all of them
infer, requests wait in the cameras' sockets. So nobody is woken, and no inference interrupted, for a request
that could not be run anyway. A camera that says something else than the protocol, or stops reading, is cut
off, and nobody else notices.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from dataclasses import dataclass

from streamfleet_worker.engine.batching import OutOfTurn, Turns
from streamfleet_worker.engine.connection import CameraConnection
from streamfleet_worker.engine.messages import (
    MAX_PACKET,
    MAX_SLOTS,
    BadPacket,
    Done,
    Failed,
    Run,
    pack,
    unpack_from_camera,
)
from streamfleet_worker.engine.onnx_runtime import run_errors
from streamfleet_worker.engine.onnx_session import Session
from streamfleet_worker.engine.ort_reason import reason_in

logger = logging.getLogger(__name__)

FAILING = 10.0  # seconds in which every inference fails

_DONE = tuple(pack(Done(slot)) for slot in range(MAX_SLOTS))  # made once, as they are said of every frame


@dataclass(frozen=True, slots=True)
class _Failing:
    since: float  # monotonic seconds
    reason: str


class Runners:
    """Runs what cameras ask of one session. `start` it once, `close` it once."""

    def __init__(self, session: Session, *, threads: int) -> None:
        self._session = session
        self._ear = threading.Lock()  # held by the thread that looks for requests
        self._lock = threading.Lock()  # guards what follows, for a moment at a time
        self._connections: dict[int, CameraConnection] = {}  # by descriptor
        self._turns: Turns[CameraConnection] = Turns()
        self._started: dict[int, float] = {}  # monotonic seconds, by run thread
        self._inferences = 0
        self._failing: _Failing | None = None  # from a failed inference to the next that is none
        self._closing = False
        self._asking = select.epoll()
        self._end_read, self._end_write = os.pipe()
        self._asking.register(self._end_read, select.EPOLLIN)
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"run {number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Begin to listen to cameras."""
        for thread in self._threads:
            thread.start()

    def add(self, connection: CameraConnection) -> None:
        """Listen to this one too, which has shared its memory. Any thread may call this."""
        with self._lock:
            self._connections[connection.link.fileno()] = connection
        self._asking.register(connection.link, select.EPOLLIN)

    def close(self, deadline: float) -> None:
        """Begin no inference any more; wait at most so many seconds for those under way."""
        self._closing = True
        os.write(self._end_write, b"x")  # stays there, so that every thread hears it
        until = time.monotonic() + deadline
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return  # what they use is left to the end of the process
        for connection in self._connections.values():
            connection.link.close()
        self._asking.close()
        os.close(self._end_read)
        os.close(self._end_write)

    def figures(self, now: float) -> tuple[int, float]:
        """Inferences done so far, and the seconds that the longest one under way has taken."""
        with self._lock:
            return self._inferences, max((now - at for at in self._started.values()), default=0.0)

    def failure(self, now: float) -> str:
        """Why inferences fail, when all of the last seconds did."""
        failing = self._failing
        return failing.reason if failing is not None and now - failing.since >= FAILING else ""

    def _run(self, number: int) -> None:
        while (turn := self._next(number)) is not None:
            connection, slot = turn
            answer = self._infer(connection, slot)
            with self._lock:
                self._turns.finish(connection, slot)
                del self._started[number]
                self._inferences += 1
            connection.say(answer)

    def _infer(self, connection: CameraConnection, slot: int) -> bytes:
        try:
            self._session.run(connection.runs[slot][0])
        except run_errors() as exc:
            reason = reason_in(exc)
            if self._failing is None:  # said once, and not of every frame
                logger.warning("an inference failed: %s", reason)
                self._failing = _Failing(time.monotonic(), reason)
            return pack(Failed(slot, reason))
        self._failing = None
        return _DONE[slot]

    def _next(self, number: int) -> tuple[CameraConnection, int] | None:
        """What this thread is to run; None when it is to end."""
        with self._ear:
            seconds: float | None = 0.0  # at first: there may be somebody whose turn it is
            while not self._closing:
                self._listen(seconds)
                with self._lock:
                    turn = self._turns.take()
                    if turn is not None:
                        self._started[number] = time.monotonic()
                        return turn
                seconds = None
            return None

    def _listen(self, seconds: float | None) -> None:
        """Hear what has come; wait so long for it, or until it does."""
        for descriptor, _ in self._asking.poll(seconds):
            connection = self._connections.get(descriptor)
            if connection is not None:
                self._hear(connection)

    def _hear(self, connection: CameraConnection) -> None:
        """Read one packet, so that no camera holds the others up for longer than that."""
        try:
            packet = connection.link.recv(MAX_PACKET)
            if packet:
                self._obey(connection, packet)
            else:
                self._show_out(connection)
        except BlockingIOError:
            return
        except (OSError, BadPacket, OutOfTurn) as exc:
            logger.warning("a camera was cut off: %s", exc)
            self._show_out(connection)

    def _obey(self, connection: CameraConnection, packet: bytes) -> None:
        message = unpack_from_camera(packet)
        if not isinstance(message, Run) or message.slot >= len(connection.runs):
            raise BadPacket(f"a run of a slot below {len(connection.runs)}", packet)
        with self._lock:
            self._turns.add(connection, message.slot)

    def _show_out(self, connection: CameraConnection) -> None:
        self._asking.unregister(connection.link)
        with self._lock:
            self._turns.forget(connection)
            del self._connections[connection.link.fileno()]
        connection.link.close()
