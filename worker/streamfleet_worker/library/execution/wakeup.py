"""An event that a signal handler may set, whatever its thread is doing with the same event."""

from __future__ import annotations

import threading


class Wakeup(threading.Event):
    """As `threading.Event`, whose lock is not reentrant: a handler that came while it was held would hang."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = threading.Condition(threading.RLock())
