"""What is counted, measured and told of one source."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from streamfleet_worker.ipc.wakeup import Wakeup
from streamfleet_worker.video.telemetry.event_journal import EventJournal
from streamfleet_worker.video.telemetry.source_metrics import SourceMetrics


def metrics_of(journal: EventJournal, **more: Any) -> SourceMetrics:
    return SourceMetrics(0, now=0.0, changed=Wakeup(), journal=journal, **more)


def told(event: dict[str, Any]) -> str:
    """An update in a line."""
    payload = event["payload"]
    if "new_state" in payload:
        return f"{payload['previous_state']} → {payload['new_state']}"
    return f"{event['event_type']}: {payload['cause']}"


def test_throughput_decays_to_zero() -> None:
    metrics = SourceMetrics(0, now=100.0, changed=Wakeup())
    for index in range(100):
        metrics.emitted(100 + index / 10, latency=0.0)

    figures = [metrics.source_stat(now).fps for now in (109.9, 111.4, 112.9, 200.0)]

    assert figures == [10.0, 5.0, 0.0, 0.0]


def test_the_objects_of_emitted_frames_are_counted() -> None:
    metrics = SourceMetrics(0, now=0.0, changed=Wakeup())
    for objects in (2, 0, 3):
        metrics.emitted(1.0, latency=0.0, objects=objects)

    assert metrics.source_stat(1.0).objects == 5


def test_the_latency_is_that_of_the_last_frames() -> None:
    metrics = SourceMetrics(0, now=0.0, changed=Wakeup())
    before = metrics.source_stat(0.0).latency
    for index in range(100):
        metrics.emitted(index, latency=9.0 if index < 36 else index % 2)

    assert before is None
    assert metrics.source_stat(100.0).latency == 0.5


def test_an_error_of_ours_is_an_error_and_no_lost_connection() -> None:
    journal = EventJournal()

    metrics_of(journal).source_failed("an error of our own", "internal")

    (event,) = journal.events
    assert (event["event_type"], event["severity"]) == ("SOURCE_ERROR", 40)


@pytest.mark.parametrize(("finite", "paused"), [(True, "PAUSED"), (False, "MUTED")])
def test_a_pause_is_told_as_the_originals_is(finite: bool, paused: str) -> None:
    journal = EventJournal()
    metrics = metrics_of(journal, finite=finite)
    metrics.source_is("RUNNING")

    metrics.paused(True)
    while_paused = metrics.source_stat(0.0).state
    metrics.paused(True)
    metrics.paused(False)
    metrics.source_is("ENDED")
    read_to_its_end = metrics.source_stat(0.0).state
    metrics.over()

    assert (while_paused, read_to_its_end, metrics.source_stat(0.0).state) == (paused, "RUNNING", "ENDED")
    assert [told(event) for event in journal.events] == [
        "NOT_STARTED → RUNNING",
        f"RUNNING → {paused}",
        f"{paused} → RUNNING",
        "RUNNING → ENDED",
    ]


def test_a_frame_is_counted_at_each_step_that_it_reaches() -> None:
    metrics = SourceMetrics(0, now=0.0, changed=Wakeup())
    for reached in range(5):
        metrics.grabbed(1.0)
        if reached > 0:
            metrics.decoded()
        if reached > 1:
            metrics.inferred(decoded_at=1.0, started_at=1.0, ready_at=1.0)
        if reached > 2:
            metrics.emitted(1.0, latency=0.1)

    source = metrics.source_stat(1.0)

    assert (source.received, source.decoded, source.inferred, source.emitted) == (5, 4, 3, 2)


def test_a_decoder_that_is_not_the_desired_one_is_an_event() -> None:
    journal, changed = EventJournal(), threading.Event()
    metrics = SourceMetrics(0, now=0.0, changed=changed, source_id=2, journal=journal)

    metrics.decoder_is("nv (nvv4l2decoder)", "")
    first = metrics.source_stat(0.0)
    metrics.decoder_is("software", "nv (nvv4l2decoder) was killed by SIGKILL")
    second = metrics.source_stat(0.0)

    assert (first.decoder, first.decoder_note) == ("nv (nvv4l2decoder)", "")
    assert (second.decoder, second.decoder_note) == ("software", "nv (nvv4l2decoder) was killed by SIGKILL")
    [event] = journal.events
    assert (event["event_type"], event["payload"]) == (
        "DECODER_CHANGED",
        {
            "source_id": 2,
            "decoder": "software",
            "error_message": "nv (nvv4l2decoder) was killed by SIGKILL",
        },
    )
    assert changed.is_set()


def test_a_picture_that_stands_still_is_told_and_so_is_its_end() -> None:
    journal = EventJournal()
    metrics = SourceMetrics(0, now=0.0, changed=Wakeup(), journal=journal)

    metrics.freeze_checked(12.0, now=100.0)
    still = metrics.source_stat(101.5)
    later = metrics.source_stat(150.0)
    metrics.freeze_checked(82.0, now=170.0)
    long_still = metrics.source_stat(170.0)
    metrics.freeze_checked(None, now=171.0)
    moves = metrics.source_stat(171.0)

    assert (still.frozen_for, still.reason) == (13.5, "the picture has not changed for 10 s")
    assert (later.frozen_for, later.reason) == (None, "")  # no frame has come for long, so nobody knows
    assert long_still.reason == "the picture has not changed for 1 min"
    assert (moves.frozen_for, moves.reason) == (None, "")
    assert [event["event_type"] for event in journal.events] == ["PICTURE_STANDS_STILL", "PICTURE_MOVES"]


def test_what_is_lost_is_the_reason_before_what_stands_still() -> None:
    metrics = SourceMetrics(0, now=0.0, changed=Wakeup())
    metrics.freeze_checked(12.0, now=100.0)
    metrics.source_failed("the stream ended", "ended")

    assert metrics.source_stat(100.0).reason == "the stream ended"
