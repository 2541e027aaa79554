"""The engine's record of a connected camera."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class CameraConnection:
    """A connected camera. Its prepared runs keep its memory mapped until the last one has ended."""

    link: socket.socket
    runs: list[Any] = field(default_factory=list)  # one prepared run per slot, after it has shared its memory

    def send(self, packet: bytes) -> None:
        """Send without blocking. A camera that does not read is shut down; its reader detects that."""
        try:
            self.link.send(packet)
        except OSError:
            with contextlib.suppress(OSError):
                self.link.shutdown(socket.SHUT_RDWR)
