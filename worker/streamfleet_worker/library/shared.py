"""Objects that all sinks of a program share. Nothing is made at import: each is made at its first use."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from streamfleet_worker.video.telemetry.log_throttle import LogThrottle

logger = logging.getLogger(__name__)

T = TypeVar("T")

_made: dict[Callable[[], Any], Any] = {}


def shared(kind: Callable[[], T]) -> T:
    """The program's one object of this class. Any thread may call this."""
    if kind not in _made:
        _made.setdefault(kind, kind())  # atomic: of two threads that make one, both get the first
    one: T = _made[kind]
    return one


class RareWarnings:
    """Logs a warning once in a while, or a sink that always fails fills the log. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._throttle = LogThrottle()

    def warn(self, text: str, error: Exception | None = None) -> None:
        """Log it, with the traceback of the error, unless that was done lately."""
        with self._lock:
            often = self._throttle.failed(text, time.monotonic())
        if often:
            logger.warning("%s", text, exc_info=error)
