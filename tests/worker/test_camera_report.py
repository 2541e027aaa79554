"""What a camera says of itself."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from streamfleet_broker.protocol.status import SourceStat
from streamfleet_broker.protocol.values import ObservedState
from streamfleet_worker.camera.buffer import Wakeup
from streamfleet_worker.camera.ledger import Journal, Ledger
from streamfleet_worker.camera.report import (
    SourceFacts,
    observed_state,
    reason_of,
    shown_source_state,
    source_metadata,
    status_report,
)
from streamfleet_worker.camera.testpattern import PatternCapture

CAPTURE = PatternCapture(1)

RUNS = SourceFacts("RUNNING", 0)
READ_TO_ITS_END = SourceFacts("ENDED", 0)  # the last frames are still under way
OVER = SourceFacts("ENDED", 0, over=True)
OPENS = SourceFacts("INITIALISING", 0)
LOST = SourceFacts("ERROR", 1)
TRIED_AGAIN = SourceFacts("INITIALISING", 2)


def ledger_of(journal: Journal, **more: Any) -> Ledger:
    return Ledger(0, now=0.0, changed=Wakeup(), journal=journal, **more)


def told(event: dict[str, Any]) -> str:
    """An update in a line."""
    payload = event["payload"]
    if "new_state" in payload:
        return f"{payload['previous_state']} → {payload['new_state']}"
    return f"{event['event_type']}: {payload['cause']}"


@pytest.mark.parametrize(
    ("sources", "paused", "engine_met", "state"),
    [
        ([SourceFacts("NOT_STARTED", 0)], False, False, ObservedState.STARTING),
        ([OPENS], False, True, ObservedState.STARTING),
        ([RUNS], False, False, ObservedState.STARTING),
        ([RUNS], False, True, ObservedState.RUNNING),
        ([READ_TO_ITS_END], False, True, ObservedState.RUNNING),
        ([OVER], False, True, ObservedState.ENDED),
        ([OVER], True, True, ObservedState.ENDED),
        ([LOST], False, False, ObservedState.RECONNECTING),
        ([SourceFacts("RESTARTING", 0)], False, True, ObservedState.RECONNECTING),
        ([TRIED_AGAIN], False, True, ObservedState.RECONNECTING),
        ([RUNS], True, True, ObservedState.PAUSED),
        ([LOST], True, True, ObservedState.PAUSED),
        ([SourceFacts("NOT_STARTED", 0)], True, False, ObservedState.PAUSED),
        # several: one that runs is enough
        ([RUNS, LOST], False, True, ObservedState.RUNNING),
        ([LOST, READ_TO_ITS_END], False, True, ObservedState.RUNNING),
        ([RUNS, LOST], False, False, ObservedState.STARTING),
        ([LOST, OPENS], False, True, ObservedState.RECONNECTING),
        ([LOST, TRIED_AGAIN], False, True, ObservedState.RECONNECTING),
        ([OVER, LOST], False, True, ObservedState.RECONNECTING),
        ([OVER, RUNS], False, True, ObservedState.RUNNING),
        ([OVER, OPENS], False, True, ObservedState.STARTING),
        ([OVER, OVER], False, True, ObservedState.ENDED),
        ([OVER, LOST], True, True, ObservedState.PAUSED),
    ],
)
def test_the_pipelines_state_follows_from_its_sources(
    sources: list[SourceFacts], paused: bool, engine_met: bool, state: ObservedState
) -> None:
    assert observed_state(sources, paused=paused, engine_met=engine_met) is state


@pytest.mark.parametrize(
    ("reasons", "reason"),
    [
        ([""], ""),
        (["no answer"], "no answer"),
        (["", ""], ""),
        (["", "no answer", "there is no file"], "source 1: no answer; source 2: there is no file"),
    ],
)
def test_a_reason_names_its_source_when_there_are_several(reasons: list[str], reason: str) -> None:
    sources = [SourceStat(number, 0, "ERROR", reason=text) for number, text in enumerate(reasons)]

    assert reason_of(sources) == reason


@pytest.mark.parametrize(
    ("source", "finite", "paused", "done", "shown"),
    [
        ("RUNNING", True, False, False, "RUNNING"),
        ("RUNNING", True, True, False, "PAUSED"),
        ("RUNNING", False, True, False, "MUTED"),
        ("ENDED", True, False, False, "RUNNING"),
        ("ENDED", True, True, False, "PAUSED"),
        ("ENDED", True, True, True, "ENDED"),
        ("ERROR", False, True, False, "ERROR"),
    ],
)
def test_a_paused_source_is_shown_as_the_original_shows_it(
    source: str, finite: bool, paused: bool, done: bool, shown: str
) -> None:
    assert shown_source_state(source, finite=finite, paused=paused, done=done) == shown


def test_throughput_decays_to_zero() -> None:
    ledger = Ledger(0, now=100.0, changed=Wakeup())
    for index in range(100):
        ledger.emitted(100 + index / 10, latency=0.0)

    figures = [ledger.source_stat(now).fps for now in (109.9, 111.4, 112.9, 200.0)]

    assert figures == [10.0, 5.0, 0.0, 0.0]


def test_the_latency_is_that_of_the_last_frames() -> None:
    ledger = Ledger(0, now=0.0, changed=Wakeup())
    before = ledger.source_stat(0.0).latency
    for index in range(100):
        ledger.emitted(index, latency=9.0 if index < 36 else index % 2)

    assert before is None
    assert ledger.source_stat(100.0).latency == 0.5


def test_the_report_has_the_originals_keys_in_their_order() -> None:
    journal = Journal()
    ledger = Ledger("rtsp://user:canary@camera/1?canary", now=0.0, changed=Wakeup(), journal=journal)
    ledger.source_is("INITIALISING")
    ledger.source_failed("no answer from the host", "timeout")
    ledger.source_is("ERROR")
    ledger.inferred(decoded_at=10.0, started_at=10.5, ready_at=12.0)
    ledger.inferred(decoded_at=20.0, started_at=20.0, ready_at=20.5)
    source = ledger.source_stat(30.0)

    report = status_report(
        events=journal.events,
        latencies=[ledger.latencies],
        throughput=source.fps,
        metadata=[
            source_metadata(
                source, properties=None, buffer_size=2, filling="DROP_OLDEST", consumption="EAGER"
            )
        ],
    )

    assert list(report) == [
        "video_source_status_updates",
        "latency_reports",
        "inference_throughput",
        "sources_metadata",
    ]
    updates = report["video_source_status_updates"]
    assert [(update["event_type"], update["severity"]) for update in updates] == [
        ("SOURCE_STATE_UPDATE", 20),
        ("SOURCE_CONNECTION_ATTEMPT_FAILED", 40),
        ("SOURCE_STATE_UPDATE", 20),
    ]
    assert [list(update) for update in updates] == [
        ["timestamp", "severity", "event_type", "payload", "context"]
    ] * 3
    assert updates[0]["payload"] == {
        "previous_state": "NOT_STARTED",
        "new_state": "INITIALISING",
        "source_id": 0,
    }
    assert report["latency_reports"] == [
        {
            "source_id": 0,
            "frame_decoding_latency": 0.25,
            "inference_latency": 1.0,
            "e2e_latency": 1.25,
        }
    ]
    assert report["sources_metadata"] == [
        {
            "source_properties": None,
            "source_reference": "rtsp://camera/1",
            "buffer_size": 2,
            "state": "ERROR",
            "buffer_filling_strategy": "DROP_OLDEST",
            "buffer_consumption_strategy": "EAGER",
            "source_id": 0,
        }
    ]
    assert (source.cause, source.reason, source.attempts) == ("timeout", "no answer from the host", 1)
    assert "canary" not in repr((report, source))


def test_a_row_of_failures_does_not_push_everything_else_out_of_the_report() -> None:
    journal = Journal()
    ledger = Ledger(0, now=0.0, changed=Wakeup(), journal=journal)
    ledger.source_is("INITIALISING")
    for _ in range(1000):
        ledger.inference_failed("out of memory")

    assert [event["event_type"] for event in journal.events] == ["SOURCE_STATE_UPDATE", "INFERENCE_ERROR"]
    assert ledger.source_stat(1.0).dropped == {"inference": 1000}


def test_a_source_that_comes_and_goes_does_not_push_the_others_out_of_the_report() -> None:
    journal = Journal()
    good, bad = (ledger_of(journal, source_id=number) for number in (0, 1))
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
    journal = Journal()
    ledgers = [ledger_of(journal, source_id=number) for number in range(16)]
    for _ in range(100):
        for ledger in ledgers:
            ledger.source_connected(CAPTURE)
            ledger.source_failed("the stream ended", "ended")

    told = [event["payload"]["source_id"] for event in journal.events]
    assert {told.count(number) for number in range(16)} == {8}


def test_an_outage_is_told_in_a_few_entries_however_long_it_lasts() -> None:
    journal = Journal()
    ledger = ledger_of(journal)
    ledger.source_is("INITIALISING")
    ledger.source_connected(CAPTURE)
    ledger.source_is("RUNNING")
    ledger.source_failed("no frame came for 8 s", "timeout")
    ledger.source_is("ERROR")
    for _ in range(1000):
        ledger.source_is("RESTARTING")
        ledger.source_is("INITIALISING")
        ledger.source_failed("connection refused", "refused")
        ledger.source_is("ERROR")
    ledger.source_is("RESTARTING")
    ledger.source_is("INITIALISING")
    ledger.source_connected(CAPTURE)
    ledger.source_is("RUNNING")

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
    source = ledger.source_stat(1.0)
    assert (source.attempts, source.failures, source.cause, source.reason) == (0, 1001, None, "")


def test_an_error_of_ours_is_an_error_and_no_lost_connection() -> None:
    journal = Journal()

    ledger_of(journal).source_failed("an error of our own", "internal")

    (event,) = journal.events
    assert (event["event_type"], event["severity"]) == ("SOURCE_ERROR", 40)


@pytest.mark.parametrize(("finite", "paused"), [(True, "PAUSED"), (False, "MUTED")])
def test_a_pause_is_told_as_the_originals_is(finite: bool, paused: str) -> None:
    journal = Journal()
    ledger = ledger_of(journal, finite=finite)
    ledger.source_is("RUNNING")

    ledger.paused(True)
    while_paused = ledger.source_stat(0.0).state
    ledger.paused(True)
    ledger.paused(False)
    ledger.source_is("ENDED")
    read_to_its_end = ledger.source_stat(0.0).state
    ledger.over()

    assert (while_paused, read_to_its_end, ledger.source_stat(0.0).state) == (paused, "RUNNING", "ENDED")
    assert [told(event) for event in journal.events] == [
        "NOT_STARTED → RUNNING",
        f"RUNNING → {paused}",
        f"{paused} → RUNNING",
        "RUNNING → ENDED",
    ]


def test_a_frame_is_counted_at_each_step_that_it_reaches() -> None:
    ledger = Ledger(0, now=0.0, changed=Wakeup())
    for reached in range(5):
        ledger.grabbed(1.0)
        if reached > 0:
            ledger.decoded()
        if reached > 1:
            ledger.inferred(decoded_at=1.0, started_at=1.0, ready_at=1.0)
        if reached > 2:
            ledger.emitted(1.0, latency=0.1)

    source = ledger.source_stat(1.0)

    assert (source.received, source.decoded, source.inferred, source.emitted) == (5, 4, 3, 2)


def test_a_picture_that_stands_still_is_told_and_so_is_its_end() -> None:
    journal = Journal()
    ledger = Ledger(0, now=0.0, changed=Wakeup(), journal=journal)

    ledger.looked(12.0, now=100.0)
    still = ledger.source_stat(101.5)
    later = ledger.source_stat(150.0)
    ledger.looked(82.0, now=170.0)
    long_still = ledger.source_stat(170.0)
    ledger.looked(None, now=171.0)
    moves = ledger.source_stat(171.0)

    assert (still.still_for, still.reason) == (13.5, "the picture has not changed for 10 s")
    assert (later.still_for, later.reason) == (None, "")  # no frame has come for long, so nobody knows
    assert long_still.reason == "the picture has not changed for 1 min"
    assert (moves.still_for, moves.reason) == (None, "")
    assert [event["event_type"] for event in journal.events] == ["PICTURE_STANDS_STILL", "PICTURE_MOVES"]


def test_what_is_lost_is_the_reason_before_what_stands_still() -> None:
    ledger = Ledger(0, now=0.0, changed=Wakeup())
    ledger.looked(12.0, now=100.0)
    ledger.source_failed("the stream ended", "ended")

    assert ledger.source_stat(100.0).reason == "the stream ended"
