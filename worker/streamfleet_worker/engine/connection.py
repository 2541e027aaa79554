"""The engine's record of a connected camera."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field

from streamfleet_worker.ipc.shared_memory import Slot


@dataclass(eq=False, slots=True)
class CameraConnection:
    """A connected camera. Its slots keep its memory mapped until the last run has ended."""

    link: socket.socket
    slots: list[Slot] = field(default_factory=list)  # after it has shared its memory

    def send(self, packet: bytes) -> None:
        """Send without blocking. A camera that does not read is shut down; its reader detects that."""
        try:
            self.link.send(packet)
        except OSError:
            with contextlib.suppress(OSError):
                self.link.shutdown(socket.SHUT_RDWR)
