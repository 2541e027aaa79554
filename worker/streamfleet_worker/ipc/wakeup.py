"""Wakes a thread that waits for sockets."""

from __future__ import annotations

import os


class Wakeup:
    """An event to poll together with sockets. Any thread may call `set`."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._descriptor

    def set(self) -> None:
        """Wake the waiting thread, or end its next wait at once."""
        os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Reset it. The waiting thread calls this before it checks for work."""
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            return
