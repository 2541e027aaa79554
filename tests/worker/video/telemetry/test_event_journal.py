"""The last events of a pipeline: no source pushes the others' out."""

from __future__ import annotations

from typing import Any

import msgpack

from streamfleet_worker.ipc.wakeup import Wakeup
from streamfleet_worker.video.synthetic.test_pattern import PatternCapture
from streamfleet_worker.video.telemetry.event_journal import EventJournal
from streamfleet_worker.video.telemetry.source_metrics import SourceMetrics

CAPTURE = PatternCapture(1)


def metrics_of(journal: EventJournal, **more: Any) -> SourceMetrics:
    return SourceMetrics(0, now=0.0, changed=Wakeup(), journal=journal, **more)


def told(event: dict[str, Any]) -> str:
    """An update in a line."""
    payload = event["payload"]
    if "new_state" in payload:
        return f"{payload['previous_state']} → {payload['new_state']}"
    return f"{event['event_type']}: {payload['cause']}"


def test_a_row_of_failures_does_not_push_everything_else_out_of_the_report() -> None:
    journal = EventJournal()
    metrics = SourceMetrics(0, now=0.0, changed=Wakeup(), journal=journal)
    metrics.source_is("INITIALISING")
    for _ in range(1000):
        metrics.inference_failed("out of memory")

    assert [event["event_type"] for event in journal.events] == ["SOURCE_STATE_UPDATE", "INFERENCE_ERROR"]
    assert metrics.source_stat(1.0).dropped == {"inference": 1000}


def test_a_source_that_comes_and_goes_does_not_push_the_others_out_of_the_report() -> None:
    journal = EventJournal()
    good, bad = (metrics_of(journal, source_id=number) for number in (0, 1))
    bad.source_is("INITIALISING")
    good.source_is("RUNNING")
    for _ in range(1000):
        bad.source_connected(CAPTURE)
        bad.source_is("RUNNING")
        bad.source_failed("the stream ended", "ended")
        bad.source_is("ERROR")

    events = journal.events

    assert [event["payload"]["new_state"] for event in events if not event["payload"]["source_id"]] == [
        "RUNNING"
    ]
    assert len(events) == 128
    assert events[0]["payload"]["new_state"] == "RUNNING"
    assert len(msgpack.packb(events)) < 32_768  # it travels each second


def test_sixteen_sources_that_come_and_go_share_the_room() -> None:
    journal = EventJournal()
    all_metrics = [metrics_of(journal, source_id=number) for number in range(16)]
    for _ in range(100):
        for metrics in all_metrics:
            metrics.source_connected(CAPTURE)
            metrics.source_failed("the stream ended", "ended")

    told = [event["payload"]["source_id"] for event in journal.events]
    assert {told.count(number) for number in range(16)} == {8}


def test_an_outage_is_told_in_a_few_entries_however_long_it_lasts() -> None:
    journal = EventJournal()
    metrics = metrics_of(journal)
    metrics.source_is("INITIALISING")
    metrics.source_connected(CAPTURE)
    metrics.source_is("RUNNING")
    metrics.source_failed("no frame came for 8 s", "timeout")
    metrics.source_is("ERROR")
    for _ in range(1000):
        metrics.source_is("RESTARTING")
        metrics.source_is("INITIALISING")
        metrics.source_failed("connection refused", "refused")
        metrics.source_is("ERROR")
    metrics.source_is("RESTARTING")
    metrics.source_is("INITIALISING")
    metrics.source_connected(CAPTURE)
    metrics.source_is("RUNNING")

    events = journal.events

    assert [(told(event), event.get("times", 1)) for event in events] == [
        ("NOT_STARTED → INITIALISING", 1),
        ("INITIALISING → RUNNING", 1),
        ("SOURCE_CONNECTION_LOST: timeout", 1),
        ("RUNNING → ERROR", 1),
        ("SOURCE_CONNECTION_ATTEMPT_FAILED: refused", 1000),
        ("INITIALISING → ERROR", 1000),
        ("ERROR → RESTARTING", 1001),
        ("RESTARTING → INITIALISING", 1001),
        ("INITIALISING → RUNNING", 1),
    ]
    failed = events[4]
    assert list(failed) == [
        *("timestamp", "severity", "event_type", "payload", "context"),
        *("times", "since"),
    ]
    assert events[3]["timestamp"] <= failed["since"] < failed["timestamp"]
    assert [event["timestamp"] for event in events] == sorted(event["timestamp"] for event in events)
    source = metrics.source_stat(1.0)
    assert (source.attempts, source.failures, source.cause, source.reason) == (0, 1001, None, "")
