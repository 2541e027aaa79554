"""The thread that moves frames: from the sources to the model in batches, and to the user in order.

Only this thread calls functions of the user, except a model that is a function.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from streamfleet_worker.library.execution.callbacks import Callbacks
from streamfleet_worker.library.execution.frame_batches import FrameBatch, Sources, Taken
from streamfleet_worker.library.execution.wakeup import Wakeup
from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.inference import Inference, Inferred, failure_of
from streamfleet_worker.library.status_updates import Updates
from streamfleet_worker.library.tracking import Tracking
from streamfleet_worker.library.watchdogs import PipelineWatchDog

logger = logging.getLogger(__name__)

# Batches besides the running ones: the next of a file, or a finished one that was not dispatched yet.
_SPARE = 1

Dispatch = Callable[[list[Any], "list[VideoFrame | None]"], None]  # both by source; None: no frame


@dataclass(frozen=True, slots=True)
class _InFlightBatch:
    """A batch that the model is processing, or whose results were not dispatched yet."""

    batch: FrameBatch
    future: Future[Inferred]

    @property
    def present(self) -> list[Taken]:
        """The frames of the batch."""
        return [taken for taken in self.batch if taken is not None]


class FrameLoop:
    """The loop of a pipeline. One thread calls `run`; any thread may call the other methods."""

    def __init__(
        self,
        sources: Sources,
        inference: Inference,
        *,
        dispatch: Dispatch,
        callbacks: Callbacks,
        updates: Updates,
        wakeup: threading.Event,
        stopped: Wakeup,
        tracking: Tracking | None = None,
        watchdog: PipelineWatchDog | None = None,
    ) -> None:
        self._sources = sources
        self._inference = inference
        self._dispatch = dispatch
        self._callbacks = callbacks
        self._updates = updates
        self._wakeup = wakeup
        self._tracking = tracking
        self._watchdog = watchdog
        self._in_flight: deque[_InFlightBatch] = deque()  # in order
        self._batch_finished = threading.Condition()  # guards the two counts
        self._begun = self._finished = 0  # batches
        self._stopped = stopped
        self._failing = False  # the last batch failed

    @property
    def stopped(self) -> threading.Event:
        """The event that `stop` sets."""
        return self._stopped

    def stop(self) -> None:
        """End after the current call to the user, if any."""
        self._stopped.set()
        self._wakeup.set()
        with self._batch_finished:
            self._batch_finished.notify_all()

    def settle(self, deadline: float) -> bool:
        """Wait for the batches in flight, and return whether they finished within `deadline` seconds."""
        with self._batch_finished:
            begun = self._begun
            return self._batch_finished.wait_for(
                lambda: self._finished >= begun or self._stopped.is_set(), timeout=deadline
            )

    def run(self) -> None:
        """Run until all sources have ended, or `stop` is called."""
        try:
            while not self._stopped.is_set() and not self._is_over():
                self._step()
        finally:
            for each in self._in_flight:
                each.future.cancel()
            self._in_flight.clear()

    def _is_over(self) -> bool:
        return not self._in_flight and self._sources.over

    def _step(self) -> None:
        self._wakeup.clear()
        self._updates.deliver()
        self._begin_batches()
        if self._in_flight and self._in_flight[0].future.done():
            self._finish_batch(self._in_flight.popleft())
        elif not self._is_over():
            self._wakeup.wait(self._sources.wait(time.monotonic()))

    def _begin_batches(self) -> None:
        while self._may_begin():
            with self._batch_finished:  # a concurrent pause either prevents this batch, or waits for it
                batch = self._sources.next_batch(time.monotonic())
                if batch is None:
                    return
                self._begun += 1
            self._begin(batch)

    def _may_begin(self) -> bool:
        """Whether to start a batch.

        Of a live source only if the model is free: until then a newer frame may arrive.
        """
        running = sum(not each.future.done() for each in self._in_flight)
        spare = _SPARE if self._sources.finite else 0
        return running < self._inference.threads + spare and len(self._in_flight) <= (
            self._inference.threads + _SPARE
        )

    def _begin(self, batch: FrameBatch) -> None:
        frames = [taken.frame for taken in batch if taken is not None]
        if self._watchdog is not None:
            self._callbacks.call("the watchdog", self._watchdog.on_model_inference_started, frames)
        future = self._inference.begin(frames)
        future.add_done_callback(lambda _: self._wakeup.set())
        self._in_flight.append(_InFlightBatch(batch, future))

    def _finish_batch(self, in_flight: _InFlightBatch) -> None:
        try:
            inferred = in_flight.future.result()
            predictions = self._predictions(in_flight, inferred.results)
        except Exception as exc:
            self._record_failure(in_flight, exc)
        else:
            self._failing = False
            self._record_success(in_flight, inferred)
            self._dispatch_batch(in_flight, predictions)
        with self._batch_finished:
            self._finished += 1
            self._batch_finished.notify_all()

    def _record_failure(self, in_flight: _InFlightBatch, exc: Exception) -> None:
        if not self._failing:
            logger.error("the model failed; the pipeline continues without these frames", exc_info=exc)
        self._failing = True
        for taken in in_flight.present:
            taken.metrics.inference_failed(failure_of(exc))
            taken.lane.gate.forget()

    def _record_success(self, in_flight: _InFlightBatch, inferred: Inferred) -> None:
        for taken in in_flight.present:
            taken.metrics.inferred(
                decoded_at=taken.began_at, started_at=inferred.started_at, ready_at=inferred.ready_at
            )
        if self._watchdog is not None:
            frames = [taken.frame for taken in in_flight.present]
            self._callbacks.call("the watchdog", self._watchdog.on_model_prediction_ready, frames)

    def _dispatch_batch(self, in_flight: _InFlightBatch, predictions: list[Any]) -> None:
        self._dispatch(predictions, [None if taken is None else taken.frame for taken in in_flight.batch])
        now = time.monotonic()
        for taken in in_flight.present:
            taken.metrics.emitted(now, latency=now - taken.began_at)

    def _predictions(self, in_flight: _InFlightBatch, results: Sequence[Any]) -> list[Any]:
        """The predictions by source, with tracker ids if there is a tracker."""
        predictions: list[Any] = [None] * len(in_flight.batch)
        remaining = iter(results)
        for source_id, taken in enumerate(in_flight.batch):
            if taken is None:
                continue
            found = next(remaining)
            if self._tracking is not None:
                found = self._tracking.track(found, source_id, taken.moving_stamp)
            predictions[source_id] = found
        return predictions
