"""One UDP sink: a datagram a frame. Nothing that goes wrong here is ever raised: it is counted and told."""

from __future__ import annotations

import logging
import select
import socket
import threading

from streamfleet_broker.protocol.values import UdpSink

logger = logging.getLogger(__name__)

_SEND_BUFFER = 65_536  # bytes, as the original's
_SEND_TIMEOUT = 0.1  # seconds that a full network card may hold up a frame
_FIRST_LOOKUP = 5.0  # seconds that the first frame waits for the host's address
_LOOKUP_PAUSE = 10.0  # seconds from one look-up after an error to the next


class UdpDoor:
    """Sends to one host and port. One thread uses it; a name is looked up in a thread of its own."""

    def __init__(self, sink: UdpSink, now: float) -> None:
        self.sink = sink
        self.name = f"udp://{sink.host}:{sink.port}"
        self.dropped = 0  # datagrams, since the process began
        self.error = ""  # why the last one was dropped; empty after one that was sent
        self._address: tuple[str, int] | None = None
        self._looked_up_at = now
        self._lookup = self._start_lookup()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._socket.setblocking(False)  # with a timeout, Python polls before each send

    def await_address(self, deadline: float = _FIRST_LOOKUP) -> None:
        """Give the first look-up so many seconds, so that the first frames of a file are not lost."""
        self._lookup.join(deadline)

    def send(self, datagram: bytes, now: float) -> bool:
        """Whether it left this host, as far as one can know. `now` is in monotonic seconds."""
        address = self._address
        if address is None:
            return self._drop(f"the host {self.sink.host} has no IPv4 address", now)
        try:
            self._send(datagram, address)
        except OSError as exc:
            return self._drop(exc.strerror or str(exc), now)
        self.error = ""
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self, datagram: bytes, address: tuple[str, int]) -> None:
        try:
            self._socket.sendto(datagram, address)
        except BlockingIOError:
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            poll.poll(_SEND_TIMEOUT * 1000)
            self._socket.sendto(datagram, address)

    def _drop(self, error: str, now: float) -> bool:
        if not self.error:
            logger.warning("%s: %s", self.name, error)
        self.error = error
        self.dropped += 1
        if now - self._looked_up_at >= _LOOKUP_PAUSE and not self._lookup.is_alive():
            self._looked_up_at = now
            self._lookup = self._start_lookup()
        return False

    def _start_lookup(self) -> threading.Thread:
        thread = threading.Thread(target=self._look_up, name=f"look up {self.sink.host}", daemon=True)
        thread.start()
        return thread

    def _look_up(self) -> None:
        try:
            found = socket.getaddrinfo(self.sink.host, self.sink.port, socket.AF_INET, socket.SOCK_DGRAM)
        except (OSError, UnicodeError):
            return  # the address known so far, if any, is still the best guess
        self._address = found[0][4][:2]  # type: ignore[assignment]
