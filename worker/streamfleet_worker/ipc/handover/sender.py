"""The way to the publisher. To send never waits, and nothing that goes wrong is raised: it is counted."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import time
from collections import deque

from streamfleet_core.protocol.data_plane import MAX_BODY, DataHeader
from streamfleet_worker.ipc.handover.packet import MAX_PACKET, Message, pack, pack_without_body, size
from streamfleet_worker.ipc.unix_sockets import PACKETS

WAITING = 64  # messages that a publisher which is being restarted still gets
# Bytes that may lie in the kernel for a slow publisher: with its own, 121 messages of 3 KB, or 49 by default.
ROOM = 262_144

_PAUSE = 0.05  # seconds between attempts to connect


class Sender:
    """Hands messages to the publisher at a path, in their order. One thread uses it at a time.

    What the publisher does not take now is kept, `waiting` messages at most; what comes after them is dropped
    and counted. It goes with the next `send` or `flush`.
    """

    def __init__(self, path: str, *, waiting: int = WAITING, room: int = ROOM) -> None:
        self.dropped = 0  # messages, since the process began; any thread may read it
        self._path = path
        self._limit = waiting
        self._room = room
        self._waiting: deque[Message] = deque()  # oldest first, `_limit` at most
        self._link: socket.socket | None = None
        self._largest = 0  # bytes of a packet on this link; a larger one's body goes in memory of its own
        self._next_attempt = 0.0  # monotonic seconds

    @property
    def kept(self) -> int:
        """Messages that the publisher has not taken yet."""
        return len(self._waiting)

    def send(self, topic: bytes, header: DataHeader, body: bytes, *, fenced: bool) -> bool:
        """Whether the publisher will get it, if it lives. A body may have `MAX_BODY` bytes."""
        message = Message(fenced, topic, header.pack(), body)
        self.flush()
        if len(body) <= MAX_BODY:
            if not self._waiting and self._deliver(message):
                return True
            if len(self._waiting) < self._limit:
                self._waiting.append(message)
                return True
        self.dropped += 1
        return False

    def flush(self) -> None:
        """Send what was kept, as far as it is taken."""
        while self._waiting and self._deliver(self._waiting[0]):
            self._waiting.popleft()

    def close(self, patience: float = 0.0) -> None:
        """Hang up; what was kept is tried for so many seconds, and then dropped."""
        until = time.monotonic() + patience
        self.flush()
        while self._waiting and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _PAUSE))
            self.flush()
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._hang_up()

    def _deliver(self, message: Message) -> bool:
        """Whether the kernel has it."""
        link = self._link or self._connect()
        if link is None:
            return False
        try:
            self._put(link, message)
        except ConnectionError:
            self._hang_up()
        except OSError:  # no room now, or neither memory nor descriptors for a large body
            return False
        else:
            return True
        return self._deliver(message)  # there may be another publisher already; it is asked once in a while

    def _put(self, link: socket.socket, message: Message) -> None:
        if size(message) <= self._largest:
            link.sendmsg(pack(message))
            return
        with os.fdopen(os.memfd_create("streamfleet-body", os.MFD_CLOEXEC), "wb") as memory:
            memory.write(message.body)
            memory.flush()
            descriptors = array.array("i", [memory.fileno()])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
            link.sendmsg(pack_without_body(message), rights)

    def _connect(self) -> socket.socket | None:
        now = time.monotonic()
        if now < self._next_attempt:
            return None
        self._next_attempt = now + _PAUSE
        with contextlib.ExitStack() as stack:
            try:
                link = stack.enter_context(socket.socket(socket.AF_UNIX, PACKETS))
                link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._room)
                link.connect(self._path)
            except OSError:  # nobody listens, or too many wait to be let in
                return None
            stack.pop_all()
        # The kernel may give less room than was asked for, and refuses what could never fit.
        self._largest = min(MAX_PACKET, link.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 4)
        self._link = link
        return link

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
