"""The thread that moves frames: from the sources to the model in rounds, and on to the user in their order.

It alone calls functions of the user's, but for a model that is one.
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
from streamfleet_worker.library.execution.rounds import Round, Sources, Taken
from streamfleet_worker.library.execution.wakeup import Wakeup
from streamfleet_worker.library.frame import VideoFrame
from streamfleet_worker.library.inference import Inference, Inferred, failure_of
from streamfleet_worker.library.status_updates import Updates
from streamfleet_worker.library.tracking import Tracking
from streamfleet_worker.library.watchdogs import PipelineWatchDog

logger = logging.getLogger(__name__)

_SPARE = 1  # rounds beside those that run: the next of a file, or the last that the user has not seen yet

HandOver = Callable[[list[Any], "list[VideoFrame | None]"], None]  # both by source; None: it gave nothing


@dataclass(frozen=True, slots=True)
class _Flight:
    """A round that is with the model."""

    round: Round
    future: Future[Inferred]

    @property
    def present(self) -> list[Taken]:
        """What there is of the round."""
        return [taken for taken in self.round if taken is not None]


class Flow:
    """`run` is the thread's. Any other may call the rest."""

    def __init__(
        self,
        sources: Sources,
        inference: Inference,
        *,
        hand_over: HandOver,
        callbacks: Callbacks,
        updates: Updates,
        wakeup: threading.Event,
        stopped: Wakeup,
        tracking: Tracking | None = None,
        watchdog: PipelineWatchDog | None = None,
    ) -> None:
        self._sources = sources
        self._inference = inference
        self._give_to_sinks = hand_over
        self._callbacks = callbacks
        self._updates = updates
        self._wakeup = wakeup
        self._tracking = tracking
        self._watchdog = watchdog
        self._flights: deque[_Flight] = deque()  # in the order of their rounds
        self._landing = threading.Condition()  # guards the two counts
        self._begun = self._landed = 0  # rounds
        self._stopped = stopped
        self._failing = False  # the last round led to nothing

    @property
    def stopped(self) -> threading.Event:
        """Set by `stop`."""
        return self._stopped

    def stop(self) -> None:
        """End after the call to the user that is under way, if any."""
        self._stopped.set()
        self._wakeup.set()
        with self._landing:
            self._landing.notify_all()

    def settle(self, deadline: float) -> bool:
        """Wait for the rounds that have begun; whether that took no more than so many seconds."""
        with self._landing:
            begun = self._begun
            return self._landing.wait_for(
                lambda: self._landed >= begun or self._stopped.is_set(), timeout=deadline
            )

    def run(self) -> None:
        """Until the sources are over, or `stop` is called."""
        try:
            while not self._stopped.is_set() and not self._is_over():
                self._turn()
        finally:
            for flight in self._flights:
                flight.future.cancel()
            self._flights.clear()

    def _is_over(self) -> bool:
        return not self._flights and self._sources.over

    def _turn(self) -> None:
        self._wakeup.clear()
        self._updates.deliver()
        self._begin_rounds()
        if self._flights and self._flights[0].future.done():
            self._land(self._flights.popleft())
        elif not self._is_over():
            self._wakeup.wait(self._sources.wait(time.monotonic()))

    def _begin_rounds(self) -> None:
        while self._may_begin():
            with self._landing:  # a pause that begins now either stops this round, or waits for it
                round_ = self._sources.next_round(time.monotonic())
                if round_ is None:
                    return
                self._begun += 1
            self._begin(round_)

    def _may_begin(self) -> bool:
        """A live source's frame is only taken when a model is free for it: before, a newer one may come."""
        running = sum(not flight.future.done() for flight in self._flights)
        spare = _SPARE if self._sources.finite else 0
        return running < self._inference.threads + spare and len(self._flights) <= (
            self._inference.threads + _SPARE
        )

    def _begin(self, round_: Round) -> None:
        frames = [taken.frame for taken in round_ if taken is not None]
        if self._watchdog is not None:
            self._callbacks.call("the watchdog", self._watchdog.on_model_inference_started, frames)
        future = self._inference.begin(frames)
        future.add_done_callback(lambda _: self._wakeup.set())
        self._flights.append(_Flight(round_, future))

    def _land(self, flight: _Flight) -> None:
        try:
            inferred = flight.future.result()
            predictions = self._predictions(flight, inferred.results)
        except Exception as exc:
            self._note_failure(flight, exc)
        else:
            self._failing = False
            self._note_success(flight, inferred)
            self._hand_over(flight, predictions)
        with self._landing:
            self._landed += 1
            self._landing.notify_all()

    def _note_failure(self, flight: _Flight, exc: Exception) -> None:
        if not self._failing:
            logger.error("the model failed; the pipeline goes on without these frames", exc_info=exc)
        self._failing = True
        for taken in flight.present:
            taken.metrics.inference_failed(failure_of(exc))

    def _note_success(self, flight: _Flight, inferred: Inferred) -> None:
        for taken in flight.present:
            taken.metrics.inferred(
                decoded_at=taken.began_at, started_at=inferred.started_at, ready_at=inferred.ready_at
            )
        if self._watchdog is not None:
            frames = [taken.frame for taken in flight.present]
            self._callbacks.call("the watchdog", self._watchdog.on_model_prediction_ready, frames)

    def _hand_over(self, flight: _Flight, predictions: list[Any]) -> None:
        self._give_to_sinks(predictions, [None if taken is None else taken.frame for taken in flight.round])
        now = time.monotonic()
        for taken in flight.present:
            taken.metrics.emitted(now, latency=now - taken.began_at)

    def _predictions(self, flight: _Flight, results: Sequence[Any]) -> list[Any]:
        """By source; each with its ids, if there is a tracker."""
        predictions: list[Any] = [None] * len(flight.round)
        following = iter(results)
        for source_id, taken in enumerate(flight.round):
            if taken is None:
                continue
            found = next(following)
            if self._tracking is not None:
                found = self._tracking.track(found, source_id, taken.stamp)
            predictions[source_id] = found
        return predictions
