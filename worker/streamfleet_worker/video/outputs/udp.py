"""A UDP sink: one datagram per frame. Errors are never raised, but counted and reported."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamfleet_core.protocol.hosts import is_address, place_of
from streamfleet_core.protocol.values import UdpSink

logger = logging.getLogger(__name__)

_SEND_BUFFER = 65_536  # bytes, as Roboflow's
_SEND_TIMEOUT = 0.1  # seconds that a full network interface may delay a frame
_FIRST_LOOKUP = 5.0  # seconds that the first frame may wait for the host's address
_LOOKUP_PAUSE = 5.0  # seconds between two look-ups: the address of a name may change


@dataclass(frozen=True, slots=True)
class Target:
    """An address of a host, in the form that sockets use."""

    family: socket.AddressFamily
    address: tuple[Any, ...]


Resolver = Callable[[str, int], list[Target]]


def resolve(host: str, port: int) -> list[Target]:
    """Resolve all addresses, IPv4 first: receivers written for Roboflow listen on IPv4 only.

    Raises: OSError, UnicodeError.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    targets = [Target(family, address) for family, _, _, _, address in found]
    return sorted(targets, key=lambda target: target.family is not socket.AF_INET)


class UdpSender:
    """Sends to one host and port. Only one thread may use it; names are resolved on another thread.

    The name is resolved repeatedly while datagrams are sent, one look-up at a time, so that a hanging look-up
    delays no frame. The last known address is used until another one is found.
    """

    def __init__(self, sink: UdpSink, now: float, resolver: Resolver = resolve) -> None:
        self.sink = sink
        self.name = f"udp://{place_of(sink.host, sink.port)}"
        self.dropped = 0  # datagrams, since the start of the process
        self.error = ""  # why the last one was dropped; empty after one that was sent
        self._resolver = resolver
        self._is_address = is_address(sink.host)
        self._target: Target | None = None
        self._closed = False
        self._sockets: dict[socket.AddressFamily, socket.socket] = {}
        self._open(socket.AF_INET)
        self._looked_up_at = now
        self._lookup = self._start_lookup()

    def await_address(self, deadline: float = _FIRST_LOOKUP) -> None:
        """Wait up to `deadline` seconds for the first look-up, so that no first frames of a file are lost."""
        self._lookup.join(deadline)

    def send(self, datagram: bytes, now: float) -> bool:
        """Send a datagram, and return whether the kernel accepted it. `now` is in monotonic seconds."""
        target = self._target
        if (
            now - self._looked_up_at >= _LOOKUP_PAUSE
            and not (self._is_address and target)
            and not self._lookup.is_alive()
        ):
            self._looked_up_at = now
            self._lookup = self._start_lookup()
        if target is None:
            return self._drop(f"the host {self.sink.host} has no address")
        try:
            self._send(datagram, target)
        except OSError as exc:
            return self._drop(exc.strerror or str(exc))
        self.error = ""
        return True

    def close(self) -> None:
        """Close the sockets."""
        self._closed = True
        for each in self._sockets.values():
            each.close()

    def _send(self, datagram: bytes, target: Target) -> None:
        sender = self._sockets.get(target.family) or self._open(target.family)
        try:
            sender.sendto(datagram, target.address)
        except BlockingIOError:
            poll = select.poll()
            poll.register(sender, select.POLLOUT)
            poll.poll(_SEND_TIMEOUT * 1000)
            sender.sendto(datagram, target.address)

    def _open(self, family: socket.AddressFamily) -> socket.socket:
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        opened = socket.socket(family, socket.SOCK_DGRAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        opened.setblocking(False)  # with a timeout, Python polls before each send
        self._sockets[family] = opened
        return opened

    def _drop(self, error: str) -> bool:
        if not self.error:
            logger.warning("%s: %s", self.name, error)
        self.error = error
        self.dropped += 1
        return False

    def _start_lookup(self) -> threading.Thread:
        thread = threading.Thread(target=self._look_up, name=f"look up {self.sink.host}", daemon=True)
        thread.start()
        return thread

    def _look_up(self) -> None:
        try:
            found = self._resolver(self.sink.host, self.sink.port)
        except (OSError, UnicodeError):
            return  # keep the last known address, if any
        if self._target not in found:
            self._target = found[0]
