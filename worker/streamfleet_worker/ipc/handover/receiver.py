"""The publisher's end of the channel: receives the messages of cameras and of the agent in turn.

A sender of an invalid packet is disconnected, without effect on the others.
"""

from __future__ import annotations

import array
import logging
import os
import select
import socket

from streamfleet_core.protocol.limits import MAX_DATA_BODY
from streamfleet_worker.ipc.handover.packet import MAX_PACKET, BadPacket, Message, unpack
from streamfleet_worker.ipc.unix_sockets import listen

logger = logging.getLogger(__name__)

_BACKLOG = 1024  # senders that wait to be accepted: all cameras of a device after a restart
# One descriptor; the kernel closes any further ones.
_ROOM_FOR_ONE = socket.CMSG_SPACE(array.array("i").itemsize)


class Receiver:
    """Listens at a path, and receives messages of any number of senders. Only one thread may use it."""

    def __init__(self, path: str) -> None:
        """Listen. Raises: OSError if the path cannot be bound, ValueError if it is too long."""
        self.disconnected = 0  # senders of invalid packets, so far
        self._listener = listen(path, backlog=_BACKLOG)
        self._links: dict[int, socket.socket] = {}  # by descriptor
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._accepting = True  # False while no descriptors are left

    def fileno(self) -> int:
        """The descriptor to poll for messages."""
        return self._epoll.fileno()

    def take(self, limit: int) -> list[Message]:
        """Receive up to `limit` messages without blocking, one of each sender in turn."""
        taken: list[Message] = []
        # The kernel moves reported descriptors to the end of its list, so the others are reported next.
        while len(taken) < limit and (ready := self._epoll.poll(0, limit - len(taken))):
            for descriptor, _ in ready:
                if descriptor == self._listener.fileno():
                    self._accept()
                elif (message := self._read(self._links[descriptor])) is not None:
                    taken.append(message)
        return taken

    def close(self) -> None:
        """Disconnect all senders, and stop listening."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._epoll.close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            link, _ = self._listener.accept()
        except BlockingIOError:  # it has disconnected already
            return
        except OSError as exc:
            logger.warning("no sender is accepted until another one disconnects: %s", exc.strerror)
            self._epoll.unregister(self._listener)
            self._accepting = False
            return
        link.setblocking(False)
        self._links[link.fileno()] = link
        self._epoll.register(link, select.EPOLLIN)

    def _read(self, link: socket.socket) -> Message | None:
        """Read the next message of a sender; None if there is none, or it has disconnected."""
        try:
            message = _receive(link)
            if message is not None:
                return message
        except BlockingIOError:
            return None
        except (OSError, BadPacket) as exc:
            logger.warning("disconnected a sender: %s", exc)
            self.disconnected += 1
        self._forget(link)
        return None

    def _forget(self, link: socket.socket) -> None:
        del self._links[link.fileno()]
        self._epoll.unregister(link)
        link.close()
        if not self._accepting:
            self._epoll.register(self._listener, select.EPOLLIN)
            self._accepting = True


def _receive(link: socket.socket) -> Message | None:
    """Receive the next message; None at the end. Raises: BadPacket; OSError if it cannot be read."""
    packet, ancillary, flags, _ = link.recvmsg(MAX_PACKET, _ROOM_FOR_ONE, socket.MSG_CMSG_CLOEXEC)
    descriptors = _descriptors(ancillary) if ancillary else []
    try:
        if not packet and not descriptors:
            return None
        if flags & socket.MSG_TRUNC:
            raise BadPacket(f"at most {MAX_PACKET} bytes", "more")
        message, attached = unpack(packet)
        if len(descriptors) != attached:
            raise BadPacket(f"{int(attached)} descriptors", len(descriptors))
        # Reading one byte more than allowed detects a body that is too large.
        return message._replace(body=os.pread(descriptors[0], MAX_DATA_BODY + 1, 0)) if attached else message
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) // descriptors.itemsize * descriptors.itemsize])
    return descriptors.tolist()
