"""A camera's client of the engine: the slots, and a connection that may break and be restored at any time.

The memory belongs to the camera, so that the next engine runs again what was in flight when an engine died.
"""

from __future__ import annotations

import logging
import os
import random
import socket

from streamfleet_core.protocol.values import Manifest, Priority
from streamfleet_core.runtime.backoff import Backoff
from streamfleet_worker.engine.messages import (
    MAX_PACKET,
    BadPacket,
    Decline,
    Done,
    Failed,
    Offer,
    RequestTurn,
    Run,
    SetPriority,
    Share,
    Turn,
    pack,
    unpack_from_engine,
)
from streamfleet_worker.ipc.shared_memory import Slot, SlotLayout, create_memory, map_slots

logger = logging.getLogger(__name__)

_ANSWER = 1.0  # seconds to wait for the offer of a new engine
_FIRST_PAUSE = 0.05  # seconds, between attempts to connect
_LONGEST_PAUSE = 1.0  # seconds


class EngineClient:
    """Tracks free and running slots. Only one thread may use it; any thread may read `connected`."""

    def __init__(self, socket_path: str, manifest: Manifest, *, slots: int) -> None:
        self._path = socket_path
        self._manifest = manifest
        self._count = slots
        self._link: socket.socket | None = None
        self._layout: SlotLayout | None = None
        self._memory = -1  # descriptor
        self._slots: list[Slot] = []
        self._free: list[int] = []
        self._requested: set[int] = set()  # slots that wait for their turn
        self._running: dict[int, int] = {}  # the sources, by slot
        self._priority: Priority = "normal"
        self._backoff = Backoff(first=_FIRST_PAUSE, limit=_LONGEST_PAUSE)
        self._next_attempt = 0.0  # monotonic seconds

    @property
    def connected(self) -> bool:
        """Whether an engine is connected."""
        return self._link is not None

    def fileno(self) -> int | None:
        """The descriptor to poll for answers; None without an engine."""
        return None if self._link is None else self._link.fileno()

    def wait(self, now: float) -> float:
        """Seconds until `connect` may be tried."""
        return max(0.0, self._next_attempt - now)

    def connect(self, now: float) -> bool:
        """Try to connect, if it is time, and repeat the runs that a former engine left unfinished."""
        if self._link is not None or now < self._next_attempt:
            return self.connected
        try:
            self._link = self._handshake()
            if self._priority != "normal":
                self._link.send(pack(SetPriority(self._priority)))
            for index, source in self._running.items():
                self._link.send(pack(Run(index, source)))
        except (OSError, BadPacket) as exc:
            self._disconnect(now, str(exc))
            return False
        self._backoff.succeeded()
        return True

    @property
    def free(self) -> int:
        """The number of free slots."""
        return len(self._free)

    def borrow(self) -> int | None:
        """Take a free slot to write into; None if there is none. Return it with `give_back`."""
        return self._free.pop() if self._free else None

    def give_back(self, index: int) -> None:
        """Return a slot whose output is no longer needed."""
        self._running.pop(index, None)
        self._free.append(index)

    def slot(self, index: int) -> Slot:
        """The arrays of a slot."""
        return self._slots[index]

    def set_priority(self, priority: Priority, now: float) -> None:
        """Set the priority of all frames, at this engine and the next ones."""
        if priority != self._priority:
            self._priority = priority
            self._send(SetPriority(priority), now)

    def request_turn(self, index: int, source: int, decoded_at: float, now: float) -> None:
        """Ask for a turn of a slot, to fill it then, or tell of a newer frame.

        A turn is lost with its engine.
        `decoded_at`: monotonic seconds, of the frame that it would be filled with now.
        """
        self._requested.add(index)
        self._send(RequestTurn(index, source, decoded_at), now)

    def decline(self, index: int, now: float) -> None:
        """Return a slot whose turn has come, as there is nothing to infer."""
        self._send(Decline(index), now)
        self._free.append(index)

    def submit(self, index: int, source: int, now: float) -> None:
        """Request a run of a slot. If the engine is gone, the next one runs it."""
        self._running[index] = source
        self._send(Run(index, source), now)

    def forget_request(self, index: int) -> None:
        """Return a slot that waited for its turn at an engine that is gone."""
        self._requested.discard(index)
        self._free.append(index)

    def answer(self, now: float) -> Turn | Done | Failed | None:
        """Receive one answer without blocking; None if there is none. There may be more."""
        if self._link is None:
            return None
        try:
            packet = self._link.recv(MAX_PACKET)
            if packet:
                return self._check(packet)
            self._disconnect(now, "it closed the connection")
        except BlockingIOError:
            pass
        except (OSError, BadPacket) as exc:
            self._disconnect(now, str(exc))
        return None

    def close(self) -> None:
        """Disconnect from the engine, and give up the memory of the slots."""
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        self._slots, self._layout = [], None

    def _handshake(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            link.settimeout(_ANSWER)
            link.connect(self._path)
            offer = unpack_from_engine(link.recv(MAX_PACKET))
            if not isinstance(offer, Offer):
                raise BadPacket("an offer", repr(offer).encode())
            self._prepare_memory(offer)
            socket.send_fds(link, [pack(Share(len(self._slots)))], [self._memory])
            link.setblocking(False)
        except (OSError, BadPacket):
            link.close()
            raise
        return link

    def _prepare_memory(self, offer: Offer) -> None:
        """Create the slots at the first offer. Later engines have the same model, hence the same shapes."""
        taken = (offer.input_height, offer.input_width)
        if taken != (self._manifest.input_height, self._manifest.input_width):
            expected = f"an input of {self._manifest.input_height} x {self._manifest.input_width}"
            raise BadPacket(expected, b"%d x %d" % taken)
        layout = SlotLayout((1, 3, *taken), offer.outputs, self._count)
        if self._layout is None:
            self._memory = create_memory(layout)
            self._slots = map_slots(self._memory, layout)
            self._free = list(range(self._count))
            self._layout = layout
        elif layout != self._layout:
            raise BadPacket(f"the shapes {self._layout}", repr(layout).encode())

    def _check(self, packet: bytes) -> Turn | Done | Failed:
        answer = unpack_from_engine(packet)
        if isinstance(answer, Turn) and answer.slot in self._requested:
            self._requested.discard(answer.slot)
            return answer
        if isinstance(answer, (Done, Failed)) and answer.slot in self._running:
            del self._running[answer.slot]
            return answer
        expected = f"an answer for one of the slots {sorted((*self._requested, *self._running))}"
        raise BadPacket(expected, packet)

    def _send(self, message: SetPriority | RequestTurn | Decline | Run, now: float) -> None:
        if self._link is None:
            return
        try:
            self._link.send(pack(message))
        except OSError as exc:
            self._disconnect(now, str(exc))

    def _disconnect(self, now: float, why: str) -> None:
        if self._link is not None:
            logger.warning("lost the engine: %s", why)
            self._link.close()
            self._link = None
        self._next_attempt = now + self._backoff.failed(random.random())
