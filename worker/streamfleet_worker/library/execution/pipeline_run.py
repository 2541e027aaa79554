"""The life cycle of one pipeline: open sources and model, run the frame loop in a thread, close everything.

start → open → run → close → join
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from streamfleet_worker.library.errors import StreamOperationNotAllowedError
from streamfleet_worker.library.execution.callbacks import Callbacks
from streamfleet_worker.library.execution.frame_batches import Sources
from streamfleet_worker.library.execution.frame_loop import FrameLoop
from streamfleet_worker.library.inference import Inference
from streamfleet_worker.library.status_updates import Updates
from streamfleet_worker.video.sources.open_source import quiet_libraries
from streamfleet_worker.video.telemetry.status_report import source_metadata, status_report

logger = logging.getLogger(__name__)

_SETTLING = 10.0  # seconds that a pause waits for the frames in flight
_READERS = 2.0  # seconds that sources get to end; the thread of a silent one ends later
_MODEL = 1.0  # seconds that the model gets to end


class PipelineRun:
    """One run of a pipeline. It is started once. Any thread may call any method."""

    def __init__(
        self,
        sources: Sources,
        inference: Inference,
        loop: FrameLoop,
        *,
        callbacks: Callbacks,
        updates: Updates,
        on_start: Callable[[], Any] | None = None,
        on_end: Callable[[], Any] | None = None,
    ) -> None:
        self._sources = sources
        self._inference = inference
        self._loop = loop
        self._callbacks = callbacks
        self._updates = updates
        self._on_start, self._on_end = on_start, on_end
        self._starting = threading.Lock()  # guards _started
        self._started = False
        self._thread: threading.Thread | None = None  # the thread of the frame loop
        self._background: threading.Thread | None = None  # the same, unless it is the caller's
        self._ended = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._loop.stopped.is_set()

    def start(self, *, here: bool) -> None:
        """Run in this thread until the end, or in a new thread.

        Raises: SourceConnectionError; StreamOperationNotAllowedError if it was started already.
        """
        with self._starting:
            if self._started:
                raise StreamOperationNotAllowedError(
                    "expected a pipeline that was not started yet, got a started one"
                )
            self._started = True
        if here:
            self._thread = threading.current_thread()
            self._open()
            self._run()
            return
        self._open()
        self._background = threading.Thread(target=self._run, name="pipeline")
        self._thread = self._background
        self._background.start()

    def join(self) -> None:
        """Wait for the end. Ctrl-C stops the pipeline. Raises: StreamOperationNotAllowedError."""
        if not self._started:
            return
        if threading.current_thread() is self._thread and not self._ended.is_set():
            if self._loop.stopped.is_set():
                return  # in a signal handler, after `stop`: it ends after the handler
            raise StreamOperationNotAllowedError(
                "expected a call from another thread, got one from the pipeline's own"
            )
        try:
            self._ended.wait()
        except KeyboardInterrupt:
            self.stop()  # otherwise its thread would keep the program alive: a camera never ends
            raise
        if self._background is not None:
            self._background.join()

    def stop(self) -> None:
        """End after the current call to a sink. Does not wait for it."""
        self._loop.stop()

    def settle(self) -> None:
        """Wait up to a few seconds for the frames in flight; the pipeline's own thread does not wait."""
        if self._started and threading.current_thread() is not self._thread:
            self._loop.settle(_SETTLING)

    def report(self) -> dict[str, Any]:
        """Roboflow's status report."""
        lanes = [feed.lane for feed in self._sources.feeds]
        stats = self._sources.stats()
        return status_report(
            events=self._updates.events,
            latencies=[lane.metrics.latencies for lane in lanes],
            throughput=round(sum(stat.fps for stat in stats), 3),
            metadata=[
                source_metadata(
                    stat,
                    properties=lane.metrics.properties,
                    buffer_size=lane.buffer.capacity,
                    filling=lane.buffer.filling,
                    consumption=lane.buffer.consumption,
                )
                for stat, lane in zip(stats, lanes, strict=True)
            ],
        )

    def _open(self) -> None:
        try:
            quiet_libraries()
            self._inference.start()
            self._sources.open(self._loop.stopped)
        except BaseException:
            self._close()
            raise

    def _run(self) -> None:
        try:
            self._updates.inference_thread("STARTED")
            if self._on_start is not None and not self._loop.stopped.is_set():
                self._callbacks.call("the start function", self._on_start)
            self._loop.run()
            self._updates.inference_thread("FINISHED")
        finally:
            self._loop.stop()
            if self._on_end is not None:
                self._callbacks.call("the end function", self._on_end)
            self._close()

    def _close(self) -> None:
        """Close the sources before the model, so that no new frames arrive while it ends."""
        if not self._sources.close(_READERS):
            logger.warning("a source does not respond; its thread ends when it does")
        if not self._inference.close(_MODEL):
            logger.warning("the model does not respond; its thread ends when it does")
        self._updates.deliver()
        self._ended.set()
