"""A listening socket that accepts in the event loop, also while there are no descriptors left."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

logger = logging.getLogger(__name__)

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_ROOM_PAUSE = 1.0  # seconds until accepting is tried again


class Acceptor:
    """Accepts connections for one server."""

    def __init__(
        self,
        listener: socket.socket,
        name: str,
        take: Callable[[socket.socket, str], None],
        *,
        backlog: int,
    ) -> None:
        """`take` gets each connection with the address of its peer; `name` stands in the log.

        `backlog`: connections that wait in the kernel.
        """
        self._listener = listener
        self._backlog = backlog
        self._name = name
        self._take = take
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Start accepting."""
        self._listener.setblocking(False)
        self._listener.listen(self._backlog)
        self._resume()

    def close(self) -> None:
        """Accept no more."""
        self._loop.remove_reader(self._listener)

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Accept one connection per turn: a failed second attempt costs as much as a turn."""
        try:
            accepted, address = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:
            if exc.errno not in _NO_ROOM:
                raise
            logger.error("%s: cannot accept a connection: %s", self._name, exc.strerror)
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_NO_ROOM_PAUSE, self._resume)
            return
        self._take(accepted, address[0])
