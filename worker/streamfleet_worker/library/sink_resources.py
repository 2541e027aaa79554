"""Objects that all sinks of a program share. Each is created on first use, none at import."""

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
    """The only object of this class in the program. Any thread may call it."""
    if kind not in _made:
        _made.setdefault(kind, kind())  # atomic: if two threads create one, both get the first
    one: T = _made[kind]
    return one


class ThrottledWarnings:
    """Limits repeated warnings, so that a failing sink does not fill the log. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._throttle = LogThrottle()

    def warn(self, text: str, error: Exception | None = None) -> None:
        """Log a warning with the traceback of its error, unless it was logged recently."""
        with self._lock:
            count = self._throttle.failed(text, time.monotonic())
        if count:
            logger.warning("%s", text, exc_info=error)
