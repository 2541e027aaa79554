"""Calling what the user wrote: whatever goes wrong in it is told and logged, and ends nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from streamfleet_worker.camera.complaints import Complaints
from streamfleet_worker.library.updates import Updates

logger = logging.getLogger(__name__)


class Callbacks:
    """Calls functions of the user's. One thread uses it."""

    def __init__(self, updates: Updates) -> None:
        self._updates = updates
        self._complaints = Complaints()

    def call(self, what: str, function: Callable[..., Any], *arguments: Any) -> None:
        """Call it; `what` names it in the log."""
        try:
            function(*arguments)
        except Exception as exc:
            kind, text = type(exc).__name__, str(exc)
            self._updates.error(
                "INFERENCE_RESULTS_DISPATCHING_ERROR", kind, text, "inference_results_dispatching"
            )
            if self._complaints.failed(f"{what}: {kind}: {text}", time.monotonic()):
                logger.exception("%s failed; the pipeline goes on", what)
