"""The publisher's side: what cameras and the agent hand over, taken in turn.

Who sends something that is no packet of ours is cut off, and nobody else notices.
"""

from __future__ import annotations

import array
import logging
import os
import select
import socket

from streamfleet_core.protocol.data_plane import MAX_BODY
from streamfleet_worker.ipc.handover.packet import MAX_PACKET, BadPacket, Message, unpack
from streamfleet_worker.ipc.unix_sockets import listen

logger = logging.getLogger(__name__)

_BACKLOG = 1024  # senders that wait to be let in, all cameras of a device after a restart
_ROOM_FOR_ONE = socket.CMSG_SPACE(array.array("i").itemsize)  # descriptor; the kernel closes what is beyond


class Receiver:
    """Listens at a path, and takes messages of any number of senders without waiting. One thread uses it."""

    def __init__(self, path: str) -> None:
        """Raises: OSError when the path cannot be bound, ValueError when it is too long."""
        self.cut_off = 0  # senders, so far
        self._listener = listen(path, backlog=_BACKLOG)
        self._links: dict[int, socket.socket] = {}  # by descriptor
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._lets_in = True  # not while there are no descriptors left

    def fileno(self) -> int:
        """What to poll for something to take."""
        return self._epoll.fileno()

    def take(self, limit: int) -> list[Message]:
        """What has come, so many messages at most, one of each sender in turn."""
        taken: list[Message] = []
        # The kernel moves who was named to the end of its list, so the next to be named are the others.
        while len(taken) < limit and (ready := self._epoll.poll(0, limit - len(taken))):
            for descriptor, _ in ready:
                if descriptor == self._listener.fileno():
                    self._let_in()
                elif (message := self._hear(self._links[descriptor])) is not None:
                    taken.append(message)
        return taken

    def close(self) -> None:
        """Hang up on everybody."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._epoll.close()
        self._listener.close()

    def _let_in(self) -> None:
        try:
            link, _ = self._listener.accept()
        except BlockingIOError:  # it has gone again
            return
        except OSError as exc:
            logger.warning("nobody is let in until a sender leaves: %s", exc.strerror)
            self._epoll.unregister(self._listener)
            self._lets_in = False
            return
        link.setblocking(False)
        self._links[link.fileno()] = link
        self._epoll.register(link, select.EPOLLIN)

    def _hear(self, link: socket.socket) -> Message | None:
        """The next message of a sender; None: it had none, and has gone."""
        try:
            message = _receive(link)
            if message is not None:
                return message
        except BlockingIOError:
            return None
        except (OSError, BadPacket) as exc:
            logger.warning("a sender was cut off: %s", exc)
            self.cut_off += 1
        self._forget(link)
        return None

    def _forget(self, link: socket.socket) -> None:
        del self._links[link.fileno()]
        self._epoll.unregister(link)
        link.close()
        if not self._lets_in:
            self._epoll.register(self._listener, select.EPOLLIN)
            self._lets_in = True


def _receive(link: socket.socket) -> Message | None:
    """The next message, None at the end. Raises: BadPacket; OSError when it cannot be read."""
    packet, ancillary, flags, _ = link.recvmsg(MAX_PACKET, _ROOM_FOR_ONE, socket.MSG_CMSG_CLOEXEC)
    descriptors = _descriptors(ancillary) if ancillary else []
    try:
        if not packet and not descriptors:
            return None
        if flags & socket.MSG_TRUNC:
            raise BadPacket(f"{MAX_PACKET} bytes at most", "more")
        message, aside = unpack(packet)
        if len(descriptors) != aside:
            raise BadPacket(f"{int(aside)} descriptors", len(descriptors))
        # One byte more than there may be shows that it is too large, and no more of it is read.
        return message._replace(body=os.pread(descriptors[0], MAX_BODY + 1, 0)) if aside else message
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) // descriptors.itemsize * descriptors.itemsize])
    return descriptors.tolist()
