"""A cable that breaks: carries TCP connections to a port of this machine, each for so many bytes."""

from __future__ import annotations

import select
import socket
import threading

from tests.fakes.patience import PATIENCE


class Cutter:
    """Listens on a port of its own until closed."""

    def __init__(self, port: int, *, limit: int | None, most: int | None = None) -> None:
        self.limit = limit  # bytes from the far end to the near one; None: never cut; may be changed
        self.cuts = 0
        self.connections = self.refused = 0
        self._most = most  # connections at a time; None: any number
        self._carried = 0  # connections at this moment
        self._far = ("127.0.0.1", port)
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, name="cutter")]
        self._threads[0].start()

    def close(self) -> None:
        """Cut everything."""
        self._closing.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            if self._most is not None and self._carried >= self._most:
                self.refused += 1
                near.close()
                continue
            self.connections += 1
            self._carried += 1
            thread = threading.Thread(target=self._carry, args=(near,), name="cable")
            self._threads = [*(one for one in self._threads if one.is_alive()), thread]
            thread.start()

    def _carry(self, near: socket.socket) -> None:
        carried = 0
        try:
            with near, socket.create_connection(self._far, timeout=PATIENCE) as far:
                while not self._closing.is_set():
                    ready, _, _ = select.select([near, far], [], [], 0.1)
                    for one in ready:
                        content = one.recv(16_384)
                        if not content:
                            return
                        (far if one is near else near).sendall(content)
                        carried += len(content) if one is far else 0
                    if self.limit is not None and carried > self.limit:
                        self.cuts += 1
                        return
        except OSError:
            return  # one end went away
        finally:
            self._carried -= 1
