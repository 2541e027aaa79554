"""The sending end of the channel to the publisher. Sending never blocks; errors are counted, not raised."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import time
from collections import deque

from streamfleet_core.protocol.data_plane import DataHeader
from streamfleet_core.protocol.limits import MAX_DATA_BODY
from streamfleet_worker.ipc.handover.packet import MAX_PACKET, Message, pack, pack_without_body, size
from streamfleet_worker.ipc.unix_sockets import PACKETS

WAITING = 64  # messages kept for a publisher that is being restarted
# Bytes of the kernel's buffer for a slow publisher: with its overhead 121 messages of 3 KB; the default has
# room for 49.
ROOM = 262_144

_PAUSE = 0.05  # seconds between attempts to connect


class Sender:
    """Sends messages to the publisher at a path, in order. Only one thread at a time may use it.

    If the publisher does not accept them, up to `waiting` messages are kept, and sent with the next `send` or
    `flush`; further messages are dropped and counted.
    """

    def __init__(self, path: str, *, waiting: int = WAITING, room: int = ROOM) -> None:
        self.dropped = 0  # messages, since the start of the process; any thread may read it
        self._path = path
        self._limit = waiting
        self._room = room
        self._waiting: deque[Message] = deque()  # oldest first, `_limit` at most
        self._link: socket.socket | None = None
        self._largest = 0  # bytes of a packet on this link; the body of a larger one is attached as memory
        self._next_attempt = 0.0  # monotonic seconds

    @property
    def kept(self) -> int:
        """The number of messages that the publisher has not accepted yet."""
        return len(self._waiting)

    def send(self, topic: bytes, header: DataHeader, body: bytes, *, fenced: bool) -> bool:
        """Send a message. Returns whether it was accepted or kept. A body may have `MAX_DATA_BODY` bytes."""
        message = Message(fenced, topic, header.pack(), body)
        self.flush()
        if len(body) <= MAX_DATA_BODY:
            if not self._waiting and self._deliver(message):
                return True
            if len(self._waiting) < self._limit:
                self._waiting.append(message)
                return True
        self.dropped += 1
        return False

    def flush(self) -> None:
        """Send the kept messages, as far as the publisher accepts them."""
        while self._waiting and self._deliver(self._waiting[0]):
            self._waiting.popleft()

    def close(self, timeout: float = 0.0) -> None:
        """Disconnect. Kept messages are tried for `timeout` seconds, and then dropped."""
        until = time.monotonic() + timeout
        self.flush()
        while self._waiting and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _PAUSE))
            self.flush()
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._disconnect()

    def _deliver(self, message: Message) -> bool:
        """Pass a message to the kernel, and return whether it was accepted."""
        link = self._link or self._connect()
        if link is None:
            return False
        try:
            self._send_packet(link, message)
        except ConnectionError:
            self._disconnect()
        except OSError:  # the buffer is full, or no memory or descriptors for a large body
            return False
        else:
            return True
        return self._deliver(message)  # a new publisher may exist already; attempts to connect are limited

    def _send_packet(self, link: socket.socket, message: Message) -> None:
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
            except OSError:  # no listener, or its backlog is full
                return None
            stack.pop_all()
        # The kernel may grant a smaller buffer, and refuses packets that never fit.
        self._largest = min(MAX_PACKET, link.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 4)
        self._link = link
        return link

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
