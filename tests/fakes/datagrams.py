"""A UDP port of this host that keeps every datagram, also when the process that reads them stands still."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time

from tests.fakes.patience import PATIENCE

_ROOM = 16 << 20  # bytes
_SO_RCVBUFFORCE = 33  # of Linux; Python has no name for it
_MARK = b"mark "
_AGAIN = 0.05  # seconds until a mark for which there was no room is sent again


def make_room(receiver: socket.socket) -> None:
    """Let the kernel keep what comes while nobody reads, beyond `net.core.rmem_max` where that is allowed."""
    try:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
    except PermissionError:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)


class Datagrams:
    """A thread keeps what comes until `close`."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        make_room(self._socket)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self.port = int(self._socket.getsockname()[1])
        self.kept: list[bytes] = []  # those that were read so far; there may be more
        self._marks = itertools.count(1)
        self._marked = threading.Condition()  # guards and announces the next one
        self._read = 0  # the highest mark that was read
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="datagrams", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                datagram = self._socket.recv(65_536)
                if datagram.startswith(_MARK):
                    self._note(int(datagram.removeprefix(_MARK)))
                else:
                    self.kept.append(datagram)

    def _note(self, mark: int) -> None:
        with self._marked:
            self._read = max(self._read, mark)
            self._marked.notify_all()

    def settle(self) -> None:
        """Wait until all that was sent before is in `kept`: on this host datagrams keep their order."""
        mark = next(self._marks)
        deadline = time.monotonic() + PATIENCE
        with self._marked:
            while self._read < mark:
                assert time.monotonic() < deadline, "the receiver of datagrams reads nothing"
                self._socket.sendto(_MARK + b"%d" % mark, ("127.0.0.1", self.port))
                self._marked.wait(_AGAIN)

    def close(self) -> None:
        """Keep no more."""
        self._closing.set()
        self._thread.join(PATIENCE)
        self._socket.close()
