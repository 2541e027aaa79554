"""Calls functions of the user: their errors are reported and logged, and the pipeline continues."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.status_updates import Updates
from streamfleet_worker.video.telemetry.log_throttle import LogThrottle

logger = logging.getLogger(__name__)


class Callbacks:
    """Calls functions of the user. Only one thread may use it."""

    def __init__(self, updates: Updates) -> None:
        self._updates = updates
        self._throttle = LogThrottle()

    def call(self, what: str, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function; `what` names it in the log."""
        try:
            function(*arguments)
        except Exception as exc:
            kind, text = type(exc).__name__, str(exc)
            self._updates.error(
                "INFERENCE_RESULTS_DISPATCHING_ERROR", kind, text, "inference_results_dispatching"
            )
            if self._throttle.failed(f"{what}: {kind}: {text}", time.monotonic()):
                logger.exception("%s failed; the pipeline continues", what)


class SinkDispatcher:
    """Passes predictions to the sinks, as lists by source or one by one. Only one thread may use it."""

    def __init__(
        self,
        sinks: Sequence[Callable[[Any, Any], Any]],
        *,
        batched: bool,
        results: Callable[[Any, VideoFrame], Any] | None,
        callbacks: Callbacks,
        stopped: threading.Event,
    ) -> None:
        """`results` converts a prediction and its frame to the value that the sinks get."""
        self._sinks = tuple(sinks)
        self._batched = batched
        self._results = results
        self._callbacks = callbacks
        self._stopped = stopped

    def dispatch(self, predictions: list[Any], frames: list[VideoFrame | None]) -> None:
        """Call the sinks with the predictions of a batch, unless the pipeline is stopped."""
        if self._results is not None:
            predictions = [
                None if frame is None else self._results(prediction, frame)
                for prediction, frame in zip(predictions, frames, strict=True)
            ]
        if self._batched:
            self._call_sinks(predictions, frames)
            return
        for prediction, frame in zip(predictions, frames, strict=True):
            if frame is not None and not self._stopped.is_set():
                self._call_sinks(prediction, frame)

    def _call_sinks(self, predictions: Any, frames: Any) -> None:
        for sink in self._sinks:
            self._callbacks.call("a sink", sink, predictions, frames)
