"""An event that a signal handler may set at any time."""

from __future__ import annotations

import threading


class Wakeup(threading.Event):
    """A `threading.Event` with a reentrant lock: otherwise a handler that interrupts its owner deadlocks."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = threading.Condition(threading.RLock())
