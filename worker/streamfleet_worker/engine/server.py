"""The engine's unix socket: cameras come, are told what the model takes, and hand over their memory.

Then they are the run threads' to serve. A camera that says something else than the protocol is cut off, and
nobody else notices.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time

from streamfleet_worker.engine.connection import CameraConnection
from streamfleet_worker.engine.messages import MAX_PACKET, BadPacket, Offer, Share, pack, unpack_from_camera
from streamfleet_worker.engine.onnx_session import Session
from streamfleet_worker.engine.run_threads import Runners
from streamfleet_worker.ipc.shared_memory import BadSlots, map_slots
from streamfleet_worker.ipc.unix_sockets import listen

logger = logging.getLogger(__name__)

_BACKLOG = 64


class EngineServer:
    """Serves one session to cameras, on a socket at a path. `start` it once, `close` it once."""

    def __init__(self, session: Session, socket_path: str, *, threads: int) -> None:
        self._session = session
        self._runners = Runners(session, threads=threads)
        self._offer = pack(_offer(session))
        self._closing = False
        self._listener = listen(socket_path, backlog=_BACKLOG)
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="engine server", daemon=True)

    def start(self) -> None:
        """Let cameras in."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread.start()
        self._runners.start()

    def close(self, deadline: float) -> None:
        """Cut everybody off; wait at most so many seconds for the inferences under way."""
        self._closing = True
        os.write(self._wake_write, b"x")
        until = time.monotonic() + deadline
        self._runners.close(deadline)
        self._thread.join(max(0.0, until - time.monotonic()))
        # Not by the thread: it may end before it is woken, and then there must be something to write to.
        if not self._thread.is_alive():
            os.close(self._wake_read)
            os.close(self._wake_write)

    def figures(self, now: float) -> tuple[int, float]:
        """Inferences done so far, and the seconds that the longest one under way has taken."""
        return self._runners.figures(now)

    def failure(self, now: float) -> str:
        """Why inferences fail, when all of the last seconds did."""
        return self._runners.failure(now)

    # the server thread -------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._welcome()
                elif isinstance(key.data, CameraConnection):
                    self._hear(key.data)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, CameraConnection):
                key.data.link.close()
        self._selector.close()
        self._listener.close()

    def _welcome(self) -> None:
        try:
            link, _ = self._listener.accept()
        except OSError as exc:
            logger.warning("a camera could not be let in: %s", exc.strerror)
            time.sleep(0.1)  # out of descriptors, most likely: the next try would fail as fast
            return
        link.setblocking(False)
        connection = CameraConnection(link)
        self._selector.register(link, selectors.EVENT_READ, connection)
        connection.say(self._offer)

    def _hear(self, connection: CameraConnection) -> None:
        """The one packet that is for us."""
        descriptors: list[int] = []
        try:
            packet, descriptors, _, _ = socket.recv_fds(connection.link, MAX_PACKET, 4)
            if packet:
                self._prepare(connection, packet, descriptors)
        except BlockingIOError:
            return
        except (OSError, BadPacket, BadSlots) as exc:
            logger.warning("a camera was cut off: %s", exc)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._selector.unregister(connection.link)
        if connection.runs:
            self._runners.add(connection)
        else:
            connection.link.close()

    def _prepare(self, connection: CameraConnection, packet: bytes, descriptors: list[int]) -> None:
        """Raises: BadPacket, BadSlots."""
        message = unpack_from_camera(packet)
        if not isinstance(message, Share):
            raise BadPacket("memory before anything else", packet)
        if len(descriptors) != 1:
            raise BadSlots(f"expected memory once, came {len(descriptors)} descriptors")
        slots = map_slots(descriptors[0], self._session.layout(message.slots))
        # The arrays go along with their bindings, which hold addresses only.
        connection.runs = [(self._session.prepare(slot), slot) for slot in slots]


def _offer(session: Session) -> Offer:
    layout = session.layout(1)
    _, _, height, width = layout.input_shape
    _, rows, columns = layout.output_shape
    return Offer(input_height=height, input_width=width, rows=rows, columns=columns)
