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

from streamfleet_worker.engine.batching import OutOfTurn, Turns
from streamfleet_worker.engine.guest import Guest
from streamfleet_worker.engine.session import RunError, Session
from streamfleet_worker.engine.wire import (
    MAX_PACKET,
    MAX_SLOTS,
    BadPacket,
    Done,
    Failed,
    Run,
    pack,
    unpack_from_camera,
)

logger = logging.getLogger(__name__)

_DONE = tuple(pack(Done(slot)) for slot in range(MAX_SLOTS))  # made once, as they are said of every frame


class Runners:
    """Runs what cameras ask of one session. `start` it once, `close` it once."""

    def __init__(self, session: Session, *, threads: int) -> None:
        self._session = session
        self._ear = threading.Lock()  # held by the thread that looks for requests
        self._lock = threading.Lock()  # guards what follows, for a moment at a time
        self._guests: dict[int, Guest] = {}  # by descriptor
        self._turns: Turns[Guest] = Turns()
        self._started: dict[int, float] = {}  # monotonic seconds, by run thread
        self._inferences = 0
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

    def add(self, guest: Guest) -> None:
        """Listen to this one too, which has shared its memory. Any thread may call this."""
        with self._lock:
            self._guests[guest.link.fileno()] = guest
        self._asking.register(guest.link, select.EPOLLIN)

    def close(self, deadline: float) -> None:
        """Begin no inference any more; wait at most so many seconds for those under way."""
        self._closing = True
        os.write(self._end_write, b"x")  # stays there, so that every thread hears it
        until = time.monotonic() + deadline
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return  # what they use is left to the end of the process
        for guest in self._guests.values():
            guest.link.close()
        self._asking.close()
        os.close(self._end_read)
        os.close(self._end_write)

    def figures(self, now: float) -> tuple[int, float]:
        """Inferences done so far, and the seconds that the longest one under way has taken."""
        with self._lock:
            return self._inferences, max((now - at for at in self._started.values()), default=0.0)

    def _run(self, number: int) -> None:
        while (turn := self._next(number)) is not None:
            guest, slot = turn
            answer = self._infer(guest, slot)
            with self._lock:
                self._turns.finish(guest, slot)
                del self._started[number]
                self._inferences += 1
            guest.say(answer)

    def _infer(self, guest: Guest, slot: int) -> bytes:
        try:
            self._session.run(guest.runs[slot][0])
        except RunError as exc:
            logger.warning("an inference failed: %s", exc)
            return pack(Failed(slot, str(exc)[:300]))
        return _DONE[slot]

    def _next(self, number: int) -> tuple[Guest, int] | None:
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
            guest = self._guests.get(descriptor)
            if guest is not None:
                self._hear(guest)

    def _hear(self, guest: Guest) -> None:
        """Read one packet, so that no camera holds the others up for longer than that."""
        try:
            packet = guest.link.recv(MAX_PACKET)
            if packet:
                self._obey(guest, packet)
            else:
                self._show_out(guest)
        except BlockingIOError:
            return
        except (OSError, BadPacket, OutOfTurn) as exc:
            logger.warning("a camera was cut off: %s", exc)
            self._show_out(guest)

    def _obey(self, guest: Guest, packet: bytes) -> None:
        message = unpack_from_camera(packet)
        if not isinstance(message, Run) or message.slot >= len(guest.runs):
            raise BadPacket(f"a run of a slot below {len(guest.runs)}", packet)
        with self._lock:
            self._turns.add(guest, message.slot)

    def _show_out(self, guest: Guest) -> None:
        self._asking.unregister(guest.link)
        with self._lock:
            self._turns.forget(guest)
            del self._guests[guest.link.fileno()]
        guest.link.close()
