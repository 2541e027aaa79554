"""How far the network is behind with what we send, as the kernel knows it for each TCP connection.

libzmq does not tell its connections. But each received message names the descriptor that it was received on.
"""

from __future__ import annotations

import os
import socket
import struct

from streamfleet_worker.publisher.replay.pacing import Network

MAX_CONNECTIONS = 16  # that are looked at; a device has one or two to its relay
# Of the kernel's `struct tcp_info`: `tcpi_rtt`, `tcpi_notsent_bytes` and `tcpi_min_rtt`. Microseconds.
_TCP_INFO = struct.Struct("=68xI72xII")


class SendQueues:
    """The connections to the relay."""

    def __init__(self) -> None:
        self._inodes: dict[int, int] = {}  # by descriptor: which connection it was

    def note(self, descriptor: int) -> None:
        """Note a connection of ours. -1: unknown."""
        if descriptor < 0 or descriptor in self._inodes:
            return
        inode = _inode(descriptor)
        if inode is not None and len(self._inodes) < MAX_CONNECTIONS:
            self._inodes[descriptor] = inode

    def forget(self) -> None:
        """Forget all connections: they are closed."""
        self._inodes.clear()

    def look(self) -> Network:
        """The worst of all connections. Those that have ended are forgotten."""
        unsent, delay = 0, 0.0
        for descriptor, inode in list(self._inodes.items()):
            if _inode(descriptor) != inode:
                del self._inodes[descriptor]
                continue
            found = _look(descriptor)
            unsent, delay = max(unsent, found.unsent), max(delay, found.delay)
        return Network(unsent, delay)


def _look(descriptor: int) -> Network:
    """One connection. A unix socket has no such figures."""
    try:
        # With a family and a type that are given, Python does not ask the kernel for them.
        peer = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
        try:
            info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        finally:
            peer.detach()
        trip, unsent, shortest = _TCP_INFO.unpack(info)
    except (OSError, struct.error):
        return Network()
    return Network(unsent, max(0, trip - shortest) / 1e6)


def _inode(descriptor: int) -> int | None:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return None
