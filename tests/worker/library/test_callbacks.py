"""Who is called with what, and what goes wrong in it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from streamfleet_worker.library.execution.callbacks import Callbacks, SinkDispatcher
from streamfleet_worker.library.status_updates import Updates
from tests.fakes.predicted import frame


class Sinks:
    """Two sinks, of which the second stops the pipeline at its n-th call."""

    def __init__(self, *, batched: bool, stops_at: int = 99, results: Any = None) -> None:
        self.stopped = threading.Event()
        self.calls: list[tuple[str, Any]] = []
        self._left = stops_at
        self.updates = Updates((), changed=threading.Event())
        self.dispatcher = SinkDispatcher(
            [self.first, self.second],
            batched=batched,
            results=results,
            callbacks=Callbacks(self.updates),
            stopped=self.stopped,
        )

    def first(self, predictions: Any, _frames: Any) -> None:
        self.calls.append(("first", predictions))

    def second(self, predictions: Any, _frames: Any) -> None:
        self.calls.append(("second", predictions))
        self._left -= 1
        if not self._left:
            self.stopped.set()


def test_a_batch_is_one_call_with_a_place_for_each_source() -> None:
    sinks = Sinks(batched=True)

    sinks.dispatcher.dispatch(["a", None], [frame(0), None])

    assert sinks.calls == [("first", ["a", None]), ("second", ["a", None])]


def test_frames_go_one_by_one_to_all_sinks_and_absent_ones_to_none() -> None:
    sinks = Sinks(batched=False)

    sinks.dispatcher.dispatch(["a", None, "c"], [frame(0), None, frame(2)])

    assert sinks.calls == [("first", "a"), ("second", "a"), ("first", "c"), ("second", "c")]


def test_no_sink_is_called_for_the_frames_after_a_stop() -> None:
    sinks = Sinks(batched=False, stops_at=1)

    sinks.dispatcher.dispatch(["a", "b"], [frame(0), frame(1)])

    assert sinks.calls == [("first", "a"), ("second", "a")]


def test_sinks_get_results_in_the_place_of_predictions() -> None:
    sinks = Sinks(batched=True, results=lambda prediction, of: f"{prediction} of {of.source_id}")

    sinks.dispatcher.dispatch(["a", None], [frame(0), None])

    assert sinks.calls[0] == ("first", ["a of 0", None])


def test_what_a_function_raises_is_an_event_each_time_and_a_line_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    updates = Updates((), changed=threading.Event())
    callbacks = Callbacks(updates)

    def fails() -> None:
        raise RuntimeError("the disk is full")

    for _ in range(3):
        callbacks.call("a sink", fails)

    (event,) = updates.events
    assert (event["event_type"], event["times"]) == ("INFERENCE_RESULTS_DISPATCHING_ERROR", 3)
    assert event["payload"]["error_message"] == "the disk is full"
    assert [record.message for record in caplog.records] == ["a sink failed; the pipeline continues"]
