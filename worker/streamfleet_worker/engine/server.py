"""The engine's unix socket: cameras connect, receive the model's shapes, and share their memory.

Afterwards the inference threads serve them. A camera that violates the protocol is disconnected, without
effect on the others.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time

from streamfleet_worker.engine.connection import CameraConnection
from streamfleet_worker.engine.inference_threads import InferenceThreads
from streamfleet_worker.engine.interface import Model
from streamfleet_worker.engine.messages import MAX_PACKET, BadPacket, Offer, Share, pack, unpack_from_camera
from streamfleet_worker.engine.turns.batching import Batching
from streamfleet_worker.ipc.child_messages import EngineCostReport
from streamfleet_worker.ipc.shared_memory import BadSlots, map_slots
from streamfleet_worker.ipc.unix_sockets import listen

logger = logging.getLogger(__name__)

_BACKLOG = 64


class EngineServer:
    """Serves one model to cameras, on a socket at a path. Call `start` and `close` once."""

    def __init__(
        self, model: Model, socket_path: str, *, threads: int, batching: Batching | None = None
    ) -> None:
        """`batching`: the rules of batches; None: as large as the model allows."""
        self._model = model
        self._inference_threads = InferenceThreads(
            model, threads=threads, batching=batching or Batching(model.max_batch)
        )
        self._offer = pack(_offer(model))
        self._closing = False
        self._listener = listen(socket_path, backlog=_BACKLOG)
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="engine server", daemon=True)

    def start(self) -> None:
        """Start to accept cameras."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread.start()
        self._inference_threads.start()

    def close(self, deadline: float) -> None:
        """Disconnect all cameras; wait up to `deadline` seconds for running inferences."""
        self._closing = True
        os.write(self._wake_write, b"x")
        until = time.monotonic() + deadline
        self._inference_threads.close(deadline)
        self._thread.join(max(0.0, until - time.monotonic()))
        # Not closed by the thread: it may end before the wake-up, which must still have a pipe to write to.
        if not self._thread.is_alive():
            os.close(self._wake_read)
            os.close(self._wake_write)

    def figures(self, now: float) -> tuple[int, float]:
        """The number of inferences so far, and the seconds that the longest running one has taken."""
        return self._inference_threads.figures(now)

    def cost(self) -> EngineCostReport:
        """What inferences have cost so far."""
        return self._inference_threads.cost()

    def failure(self, now: float) -> str:
        """Reason why inferences fail, if all of the last seconds did; otherwise ""."""
        return self._inference_threads.failure(now)

    # the server thread -------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, CameraConnection):
                    self._handle(key.data)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, CameraConnection):
                key.data.link.close()
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            link, _ = self._listener.accept()
        except OSError as exc:
            logger.warning("a camera could not be accepted: %s", exc.strerror)
            time.sleep(0.1)  # probably out of descriptors: the next attempt would fail at once
            return
        link.setblocking(False)
        connection = CameraConnection(link)
        self._selector.register(link, selectors.EVENT_READ, connection)
        connection.send(self._offer)

    def _handle(self, connection: CameraConnection) -> None:
        """Read the first packet of a camera, the only one that is handled here."""
        descriptors: list[int] = []
        try:
            packet, descriptors, _, _ = socket.recv_fds(connection.link, MAX_PACKET, 4)
            if packet:
                self._prepare(connection, packet, descriptors)
        except BlockingIOError:
            return
        except (OSError, BadPacket, BadSlots) as exc:
            logger.warning("disconnected a camera: %s", exc)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._selector.unregister(connection.link)
        if connection.slots:
            self._inference_threads.add(connection)
        else:
            connection.link.close()

    def _prepare(self, connection: CameraConnection, packet: bytes, descriptors: list[int]) -> None:
        """Map the shared memory. Raises: BadPacket, BadSlots."""
        message = unpack_from_camera(packet)
        if not isinstance(message, Share):
            raise BadPacket("a share as the first message", packet)
        if len(descriptors) != 1:
            raise BadSlots(f"expected one descriptor of memory, got {len(descriptors)}")
        connection.slots = map_slots(descriptors[0], self._model.layout(message.slots))


def _offer(model: Model) -> Offer:
    layout = model.layout(1)
    _, _, height, width = layout.input_shape
    return Offer(input_height=height, input_width=width, outputs=layout.output_shapes)
