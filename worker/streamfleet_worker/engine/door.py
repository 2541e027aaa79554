"""The engine's unix socket: cameras come and go, hand over their memory, and ask for runs.

One thread owns the listening socket and reads from all cameras; the run threads answer. A camera that says
something else than the protocol, or stops reading, is cut off, and nobody else notices.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamfleet_worker.engine.batching import OutOfTurn, Turns
from streamfleet_worker.engine.session import RunError, Session
from streamfleet_worker.engine.slots import BadSlots, map_slots
from streamfleet_worker.engine.wire import (
    MAX_PACKET,
    BadPacket,
    Done,
    Failed,
    Offer,
    Run,
    Share,
    pack,
    unpack_from_camera,
)

logger = logging.getLogger(__name__)

MAX_SOCKET_PATH = 107  # bytes, of the kernel's sockaddr_un
_BACKLOG = 64


@dataclass(eq=False, slots=True)
class Guest:
    """A camera that is connected. The prepared runs keep its memory mapped until the last of them ended."""

    link: socket.socket
    runs: list[Any] = field(default_factory=list)  # one prepared run a slot


class Door:
    """Serves one session to cameras, on a socket at a path. `start` it once, `close` it once."""

    def __init__(self, session: Session, socket_path: str, *, threads: int) -> None:
        self._session = session
        self._offer = pack(_offer(session))
        self._turns: Turns[Guest] = Turns()
        self._changed = threading.Condition()  # guards _turns, _started and _inferences
        self._started: dict[int, float] = {}  # monotonic seconds, by run thread
        self._inferences = 0
        self._closing = False
        self._listener = _listen(socket_path)
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._threads = [threading.Thread(target=self._serve, name="camera door", daemon=True)]
        for number in range(threads):
            run = threading.Thread(target=self._run, args=(number,), name=f"run {number}", daemon=True)
            self._threads.append(run)

    def start(self) -> None:
        """Let cameras in."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        for thread in self._threads:
            thread.start()

    def close(self, deadline: float) -> None:
        """Cut everybody off; wait at most so many seconds for the inferences under way."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        os.write(self._wake_write, b"x")
        until = time.monotonic() + deadline
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        # Not by the door thread: it may end before it is woken, and then there must be something to write to.
        if not self._threads[0].is_alive():
            os.close(self._wake_read)
            os.close(self._wake_write)

    def figures(self, now: float) -> tuple[int, float]:
        """Inferences done so far, and the seconds that the longest one under way has taken."""
        with self._changed:
            return self._inferences, max((now - at for at in self._started.values()), default=0.0)

    # the door thread --------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._welcome()
                elif isinstance(key.data, Guest):
                    self._hear(key.data)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, Guest):
                key.data.link.close()
        self._selector.close()
        self._listener.close()

    def _welcome(self) -> None:
        try:
            link, _ = self._listener.accept()
        except OSError as exc:
            logger.warning("a camera could not be let in: %s", exc.strerror)
            time.sleep(0.1)  # out of descriptors, most likely: the next try would fail as fast
            return
        link.setblocking(False)
        guest = Guest(link)
        self._selector.register(link, selectors.EVENT_READ, guest)
        _say(guest, self._offer)

    def _hear(self, guest: Guest) -> None:
        """Read one packet, so that no camera holds the door for longer than that."""
        descriptors: list[int] = []
        try:
            packet, descriptors, _, _ = socket.recv_fds(guest.link, MAX_PACKET, 4)
            if not packet:
                self._show_out(guest)
                return
            self._obey(guest, packet, descriptors)
        except BlockingIOError:
            return
        except (OSError, BadPacket, BadSlots, OutOfTurn) as exc:
            logger.warning("a camera was cut off: %s", exc)
            self._show_out(guest)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _obey(self, guest: Guest, packet: bytes, descriptors: list[int]) -> None:
        message = unpack_from_camera(packet)
        match message:
            case Share():
                if guest.runs or len(descriptors) != 1:
                    raise BadSlots(f"expected memory once, came {len(descriptors)} descriptors")
                slots = map_slots(descriptors[0], self._session.layout(message.slots))
                # The arrays go along with their bindings, which hold addresses only.
                guest.runs = [(self._session.prepare(slot), slot) for slot in slots]
            case Run():
                if message.slot >= len(guest.runs):
                    raise BadSlots(f"expected a slot below {len(guest.runs)}, came {message.slot}")
                with self._changed:
                    self._turns.add(guest, message.slot)
                    self._changed.notify()

    def _show_out(self, guest: Guest) -> None:
        with self._changed:
            self._turns.forget(guest)
        self._selector.unregister(guest.link)
        guest.link.close()

    # the run threads --------------------------------------------------------------------------------------

    def _run(self, number: int) -> None:
        while True:
            with self._changed:
                while (turn := self._turns.take()) is None and not self._closing:
                    self._changed.wait()
                if turn is None or self._closing:
                    return
                self._started[number] = time.monotonic()
            guest, slot = turn
            answer = self._infer(guest, slot)
            with self._changed:
                self._turns.finish(guest, slot)
                del self._started[number]
                self._inferences += 1
            _say(guest, answer)

    def _infer(self, guest: Guest, slot: int) -> bytes:
        try:
            self._session.run(guest.runs[slot][0])
        except RunError as exc:
            logger.warning("an inference failed: %s", exc)
            return pack(Failed(slot, str(exc)[:300]))
        return pack(Done(slot))


def _say(guest: Guest, packet: bytes) -> None:
    """Answer without waiting. A camera that does not read, or is gone, is left to the door thread."""
    try:
        guest.link.send(packet)
    except OSError:
        with contextlib.suppress(OSError):
            guest.link.shutdown(socket.SHUT_RDWR)


def _offer(session: Session) -> Offer:
    layout = session.layout(1)
    _, _, height, width = layout.input_shape
    _, rows, columns = layout.output_shape
    return Offer(input_height=height, input_width=width, rows=rows, columns=columns)


def _listen(path: str) -> socket.socket:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ValueError(f"expected a socket path of at most {MAX_SOCKET_PATH} bytes, came {path!r}")
    listener = socket.socket(
        socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    )
    try:
        Path(path).unlink(missing_ok=True)  # of an engine that was killed
        listener.bind(path)
        Path(path).chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
