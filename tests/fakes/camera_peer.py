"""A camera's end of an engine's socket, for tests in its place."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from streamfleet_worker.engine.messages import (
    Done,
    Failed,
    Offer,
    RequestTurn,
    Run,
    Share,
    Turn,
    pack,
    unpack_from_engine,
)
from streamfleet_worker.ipc.shared_memory import Slot, SlotLayout, create_memory, map_slots
from tests.fakes.patience import PATIENCE


class CameraPeer:
    """A camera's end of the engine's socket, which may be told to misbehave."""

    def __init__(self, folder: Path, *, slots: int = 2) -> None:
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(PATIENCE)
        self.link.connect(str(folder / "engine"))
        offer = self.hear()
        assert isinstance(offer, Offer)
        shape = (1, 3, offer.input_height, offer.input_width)
        self.layout = SlotLayout(shape, offer.outputs, slots)
        self.slots: list[Slot] = []

    def share(self) -> CameraPeer:
        memory = create_memory(self.layout)
        self.slots = map_slots(memory, self.layout)
        self.send_memory(memory)
        return self

    def send_memory(self, memory: int) -> None:
        socket.send_fds(self.link, [pack(Share(self.layout.count))], [memory])
        os.close(memory)

    def run(self, *slots: int) -> None:
        self.send(*map(Run, slots))

    def request_turn(self, *slots: int, decoded_at: float = 0.0) -> None:
        self.send(*(RequestTurn(slot, 0, decoded_at) for slot in slots))

    def send(self, *messages: Run | RequestTurn) -> None:
        for message in messages:
            self.link.send(pack(message))

    def hear(self) -> Offer | Turn | Done | Failed:
        return unpack_from_engine(self.link.recv(1024))

    @property
    def was_cut_off(self) -> bool:
        """Whether the engine hangs up, after what it still sends. Raises: TimeoutError."""
        try:
            while self.link.recv(1024):
                continue
        except ConnectionResetError:
            pass
        return True
