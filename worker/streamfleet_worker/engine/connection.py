"""A camera that is connected to an engine, as the engine sees it."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class CameraConnection:
    """The prepared runs keep the camera's memory mapped until the last of them ended."""

    link: socket.socket
    runs: list[Any] = field(default_factory=list)  # one prepared run a slot, once it has shared its memory

    def say(self, packet: bytes) -> None:
        """Answer without waiting. A camera that does not read is cut off; who listens to it will notice."""
        try:
            self.link.send(packet)
        except OSError:
            with contextlib.suppress(OSError):
                self.link.shutdown(socket.SHUT_RDWR)
